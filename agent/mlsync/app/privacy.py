"""Keep the secrets of this process from other processes of the same user: its memory and its environment."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final

PASSPHRASE_VARIABLE: Final = "MLSYNC_PASSPHRASE"  # noqa: S105 - the name of a variable, not the secret
_PR_SET_DUMPABLE: Final = 4
# The fields of /proc/self/stat, after the name, with the start and the end of the original environment.
_BOUNDS_AFTER_NAME: Final = slice(47, 49)


def keep_private(*, limits_children: bool = True) -> None:
    """Disable core files, and deny other processes of the same user access to this one's memory and environment.

    Afterwards the files of this process in ``/proc`` belong to root, so an ordinary user's process can no longer write
    its own ``autogroup`` or ``oom_score_adj``: do that before. Programs that it starts have no core files either,
    unless *limits_children* is false.
    """
    import ctypes  # late, as below: a command that opens nothing keeps no secret

    if limits_children:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A kernel or filter that refuses this changes nothing, and the command still works.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def take_variable(environ: MutableMapping[str, str], name: str) -> str | None:
    """Return a variable and remove it from the environment, also from what ``/proc`` shows of this process.

    Removing it from ``os.environ`` is not enough: ``/proc/PID/environ`` is the memory where the kernel put the
    environment when the program started, whatever the program did to its variables since.
    """
    value = environ.pop(name, None)
    if value is not None and environ is os.environ:
        _overwrite(os.fsencode(name) + b"=")
    return value


def _overwrite(beginning: bytes) -> None:
    """Put zeros over each variable of the original environment that begins with *beginning*."""
    import ctypes

    with open("/proc/self/stat", "rb") as file:
        # The name of the program, in brackets, may contain blanks.
        bounds = file.read().rpartition(b")")[2].split()[_BOUNDS_AFTER_NAME]
    start, end = map(int, bounds)
    if not 0 < start < end:
        return  # a kernel that hides the bounds
    block = ctypes.string_at(start, end - start)
    at = 0
    for variable in block.split(b"\0"):
        if variable.startswith(beginning):
            ctypes.memset(start + at + len(beginning), 0, len(variable) - len(beginning))
        at += len(variable) + 1
