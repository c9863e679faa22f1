"""What an agent remembers of a run while it lives, besides its present state: versions, last errors, counts, rhythm."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

from mlsync.app.pass_result import PassResult
from mlsync.errors import Error, Stopped
from mlsync.service.job import Heartbeat, RunJob
from mlsync.service.watching.holds import Holds
from mlsync.upkeep.version_seen import VersionSeen

VERSIONS_MAX: Final = 500
_ERRORS_MAX: Final = 5
_LAG_S_MAX: Final = 3600.0
# So many checkpoints make a rhythm; of older intervals a training that changed its pace says nothing.
_INTERVALS_MIN: Final = 3
_INTERVALS_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class PastError:
    """An error of a pass: when it came first and last, and how often in a row."""

    first_s: float
    last_s: float
    count: int
    text: str


@dataclass(frozen=True, slots=True)
class Failing:
    """Since when every pass failed, in seconds since 1970, and with what kind of error the last one did."""

    since_s: float
    kind: str
    status: int


@dataclass(frozen=True, slots=True)
class LastEvaluation:
    """What became of the evaluation of a version: its numbers, or why there are none, and whether that *is final*."""

    version: int
    at_s: float
    numbers: Mapping[str, float]
    error: str = ""
    is_final: bool = True


@dataclass(slots=True)
class PassCounts:
    """What passes came to since the agent started."""

    passed: int = 0
    failed: int = 0
    versions: int = 0
    new_bytes: int = 0
    stored_bytes: int = 0
    seconds: float = 0.0
    last_seconds: float | None = None


class RunRecord:
    """What is remembered of one run; its worker's thread writes it, any thread reads it."""

    def __init__(self, *, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._versions: dict[int, VersionSeen] = {}
        self._errors: deque[PastError] = deque(maxlen=_ERRORS_MAX)
        #: Everything that was in the directory then is in a version that is proved, or was nothing new.
        self.proved_until_s: float | None = None
        self._pending: int | None = None  # the newest version, if it is still to be proved
        #: Since when the newest version waits for its proof.
        self.pending_since_s: float | None = None
        self.failing: Failing | None = None
        self.counts = PassCounts()
        #: The last evaluation that ended, well or not.
        self.measured: LastEvaluation | None = None

    @property
    def versions(self) -> tuple[VersionSeen, ...]:
        """The newest versions that are known, oldest first."""
        known = self._versions
        return tuple(known[number] for number in sorted(known))

    @property
    def errors(self) -> tuple[PastError, ...]:
        """The last errors, the newest one last."""
        return tuple(self._errors)

    def passed(self, outcome: PassResult, began_s: float, seconds: float) -> None:
        """Note what a pass came to that began at *began_s*, in seconds since 1970."""
        self.failing = None
        counts = self.counts
        counts.passed += 1
        counts.seconds += seconds
        counts.last_seconds = seconds
        if outcome.versions:
            # A new mapping, since others may be reading the old one.
            known = self._versions | {one.version: self._with_numbers(one) for one in outcome.versions}
            self._versions = {number: known[number] for number in sorted(known)[-VERSIONS_MAX:]}
        made = next((one for one in outcome.versions if one.version == outcome.version), None)
        if outcome.version is not None:
            counts.versions += 1
        if made is not None:
            counts.new_bytes += made.new_bytes
            counts.stored_bytes += made.stored_bytes
        newest = max(self._versions, default=0)
        if outcome.version is not None:
            self._pending = None if outcome.proved_version == outcome.version else outcome.version
        elif newest and counts.passed == 1 and self._versions[newest].is_pending:
            self._pending = newest  # an earlier agent made it
        if self._pending is not None and (outcome.proved_version or 0) >= self._pending:
            self._pending = None
        if self._pending is None:
            self.proved_until_s, self.pending_since_s = began_s, None
        elif self.pending_since_s is None:
            seen = self._versions.get(self._pending)
            self.pending_since_s = self._wall() if seen is None else seen.made_s

    def follow_clock(self, now_s: float) -> None:
        """Have what happened later than *now_s* have happened now: the clock was set back, and ages count from here."""
        failing = self.failing
        if failing is not None and failing.since_s > now_s:
            self.failing = replace(failing, since_s=now_s)
        if self.proved_until_s is not None:
            self.proved_until_s = min(self.proved_until_s, now_s)
        if self.pending_since_s is not None:
            self.pending_since_s = min(self.pending_since_s, now_s)

    def evaluated(self, measured: LastEvaluation) -> None:
        """Note what became of an evaluation; its thread calls this."""
        self.measured = measured
        seen = self._versions.get(measured.version)
        if seen is not None and measured.numbers:
            numbers = {**seen.numbers, **measured.numbers}
            self._versions = self._versions | {measured.version: replace(seen, numbers=numbers)}

    def _with_numbers(self, seen: VersionSeen) -> VersionSeen:
        """Return a version with what was measured of it before: a pass does not read that."""
        before = self._versions.get(seen.version)
        return seen if before is None or seen.numbers else replace(seen, numbers=before.numbers)

    def failed(self, error: Exception) -> None:
        """Note an error, together with the one before it if that says the same."""
        now_s, text = self._wall(), str(error) or type(error).__name__
        self.counts.failed += 1
        since_s = now_s if self.failing is None else self.failing.since_s
        self.failing = Failing(since_s, type(error).__name__, getattr(error, "exit_code", 1))
        last = self._errors[-1] if self._errors else None
        if last is not None and last.text == text:
            self._errors[-1] = PastError(last.first_s, now_s, last.count + 1, text)
        else:
            self._errors.append(PastError(now_s, now_s, 1, text))

    def usual_interval_s(self) -> float | None:
        """Return the usual time from one new checkpoint to the next; ``None`` while there were too few."""
        return usual_interval_s(one.checkpoint_s for one in self.versions)

    def newest_checkpoint_s(self) -> float | None:
        """Return when the newest checkpoint was written that is in a version."""
        return max((one.checkpoint_s for one in self.versions if one.checkpoint_s is not None), default=None)


def usual_interval_s(checkpoints_s: Iterable[float | None]) -> float | None:
    """Return the median of the last intervals between checkpoints that came after all before them."""
    moments: list[float] = []
    for moment_s in checkpoints_s:
        if moment_s is not None and (not moments or moment_s > moments[-1]):
            moments.append(moment_s)
    intervals = sorted([later - earlier for earlier, later in pairwise(moments)][-_INTERVALS_MAX:])
    # The middle one, without the library's module, which loads a lot for it.
    return intervals[len(intervals) // 2] if len(intervals) >= _INTERVALS_MIN else None


def _with_lag(outcome: PassResult, before_s: float | None) -> PassResult:
    """Return the outcome whose line says how long after the save of a new checkpoint its version was there."""
    made = next((one for one in outcome.versions if one.version == outcome.version), None)
    if made is None or made.checkpoint_s is None or (before_s is not None and made.checkpoint_s <= before_s):
        return outcome
    lag_s = made.made_s - made.checkpoint_s
    if not 0 <= lag_s < _LAG_S_MAX:
        return outcome  # saved long before any agent looked, or by another clock
    return replace(outcome, summary=f"{outcome.summary}, {lag_s:.1f} s after the checkpoint was saved")


class RecordedJob:
    """A job of which every pass is noted in a record; *told* gets each outcome, *proved* is called after a proof."""

    def __init__(
        self,
        job: RunJob,
        record: RunRecord,
        proved: Callable[[], None] = lambda: None,
        told: Callable[[PassResult], None] = lambda _outcome: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._job = job
        self._record = record
        self._proved = proved
        self._told = told
        self._clock = clock
        self._wall = wall

    @property
    def name(self) -> str:
        """The run's name."""
        return self._job.name

    @property
    def directory(self) -> Path:
        """The run's directory."""
        return self._job.directory

    @property
    def heartbeat(self) -> Heartbeat:
        """The heartbeat of the job."""
        return self._job.heartbeat

    @property
    def holds(self) -> Holds | None:
        """What is held open for the job."""
        return self._job.holds

    def prepare(self) -> None:
        """Let the job get ready."""
        self._job.prepare()

    def rests_until_s(self, since_s: float) -> float:
        """Rest as the job does."""
        return self._job.rests_until_s(since_s)

    def run(
        self,
        stop: threading.Event,
        *,
        may_join: bool = False,
        deadline_s: float | None = None,
        goes_on: bool = False,
    ) -> PassResult:
        """Make a pass as the job does, and note what came of it."""
        began_s, began_clock_s = self._wall(), self._clock()
        try:
            more = {name: True for name, is_set in (("may_join", may_join), ("goes_on", goes_on)) if is_set}
            outcome = self._job.run(stop, deadline_s=deadline_s, **more)
        except Stopped:
            raise
        except Exception as error:
            # A pass that was interrupted may fail in any way.
            if not (stop.is_set() and isinstance(error, Error)):
                self._record.failed(error)
            raise
        finally:
            self._job.heartbeat.doing = None
        before_s = self._record.newest_checkpoint_s()
        self._record.passed(outcome, began_s, self._clock() - began_clock_s)
        outcome = _with_lag(outcome, before_s)
        if outcome.proved_version is not None:
            self._proved()
        self._told(outcome)
        return outcome
