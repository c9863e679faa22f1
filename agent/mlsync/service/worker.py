"""Decides when the next pass over one run begins, and makes it, in a thread of its own."""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from mlsync.app.pass_result import PassResult
from mlsync.app.wording import count
from mlsync.courtesy.share import LOOK_S
from mlsync.errors import (
    Error,
    RepositoryError,
    RepositoryMissing,
    RunLocked,
    RunOfAnother,
    SourceEmptied,
    SourceError,
    SourceMissing,
    SourceShrunk,
    StoreError,
)
from mlsync.monitor import Monitor
from mlsync.service.job import Interruption, RunJob
from mlsync.service.watching.save_lag import SaveLag
from mlsync.service.watching.trigger import Asked, Changes, ChangeTimes, RunPlace, SaveTimes, Trigger
from mlsync.source.paths import display

_LOG: Final = logging.getLogger(__name__)
# After a pass that was asked for and found nothing new, one for a save that was told of comes so much later.
_TOLD_AGAIN_AFTER_S: Final = 1.0
# What the next change of the directory may end: it is heard at once, and not after a store's back-off.
_ENDED_BY_CHANGES: Final = (SourceMissing, SourceEmptied, SourceShrunk)
# A failure that goes on and on is told at its first, second, fourth, eighth … try, and after this time at the latest.
_TOLD_AGAIN_S: Final = 3600.0
# How much of the time for a last pass the one under way may take to get to a safe point, and at most how long.
_SHARE_TO_INTERRUPT: Final = 0.2
_INTERRUPT_S_MAX: Final = 3.0
# A store that comes back within the last seconds is still worth a try.
_HURRIED_RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Timing:
    """When passes begin: the settings of ``[agent]``, and how long failures wait for the next try.

    Of a checkpoint whose last file is there nothing more is to come but what its writer does in the same moment
    (*ended_s*); one in a single file may have a brother under another name (*alone_s*). Others settle like any file.
    Of one whose writer told that it is whole only the watcher's news of the same files is waited for (*told_s*).
    *join_logs_s* passes between two versions if the second one would hold nothing new but logs.
    """

    on_change: bool = True
    settle_s: float = 2.0
    settle_max_s: float = 60.0
    rescan_s: float = 60.0
    join_logs_s: float = 300.0
    ended_s: float = 0.3
    alone_s: float = 0.5
    told_s: float = 0.02
    retry_first_s: float = 5.0
    retry_max_s: float = 600.0


@dataclass(frozen=True, slots=True)
class _Failure:
    """Failures: *row* of one kind after each other, *tries* and *told_s* with the same words, *all_tries* of any."""

    kind: type[Exception] = Error
    what: str = ""
    row: int = 0
    tries: int = 0
    told_s: float = -math.inf
    all_tries: int = 0


_NONE: Final = _Failure()


@dataclass(slots=True)
class RunState:
    """The present state of one run; only its worker writes it, any thread reads it."""

    phase: str = "waiting"
    last_version: int | None = None
    last_version_s: float | None = None
    last_proved_version: int | None = None
    last_proved_s: float | None = None
    last_pass_s: float | None = None
    last_error: str | None = None
    troubles: tuple[str, ...] = ()
    failures: int = 0
    next_try_s: float = 0.0
    locked: RunLocked | None = None
    is_refused: bool = False
    missed_saves: int = 0
    rests: bool = False


@dataclass(frozen=True, slots=True)
class LastPass:
    """How the last pass of a run ended: with an *error*, or with all that the directory held in a version."""

    error: str | None = None
    version: int | None = None


