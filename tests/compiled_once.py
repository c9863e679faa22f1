"""Has each process of pytest-xdist compile a share of what all of them import.

pytest rewrites the assert statements of a test file when it imports it, and keeps the result beside it, as Python does
with modules. Processes that start together come to each file at the same time: in a fresh clone, as in CI, each of
them would do all files, which takes ten seconds of a processor. A file that is not as it was is left to the import.
"""

from __future__ import annotations

import importlib.util
import py_compile
from contextlib import suppress
from pathlib import Path

import pytest
from _pytest.assertion import rewrite

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "agent" / "mlsync"


def compile_share(config: pytest.Config, tests: Path = TESTS, package: Path = PACKAGE) -> None:
    """Compile every n-th file of *tests* and *package* that never was, where *config* is of the k-th of n processes."""
    worker = config.workerinput
    count = worker["workercount"]
    first = int(worker["workerid"].removeprefix("gw")) % count
    # What pytest has no public name for may change with it. Then the imports compile as they would without this.
    with suppress(AttributeError, TypeError):
        for path in sorted(tests.rglob("test_*.py"))[first::count]:
            _rewrite(config, path)
    for path in sorted(package.rglob("*.py"))[first::count]:
        if not Path(importlib.util.cache_from_source(str(path))).exists():
            py_compile.compile(str(path), quiet=2)


def _rewrite(config: pytest.Config, path: Path) -> None:
    """Put what pytest makes of a test file where pytest looks for it."""
    folder = rewrite.get_cache_dir(path)
    kept = folder / f"{path.stem}{rewrite.PYC_TAIL}"
    if kept.exists() or not rewrite.try_makedirs(folder):
        return
    known_by, code = rewrite._rewrite_test(path, config)
    rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, known_by, kept)
