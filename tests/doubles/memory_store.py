"""A store in memory, for tests: the contract and nothing more."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mlsync import errors
from mlsync.buffers import Buffer
from mlsync.store.base import ObjectInfo, Store, Upload, check_key, check_prefix, view_of
from mlsync.store.part_ledger import PartLedger

_ENDS = "the object ends before what was to be read"


class MemoryStore(Store):
    """Objects in a dictionary; gone with the process."""

    def __init__(self, part_bytes: int = 8 << 20) -> None:
        self._part_bytes = part_bytes
        self._objects: dict[str, tuple[bytes, float]] = {}
        self.uploads: dict[str, _Parts] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The location."""
        return "memory:"

    @property
    def part_bytes(self) -> int:
        """The length of an upload's parts."""
        return self._part_bytes

    @property
    def writes_at_once(self) -> int:
        """How many concurrent uploads keep the store busy."""
        return 4

    @property
    def reads_at_once(self) -> int:
        """How many concurrent reads keep the store busy."""
        return 2

    def put(self, key: str, body: Buffer) -> None:
        """Create the object *key*."""
        check_key(key)
        content = bytes(body)
        with self._lock:
            if key in self._objects:
                raise errors.AlreadyExists("the object exists already", where=self._where(key))
            self._objects[key] = (content, time.time())

    def replace(self, key: str, body: Buffer) -> None:
        """Put *body* in the place of the object *key*."""
        check_key(key)
        with self._lock:
            self._objects[key] = (bytes(body), time.time())

    def upload(self, key: str) -> Upload:
        """Begin an object in parts."""
        return _MemoryUpload(self, check_key(key), str(next(self._numbers)), ())

    def resume(self, key: str, token: str) -> Upload:
        """Continue an upload that has at least the parts of the token."""
        number, _, text = token.partition(":")
        offsets = [int(offset) for offset in text.split(",") if offset.isdecimal()]
        parts = self.uploads.get(number)
        if parts is None or parts.key != key or not parts.content.keys() >= set(offsets):
            raise errors.NotFound("the uploaded parts are gone", where=self._where(key))
        return _MemoryUpload(self, key, number, offsets)

    def remove_stale_uploads(self, age_s: float) -> int:
        """Forget old uploads."""
        now_s = time.time()
        old = [number for number, parts in self.uploads.items() if now_s - parts.begun_s > age_s]
        for number in old:
            del self.uploads[number]
        return len(old)

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill *into* with the object's bytes from *offset*."""
        content = self._object(key)[0]
        if offset + len(into) > len(content):
            raise errors.StoreBroken(_ENDS, where=self._where(key), is_of_object=True)
        into[:] = content[offset : offset + len(into)]

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """Return a small object."""
        content = self._object(key)[0]
        if len(content) > limit_bytes:
            what = f"the object is longer than {limit_bytes} bytes"
            raise errors.StoreBroken(what, where=self._where(key), is_of_object=True)
        return content

    def stat(self, key: str) -> ObjectInfo:
        """Return the object's size and time."""
        content, modified_s = self._object(key)
        return ObjectInfo(key, len(content), modified_s)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield every object under *prefix* after *after*, as they are when the listing begins."""
        check_prefix(prefix)
        with self._lock:
            objects = sorted(self._objects.items())
        for key, (content, modified_s) in objects:
            if key.startswith(prefix) and key > after:
                yield ObjectInfo(key, len(content), modified_s)

    def delete(self, key: str) -> None:
        """Delete the object."""
        with self._lock:
            self._objects.pop(check_key(key), None)

    def is_transient(self, error: Exception) -> bool:
        """Return that no error passes: memory does not fail temporarily."""
        return False

    def close(self) -> None:
        """Do nothing; the objects stay, so that a test can open the store again."""

    def _object(self, key: str) -> tuple[bytes, float]:
        with self._lock:
            found = self._objects.get(check_key(key))
        if found is None:
            raise errors.NotFound("no such object", where=self._where(key))
        return found

    def _where(self, key: str) -> str:
        return f"{self.url}{key}"


@dataclass(slots=True)
class _Parts:
    """The parts of an upload by offset; the store keeps them after the process that began it ends."""

    key: str
    begun_s: float = field(default_factory=time.time)
    content: dict[int, bytes] = field(default_factory=dict)


class _MemoryUpload(Upload):
    """Keeps parts by offset until ``finish`` joins them; the store knows the upload from its first part on."""

    def __init__(self, store: MemoryStore, key: str, number: str, offsets: Iterable[int]) -> None:
        self._store = store
        self._key = key
        self._number = number
        self._ledger = PartLedger(store.part_bytes)
        self._offsets = set(offsets)
        for offset in self._offsets:
            self._ledger.add(offset, len(store.uploads[number].content[offset]))

    def write(self, offset: int, part: Buffer) -> None:
        view = view_of(part)
        self._ledger.check(offset, len(view))
        self._store.uploads.setdefault(self._number, _Parts(self._key)).content[offset] = bytes(view)
        self._ledger.add(offset, len(view))
        self._offsets.add(offset)

    def finish(self, size_bytes: int) -> None:
        self._ledger.check_whole(size_bytes)
        if self._offsets and self._number not in self._store.uploads:
            raise errors.NotFound("this upload is over; begin it again", where=self._key)
        parts = self._store.uploads.get(self._number, _Parts(self._key)).content
        self._store.put(self._key, b"".join(parts[offset] for offset in sorted(self._offsets)))
        self.abort()

    def abort(self) -> None:
        self._store.uploads.pop(self._number, None)

    def resume_token(self) -> str | None:
        offsets = ",".join(map(str, sorted(self._offsets)))
        return f"{self._number}:{offsets}" if self._number in self._store.uploads else None
