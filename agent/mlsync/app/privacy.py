"""What this process knows stays with it: no other process of the same user reads its memory or its environment."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import MutableMapping
from typing import Final

PASSPHRASE_VARIABLE: Final = "MLSYNC_PASSPHRASE"  # noqa: S105 - the name of a variable, not the secret
_PR_SET_DUMPABLE: Final = 4
# Where the kernel says in /proc/self/stat from where to where the environment lies that a program was started with.
_BOUNDS_AFTER_NAME: Final = slice(47, 49)


def keep_private() -> None:
    """Leave no core file, and let no process of the same user look into this one: its memory, its environment.

    From now on the files of this process in ``/proc`` belong to root, so that an ordinary user's process cannot write
    its own ``autogroup`` or ``oom_score_adj`` any more: that comes before. Programs that it starts are not affected.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A kernel that refuses it, as a filter around this process may, leaves things as they were.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def take_variable(environ: MutableMapping[str, str], name: str) -> str | None:
    """Return a variable, which is gone afterwards; of this process's own environment ``/proc`` shows it no more either.

    To remove a variable is not enough: ``/proc/PID/environ`` is the memory that the kernel laid the environment in when
    the program started, whatever the program did to it since.
    """
    value = environ.pop(name, None)
    if value is not None and environ is os.environ:
        _overwrite(os.fsencode(name) + b"=")
    return value


def _overwrite(beginning: bytes) -> None:
    """Put zeros over each variable of the first environment that begins so."""
    with open("/proc/self/stat", "rb") as file:
        # The name of the program, in brackets, may have blanks in it.
        bounds = file.read().rpartition(b")")[2].split()[_BOUNDS_AFTER_NAME]
    start, end = map(int, bounds)
    if not 0 < start < end:
        return  # a kernel that tells nobody
    block = ctypes.string_at(start, end - start)
    at = 0
    for variable in block.split(b"\0"):
        if variable.startswith(beginning):
            ctypes.memset(start + at + len(beginning), 0, len(variable) - len(beginning))
        at += len(variable) + 1
