"""A session for mlsync alone, whose weight it can lower without harm to others."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from typing import Final, NoReturn

from mlsync.courtesy import waiting
from mlsync.courtesy.priority import is_alone_in_session, session_nice

_PR_SET_PDEATHSIG: Final = 1
# What Python may need to start. The process that only waits gets nothing else, above all no secret.
_NEEDED_VARIABLES: Final = ("PATH", "LD_LIBRARY_PATH")


def go_on_in_own_session() -> None:
    """Continue in a session of our own, where the kernel weighs sessions and this one has other processes.

    One of them may be a trainer of the same script or shell, so the session's weight must stay. The caller continues in
    a new process; the one that was started forwards signals, waits, and exits as the new one does. Call it before there
    are threads or locks.
    """
    if session_nice() is None or is_alone_in_session():
        return
    parent = os.getpid()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waiting.WAITED_FOR)
    try:
        child = os.fork()
    except OSError:  # no new process: then the work is done here
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    if child != 0:
        _wait_for(child)
    os.setsid()
    # A SIGKILL for the process that was started is meant for the work.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_for(child: int) -> NoReturn:
    """Become a small process that waits; wait in this one if no other program starts."""
    environment = {name: os.environ[name] for name in _NEEDED_VARIABLES if name in os.environ}
    with contextlib.suppress(OSError):
        words = [sys.executable, "-I", "-S", waiting.__file__, str(child)]
        os.execve(sys.executable, words, environment)  # noqa: S606 - our own program, by our own interpreter
    waiting.end_as(waiting.wait_for(child))
