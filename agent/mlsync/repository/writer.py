"""Write chunks: each coder names, compresses and seals one piece at a time into a pack that only it uses meanwhile.

``put`` returns a ``PlacedChunk`` at once. Its ``ref`` is known after ``finish``, the only barrier: when that returns,
every chunk is durable in the store. Only one thread at a time uses a pack, so ordinals and offsets need no lock.
Memory: the caller's buffers, three chunks for each coder, five where chunks have bases, and for each unfinished pack
one part and one chunk.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec

from mlsync.codec.compression import encode_short
from mlsync.codec.digest import chunk_name, chunk_names
from mlsync.codec.keys import Keys
from mlsync.courtesy.pressure import threads
from mlsync.errors import Error
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.pack.base import Base
from mlsync.repository.pack.builder import PackBuilder
from mlsync.repository.pack.journal import PackJournal
from mlsync.repository.pack.lanes import Lanes
from mlsync.store.base import Store

PACK_BYTES: Final = 128 << 20
# One coder takes so much at a time, so that neighbours in a file are neighbours in a pack and are read in one call.
BATCH_BYTES: Final = 8 << 20
QUEUE_BATCHES: Final = 2
# Of short pieces so many are worth a coder's while. To wait for megabytes of them would leave it idle.
BATCH_SHORT_PIECES: Final = 1024
# One more than processors, since one thread waits for memory or the caller; more threads than this gain nothing.
CODERS_MAX: Final = min(4, (os.cpu_count() or 1) + 1)

#: Returns where the chunk of a name is stored already, ``None`` if it is not.
ChunkLookup = Callable[[bytes], ChunkRef | None]
#: Returns those of the names whose chunks are stored already, with where.
ChunksLookup = Callable[[Sequence[bytes]], Mapping[bytes, ChunkRef]]
Release = Callable[[], None]
#: Takes a chunk that is in a pack now, and its plain bytes, which are valid until it returns.
Stored = Callable[[ChunkRef, memoryview], None]


def _keep() -> None:
    """Do nothing: the piece has bytes of its own, and no buffer to release."""


class PlacedChunk(msgspec.Struct, gc=False):
    """A chunk that was put: *is_new* says whether this writer stored it; a *twin* is the same chunk, put earlier."""

    own_ref: ChunkRef | None = None
    twin: PlacedChunk | None = None
    is_new: bool = False

    @property
    def ref(self) -> ChunkRef:
        """Where the chunk is stored; known after the writer's ``finish``."""
        ref = self.own_ref if self.twin is None else self.twin.ref
        assert ref is not None, "asked before finish"
        return ref


@dataclass(frozen=True, slots=True)
class _Job:
    """A piece that waits for a coder."""

    plain: memoryview
    release: Release
    item_bytes: int
    base: Base | None
    stored: Stored | None
    placed: PlacedChunk


@dataclass(frozen=True, slots=True)
class _ShortJob:
    """Short pieces that wait for a coder together; each has bytes of its own."""

    plains: Sequence[bytes]
    placed: Sequence[PlacedChunk]


@dataclass(slots=True)
class WriteStats:
    """Counts of what a writer stored.

    The *difference_count* chunks of *difference_bytes* that are stored as differences take *difference_stored_bytes*.
    """

    chunk_count: int = 0
    new_chunk_count: int = 0
    new_bytes: int = 0
    stored_bytes: int = 0
    difference_count: int = 0
    difference_bytes: int = 0
    difference_stored_bytes: int = 0
    packs: list[bytes] = field(default_factory=list)


