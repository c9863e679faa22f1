"""Plain copies in a bucket: one object for each file, and one for its SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Final

from mlsync.errors import AlreadyExists, ExportRefused, NotFound
from mlsync.publish.export import SUFFIX, sum_line
from mlsync.store.base import Store

_SUM_BYTES_MAX: Final = 16 << 10


class BucketPlace:
    """A bucket and prefix; *store* creates objects there and overwrites none."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def where(self, path: bytes) -> str:
        """Return the URL for people."""
        return f"{self._store.url}/{os.fsdecode(path)}"

    def sha256(self, path: bytes, size_bytes: int, expected: str) -> str | None:
        """Return *expected* if the object has its size, and the object beside it says so; ``""`` for any other.

        An object is not read back for that: what says it was made after the object, by whoever may write both.
        """
        key = os.fsdecode(path)
        try:
            if self._store.stat(key).size_bytes != size_bytes:
                return ""
        except NotFound:
            return None
        if path.endswith(SUFFIX):
            body = self._store.get(key, limit_bytes=_SUM_BYTES_MAX) if size_bytes <= _SUM_BYTES_MAX else b""
            return hashlib.sha256(body).hexdigest()
        try:
            said = self._store.get(key + os.fsdecode(SUFFIX), limit_bytes=_SUM_BYTES_MAX)
        except NotFound:
            return ""
        return expected if said == sum_line(path.rpartition(b"/")[2], expected) else ""

    def write(self, path: bytes, pieces: Iterator[memoryview], size_bytes: int, *, force: bool) -> None:
        """Upload an object in parts; with *force* one that is there is deleted first."""
        key = os.fsdecode(path)
        if force:
            self._store.delete(key)
        upload = self._store.upload(key)
        try:
            part_bytes, offset, part = self._store.part_bytes, 0, bytearray()
            for piece in pieces:
                part += piece
                while len(part) >= part_bytes:
                    upload.write(offset, bytes(part[:part_bytes]))
                    offset += part_bytes
                    del part[:part_bytes]
            if part:
                upload.write(offset, bytes(part))
            upload.finish(size_bytes)
        except AlreadyExists:
            upload.abort()
            what = "something came there meanwhile; it was left as it is"
            raise ExportRefused(what, where=self.where(path)) from None
        except BaseException:
            upload.abort()
            raise
