"""What the agent runs: a job per run, what comes out of it, and its sign of life."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from mlsync.app.passes import Outcome


class RunJob(Protocol):
    """Backs one run up whenever it is told to; called from one thread at a time."""

    @property
    def name(self) -> str:
        """The run's name."""

    @property
    def directory(self) -> Path:
        """The directory that is watched for it."""

    @property
    def pulse(self) -> Pulse:
        """Beats while a pass makes progress."""

    def run(self, stop: threading.Event) -> Outcome:
        """Make a version if anything changed; end at the next safe point when *stop* is set.

        Raises ``RunLocked`` if another process works on the run, and any other ``Error`` if it should be tried again.
        """


class Pulse:
    """When something last went forward."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_s = clock()

    def beat(self) -> None:
        """Something went forward just now."""
        self._last_s = self._clock()

    @property
    def age_s(self) -> float:
        """How long nothing has gone forward."""
        return self._clock() - self._last_s
