"""What is left of a process whose work goes on in another one: hand signals on to it, wait, and end as it does.

Run by its path, ``waiting.py CHILD``, in a Python that holds nothing else: the standard library has to do.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from typing import NoReturn

# What a person or a script sends to the process that they started, and mean for the one that does the work.
HANDED_ON = frozenset(
    {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT}
)
#: Blocked before the other process is made, and on: none of them is lost, and none ends the one that waits.
WAITED_FOR = HANDED_ON | {signal.SIGTSTP, signal.SIGCHLD}


def wait_for(child: int) -> int:
    """Hand signals on to *child* until it ends; return its status as ``waitpid`` tells it."""
    while True:
        number = signal.sigwait(WAITED_FOR)
        if number == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended == child:
                return status
        elif number == signal.SIGTSTP:
            # Ctrl-Z stops both; "fg" is a SIGCONT, which is handed on.
            os.kill(child, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            os.kill(child, number)


def end_as(status: int) -> NoReturn:
    """End with the status, or by the signal, that another process ended with."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        # The other process left a core file, or did not; this one would only hide it.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
        os._exit(128 + number)
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    end_as(wait_for(int(sys.argv[1])))
