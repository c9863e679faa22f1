"""Build one pack: seal chunks one behind the other, send parts when they are full, and the footer last.

With a journal, the sent parts of a pack are not lost when this process dies: ``finish_interrupted`` makes a pack of the
chunks that were sealed until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from mlsync.buffers import Buffer, ThreadMemory
from mlsync.codec.compression import Coding, encode, may_differ
from mlsync.codec.keys import Keys
from mlsync.codec.sealing import TAG_BYTES
from mlsync.errors import AlreadyExists, NotFound, StoreBroken, StoreError
from mlsync.repository import names
from mlsync.repository.encoding.tokens import KEY_DERIVED
from mlsync.repository.header import check_epoch
from mlsync.repository.keys.object_key import derived_key, new_object_key
from mlsync.repository.manifest import ChunkRef, PackPlace
from mlsync.repository.pack.base import Base
from mlsync.repository.pack.footer import ref_of
from mlsync.repository.pack.journal import InterruptedPack, PackJournal
from mlsync.repository.pack.pack import CHUNK_BYTES_MAX, PACK_CHUNKS_MAX, ChunkRecord, CodedChunk, PackSeal
from mlsync.store.base import Store, Upload

# For the base of the chunk that a thread codes: a builder moves from thread to thread.
_bases: Final = ThreadMemory()


def buffer_bytes(store: Store) -> int:
    """Return the length of a builder's buffer: one part, and the end of a chunk that does not fit in it."""
    return store.part_bytes + CHUNK_BYTES_MAX + TAG_BYTES