class _Ledger:
    """The state that the threads share: the chunks that are stored or being stored, the counts, the first fault."""

    def __init__(self, lookup: ChunkLookup, lookup_all: ChunksLookup | None) -> None:
        self.stats = WriteStats()
        self.fault: BaseException | None = None
        self._lookup = lookup
        self._lookup_all = lookup_all or _one_by_one(lookup)
        self._seen: dict[bytes, PlacedChunk] = {}
        self._refs_of: dict[bytes, list[ChunkRef]] = {}
        self._durable: list[bytes] = []
        self._all_durable: set[bytes] = set()
        self._lock = threading.Lock()
        self._has_changed = threading.Condition()

    def claim(self, name: bytes, placed: PlacedChunk) -> bool:
        """Return whether the caller must store this chunk; if not, set in *placed* where it is stored."""
        with self._lock:
            self.stats.chunk_count += 1
            twin = self._seen.get(name)
            if twin is not None:
                placed.twin = twin
                return False
            placed.own_ref = self._lookup(name)
            self._seen[name] = placed
            return placed.own_ref is None

    def claim_all(self, names: Sequence[bytes], placed: Sequence[PlacedChunk]) -> list[int]:
        """Do the same for many chunks at once; return which of them the caller must store."""
        seen = self._seen
        mine = []
        with self._lock:
            self.stats.chunk_count += len(names)
            known = self._lookup_all([name for name in names if name not in seen])
            for at, (name, one) in enumerate(zip(names, placed, strict=True)):
                twin = seen.setdefault(name, one)
                if twin is not one:
                    one.twin = twin
                elif name in known:
                    one.own_ref = known[name]
                else:
                    mine.append(at)
        return mine

    def chunk_stored(self, ref: ChunkRef) -> None:
        """Count a chunk that went into a pack."""
        self.chunks_stored([ref])

    def chunks_stored(self, refs: Sequence[ChunkRef]) -> None:
        """Count chunks that went into one pack."""
        with self._lock:
            self.stats.new_chunk_count += len(refs)
            self.stats.new_bytes += sum([ref.plain_bytes for ref in refs])
            for ref in refs:
                if ref.base is not None:
                    self.stats.difference_count += 1
                    self.stats.difference_bytes += ref.plain_bytes
                    self.stats.difference_stored_bytes += ref.stored_bytes
            for ref in refs[:1]:
                self._refs_of.setdefault(ref.pack, []).extend(refs)

    def pack_stored(self, pack_id: bytes, size_bytes: int) -> None:
        """Count a pack that is durable."""
        with self._lock:
            self.stats.packs.append(pack_id)
            self.stats.stored_bytes += size_bytes
            self._durable.append(pack_id)
            self._all_durable.add(pack_id)
        with self._has_changed:
            self._has_changed.notify_all()

    def durable_ref(self, placed: PlacedChunk) -> ChunkRef | None:
        """Return where a chunk lies once its pack is durable."""
        while placed.twin is not None:
            placed = placed.twin
        ref = placed.own_ref
        if ref is None or (placed.is_new and ref.pack not in self._all_durable):
            return None
        base = ref.base
        is_base_durable = base is None or base.pack not in self._refs_of or base.pack in self._all_durable
        return ref if is_base_durable else None

    def wait_durable(self, seconds: float) -> None:
        """Wait until a pack became durable, or so long."""
        with self._has_changed:
            self._has_changed.wait(seconds)

    def take_durable(self) -> dict[bytes, list[ChunkRef]]:
        """Return the chunks of each pack that became durable since the last call."""
        if not self._durable:  # called for each piece of small files: return without waiting for the lock
            return {}
        with self._lock:
            durable, self._durable = self._durable, []
            return {pack_id: self._refs_of.pop(pack_id, []) for pack_id in durable}

    def forget_names(self) -> None:
        """Free what is needed only while chunks are put; of a hundred thousand files it is fifteen megabytes."""
        self._seen = {}

    def fail(self, error: BaseException) -> None:
        """Keep the first fault: later ones are mostly its consequences."""
        with self._lock:
            self.fault = self.fault or error


def _one_by_one(lookup: ChunkLookup) -> ChunksLookup:
    return lambda names: {name: ref for name in names if (ref := lookup(name)) is not None}


