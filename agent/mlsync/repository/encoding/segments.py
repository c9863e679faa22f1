"""Turn a version's entries into the segments of its manifest's body, and segments into entries.

A segment ends after an entry whose path has a low hash; the more bytes an entry takes, the more likely that is. The cut
depends on that entry alone, so a file that comes or goes changes only its own segment: of a version of 100,000 files
that differs in one, one segment is stored again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import msgspec
import xxhash
from msgspec.structs import replace

from mlsync.codec.compression import Coding
from mlsync.errors import ManifestDamaged
from mlsync.repository.encoding.canonical import decode_as
from mlsync.repository.encoding.room import check_room
from mlsync.repository.encoding.tokens import KEY_DERIVED
from mlsync.repository.encoding.validation import check_entry, check_tree, table_of_packs
from mlsync.repository.manifest import ChunkRef, Entry, ManifestRoot, PackedRef, PackPlace, Segment, SegmentRef
from mlsync.repository.pack.pack import CHUNK_BYTES_MAX, coding_of, is_sound

if TYPE_CHECKING:
    from mlsync.repository.writer import PlacedChunk

# A body up to this length is part of the manifest: most runs need no other object for it.
INLINE_BYTES_MAX: Final = 64 << 10
SEGMENT_BYTES: Final = 64 << 10
# One entry can be a file of a million chunks, and a segment is read as a whole.
SEGMENT_BYTES_MAX: Final = 256 << 20
# All segments of a version: some ten million files. It bounds what a reader of a planted manifest would fetch.
BODY_BYTES_MAX: Final = 4 << 30

Put: TypeAlias = "Callable[[bytes], PlacedChunk]"
# The fields of a PackedRef.
_PackedFields: TypeAlias = tuple[bytes, int, int, int, int, int, int, PackedRef | None]


class Body:
    """A manifest's body while it is stored: its segments, whose chunks are known once the writer has finished."""

    def __init__(self, entries: tuple[Entry, ...], put: Put, where: str) -> None:
        # Readers refuse such a body, so writing it would lose the version unnoticed.
        for entry in entries:
            check_entry(entry, where)
        check_tree(entries, where)
        self._inline: bytes | None = None
        self._segments: list[tuple[bytes, int, list[PlacedChunk]]] = []
        parts = _split(entries)
        # As many as the manifest itself would hold: of a long list each part goes to the store as soon as it is made.
        first, first_bytes = _up_to(parts, INLINE_BYTES_MAX)
        if first_bytes <= INLINE_BYTES_MAX:
            self._inline = encode_entries(entries)
            self._first = entries[0].path if entries else b""
            self._count = len(entries)
            return
        body_bytes = 0
        for first_path, count, encoded in chain(first, parts):
            body_bytes += len(encoded)
            if body_bytes > BODY_BYTES_MAX:
                raise ManifestDamaged("the list of files is longer than 4 GiB", where=where)
            if len(encoded) > SEGMENT_BYTES_MAX:
                raise ManifestDamaged(f"the list of chunks at {first_path!r} is too long", where=where)
            pieces = [encoded[at : at + CHUNK_BYTES_MAX] for at in range(0, len(encoded), CHUNK_BYTES_MAX)]
            self._segments.append((first_path, count, [put(piece) for piece in pieces]))

    def refs(self) -> list[ChunkRef]:
        """Return the chunks that hold the body."""
        return [placed.ref for _, _, placed_list in self._segments for placed in placed_list]

    def encode(self) -> tuple[list[bytes], list[SegmentRef]]:
        """Return the root's table of packs and list of segments."""
        if self._inline is not None:
            return [], [SegmentRef(self._first, self._count, self._inline, [])]
        table = PackTable()
        segments = [
            SegmentRef(first_path, count, None, [table.refer(placed.ref) for placed in placed_list])
            for first_path, count, placed_list in self._segments
        ]
        return table.packs, segments


