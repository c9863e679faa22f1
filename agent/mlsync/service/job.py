"""What the agent runs: one job for each run, and the job's heartbeat."""

from __future__ import annotations

import math
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

    def run(self, stop: threading.Event, *, deadline_s: float | None = None) -> PassResult:
        """Make a version if anything changed; end at the next safe point once *stop* is set.

        With *deadline_s*, on the monotonic clock, this is the last pass: the newest files come first, the version is
        committed before then, and what is left of the time goes to its proof.
        Raises ``RunLocked`` if another process works on the run, and any other ``Error`` if the agent should try again.
        """


class Interruption(threading.Event):
    """Asks a pass to end at its next safe point; it may be ended by force at *by_s*, on the monotonic clock."""

    def __init__(self, by_s: float = math.inf) -> None:
        super().__init__()
        self.by_s = by_s


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
