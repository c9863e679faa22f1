"""How many concurrent requests keep a store busy: found by trying, as TCP finds its window.

The limit grows while that moves more bytes, and halves when the store asks for fewer requests or does not answer in
time. The throughput is the bytes of each request over its duration, times the number of concurrent requests: requests
end in bursts, so bytes counted between two moments would be noise. While fewer requests run than the limit allows, the
limit stays: the store is not the bottleneck then, and a larger limit would only take memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from mlsync import errors
from mlsync.store.s3.errors import asks_for_less

# Of the gain if each further connection brought as much as those before; less is noise, or the line is full.
PAYS_SHARE: Final = 0.5
# A round has as many requests, begun and ended in it, as the limit allows, and is no shorter than this.
_ROUND_S: Final = 0.5
# With fewer requests under way, the store is not the bottleneck.
_BUSY_SHARE: Final = 0.7
# Nor is it if requests end so soon: more of them would only be shorter, and cost processor time.
QUICK_S: Final = 0.05
# After a limit that did not help, the one before stays for so long.
_HOLD_S: Final = 30.0


class Concurrency:
    """The limit of concurrent requests of one kind: *first* at first, and never more than *most*."""

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
        """The limit now."""
        return self._at_once

    @contextmanager
    def request(self, size_bytes: int) -> Iterator[None]:
        """Measure a request that moves *size_bytes* if it succeeds."""
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
        """Keep the last step or go back to the limit before it; then take the next one."""
        if self._before is not None:
            count, rate_before = self._before
            self._before = None
            pays_from = rate_before * (1 + PAYS_SHARE * (self._at_once - count) / count)
            if rate < pays_from:
                self._at_once, self._doubles = count, False
                self._held_until_s = now_s + _HOLD_S
        if now_s >= self._held_until_s and self._at_once < self._most:
            self._before = self._at_once, rate
            # Double at first: a transfer may be over before steps of one get far.
            step = self._at_once if self._doubles else 1
            self._at_once = min(self._at_once + step, self._most)

    def _halve(self, began_s: float) -> None:
        """Halve the limit, once for all requests that were under way when the store was overloaded."""
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
