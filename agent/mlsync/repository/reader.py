"""Reading chunks back: neighbours in one pack are fetched in one call, opened and checked in threads, given in order.

Every chunk is authenticated (AES-GCM binds pack, place, coding and length) and its name recomputed from its plain
bytes, so what comes out is what was put in, or a ``Damage`` that names the pack.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Self, TypeAlias

from mlsync.codec.compression import Coding, CodingBroken, decode
from mlsync.codec.digest import is_named
from mlsync.codec.keys import Keys
from mlsync.codec.sealing import TAG_BYTES, SealBroken
from mlsync.errors import NotFound, ObjectDamaged, ObjectMissing, StoreBroken
from mlsync.repository import names
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.pack import CHUNK_BYTES_MAX, PackSeal
from mlsync.store.base import Store

WINDOW_BYTES: Final = 16 << 20
WINDOW_CHUNKS: Final = 1024
GAP_BYTES_MAX: Final = 64 << 10
THREADS: Final = 2
SEALS_MAX: Final = 256

Plain: TypeAlias = bytes | bytearray | memoryview


class ChunkReader:
    """Gives chunks' plain bytes; a context manager, since it owns threads."""

    def __init__(self, store: Store, keys: Keys, *, threads: int = THREADS) -> None:
        self._store = store
        self._keys = keys
        self._name_key = keys.of("chunk name")
        self._threads = threads
        self._executor: ThreadPoolExecutor | None = None
        self._seals: dict[bytes, PackSeal] = {}
        self._local = threading.local()
        self.read_bytes = 0

    def __enter__(self) -> Self:
        """Be used in a ``with``."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End the threads."""
        self.close()

    def close(self) -> None:
        """End the threads."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def one(self, ref: ChunkRef) -> bytes:
        """Return one chunk."""
        return bytes(self._fetch([ref])[0])

    def stream(self, refs: Iterable[ChunkRef]) -> Iterator[Plain]:
        """Yield the chunks of *refs* in order, some windows ahead; memory is bounded by the windows."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="mlsync-read")
        windows = _windows(refs)
        ahead: deque[Future[list[Plain]]] = deque()
        try:
            for window in windows:
                ahead.append(self._executor.submit(self._fetch, window))
                if len(ahead) > self._threads:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

    def _fetch(self, window: list[ChunkRef]) -> list[Plain]:
        plains: dict[tuple[bytes, int], Plain] = {}
        unique = {(ref.pack, ref.place): ref for ref in window}
        for group in _neighbours(sorted(unique.values(), key=lambda ref: (ref.pack, ref.offset))):
            self._fetch_group(group, plains)
        return [plains[ref.pack, ref.place] for ref in window]

    def _fetch_group(self, group: list[ChunkRef], plains: dict[tuple[bytes, int], Plain]) -> None:
        start = group[0].offset
        size_bytes = group[-1].offset + group[-1].stored_bytes - start
        pack = group[0].pack
        with memoryview(self._buffer(size_bytes))[:size_bytes] as sealed:
            try:
                self._store.read(names.pack(pack), start, sealed)
            except NotFound:
                raise ObjectMissing("a pack is not in the store", where=names.pack(pack)) from None
            except StoreBroken as error:
                raise ObjectDamaged(f"a pack is cut short: {error.what}", where=names.pack(pack)) from error
            self.read_bytes += size_bytes
            for ref in group:
                begin = ref.offset - start
                with sealed[begin : begin + ref.stored_bytes] as piece:
                    plains[pack, ref.place] = self._open(ref, piece)

    def _buffer(self, size_bytes: int) -> bytearray:
        """Return this thread's buffer for sealed bytes: fresh memory would cost more than opening what is in it."""
        buffer: bytearray | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < size_bytes:
            buffer = self._local.buffer = bytearray(size_bytes)
        return buffer

    def _open(self, ref: ChunkRef, sealed: memoryview) -> Plain:
        coded = bytearray(ref.stored_bytes - TAG_BYTES)
        try:
            with memoryview(coded) as into:
                self._seal_of(ref.pack).open_chunk(ref.place, ref.name, ref.coding, ref.plain_bytes, sealed, into)
            plain = decode(Coding(ref.coding), coded, ref.plain_bytes)
        except (SealBroken, CodingBroken) as error:
            raise self._damaged(ref, str(error)) from None
        if not is_named(self._name_key, plain, ref.name):
            raise self._damaged(ref, "its bytes are not those that it is named after")
        return plain

    def _seal_of(self, pack: bytes) -> PackSeal:
        seal = self._seals.get(pack)
        if seal is None:
            if len(self._seals) >= SEALS_MAX:
                self._seals.clear()
            seal = self._seals[pack] = PackSeal(self._keys, pack)
        return seal

    @staticmethod
    def _damaged(ref: ChunkRef, why: str) -> ObjectDamaged:
        return ObjectDamaged(f"chunk {ref.place} of a pack is damaged: {why}", where=names.pack(ref.pack))


def _windows(refs: Iterable[ChunkRef]) -> Iterator[list[ChunkRef]]:
    """Cut *refs* into windows bounded in bytes, stored and plain, and in number."""
    window: list[ChunkRef] = []
    window_bytes = 0
    for ref in refs:
        cost_bytes = max(ref.stored_bytes, ref.plain_bytes)
        if window and (window_bytes + cost_bytes > WINDOW_BYTES or len(window) >= WINDOW_CHUNKS):
            yield window
            window, window_bytes = [], 0
        window.append(ref)
        window_bytes += cost_bytes
    if window:
        yield window


def _neighbours(refs: list[ChunkRef]) -> Iterator[list[ChunkRef]]:
    """Group sorted *refs* so that each group is worth one call: one pack, small gaps."""
    group: list[ChunkRef] = []
    for ref in refs:
        if group:
            last = group[-1]
            gap_bytes = ref.offset - last.offset - last.stored_bytes
            span_bytes = ref.offset + ref.stored_bytes - group[0].offset
            near = ref.pack == last.pack and 0 <= gap_bytes <= GAP_BYTES_MAX
            if not near or span_bytes > WINDOW_BYTES + CHUNK_BYTES_MAX:
                yield group
                group = []
        group.append(ref)
    if group:
        yield group
