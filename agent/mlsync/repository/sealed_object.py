"""Sealed objects (manifests, later proofs, decisions): a small header, then one sealed body. See docs/format.md.

The seal binds the header and the object's own name, so an object that was moved to another number, run or repository
does not open. Each kind has a magic and keys of its own, so that no kind passes for the other.
"""

from __future__ import annotations

import os
import struct
from typing import Final

import msgspec

from mlsync.codec.compression import Coding, CodingBroken, decode, encode
from mlsync.codec.keys import Keys, Purpose
from mlsync.codec.sealing import NONCE_BYTES, TAG_BYTES, Seal, SealBroken
from mlsync.errors import FormatUnsupported, ManifestDamaged
from mlsync.repository.encoding.canonical import newer
from mlsync.repository.encoding.tokens import (
    FORMAT_VERSION,
    KEY_SEALED,
    MAGIC_DECISION,
    MAGIC_EPOCH,
    MAGIC_EVALUATION,
    MAGIC_FENCE,
    MAGIC_LATER_PROOF,
    MAGIC_MANIFEST,
    MAGIC_MOVE,
    MAGIC_OMISSION,
    MAGIC_REGISTRATION,
    MAGIC_TOMBSTONE,
)
from mlsync.repository.header import check_epoch, check_format, check_key_kind
from mlsync.repository.keys.object_key import (
    MATERIAL_BYTES,
    ObjectKey,
    check_material,
    derived_key,
    new_object_key,
    opened_key,
)
from mlsync.store.base import Store

# A long list of files is stored in chunks, so the rest is short.
PLAIN_BYTES_MAX: Final = 64 << 20
SALT_BYTES: Final = 32

_HEADER = struct.Struct("<8sHBBIHBB32s")
HEADER_BYTES: Final = _HEADER.size
OBJECT_BYTES_MAX: Final = HEADER_BYTES + MATERIAL_BYTES + PLAIN_BYTES_MAX + TAG_BYTES
# Each object has its own key, from a random salt, so its only nonce may be zero.
_NONCE: Final = bytes(NONCE_BYTES)


class SealedKind(msgspec.Struct, frozen=True):
    """A kind of sealed object; *noun* is its name in messages.

    With *may_be_sealed_to_recipient* a node may have written it that can write and not read. One that *is_raw* is never
    compressed.
    """

    magic: bytes
    purpose: Purpose
    noun: str
    may_be_sealed_to_recipient: bool = False
    is_raw: bool = False


MANIFEST: Final = SealedKind(MAGIC_MANIFEST, "manifest", "manifest", may_be_sealed_to_recipient=True)
LATER_PROOF: Final = SealedKind(MAGIC_LATER_PROOF, "later proof", "later proof")
EVALUATION: Final = SealedKind(MAGIC_EVALUATION, "evaluation", "evaluation")
EPOCH: Final = SealedKind(MAGIC_EPOCH, "epoch", "epoch")
DECISION: Final = SealedKind(MAGIC_DECISION, "decision", "decision")
MOVE: Final = SealedKind(MAGIC_MOVE, "move", "move record")
FENCE: Final = SealedKind(MAGIC_FENCE, "fence", "fence", is_raw=True)
OMISSION: Final = SealedKind(MAGIC_OMISSION, "omission", "omission")
TOMBSTONE: Final = SealedKind(MAGIC_TOMBSTONE, "tombstone", "tombstone")
REGISTRATION: Final = SealedKind(
    MAGIC_REGISTRATION, "registration", "registration of a run", may_be_sealed_to_recipient=True
)


def seal(keys: Keys, kind: SealedKind, key: str, plain: bytes, salt: bytes | None = None) -> bytes:
    """Return the object that holds *plain* under the name *key*, of the newest epoch; only tests give a *salt*."""
    if len(plain) > PLAIN_BYTES_MAX:
        raise ManifestDamaged(f"the {kind.noun} would be larger than any reader takes", where=key)
    salt = os.urandom(SALT_BYTES) if salt is None else salt
    coding, coded = (Coding.RAW, memoryview(plain)) if kind.is_raw else encode(memoryview(plain))
    may_be_sealed = kind.may_be_sealed_to_recipient
    own = (
        new_object_key(keys, kind.purpose, salt) if may_be_sealed else derived_key(keys, kind.purpose, salt, keys.epoch)
    )
    about_key = len(own.material), own.epoch, 0
    header = _HEADER.pack(kind.magic, FORMAT_VERSION, own.kind, int(coding), len(plain), *about_key, salt)
    header += own.material
    return header + Seal(own.key).seal(_NONCE, coded, header + key.encode())


