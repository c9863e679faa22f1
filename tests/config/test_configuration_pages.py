"""The pages about the configuration say what its keys say, and the patterns on them match as they say."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from mlsync.config.load import load
from mlsync.config.model import TABLES, TOP
from mlsync.errors import ConfigInvalid
from mlsync.source.exclude import Excludes

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "configuration.md"
PATTERNS = (DOCS / "exclude.md").read_text()


def test_the_reference_is_that_of_the_keys():
    """``python docs/write_configuration.py`` would change nothing."""
    spec = importlib.util.spec_from_file_location("write_configuration", DOCS / "write_configuration.py")
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert PAGE.read_text() == writer.page()


def test_the_reference_has_each_key_once():
    """Each key has a heading of its own, which other pages can link to."""
    headings = re.findall(r"^### (.+)$", PAGE.read_text(), re.MULTILINE)
    names = sorted(name for keys in (TOP, *TABLES.values()) for name in keys)
    assert sorted(one.rpartition(".")[2] for one in headings) == names
    assert len(set(headings)) == len(headings)


@pytest.mark.parametrize("page", [PAGE, DOCS / "exclude.md"])
def test_configurations_on_the_pages_are_read(page, tmp_path):
    """Each piece of TOML on the pages is a configuration, or a part of one."""
    for text in re.findall(r"```toml\n(.+?)```", page.read_text(), re.DOTALL):
        file = tmp_path / "mlsync.toml"
        file.write_text(text if "repository" in text else f'repository = "/r"\n{text}')
        load(file, {"HOME": str(tmp_path)})


def rows():
    """Each row of the table of patterns: the pattern, and the paths that it matches and does not match."""
    table = PATTERNS.partition("## Examples")[2].partition("\n\nA slash")[0].split("|---|---|---|\n")[1]
    for row in table.splitlines():
        pattern, matched, kept = (re.findall(r"`([^`]+)`", cell) for cell in row.strip("|").split("|"))
        assert len(pattern) == 1
        yield (tomllib.loads(f"p = {pattern[0]}")["p"] if "'" in pattern[0] else pattern[0]), matched, kept


@pytest.mark.parametrize(("pattern", "matched", "kept"), list(rows()))
def test_patterns_match_as_the_page_says(pattern, matched, kept):
    """A pattern matches the paths of its row, those with a slash at the end as directories, and not the others."""
    excludes = Excludes([pattern])
    assert matched
    assert kept
    for path in (*matched, *kept):
        is_directory = path.endswith("/")
        assert excludes.match(path.rstrip("/").encode(), is_directory=is_directory) == (path in matched), path


@pytest.mark.parametrize("key", ["exclude", "not_models"])
@pytest.mark.parametrize(
    ("pattern", "said"), [("!x", "negates"), ("/", "is empty"), ("[z-a]", "bad character class"), ("", "strings")]
)
def test_patterns_that_are_none_are_refused_with_their_line(key, pattern, said, tmp_path):
    """A pattern that cannot be understood is refused when the configuration is read."""
    file = tmp_path / "mlsync.toml"
    file.write_text(f'repository = "/r"\n[[watch]]\ndirectory = "/t"\n{key} = ["*.log", "{pattern}"]\n')
    with pytest.raises(ConfigInvalid, match=f"{key} in .*{said}.*:4"):
        load(file)
