"""The terminal that ``mlsync run`` lends to the training: Ctrl-C and Ctrl-Z reach the training, and once."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Self


class Terminal:
    """A terminal whose foreground this process's group has; the training's group gets it, and gives it back."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def of_foreground(cls) -> Self | None:
        """Return the terminal, or ``None`` if there is none or another group has its foreground."""
        for stream in (0, 2, 1):
            with suppress(OSError):
                if os.isatty(stream) and os.tcgetpgrp(stream) == os.getpgrp():
                    # A copy: the streams may be closed or replaced later.
                    return cls(os.dup(stream))
        return None

    def give(self, group: int) -> None:
        """Put *group* into the foreground."""
        # The kernel stops a process of the background that does this, unless it blocks the signal.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            with suppress(OSError):
                os.tcsetpgrp(self._descriptor, group)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def take_back(self) -> None:
        """Put this process's group into the foreground."""
        self.give(os.getpgrp())

    @property
    def is_ours(self) -> bool:
        """Whether this process's group has the foreground."""
        with suppress(OSError):
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        return False
