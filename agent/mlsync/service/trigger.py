"""What starts the next pass over a run: the watcher and the schedule pull it, the worker waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChangeTimes:
    """When the first and the last change came since the last pass began, on the monotonic clock."""

    first_s: float
    last_s: float


class Trigger:
    """Wakes the worker of one run: for changes of its files, for requests, and to end it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wakeup = threading.Condition()
        self._changes: ChangeTimes | None = None
        self._is_requested = False
        self._is_closed = False

    def note_change(self) -> None:
        """Record that a file changed just now."""
        now_s = self._clock()
        with self._wakeup:
            first_s = now_s if self._changes is None else self._changes.first_s
            # Only the first change wakes the worker: while files keep changing it looks again by itself.
            is_first = self._changes is None
            self._changes = ChangeTimes(first_s, now_s)
            if is_first:
                self._wakeup.notify_all()

    def request(self) -> None:
        """Request a pass now, whether files changed or not."""
        with self._wakeup:
            self._is_requested = True
            self._wakeup.notify_all()

    def close(self) -> None:
        """End each ``wait``, now and later."""
        with self._wakeup:
            self._is_closed = True
            self._wakeup.notify_all()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._is_closed

    @property
    def changes(self) -> ChangeTimes | None:
        """The changes since the last ``clear``."""
        return self._changes

    def clear(self) -> None:
        """Forget changes and requests, since a pass begins: what comes from now on is for the next one."""
        with self._wakeup:
            self._changes = None
            self._is_requested = False

    def wait(self, due: Callable[[ChangeTimes | None, bool], float]) -> bool:
        """Sleep until the time that *due* gives, which each wakeup asks again; return ``False`` if closed."""
        with self._wakeup:
            while not self._is_closed:
                left_s = due(self._changes, self._is_requested) - self._clock()
                if left_s <= 0:
                    return True
                self._wakeup.wait(min(left_s, threading.TIMEOUT_MAX))
            return False
