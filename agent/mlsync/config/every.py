"""The ``every`` of a configuration: a length of time, a cron line, or never."""

from __future__ import annotations

import re
from typing import TypeAlias

import msgspec

from mlsync.config.units import parse_duration

ALLOWED = 'a length of time like "30m", "6h" or "1d", a cron line like "0 * * * *", or "never"'
INTERVAL_MIN_S = 1.0
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DAY_RANGE = re.compile(r"(?P<first>[0-7])(?:-(?P<last>[0-7]))?(?:/(?P<step>[1-7]))?")


class Interval(msgspec.Struct, frozen=True):
    """Again after a length of time."""

    seconds: float


class Cron(msgspec.Struct, frozen=True):
    """At the minutes that a cron line names, local time; weekdays by name, since libraries number them differently."""

    minute: str
    hour: str
    day: str
    month: str
    weekdays: str


class Never(msgspec.Struct, frozen=True):
    """Not by the clock."""


Every: TypeAlias = Interval | Cron | Never
HOURLY = Interval(3600.0)


def parse_every(text: str) -> Every:
    """Return what *text* says; raise ``ValueError`` with what is allowed otherwise."""
    words = text.split()
    if words == ["never"]:
        return Never()
    if len(words) == len(("minute", "hour", "day", "month", "weekday")):
        return _checked(Cron(words[0], words[1], words[2], words[3], _weekdays(words[4])))
    try:
        seconds = parse_duration(text)
    except ValueError:
        raise ValueError(ALLOWED) from None
    if seconds < INTERVAL_MIN_S:
        raise ValueError(f"at least {INTERVAL_MIN_S:g} second")
    return Interval(seconds)


def _checked(cron: Cron) -> Cron:
    if cron.day != "*" and cron.weekdays != "*":
        # cron runs on either day, the scheduler only on days that are both: a surprise for the user.
        raise ValueError("a cron line that names days of the month or days of the week, not both")
    from apscheduler.triggers.cron import CronTrigger  # late: only a cron line needs the scheduler to be understood

    try:
        CronTrigger(minute=cron.minute, hour=cron.hour, day=cron.day, month=cron.month, day_of_week=cron.weekdays)
    except (ValueError, TypeError):
        raise ValueError(ALLOWED) from None
    return cron


def _weekdays(field: str) -> str:
    """Return the weekdays by name: in cron 0 and 7 are Sunday, for the scheduler 0 is Monday."""
    return ",".join(_weekday_names(part) for part in field.split(","))


def _weekday_names(part: str) -> str:
    found = _DAY_RANGE.fullmatch(part)
    if found is None:
        return part  # "*", "*/2" or names, which mean the same to both
    first = int(found["first"])
    last = int(found["last"]) if found["last"] else first
    return ",".join(_DAYS[day % 7] for day in range(first, last + 1, int(found["step"] or 1))) or "none"
