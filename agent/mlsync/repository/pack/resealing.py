"""Seal chunks of old packs anew into new packs: each is opened, checked, and sealed under the new pack's key.

The bytes of an old seal are never used again: they are bound to the old pack. What is inside the seal stays coded as it
is, so that nothing is compressed twice; but it is decoded once, and only what has its name is moved on. A difference is
the exception: what is moved stands by itself, so it is stored without its base.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Self

from mlsync.buffers import aligned_memory
from mlsync.codec.compression import CodingBroken, decode_into
from mlsync.codec.digest import chunk_name, is_named
from mlsync.codec.keys import Keys
from mlsync.codec.sealing import TAG_BYTES, SealBroken
from mlsync.errors import NotFound, ObjectDamaged, ObjectMissing
from mlsync.repository import names
from mlsync.repository.encoding.tokens import KEY_DERIVED
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.pack.builder import PackBuilder, buffer_bytes
from mlsync.repository.pack.footer import read_range, read_seal
from mlsync.repository.pack.pack import CHUNK_BYTES_MAX, PACK_ID_BYTES, PackSeal
from mlsync.repository.reader import ChunkReader
from mlsync.store.base import Store

PACK_BYTES: Final = 128 << 20
# What is fetched with one call, and how many are under way beside the one that is being opened.
_WINDOW_BYTES: Final = 8 << 20
_GAP_BYTES_MAX: Final = 64 << 10
_AHEAD: Final = 2


class Resealer:
    """Copies chunks into new packs, one pack at a time; a context manager, since it owns threads and an upload.

    A new pack is durable once it is in *durable*, with the places of its chunks; whoever is done with it deletes it
    there. ``finish`` ends the last one.
    """

    def __init__(
        self, store: Store, keys: Keys, *, pack_bytes: int = PACK_BYTES, into: tuple[Store, Keys] | None = None
    ) -> None:
        """Take chunks of *store*; new packs go there, or *into* another repository, where chunks have other names."""
        self.durable: dict[bytes, list[ChunkRef]] = {}
        self.pack_count = 0
        self.read_bytes = 0
        self.written_bytes = 0
        self._store = store
        self._keys = keys
        self._name_key = keys.of("chunk name")
        self._new_store, self._new_keys = into or (store, keys)
        self._new_name_key = self._new_keys.of("chunk name")
        self._pack_bytes = pack_bytes
        self._builder: PackBuilder | None = None
        # The chunks of the pack that is being made: two old packs may hold the same one.
        self._placed: dict[bytes, ChunkRef] = {}
        self._memory = memoryview(aligned_memory(buffer_bytes(self._new_store)))
        self._coded = memoryview(aligned_memory(CHUNK_BYTES_MAX))
        self._plain = memoryview(aligned_memory(CHUNK_BYTES_MAX))
        self._fetchers = ThreadPoolExecutor(_AHEAD, thread_name_prefix="mlsync-move")
        # Its threads start with the first base.
        self._bases = ChunkReader(store, keys)

    def __enter__(self) -> Self:
        """Return it, for a ``with`` statement."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End the threads, and remove a pack that is not finished."""
        self._fetchers.shutdown(wait=True, cancel_futures=True)
        self._bases.close()
        if self._builder is not None:
            self._builder.abort()

    def copy(self, refs: Sequence[ChunkRef]) -> list[ChunkRef]:
        """Copy the chunks of one pack, sorted by their offset; return their new places, in the same order.

        Differences come with the places of their bases, which are read too.
        Raise ``ObjectDamaged``, ``ObjectMissing`` or ``ObjectArchived`` for what cannot be copied; what was copied
        until then is never used.
        """
        places = []
        seal = self._seal_of(refs[0])
        bases = self._bases.stream(ref.base for ref in refs if ref.base is not None)
        before_bytes = self._bases.read_bytes
        for ref, sealed in self._fetched(refs):
            # One for each difference, in the same order.
            base = None if ref.base is None else next(bases)
            place = self._placed.get(ref.name)
            if place is None:
                self._open_or_read_again(seal, ref, sealed, base)
                place = self._add(ref)
            places.append(place)
        self.read_bytes += self._bases.read_bytes - before_bytes
        return places

    def _seal_of(self, ref: ChunkRef) -> PackSeal:
        if ref.key_kind == KEY_DERIVED:
            return PackSeal(self._keys, ref.pack, ref.epoch)
        try:
            return read_seal(self._store, self._keys, ref.pack)[0]
        except NotFound as error:
            raise ObjectMissing("a pack is not in the store", where=names.pack(ref.pack)) from error

    def finish(self) -> None:
        """Make the pack that is being made durable."""
        builder, self._builder = self._builder, None
        if builder is None:
            return
        try:
            self.written_bytes += builder.finish()
        except BaseException:
            builder.abort()
            raise
        self.pack_count += 1
        self.durable[builder.pack_id] = list(self._placed.values())
        self._placed = {}

    def _add(self, ref: ChunkRef) -> ChunkRef:
        builder = self._builder
        if builder is None:
            pack_id = os.urandom(PACK_ID_BYTES)
            builder = self._builder = PackBuilder(self._new_store, self._new_keys, self._memory, pack_id)
        coded = self._coded[: ref.stored_bytes - TAG_BYTES]
        # Compared a moment ago: under the same key it is the same name.
        name = ref.name
        if self._new_name_key != self._name_key:
            name = chunk_name(self._new_name_key, self._plain[: ref.plain_bytes])
        if ref.base is None:
            place = builder.add_coded(name, ref.coding, ref.plain_bytes, coded)
        else:
            place = builder.add(name, self._plain[: ref.plain_bytes], coded[0])
        self._placed[ref.name] = place
        builder.send_parts()
        if builder.size_bytes >= self._pack_bytes or builder.is_full:
            self.finish()
        return place

    def _fetched(self, refs: Sequence[ChunkRef]) -> Iterator[tuple[ChunkRef, memoryview]]:
        """Yield each chunk with its sealed bytes; some calls run ahead."""
        windows = _windows(refs)
        ahead: deque[tuple[list[ChunkRef], Future[memoryview]]] = deque()
        try:
            while True:
                while len(ahead) < _AHEAD and (window := next(windows, None)) is not None:
                    ahead.append((window, self._fetchers.submit(self._fetch, window)))
                if not ahead:
                    return
                window, future = ahead.popleft()
                sealed = future.result()
                self.read_bytes += len(sealed)
                for ref in window:
                    begin = ref.offset - window[0].offset
                    yield ref, sealed[begin : begin + ref.stored_bytes]
        finally:
            for _, future in ahead:
                future.cancel()

    def _fetch(self, window: list[ChunkRef]) -> memoryview:
        first, last = window[0], window[-1]
        body = memoryview(bytearray(last.offset + last.stored_bytes - first.offset))
        try:
            read_range(self._store, first.pack, first.offset, body)
        except NotFound as error:
            raise ObjectMissing("a pack is not in the store", where=names.pack(first.pack)) from error
        return body

    def _open_or_read_again(self, seal: PackSeal, ref: ChunkRef, sealed: memoryview, base: memoryview | None) -> None:
        """Open a chunk, and if it is damaged the same from a second reading: a network may flip bits."""
        try:
            self._open(seal, ref, sealed, base)
        except ObjectDamaged:
            self._open(seal, ref, self._fetch([ref]), base)

    def _open(self, seal: PackSeal, ref: ChunkRef, sealed: memoryview, base: memoryview | None) -> None:
        """Open a chunk, and raise ``ObjectDamaged`` unless it is the one of its name."""
        coded, plain = self._coded[: ref.stored_bytes - TAG_BYTES], self._plain[: ref.plain_bytes]
        try:
            seal.open_chunk(ref.ordinal, ref.name, ref.coding, ref.plain_bytes, sealed, coded, ref.base_name)
            decode_into(ref.coding, coded, plain, base)
        except (SealBroken, CodingBroken) as error:
            what = f"chunk {ref.ordinal} of a pack is damaged: {error}"
            raise ObjectDamaged(what, where=names.pack(ref.pack)) from None
        if not is_named(self._name_key, plain, ref.name):
            what = f"chunk {ref.ordinal} of a pack is damaged: its bytes are not those that it is named after"
            raise ObjectDamaged(what, where=names.pack(ref.pack))


def _windows(refs: Sequence[ChunkRef]) -> Iterator[list[ChunkRef]]:
    """Group chunks of a pack so that each group is worth one call."""
    window: list[ChunkRef] = []
    for ref in refs:
        if window:
            gap_bytes = ref.offset - window[-1].offset - window[-1].stored_bytes
            span_bytes = ref.offset + ref.stored_bytes - window[0].offset
            if not 0 <= gap_bytes <= _GAP_BYTES_MAX or span_bytes > _WINDOW_BYTES:
                yield window
                window = []
        window.append(ref)
    if window:
        yield window
