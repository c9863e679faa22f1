"""What the kernel says of a process's place in line, asked without the code that is tested."""

from __future__ import annotations

import ctypes
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import pytest

_IOPRIO_GET = {"x86_64": 252, "aarch64": 31}


@dataclass(frozen=True)
class Standing:
    """Policy, nice value, the session's nice value (None where sessions have no weight), the disk's class."""

    policy: int
    nice: int
    session_nice: int | None
    disk_class: int


#: Behind everybody else; 3 is the idle class.
LAST = Standing(os.SCHED_BATCH, 19, 19, 3)
#: A tenth of the weight of others: what begins seldom.
SELDOM = Standing(os.SCHED_BATCH, 10, 10, 3)


def standing_of(pid):
    """The standing of a process, as the kernel has it."""
    autogroup = Path(f"/proc/{pid}/autogroup")
    words_of_session = autogroup.read_text().split() if autogroup.exists() else []
    words = ctypes.c_int(1), ctypes.c_int(pid)
    disk = ctypes.CDLL(None).syscall(ctypes.c_long(_IOPRIO_GET[platform.machine()]), *words)
    return Standing(
        os.sched_getscheduler(pid),
        os.getpriority(os.PRIO_PROCESS, pid),
        int(words_of_session[-1]) if words_of_session else None,
        disk >> 13,
    )


def needs_autogroups():
    """Skip where the tests' session has no weight; conftest.py gives them one that has, if the kernel does."""
    if standing_of(os.getpid()).session_nice is None:
        pytest.skip("the session of the tests has no weight: no autogroups, or no session of its own")
