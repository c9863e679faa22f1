"""A store that takes from others what it cannot get from the first: for commands that only read.

Nothing here can tell whether bytes are right: whoever opens them asks a mirror for what is damaged (``read_twice.py``,
``reader.py``). This store sees what is away, in cold storage, or, where only a loss explains it, missing. It writes,
and deletes, in the first store alone; its own answers must not decide about either.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from mlsync.errors import Error, NotFound, ObjectArchived, RepositoryMissing, StoreDenied, StoreError, StoreUnavailable
from mlsync.store.base import ObjectInfo, Store
from mlsync.store.wrapping import WrappingStore

_Result = TypeVar("_Result")
#: A store that was away is asked again after this time: each try costs all of its patience.
AWAY_S: Final = 60.0
#: So many objects are remembered by name; what comes after is only counted.
NAMED_MAX: Final = 1000

OnMirror = Callable[[str, Store, str], None]


class FallbackStore(WrappingStore):
    """Asks the first store, and *find_mirrors*, called once, for what that one does not give.

    *is_lost* says of a key for which there is no object whether that is a loss, since most keys may be free; and of a
    prefix under which nothing is listed behind another key. *told* gets the key, the mirror and the reason the first
    time that an object comes from a mirror.
    """

    def __init__(
        self,
        store: Store,
        find_mirrors: Callable[[], tuple[Store, ...]],
        *,
        is_lost: Callable[[str, str], bool],
        told: OnMirror = lambda _key, _copy, _why: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(store)
        self._find_mirrors = find_mirrors
        self._is_lost = is_lost
        self._told = told
        self._clock = clock
        self._lock = threading.Lock()
        self._mirrors: tuple[Store, ...] | None = None
        self._away: tuple[float, Error] | None = None
        # Prefixes of which the first store lists nothing, and a mirror does.
        self._emptied: set[str] = set()
        #: By key: which mirror gave the object, and why. *count* has those too whose names were not kept.
        self.taken: dict[str, tuple[Store, str]] = {}
        self.count = 0

    def mirrors(self) -> tuple[Store, ...]:
        """Return the mirrors, which are opened for the first call."""
        with self._lock:
            if self._mirrors is None:
                self._mirrors = self._find_mirrors()
            return self._mirrors

    def note_mirror(self, key: str, mirror: Store, why: str) -> None:
        """Count an object that a mirror gave, and tell of it once."""
        with self._lock:
            if key in self.taken:
                return
            self.count += 1
            if len(self.taken) < NAMED_MAX:
                self.taken[key] = (mirror, why)
        self._told(key, mirror, why)

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill *into* from the first store, or from a mirror if that is away."""
        self._from_one(key, lambda store: store.read(key, offset, into))

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """Return a small object of the first store, or of a mirror."""
        return self._from_one(key, lambda store: store.get(key, limit_bytes=limit_bytes))

    def stat(self, key: str) -> ObjectInfo:
        """Return size and time by the first store, or by a mirror."""
        return self._from_one(key, lambda store: store.stat(key))

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield what the first store lists, or a mirror if that is away, or both if the first lost all behind *after*.

        Once it lost some under a prefix, each listing of that prefix is of both, so that all of them agree.
        """
        last, fault = after, self._known_away()
        if fault is None:
            try:
                for info in self._both(prefix, after):
                    yield info
                    last = info.key
            except (StoreUnavailable, StoreDenied, RepositoryMissing) as error:
                fault = self._note_away(error)
            else:
                if last != after or prefix in self._emptied or not self._is_lost(prefix, after):
                    return
        yield from self._listed_by_mirror(prefix, last, fault)

    def close(self) -> None:
        """Close all stores."""
        for mirror in self._mirrors or ():
            mirror.close()
        super().close()

    def _both(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """Yield what the first store lists, and if that has lost some under the prefix what a mirror lists too."""
        own = self._store.list(prefix, after=after)
        if prefix not in self._emptied:
            yield from own
            return
        last = after
        for info in heapq.merge(own, self._listed_by_mirror(prefix, after, None), key=lambda info: info.key):
            if info.key != last:
                yield info
            last = info.key

    def _listed_by_mirror(self, prefix: str, after: str, fault: Error | None) -> Iterator[ObjectInfo]:
        for mirror in self.mirrors():
            try:
                listed = mirror.list(prefix, after=after)
                first = next(listed, None)
            except (StoreError, RepositoryMissing):
                continue
            if first is not None:
                self._emptied.add(prefix)
                self.note_mirror(prefix, mirror, "nothing is listed" if fault is None else fault.what)
                yield first
                yield from listed
                return
            if fault is not None:
                return  # nothing there either
        if fault is not None:
            raise fault

    def _from_one(self, key: str, work: Callable[[Store], _Result]) -> _Result:
        fault = self._known_away()
        if fault is None:
            try:
                return work(self._store)
            except (StoreUnavailable, RepositoryMissing) as error:
                fault = self._note_away(error)
            except (StoreDenied, ObjectArchived) as error:
                fault = error
            except NotFound as error:
                if not self._is_lost(key, ""):
                    raise
                fault = error
        for mirror in self.mirrors():
            try:
                found = work(mirror)
            except (StoreError, RepositoryMissing):
                continue
            self.note_mirror(key, mirror, fault.what)
            return found
        raise fault

    def _known_away(self) -> Error | None:
        away = self._away
        return None if away is None or self._clock() - away[0] > AWAY_S else away[1]

    def _note_away(self, error: Error) -> Error:
        self._away = (self._clock(), error)
        return error
