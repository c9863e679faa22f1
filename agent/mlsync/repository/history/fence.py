"""Fences: small objects under numbers of versions, which say that a number is no version and never will be one.

A writer may be stopped between its last look at the store and the creation of its manifest, for longer than any grace
period. Before a prune deletes packs it puts a fence under each number that such a writer can have in mind; the creation
then fails, and the writer looks again. A fence also takes the place of each manifest that a prune removes: a number
that becomes free would let such a writer in. See docs/format.md, "Fences".
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from mlsync.codec.keys import Keys
from mlsync.codec.sealing import TAG_BYTES
from mlsync.errors import FormatUnsupported, ManifestDamaged, NotFound, StoreBroken
from mlsync.repository import sealed_object
from mlsync.repository.read_twice import read_twice
from mlsync.repository.sealed_object import HEADER_BYTES
from mlsync.store.base import Store

# Time, digest half, reserved: with header and tag every fence has the one length that no manifest has.
_PLAIN: Final = struct.Struct("<q16sI")
FENCE_BYTES: Final = HEADER_BYTES + _PLAIN.size + TAG_BYTES
DIGEST_BYTES: Final = 16
NEVER_USED: Final = bytes(DIGEST_BYTES)


class Fence(msgspec.Struct, frozen=True):
    """What a fence says: when it was made, and the first half of the digest of the manifest that it took the place of.

    *removed* is zeros if the number never had a version. *epoch* is that of the key which sealed it, once it is read.
    """

    made_ns: int
    removed: bytes = NEVER_USED
    epoch: int = 0


def is_fence_size(size_bytes: int) -> bool:
    """Return whether an object under the name of a version is of the length of a fence, and so is no version."""
    return size_bytes == FENCE_BYTES


def make(keys: Keys, key: str, fence: Fence) -> bytes:
    """Return the fence for the name *key* of a version."""
    plain = _PLAIN.pack(fence.made_ns, fence.removed, 0)
    return sealed_object.seal(keys, sealed_object.FENCE, key, plain)


def open_(keys: Keys, key: str, body: bytes) -> Fence:
    """Return the fence under the name *key*; raise ``ManifestDamaged`` for any other object of that length."""
    plain = sealed_object.open_(keys, sealed_object.FENCE, key, body)
    if len(plain) != _PLAIN.size:
        raise ManifestDamaged("the fence has another length than all fences", where=key)
    made_ns, removed, reserved = _PLAIN.unpack(plain)
    if reserved:
        raise ManifestDamaged("the fence has reserved bytes that are not zero", where=key)
    return Fence(made_ns, removed, sealed_object.epoch_of(body))


def read(store: Store, keys: Keys, key: str) -> Fence:
    """Return the fence under the name *key*; raise ``NotFound``, or ``ManifestDamaged`` if something else is there."""

    def look() -> Fence:
        try:
            body = store.get(key, limit_bytes=FENCE_BYTES)
        except StoreBroken as error:
            if not error.is_of_object:
                raise
            raise ManifestDamaged("this is no fence: it is longer", where=key) from error
        return open_(keys, key, body)

    return read_twice(look)


def epoch_at(store: Store, keys: Keys, key: str) -> int | None:
    """Return the epoch of the fence that is under the name *key* and opens; ``None`` if there is none."""
    try:
        if not is_fence_size(store.stat(key).size_bytes):
            return None
        return read(store, keys, key).epoch
    except (NotFound, ManifestDamaged, FormatUnsupported):
        return None
