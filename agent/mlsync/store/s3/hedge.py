"""A second request for a straggling read: of many requests to a distant store, one now and then takes very long.

Only the caller's thread writes to the caller's buffer. The first request fills it; a second one, the hedge, fills its
own memory in its own thread. The request that completes first cuts the other's connection. If that was the hedge, the
caller's thread returns from its dead connection and copies. So no abandoned request keeps a buffer, a thread or a
connection.

Hedging must not double the load of an overloaded store. A read is slow only compared with the reads before it, so in a
store that is slow for every read, none is; and there are few hedges in any case.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from mlsync import errors
from mlsync.store.s3.connection import CancellableCall

# A read straggles if it takes so many times as long as reads of its size do, and at least so long.
STRAGGLES_TIMES: Final = 4.0
STRAGGLES_AFTER_S: Final = 2.0
# The share of all reads, and how many at once: a hedge costs the memory of a read.
HEDGED_SHARE: Final = 0.05
HEDGES_MAX: Final = 2
# How many reads it takes to judge others, and how many of the last ones count.
_KNOWN_COUNT_MIN: Final = 4
_KNOWN_COUNT_MAX: Final = 64
# A read shorter than this takes as long as one of this length: the round trip.
_SHORT_BYTES: Final = 1 << 20
_WATCH_EVERY_S: Final = 0.25

Fetch: TypeAlias = Callable[[str, int, memoryview], None]


class _Reading:
    """A read under way: its first request, its hedge if there is one, and which of them completed first."""

    def __init__(self, key: str, offset: int, size_bytes: int, began_s: float) -> None:
        self.key = key
        self.offset = offset
        self.size_bytes = size_bytes
        self.began_s = began_s
        self.first = CancellableCall()
        self.is_hedged = False
        self._hedge = CancellableCall()
        self._content: bytearray | None = None
        self._is_over = False
        self._lock = threading.Lock()
        self._hedge_ended = threading.Event()

    def fetch_again(self, fetch: Fetch) -> bool:
        """Send the second request; return whether it completed first."""
        content = bytearray(self.size_bytes)
        try:
            with self._hedge:
                fetch(self.key, self.offset, memoryview(content))
            with self._lock:
                if not self._is_over:
                    self._content = content
                    self.first.cut()
        except errors.StoreError:
            # That says nothing about the first request: it goes on, and only its error counts.
            return False
        return self._content is not None

    def end_hedge(self) -> None:
        """Note that the hedge is over."""
        self._hedge_ended.set()

    def content_of_hedge(self) -> bytearray | None:
        """Wait for the hedge; return its content, or ``None`` if there is no hedge or it failed."""
        if self.is_hedged:
            self._hedge_ended.wait()
        return self._content

    def end(self) -> None:
        """Cancel the hedge: the caller has its bytes, or an error."""
        with self._lock:
            self._is_over = True
        self._hedge.cut()


class HedgedReads:
    """Reads by *fetch*, which fills a buffer with an object's bytes from an offset and raises store errors."""

    def __init__(self, fetch: Fetch, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.hedge_count = 0
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._under_way: set[_Reading] = set()
        self._is_watched = False
        self._known_s: deque[float] = deque(maxlen=_KNOWN_COUNT_MAX)
        self._allowed_count = 1.0
        self._hedging_count = 0

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill *into*; raise what the first request raised, unless the hedge read the bytes."""
        reading = self._begun(_Reading(key, offset, into.nbytes, self._clock()))
        try:
            with reading.first:
                self._fetch(key, offset, into)
            self._note(reading.began_s, reading.size_bytes)
        except Exception:  # the hedge cut the connection, whatever that raises; other errors go on
            self._forget(reading)  # no hedge begins from here on
            content = reading.content_of_hedge()
            if content is None:
                raise
            into.cast("B")[:] = content
        finally:
            self._forget(reading)
            reading.end()

    def _begun(self, reading: _Reading) -> _Reading:
        """Start watching the read, by a thread that exists only while there are reads."""
        with self._lock:
            self._under_way.add(reading)
            starts, self._is_watched = not self._is_watched, True
        if starts:
            threading.Thread(target=self._watch, name="mlsync-hedge-watch", daemon=True).start()
        return reading

    def _forget(self, reading: _Reading) -> None:
        with self._lock:
            self._under_way.discard(reading)

    def _note(self, began_s: float, size_bytes: int) -> None:
        """Remember how long a completed request took for its size; each one allows a share of a hedge."""
        with self._lock:
            self._known_s.append((self._clock() - began_s) / max(size_bytes, _SHORT_BYTES))
            self._allowed_count = min(self._allowed_count + HEDGED_SHARE, float(HEDGES_MAX))

    def _watch(self) -> None:
        while True:
            time.sleep(_WATCH_EVERY_S)
            with self._lock:
                if not self._under_way:
                    self._is_watched = False
                    return
                straggling = self._straggling()
            for reading in straggling:
                self._start(reading)

    def _start(self, reading: _Reading) -> None:
        try:
            threading.Thread(target=self._hedge, args=(reading,), name="mlsync-hedge", daemon=True).start()
        except RuntimeError:  # no thread available: nobody may wait for this hedge
            self._over(reading)

    def _straggling(self) -> list[_Reading]:
        """Return the reads that get a second request now, the oldest first; the caller holds the lock."""
        if len(self._known_s) < _KNOWN_COUNT_MIN:
            return []
        usual_s, now_s = statistics.median(self._known_s), self._clock()
        chosen = []
        for reading in sorted(self._under_way, key=lambda one: one.began_s):
            due_s = max(STRAGGLES_AFTER_S, STRAGGLES_TIMES * usual_s * max(reading.size_bytes, _SHORT_BYTES))
            if reading.is_hedged or now_s - reading.began_s < due_s:
                continue
            if self._allowed_count < 1.0 or self._hedging_count >= HEDGES_MAX:
                break
            reading.is_hedged = True
            self._allowed_count -= 1.0
            self._hedging_count += 1
            self.hedge_count += 1
            chosen.append(reading)
        return chosen

    def _hedge(self, reading: _Reading) -> None:
        began_s = self._clock()
        try:
            if reading.fetch_again(self._fetch):
                self._note(began_s, reading.size_bytes)
        finally:
            self._over(reading)

    def _over(self, reading: _Reading) -> None:
        with self._lock:
            self._hedging_count -= 1
        reading.end_hedge()
