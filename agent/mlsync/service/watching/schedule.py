"""Scheduled passes, as ``every`` says, also when somebody sets the clock."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from mlsync.config.every import Cron, Every, Never

CLOCK_STEP_S = 5.0
# The agents of a fleet have the same cron line; at most so much later each of them begins, by chance.
JITTER_S = 30
_JOB = "every"


class Schedule:
    """Calls *action* when *every* says, from a thread of its own; by a cron line up to *jitter_s* later, by chance.

    Missed calls (a suspended machine, a clock set forward) become one call. A clock set back would delay the next call
    by as much, so the agent calls ``check_clock`` now and then, which plans it again.
    """

    def __init__(
        self,
        every: Every,
        action: Callable[[], None],
        *,
        jitter_s: int = 0,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every = every
        self._jitter_s = jitter_s
        self._wall = wall
        self._monotonic = monotonic
        self._offset_s = wall() - monotonic()
        # The library logs each call, and each late one, which is no news to a person.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._scheduler: Any = BackgroundScheduler(
            timezone=UTC,
            daemon=True,
            executors={"default": ThreadPoolExecutor(max_workers=1)},
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
        )
        if not isinstance(every, Never):
            self._scheduler.add_job(action, self._trigger(), id=_JOB)

    def start(self) -> None:
        """Begin to call."""
        self._scheduler.start()

    def stop(self) -> None:
        """End all calls."""
        self._scheduler.shutdown(wait=False)

    def check_clock(self) -> None:
        """Plan the next call again if the wall clock made a step, so that it is at most one period away."""
        offset_s = self._wall() - self._monotonic()
        step_s, self._offset_s = offset_s - self._offset_s, offset_s
        if isinstance(self._every, Never) or abs(step_s) < CLOCK_STEP_S:
            return
        if step_s < 0:
            self._scheduler.reschedule_job(_JOB, trigger=self._trigger())
        else:
            # If a call became due in the skipped time, it comes now, once.
            self._scheduler.wakeup()

    def _trigger(self) -> Any:
        if isinstance(self._every, Cron):
            return CronTrigger(
                minute=self._every.minute,
                hour=self._every.hour,
                day=self._every.day,
                month=self._every.month,
                day_of_week=self._every.weekdays,
                timezone=local_timezone(),
                jitter=self._jitter_s,
            )
        assert not isinstance(self._every, Never)
        return IntervalTrigger(seconds=self._every.seconds, timezone=UTC)


def local_timezone() -> tzinfo:
    """Return the machine's time zone; its present offset if the machine names several zones."""
    from tzlocal import get_localzone  # late: only a cron line needs it

    try:
        return get_localzone()
    except (LookupError, ValueError, OSError):
        zone = datetime.now().astimezone().tzinfo
        return zone or UTC
