"""When a run's files last changed, as seen by the watcher: the meeting point of watcher and worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pending:
    """Changes that no backup has begun after: times of the first and the last one, on the monotonic clock."""

    first_s: float
    last_s: float


class Changes:
    """What the worker of one run waits for: changes of its files, requests for a backup, the end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wakeup = threading.Condition()
        self._pending: Pending | None = None
        self._asked = False
        self._closed = False

    def note(self) -> None:
        """A change happened just now."""
        now_s = self._clock()
        with self._wakeup:
            first_s = now_s if self._pending is None else self._pending.first_s
            # The worker is woken by the first change only: while files keep changing it looks again by itself.
            woken_by_this = self._pending is None
            self._pending = Pending(first_s, now_s)
            if woken_by_this:
                self._wakeup.notify_all()

    def ask(self) -> None:
        """A backup is wanted now, whether files changed or not."""
        with self._wakeup:
            self._asked = True
            self._wakeup.notify_all()

    def close(self) -> None:
        """Nobody waits any longer."""
        with self._wakeup:
            self._closed = True
            self._wakeup.notify_all()

    @property
    def closed(self) -> bool:
        """Whether the end was announced."""
        return self._closed

    @property
    def pending(self) -> Pending | None:
        """The changes since the last ``take``."""
        return self._pending

    def take(self) -> None:
        """A backup begins: what changed, and was asked, before now is its business; what comes later is not."""
        with self._wakeup:
            self._pending = None
            self._asked = False

    def wait(self, due: Callable[[Pending | None, bool], float]) -> bool:
        """Sleep until *due*, asked anew at each wakeup, is not later than now; ``False`` if closed instead."""
        with self._wakeup:
            while not self._closed:
                left_s = due(self._pending, self._asked) - self._clock()
                if left_s <= 0:
                    return True
                self._wakeup.wait(min(left_s, threading.TIMEOUT_MAX))
            return False
