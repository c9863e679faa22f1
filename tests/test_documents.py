"""What the documents promise of commands and files is true of the tree."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_ci_runs_the_readmes_test_command():
    """The last line of .ci/run stands word for word in README.md."""
    command = (ROOT / ".ci" / "run").read_text().strip().splitlines()[-1]
    assert command in README


def test_documents_that_are_linked_exist():
    """Every relative link of the documents leads to a file."""
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_threat_models_promises_name_tests_that_exist():
    """Each promise of docs/threat-model.md is shown by a test, or a file of tests, that is there under that name."""
    text = (ROOT / "docs" / "threat-model.md").read_text()
    promises = [line for line in text.splitlines() if line.startswith("| ") and "`tests/" in line]
    assert len(promises) > 20
    for file, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text):
        assert (ROOT / file).is_file(), file
        assert not test or f"def {test}(" in (ROOT / file).read_text(), f"{file} has no {test}"
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    for section in sections:
        if section.startswith("What is promised"):
            rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
            assert all("`tests/" in row for row in rows), section.partition("\n")[0]
