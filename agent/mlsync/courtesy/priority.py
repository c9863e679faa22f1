"""A low priority for each process of mlsync, wherever it runs and whoever started it.

Three things decide who gets the processor, from the outside in. Control groups come first: systemd's ``CPUWeight=`` or
a container's share; mlsync leaves them alone. Within one control group the kernel may give each *session* a weight of
its own (autogroups, see sched(7)): on a plain login, a trainer in one terminal and mlsync in another get half each,
whatever their nice values are, unless the session itself has one. Within one session, policy and nice value decide.
mlsync lowers session, policy and nice value, and its I/O class. What the kernel refuses stays as it is: nothing here
fails, raises a priority, or touches a process or a session of others.

The programs that prove checkpoints load this file by its path, so it runs on Python 3.9 and needs only its standard
library.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import threading
import time

NICE_LAST = 19
# A tenth of an ordinary process. For a pass that begins seldom: what it costs is bounded by that, and last in line a
# training that leaves nothing would draw it out for so long that files overwritten in place are torn in it.
NICE_SELDOM = 10
AUTOGROUP = "/proc/self/autogroup"
# Without CAP_SYS_ADMIN the kernel accepts a write only a tenth of a second after the last one, root's included. Whoever
# gives up has a trainer's weight for its whole life, so it is asked for longer than a machine starts processes at once.
_AUTOGROUP_TRIES = 24
_AUTOGROUP_PAUSE_S = 0.11
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
_IOPRIO_GET = {"x86_64": 252, "aarch64": 31, "riscv64": 31, "ppc64le": 274, "s390x": 283}
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_SHIFT = 13
_IOPRIO_CLASS_IDLE = 3
_POLICY_NAMES = {os.SCHED_BATCH: "batch", os.SCHED_IDLE: "idle"}


def stand_back(nice: int = NICE_LAST) -> None:
    """Lower the priority of this process, and so of every thread and process that it starts from now on.

    Everything except the session's weight belongs to one thread, and libraries start some when they are loaded.
    """
    # This one first: what it starts meanwhile inherits the priority, and needs no other look.
    _lower(0, nice)
    for thread in _other_threads():
        _lower(thread, nice)
    follow()


def _other_threads() -> list[int]:
    me = threading.get_native_id()
    try:
        return [int(name) for name in os.listdir("/proc/self/task") if int(name) != me]
    except OSError:
        return []


def _lower(thread: int, nice: int) -> None:
    """Lower the priority of a thread, 0 for this one; it may have ended."""
    # SCHED_BATCH never preempts a thread that wakes up. SCHED_IDLE would yield a little more, but on a busy processor
    # it gets a fifth of what nice 19 gets, too little to finish a pass: decision 57.
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(thread) != os.SCHED_IDLE:
            os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, thread) < nice:
            os.setpriority(os.PRIO_PROCESS, thread, nice)
    _ioprio(_IOPRIO_SET, _IOPRIO_CLASS_IDLE << _IOPRIO_CLASS_SHIFT, thread=thread)


def follow() -> None:
    """Lower the weight of this process's session as far as its own priority: it inherited everything else."""
    if stands_back() and is_alone_in_session():
        _nice_session(_nice())


def stands_back() -> bool:
    """Return whether this thread has a low priority, from mlsync or from whoever started it."""
    return os.sched_getscheduler(0) in _POLICY_NAMES or _nice() >= NICE_LAST


def describe() -> str:
    """Return the priorities of this process in words, as far as the kernel granted them."""
    session = session_nice()
    of_session = "its session has no weight of its own" if session is None else f"its session nice {session}"
    policy = _POLICY_NAMES.get(os.sched_getscheduler(0), "ordinary")
    disk = "idle class" if has_idle_disk_class() else "ordinary class"
    return f"processor: {policy} policy, nice {_nice()}, {of_session}; disk: {disk}"


def session_nice(path: str = AUTOGROUP) -> int | None:
    """Return the nice value of this process's session, ``None`` where the session has no weight of its own.

    Either the kernel weighs no sessions, or the machine's first process started this one without ``setsid``: then each
    process counts beside the sessions, by its own nice value.
    """
    try:
        with open(path, "rb") as file:
            return int(file.read().rpartition(b"nice ")[2])
    except (OSError, ValueError):
        return None


def has_idle_disk_class() -> bool:
    """Return whether this thread has the idle I/O class, which some disk schedulers respect."""
    return _ioprio(_IOPRIO_GET) >> _IOPRIO_CLASS_SHIFT == _IOPRIO_CLASS_IDLE


def is_alone_in_session() -> bool:
    """Return whether this process leads its session and no other process is in it."""
    me = os.getpid()
    if os.getsid(0) != me:
        return False
    return not any(int(name) != me and _session_of(name) == me for name in os.listdir("/proc") if name.isdigit())


def waited_for_processor_s(pid: int) -> float:
    """Return how long the main thread of a process waited for a processor; 0 where that is unknown."""
    try:
        with open(f"/proc/{pid}/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def _nice_session(nice: int) -> None:
    for _ in range(_AUTOGROUP_TRIES):
        if (session_nice() or 0) >= nice:
            return
        try:
            descriptor = os.open(AUTOGROUP, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"%d" % nice)  # a file object would hide EAGAIN
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


def _ioprio(numbers: dict[str, int], *value: int, thread: int = 0) -> int:
    """Return a thread's I/O class, 0 for this one's, or set it to *value*; the C library has no function for that."""
    number = numbers.get(platform.machine())
    if number is None:
        return 0
    words = [ctypes.c_int(word) for word in (_IOPRIO_WHO_PROCESS, thread, *value)]
    answer: int = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *words)
    return max(answer, 0)
