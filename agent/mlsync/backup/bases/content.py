"""Where the plain bytes of bases come from: the store, if it is a directory, else the base cache on this machine."""

from __future__ import annotations

from contextlib import suppress

from mlsync.backup.bases.cache import BaseCache
from mlsync.errors import Damage, FormatUnsupported, StoreError, WriteOnly
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.reader import ChunkReader


class StoredContent:
    """Bases in a store that is near: to read one costs no more than to read the source."""

    is_stored = True

    def __init__(self, reader: ChunkReader) -> None:
        self._reader = reader

    def has(self, ref: ChunkRef) -> bool:
        """Return whether the base may be read, as far as is known: always."""
        del ref
        return True

    def read(self, ref: ChunkRef, into: memoryview) -> bool:
        """Fill *into* with the base; what is damaged, gone or closed to this node is not to be had."""
        # A check of the store names damage; here the tensor is stored as a whole, and so mended.
        with suppress(Damage, FormatUnsupported, StoreError, WriteOnly):
            self._reader.read_into(ref, into)
            return True
        return False

    def keep(self, ref: ChunkRef, plain: memoryview, instead_of: bytes) -> None:
        """Do nothing: the store has it."""
        del ref, plain, instead_of

    def close(self) -> None:
        """End the reader."""
        self._reader.close()


class CachedContent:
    """Bases in the cache of this machine, which are kept when they are stored."""

    is_stored = False

    def __init__(self, cache: BaseCache) -> None:
        self._cache = cache

    def has(self, ref: ChunkRef) -> bool:
        """Return whether the cache has the base."""
        return self._cache.has(ref.name)

    def read(self, ref: ChunkRef, into: memoryview) -> bool:
        """Fill *into* with the base, if it can be had."""
        return self._cache.read(ref.name, into)

    def keep(self, ref: ChunkRef, plain: memoryview, instead_of: bytes) -> None:
        """Keep a base that was stored, in place of the one before it."""
        self._cache.keep(ref.name, plain, instead_of)

    def close(self) -> None:
        """Close the cache; it stays on the disk."""
        self._cache.close()