def epoch_of(body: bytes) -> int:
    """Return the epoch that an object states, -1 if it is too short for one; only its seal shows whether that is so."""
    return int(_HEADER.unpack(body[:HEADER_BYTES])[6]) if len(body) >= HEADER_BYTES else -1


def open_(keys: Keys, kind: SealedKind, key: str, body: bytes) -> bytes:
    """Return the plain body of the object *key*, or raise ``ManifestDamaged`` or ``FormatUnsupported``."""
    if len(body) < HEADER_BYTES + TAG_BYTES:
        raise ManifestDamaged(f"the {kind.noun} is cut short", where=key)
    magic, version, key_kind, coding, plain_bytes, material_bytes, epoch, reserved, salt = _HEADER.unpack_from(body)
    if magic != kind.magic:
        raise ManifestDamaged(f"this is no {kind.noun}", where=key)
    try:
        check_format(version, key, ManifestDamaged)
        check_key_kind(key_kind, key, ManifestDamaged)
        check_epoch(epoch, keys, key)
        material = _material(kind, key, body, material_bytes) if key_kind == KEY_SEALED else b""
    except FormatUnsupported as error:
        # The header is not authenticated yet: anybody who may create objects can claim this.
        error.is_claim = True
        raise
    try:
        own = _own_key(keys, kind, salt, epoch, material)
        end = HEADER_BYTES + len(material)
        coded = Seal(own.key).open(_NONCE, memoryview(body)[end:], body[:end] + key.encode())
    except SealBroken:
        what = f"the {kind.noun} does not authenticate: changed, swapped, or of another repository"
        raise ManifestDamaged(what, where=key) from None
    # Before the seal has opened nothing is trusted, not even the length to allocate.
    if plain_bytes > PLAIN_BYTES_MAX:
        raise ManifestDamaged(f"the {kind.noun} is larger than any of ours", where=key)
    if material_bytes != len(material):
        raise ManifestDamaged(f"the {kind.noun} has key material, which its kind of key has not", where=key)
    if reserved:
        raise ManifestDamaged(f"the {kind.noun} has a reserved byte that is not 0", where=key)
    if coding not in ((Coding.RAW,) if kind.is_raw else (Coding.RAW, Coding.ZSTD)):
        raise newer(f"coding {coding} is not known here", key)
    try:
        return bytes(decode(Coding(coding), coded, plain_bytes))
    except CodingBroken as error:
        raise ManifestDamaged(f"the {kind.noun} does not decode: {error}", where=key) from None


def looks_like_manifest(store: Store, key: str, size_bytes: int) -> bool:
    """Return whether an object may be a manifest, for who cannot open it: one small read."""
    if not HEADER_BYTES + TAG_BYTES < size_bytes <= OBJECT_BYTES_MAX:
        return False
    head = bytearray(len(MAGIC_MANIFEST))
    store.read(key, 0, memoryview(head))
    return bytes(head) == MAGIC_MANIFEST


def _material(kind: SealedKind, key: str, body: bytes, material_bytes: int) -> bytes:
    """Return the key material of an object that says that its key is sealed to a recipient."""
    # A node that was taken over could otherwise prove and decide, beside writing versions.
    if not kind.may_be_sealed_to_recipient:
        raise ManifestDamaged(f"a {kind.noun} never has a key that is sealed to a public key", where=key)
    material = body[HEADER_BYTES : HEADER_BYTES + MATERIAL_BYTES]
    check_material(material_bytes, material, key, ManifestDamaged)
    return material


def _own_key(keys: Keys, kind: SealedKind, salt: bytes, epoch: int, material: bytes) -> ObjectKey:
    if material:
        return opened_key(keys, kind.purpose, salt, epoch, material)
    return derived_key(keys, kind.purpose, salt, epoch)
