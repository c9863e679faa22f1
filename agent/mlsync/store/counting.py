"""A store that counts requests and bytes: they cost money and time, so summaries and tests state them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from mlsync.buffers import Buffer
from mlsync.store.base import Store, Upload, view_of
from mlsync.store.wrapping import WrappingStore, WrappingUpload

_Result = TypeVar("_Result")


class CountingStore(WrappingStore):
    """Counts calls by method (an upload's as ``upload.write`` and so on) and the bytes that they moved.

    It counts a call when it is made, and its bytes when it has succeeded. A listing is one call, whatever its length.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._written_bytes = 0
        self._read_bytes = 0

    @property
    def calls(self) -> dict[str, int]:
        """How often each method was called, without those that were never called."""
        with self._lock:
            return dict(self._calls)

    @property
    def written_bytes(self) -> int:
        """Bytes of bodies and parts that the store took."""
        return self._written_bytes

    @property
    def read_bytes(self) -> int:
        """Bytes of objects that the store returned."""
        return self._read_bytes

    def reset(self) -> None:
        """Set all counts to zero."""
        with self._lock:
            self._calls.clear()
            self._written_bytes = self._read_bytes = 0

    def call(self, method: str, key: str, work: Callable[[], _Result]) -> _Result:
        """Count the call, and make it."""
        with self._lock:
            self._calls[method] += 1
        return super().call(method, key, work)

    def wrap_upload(self, key: str, upload: Upload) -> Upload:
        """Return an upload that counts its parts."""
        return _CountingUpload(self, key, upload)

    def put(self, key: str, body: Buffer) -> None:
        """Create the object *key*."""
        super().put(key, body)
        self.count_written(view_of(body).nbytes)

    def replace(self, key: str, body: Buffer) -> None:
        """Put *body* in the place of the object *key*."""
        super().replace(key, body)
        self.count_written(view_of(body).nbytes)

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill *into* with the object's bytes from *offset*."""
        super().read(key, offset, into)
        self._count_read(into.nbytes)

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """Return a small object."""
        content = super().get(key, limit_bytes=limit_bytes)
        self._count_read(len(content))
        return content

    def count_written(self, size_bytes: int) -> None:
        """Count bytes that the store took."""
        with self._lock:
            self._written_bytes += size_bytes

    def _count_read(self, size_bytes: int) -> None:
        with self._lock:
            self._read_bytes += size_bytes


class _CountingUpload(WrappingUpload):
    def __init__(self, counts: CountingStore, key: str, upload: Upload) -> None:
        super().__init__(counts, key, upload)
        self._counts = counts

    def write(self, offset: int, part: Buffer) -> None:
        super().write(offset, part)
        self._counts.count_written(view_of(part).nbytes)