def read_entries(
    root: ManifestRoot, stream: Callable[[Iterable[ChunkRef]], Iterator[bytes | bytearray | memoryview]], where: str
) -> tuple[Entry, ...]:
    """Return all entries of a version in path order, or raise ``ManifestDamaged``."""
    packs = table_of_packs(root.packs, where)
    refs = [_refs_of(segment, packs, where) for segment in root.segments]
    if sum(ref.plain_bytes for segment_refs in refs for ref in segment_refs) > BODY_BYTES_MAX:
        raise ManifestDamaged("the version's list of files is longer than 4 GiB", where=where)
    chunks = stream(ref for segment_refs in refs for ref in segment_refs)
    entries: list[Entry] = []
    for segment, segment_refs in zip(root.segments, refs, strict=True):
        body = segment.inline if segment.inline is not None else _joined(chunks, len(segment_refs))
        found = decode_entries(body, where)
        if (len(found), found[0].path if found else b"") != (segment.entry_count, segment.first_path):
            raise ManifestDamaged("a segment holds other entries than its reference says", where=where)
        entries += found
    check_tree(entries, where)
    return tuple(entries)


def segment_refs(root: ManifestRoot, where: str) -> tuple[ChunkRef, ...]:
    """Return the chunks that hold a version's own body."""
    packs = table_of_packs(root.packs, where)
    return tuple(ref for segment in root.segments for ref in _refs_of(segment, packs, where))


def _joined(chunks: Iterator[bytes | bytearray | memoryview], count: int) -> bytes:
    body = bytearray()
    for _ in range(count):
        # One by one: each chunk is released when the next is taken.
        body += next(chunks)
    return bytes(body)


def _refs_of(segment: SegmentRef, packs: list[PackPlace], where: str) -> tuple[ChunkRef, ...]:
    if (segment.inline is None) != bool(segment.chunks):
        raise ManifestDamaged("a segment is both inline and in chunks, or neither", where=where)
    if sum(ref.plain_bytes for ref in segment.chunks) > SEGMENT_BYTES_MAX:
        raise ManifestDamaged("a segment is longer than 256 MiB", where=where)
    return unpack_plain_refs(segment.chunks, packs, where)


def _split(entries: tuple[Entry, ...]) -> Iterator[tuple[bytes, int, bytes]]:
    start = 0
    for position, entry in enumerate(entries):
        if position + 1 == len(entries) or _ends_segment(entry):
            part = entries[start : position + 1]
            yield part[0].path, len(part), encode_entries(part)
            start = position + 1


def _up_to(parts: Iterator[tuple[bytes, int, bytes]], most_bytes: int) -> tuple[list[tuple[bytes, int, bytes]], int]:
    """Return the first parts, until they are longer than *most_bytes* together, and how long they are."""
    taken, taken_bytes = [], 0
    for part in parts:
        taken.append(part)
        taken_bytes += len(part[2])
        if taken_bytes > most_bytes:
            break
    return taken, taken_bytes


def _ends_segment(entry: Entry) -> bool:
    cost_bytes = 60 + len(entry.path) + 64 * len(entry.chunks) + (400 if entry.proof else 0)
    return xxhash.xxh64_intdigest(entry.path) * SEGMENT_BYTES < cost_bytes << 64


def pack_bin(epoch: int, pack_id: bytes, key_kind: int = KEY_DERIVED) -> bytes:
    """Return a pack as stored objects name it."""
    return bytes((key_kind, epoch)) + pack_id


class PackTable:
    """Replaces pack ids by indices while entries are encoded."""

    def __init__(self) -> None:
        self.packs: list[bytes] = []
        self._index: dict[bytes, int] = {}

    def refer(self, ref: ChunkRef) -> PackedRef:
        """Return *ref* with its pack, and that of its base, as an index into ``packs``."""
        return PackedRef(*self.fields_of(ref))

    def fields_of(self, ref: ChunkRef) -> _PackedFields:
        """Return the fields of the same."""
        index = self._index.get(ref.pack)
        if index is None:
            index = self._index[ref.pack] = len(self.packs)
            self.packs.append(pack_bin(ref.epoch, ref.pack, ref.key_kind))
        base = None if ref.base is None else self.refer(ref.base)
        return ref.name, index, ref.ordinal, ref.offset, ref.stored_bytes, ref.plain_bytes, int(ref.coding), base


