"""How fast mlsync may send or fetch, by the hours of the week.

A line is a rate, and if it is not for always, hours and days: ``20 MiB/s 08:00-20:00 Mon-Fri``. Of several lines the
first whose hours it is counts; where none does, there is no limit. Hours are those of a clock on the wall: when clocks
go back, an hour comes twice, and its line holds twice. Hours past midnight belong to the day on which they begin.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

import msgspec

ALLOWED: Final = (
    'a rate like "20 MiB/s" or "100 Mbit/s", "unlimited", or a list of lines like '
    '["20 MiB/s 08:00-20:00 Mon-Fri", "unlimited"]'
)
#: Below this a part of 8 MiB would take minutes, and servers give up connections that hardly move.
RATE_MIN_BYTES: Final = 64 << 10
UNLIMITED: Final = "unlimited"
_UNITS: Final = {
    "KiB/s": 1 << 10,
    "MiB/s": 1 << 20,
    "GiB/s": 1 << 30,
    "kB/s": 10**3,
    "MB/s": 10**6,
    "GB/s": 10**9,
    "kbit/s": 125,
    "Mbit/s": 125_000,
    "Gbit/s": 125_000_000,
}
_RATE: Final = re.compile(r"(?P<number>\d{1,9}(?:\.\d{1,6})?)\s*(?P<unit>[A-Za-z]+/s)(?!\S)")
_HOURS: Final = re.compile(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)")
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY_MINUTES: Final = 24 * 60
_LINES_MAX: Final = 100


class Line(msgspec.Struct, frozen=True):
    """A rate in bytes a second, ``None`` for no limit, from minute *first* to before *last* of a day, on *days*.

    Days count from Monday, 0. If *last* is not after *first*, it is a minute of the next day.
    """

    rate: int | None
    first: int = 0
    last: int = _DAY_MINUTES
    days: frozenset[int] = frozenset(range(7))

    @property
    def is_always(self) -> bool:
        """Whether it holds at every hour of every day."""
        return (self.first, self.last, len(self.days)) == (0, _DAY_MINUTES, len(_DAYS))

    def holds(self, day: int, minute: int) -> bool:
        """Return whether it holds in that minute of that day of the week."""
        if self.first < self.last:
            return day in self.days and self.first <= minute < self.last
        yesterday = (day - 1) % len(_DAYS)
        return (day in self.days and minute >= self.first) or (yesterday in self.days and minute < self.last)


class Timetable(msgspec.Struct, frozen=True):
    """Lines, of which the first that holds counts; none of them is no limit."""

    lines: tuple[Line, ...] = ()

    @property
    def limits(self) -> bool:
        """Whether there is a limit at any hour."""
        return any(line.rate is not None for line in self.lines)

    def rate(self, now_s: float, local: Callable[[float], time.struct_time] = time.localtime) -> int | None:
        """Return the bytes a second at a moment in seconds since 1970, by the *local* clock; ``None`` for no limit."""
        at = local(now_s)
        minute = at.tm_hour * 60 + at.tm_min
        return next((line.rate for line in self.lines if line.holds(at.tm_wday, minute)), None)


NO_LIMIT: Final = Timetable()


def parse_timetable(value: object) -> Timetable:
    """Return what a text or a list of texts says; raise ``ValueError`` with what is allowed, or what is wrong."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(ALLOWED)
    if len(texts) > _LINES_MAX:
        raise ValueError(f"at most {_LINES_MAX} lines")
    lines = [_parsed(text) for text in texts]
    for text, line in zip(texts[:-1], lines[:-1], strict=True):
        if line.is_always:
            raise ValueError(f"lines that can be reached: {text!r} holds always, and must be the last one")
    timetable = Timetable(tuple(lines))
    return timetable if timetable.limits else NO_LIMIT


def shown_rate(rate: int) -> str:
    """Return a rate as a person writes it."""
    for unit in ("GiB/s", "MiB/s", "KiB/s"):
        if rate >= _UNITS[unit]:
            return f"{rate / _UNITS[unit]:.3g} {unit}"
    return f"{rate} B/s"


def _parsed(text: str) -> Line:
    rate, rest = _rate(text.strip())
    hours: tuple[int, int] | None = None
    days: frozenset[int] | None = None
    for word in rest.split():
        if ":" in word and hours is None:
            hours = _hours(word, text)
        elif ":" not in word and days is None:
            days = _days(word, text)
        else:
            raise ValueError(f"a line with one rate, one pair of hours and one list of days; {text!r} has {word!r} too")
    first, last = hours or (0, _DAY_MINUTES)
    return Line(rate, first, last, days or frozenset(range(len(_DAYS))))


def _rate(text: str) -> tuple[int | None, str]:
    """Return the rate at the beginning of a line, and the rest."""
    word, _, rest = text.partition(" ")
    if word == UNLIMITED:
        return None, rest
    found = _RATE.match(text)
    if found is None:
        raise ValueError(ALLOWED)
    if found["unit"] not in _UNITS:
        raise ValueError(f"a rate in one of {', '.join(_UNITS)}; {found['unit']} is none of them")
    rate = int(float(found["number"]) * _UNITS[found["unit"]])
    if rate < RATE_MIN_BYTES:
        raise ValueError(f'at least {RATE_MIN_BYTES >> 10} KiB/s, or "unlimited"')
    return rate, text[found.end() :]


def _hours(word: str, text: str) -> tuple[int, int]:
    found = _HOURS.fullmatch(word)
    if found is None:
        raise ValueError(f"hours like 08:00-20:00; {text!r} has {word!r}")
    from_hour, from_minute, to_hour, to_minute = map(int, found.groups())
    first, last = from_hour * 60 + from_minute, to_hour * 60 + to_minute
    if max(from_minute, to_minute) > 59 or first >= _DAY_MINUTES or last > _DAY_MINUTES:  # noqa: PLR2004 - a clock
        raise ValueError(f"hours from 00:00 to 24:00; {text!r} has {word!r}")
    if first == last:
        raise ValueError(f"hours that end at another time than they begin; {text!r} has {word!r}")
    return first, last


def _days(word: str, text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in word.split(","):
        ends = part.split("-")
        if len(ends) > 2 or any(end not in _DAYS for end in ends):  # noqa: PLR2004 - a first and a last day
            raise ValueError(f"days like Mon-Fri or Sat,Sun; {text!r} has {word!r}")
        first, last = _DAYS.index(ends[0]), _DAYS.index(ends[-1])
        days |= {(first + more) % len(_DAYS) for more in range((last - first) % len(_DAYS) + 1)}
    return frozenset(days)
