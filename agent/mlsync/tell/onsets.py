"""What goes on: each trouble is told when it begins and when it ends, also across restarts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from mlsync.tell.event import NoticeEvent

_KEPT_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that holds now: *key* is its identity, and *event* what to tell of it when it began."""

    key: str
    event: NoticeEvent


class Onsets:
    """The conditions that were told and have not ended; its caller locks."""

    def __init__(self, told: Mapping[str, NoticeEvent] | None = None) -> None:
        self._told: dict[str, NoticeEvent] = dict(told or {})

    @property
    def told(self) -> Mapping[str, NoticeEvent]:
        """What goes on, by its key."""
        return dict(self._told)

    def update(
        self, now: Iterable[Condition], at_s: float, *, covers: Callable[[str], bool] = lambda _key: True
    ) -> list[NoticeEvent]:
        """Return what began and what ended, given all that holds *now* of those keys that this look *covers*."""
        holding = {one.key: one.event for one in now}
        ended = [key for key in self._told if key not in holding and covers(key)]
        events = [
            replace(self._told.pop(key), facts={}, at_s=at_s, is_over=True, id=NoticeEvent("test").id) for key in ended
        ]
        for key, event in holding.items():
            if key not in self._told and len(self._told) < _KEPT_MAX:
                self._told[key] = event
                events.append(event)
        return events

    def once(self, key: str, event: NoticeEvent) -> bool:
        """Return whether this was never told under that key; it is told for good from now on."""
        if key in self._told or len(self._told) >= _KEPT_MAX:
            return False
        self._told[key] = event
        return True

    def is_due(self, key: str, event: NoticeEvent, period_s: float) -> bool:
        """Return whether the last event under that key is *period_s* ago, or in the future; the first is not due."""
        last = self._told.get(key)
        if last is not None and 0 <= event.at_s - last.at_s < period_s:
            return False
        if last is not None or len(self._told) < _KEPT_MAX:
            self._told[key] = event
        return last is not None

    def as_json(self) -> dict[str, Any]:
        """Return it for a file."""
        return {key: event.as_json() for key, event in self._told.items()}
