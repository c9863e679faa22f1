"""A pack's bytes: header, sealed chunks, sealed footer, trailer. See docs/format.md, "Pack".

A pack describes itself: with the master key and this one object, every chunk in it can be found, opened and checked.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import msgspec

from mlsync.buffers import Buffer
from mlsync.codec.compression import Coding
from mlsync.codec.digest import NAME_BYTES
from mlsync.codec.keys import Keys
from mlsync.codec.sealing import TAG_BYTES, Seal, SealBroken
from mlsync.errors import Error, ObjectDamaged
from mlsync.repository import names
from mlsync.repository.encoding.canonical import decode_canonical, newer
from mlsync.repository.encoding.tokens import (
    FORMAT_VERSION,
    KEY_DERIVED,
    KEY_SEALED,
    MAGIC_PACK,
    MAGIC_PACK_END,
    TOKEN_MAX,
)
from mlsync.repository.header import check_epoch, check_format, check_key_kind
from mlsync.repository.keys.object_key import MATERIAL_BYTES, ObjectKey, derived_key

PACK_ID_BYTES: Final = 16
CHUNK_BYTES_MAX: Final = 16 << 20
# Bounds the memory for a footer, while a pack is written or read; a tree may consist of tiny files alone.
PACK_CHUNKS_MAX: Final = 1 << 16
FOOTER_BYTES_MAX: Final = 8 << 20
# Stores take no larger object, and it is far below 64 bits.
PACK_BYTES_MAX: Final = 1 << 40

_HEADER = struct.Struct("<8sHBBI16s16s")
HEADER_BYTES: Final = _HEADER.size
_TRAILER = struct.Struct("<II8s")
TRAILER_BYTES: Final = _TRAILER.size
_CHUNK_BOUND = struct.Struct("<IIB32s")

# The first number separates the nonces of chunks from that of the footer. The second is the chunk's ordinal or the
# footer's count of chunks: two footers of different chunks never share a nonce, whatever a writer does after a crash.
_NONCE = struct.Struct(">IQ")


#: A chunk that is coded and waits to be sealed: its name, its coding, its length when it is decoded, the coded bytes.
CodedChunk: TypeAlias = tuple[bytes, Coding, int, Buffer]


class ChunkRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A chunk as the footer lists it; its ordinal is its index. *base* is the name of a difference's base."""

    name: bytes
    offset: int
    stored_bytes: int
    plain_bytes: int
    coding: int
    base: Any = None  # with a coding of a newer mlsync, anything


class PackHead(msgspec.Struct, frozen=True):
    """The contents of a pack's header, without key material behind it."""

    pack_id: bytes
    repository_id: bytes
    epoch: int
    key_kind: int = KEY_DERIVED

    def encode(self) -> bytes:
        """Return the header's bytes."""
        numbers = FORMAT_VERSION, self.key_kind, self.epoch, self.material_bytes
        return _HEADER.pack(MAGIC_PACK, *numbers, self.pack_id, self.repository_id)

    @property
    def material_bytes(self) -> int:
        """How much key material is behind the header."""
        return MATERIAL_BYTES if self.key_kind == KEY_SEALED else 0


class PackSeal:
    """Seals and opens the contents of one pack, of an epoch that is known; *own* is its key if that is not derived.

    Each pack id is written by one writer, once.
    """

    def __init__(self, keys: Keys, pack_id: bytes, epoch: int, own: ObjectKey | None = None) -> None:
        own = own or derived_key(keys, "pack", pack_id, epoch)
        # With the key material: it is bound in each seal of the pack.
        self.header = PackHead(pack_id, keys.repository_id, own.epoch, own.kind).encode() + own.material
        self._seal = Seal(own.key)

    def seal_chunk(
        self,
        ordinal: int,
        name: bytes,
        coding: Coding,
        plain_bytes: int,
        coded: Buffer,
        into: memoryview,
        base: bytes = b"",
    ) -> int:
        """Seal the chunk *ordinal* to the start of *into*; return its stored length.

        *base* is the name of a difference's base, and empty for what is none.
        """
        bound = self._bound(ordinal, name, coding, plain_bytes, base)
        return self._seal.seal_into(self._nonce(ordinal), coded, bound, into)

    def seal_short(self, first: int, chunks: Sequence[CodedChunk], into: memoryview) -> None:
        """Seal chunks that are no differences from the ordinal *first* on, one behind the other."""
        nonce, bound = self._nonce, self._bound
        pieces = [
            (nonce(ordinal), coded, bound(ordinal, name, coding, plain_bytes, b""))
            for ordinal, (name, coding, plain_bytes, coded) in enumerate(chunks, first)
        ]
        self._seal.seal_each(pieces, into)

    def open_short(self, ordinal: int, name: bytes, coding: Coding, plain_bytes: int, sealed: memoryview) -> bytes:
        """Return what ``open_chunk`` does of a short chunk that is no difference; raise ``SealBroken`` like it."""
        return self._seal.open(self._nonce(ordinal), sealed, self._bound(ordinal, name, coding, plain_bytes, b""))

    def open_chunk(
        self,
        ordinal: int,
        name: bytes,
        coding: Coding,
        plain_bytes: int,
        sealed: memoryview | bytes,
        into: memoryview,
        base: bytes = b"",
    ) -> None:
        """Open the chunk *ordinal*; raise ``SealBroken`` unless all that is said of it is as it was sealed."""
        bound = self._bound(ordinal, name, coding, plain_bytes, base)
        self._seal.open_into(self._nonce(ordinal), sealed, bound, into)

    def seal_end(self, records: Sequence[ChunkRecord]) -> bytes:
        """Return the sealed footer and the trailer."""
        plain = msgspec.msgpack.encode(records)
        assert len(plain) + TAG_BYTES <= FOOTER_BYTES_MAX, "a footer that no reader takes"
        trailer = _TRAILER.pack(len(plain) + TAG_BYTES, len(records), MAGIC_PACK_END)
        return self._seal.seal(_NONCE.pack(1, len(records)), plain, self.header + trailer) + trailer

    def open_footer(self, sealed: bytes, trailer: bytes) -> list[ChunkRecord]:
        """Return the records in the footer, or raise ``SealBroken``."""
        _, chunk_count, _ = _TRAILER.unpack(trailer)
        plain = self._seal.open(_NONCE.pack(1, chunk_count), sealed, self.header + trailer)
        try:
            records = decode_canonical(plain, list[ChunkRecord], "")
        except ValueError as error:
            raise SealBroken(f"the footer does not parse: {error}") from None
        if len(records) != chunk_count:
            raise SealBroken("the footer lists another number of chunks than the trailer says")
        return records

    @staticmethod
    def _nonce(ordinal: int) -> bytes:
        return _NONCE.pack(0, ordinal)

    def _bound(self, ordinal: int, name: bytes, coding: Coding, plain_bytes: int, base: bytes) -> bytes:
        assert (len(base) == NAME_BYTES) == (coding is Coding.DIFFERENCE), (
            "a base without a difference, or none with one"
        )
        return self.header + _CHUNK_BOUND.pack(ordinal, plain_bytes, coding, name) + base


