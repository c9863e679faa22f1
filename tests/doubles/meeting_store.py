"""A store that shows how many calls are under way at once: the first ones wait until so many are."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from mlsync.store.base import Store
from mlsync.store.wrapping import WrappingStore

_Result = TypeVar("_Result")
_PATIENCE_S = 30.0


class MeetingStore(WrappingStore):
    """Calls of *method* on keys that begin with *prefix* wait until *count* of them are there; then nobody waits."""

    def __init__(self, store: Store, prefix: str, count: int, method: str = "get") -> None:
        super().__init__(store)
        self._prefix = prefix
        self._count = count
        self._method = method
        self._lock = threading.Lock()
        self._here_count = 0
        self._met = threading.Event()
        #: By key, how often it was read.
        self.calls: Counter[str] = Counter()
        #: How many came together at most, up to the number that was waited for.
        self.most = 0

    def call(self, method: str, key: str, work: Callable[[], _Result]) -> _Result:
        """Wait for the others, and do it."""
        if method != self._method or not key.startswith(self._prefix):
            return super().call(method, key, work)
        with self._lock:
            self.calls[key] += 1
            self._here_count += 1
            self.most = max(self.most, self._here_count)
            if self._here_count == self._count:
                self._met.set()
        try:
            # Whoever waits in vain shows by ``most`` that nobody else came.
            if not self._met.wait(_PATIENCE_S):
                self._met.set()
            return super().call(method, key, work)
        finally:
            with self._lock:
                self._here_count -= 1
