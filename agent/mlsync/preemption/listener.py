"""Asks the platforms, each as often as it wants to be asked, and hands on what is news."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from mlsync.monitor import Monitor
from mlsync.preemption.find import FoundPlatform
from mlsync.preemption.metadata import MetadataFault
from mlsync.preemption.platform import Platform
from mlsync.preemption.tracker import Event, Tracker

_LOG: Final = logging.getLogger(__name__)
# One lost answer is nothing to tell anybody.
_FAULTS_MIN: Final = 3
# A service that stays away is asked less often.
_FAULTS_MANY: Final = 12
_SELDOM_S: Final = 60.0
_ADVICE: Final = "docs/preemption.md says what each platform needs"


@dataclass(slots=True)
class _Asked:
    platform: Platform
    poll_s: float
    due_s: float
    first_s: float | None = None
    faults: int = 0
    is_told: bool = False


class Listener:
    """Listens in a thread of its own; calls *on_events*, from that thread, with what is news, in order."""

    def __init__(
        self,
        found: Sequence[FoundPlatform],
        on_events: Callable[[list[Event]], None],
        monitor: Monitor,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._asked = [
            _Asked(one.platform, one.platform.poll_s, clock()) for one in found if one.platform.poll_s is not None
        ]
        self._on_events = on_events
        self._monitor = monitor
        self._clock = clock
        self._wall = wall
        self._tracker = Tracker()
        # Held for moments only: the agent's main thread waits for it.
        self._tracking = threading.Lock()
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin to listen, if there is anything to ask; the thread never keeps the process from ending."""
        if self._asked:
            threading.Thread(target=self._live, name="notices", daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()

    @property
    def current(self) -> list[Event]:
        """The events that are still to come."""
        with self._tracking:
            return self._tracker.current

    def step(self) -> float:
        """Ask every platform whose time has come; return how many seconds there are until the next one's."""
        for one in self._asked:
            if self._clock() >= one.due_s:
                self._ask(one)
        return max(0.0, min(one.due_s for one in self._asked) - self._clock())

    def _live(self) -> None:
        while not self._stop.wait(self.step()):
            pass

    def _ask(self, one: _Asked) -> None:
        first_s = one.first_s = self._clock() if one.first_s is None else one.first_s
        try:
            notices = one.platform.notices(self._wall())
        except MetadataFault as fault:
            self._note_fault(one, str(fault), self._clock() - first_s)
        except Exception as bug:  # noqa: BLE001 - a bug here must not cost the next notice
            _LOG.debug("unexpected error", exc_info=True)
            self._note_fault(one, f"unexpected error: {type(bug).__name__}", self._clock() - first_s)
        else:
            self._note_answer(one)
            name, lead_s = one.platform.name, one.platform.lead_s
            with self._tracking:
                events = self._tracker.update(notices, self._wall(), platform=name, lead_s=lead_s)
            if events:
                self._on_events(events)
        one.due_s = self._clock() + (one.poll_s if one.faults < _FAULTS_MANY else max(one.poll_s, _SELDOM_S))

    def _note_fault(self, one: _Asked, what: str, after_s: float) -> None:
        one.faults += 1
        _LOG.debug("%s: %s", one.platform.name, what)
        if one.faults >= _FAULTS_MIN and after_s >= one.platform.patience_s and not one.is_told:
            one.is_told = True
            text = f"{one.platform.name}: no notice could be had of a preemption: {what}; {_ADVICE}"
            self._monitor.notice("warning", text)

    def _note_answer(self, one: _Asked) -> None:
        if one.is_told:
            self._monitor.notice("info", f"{one.platform.name}: the metadata service answers again")
        one.faults, one.is_told = 0, False