class PackBuilder:
    """Seals chunks into the buffer of one part, and sends the part once it is full.

    A builder may move from thread to thread; only one thread at a time may use it.
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        buffer: memoryview,
        pack_id: bytes,
        journal: PackJournal | None = None,
        *,
        epoch: int | None = None,
    ) -> None:
        self.pack_id = pack_id
        # A pack that is finished later keeps the epoch in which it began.
        self.epoch = keys.epoch if epoch is None else epoch
        self.size_bytes = 0
        self._store = store
        # Parts of one upload have one length; and to ask for it takes longer than to seal a short chunk.
        self._part_bytes = store.part_bytes
        own = new_object_key(keys, "pack", pack_id) if epoch is None else derived_key(keys, "pack", pack_id, epoch)
        self.key_kind = own.kind
        self._seal = PackSeal(keys, pack_id, self.epoch, own)
        self._buffer = buffer
        self.unsent_bytes = 0
        self._upload: Upload | None = None
        self._sent_bytes = 0
        self._records: list[ChunkRecord] = []
        # No other process has the key to finish it with, and none is to: a thief of the disk could read the pack.
        self._journal = journal if own.kind == KEY_DERIVED else None
        self._is_recorded = False
        self._append(self._seal.header)

    @property
    def is_full(self) -> bool:
        """Whether the pack holds as many chunks as a pack may hold."""
        return len(self._records) >= PACK_CHUNKS_MAX

    def add(self, name: bytes, plain: memoryview, item_bytes: int = 0, base: Base | None = None) -> ChunkRef:
        """Seal a chunk under the next ordinal; *item_bytes* is the width of its numbers, 0 if unknown.

        It is stored as a difference from *base* if that is worth it, and the base is at hand and of the same length.
        """
        if not 0 < len(plain) <= CHUNK_BYTES_MAX or self.has_part:
            raise ValueError(f"a chunk of {len(plain)} bytes behind {self.unsent_bytes}")
        base_plain = None if base is None else _plain_of(base, name, plain, item_bytes)
        coding, coded = encode(plain, item_bytes, base_plain)
        is_difference = base is not None and coding is Coding.DIFFERENCE
        return self.add_coded(name, coding, len(plain), memoryview(coded), base.ref if base and is_difference else None)

    def add_short(self, chunks: Iterable[CodedChunk]) -> list[ChunkRef]:
        """Seal chunks under the next ordinals, as many as go in before a part is to be sent or the pack is full.

        None is a difference. It does with many at once what ``add_coded`` does with one, and takes a third of the time.
        """
        some, end_bytes = self._that_go_in(chunks)
        first, offset = len(self._records), self.size_bytes
        self._seal.seal_short(first, some, self._buffer[self.unsent_bytes : end_bytes])
        refs = []
        for ordinal, (name, coding, plain_bytes, coded) in enumerate(some, first):
            stored_bytes = len(coded) + TAG_BYTES
            self._records.append(ChunkRecord(name, offset, stored_bytes, plain_bytes, int(coding)))
            place = self.pack_id, ordinal, offset, stored_bytes, plain_bytes
            refs.append(ChunkRef(name, *place, coding, self.epoch, self.key_kind))
            offset += stored_bytes
        self.unsent_bytes, self.size_bytes = end_bytes, offset
        return refs

    def _that_go_in(self, chunks: Iterable[CodedChunk]) -> tuple[list[CodedChunk], int]:
        """Return the first of *chunks*, and how long the part is that ends with them."""
        some: list[CodedChunk] = []
        part_bytes, room = self.unsent_bytes, PACK_CHUNKS_MAX - len(self._records)
        for chunk in chunks:
            if part_bytes > self._part_bytes or len(some) >= room:
                break
            some.append(chunk)
            part_bytes += len(chunk[3]) + TAG_BYTES
        return some, part_bytes

    def add_coded(
        self, name: bytes, coding: Coding, plain_bytes: int, coded: Buffer, base: ChunkRef | None = None
    ) -> ChunkRef:
        """Do the same with a chunk that is coded already, and *plain_bytes* long when it is decoded."""
        ordinal, offset = len(self._records), self.size_bytes
        into = self._buffer[self.unsent_bytes :]
        base_name = b"" if base is None else base.name
        stored_bytes = self._seal.seal_chunk(ordinal, name, coding, plain_bytes, coded, into, base_name)
        self._records.append(ChunkRecord(name, offset, stored_bytes, plain_bytes, int(coding), base_name or None))
        self.unsent_bytes += stored_bytes
        self.size_bytes += stored_bytes
        place = self.epoch, self.key_kind
        return ChunkRef(name, self.pack_id, ordinal, offset, stored_bytes, plain_bytes, coding, *place, base)

    @property
    def has_part(self) -> bool:
        """Whether a full part waits to be sent, so that there is no room for another chunk."""
        # A pack that ends exactly with its first part needs no multipart upload: one put stores it.
        return self.unsent_bytes > self._part_bytes

    def send_parts(self) -> None:
        """Send the full parts, if there are any; then there is room for another chunk."""
        if self.has_part:
            self._send_parts()
            self._record()

    def finish(self) -> int:
        """Close the pack and return its length; it is durable then."""
        self.send_parts()
        # Before the footer, which may be sent: whoever finishes this pack then makes the same footer.
        self._record()
        self._append(self._seal.seal_end(self._records))
        key = names.pack(self.pack_id)
        if self._upload is None:
            self._store.put(key, self._buffer[: self.unsent_bytes])
        else:
            self._send(self.unsent_bytes)
            self._upload.finish(self.size_bytes)
        return self.size_bytes

    def abort(self) -> None:
        """Remove the unfinished upload, unless the journal has it: then the next backup finishes it."""
        if self._upload is not None and not self._is_recorded:
            self._upload.abort()

    def resume(self, pack: InterruptedPack) -> None:
        """Take over an interrupted pack; raise ``NotFound`` if the store no longer has its upload.

        The pack can only be finished: another chunk might be sealed under a nonce that was used already.
        """
        key = names.pack(self.pack_id)
        self._upload = self._store.resume(key, pack.resume_token)
        self._records = pack.records
        self._sent_bytes, self.size_bytes = pack.sent_bytes, pack.size_bytes
        self.unsent_bytes = len(pack.tail)
        self._buffer[: self.unsent_bytes] = pack.tail

    def _record(self) -> None:
        """Record in the journal what the store has of the pack, and the rest."""
        if self._journal is None or self._upload is None:
            return
        token = self._upload.resume_token()
        if token is not None:
            tail = self._buffer[: self.unsent_bytes]
            head = self.pack_id, self.epoch, token, self._sent_bytes
            self._is_recorded = self._journal.record(*head, self._records, tail)

    def _append(self, body: bytes) -> None:
        for start in range(0, len(body), CHUNK_BYTES_MAX):
            piece = body[start : start + CHUNK_BYTES_MAX]
            self._buffer[self.unsent_bytes : self.unsent_bytes + len(piece)] = piece
            self.unsent_bytes += len(piece)
            self.size_bytes += len(piece)
            self._send_parts()

    def _send_parts(self) -> None:
        while self.has_part:
            self._send(self._part_bytes)

    def _send(self, part_bytes: int) -> None:
        if self._upload is None:
            self._upload = self._store.upload(names.pack(self.pack_id))
        self._upload.write(self._sent_bytes, self._buffer[:part_bytes])
        self._sent_bytes += part_bytes
        rest_bytes = self.unsent_bytes - part_bytes
        # Parts have one length (some stores insist), so the rest, less than one chunk, moves to the front.
        self._buffer[:rest_bytes] = self._buffer[part_bytes : self.unsent_bytes]
        self.unsent_bytes = rest_bytes


def _plain_of(base: Base, name: bytes, plain: memoryview, item_bytes: int) -> memoryview | None:
    """Return the bytes of the base of a chunk, ``None`` if the chunk cannot be stored as a difference from it."""
    ref = base.ref
    is_fit = ref.base is None and ref.plain_bytes == len(plain) and ref.name != name
    if not is_fit or not may_differ(len(plain), item_bytes):
        return None
    room = _bases.room(len(plain))
    return room if base.read(room) else None


def finish_interrupted(
    store: Store, keys: Keys, pack: InterruptedPack, report: Callable[[StoreError], None] = lambda _error: None
) -> list[ChunkRef]:
    """Finish a pack whose writer died, and return its chunks; bases have their names alone, as in any footer.

    If the store no longer has what was sent, return no chunks, and call *report* with the reason.
    """
    check_epoch(pack.epoch, keys, names.pack(pack.pack_id))
    builder = PackBuilder(store, keys, memoryview(bytearray(buffer_bytes(store))), pack.pack_id, epoch=pack.epoch)
    try:
        builder.resume(pack)
        builder.finish()
    except (NotFound, AlreadyExists) as error:
        # A writer may have finished it, and died before it removed the record.
        if not _is_whole(store, keys, pack):
            report(error)
            return []
    except StoreBroken as error:
        # The store lost a part: the chunks are sent again.
        builder.abort()
        report(error)
        return []
    key = names.pack(pack.pack_id)
    return [
        ref_of(PackPlace(pack.epoch, pack.pack_id), ordinal, record, key) for ordinal, record in enumerate(pack.records)
    ]


def _is_whole(store: Store, keys: Keys, pack: InterruptedPack) -> bool:
    """Return whether the store has the whole pack, by its length."""
    end_bytes = len(PackSeal(keys, pack.pack_id, pack.epoch).seal_end(pack.records))
    try:
        return store.stat(names.pack(pack.pack_id)).size_bytes == pack.size_bytes + end_bytes
    except NotFound:
        return False
