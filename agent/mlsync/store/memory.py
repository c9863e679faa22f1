"""A store in memory, for tests: the contract and nothing more."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from mlsync import errors
from mlsync.store.base import Buffer, ObjectInfo, Store, Upload, check_key, check_prefix, view_of
from mlsync.store.parts import PartLedger


class MemoryStore:
    """Objects in a dictionary; gone with the process."""

    def __init__(self, part_bytes: int = 8 << 20) -> None:
        self._part_bytes = part_bytes
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The place in words."""
        return "memory:"

    @property
    def part_bytes(self) -> int:
        """The length of an upload's parts."""
        return self._part_bytes

    def put(self, key: str, body: Buffer) -> None:
        """Create the object *key*."""
        check_key(key)
        content = bytes(body)
        with self._lock:
            if key in self._objects:
                raise errors.AlreadyExists("The object exists already", where=self._where(key))
            self._objects[key] = (content, time.time())

    def upload(self, key: str) -> Upload:
        """Begin an object in parts."""
        return _MemoryUpload(self, check_key(key))

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill *into* with the object's bytes from *offset*."""
        content = self._object(key)[0]
        if offset + len(into) > len(content):
            raise errors.StoreBroken("The object ends before what was to be read", where=self._where(key))
        into[:] = content[offset : offset + len(into)]

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """The whole of a small object."""
        content = self._object(key)[0]
        if len(content) > limit_bytes:
            what = f"The object is longer than {limit_bytes} bytes"
            raise errors.StoreBroken(what, where=self._where(key))
        return content

    def stat(self, key: str) -> ObjectInfo:
        """The object's size and time."""
        content, modified_s = self._object(key)
        return ObjectInfo(key, len(content), modified_s)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Every object under *prefix* after *after*, as they are when the listing begins."""
        check_prefix(prefix)
        with self._lock:
            objects = sorted(self._objects.items())
        for key, (content, modified_s) in objects:
            if key.startswith(prefix) and key > after:
                yield ObjectInfo(key, len(content), modified_s)

    def delete(self, key: str) -> None:
        """The object is gone."""
        with self._lock:
            self._objects.pop(check_key(key), None)

    def is_transient(self, error: Exception) -> bool:  # noqa: ARG002  the contract's signature
        """Memory does not fail for a while."""
        return False

    def close(self) -> None:
        """Nothing is held; the objects stay, so that a test can open the store again."""

    def _object(self, key: str) -> tuple[bytes, float]:
        with self._lock:
            found = self._objects.get(check_key(key))
        if found is None:
            raise errors.NotFound("No such object", where=self._where(key))
        return found

    def _where(self, key: str) -> str:
        return f"{self.url}{key}"


class _MemoryUpload:
    """Parts kept by their offset until they are joined."""

    def __init__(self, store: MemoryStore, key: str) -> None:
        self._store = store
        self._key = key
        self._parts: dict[int, bytes] = {}
        self._ledger = PartLedger(store.part_bytes)

    def write(self, offset: int, part: Buffer) -> None:
        view = view_of(part)
        self._ledger.check(offset, len(view))
        self._parts[offset] = bytes(view)
        self._ledger.add(offset, len(view))

    def finish(self, size_bytes: int) -> None:
        self._ledger.check_whole(size_bytes)
        self._store.put(self._key, b"".join(self._parts[offset] for offset in sorted(self._parts)))

    def abort(self) -> None:
        self._parts.clear()


_CONFORMS: type[Store] = MemoryStore
