"""The schedule, and clocks that jump."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from mlsync.config.every import Cron, Interval, Never, parse_every
from mlsync.service.watching.schedule import JITTER_S, Schedule


class Clocks:
    """A wall clock that a test can set, beside a monotonic one that it cannot."""

    def __init__(self):
        self.set_by_s = 0.0

    def wall(self):
        """The wall clock's time."""
        return time.monotonic() + 1_700_000_000 + self.set_by_s


@pytest.fixture
def scheduled():
    schedules = []

    def start(every, action=lambda: None):
        clocks = Clocks()
        schedule = Schedule(every, action, wall=clocks.wall)
        schedule.start()
        schedules.append(schedule)
        return schedule, clocks

    yield start
    for schedule in schedules:
        schedule.stop()


def next_call(schedule):
    """When the next call is due on the wall clock; ``None`` if never."""
    job = schedule._scheduler.get_job("every")
    return job.next_run_time if job is not None else None


def left_s(schedule):
    return (next_call(schedule) - datetime.now(UTC)).total_seconds()


def test_calls_come_again_and_again(scheduled):
    """An interval calls more than once."""
    calls = threading.Semaphore(0)
    scheduled(Interval(1.0), calls.release)
    assert calls.acquire(timeout=20)
    assert calls.acquire(timeout=20)


def test_never_calls_never(scheduled):
    """Without a schedule there is no next call, whatever the clock does."""
    schedule, clocks = scheduled(Never())
    clocks.set_by_s = -9999
    schedule.check_clock()
    assert next_call(schedule) is None


def test_a_cron_line_is_local_time(scheduled):
    """A cron line names the next full hour."""
    schedule, _ = scheduled(Cron("0", "*", "*", "*", "*"))
    assert next_call(schedule).minute == 0
    assert 0 <= left_s(schedule) <= 3600


def test_sunday_is_sunday(scheduled):
    """The weekday that cron calls 0 is a Sunday here too."""
    schedule, _ = scheduled(parse_every("0 3 * * 0"))
    assert next_call(schedule).strftime("%A %H:%M") == "Sunday 03:00"


def test_a_clock_set_back_does_not_put_the_next_call_off(scheduled):
    """After the clock was set back by a day the next hourly call is an hour away, not twenty-five."""
    schedule, clocks = scheduled(Interval(3600.0))
    # As the library sees it: its next call lies where the clock was, a day and an hour ahead.
    schedule._scheduler.modify_job("every", next_run_time=datetime.now(UTC) + timedelta(days=1, hours=1))
    schedule.check_clock()
    assert left_s(schedule) > 80_000
    clocks.set_by_s = -86_400.0
    schedule.check_clock()
    assert 0 < left_s(schedule) <= 3600


def test_a_clock_set_forward_calls_once(scheduled):
    """A day that was skipped makes one call, not twenty-four."""
    calls = []
    called = threading.Event()

    def action():
        calls.append(1)
        called.set()

    schedule, clocks = scheduled(Interval(3600.0), action)
    # As the library sees it: its next call, and each after it, lies a day back.
    schedule._scheduler.modify_job("every", next_run_time=datetime.now(UTC) - timedelta(days=1, minutes=30))
    clocks.set_by_s = 86_400.0
    schedule.check_clock()
    assert called.wait(20)
    assert 0 < left_s(schedule) <= 3600
    schedule.stop()
    assert calls == [1]
    schedule._scheduler.start()


def test_small_corrections_change_nothing(scheduled):
    """A clock that is nudged, as NTP does, leaves the plan alone."""
    schedule, clocks = scheduled(Interval(3600.0))
    before = next_call(schedule)
    clocks.set_by_s = -1.0
    schedule.check_clock()
    assert next_call(schedule) == before


def test_a_machine_that_contradicts_itself_has_a_time_zone(monkeypatch):
    """Where the time zone's name cannot be had its offset is used."""
    import tzlocal

    from mlsync.service.watching.schedule import local_timezone

    def contradict():
        raise LookupError("Multiple conflicting time zone configurations found")

    monkeypatch.setattr(tzlocal, "get_localzone", contradict)
    assert datetime.now(local_timezone()).utcoffset() == datetime.now().astimezone().utcoffset()


def test_the_agents_of_a_fleet_do_not_begin_together():
    """By a cron line each begins a little later, by chance, and none before its time."""
    calls = []
    for _ in range(8):
        schedule = Schedule(parse_every("0 3 * * *"), lambda: None, jitter_s=JITTER_S)
        calls.append(schedule._trigger().get_next_fire_time(None, datetime(2026, 11, 29, tzinfo=UTC)))
    assert len(set(calls)) > 1
    assert all((one.minute, one.second) >= (0, 0) and one.minute == 0 and one.second <= JITTER_S for one in calls)
