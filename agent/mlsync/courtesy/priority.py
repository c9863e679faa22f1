"""Each process of mlsync comes after everybody else's, wherever it runs and whoever started it.

Three things decide who gets the processor, from the outside in. Control groups come first: systemd's ``CPUWeight=`` or
a container's share; mlsync leaves them alone. Within one control group the kernel may give each *session* a weight of
its own (autogroups, see sched(7)): on a plain login, a trainer in one terminal and mlsync in another get half each,
whatever their nice values are, unless the session itself is niced. Within one session, policy and nice value decide.
So all three are lowered, and the class of the disk's transfers with them. What the kernel refuses stays as it is:
nothing here fails. Nothing here raises a priority, or touches a process or a session that is not mlsync's own.

The programs that prove checkpoints load this file by its path: Python 3.9 and its standard library have to do.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import time

NICE_LAST = 19
AUTOGROUP = "/proc/self/autogroup"
# Without CAP_SYS_ADMIN the kernel accepts one such write in a tenth of a second, of all users of the machine together.
_AUTOGROUP_TRIES = 8
_AUTOGROUP_PAUSE_S = 0.11
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
_IOPRIO_GET = {"x86_64": 252, "aarch64": 31, "riscv64": 31, "ppc64le": 274, "s390x": 283}
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_SHIFT = 13
_IOPRIO_CLASS_IDLE = 3
_POLICY_NAMES = {os.SCHED_BATCH: "batch", os.SCHED_IDLE: "idle"}


def stand_back() -> None:
    """This thread, and every thread and process that it starts from now on, comes after everybody else's.

    Call it before there are other threads: all but the session's weight is each thread's own.
    """
    # SCHED_BATCH never preempts a thread that wakes up. SCHED_IDLE would stand a little further back, but its share of
    # a processor that others use up is a fifth of what nice 19 gets, too little to end a pass: decision 57.
    if os.sched_getscheduler(0) != os.SCHED_IDLE:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with contextlib.suppress(OSError):
        os.nice(NICE_LAST)  # adds, and ends at 19
    _ioprio(_IOPRIO_SET, _IOPRIO_CLASS_IDLE << _IOPRIO_CLASS_SHIFT)
    follow()


def follow() -> None:
    """Have this process's session stand back if the process does: all else it inherited from who started it."""
    if stands_back() and is_alone_in_session():
        _nice_session()


def stands_back() -> bool:
    """Whether this thread was told to stand back, by mlsync or by whoever started it."""
    return os.sched_getscheduler(0) in _POLICY_NAMES or _nice() >= NICE_LAST


def describe() -> str:
    """Return what holds of this process: what it asked for, as far as the kernel granted it."""
    session = session_nice()
    of_session = "its session has no weight of its own" if session is None else f"its session nice {session}"
    policy = _POLICY_NAMES.get(os.sched_getscheduler(0), "ordinary")
    disk = "idle class" if has_idle_disk_class() else "ordinary class"
    return f"processor: {policy} policy, nice {_nice()}, {of_session}; disk: {disk}"


def session_nice(path: str = AUTOGROUP) -> int | None:
    """Return the nice value of this process's session, None where that has no weight of its own.

    Either the kernel gives none to any session, or nobody made this one: what the machine's first process started
    without ``setsid`` stands among the sessions, each process by its own nice value.
    """
    try:
        with open(path, "rb") as file:
            return int(file.read().rpartition(b"nice ")[2])
    except (OSError, ValueError):
        return None


def has_idle_disk_class() -> bool:
    """Whether this thread's transfers come after all others', where the disk's scheduler heeds that."""
    return _ioprio(_IOPRIO_GET) >> _IOPRIO_CLASS_SHIFT == _IOPRIO_CLASS_IDLE


def is_alone_in_session() -> bool:
    """Whether this process leads its session and nobody else is in it."""
    me = os.getpid()
    if os.getsid(0) != me:
        return False
    return not any(int(name) != me and _session_of(name) == me for name in os.listdir("/proc") if name.isdigit())


def waited_for_processor_s(pid: int) -> float:
    """Return how long the main thread of a process was ready to run and others ran, 0 where that is not to be known."""
    try:
        with open(f"/proc/{pid}/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def _nice_session() -> None:
    for _ in range(_AUTOGROUP_TRIES):
        if (session_nice() or 0) >= NICE_LAST:
            return
        try:
            descriptor = os.open(AUTOGROUP, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"%d" % NICE_LAST)  # a file object would take EAGAIN for an answer
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                return
            time.sleep(_AUTOGROUP_PAUSE_S)


def _session_of(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # After the program's name, which may hold anything: state, parent, group, session.
            return int(file.read().rpartition(b")")[2].split()[3])
    except (OSError, ValueError, IndexError):
        return -1


def _ioprio(numbers: dict[str, int], *value: int) -> int:
    """Ask for this thread's class of transfers, or set it to *value*; C's library has no function for that."""
    number = numbers.get(platform.machine())
    if number is None:
        return 0
    words = [ctypes.c_int(word) for word in (_IOPRIO_WHO_PROCESS, 0, *value)]
    answer: int = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *words)
    return max(answer, 0)
