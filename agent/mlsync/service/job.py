"""What the agent runs: one job for each run, and the job's heartbeat."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from mlsync.app.pass_result import PassResult


class RunJob(Protocol):
    """Makes passes over one run; one thread at a time calls it."""

    @property
    def name(self) -> str:
        """The run's name."""

    @property
    def directory(self) -> Path:
        """The run's directory, which the agent watches."""

    @property
    def heartbeat(self) -> Heartbeat:
        """Beats while a pass makes progress."""

    def run(self, stop: threading.Event) -> PassResult:
        """Make a version if anything changed; end at the next safe point once *stop* is set.

        Raises ``RunLocked`` if another process works on the run, and any other ``Error`` if the agent should try again.
        """


class Heartbeat:
    """The time of the last progress."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_s = clock()

    def beat(self) -> None:
        """Record progress just now."""
        self._last_s = self._clock()

    @property
    def age_s(self) -> float:
        """The seconds without progress."""
        return self._clock() - self._last_s
