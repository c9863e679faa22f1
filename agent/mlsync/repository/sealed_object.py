"""Sealed objects (manifests, later proofs, decisions): a small header, then one sealed body. See docs/format.md.

The seal binds the header and the object's own name, so an object that was moved to another number, run or repository
does not open. Each kind has a magic and keys of its own, so that no kind passes for the other.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Final

from mlsync.codec.compression import Coding, CodingBroken, decode, encode
from mlsync.codec.keys import Keys, Purpose
from mlsync.codec.sealing import NONCE_BYTES, TAG_BYTES, Seal, SealBroken
from mlsync.errors import FormatUnsupported, ManifestDamaged
from mlsync.repository.canonical import newer
from mlsync.repository.header import check_epoch, check_format, check_key_kind
from mlsync.repository.tokens import (
    FORMAT_VERSION,
    KEY_DERIVED,
    MAGIC_DECISION,
    MAGIC_LATER_PROOF,
    MAGIC_MANIFEST,
    MAGIC_MOVE,
)

# A long list of files is stored in chunks, so the rest is short.
PLAIN_BYTES_MAX: Final = 64 << 20
SALT_BYTES: Final = 32

_HEADER = struct.Struct("<8sHBBIHBB32s")
HEADER_BYTES: Final = _HEADER.size
OBJECT_BYTES_MAX: Final = HEADER_BYTES + PLAIN_BYTES_MAX + TAG_BYTES
# Each object has its own key, from a random salt, so its only nonce may be zero.
_NONCE: Final = bytes(NONCE_BYTES)


@dataclass(frozen=True, slots=True)
class SealedKind:
    """A kind of sealed object; *noun* is its name in messages."""

    magic: bytes
    purpose: Purpose
    noun: str


MANIFEST: Final = SealedKind(MAGIC_MANIFEST, "manifest", "manifest")
LATER_PROOF: Final = SealedKind(MAGIC_LATER_PROOF, "later proof", "later proof")
DECISION: Final = SealedKind(MAGIC_DECISION, "decision", "decision")
MOVE: Final = SealedKind(MAGIC_MOVE, "move", "move record")


def seal(keys: Keys, kind: SealedKind, key: str, plain: bytes, salt: bytes | None = None) -> bytes:
    """Return the object that holds *plain* under the name *key*, of the newest epoch; only tests give a *salt*."""
    if len(plain) > PLAIN_BYTES_MAX:
        raise ManifestDamaged(f"the {kind.noun} would be larger than any reader takes", where=key)
    salt = os.urandom(SALT_BYTES) if salt is None else salt
    coding, coded = encode(memoryview(plain))
    header = _HEADER.pack(kind.magic, FORMAT_VERSION, KEY_DERIVED, int(coding), len(plain), 0, keys.epoch, 0, salt)
    sealed = Seal(keys.of(kind.purpose, salt, epoch=keys.epoch)).seal(_NONCE, coded, header + key.encode())
    return header + sealed


def open_(keys: Keys, kind: SealedKind, key: str, body: bytes) -> bytes:
    """Return the plain body of the object *key*, or raise ``ManifestDamaged`` or ``FormatUnsupported``."""
    if len(body) < HEADER_BYTES + TAG_BYTES:
        raise ManifestDamaged(f"the {kind.noun} is cut short", where=key)
    header, sealed = body[:HEADER_BYTES], memoryview(body)[HEADER_BYTES:]
    magic, version, key_kind, coding, plain_bytes, material_bytes, epoch, reserved, salt = _HEADER.unpack(header)
    if magic != kind.magic:
        raise ManifestDamaged(f"this is no {kind.noun}", where=key)
    try:
        check_format(version, key, ManifestDamaged)
        check_key_kind(key_kind, key, ManifestDamaged)
        check_epoch(epoch, keys, key)
    except FormatUnsupported as error:
        # The header is not authenticated yet: anybody who may create objects can claim this.
        error.is_claim = True
        raise
    try:
        coded = Seal(keys.of(kind.purpose, salt, epoch=epoch)).open(_NONCE, sealed, header + key.encode())
    except SealBroken:
        what = f"the {kind.noun} does not authenticate: changed, swapped, or of another repository"
        raise ManifestDamaged(what, where=key) from None
    # Before the seal has opened nothing is trusted, not even the length to allocate.
    if plain_bytes > PLAIN_BYTES_MAX:
        raise ManifestDamaged(f"the {kind.noun} is larger than any of ours", where=key)
    if material_bytes:
        raise ManifestDamaged(f"the {kind.noun} has key material, which its kind of key has not", where=key)
    if reserved:
        raise ManifestDamaged(f"the {kind.noun} has a reserved byte that is not 0", where=key)
    if coding not in (Coding.RAW, Coding.ZSTD):
        raise newer(f"coding {coding} is not known here", key)
    try:
        return bytes(decode(Coding(coding), coded, plain_bytes))
    except CodingBroken as error:
        raise ManifestDamaged(f"the {kind.noun} does not decode: {error}", where=key) from None
