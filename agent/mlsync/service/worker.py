"""Decides when the next pass over one run begins, and makes it, in a thread of its own."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mlsync.app.pass_result import PassResult
from mlsync.app.wording import count
from mlsync.errors import Error, RunLocked, RunOfAnother, SourceMissing
from mlsync.monitor import Monitor
from mlsync.service.job import Interruption, RunJob
from mlsync.service.trigger import ChangeTimes, Trigger
from mlsync.source.paths import display

_LOG: Final = logging.getLogger(__name__)
# How much of the time for a last pass the one under way may take to get to a safe point, and at most how long.
_SHARE_TO_INTERRUPT: Final = 0.2
_INTERRUPT_S_MAX: Final = 3.0
# A store that comes back within the last seconds is still worth a try.
_HURRIED_RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Timing:
    """When passes begin: the settings of ``[agent]``, and how long failures wait for the next try."""

    on_change: bool = True
    settle_s: float = 2.0
    settle_max_s: float = 60.0
    rescan_s: float = 60.0
    retry_first_s: float = 5.0
    retry_max_s: float = 600.0


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
        self.trigger = Trigger(clock)
        self.state = RunState()
        self._timing = timing
        self._monitor = monitor
        self._on_change = on_change
        self._clock = clock
        self._wall = wall
        self._uniform = uniform
        self._had_lock = False
        self._interruption = Interruption()
        self._deadline_s: float | None = None
        self._hurry_until_s: float | None = None
        self._is_hurried = False  # the pass that is under way
        # An interruption that is set while another one takes its place would be lost.
        self._interrupting = threading.Lock()
        #: How the last pass ended; ``None`` before it has, and if there was none.
        self.last: LastPass | None = None
        self._rescan_at_s = -math.inf  # the first pass begins at once, for what changed while no agent ran
        self._retry_at_s: float | None = None
        self.thread = threading.Thread(target=self._live, name=f"run-{job.name}", daemon=True)

    def start(self) -> None:
        """Begin the thread."""
        self.state.next_try_s = self._clock()
        self.thread.start()

    def stop(self) -> None:
        """Begin no further pass; one under way ends at its next safe point, the last one too."""
        with self._interrupting:
            self._deadline_s = None
            self._interruption.set()
            self.trigger.close()

    def last_pass(self, deadline_s: float) -> None:
        """Make one more pass, for what the directory holds now, and end; *deadline_s* is on the monotonic clock.

        A pass under way is interrupted, so that the newest checkpoint comes first. ``last`` says what came of it.
        """
        with self._interrupting:
            self._deadline_s = deadline_s
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

    def _interrupt(self, deadline_s: float) -> None:
        now_s = time.monotonic()
        self._interruption.by_s = now_s + min(_INTERRUPT_S_MAX, _SHARE_TO_INTERRUPT * (deadline_s - now_s))
        self._interruption.set()

    def _hurry_s(self) -> float | None:
        """Return the deadline of a pass that begins now, if there is one."""
        until_s = self._hurry_until_s
        return None if until_s is None or self._clock() >= until_s else until_s

    def hung(self, limit_s: float) -> bool:
        """Return whether the worker has made no progress for *limit_s* beyond its plan, or died without ``stop``."""
        if self.trigger.closed:
            return False
        if not self.thread.is_alive():
            return True
        if self.state.phase == "running":
            return self.job.heartbeat.age_s > limit_s
        return self._clock() > self.state.next_try_s + limit_s

    def due(self, changes: ChangeTimes | None, is_requested: bool) -> float:
        """Return when the next pass begins, on the monotonic clock."""
        timing = self._timing
        if is_requested:
            return -math.inf
        if self._retry_at_s is not None:
            # Changes do not bring it forward: each saved file would ask a store that is away.
            return self._retry_at_s
        if not timing.on_change:
            return self._rescan_at_s if self._rescan_at_s == -math.inf else math.inf
        if changes is not None:
            return min(changes.last_s + timing.settle_s, changes.first_s + timing.settle_max_s)
        return self._rescan_at_s

    def _live(self) -> None:
        while self.trigger.wait(self._plan):
            self.trigger.clear()
            hurry_s = self._begin()
            self._enter("running")
            self.job.heartbeat.beat()
            _LOG.debug("%s: pass begins", self.job.name)
            self._pass(hurry_s)
            self._is_hurried = False
            _LOG.debug("%s: pass ended", self.job.name)
            self._enter(self._idle_phase())
        if self._deadline_s is not None:
            self._make_last_pass(self._deadline_s)
        self._enter("stopped")

    def _begin(self) -> float | None:
        """Return the deadline of the pass that begins, which no earlier interruption concerns."""
        with self._interrupting:
            if not self.trigger.closed:
                self._interruption = Interruption()
            hurry_s = self._hurry_s()
            self._is_hurried = hurry_s is not None
            return hurry_s

    def _make_last_pass(self, deadline_s: float) -> None:
        if self.state.locked is not None or self.state.is_refused:
            self.last = LastPass(self.state.last_error)
            return
        self._enter("running")
        self._interruption = interruption = Interruption(deadline_s)
        if self._deadline_s is None:
            return  # ``stop`` came in between, and may have set the one before
        name, state = self.job.name, self.state
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
            self._note(outcome, self._wall())
        if self.last.error is not None:
            state.last_error = self.last.error
            self._monitor.notice("error", f"{name}: the last pass failed: {self.last.error}")

    def _plan(self, changes: ChangeTimes | None, is_requested: bool) -> float:
        due_s = self.due(changes, is_requested)
        self.state.next_try_s = max(due_s, self._clock())
        return due_s

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

    def _pass(self, hurry_s: float | None = None) -> None:
        """Make one pass and plan the next one, whatever the outcome: only here does the service survive a failure."""
        began_s = self._wall()
        try:
            if hurry_s is None:
                outcome = self.job.run(self._interruption)
            else:
                outcome = self.job.run(self._interruption, deadline_s=hurry_s, goes_on=True)
        except RunOfAnother as error:
            # Tried seldom: only a person, a restore here, or the end of the other writer changes this.
            self._failed(error, self._timing.retry_max_s)
            self.state.is_refused = True
        except SourceMissing as error:
            if self.state.last_version is None:
                self._not_there_yet()
            else:
                self._failed(error, None)
        except RunLocked as error:
            self._failed(error, self._timing.retry_max_s if not self._had_lock else None)
            if not self._had_lock:
                self.state.locked = error
        except Error as error:
            self._failed(error, None)
        except Exception as error:  # noqa: BLE001 - a bug must not end the backups of this run or any other one
            _LOG.exception("%s: unexpected error", self.job.name)
            self._failed(error, None)
        else:
            self._succeeded(outcome, began_s)

    def _succeeded(self, outcome: PassResult, began_s: float) -> None:
        state = self.state
        if self._interruption.is_set() and outcome.version is None:
            # Cut short: without a version, files may have changed all the same.
            return
        if state.failures:
            self._monitor.notice(
                "info", f"{self.job.name}: works again after {count(state.failures, 'failed attempt')}"
            )
        self._had_lock = True
        state.locked, state.is_refused, state.last_error, state.failures = None, False, None, 0
        self._retry_at_s = None
        self._rescan_at_s = self._clock() + self._timing.rescan_s
        self._note(outcome, began_s)

    def _note(self, outcome: PassResult, began_s: float) -> None:
        state = self.state
        # What the directory held when the pass began is in a version now; later changes may not be.
        state.last_pass_s = began_s
        if outcome.version is not None:
            state.last_version, state.last_version_s = outcome.version, self._wall()
            self._monitor.notice("info", f"{self.job.name}: {outcome.summary}")
        if outcome.proved_version is not None and outcome.proved_version >= (state.last_proved_version or 0):
            state.last_proved_version, state.last_proved_s = outcome.proved_version, self._wall()
        self._report_troubles(outcome.troubles)

    def _not_there_yet(self) -> None:
        """Wait for a directory of which nothing was ever saved: the trainer makes it when it starts."""
        text = f"{display(bytes(self.job.directory))} is not there yet"
        if self.state.last_error != text:
            self._monitor.notice("info", f"{self.job.name}: {text}; waiting for it")
        self.state.last_error, self.state.failures = text, 0
        # No retry, which would keep the watcher's news from a trainer that starts an hour later.
        self._retry_at_s = None
        self._rescan_at_s = self._clock() + self._timing.rescan_s

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
        state = self.state
        state.is_refused = False
        if self._hurry_s() is not None:
            delay_s = _HURRIED_RETRY_S
        if delay_s is None:
            delay_s = self._delay_s(state.failures)
        state.failures += 1
        state.last_error = str(error) or type(error).__name__
        self._retry_at_s = self._clock() + delay_s
        self._monitor.notice("error", f"{self.job.name}: {state.last_error}; next try in {delay_s:.0f} s")

    def _delay_s(self, failures: int) -> float:
        """Return a wait that grows with each failure in a row, by chance so that many machines do not retry at once."""
        timing = self._timing
        delay_s = min(timing.retry_max_s, timing.retry_first_s * 2.0 ** min(failures, 32))
        return max(timing.retry_first_s, self._uniform(delay_s / 2, delay_s))
