"""Read the list of chunks in a pack's footer: the master key and this one object are enough to find them."""

from __future__ import annotations

from mlsync.codec.keys import Keys
from mlsync.codec.sealing import SealBroken
from mlsync.errors import ObjectDamaged, StoreBroken
from mlsync.repository import names
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.pack.pack import (
    HEADER_BYTES,
    TRAILER_BYTES,
    ChunkRecord,
    PackSeal,
    coding_of,
    newer_base,
    parse_header,
    parse_trailer,
    records_are_sound,
)
from mlsync.store.base import Store


def read_refs(store: Store, keys: Keys, pack_id: bytes, size_bytes: int) -> list[ChunkRef]:
    """Return the chunks of a pack by ordinal, or raise ``ObjectDamaged`` or ``FormatUnsupported``."""
    key = names.pack(pack_id)
    if size_bytes < HEADER_BYTES + TRAILER_BYTES:
        raise ObjectDamaged("the pack is shorter than any pack", where=key)
    epoch = parse_header(_read(store, key, 0, HEADER_BYTES), keys, pack_id)
    trailer = _read(store, key, size_bytes - TRAILER_BYTES, TRAILER_BYTES)
    footer_bytes = parse_trailer(trailer, size_bytes, key)
    footer_offset = size_bytes - TRAILER_BYTES - footer_bytes
    try:
        records = PackSeal(keys, pack_id, epoch).open_footer(_read(store, key, footer_offset, footer_bytes), trailer)
    except SealBroken as error:
        raise ObjectDamaged(f"the pack's footer is damaged: {error}", where=key) from None
    if not records_are_sound(records, footer_offset):
        raise ObjectDamaged("the pack's footer does not describe the pack", where=key)
    return [ref_of((epoch, pack_id), ordinal, record, key) for ordinal, record in enumerate(records)]


def _read(store: Store, key: str, offset: int, length: int) -> bytes:
    body = bytearray(length)
    try:
        store.read(key, offset, memoryview(body))
    except StoreBroken as error:
        if not error.is_of_object:
            raise
        raise ObjectDamaged(f"the pack is cut short: {error.what}", where=key) from error
    return bytes(body)


def ref_of(pack: tuple[int, bytes], ordinal: int, record: ChunkRecord, key: str) -> ChunkRef:
    """Return the chunk that a record in the footer of *pack*, an epoch and an id, describes.

    Raise ``FormatUnsupported`` if it is of a newer format.
    """
    if record.base is not None:
        raise newer_base(key)
    coding = coding_of(record.coding, key, ObjectDamaged)
    epoch, pack_id = pack
    numbers = ordinal, record.offset, record.stored_bytes, record.plain_bytes
    return ChunkRef(record.name, pack_id, *numbers, coding, epoch)
