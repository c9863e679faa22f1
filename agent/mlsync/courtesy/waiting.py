"""Wait for the process that continues the work of this one: forward signals to it, and exit as it does.

Run by its path, ``waiting.py CHILD``, in a Python without other modules, so it needs only the standard library.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from typing import NoReturn

# Signals that a person or a script sends to the process that they started, meant for the one that does the work.
FORWARDED = frozenset(
    {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT}
)
#: Blocked from before the fork on, so that none of them is lost, and none ends the process that waits.
WAITED_FOR = FORWARDED | {signal.SIGTSTP, signal.SIGCHLD}


def wait_for(child: int) -> int:
    """Forward signals to *child* until it ends; return its status as ``waitpid`` gives it."""
    while True:
        number = signal.sigwait(WAITED_FOR)
        if number == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended == child:
                return status
        elif number == signal.SIGTSTP:
            # Ctrl-Z stops both; "fg" sends SIGCONT, which is forwarded.
            os.kill(child, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            os.kill(child, number)


def end_as(status: int) -> NoReturn:
    """Exit with the status, or by the signal, of another process."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        # A core file of this process would hide one of the other process.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
        os._exit(128 + number)
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    end_as(wait_for(int(sys.argv[1])))
