"""Digests: what names a chunk, and what only answers whether bytes are still the same.

Names are keyed BLAKE3 (the BLAKE3 paper, section 2, keyed mode): without the key the store can neither recompute a name
from a guessed plaintext nor find two that collide. XXH3 is eight times as quick and no protection at all, and is used
on this side of the store only.
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
    """Return the 32-byte keyed name of *plain*; the GIL is free meanwhile."""
    return blake3(plain, key=key).digest()


def is_named(key: bytes, plain: Buffer, name: bytes) -> bool:
    """Whether *plain* is what *name* was made of."""
    return hmac.compare_digest(chunk_name(key, plain), name)


def run_id(key: bytes, run: str) -> bytes:
    """Return the 16 bytes that stand for *run* in object names, so that the store does not learn what it is called."""
    return blake3(run.encode(), key=key).digest(16)


def object_digest(body: Buffer) -> bytes:
    """Return the SHA-256 of a whole stored object: what one manifest says of the one before it."""
    return hashlib.sha256(body).digest()


def file_digester() -> xxhash.xxh3_128:
    """Return a running XXH3-128 over a file's bytes in order: finds pieces put together wrongly, not an attacker."""
    return xxhash.xxh3_128()
