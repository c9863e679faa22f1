"""The manual page says what the commands' help says, and roff understands it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "mlsync.1"


def test_the_manual_is_that_of_the_help():
    """``python docs/write_manual.py`` would change nothing."""
    spec = importlib.util.spec_from_file_location("write_manual", DOCS / "write_manual.py")
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert PAGE.read_text() == writer.manual()


def test_mandoc_finds_nothing_wrong():
    """Each line of the page is roff as it is meant; a page without a date differs only if its text does."""
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    done = subprocess.run(["mandoc", "-T", "lint", PAGE], capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if "missing date" not in line]
    assert found == []


def test_man_shows_it():
    """``man`` formats the page without a warning."""
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("man or groff is not installed")
    done = subprocess.run(["man", "--warnings", "-l", PAGE], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "mlsync restore" in done.stdout
