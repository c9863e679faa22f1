"""One object of a mirror as it was read first: what was checked is what is stored, however often it is fetched.

A pack may be larger than memory, so it is read twice: once to open every chunk, and once to be stored. A mirror could
give other bytes the second time. So each part is remembered by its digest, and comes again only with the same one.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator

from mlsync.errors import NotFound, StoreBroken
from mlsync.store.base import ObjectInfo, Store
from mlsync.store.wrapping import WrappingStore


class Snapshot(WrappingStore):
    """A store in which the object *key* is the one of another store; everything else is as in the wrapped one."""

    def __init__(self, store: Store, key: str, other: Store, *, part_bytes: int) -> None:
        super().__init__(store)
        self._key = key
        self._other = other
        self._part_bytes = part_bytes
        self._digests: dict[int, bytes] = {}
        self._part: tuple[int, bytearray] = (-1, bytearray())
        self._lock = threading.Lock()
        self.size_bytes = other.stat(key).size_bytes

    def parts(self) -> Iterator[tuple[int, bytearray]]:
        """Yield the object in parts, each with its offset."""
        for number in range(-(-self.size_bytes // self._part_bytes)):
            with self._lock:
                yield number * self._part_bytes, self._at(number)

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill *into* from the object, or from the wrapped store."""
        if key != self._key:
            super().read(key, offset, into)
            return
        end = offset + len(into)
        if end > self.size_bytes:
            raise StoreBroken("the object ends too early", where=key, is_of_object=True)
        with self._lock:
            while offset < end:
                number, start = divmod(offset, self._part_bytes)
                piece = self._at(number)[start : start + end - offset]
                into[len(into) - (end - offset) :][: len(piece)] = piece
                offset += len(piece)

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """Return the object if it is small, or one of the wrapped store."""
        if key != self._key:
            return super().get(key, limit_bytes=limit_bytes)
        if self.size_bytes > limit_bytes:
            raise StoreBroken(f"the object is longer than {limit_bytes} bytes", where=key, is_of_object=True)
        body = bytearray(self.size_bytes)
        self.read(key, 0, memoryview(body))
        return bytes(body)

    def stat(self, key: str) -> ObjectInfo:
        """Return the object's size, or what the wrapped store says."""
        return ObjectInfo(key, self.size_bytes, 0.0) if key == self._key else super().stat(key)

    def _at(self, number: int) -> bytearray:
        if self._part[0] != number:
            body = bytearray(min(self._part_bytes, self.size_bytes - number * self._part_bytes))
            self._other.read(self._key, number * self._part_bytes, memoryview(body))
            digest = hashlib.sha256(body).digest()
            if self._digests.setdefault(number, digest) != digest:
                raise NotFound("the mirror gives other bytes each time", where=self._key)
            self._part = (number, body)
        return self._part[1]
