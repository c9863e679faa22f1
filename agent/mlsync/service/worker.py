"""Decides when one run is backed up, and does it, over and over, in a thread of its own."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from mlsync.app.passes import Outcome
from mlsync.errors import Error, RunLocked, RunOfAnother
from mlsync.monitor import Monitor
from mlsync.service.changes import Changes, Pending
from mlsync.service.job import RunJob

_LOG = logging.getLogger("mlsync")


@dataclass(frozen=True, slots=True)
class Timing:
    """The rhythm of every run: what ``[agent]`` says, and how failures are retried."""

    on_change: bool = True
    settle_s: float = 2.0
    settle_max_s: float = 60.0
    rescan_s: float = 60.0
    retry_first_s: float = 5.0
    retry_max_s: float = 600.0


@dataclass(slots=True)
class RunState:
    """What is known of one run at the moment; written by its worker alone, read by everybody."""

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


class Worker:
    """The life of one run's job; *told* is called, from the worker's thread, whenever its state changed."""

    def __init__(
        self,
        job: RunJob,
        timing: Timing,
        monitor: Monitor,
        told: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.job = job
        self.changes = Changes(clock)
        self.state = RunState()
        self._timing = timing
        self._monitor = monitor
        self._told = told
        self._clock = clock
        self._wall = wall
        self._uniform = uniform
        self._had_lock = False
        self._stop = threading.Event()
        self._rescan_at_s = -math.inf  # the first pass comes at once: it catches up with what changed meanwhile
        self._retry_at_s: float | None = None
        self.thread = threading.Thread(target=self._live, name=f"run-{job.name}", daemon=True)

    def start(self) -> None:
        """The run is cared for from now on."""
        self.state.next_try_s = self._clock()
        self.thread.start()

    def stop(self) -> None:
        """No pass begins any longer; one under way ends at its next safe point."""
        self._stop.set()
        self.changes.close()

    def hung(self, limit_s: float) -> bool:
        """Whether the worker neither sleeps as planned nor goes forward, or is no more although nobody stopped it."""
        if self._stop.is_set():
            return False
        if not self.thread.is_alive():
            return True
        if self.state.phase == "running":
            return self.job.pulse.age_s > limit_s
        return self._clock() > self.state.next_try_s + limit_s

    def due(self, pending: Pending | None, asked: bool) -> float:
        """When the next pass is to begin, on the monotonic clock."""
        timing = self._timing
        if asked:
            return -math.inf
        if self._retry_at_s is not None:
            # Changes do not hasten it: a store that is away is not asked again with every file that is saved.
            return self._retry_at_s
        if not timing.on_change:
            return self._rescan_at_s if self._rescan_at_s == -math.inf else math.inf
        if pending is not None:
            return min(pending.last_s + timing.settle_s, pending.first_s + timing.settle_max_s)
        return self._rescan_at_s

    def _live(self) -> None:
        while self.changes.wait(self._plan):
            self.changes.take()
            self._enter("running")
            self.job.pulse.beat()
            self._pass()
            self._enter(self._rest())
        self._enter("stopped")

    def _plan(self, pending: Pending | None, asked: bool) -> float:
        due_s = self.due(pending, asked)
        self.state.next_try_s = max(due_s, self._clock())
        return due_s

    def _enter(self, phase: str) -> None:
        self.state.phase = phase
        self._plan(self.changes.pending, asked=False)
        self._told()

    def _rest(self) -> str:
        if self.state.locked is not None:
            return "locked"
        if self.state.is_refused:
            return "refused"
        return "retrying" if self.state.failures else "waiting"

    def _pass(self) -> None:
        """One pass; whatever comes of it, the next one is planned: only here does the service survive a failure."""
        began_s = self._wall()
        try:
            outcome = self.job.run(self._stop)
        except RunOfAnother as error:
            # Seldom: it takes a person, a restore here, or the other writer's end to change this.
            self._failed(error, self._timing.retry_max_s)
            self.state.is_refused = True
        except RunLocked as error:
            self._failed(error, self._timing.retry_max_s if not self._had_lock else None)
            if not self._had_lock:
                self.state.locked = error
        except Error as error:
            self._failed(error, None)
        except Exception as error:  # noqa: BLE001 - a bug must not end the care for this run or any other one
            _LOG.exception("%s: unexpected error", self.job.name)
            self._failed(error, None)
        else:
            self._succeeded(outcome, began_s)

    def _succeeded(self, outcome: Outcome, began_s: float) -> None:
        state = self.state
        if self._stop.is_set() and outcome.version is None:
            # Cut short: that it made no version does not say that nothing had changed.
            return
        if state.failures:
            self._monitor.notice("info", f"{self.job.name}: works again after {state.failures} failed tries")
        self._had_lock = True
        state.locked, state.is_refused, state.last_error, state.failures = None, False, None, 0
        self._retry_at_s = None
        self._rescan_at_s = self._clock() + self._timing.rescan_s
        # What was there when the pass began is in a version now; what came later may not be.
        state.last_pass_s = began_s
        if outcome.version is not None:
            state.last_version, state.last_version_s = outcome.version, self._wall()
            self._monitor.notice("info", f"{self.job.name}: {outcome.summary}")
        if outcome.proved_version is not None and outcome.proved_version >= (state.last_proved_version or 0):
            state.last_proved_version, state.last_proved_s = outcome.proved_version, self._wall()
        self._tell_troubles(outcome.troubles)

    def _tell_troubles(self, troubles: tuple[str, ...]) -> None:
        """Tell each trouble when it begins, not again with every pass that finds it still there."""
        for trouble in troubles:
            if trouble not in self.state.troubles:
                self._monitor.notice("warning", f"{self.job.name}: {trouble}")
        self.state.troubles = troubles

    def _failed(self, error: Exception, delay_s: float | None) -> None:
        if self._stop.is_set():
            # Cut short by the end of the service: nobody needs to hear of a next try.
            return
        state = self.state
        state.is_refused = False
        if delay_s is None:
            delay_s = self._delay_s(state.failures)
        state.failures += 1
        state.last_error = str(error) or type(error).__name__
        self._retry_at_s = self._clock() + delay_s
        self._monitor.notice("error", f"{self.job.name}: {state.last_error}; next try in {delay_s:.0f} s")

    def _delay_s(self, failures: int) -> float:
        """Longer with each failure in a row, and never the same on many machines whose store went away at once."""
        timing = self._timing
        delay_s = min(timing.retry_max_s, timing.retry_first_s * 2.0 ** min(failures, 32))
        return max(timing.retry_first_s, self._uniform(delay_s / 2, delay_s))