class Worker:
    """Runs one job again and again; calls *on_change*, from its thread, whenever its state changed."""

    def __init__(
        self,
        job: RunJob,
        timing: Timing,
        monitor: Monitor,
        on_change: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.job = job
        self.trigger = Trigger(clock, job.prepare, job.holds)
        self.state = RunState()
        self._timing = timing
        self._monitor = monitor
        self._on_change = on_change
        self._clock = clock
        self._wall = wall
        self._uniform = uniform
        self._had_lock = False
        self._interruption = Interruption()
        self._told_in_vain_s = -math.inf  # when a pass that was asked for found nothing new
        self._is_last_asked = False
        self._deadline_s: float | None = None
        self._hurry_until_s: float | None = None
        self._is_hurried = False  # the pass that is under way
        # An interruption that is set while another one takes its place would be lost.
        self._interrupting = threading.Lock()
        #: How the last pass ended; ``None`` before it has, and if there was none.
        self.last: LastPass | None = None
        self._rescan_at_s = -math.inf  # the first pass begins at once, for what changed while no agent ran
        self._version_at_s = -math.inf  # when the last version was made, on the monotonic clock
        self._behind_since_s: float | None = None  # since when what passes began for is in no version
        self._retry_at_s: float | None = None
        self._failure = _NONE
        self._lag = SaveLag(clock())
        self.thread = threading.Thread(target=self._live, name=f"run-{job.name}", daemon=True)

    def start(self) -> None:
        """Begin the thread."""
        self.state.next_try_s = self._clock()
        self.thread.start()

    def stop(self) -> None:
        """Begin no further pass; one under way ends at its next safe point, the last one too."""
        with self._interrupting:
            self._is_last_asked = False
            self._interruption.set()
            self.trigger.close()

    def last_pass(self, deadline_s: float | None) -> None:
        """Make one more pass, for what the directory holds now, and end; *deadline_s* is on the monotonic clock.

        A pass under way is interrupted, an earlier last one too, so that the newest checkpoint comes first. Without a
        deadline it is a pass like any other. ``last`` says what came of it.
        """
        with self._interrupting:
            self._is_last_asked, self._deadline_s = True, deadline_s
            self._interrupt(deadline_s)
            self.trigger.close()

    def request(self) -> None:
        """Make a pass now, or right after the one that is under way."""
        self.trigger.request()

    def hurry(self, deadline_s: float) -> None:
        """Make a pass now, and each further one until *deadline_s*, so that it is committed by then.

        That is on the monotonic clock. A pass under way is interrupted, unless it hurries already.
        """
        with self._interrupting:
            self._hurry_until_s = deadline_s
            if not self._is_hurried:
                self._interrupt(deadline_s)
            self.trigger.request()

    def relax(self) -> None:
        """Go on as before a ``hurry``."""
        self._hurry_until_s = None

    def _interrupt(self, deadline_s: float | None) -> None:
        now_s = time.monotonic()
        left_s = math.inf if deadline_s is None else deadline_s - now_s
        self._interruption.by_s = now_s + min(_INTERRUPT_S_MAX, _SHARE_TO_INTERRUPT * left_s)
        # Without a deadline there is time for the proof, which the last pass makes.
        self._interruption.commits = deadline_s is not None
        self._interruption.set()

    def _hurry_s(self) -> float | None:
        """Return the deadline of a pass that begins now, if there is one."""
        until_s = self._hurry_until_s
        return None if until_s is None or self._clock() >= until_s else until_s

    def request_now(self) -> Asked:
        """Begin a pass as soon as none is under way, and return what says how it ended; any thread may call this."""
        return self.trigger.ask()

    def behind_s(self) -> tuple[float, float]:
        """Return by how many seconds the newest stored save, and the newest proved one, is behind the newest seen."""
        return self._lag.behind_s(self.trigger.saved_s)

    def follow_clock(self, now_s: float) -> None:
        """Have nothing of the state be later than *now_s*, since the clock was set back; any thread may call this."""
        state = self.state
        for name in ("last_version_s", "last_proved_s", "last_pass_s"):
            at_s = getattr(state, name)
            if at_s is not None and at_s > now_s:
                setattr(state, name, now_s)

    def hung(self, limit_s: float) -> bool:
        """Return whether the worker has made no progress for *limit_s* beyond its plan, or died without ``stop``."""
        if self.trigger.closed:
            return False
        if not self.thread.is_alive():
            return True
        if self.state.phase == "running":
            return self.job.heartbeat.age_s > limit_s
        return self._clock() > self.state.next_try_s + limit_s

    def due(self, changes: Changes, is_requested: bool) -> float:
        """Return when the next pass begins, on the monotonic clock."""
        if is_requested:
            return -math.inf
        if self._retry_at_s is not None:
            # Changes do not bring it forward: each saved file would ask a store that is away.
            if not issubclass(self._failure.kind, _ENDED_BY_CHANGES):
                return self._retry_at_s
            return min(self._retry_at_s, self._due_by(changes))
        if not self._timing.on_change:
            first_s = self._rescan_at_s if self._rescan_at_s == -math.inf else math.inf
            return min(first_s, self._due_by(Changes(changes.saves)))
        if changes.saves or changes.files is not None:
            # A rescan in the middle of a save would find half of it.
            return self._due_by(changes)
        return min(self._rescan_at_s, self._due_by(changes))

    def _due_by(self, changes: Changes) -> float:
        """Return when what changed is to be backed up: each kind has a settle of its own."""
        timing = self._timing
        dues = [self._save_due(save) for save in changes.saves.values()]
        if changes.files is not None:
            dues.append(self._settled(changes.files, timing.settle_s))
        if changes.logs is not None:
            # A chatty log restarts nothing.
            dues.append(max(changes.logs.first_s + timing.settle_s, self._version_at_s + timing.join_logs_s))
        return self._rested(min(dues), changes) if dues else math.inf

    def _rested(self, due_s: float, changes: Changes) -> float:
        """Return *due_s*, or when the job leaves the processors to others no longer, unless a training waits for it."""
        if any(save.is_awaited for save in changes.saves.values()):
            return due_s
        firsts = [changes.first_s, None if changes.logs is None else changes.logs.first_s]
        since_s = min((first_s for first_s in firsts if first_s is not None), default=due_s)
        rests_until_s = self.job.rests_until_s(since_s)
        self.state.rests = rests_until_s > max(due_s, self._clock())
        return max(due_s, rests_until_s)

    def _save_due(self, save: SaveTimes) -> float:
        settled_s = self._settled(save.times, self._settle_s(save))
        if save.told_s is None:
            return settled_s
        # A training that calls again and again, with nothing new, is not read each time.
        return min(settled_s, max(save.told_s + self._timing.told_s, self._told_in_vain_s + _TOLD_AGAIN_AFTER_S))

    def _settled(self, times: ChangeTimes, settle_s: float) -> float:
        return min(times.last_s + settle_s, times.first_s + self._timing.settle_max_s)

    def _settle_s(self, save: SaveTimes) -> float:
        timing = self._timing
        if save.has_ended:
            return min(timing.settle_s, timing.ended_s)
        return min(timing.settle_s, timing.alone_s) if save.is_alone else timing.settle_s

    def _live(self) -> None:
        while self.trigger.wait(self._plan, self._asks_again_s):
            may_join = not self.trigger.is_requested and self._joins_logs(self.trigger.changes)
            self._note_behind(self.trigger.changes.first_s)
            asked = self.trigger.clear()
            hurry_s = self._begin()
            self._look_at_place()
            self._enter("running")
            self.job.heartbeat.beat()
            _LOG.debug("%s: pass begins", self.job.name)
            self._pass(hurry_s, asked, may_join=may_join)
            self._is_hurried = False
            _LOG.debug("%s: pass ended", self.job.name)
            self._enter(self._idle_phase())
        while (interruption := self._begin_last()) is not None:
            self._make_last_pass(interruption, self._deadline_s)
        self.trigger.end_asked()
        self._enter("stopped")

    def _note_behind(self, changed_s: float | None) -> None:
        """Note that a pass begins for what changed first at *changed_s*, or for what a rescan may find."""
        if self._behind_since_s is None:
            self._behind_since_s = self._clock() if changed_s is None else changed_s

    def _begin(self) -> float | None:
        """Return the deadline of the pass that begins, which no earlier interruption concerns."""
        with self._interrupting:
            if not self.trigger.closed:
                since_s = self._behind_since_s
                self._interruption = Interruption(behind_since_s=math.inf if since_s is None else since_s)
            hurry_s = self._hurry_s()
            self._is_hurried = hurry_s is not None
            return hurry_s

    def _begin_last(self) -> Interruption | None:
        """Return what may interrupt the last pass that begins, if one was asked for."""
        with self._interrupting:
            if not self._is_last_asked:
                return None
            self._is_last_asked = False
            by_s = math.inf if self._deadline_s is None else self._deadline_s
            self._interruption = Interruption(by_s, is_last=True)
            return self._interruption

    def _make_last_pass(self, interruption: Interruption, deadline_s: float | None) -> None:
        if self.state.locked is not None or self.state.is_refused:
            self.last = LastPass(self.state.last_error)
            return
        self._enter("running")
        self.job.heartbeat.beat()
        name, state, seen_s = self.job.name, self.state, self.trigger.saved_s
        try:
            outcome = self.job.run(interruption, deadline_s=deadline_s)
        except SourceMissing as error:
            # A trainer that never made its directory has nothing to lose.
            self.last = LastPass(None if state.last_version is None else str(error))
        except Exception as error:  # noqa: BLE001 - a bug must not end the last passes of other runs
            if not isinstance(error, Error):
                _LOG.exception("%s: unexpected error", name)
            self.last = LastPass(str(error) or type(error).__name__)
        else:
            self.last = LastPass(None, outcome.version)
            self._note(outcome, self._wall(), seen_s)
        if self.last.error is not None and not interruption.is_set():
            state.last_error = self.last.error
            self._monitor.notice("error", f"{name}: the last pass failed: {self.last.error}")

    def _joins_logs(self, changes: Changes) -> bool:
        """Return whether a pass that finds nothing but logs changed leaves them to the next version."""
        is_early = self._clock() < self._version_at_s + self._timing.join_logs_s
        return is_early and not changes.saves and changes.files is None

    def _plan(self, changes: Changes, is_requested: bool) -> float:
        self.state.rests = False
        due_s = self.due(changes, is_requested)
        self.state.next_try_s = max(due_s, self._clock())
        return due_s

    def _asks_again_s(self) -> float:
        """Return how long a pass that is planned may sleep until its time is asked for again."""
        return LOOK_S if self.state.rests else math.inf

    def _enter(self, phase: str) -> None:
        self.state.phase = phase
        self._plan(self.trigger.changes, is_requested=False)
        if phase != "running":
            _LOG.debug("%s: %s, next pass in %.0f s", self.job.name, phase, self.state.next_try_s - self._clock())
        self._on_change()

    def _idle_phase(self) -> str:
        if self.state.locked is not None:
            return "locked"
        if self.state.is_refused:
            return "refused"
        return "retrying" if self.state.failures else "waiting"

    def _pass(self, hurry_s: float | None = None, asked: Sequence[Asked] = (), *, may_join: bool = False) -> None:
        """Make one pass and plan the next one, whatever the outcome: only here does the service survive a failure.

        Those who *asked* for it learn the outcome, or that of the next one if this is interrupted.
        """
        began_s, seen_s = self._wall(), self.trigger.saved_s
        outcome: PassResult | None = None
        failed: Exception | None = None
        try:
            if hurry_s is not None:
                outcome = self.job.run(self._interruption, deadline_s=hurry_s, goes_on=True)
            elif may_join:
                outcome = self.job.run(self._interruption, may_join=True)
            else:
                outcome = self.job.run(self._interruption)
        except Exception as error:  # noqa: BLE001 - a bug must not end the backups of this run or any other one
            failed = error
            self._survive(error)
        else:
            self._succeeded(outcome, began_s, seen_s)
        if self._interruption.is_set() and not self.trigger.closed:
            self.trigger.ask_again(asked)
            if self._interruption.is_late:
                self.trigger.request()
            return
        if asked:
            found_nothing = outcome is not None and outcome.version is None
            self._told_in_vain_s = self._clock() if found_nothing else -math.inf
        stored = None if outcome is None or outcome.waits else outcome.version or self.state.last_version
        for one in asked:
            one.end(outcome, failed, stored)

    def _look_at_place(self) -> None:
        """Note where the directory is and whose: here, since a file system that is away blocks whoever asks."""
        try:
            path = os.path.realpath(bytes(self.job.directory))
            self.trigger.place = RunPlace(path, os.stat(path).st_uid)
        except OSError:
            self.trigger.place = None

    def _survive(self, error: Exception) -> None:
        """Plan the next try after a pass that failed."""
        if isinstance(error, (StoreError, SourceError, RepositoryError)):
            # Giving way to others is not what made the run late.
            self._behind_since_s = None
        if isinstance(error, RunOfAnother):
            # Tried seldom: only a person, a restore here, or the end of the other writer changes this.
            self._failed(error, self._timing.retry_max_s)
            self.state.is_refused = True
        elif isinstance(error, SourceMissing) and self.state.last_version is None:
            self._not_there_yet()
        elif isinstance(error, RunLocked):
            self._failed(error, self._timing.retry_max_s if not self._had_lock else None)
            if not self._had_lock:
                self.state.locked = error
        else:
            if not isinstance(error, Error):
                _LOG.error("%s: unexpected error", self.job.name, exc_info=error)
            self._failed(error, None)

    def _succeeded(self, outcome: PassResult, began_s: float, seen_s: float) -> None:
        state = self.state
        if self._interruption.is_set() and outcome.version is None:
            # Cut short: without a version, files may have changed all the same.
            return
        if self._failure.all_tries:
            tries = count(self._failure.all_tries, "failed attempt")
            self._monitor.notice("info", f"{self.job.name}: works again after {tries}")
        if not self._interruption.is_set():
            self._behind_since_s = None
        self._failure = _NONE
        self._had_lock = True
        state.locked, state.is_refused, state.last_error, state.failures = None, False, None, 0
        self._retry_at_s = None
        self._rescan_at_s = self._clock() + min(self._timing.rescan_s, self.trigger.rescan_within_s)
        self._note(outcome, began_s, seen_s)

    def _note(self, outcome: PassResult, began_s: float, seen_s: float) -> None:
        """Note what a pass came to that began then, when the newest save had been seen at *seen_s*."""
        state = self.state
        self._lag.passed(seen_s, outcome)
        if not outcome.waits:
            # What the directory held when the pass began is in a version now; later changes may not be.
            state.last_pass_s = began_s
        if outcome.version is not None:
            state.last_version, state.last_version_s = outcome.version, self._wall()
            self._version_at_s = self._clock()
            self._monitor.notice("info", f"{self.job.name}: {outcome.summary}")
        if outcome.proved_version is not None and outcome.proved_version >= (state.last_proved_version or 0):
            state.last_proved_version, state.last_proved_s = outcome.proved_version, self._wall()
        self._report_troubles(outcome.troubles)
        self._report_missed()

    def _not_there_yet(self) -> None:
        """Wait for a directory of which nothing was ever saved: the trainer makes it when it starts."""
        text = f"{display(bytes(self.job.directory))} is not there yet"
        if self.state.last_error != text:
            self._monitor.notice("info", f"{self.job.name}: {text}; waiting for it")
        self.state.last_error, self.state.failures = text, 0
        self._failure = _NONE
        # No retry, which would keep the watcher's news from a trainer that starts an hour later.
        self._retry_at_s = None
        self._rescan_at_s = self._clock() + min(self._timing.rescan_s, self.trigger.rescan_within_s)

    def _report_missed(self) -> None:
        """Say that checkpoints were deleted before a pass could read them, and before they were held or afterwards."""
        holds = self.trigger.holds
        if holds is None or holds.missed_count == self.state.missed_saves:
            return
        before, self.state.missed_saves = self.state.missed_saves, holds.missed_count
        if holds.missed_count.bit_length() == before.bit_length():
            # Told each time that they are twice as many.
            return
        saves = count(holds.missed_count, "finished checkpoint")
        what = f"{saves} deleted since the start before a backup could read them, and in no version"
        self._monitor.notice("warning", f"{self.job.name}: {what}: the trainer saves faster than the store takes")

    def _report_troubles(self, troubles: tuple[str, ...]) -> None:
        """Report each trouble when it begins, not with every pass that still finds it."""
        for trouble in troubles:
            if trouble not in self.state.troubles:
                self._monitor.notice("warning", f"{self.job.name}: {trouble}")
        self.state.troubles = troubles

    def _failed(self, error: Exception, delay_s: float | None) -> None:
        if self._interruption.is_set():
            # Cut short by the end of the service: there is no next try to report.
            return
        state, before = self.state, self._failure
        state.is_refused = False
        text = str(error) or type(error).__name__
        # Failures of different kinds do not add up: a disk that was away says nothing about the store.
        row = before.row + 1 if type(error) is before.kind else 1
        # Not where: a store that is full names the object that it could not take, another one each time.
        what = error.what if isinstance(error, Error) else text
        tries = before.tries + 1 if what == before.what else 1
        if self._hurry_s() is not None:
            delay_s = _HURRIED_RETRY_S
        if delay_s is None:
            delay_s = self._delay_s(row - 1, error)
        state.failures, state.last_error = row, text
        now_s = self._clock()
        self._retry_at_s = now_s + delay_s
        is_told = tries.bit_count() == 1 or now_s >= before.told_s + _TOLD_AGAIN_S
        if is_told:
            so_far = f" ({tries} times now)" if tries > 1 else ""
            self._monitor.notice("error", f"{self.job.name}: {text}{so_far}; next try in {delay_s:.0f} s")
        told_s = now_s if is_told else before.told_s
        self._failure = _Failure(type(error), what, row, tries, told_s, before.all_tries + 1)

    def _delay_s(self, failures: int, error: Exception) -> float:
        """Return a wait that grows with each failure in a row, by chance so that many machines do not retry at once."""
        timing = self._timing
        most_s = timing.retry_max_s
        if isinstance(error, (SourceError, RepositoryMissing)):
            # To look costs next to nothing, and a disk that is mounted again is there at once.
            most_s = min(most_s, max(timing.retry_first_s, timing.rescan_s))
        delay_s = min(most_s, timing.retry_first_s * 2.0 ** min(failures, 32))
        return max(timing.retry_first_s, self._uniform(delay_s / 2, delay_s))
