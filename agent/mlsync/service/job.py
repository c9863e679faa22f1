"""What the agent runs: one job for each run, and the job's heartbeat."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from mlsync.app.pass_result import PassResult
from mlsync.service.passes.doing import Doing
from mlsync.service.watching.holds import Holds

# What was stored by then is found by the next pass, whose processor time is not what is left over.
_LATE_ENDS_WITHIN_S: Final = 30.0


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

    @property
    def holds(self) -> Holds | None:
        """What is held open for its passes; ``None`` if nothing is to be."""

    def prepare(self) -> None:
        """Get ready for a pass that is about to come; return at once."""

    def rests_until_s(self, since_s: float) -> float:
        """Return until when a pass for what changed at *since_s* leaves the processors to others; asked repeatedly.

        Both are on the monotonic clock; minus infinity if the pass may begin now.
        """

    def run(
        self,
        stop: threading.Event,
        *,
        may_join: bool = False,
        deadline_s: float | None = None,
        goes_on: bool = False,
    ) -> PassResult:
        """Make a version if anything changed; end at the next safe point once *stop* is set.

        With *may_join* what changed may be left to a later version, if nothing changed but logs.
        With *deadline_s*, on the monotonic clock, this is the last pass: the newest files come first, the version is
        committed before then, and what is left of the time goes to its proof; unless it *goes_on*, since more passes
        may come before then.
        Raises ``RunLocked`` if another process works on the run, and any other ``Error`` if the agent should try again.
        """


class Interruption(threading.Event):
    """Asks a pass to end at its next safe point; it may be ended by force at *by_s*, on the monotonic clock.

    If it *commits*, a version of which only the proof is missing is made first: it is proved later. A pass that
    *is_last* is slowed by nothing: no training is left beside it, or no time.

    *behind_since_s* is since when the run has had something that no version holds. A job that gives way to others sets
    *late_at_s*, also on the monotonic clock: then its pass ends by itself and *is_late*, since others may leave it
    nothing, and the next one gives way to nobody.
    """

    def __init__(self, by_s: float = math.inf, *, is_last: bool = False, behind_since_s: float = math.inf) -> None:
        super().__init__()
        self.by_s = by_s
        self.is_last = is_last
        self.commits = False
        self.behind_since_s = behind_since_s
        self.late_at_s = math.inf
        self.is_late = False

    def is_set(self) -> bool:
        """Return whether the pass is to end; whoever waits for it asks again and again."""
        if not super().is_set() and time.monotonic() >= self.late_at_s:
            self.is_late = self.commits = True
            self.by_s = self.late_at_s + _LATE_ENDS_WITHIN_S
            self.set()
        return super().is_set()


def hung_after_s(proof_timeout_s: float) -> float:
    """Return after how long without progress a pass hangs: far above the longest silence of a healthy one.

    That is a proof on a slow device, or a store's retries.
    """
    return max(1800.0, 2 * proof_timeout_s)


class Heartbeat:
    """The time of the last progress, and what goes on: *doing* is ``None`` while no pass says so.

    *retry_count* counts the requests to the store that failed and were made again, since the agent started; *waited* is
    what the last one of them said, and when.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, wall: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall = wall
        self._last_s = clock()
        self._counted = 0
        self.doing: Doing | None = None
        self.retry_count = 0
        self.waited: tuple[float, str] | None = None

    def beat(self, doing: Doing | None = None) -> None:
        """Record progress just now."""
        self._last_s = self._clock()
        self.doing = doing
        if doing is None:
            return
        # A process counts from zero.
        retried = doing.retry_count - (self._counted if doing.retry_count >= self._counted else 0)
        self._counted = doing.retry_count
        self.retry_count += retried
        if doing.waits and (retried or self.waited is None):
            self.waited = (self._wall(), doing.waits)

    @property
    def age_s(self) -> float:
        """The seconds without progress."""
        return self._clock() - self._last_s
