"""Who is told to save: the processes of a training that catch the signal. Of one that is not caught a process dies."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_CAUGHT: Final = re.compile(rb"^SigCgt:\s*([0-9a-f]+)$", re.MULTILINE)
# Far more than any training has; what a fork bomb leaves would be walked for ever.
_PROCESSES_MAX: Final = 100_000


def catchers(pid: int, number: int, proc: Path = _PROC) -> list[int]:
    """Return the processes nearest to *pid*, itself or below it, that catch the signal.

    A launcher (torchrun, accelerate, a shell) catches none, and each of its workers does. What a worker has forked
    inherits its handler and belongs to it: the way down ends at the first that catches.
    """
    children = _children(proc)
    found: list[int] = []
    ahead = [pid]
    while ahead and len(found) < _PROCESSES_MAX:
        one = ahead.pop()
        if _catches(one, number, proc):
            found.append(one)
        else:
            ahead.extend(children.pop(one, ()))
    return sorted(found)


def tell(pids: list[int], number: int) -> None:
    """Send the signal to each of them that is still there."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _catches(pid: int, number: int, proc: Path) -> bool:
    try:
        found = _CAUGHT.search((proc / str(pid) / "status").read_bytes())
    except OSError:
        return False
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


def _children(proc: Path) -> dict[int, list[int]]:
    children: dict[int, list[int]] = defaultdict(list)
    for name in os.listdir(proc):
        if not name.isdecimal():
            continue
        with suppress(OSError, ValueError, IndexError):
            # The program's name, in brackets, may hold anything.
            fields = (proc / name / "stat").read_bytes().rpartition(b")")[2].split()
            children[int(fields[1])].append(int(name))
    return children
