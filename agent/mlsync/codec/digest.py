"""Digests: keyed names of chunks, and checksums that only tell whether bytes have changed.

Names are keyed BLAKE3 (the BLAKE3 paper, section 2, keyed mode): without the key the store can neither compute a name
from a guessed plaintext nor find two plaintexts of one name. XXH3 is eight times as fast and no protection at all;
mlsync uses it only on its own side of the store.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

import xxhash
from blake3 import blake3

from mlsync.buffers import Buffer

NAME_BYTES: Final = 32
FILE_DIGEST_BYTES: Final = 16
OBJECT_DIGEST_BYTES: Final = 32


def chunk_name(key: bytes, plain: Buffer) -> bytes:
    """Return the 32-byte keyed name of *plain*; releases the GIL."""
    return blake3(plain, key=key).digest()


def is_named(key: bytes, plain: Buffer, name: bytes) -> bool:
    """Return whether *name* is the name of *plain*."""
    return hmac.compare_digest(chunk_name(key, plain), name)


def run_id(key: bytes, run: str) -> bytes:
    """Return the 16 bytes that stand for *run* in object names, so that the store does not learn its name."""
    return blake3(run.encode(), key=key).digest(16)


def object_digest(body: Buffer) -> bytes:
    """Return the SHA-256 of a whole stored object, as each manifest has it of the one before it."""
    return hashlib.sha256(body).digest()


def file_digester() -> xxhash.xxh3_128:
    """Return a running XXH3-128 over a file's bytes in order: it detects wrongly assembled files, not attackers."""
    return xxhash.xxh3_128()
