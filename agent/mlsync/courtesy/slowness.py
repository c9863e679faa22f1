"""Whether this process may work more slowly than it could, and why it does just now.

Limits and pauses are for ordinary times. A pass with a deadline, as before a preemption, the last pass of an agent that
ends, and a pass that was asked to stop ignore them: what is not sent by then is lost.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Final

# What slowed the process so long ago is over.
_NOTED_S: Final = 5.0
# A wait shows at least so often that the process lives.
_SLICE_S: Final = 0.5


class Slowness:
    """What limits and pauses of one process ask before they wait; any thread may call it.

    *on_wait* is called again and again while something waits.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.on_wait: Callable[[], None] = lambda: None
        self._clock = clock
        self._lifted = threading.Event()
        self._patient_until_s = math.inf
        self._why = ""
        self._noted_s = -math.inf

    def begin(self, *, hurries: bool, max_lag_s: float = math.inf) -> None:
        """Begin a piece of work: one that *hurries* is not slowed, others wait for processes *max_lag_s* at most."""
        self._patient_until_s = self._clock() + max_lag_s
        self._why = ""
        if hurries:
            self._lifted.set()
        else:
            self._lifted.clear()

    def lift(self) -> None:
        """Go on as fast as possible, until the next ``begin``; whoever waits goes on now."""
        self._lifted.set()

    @property
    def is_lifted(self) -> bool:
        """Whether nothing slows this process."""
        return self._lifted.is_set()

    @property
    def is_patient(self) -> bool:
        """Whether this process still waits while others need the machine."""
        return not self._lifted.is_set() and self._clock() < self._patient_until_s

    def wait(self, seconds: float, why: str) -> None:
        """Wait *seconds*, or until ``lift``; *why* is what ``why`` tells meanwhile."""
        until_s = self._clock() + seconds
        while (left_s := until_s - self._clock()) > 0:
            self.note(why)
            self.on_wait()
            if self._lifted.wait(min(left_s, _SLICE_S)):
                return

    def note(self, why: str) -> None:
        """Note why this process is slow at the moment."""
        self._why, self._noted_s = why, self._clock()

    @property
    def why(self) -> str:
        """Why this process is slow at the moment; empty if it is not."""
        return self._why if self._clock() < self._noted_s + _NOTED_S else ""


#: That of this process.
SLOWNESS: Final = Slowness()