def parse_header(body: bytes, keys: Keys, pack_id: bytes) -> PackHead:
    """Return what a pack's first bytes say, if they are those of the pack *pack_id* of this repository."""
    where = names.pack(pack_id)
    if len(body) != HEADER_BYTES:
        raise ObjectDamaged("the pack is shorter than its header", where=where)
    magic, version, key_kind, epoch, _, found_id, repository_id = _HEADER.unpack(body)
    if magic != MAGIC_PACK:
        raise ObjectDamaged("this is no pack", where=where)
    check_format(version, where)
    check_key_kind(key_kind, where)
    check_epoch(epoch, keys, where)
    if found_id != pack_id or repository_id != keys.repository_id:
        raise ObjectDamaged("this pack belongs under another name or in another repository", where=where)
    # Only the length of the key material is left to check: no byte of a pack may change unnoticed.
    head = PackHead(pack_id, keys.repository_id, epoch, key_kind)
    if body != head.encode():
        raise ObjectDamaged("the pack's header is damaged", where=where)
    return head


def parse_trailer(body: bytes, pack_bytes: int, where: str) -> int:
    """Return the sealed footer's length; raise ``ObjectDamaged`` if it is out of bounds."""
    footer_bytes, chunk_count, magic = _TRAILER.unpack(body)
    if magic != MAGIC_PACK_END:
        raise ObjectDamaged("the pack has no trailer: it is cut short, longer, or overwritten", where=where)
    room_bytes = pack_bytes - HEADER_BYTES - TRAILER_BYTES
    if not TAG_BYTES < footer_bytes <= min(room_bytes, FOOTER_BYTES_MAX) or chunk_count > PACK_CHUNKS_MAX:
        raise ObjectDamaged("the pack's trailer is damaged: its numbers are out of bounds", where=where)
    return int(footer_bytes)


def is_sound(name: bytes, ordinal: int, offset: int, stored_bytes: int, plain_bytes: int) -> bool:
    """Return whether a chunk's numbers, in a footer or a manifest, are within the format's bounds."""
    return (
        len(name) == NAME_BYTES
        and 0 <= ordinal < PACK_CHUNKS_MAX
        and HEADER_BYTES <= offset <= PACK_BYTES_MAX
        and 0 < plain_bytes <= CHUNK_BYTES_MAX
        # Raw at worst: a chunk that coding would make longer is stored raw.
        and TAG_BYTES < stored_bytes <= plain_bytes + TAG_BYTES
    )


def names_its_base(coding: int, name: bytes, base: object) -> bool:
    """Return whether a footer names a base where there is one: another chunk's name for a difference, else nothing."""
    if coding != Coding.DIFFERENCE:
        # What a newer mlsync's coding has there, nobody knows here.
        return base is None or coding > max(Coding)
    return isinstance(base, bytes) and len(base) == NAME_BYTES and base != name


def coding_of(number: int, where: str, damage: type[Error]) -> Coding:
    """Return the coding of that number; raise ``FormatUnsupported`` for a number of a newer mlsync, else *damage*."""
    try:
        return Coding(number)
    except ValueError:
        if 0 <= number <= TOKEN_MAX:
            raise newer(f"coding {number} is not known here", where) from None
        raise damage(f"there is no coding {number}", where=where) from None


def records_are_sound(records: Sequence[ChunkRecord], footer_offset: int, first_offset: int = HEADER_BYTES) -> bool:
    """Return whether the chunks fill the pack up to its footer without gaps, each within its bounds."""
    offset = first_offset
    for ordinal, record in enumerate(records):
        numbers = (record.offset, record.stored_bytes, record.plain_bytes)
        if record.offset != offset or not is_sound(record.name, ordinal, *numbers):
            return False
        if not names_its_base(record.coding, record.name, record.base):
            return False
        offset += record.stored_bytes
    return offset == footer_offset