class PackWriter:
    """Stores pieces as chunks, each only once; see the module's docstring."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        lookup: ChunkLookup,
        *,
        lanes: int | None = None,
        pack_bytes: int = PACK_BYTES,
        batch_bytes: int = BATCH_BYTES,
        journal: PackJournal | None = None,
        lookup_all: ChunksLookup | None = None,
    ) -> None:
        self._journal = journal
        self._keys = keys
        self._gather_bytes = batch_bytes
        self._ledger = _Ledger(lookup, lookup_all)
        self._queue: queue.Queue[list[_Job | _ShortJob] | None] = queue.Queue(QUEUE_BATCHES)
        self._batch: list[_Job | _ShortJob] = []
        self._batch_bytes = 0
        self._short_count = 0
        self._put_bytes = 0
        self._lanes = Lanes(store, keys, self._ledger, at_once=lanes, pack_bytes=pack_bytes, journal=journal)
        self.coder_count = threads(min(lanes or store.writes_at_once, CODERS_MAX))
        self._threads: list[threading.Thread] = []

    def put(
        self,
        plain: memoryview,
        release: Release = _keep,
        item_bytes: int = 0,
        base: Base | None = None,
        stored: Stored | None = None,
    ) -> PlacedChunk:
        """Store *plain* (1 byte to 16 MiB); *release* is called when its buffer may be used again.

        *item_bytes* is the width of the numbers that it consists of, from its first byte on; 0 if unknown. If it is
        new, it may be stored as a difference from *base*; the caller sees to it that the base's pack stays.
        *stored* is called with what became of it and its bytes, by a coder's thread, unless it was stored before.
        """
        self._raise_fault()
        placed = PlacedChunk()
        self._batch.append(_Job(plain, release, item_bytes, base, stored, placed))
        self._batch_bytes += len(plain)
        self._put_bytes += len(plain)
        if self._batch_bytes >= self._gather_bytes:
            self.hand_on()
        return placed

    def put_short(self, plains: Sequence[bytes]) -> list[PlacedChunk]:
        """Store pieces of some kilobytes that consist of no numbers; it takes a fraction of what ``put`` takes of each.

        They are neighbours in a pack, as far as they are new.
        """
        self._raise_fault()
        placed = [PlacedChunk() for _ in plains]
        plain_bytes = sum(map(len, plains))
        self._batch.append(_ShortJob(plains, placed))
        # Not put_bytes: one coder is as fast as whoever reads so many files, and a second would wait for Python's lock.
        self._batch_bytes += plain_bytes
        self._short_count += len(plains)
        if self._batch_bytes >= self._gather_bytes or self._short_count >= BATCH_SHORT_PIECES:
            self.hand_on()
        return placed

    def hand_on(self) -> None:
        """Pass the gathered pieces to a coder. Call this before waiting for a buffer: one of the pieces may hold it."""
        if not self._batch:
            return
        # Threads start late: a backup without new content starts none, and a small one makes one pack.
        busy_count = min(self.coder_count, 1 + self._put_bytes // self._gather_bytes)
        if len(self._threads) < busy_count:
            name = f"mlsync-coder-{len(self._threads)}"
            self._threads.append(threading.Thread(target=self._code, name=name, daemon=True))
            self._threads[-1].start()
        self._queue.put(self._batch)
        self._batch, self._batch_bytes, self._short_count = [], 0, 0

    def finish(self) -> WriteStats:
        """Wait until every chunk is durable in the store; raise the first error."""
        self._join()
        self._raise_fault()
        self._ledger.forget_names()
        return self._ledger.stats

    def abort(self) -> None:
        """End the threads; packs that are durable stay, and so do unfinished ones that the journal has."""
        self._ledger.fail(_Aborted("the backup was given up"))
        self._join()

    def durable_ref(self, placed: PlacedChunk) -> ChunkRef | None:
        """Return where a chunk lies once it is durable, ``None`` until then; any thread may ask."""
        return self._ledger.durable_ref(placed)

    def wait_durable(self, seconds: float) -> None:
        """Wait until another pack is durable, for *seconds* at most."""
        self._ledger.wait_durable(seconds)

    def remember_durable(self, remember: Callable[[list[ChunkRef]], None]) -> None:
        """Pass the chunks that became durable since the last call to *remember*, though no manifest names them yet.

        Call this during the backup, not only at its end: chunks that are not remembered when the process dies are sent
        again.
        """
        for pack_id, refs in self._ledger.take_durable().items():
            remember(refs)
            if self._journal is not None:
                self._journal.forget(pack_id)

    def _join(self) -> None:
        self.hand_on()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []
        self._lanes.close()

    def _raise_fault(self) -> None:
        if self._ledger.fault is not None:
            raise self._ledger.fault

    def _code(self) -> None:
        coder = _Coder(self._lanes, self._keys, self._ledger)
        while (batch := self._queue.get()) is not None:
            for job in batch:
                if isinstance(job, _ShortJob):
                    coder.take_short(job)
                else:
                    coder.take(job)
            coder.rest()


class _Aborted(Error):
    """The writer's caller aborted it."""


