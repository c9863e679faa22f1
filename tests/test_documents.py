"""What the documents promise of commands and files is true of the tree."""

import itertools
import re
import runpy
import shlex
import subprocess
import tomllib
from pathlib import Path

import click
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mlsync.cli.arguments.invocation import Invocation
from mlsync.cli.main import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / name / "README.md" for name in ("bench", "systemd")),
]
PACKAGE = ROOT / "agent" / "mlsync"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_ci_runs_the_readmes_test_command():
    """The last line of .ci/run stands word for word in README.md."""
    command = (ROOT / ".ci" / "run").read_text().strip().splitlines()[-1]
    assert command in README


@pytest.mark.parametrize(("page", "most"), [("README.md", 1300), ("docs/yolo.md", 400), ("docs/huggingface.md", 400)])
def test_pages_for_the_first_day_are_short(page, most):
    """A newcomer reads README.md and the page of a framework to the end: each has at most so many words."""
    assert len((ROOT / page).read_text().split()) <= most


def test_the_picture_of_the_line_is_as_its_script_draws_it():
    """docs/write_line.py was run after it was changed."""
    drawn = runpy.run_path(str(ROOT / "docs" / "write_line.py"))["picture"]()
    assert (ROOT / "docs" / "pictures" / "line.svg").read_text() == drawn


def test_shell_blocks_of_documents_are_what_mlsync_takes():
    """Bash reads each shell block of the documents, and each call of mlsync in them has arguments that mlsync takes."""
    count = 0
    for document in DOCUMENTS:
        for block in re.findall(r"^ *```sh\n(.*?)^ *```", document.read_text(), flags=re.MULTILINE | re.DOTALL):
            read = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
            assert read.returncode == 0, (document.name, block, read.stderr)
            for arguments in _calls(block):
                _parse(arguments, f"{document.name}: mlsync {shlex.join(arguments)}")
                count += 1
    assert count > 40  # the pattern finds them


