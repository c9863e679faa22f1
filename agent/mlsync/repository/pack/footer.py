"""Read the list of chunks in a pack's footer: the master key and this one object are enough to find them."""

from __future__ import annotations

from mlsync.codec.keys import Keys
from mlsync.codec.sealing import SealBroken
from mlsync.errors import ObjectArchived, ObjectDamaged, StoreBroken
from mlsync.repository import names
from mlsync.repository.encoding.tokens import KEY_SEALED
from mlsync.repository.keys.object_key import check_material, made_key, opened_key
from mlsync.repository.manifest import ChunkRef, PackPlace, unplaced
from mlsync.repository.pack.pack import (
    HEADER_BYTES,
    TRAILER_BYTES,
    ChunkRecord,
    PackHead,
    PackSeal,
    coding_of,
    parse_header,
    parse_trailer,
    records_are_sound,
)
from mlsync.store.base import Store


def read_refs(store: Store, keys: Keys, pack_id: bytes, size_bytes: int) -> list[ChunkRef]:
    """Return the chunks of a pack by ordinal, or raise ``ObjectDamaged`` or ``FormatUnsupported``.

    A footer has the names of bases, and does not say where they lie.
    """
    key = names.pack(pack_id)
    if size_bytes < HEADER_BYTES + TRAILER_BYTES:
        raise ObjectDamaged("the pack is shorter than any pack", where=key)
    seal, place = read_seal(store, keys, pack_id)
    trailer = _read(store, key, size_bytes - TRAILER_BYTES, TRAILER_BYTES)
    footer_bytes = parse_trailer(trailer, size_bytes, key)
    footer_offset = size_bytes - TRAILER_BYTES - footer_bytes
    try:
        records = seal.open_footer(_read(store, key, footer_offset, footer_bytes), trailer)
    except SealBroken as error:
        raise ObjectDamaged(f"the pack's footer is damaged: {error}", where=key) from None
    if not records_are_sound(records, footer_offset, len(seal.header)):
        raise ObjectDamaged("the pack's footer does not describe the pack", where=key)
    return [ref_of(place, ordinal, record, key) for ordinal, record in enumerate(records)]


def read_seal(store: Store, keys: Keys, pack_id: bytes) -> tuple[PackSeal, PackPlace]:
    """Return what opens the contents of a pack, after reading its header and key material.

    Raise ``NotFound``, ``ObjectDamaged`` or ``FormatUnsupported``.
    """
    key = names.pack(pack_id)
    head = parse_header(_read(store, key, 0, HEADER_BYTES), keys, pack_id)
    place = PackPlace(head.epoch, pack_id, head.key_kind)
    if head.key_kind != KEY_SEALED:
        return PackSeal(keys, pack_id, head.epoch), place
    return _sealed_to_recipient(store, keys, head), place


def made_seal(keys: Keys, pack_id: bytes) -> PackSeal | None:
    """Return what opens the contents of a pack that this process sealed to a recipient; no request."""
    own = made_key(keys, "pack", pack_id)
    return None if own is None else PackSeal(keys, pack_id, own.epoch, own)


def _sealed_to_recipient(store: Store, keys: Keys, head: PackHead) -> PackSeal:
    key = names.pack(head.pack_id)
    material = _read(store, key, HEADER_BYTES, head.material_bytes)
    check_material(head.material_bytes, material, key, ObjectDamaged)
    try:
        own = opened_key(keys, "pack", head.pack_id, head.epoch, material)
    except SealBroken:
        what = "the pack's key material does not authenticate: changed, swapped, or of another repository"
        raise ObjectDamaged(what, where=key) from None
    return PackSeal(keys, head.pack_id, head.epoch, own)


def _read(store: Store, key: str, offset: int, length: int) -> bytes:
    body = bytearray(length)
    try:
        store.read(key, offset, memoryview(body))
    except StoreBroken as error:
        if not error.is_of_object:
            raise
        raise ObjectDamaged(f"the pack is cut short: {error.what}", where=key) from error
    return bytes(body)


def read_range(store: Store, pack_id: bytes, offset: int, into: memoryview) -> None:
    """Fill *into* from a pack; raise ``NotFound``, ``ObjectArchived`` or ``ObjectDamaged``, which name the pack."""
    key = names.pack(pack_id)
    try:
        store.read(key, offset, into)
    except ObjectArchived as error:
        raise ObjectArchived(f"a pack cannot be read: {error.what}", where=key, advice=error.advice) from error
    except StoreBroken as error:
        if not error.is_of_object:
            raise
        raise ObjectDamaged(f"a pack is cut short: {error.what}", where=key) from error


def ref_of(pack: PackPlace, ordinal: int, record: ChunkRecord, key: str) -> ChunkRef:
    """Return the chunk that a record in the footer of *pack* describes.

    Raise ``FormatUnsupported`` if it is of a newer format.
    """
    coding = coding_of(record.coding, key, ObjectDamaged)
    numbers = ordinal, record.offset, record.stored_bytes, record.plain_bytes
    base = None if record.base is None else unplaced(record.base, record.plain_bytes)
    return ChunkRef(record.name, pack.pack_id, *numbers, coding, pack.epoch, pack.key_kind, base)
