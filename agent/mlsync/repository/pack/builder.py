"""One pack while it is written: chunks sealed one behind the other, parts sent when their time is, the footer last.

With a journal, whatever happens to this process, what the store has of the pack is not lost: ``finish_noted`` makes it
a pack of the chunks that had come so far.
"""

from __future__ import annotations

from collections.abc import Callable

from mlsync.codec.compression import encode
from mlsync.codec.keys import Keys
from mlsync.codec.sealing import TAG_BYTES
from mlsync.errors import AlreadyExists, NotFound, StoreBroken, StoreError
from mlsync.repository import names
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.pack.footer import ref_of
from mlsync.repository.pack.journal import NotedPack, PackJournal
from mlsync.repository.pack.pack import CHUNK_BYTES_MAX, PACK_CHUNKS_MAX, ChunkRecord, PackSeal
from mlsync.store.base import Store, Upload


def buffer_bytes(store: Store) -> int:
    """Return how long a builder's buffer must be: a part that is being filled and one chunk that hangs over."""
    return store.part_bytes + CHUNK_BYTES_MAX + TAG_BYTES


class PackBuilder:
    """One pack while it is written: seals into one part's buffer, which is sent before the next chunk once it is full.

    It may go from thread to thread; only one at a time may use it.
    """

    def __init__(
        self, store: Store, keys: Keys, buffer: memoryview, pack_id: bytes, journal: PackJournal | None = None
    ) -> None:
        self.pack_id = pack_id
        self.size_bytes = 0
        self._store = store
        self._seal = PackSeal(keys, pack_id)
        self._buffer = buffer
        self.unsent_bytes = 0
        self._upload: Upload | None = None
        self._sent_bytes = 0
        self._records: list[ChunkRecord] = []
        self._journal = journal
        self._is_noted = False
        self._append(self._seal.header)

    @property
    def is_full(self) -> bool:
        """Whether the pack holds as many chunks as a pack may."""
        return len(self._records) >= PACK_CHUNKS_MAX

    def add(self, name: bytes, plain: memoryview, item_bytes: int = 0) -> ChunkRef:
        """Seal a chunk under the next ordinal; *item_bytes* is the width of its numbers, 0 where that is not known."""
        if not 0 < len(plain) <= CHUNK_BYTES_MAX or self.has_part:
            raise ValueError(f"a chunk of {len(plain)} bytes behind {self.unsent_bytes}")
        coding, coded = encode(plain, item_bytes)
        ordinal, offset = len(self._records), self.size_bytes
        into = self._buffer[self.unsent_bytes :]
        stored_bytes = self._seal.seal_chunk(ordinal, name, coding, len(plain), memoryview(coded), into)
        self._records.append(ChunkRecord(name, offset, stored_bytes, len(plain), int(coding)))
        self.unsent_bytes += stored_bytes
        self.size_bytes += stored_bytes
        return ChunkRef(name, self.pack_id, ordinal, offset, stored_bytes, len(plain), coding)

    @property
    def has_part(self) -> bool:
        """Whether there is a part to be sent, and so no room for another chunk."""
        # One that fills a part to its last byte may turn out to be the whole pack, which is put at once.
        return self.unsent_bytes > self._store.part_bytes

    def send_parts(self) -> None:
        """Send what is a part by now: there is room for a chunk more then."""
        if self.has_part:
            self._send_parts()
            self._note()

    def finish(self) -> int:
        """Close the pack; when this returns it is durable. Return its length."""
        self.send_parts()
        # Before a footer is made that may be sent: whoever goes on makes the same one.
        self._note()
        self._append(self._seal.seal_end(self._records))
        key = names.pack(self.pack_id)
        if self._upload is None:
            self._store.put(key, self._buffer[: self.unsent_bytes])
        else:
            self._send(self.unsent_bytes)
            self._upload.finish(self.size_bytes)
        return self.size_bytes

    def abort(self) -> None:
        """Leave nothing of the pack in the store, or all that was noted of it: the next backup finishes it then."""
        if self._upload is not None and not self._is_noted:
            self._upload.abort()

    def go_on(self, noted: NotedPack) -> None:
        """Have all of a pack that was cut off; ``NotFound`` if the store has not.

        Only to be finished: a chunk more would be sealed under a nonce that may have been used.
        """
        key = names.pack(self.pack_id)
        self._upload = self._store.resume(key, noted.ticket)
        self._records = noted.records
        self._sent_bytes, self.size_bytes = noted.sent_bytes, noted.size_bytes
        self.unsent_bytes = len(noted.tail)
        self._buffer[: self.unsent_bytes] = noted.tail

    def _note(self) -> None:
        """Have the journal know what the store has by now and what it lacks."""
        if self._journal is None or self._upload is None:
            return
        token = self._upload.resume_token()
        if token is not None:
            tail = self._buffer[: self.unsent_bytes]
            self._is_noted = self._journal.note(self.pack_id, token, self._sent_bytes, self._records, tail)

    def _append(self, body: bytes) -> None:
        for start in range(0, len(body), CHUNK_BYTES_MAX):
            piece = body[start : start + CHUNK_BYTES_MAX]
            self._buffer[self.unsent_bytes : self.unsent_bytes + len(piece)] = piece
            self.unsent_bytes += len(piece)
            self.size_bytes += len(piece)
            self._send_parts()

    def _send_parts(self) -> None:
        while self.has_part:
            self._send(self._store.part_bytes)

    def _send(self, part_bytes: int) -> None:
        if self._upload is None:
            self._upload = self._store.upload(names.pack(self.pack_id))
        self._upload.write(self._sent_bytes, self._buffer[:part_bytes])
        self._sent_bytes += part_bytes
        rest_bytes = self.unsent_bytes - part_bytes
        # Parts are of one length (some stores insist), so what hangs over moves to the front: less than one chunk.
        self._buffer[:rest_bytes] = self._buffer[part_bytes : self.unsent_bytes]
        self.unsent_bytes = rest_bytes


def finish_noted(
    store: Store, keys: Keys, noted: NotedPack, tell: Callable[[StoreError], None] = lambda _error: None
) -> list[ChunkRef]:
    """Finish a pack whose writer died, and return its chunks: none if what the store had of it is there no more.

    *tell* is told why not.
    """
    builder = PackBuilder(store, keys, memoryview(bytearray(buffer_bytes(store))), noted.pack_id)
    try:
        builder.go_on(noted)
        builder.finish()
    except (NotFound, AlreadyExists) as error:
        # Finished already, perhaps, by a writer that died before it could say so.
        if not _is_whole(store, keys, noted):
            tell(error)
            return []
    except StoreBroken as error:
        # The store has lost a part; so be it.
        builder.abort()
        tell(error)
        return []
    key = names.pack(noted.pack_id)
    return [ref_of(noted.pack_id, ordinal, record, key) for ordinal, record in enumerate(noted.records)]


def _is_whole(store: Store, keys: Keys, noted: NotedPack) -> bool:
    """Whether the pack stands in the store, as long as it has to be."""
    end_bytes = len(PackSeal(keys, noted.pack_id).seal_end(noted.records))
    try:
        return store.stat(names.pack(noted.pack_id)).size_bytes == noted.size_bytes + end_bytes
    except NotFound:
        return False