def _calls(block):
    """The arguments of each call of mlsync in a shell block, by itself, under sudo or a launcher, or in a container."""
    text = re.sub(r"\s\d?>+&?\s*\S+", " ", block.replace("\\\n", " "))
    # A semicolon at each line's end, behind the comment that the lexer drops with the end of the line.
    lexer = shlex.shlex(text.replace("\n", "\n;\n"), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    parts = itertools.groupby(lexer, key=lambda word: re.fullmatch(r"[;&|()<>]+", word) is not None)
    for words in (list(part) for is_between, part in parts if not is_between):
        calls = [at for at, word in enumerate(words) if word == "mlsync" or word.endswith("/bin/mlsync")]
        launched = words[0] in {"sudo", "torchrun", "srun"} or words[:2] in (["docker", "run"], ["docker", "exec"])
        if calls and (launched or calls[0] == 0) and not {"ln", "bash"} & set(words):
            yield words[calls[-1] + 1 :]


def _parse(arguments, what):
    """Let each command's own parser take *arguments* as the command line does; run nothing."""
    try:
        context = cli.make_context("mlsync", list(arguments), obj=Invocation("mlsync", tuple(arguments)))
        while isinstance(context.command, click.Group) and context._protected_args + context.args:
            words = context._protected_args + context.args
            name, command, rest = context.command.resolve_command(context, words)
            context = command.make_context(name, rest, parent=context)
    except click.exceptions.Exit:
        pass  # --help and --version
    except click.ClickException as error:
        pytest.fail(f"{what}: {error.format_message()}")


def test_documents_that_are_linked_exist():
    """Every relative link of the documents leads to a file, and to a heading of it where it names one."""
    for document in DOCUMENTS:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", document.read_text()):
            if "://" in target:
                continue
            linked = document.parent / target if target else document
            assert linked.exists(), f"{document.name} links to {target}"
            assert not anchor or anchor in _anchors(linked), f"{document.name} links to {target}#{anchor}"


def _anchors(document):
    """The names under which a page's headings are linked to."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_modules_that_documents_name_exist():
    """Every path of a module, a folder or a test in backquotes leads to a file of the tree."""
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    count = 0
    for document in DOCUMENTS:
        text = document.read_text()
        for path in re.findall(r"`((?:\w+/)+(?:\w+\.py)?|\w+\.py)(?:::\w+)?`", text):
            first = path.split("/")[0]
            if document.parent.name == "bench" or (first not in {*folders, "tests", "bench", "agent"} and "/" in path):
                continue
            places = [ROOT / path, PACKAGE / path, ROOT / "bench" / path]
            assert any(place.exists() for place in places), f"{document.name} names {path}"
            count += 1
    assert count > 50  # the pattern finds them


def test_the_threat_models_promises_name_tests_that_exist():
    """Each promise of docs/threat-model.md is shown by a test, or a file of tests, that is there under that name."""
    text = (ROOT / "docs" / "threat-model.md").read_text()
    promises = [line for line in text.splitlines() if line.startswith("| ") and "`tests/" in line]
    assert len(promises) > 20
    for file, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text):
        assert (ROOT / file).is_file(), file
        assert not test or f"def {test}(" in (ROOT / file).read_text(), f"{file} has no {test}"
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    promised = [section for section in sections if section.startswith("Promises")]
    assert len(promised) > 5
    for section in promised:
        rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
        assert rows, section.partition("\n")[0]
        assert all("`tests/" in row for row in rows), section.partition("\n")[0]


def test_the_lock_and_the_project_agree():
    """requirements.lock has every runtime dependency at a version that pyproject.toml allows and the tests run with."""
    locked = _pins((ROOT / "requirements.lock").read_text())
    tested = _pins((ROOT / "constraints.txt").read_text())
    for dependency in map(Requirement, PROJECT["dependencies"]):
        assert dependency.specifier.contains(locked[canonicalize_name(dependency.name)]), dependency
    only_windows = {"tzdata"}
    assert {name: tested.get(name) for name in locked.keys() - only_windows} == {
        name: version for name, version in locked.items() if name not in only_windows
    }


def test_the_lock_is_hashed_and_names_no_place():
    """Each entry of requirements.lock has hashes, none of them is torch or of the tests, and no index is named."""
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"^(?=\w)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)[1:]
    assert len(entries) == len(_pins(text)) > len(PROJECT["dependencies"])
    assert all("--hash=" in entry for entry in entries)
    assert text.count("--hash=") == len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", text))
    assert "://" not in text
    assert not re.search(r"index|find-links|trusted", text)
    assert _pins(text).keys().isdisjoint({"torch", "pytest", "hypothesis", "ruff", "mypy", "safetensors"})


def _pins(text):
    """The version of each package that a file of pins names."""
    return {
        canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)
    }


def test_the_workflow_tests_what_the_readme_says():
    """The workflow runs the README's test command and tries the built wheel, on each Python from the oldest on."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    for job in jobs.values():
        assert job["strategy"]["matrix"]["python"] == [oldest, "3.12", "3.13", "3.14"]
        assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"]) for step in job["steps"] if "uses" in step)
    commands = {name: [step.get("run", "") for step in job["steps"]] for name, job in jobs.items()}
    assert "bash .ci/run" in commands["tests"]
    assert "python -m build" in commands["package"]
    assert any("--require-hashes -r requirements.lock" in command for command in commands["package"])
    assert commands["package"][-1] == "clean/bin/mlsync --version && clean/bin/mlsync demo"


def test_forms_and_hooks_are_yaml():
    """Issue forms and workflows parse, and the hooks of pre-commit are lint and format of the ruff that is here."""
    for path in (ROOT / ".github").rglob("*.yml"):
        assert yaml.safe_load(path.read_text()), path
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"].split()[:2] for hook in hooks] == [[".venv/bin/ruff", "check"], [".venv/bin/ruff", "format"]]


def test_the_mutation_settings_name_what_exists():
    """tests/mutation.toml names modules and tests of the tree, and gives a reason for each mutant that it lets pass."""
    settings = tomllib.loads((ROOT / "tests" / "mutation.toml").read_text())
    for module, tests in settings["tests"].items():
        assert all((ROOT / path).exists() for path in (module, *tests)), module
    for one in settings["equivalent"]:
        source = " ".join((ROOT / one["module"]).read_text().split())
        assert one["was"] in source, one
        assert one["is"] not in source, one
        assert len(one["why"]) > 20, one


def test_decisions_are_in_order_and_in_the_index():
    """Each decision has a number of its own, a date and a status, is in the index, and names only others that exist."""
    text = (ROOT / "docs" / "decisions.md").read_text()
    index, entries = text.split("## By number")
    heads = re.findall(
        r"^(\d+)\. \*\*.+?\*\*\s+\*(\d{4}-\d\d-\d\d),\s+(\S[^*]*)\.\*\s", entries, re.MULTILINE | re.DOTALL
    )
    numbers = [int(number) for number, _, _ in heads]
    assert numbers == sorted(set(numbers)) == [int(one) for one in re.findall(r"^(\d+)\. ", entries, re.MULTILINE)]
    indexed = {int(one) for row in re.findall(r"^\|.+\| ([\d, ]+) \|$", index, re.MULTILINE) for one in row.split(", ")}
    assert indexed == set(numbers)
    subjects = re.findall(r"^\| (.+?) \| [\d, ]+ \|$", index, re.MULTILINE)
    assert len(subjects) == len(set(subjects))
    for _, _, status in heads:
        others = [int(one) for one in re.findall(r"\d+", status)]
        assert re.fullmatch(
            r"accepted(, (amended|extended) by [\d, ]+)?|superseded by \d+", " ".join(status.split())
        ), status
        assert set(others) <= set(numbers)
