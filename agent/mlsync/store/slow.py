"""A store that logs slow requests, so that the log shows what a command waits for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from mlsync.store.base import ObjectInfo, Store
from mlsync.store.wrapping import WrappingStore

SLOW_S: Final = 10.0
_LOG: Final = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class SlowRequestLog(WrappingStore):
    """Logs each call that takes longer than *slow_s*: every *slow_s* while it waits, and when it ends."""

    def __init__(self, store: Store, *, slow_s: float = SLOW_S) -> None:
        super().__init__(store)
        self._slow_s = slow_s
        # By thread: each makes one call at a time.
        self._pending: dict[int, tuple[str, str, float]] = {}
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="mlsync-slow-requests", daemon=True).start()

    def call(self, method: str, key: str, work: Callable[[], _Result]) -> _Result:
        """Make the call."""
        thread, began_s = threading.get_ident(), time.monotonic()
        self._pending[thread] = method, key, began_s
        try:
            return super().call(method, key, work)
        finally:
            del self._pending[thread]
            took_s = time.monotonic() - began_s
            if took_s >= self._slow_s:
                _LOG.debug("store: %s of %s took %.1f s", method, key or "the repository", took_s)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield every object under *prefix* after *after*."""
        objects = super().list(prefix, after=after)
        while (found := self.call("list", prefix, lambda: next(objects, None))) is not None:
            yield found

    def close(self) -> None:
        """Close the wrapped store, and log no more."""
        self._closed.set()
        super().close()

    def _watch(self) -> None:
        while not self._closed.wait(self._slow_s):
            now_s = time.monotonic()
            for method, key, began_s in tuple(self._pending.values()):
                if (waited_s := now_s - began_s) >= self._slow_s:
                    what = key or "the repository"
                    _LOG.debug("store: %s of %s has had no answer for %.0f s", method, what, waited_s)
