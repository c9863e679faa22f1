"""How many requests at a time keep a store busy: found by trying, as TCP finds a window.

More at a time, while more bytes come through for it; half as many when the store asks for less or does not answer in
time. What comes through is what each request brings in its time, by how many there are at once: requests end in bursts,
so that to count bytes from one moment to another would be all noise. Nothing is learned while fewer are under way than
there may be: it is not the store then that is waited for, and no more memory is taken for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from mlsync import errors
from mlsync.store.s3.errors import asks_for_less

# Of what so many more connections would bring if each brought as much as those before: less is noise, or a full line.
PAYS_SHARE: Final = 0.5
# A round is one request for each that may be under way, begun and ended in it, and not shorter than this.
_ROUND_S: Final = 0.5
# With fewer under way, it is not the store that is waited for.
_BUSY_SHARE: Final = 0.7
# Requests that are over so soon are not waited for either: more of them would only be shorter ones, and cost processor.
QUICK_S: Final = 0.05
# After a number that did not pay, the one before is kept for so long.
_HOLD_S: Final = 30.0


class Pace:
    """How many requests of one kind there may be at once: from *first* on, and never more than *most*."""

    def __init__(self, first: int, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._at_once = first
        self._doubles = True
        self._before: tuple[int, float] | None = None
        self._held_until_s = 0.0
        self._halved_s = 0.0
        self._under_way_count = 0
        self._changed_s = clock()
        self._begin_round()

    @property
    def at_once(self) -> int:
        """How many there may be now."""
        return self._at_once

    @contextmanager
    def request(self, size_bytes: int) -> Iterator[None]:
        """Count a request that moves *size_bytes* if it ends well."""
        began_s = self._count_one(+1)
        try:
            yield
        except errors.StoreError as error:
            if asks_for_less(error):
                self._halve(began_s)
            raise
        else:
            self._learn(size_bytes, began_s)
        finally:
            self._count_one(-1)

    def _count_one(self, change: int) -> float:
        with self._lock:
            now_s = self._clock()
            self._busy_s += self._under_way_count * (now_s - self._changed_s)
            self._changed_s = now_s
            self._under_way_count += change
            return now_s

    def _learn(self, size_bytes: int, began_s: float) -> None:
        with self._lock:
            if began_s < self._round_began_s:
                return
            now_s = self._clock()
            self._done_count += 1
            self._done_bytes += size_bytes
            self._done_s += now_s - began_s
            took_s = now_s - self._round_began_s
            if self._done_count < self._at_once or took_s < _ROUND_S:
                return
            busy_s = self._busy_s + self._under_way_count * (now_s - self._changed_s)
            is_quick = self._done_s < QUICK_S * self._done_count
            if not is_quick and busy_s >= _BUSY_SHARE * self._at_once * took_s:
                self._judge(self._at_once * self._done_bytes / self._done_s, now_s)
            self._begin_round()

    def _judge(self, rate: float, now_s: float) -> None:
        """Keep what the last step was for, or go back to before it; then take the next one."""
        if self._before is not None:
            count, rate_before = self._before
            self._before = None
            pays_from = rate_before * (1 + PAYS_SHARE * (self._at_once - count) / count)
            if rate < pays_from:
                self._at_once, self._doubles = count, False
                self._held_until_s = now_s + _HOLD_S
        if now_s >= self._held_until_s and self._at_once < self._most:
            self._before = self._at_once, rate
            # Twice as many at first: a transfer may be over before one more at a time had come far.
            step = self._at_once if self._doubles else 1
            self._at_once = min(self._at_once + step, self._most)

    def _halve(self, began_s: float) -> None:
        """Send half as much, once for all requests that were under way when the store had too many."""
        with self._lock:
            if began_s < self._halved_s:
                return
            self._at_once = max(1, self._at_once // 2)
            self._doubles, self._before = False, None
            self._halved_s = self._clock()
            self._begin_round()

    def _begin_round(self) -> None:
        self._round_began_s = self._clock()
        self._busy_s = -self._under_way_count * (self._round_began_s - self._changed_s)
        self._done_count = 0
        self._done_bytes = 0
        self._done_s = 0.0
