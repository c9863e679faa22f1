"""The processes of pytest-xdist share the work of compiling what all of them import."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

from _pytest.assertion import rewrite

from compiled_once import compile_share


def test_processes_compile_a_share_each(tmp_path, pytestconfig):
    """Two of two do all files, none does a file of the other's, and pytest finds the test files rewritten."""
    tests, package = tmp_path / "tests", tmp_path / "package"
    for folder, names in ((tests, ("test_a.py", "test_b.py", "test_c.py")), (package, ("a.py", "b.py"))):
        folder.mkdir()
        for name in names:
            (folder / name).write_text("def test_one():\n    assert 1 == 1\n")

    def compiled() -> list[str]:
        return [path.name for path in sorted(tmp_path.rglob("*.py")) if _code_of(path) is not None]

    shares = []
    for worker in ("gw0", "gw1"):
        config = SimpleNamespace(workerinput={"workerid": worker, "workercount": 2}, stash=pytestconfig.stash)
        config.getini = pytestconfig.getini
        before = compiled()
        compile_share(config, tests, package)
        shares.append([name for name in compiled() if name not in before])
    assert shares == [["a.py", "test_a.py", "test_c.py"], ["b.py", "test_b.py"]]


def _code_of(path: Path) -> object:
    """What is kept of a file: what pytest reads of a test file, or that there is something of a module."""
    if path.name.startswith("test_"):
        return rewrite._read_pyc(path, rewrite.get_cache_dir(path) / f"{path.stem}{rewrite.PYC_TAIL}")
    kept = Path(importlib.util.cache_from_source(str(path)))
    return kept if kept.exists() else None
