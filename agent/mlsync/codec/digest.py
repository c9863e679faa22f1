"""Digests: keyed names of chunks, digests of whole files that people can compare, and checksums of local records.

Names are keyed BLAKE3 (the BLAKE3 paper, section 2, keyed mode): without the key the store can neither compute a name
from a guessed plaintext nor find two plaintexts of one name. A file's digest is BLAKE3 without a key, as ``b3sum``
prints it; it is stored sealed. XXH3 is four times as fast and no protection at all; mlsync uses it only on its own side
of the store.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final

import xxhash
from blake3 import blake3

from mlsync.buffers import Buffer

NAME_BYTES: Final = 32
OBJECT_DIGEST_BYTES: Final = 32
RECORD_DIGEST_BYTES: Final = 16
_BLAKE3_BYTES: Final = 32
#: A kind of ``FileDigestKind``, one byte, and BLAKE3.
FILE_DIGEST_BYTES: Final = 1 + _BLAKE3_BYTES
# The zeros of holes have to be hashed like any bytes. They cost no more than the data does, and a second at most.
_HOLE_BYTES_FREE: Final = 1 << 20
_HOLE_BYTES_MAX: Final = 4 << 30
_ZEROS: Final = memoryview(bytes(1 << 20))


class FileDigestKind(IntEnum):
    """What a file's digest is of, as its first byte says; later algorithms take the next numbers."""

    WHOLE = 1  # BLAKE3 of the whole file, holes as zeros: what b3sum prints
    DATA = 2  # BLAKE3 of what is between the holes: those are too long to hash


_WHOLE: Final = bytes((FileDigestKind.WHOLE,))


def chunk_name(key: bytes, plain: Buffer) -> bytes:
    """Return the 32-byte keyed name of *plain*; releases the GIL."""
    return blake3(plain, key=key).digest()


def chunk_names(key: bytes, plains: Iterable[Buffer]) -> list[bytes]:
    """Return the names of many short chunks."""
    return [blake3(plain, key=key).digest() for plain in plains]


def is_named(key: bytes, plain: Buffer, name: bytes) -> bool:
    """Return whether *name* is the name of *plain*."""
    return hmac.compare_digest(chunk_name(key, plain), name)


def run_id(key: bytes, run: str) -> bytes:
    """Return the 16 bytes that stand for *run* in object names, so that the store does not learn its name."""
    return blake3(run.encode(), key=key).digest(16)


def object_digest(body: Buffer) -> bytes:
    """Return the SHA-256 of a whole stored object, as each manifest has it of the one before it."""
    return hashlib.sha256(body).digest()


def record_digester() -> xxhash.xxh3_128:
    """Return a running XXH3-128 over a record of the local state: it detects one that was cut short."""
    return xxhash.xxh3_128()


def may_hash_whole(hole_bytes: int, data_bytes: int) -> bool:
    """Return whether a file with so many bytes in holes may have a digest of kind ``WHOLE``."""
    return hole_bytes <= min(data_bytes + _HOLE_BYTES_FREE, _HOLE_BYTES_MAX)


def file_digest_kind(size_bytes: int, holes: Iterable[tuple[int, int]]) -> FileDigestKind:
    """Return the kind that a writer gives a file with these *holes*, (offset, length) pairs."""
    hole_bytes = sum(length for _, length in holes)
    return FileDigestKind.WHOLE if may_hash_whole(hole_bytes, size_bytes - hole_bytes) else FileDigestKind.DATA


def blake3_of(digest: bytes) -> bytes | None:
    """Return what ``b3sum`` prints of a file with this digest, or ``None`` where only its data was hashed."""
    return digest[1:] if digest[:1] == bytes((FileDigestKind.WHOLE,)) else None


def digest_of_whole(content: Buffer) -> bytes:
    """Return the digest, of kind ``WHOLE``, of a file without holes."""
    return _WHOLE + blake3(content).digest()


class FileDigester:
    """The running digest of a file with these *holes*, which is fed the data between them, in order.

    No view that it is fed may reach across a hole.
    """

    __slots__ = ("_at", "_hash", "_holes", "_kind", "_next")

    def __init__(self, kind: int, holes: Sequence[tuple[int, int]] = ()) -> None:
        self._kind = kind
        self._hash = blake3()
        self._holes = holes if kind == FileDigestKind.WHOLE else ()
        self._next = 0  # of the holes
        self._at = 0

    def update(self, view: Buffer) -> None:
        """Feed the next bytes of the data."""
        if self._holes:
            self._fill()
            self._at += len(view)
        self._hash.update(view)

    def digest(self) -> bytes:
        """Return the digest of the whole file, after all of its data was fed."""
        if self._holes:
            self._fill()
        return bytes((self._kind,)) + self._hash.digest()

    def _fill(self) -> None:
        """Hash the holes that begin here as zeros."""
        while self._next < len(self._holes) and self._holes[self._next][0] <= self._at:
            left_bytes = self._holes[self._next][1]
            self._next += 1
            self._at += left_bytes
            while left_bytes > 0:
                piece = _ZEROS[:left_bytes]
                self._hash.update(piece)
                left_bytes -= len(piece)