class _Coder:
    """The work of one coder thread; faults go to the ledger, and put and finish raise them."""

    def __init__(self, lanes: Lanes, keys: Keys, ledger: _Ledger) -> None:
        self._lanes = lanes
        self._name_key = keys.of("chunk name")
        self._ledger = ledger
        self._pack: PackBuilder | None = None

    def take(self, job: _Job) -> None:
        """Store the piece and release its buffer."""
        try:
            # After a fault, only empty the queue, so that nobody waits for a buffer for ever.
            if self._ledger.fault is None:
                self._store_piece(job)
        except BaseException as error:  # noqa: BLE001 - kept whole and raised by the writer's owner
            self._ledger.fail(error)
        finally:
            # A fault's traceback may hold a view of the buffer; release it all the same.
            with suppress(BufferError):
                job.plain.release()
            job.release()

    def take_short(self, job: _ShortJob) -> None:
        """Store short pieces."""
        try:
            if self._ledger.fault is None:
                self._store_short(job)
        except BaseException as error:  # noqa: BLE001 - as above
            self._ledger.fail(error)

    def rest(self) -> None:
        """Give the pack back: while this thread waits for pieces, another could wait for the pack for ever."""
        pack, self._pack = self._pack, None
        try:
            if pack is not None:
                self._lanes.give_back(pack)
        except BaseException as error:  # noqa: BLE001 - as above
            self._ledger.fail(error)

    def _store_piece(self, job: _Job) -> None:
        name = chunk_name(self._name_key, job.plain)
        if not self._ledger.claim(name, job.placed):
            return
        if self._pack is None:
            self._pack = self._lanes.take()
        ref = self._pack.add(name, job.plain, job.item_bytes, job.base)
        # In this order: whoever sees the place of a new chunk must see that it is new, and may not be durable yet.
        job.placed.is_new = True
        job.placed.own_ref = ref
        self._ledger.chunk_stored(ref)
        if job.stored is not None:
            job.stored(ref, job.plain)
        if self._lanes.is_due(self._pack):
            self.rest()

    def _store_short(self, job: _ShortJob) -> None:
        names = chunk_names(self._name_key, job.plains)
        mine = self._ledger.claim_all(names, job.placed)
        plains = [job.plains[at] for at in mine]
        chunks = [
            (names[at], coding, len(plain), coded)
            for at, plain, (coding, coded) in zip(mine, plains, encode_short(plains), strict=True)
        ]
        done = 0
        # After a fault a pack keeps its part, and nothing goes in any more.
        while done < len(chunks) and self._ledger.fault is None:
            if self._pack is None:
                self._pack = self._lanes.take()
            refs = self._pack.add_short(chunks[done:])
            for at, ref in zip(mine[done:], refs, strict=False):
                placed = job.placed[at]
                placed.is_new = True  # before the place, as above
                placed.own_ref = ref
            done += len(refs)
            self._ledger.chunks_stored(refs)
            if self._lanes.is_due(self._pack):
                self.rest()
