"""One pack while it is written: chunks sealed one behind the other, parts uploaded as they fill, the footer last."""

from __future__ import annotations

from mlsync.codec.compression import encode
from mlsync.codec.keys import Keys
from mlsync.codec.sealing import TAG_BYTES
from mlsync.repository import names
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.pack import CHUNK_BYTES_MAX, PACK_CHUNKS_MAX, ChunkRecord, PackSeal
from mlsync.store.base import Store, Upload


def buffer_bytes(store: Store) -> int:
    """Return how long a builder's buffer must be: a part that is being filled and one chunk that hangs over."""
    return store.part_bytes + CHUNK_BYTES_MAX + TAG_BYTES


class PackBuilder:
    """One pack while it is written: seals into one part's buffer and uploads parts as they fill."""

    def __init__(self, store: Store, keys: Keys, buffer: memoryview, pack_id: bytes) -> None:
        self.pack_id = pack_id
        self.size_bytes = 0
        self._store = store
        self._seal = PackSeal(keys, pack_id)
        self._buffer = buffer
        self._filled_bytes = 0
        self._upload: Upload | None = None
        self._sent_bytes = 0
        self._records: list[ChunkRecord] = []
        self._append(self._seal.header)

    @property
    def is_full(self) -> bool:
        """Whether the pack holds as many chunks as a pack may."""
        return len(self._records) >= PACK_CHUNKS_MAX

    def add(self, name: bytes, plain: memoryview, item_bytes: int = 0) -> ChunkRef:
        """Store a chunk at the next place; *item_bytes* is the width of its numbers, 0 where that is not known."""
        if not 0 < len(plain) <= CHUNK_BYTES_MAX:
            raise ValueError(f"a chunk of {len(plain)} bytes")
        coding, coded = encode(plain, item_bytes)
        place, offset = len(self._records), self.size_bytes
        into = self._buffer[self._filled_bytes :]
        stored_bytes = self._seal.seal_chunk(place, name, coding, len(plain), memoryview(coded), into)
        self._filled(stored_bytes)
        self._records.append(ChunkRecord(name, offset, stored_bytes, len(plain), int(coding)))
        return ChunkRef(name, self.pack_id, place, offset, stored_bytes, len(plain), coding)

    def finish(self) -> int:
        """Close the pack; when this returns it is durable. Return its length."""
        self._append(self._seal.seal_end(self._records))
        key = names.pack(self.pack_id)
        if self._upload is None:
            self._store.put(key, self._buffer[: self._filled_bytes])
        else:
            self._send(self._filled_bytes)
            self._upload.finish(self.size_bytes)
        return self.size_bytes

    def abort(self) -> None:
        """Leave nothing of the pack in the store."""
        if self._upload is not None:
            self._upload.abort()

    def _append(self, body: bytes) -> None:
        for start in range(0, len(body), CHUNK_BYTES_MAX):
            piece = body[start : start + CHUNK_BYTES_MAX]
            self._buffer[self._filled_bytes : self._filled_bytes + len(piece)] = piece
            self._filled(len(piece))

    def _filled(self, added_bytes: int) -> None:
        """Count what was written to the buffer, and send what is a part by now: there is room for a chunk more then."""
        self._filled_bytes += added_bytes
        self.size_bytes += added_bytes
        # One that fills a part to its last byte may turn out to be the whole pack, which is put at once.
        while self._filled_bytes > self._store.part_bytes:
            self._send(self._store.part_bytes)

    def _send(self, part_bytes: int) -> None:
        if self._upload is None:
            self._upload = self._store.upload(names.pack(self.pack_id))
        self._upload.write(self._sent_bytes, self._buffer[:part_bytes])
        self._sent_bytes += part_bytes
        rest_bytes = self._filled_bytes - part_bytes
        # Parts are of one length (some stores insist), so what hangs over moves to the front: less than one chunk.
        self._buffer[:rest_bytes] = self._buffer[part_bytes : self._filled_bytes]
        self._filled_bytes = rest_bytes
