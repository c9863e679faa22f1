"""A store that counts what is asked of it: requests cost money and time, so tests and summaries state them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

from mlsync.buffers import Buffer
from mlsync.store.base import ObjectInfo, Store, Upload, view_of


class CountingStore:
    """Counts calls by method (an upload's as ``upload.write`` and so on) and the bytes that they moved.

    A call is counted when it is made; its bytes when it has succeeded. A listing is one call, whatever its length.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._written_bytes = 0
        self._read_bytes = 0

    @property
    def calls(self) -> dict[str, int]:
        """How often each method was called; methods that were not are absent."""
        with self._lock:
            return dict(self._calls)

    @property
    def written_bytes(self) -> int:
        """Bytes of bodies and parts that the store took."""
        return self._written_bytes

    @property
    def read_bytes(self) -> int:
        """Bytes of objects that the store gave."""
        return self._read_bytes

    @property
    def url(self) -> str:
        """The inner store's place."""
        return self._store.url

    @property
    def part_bytes(self) -> int:
        """The inner store's part length."""
        return self._store.part_bytes

    @property
    def writes_at_once(self) -> int:
        """As many as of the inner store."""
        return self._store.writes_at_once

    @property
    def reads_at_once(self) -> int:
        """As many as of the inner store."""
        return self._store.reads_at_once

    def reset(self) -> None:
        """Begin to count again."""
        with self._lock:
            self._calls.clear()
            self._written_bytes = self._read_bytes = 0

    def put(self, key: str, body: Buffer) -> None:
        """Create the object *key*."""
        self.count("put")
        self._store.put(key, body)
        self.count_written(view_of(body).nbytes)

    def upload(self, key: str) -> Upload:
        """Begin an object whose parts are counted."""
        self.count("upload")
        return _CountingUpload(self, self._store.upload(key))

    def resume(self, key: str, ticket: str) -> Upload:
        """Go on with an upload, whose parts are counted."""
        self.count("resume")
        return _CountingUpload(self, self._store.resume(key, ticket))

    def sweep(self, age_s: float) -> int:
        """Old uploads that nobody finished are gone."""
        self.count("sweep")
        return self._store.sweep(age_s)

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill *into* with the object's bytes from *offset*."""
        self.count("read")
        self._store.read(key, offset, into)
        self._count_read(into.nbytes)

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """The whole of a small object."""
        self.count("get")
        content = self._store.get(key, limit_bytes=limit_bytes)
        self._count_read(len(content))
        return content

    def stat(self, key: str) -> ObjectInfo:
        """The object's size and time."""
        self.count("stat")
        return self._store.stat(key)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Every object under *prefix* after *after*."""
        self.count("list")
        return self._store.list(prefix, after=after)

    def strays(self, prefix: str) -> Iterator[tuple[str, str]]:
        """What the inner store does not list."""
        self.count("strays")
        return self._store.strays(prefix)

    def delete(self, key: str) -> None:
        """The object is gone."""
        self.count("delete")
        self._store.delete(key)

    def is_transient(self, error: Exception) -> bool:
        """Whether the inner store calls *error* transient."""
        return self._store.is_transient(error)

    def close(self) -> None:
        """Close the inner store; the counts stay."""
        self._store.close()

    def count(self, method: str) -> None:
        """Count one call."""
        with self._lock:
            self._calls[method] += 1

    def count_written(self, size_bytes: int) -> None:
        """Count bytes that the store took."""
        with self._lock:
            self._written_bytes += size_bytes

    def _count_read(self, size_bytes: int) -> None:
        with self._lock:
            self._read_bytes += size_bytes


class _CountingUpload:
    def __init__(self, counts: CountingStore, upload: Upload) -> None:
        self._counts = counts
        self._upload = upload

    def write(self, offset: int, part: Buffer) -> None:
        self._counts.count("upload.write")
        self._upload.write(offset, part)
        self._counts.count_written(view_of(part).nbytes)

    def finish(self, size_bytes: int) -> None:
        self._counts.count("upload.finish")
        self._upload.finish(size_bytes)

    def abort(self) -> None:
        self._counts.count("upload.abort")
        self._upload.abort()

    def ticket(self) -> str | None:
        return self._upload.ticket()


_CONFORMS: type[Store] = CountingStore