def encode_entries(entries: Sequence[Entry]) -> bytes:
    """Return the bytes of a segment; they depend on these entries alone."""
    table = PackTable()
    # A Segment of Entry of PackedRef, as tuples: to make those objects takes longer than to encode them.
    packed = [_fields_of(entry, table) for entry in entries]
    return msgspec.msgpack.encode((table.packs, packed, None))


def _fields_of(entry: Entry, table: PackTable) -> tuple[object, ...]:
    """Return the fields of an entry as a segment has them: its chunks name packs by their index in *table*."""
    return (
        entry.path,
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime_ns,
        entry.size_bytes,
        entry.target,
        entry.digest,
        entry.holes,
        [table.fields_of(ref) for ref in entry.chunks],
        entry.proof,
        entry.room,
    )


def decode_entries(body: bytes | memoryview, where: str) -> list[Entry]:
    """Return a segment's entries, each checked, or raise ``ManifestDamaged``."""
    segment = decode_as(body, Segment, where)
    check_room(segment.room, "a segment", where)
    packs = table_of_packs(segment.packs, where)
    unpacked = [replace(packed, chunks=unpack_refs(packed.chunks, packs, where)) for packed in segment.entries]
    entries = cast("list[Entry]", unpacked)
    for entry in entries:
        check_entry(entry, where)
    return entries


def unpack_refs(packed: Sequence[PackedRef], packs: Sequence[PackPlace], where: str) -> tuple[ChunkRef, ...]:
    """Return the references with their packs; raise ``ManifestDamaged`` for one out of bounds."""
    return tuple(_unpacked(ref, packs, where) for ref in packed)


def unpack_plain_refs(packed: Sequence[PackedRef], packs: Sequence[PackPlace], where: str) -> tuple[ChunkRef, ...]:
    """Do the same where no chunk may be a difference."""
    refs = unpack_refs(packed, packs, where)
    if any(ref.base is not None for ref in refs):
        raise ManifestDamaged("a chunk is a difference where none may be", where=where)
    return refs


def _unpacked(ref: PackedRef, packs: Sequence[PackPlace], where: str) -> ChunkRef:
    if not 0 <= ref.pack < len(packs):
        raise ManifestDamaged("a chunk names a pack that is not in the table", where=where)
    coding = coding_of(ref.coding, where, ManifestDamaged)
    if not is_sound(ref.name, ref.ordinal, ref.offset, ref.stored_bytes, ref.plain_bytes):
        raise ManifestDamaged("a chunk's numbers are out of bounds", where=where)
    if (ref.base is not None) != (coding is Coding.DIFFERENCE):
        raise ManifestDamaged("a chunk is a difference without a base, or has a base and is none", where=where)
    base = None if ref.base is None else _base(ref, packs, where)
    pack = packs[ref.pack]
    numbers = ref.ordinal, ref.offset, ref.stored_bytes, ref.plain_bytes
    return ChunkRef(ref.name, pack.pack_id, *numbers, coding, pack.epoch, pack.key_kind, base)


def _base(ref: PackedRef, packs: Sequence[PackPlace], where: str) -> ChunkRef:
    # Its positions were decoded without types. They are looked at one by one: what decodes with a type makes a decoder,
    # which only one thread at a time may do.
    fields = ref.base
    is_ref = isinstance(fields, list) and len(fields) == len(PackedRef.__struct_fields__)
    if not is_ref or type(fields[0]) is not bytes or any(type(number) is not int for number in fields[1:-1]):
        raise ManifestDamaged("a base is no chunk reference", where=where)
    packed = PackedRef(*fields)
    # Before anything else of it is looked at: a planted manifest may nest bases a thousand deep.
    if coding_of(packed.coding, where, ManifestDamaged) is Coding.DIFFERENCE or packed.base is not None:
        raise ManifestDamaged("the base of a difference is a difference itself", where=where)
    base = _unpacked(packed, packs, where)
    if base.plain_bytes != ref.plain_bytes or base.name == ref.name:
        raise ManifestDamaged("the base of a difference has another length, or is the chunk itself", where=where)
    return base
