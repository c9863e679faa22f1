"""Move records: objects ``moves/<pack>`` that say where the chunks of a pack lie, once they were stored anew elsewhere.

Compaction moves what is still needed of a mostly dead pack, so that the pack can be deleted; manifests never change and
go on naming the old pack. A reader looks here if a pack is gone. What it finds is compared with the chunk's name as
always, so that a record can only fail to help. See docs/format.md, "Moves".
"""

from __future__ import annotations

import struct
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from mlsync.codec.compression import Coding
from mlsync.codec.digest import NAME_BYTES
from mlsync.codec.keys import Keys
from mlsync.errors import (
    AlreadyExists,
    FormatUnsupported,
    ManifestDamaged,
    NotFound,
    ObjectDamaged,
    StoreBroken,
    WriteOnly,
)
from mlsync.repository import names, sealed_object
from mlsync.repository.encoding.canonical import decode_as
from mlsync.repository.encoding.room import Room, check_room
from mlsync.repository.encoding.segments import PackTable, unpack_plain_refs
from mlsync.repository.encoding.validation import is_time, table_of_packs
from mlsync.repository.manifest import ChunkRef, PackedRef
from mlsync.repository.pack.pack import PACK_CHUNKS_MAX
from mlsync.repository.read_twice import read_anywhere
from mlsync.repository.sealed_object import MOVE
from mlsync.store.base import Store

#: A chunk may be moved on and on; a reader follows so many records for it.
STEPS_MAX: Final = 16
#: More than 65,536 chunks in as many packs take; it bounds what a reader fetches for a planted record.
RECORD_BYTES_MAX: Final = 8 << 20
# What is kept of records that were read: some megabytes, whatever their number.
_KEPT_CHUNKS_MAX: Final = 1 << 17
# Name, index of the pack, ordinal, offset, stored and plain length, coding.
_ROW: Final = struct.Struct(">32sIHQIIB")


class MoveRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where the chunks of *pack* lie that were needed when it was moved, by rising name."""

    pack: bytes
    created_ns: int
    writer: str
    packs: list[bytes]
    chunks: list[PackedRef]
    room: Room = None


class Moved:
    """The new places of one pack's chunks, in a few bytes each: a record may have 65,536 of them.

    *epoch* is that of the key which sealed the record.
    """

    def __init__(self, refs: Sequence[ChunkRef], epoch: int = 0) -> None:
        """Take *refs*, whose names rise."""
        self.epoch = epoch
        self._packs = list(dict.fromkeys(ref.place for ref in refs))
        index = {pack: at for at, pack in enumerate(self._packs)}
        self._rows = b"".join(
            _ROW.pack(
                ref.name,
                index[ref.place],
                ref.ordinal,
                ref.offset,
                ref.stored_bytes,
                ref.plain_bytes,
                int(ref.coding),
            )
            for ref in refs
        )

    def __len__(self) -> int:
        return len(self._rows) // _ROW.size

    def __iter__(self) -> Iterator[ChunkRef]:
        return map(self._ref, range(len(self)))

    @property
    def packs(self) -> frozenset[bytes]:
        """The packs that hold the chunks now."""
        return frozenset(pack.pack_id for pack in self._packs)

    def find(self, name: bytes) -> ChunkRef | None:
        """Return where the chunk lies, ``None`` if the record does not have it."""
        at = bisect_left(range(len(self)), name, key=self._name)
        return self._ref(at) if at < len(self) and self._name(at) == name else None

    def _name(self, at: int) -> bytes:
        return self._rows[at * _ROW.size : at * _ROW.size + NAME_BYTES]

    def _ref(self, at: int) -> ChunkRef:
        name, index, ordinal, offset, stored_bytes, plain_bytes, coding = _ROW.unpack_from(self._rows, at * _ROW.size)
        numbers = ordinal, offset, stored_bytes, plain_bytes
        epoch, pack_id, key_kind = self._packs[index]
        return ChunkRef(name, pack_id, *numbers, Coding(coding), epoch, key_kind)


class Moves:
    """The move records of one repository, each read when it is needed; used by several threads."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        self._kept: OrderedDict[bytes, Moved] = OrderedDict()
        self._kept_count = 0
        self._lock = threading.Lock()

    def listed(self) -> Iterator[bytes]:
        """Yield the packs under whose ids there is an object, which need not be a record."""
        for info in self._store.list(names.MOVES):
            pack_id = names.parse_move(info.key)
            if pack_id is not None:
                yield pack_id

    def of(self, pack_id: bytes) -> Moved | None:
        """Return where the pack's chunks were moved, ``None`` if it has no record that opens: one call of the store.

        Whoever may create objects can put anything there, so that what does not open is no record. Raise
        ``FormatUnsupported`` for one that opens and is a newer mlsync's.
        """
        with self._lock:
            moved = self._kept.get(pack_id)
            if moved is not None:
                self._kept.move_to_end(pack_id)
                return moved
        try:
            moved = self.open(pack_id)
        except (NotFound, ManifestDamaged, WriteOnly):
            # A node that can only write stores again what it needs of a pack that is gone.
            return None
        except FormatUnsupported as error:
            if error.is_claim:
                return None
            raise
        with self._lock:
            # Another thread may have read it meanwhile.
            if pack_id not in self._kept:
                self._keep(pack_id, moved)
        return moved

    def open(self, pack_id: bytes) -> Moved:
        """Read the pack's record; raise ``NotFound``, ``ManifestDamaged`` or ``FormatUnsupported``."""
        return read_anywhere(self._store, lambda store: self._open(store, pack_id))

    def may_be_forged(self, pack_id: bytes) -> bool:
        """Return whether the pack has a record that opens, but under an older key, which somebody may have kept.

        To a reader it is as good as any, since chunks are compared with their names. A pack that is there is moved
        anew.
        """
        moved = self.of(pack_id)
        return moved is not None and moved.epoch < self._keys.epoch

    def next_place(self, ref: ChunkRef) -> ChunkRef | None:
        """Return where a chunk of a pack that is gone was moved, ``None`` if no record says so.

        A record that tells another length is no help: whoever asked has memory for the length of *ref* alone.
        """
        moved = self.of(ref.pack)
        place = None if moved is None else moved.find(ref.name)
        return place if place is not None and place.plain_bytes == ref.plain_bytes else None

    def last_place(self, ref: ChunkRef, is_there: Callable[[bytes], bool]) -> ChunkRef | None:
        """Return where a chunk lies now: *ref* itself if its pack *is_there*; ``None`` if it is nowhere."""
        seen: set[bytes] = set()
        place: ChunkRef | None = ref
        while place is not None and not is_there(place.pack):
            if place.pack in seen or len(seen) == STEPS_MAX:
                return None
            seen.add(place.pack)
            place = self.next_place(place)
        return place

    def add(self, pack_id: bytes, refs: Iterable[ChunkRef], created_ns: int, writer: str) -> Moved:
        """Store the record that a pack's chunks lie at *refs* now, and return what the store has of it afterwards.

        That may be another one's record, if another compaction was faster. Raise ``ObjectDamaged`` if there is
        something else: the pack must not be deleted then.
        """
        ordered = sorted({ref.name: ref for ref in refs}.values(), key=lambda ref: ref.name)
        table = PackTable()
        chunks = [table.refer(ref) for ref in ordered]
        key = names.move(pack_id)
        record = MoveRecord(pack_id, created_ns, writer, table.packs, chunks)
        _check(record, key)
        body = sealed_object.seal(self._keys, MOVE, key, msgspec.msgpack.encode(record))
        try:
            self._store.put(key, body)
        except AlreadyExists:
            self._forget(pack_id)
            if self.may_be_forged(pack_id) and self._is_there(pack_id):
                # Nobody reads by the old record as long as the pack is there, and this one has all that is needed.
                self._store.replace(key, body)
                self._forget(pack_id)
        # Some stores overwrite, lose or exchange an object and tell nobody; the old pack goes only after this.
        try:
            return self.open(pack_id)
        except NotFound as error:
            raise ObjectDamaged("the store took its move record, and does not have it", where=key) from error
        except (ManifestDamaged, FormatUnsupported) as error:
            what = f"what is in the place of its move record is none: {error.what}; mlsync repair --discard {key} helps"
            raise ObjectDamaged(what, where=key) from error

    def _is_there(self, pack_id: bytes) -> bool:
        try:
            self._store.stat(names.pack(pack_id))
        except NotFound:
            return False
        return True

    def _forget(self, pack_id: bytes) -> None:
        with self._lock:
            moved = self._kept.pop(pack_id, None)
            self._kept_count -= 0 if moved is None else len(moved)

    def _keep(self, pack_id: bytes, moved: Moved) -> None:
        self._kept[pack_id] = moved
        self._kept_count += len(moved)
        while self._kept_count > _KEPT_CHUNKS_MAX and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_count -= len(oldest)

    def _open(self, store: Store, pack_id: bytes) -> Moved:
        key = names.move(pack_id)
        try:
            body = store.get(key, limit_bytes=RECORD_BYTES_MAX)
        except StoreBroken as error:
            if not error.is_of_object:
                raise
            raise ManifestDamaged(f"the move record is not as it was written: {error.what}", where=key) from error
        plain = sealed_object.open_(self._keys, MOVE, key, body)
        if len(plain) > RECORD_BYTES_MAX:
            raise ManifestDamaged("the move record is larger than any of ours", where=key)
        return Moved(_check(decode_as(plain, MoveRecord, key), key), sealed_object.epoch_of(body))


def _check(record: MoveRecord, where: str) -> list[ChunkRef]:
    """Return the new places; raise ``ManifestDamaged`` for what no writer writes: see docs/format.md, "Moves"."""
    if record.pack != names.parse_move(where):
        raise ManifestDamaged("the move record is of another pack than its name says", where=where)
    if not is_time(record.created_ns):
        raise ManifestDamaged("the move record's time is out of bounds", where=where)
    packs = table_of_packs(record.packs, where)
    if not 0 < len(record.chunks) <= PACK_CHUNKS_MAX:
        raise ManifestDamaged("the move record has no chunk, or more than a pack can have", where=where)
    refs = list(unpack_plain_refs(record.chunks, packs, where))
    if any(one.name >= other.name for one, other in pairwise(refs)):
        raise ManifestDamaged("the names of a move record do not rise", where=where)
    ids = {pack.pack_id for pack in packs}
    if record.pack in ids or {ref.pack for ref in refs} != ids:
        raise ManifestDamaged("a move record's table of packs is not that of its chunks", where=where)
    check_room(record.room, "the move record", where)
    return refs
