"""Restricts its process and then executes the command that loads a checkpoint: it dies with mlsync and has limits.

mlsync starts it by path in its own Python, with the standard library alone:
``launch.py PARENT REPORT CPU_S FILE_BYTES PATH COMMAND...``. If the command cannot start, or its user cannot read the
checkpoint at PATH, the reason is written to the descriptor REPORT, which a successful start closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import resource
import signal
import sys

NOT_STARTED = 127
_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PRIORITY = os.path.join(_PACKAGE, "courtesy", "priority.py")


def follow_priority() -> None:
    """Lower the priority of this process's session if mlsync's is lowered; the rest is inherited."""
    spec = importlib.util.spec_from_file_location("mlsync_priority", _PRIORITY)
    assert spec is not None
    assert spec.loader is not None
    priority = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(priority)
    priority.follow()


def bind(parent_pid: int, cpu_s: int, file_bytes: int) -> None:
    """Die with the parent, gain no rights, leave no core, and yield processor and memory to the trainer."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG; it outlives the exec
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    # A service that is not root reads all files by an ambient capability, which the command would inherit.
    libc.prctl(47, 4, 0, 0, 0)  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL
    if os.getppid() != parent_pid:
        raise SystemExit(NOT_STARTED)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_FSIZE, file_bytes, file_bytes)
    # SIGXCPU comes first and names the cause; SIGKILL would look like out of memory.
    _lower(resource.RLIMIT_CPU, cpu_s, cpu_s + 60)
    with contextlib.suppress(OSError):  # a filter of system calls may refuse it
        # Not lower than a pass that has this already: its version waits for this process.
        os.nice(max(0, 10 - os.getpriority(os.PRIO_PROCESS, 0)))
    # No limit of memory: CUDA's address space is too large for one. If memory runs out, this process is killed first,
    # or in mlsync's order if /proc cannot be written.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    # Python ignores these signals, and the command would inherit that.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def _lower(limit: int, soft: int, hard: int) -> None:
    most = resource.getrlimit(limit)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(limit, (soft, hard))


def main() -> None:
    """Restrict this process, and execute the command."""
    parent_pid, report, cpu_s, file_bytes = map(int, sys.argv[1:5])
    path, command = sys.argv[5], sys.argv[6:]
    os.set_inheritable(report, False)
    follow_priority()
    bind(parent_pid, cpu_s, file_bytes)
    if not os.access(path, os.R_OK):
        os.write(report, b"the checkpoint cannot be read where it lies")
        sys.exit(NOT_STARTED)
    try:
        os.execvp(command[0], command)  # noqa: S606 - what the user's configuration names
    except OSError as error:
        os.write(report, (error.strerror or "unknown error").encode())
        sys.exit(NOT_STARTED)


if __name__ == "__main__":
    main()
