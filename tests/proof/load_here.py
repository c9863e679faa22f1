"""Runs the program of a built-in command in the process of the tests, which has imported torch already.

A process of its own spends seconds on that import and a hundredth of one on the load. Tests whose fact is the
process, and one of each outcome, start it as mlsync does.
"""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlsync.proof.framework import PATH, Framework, Loaded, _result


def load_here(framework: Framework, path: Path) -> Loaded:
    """What ``load`` would give or raise; the command is a Python, an option, a program and its arguments."""
    _, _, program, *words = [word.replace(PATH, str(path)) for word in framework.command]
    status, said = _ended(program, words, framework.environment["PYTHONPATH"])
    return _result(framework.name, SimpleNamespace(status=status, last_lines=lambda: said))


def _ended(program: str, words: list[str], modules: str) -> tuple[int, str]:
    """The exit status of the program, and its last words."""
    loaded_before = set(sys.modules)
    output = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stderr(output),
        warnings.catch_warnings(action="ignore"),  # a process would only print them
    ):
        patch.setattr(sys, "argv", [program, *words])
        patch.syspath_prepend(modules)
        try:
            runpy.run_path(program, run_name="__main__")
        except SystemExit as leaving:
            is_status = isinstance(leaving.code, int)
            return (leaving.code, output.getvalue()) if is_status else (1, f"{output.getvalue()}{leaving.code}")
        except (KeyboardInterrupt, pytest.fail.Exception):
            raise
        except BaseException as error:  # noqa: BLE001 - a process ends with 1 and shows it; torch's is no Exception
            return 1, f"{output.getvalue()}{type(error).__name__}: {error}"
        finally:
            # The next test has other models under the same name.
            for name in set(sys.modules) - loaded_before:
                if (getattr(sys.modules[name], "__file__", None) or "").startswith(modules):
                    del sys.modules[name]
    return 0, output.getvalue()
