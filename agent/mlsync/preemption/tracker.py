"""What of the notices is news, and when it is time to act on them: without clock, thread or network."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from mlsync.preemption.notice import Effect, PlatformNotice
from mlsync.preemption.platform import LEAD_S_MIN

#: This long before the end everything else stands back for the last backups; what is announced earlier is told.
HURRY_S: Final = 300.0
#: A machine that outlives its end by this goes on as before.
OVERDUE_S: Final = 60.0
# A date that moves by less is the same one.
_MOVED_S: Final = 1.0
_COUNT_MAX: Final = 64
# No machine ends so often: who forges one event after the other is not heeded for the rest of the hour.
_HURRIES_MAX: Final = 12
_HURRIES_WITHIN_S: Final = 3600.0


class Act(Enum):
    """What is to be done about an event."""

    TELL = auto()  # nothing is lost: say it
    FLUSH = auto()  # back up now, as ever
    HURRY = auto()  # back up by the deadline, and prove later
    RELAX = auto()  # it was withdrawn, or nothing came of it: go on as before


@dataclass(frozen=True, slots=True)
class Event:
    """News of a *notice*; *deadline_s* is when the machine ends, in seconds since 1970, as far as anybody can tell."""

    act: Act
    notice: PlatformNotice
    deadline_s: float | None = None


@dataclass(slots=True)
class _Known:
    notice: PlatformNotice
    deadline_s: float | None
    is_hurried: bool = False
    is_over: bool = False


class Tracker:
    """Remembers the notices of all platforms."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._hurried_s: deque[float] = deque(maxlen=_HURRIES_MAX)

    def update(self, notices: Sequence[PlatformNotice], now_s: float, *, platform: str, lead_s: float) -> list[Event]:
        """Return what is new, now that a *platform* tells of *notices* and of no others.

        *lead_s* is how far ahead it mostly tells: the end of what has no date.
        """
        present = {notice.ident: notice for notice in notices[:_COUNT_MAX]}
        events = list(self._withdrawn(platform, present))
        for ident, notice in present.items():
            known = self._known.get(ident)
            if known is None:
                known = self._known[ident] = _Known(notice, _deadline_of(notice, now_s, lead_s))
                events += self._first(known, now_s)
            elif notice.deadline_s is not None and notice.deadline_s != known.notice.deadline_s:
                _move(known, notice, now_s)
            events += self._due(known, now_s)
        return events

    @property
    def current(self) -> list[Event]:
        """The events that are still to come."""
        return [
            Event(Act.HURRY if one.is_hurried else Act.TELL, one.notice, one.deadline_s)
            for one in self._known.values()
            if not one.is_over
        ]

    def _withdrawn(self, platform: str, present: dict[str, PlatformNotice]) -> Iterator[Event]:
        gone = [one for ident, one in self._known.items() if one.notice.platform == platform and ident not in present]
        for one in gone:
            del self._known[one.notice.ident]
            if not one.is_over:
                yield Event(Act.RELAX, one.notice, one.deadline_s)

    def _first(self, known: _Known, now_s: float) -> Iterator[Event]:
        if known.deadline_s is not None and known.deadline_s - now_s <= HURRY_S:
            yield from self._hurried(known, now_s)
            return
        act = Act.TELL if known.notice.effect is Effect.PAUSE else Act.FLUSH
        yield Event(act, known.notice, known.deadline_s)

    def _hurried(self, known: _Known, now_s: float) -> Iterator[Event]:
        hurried_s = self._hurried_s
        if len(hurried_s) == _HURRIES_MAX and 0 <= now_s - hurried_s[0] < _HURRIES_WITHIN_S:
            known.is_over = True
            return
        hurried_s.append(now_s)
        known.is_hurried = True
        yield Event(Act.HURRY, known.notice, known.deadline_s)

    def _due(self, known: _Known, now_s: float) -> Iterator[Event]:
        if known.deadline_s is None or known.is_over:
            return
        if not known.is_hurried and known.deadline_s - now_s <= HURRY_S:
            yield from self._hurried(known, now_s)
        elif now_s > known.deadline_s + OVERDUE_S:
            known.is_over = True
            yield Event(Act.RELAX, known.notice, known.deadline_s)


def _move(known: _Known, notice: PlatformNotice, now_s: float) -> None:
    """Take over another date; what was hurried is hurried anew then, since another time is left."""
    before_s = known.deadline_s
    known.notice, known.deadline_s = notice, _deadline_of(notice, now_s, 0.0)
    if known.deadline_s is not None and before_s is not None and notice.deadline_s is not None:
        # What is due, and says so each time, is due since the first time.
        known.deadline_s = min(before_s, known.deadline_s) if notice.deadline_s <= now_s else known.deadline_s
    if known.deadline_s is not None and before_s is not None and abs(known.deadline_s - before_s) >= _MOVED_S:
        known.is_over = known.is_hurried = False


def _deadline_of(notice: PlatformNotice, now_s: float, lead_s: float) -> float | None:
    """Return when the machine ends by a notice that comes now; ``None`` if it does not end."""
    if notice.effect is not Effect.ENDS:
        return None
    said_s = now_s + lead_s if notice.deadline_s is None else notice.deadline_s
    return max(said_s, now_s + LEAD_S_MIN)
