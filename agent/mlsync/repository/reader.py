"""Read chunks: fetch neighbours in a pack with one call, open and check them in threads, and yield them in order.

Different threads fetch and open: a store that is far away needs many calls at once, and opening takes memory of its
own. The more calls run at once, the shorter each is, so that memory stays the same.

Every chunk is authenticated (AES-GCM binds pack, ordinal, coding and length), and its name is computed again from its
plain bytes. So the reader yields what was stored, or raises a ``Damage`` that names the pack. Buffers are allocated
once and reused: fresh memory would cost more than all work on the bytes.

A difference is fetched and decoded like any chunk, and then its base: each base once for a window, from the store or
its mirrors, or from wherever it was moved. In that order, since a difference that was moved lies elsewhere without one.

If a pack is gone, its move record says where its chunks lie now (see move.py). An error names the pack that was asked
for, which is the one that manifests know.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Final, Self, TypeAlias

from mlsync.buffers import ThreadMemory, aligned_memory
from mlsync.codec.compression import Coding, CodingBroken, add_base, decode_into
from mlsync.codec.digest import is_named
from mlsync.codec.keys import Keys
from mlsync.codec.sealing import TAG_BYTES, SealBroken
from mlsync.courtesy.pressure import threads
from mlsync.direct_io import slack_bytes
from mlsync.errors import (
    Damage,
    FormatUnsupported,
    NotFound,
    ObjectArchived,
    ObjectDamaged,
    ObjectMissing,
    StoreBroken,
    StoreError,
    WriteOnly,
)
from mlsync.repository import names
from mlsync.repository.encoding.tokens import KEY_SEALED
from mlsync.repository.header import check_epoch
from mlsync.repository.history.move import STEPS_MAX, Moves
from mlsync.repository.manifest import ChunkRef, PackPlace, with_bases
from mlsync.repository.pack.footer import made_seal, read_range, read_seal
from mlsync.repository.pack.pack import CHUNK_BYTES_MAX, HEADER_BYTES, PackSeal, parse_header
from mlsync.store.base import Store

# The size of one fetch: large enough to be worth a call, and all that run at once stay below the sum.
WINDOW_BYTES: Final = 8 << 20
WINDOW_BYTES_MIN: Final = 2 << 20
AHEAD_BYTES: Final = 32 << 20
WINDOW_CHUNKS: Final = 1024
# Where the next chunk lies in the same pack, so much more is fetched at once: writers fill several packs in turns, and
# to begin a call with each takes fewer of them. A call to S3 costs as much processor time as receiving six megabytes.
_RUN_SHARE: Final = 3, 2
# The longest pieces of files: to free and allocate memory for each costs more than it saves.
_KEPT_BYTES_MIN: Final = 4 << 20
# Windows differ a little in length. Large memory comes in huge pages.
_LARGE_STEP_BYTES: Final = 2 << 20
_SMALL_STEP_BYTES: Final = 64 << 10
GAP_BYTES_MAX: Final = 64 << 10
SEALS_MAX: Final = 256
GONE_MAX: Final = 1 << 16
FETCHERS_MAX: Final = 64
# One more than processors, since one thread waits for memory. One thread opens a gigabyte in 0.6 s: six are faster than
# any consumer, and each has buffers of its own.
OPENERS_MAX: Final = min(6, (os.cpu_count() or 1) + 1)

# Such chunks come by the thousand, and to copy them costs nothing.
_SHORT_BYTES_MAX: Final = 16 << 10

_OTHER_NAME: Final = "its bytes are not those that it is named after"

Plain: TypeAlias = memoryview
# A chunk as it was asked for, and where it lies: the same, unless its pack is gone.
_Sought: TypeAlias = tuple[ChunkRef, ChunkRef]
#: Fills memory with what should be the plain bytes of a base, and returns whether it could: what is made of them has a
#: name that is compared.
ReadBase: TypeAlias = Callable[[ChunkRef, memoryview], bool]
#: Gets each base that was fetched, with its plain bytes; called by several threads.
KeepBase: TypeAlias = Callable[[ChunkRef, memoryview], None]
#: Returns memory for the n-th chunk of a stream, as long as the chunk; ``None`` leaves it to the reader.
AllocateChunk: TypeAlias = Callable[[int], memoryview | None]
#: Fills the memory of those of some chunks that are had nearer than from the store, compares them with their names, and
#: returns them. The memory of a chunk is what the callable that it is given returns. Called by several threads.
Nearer: TypeAlias = Callable[[Iterable[ChunkRef], Callable[[ChunkRef], memoryview]], AbstractSet[ChunkRef]]


class ChunkReader:
    """Reads the plain bytes of chunks; a context manager, since it owns threads.

    It asks *nearer* before the store. *read_base* may have bases at hand, so that they need not be fetched, and
    *keep_base* gets those that were. Of a difference whose base only a footer names, the seal is opened, and the bytes
    are empty.
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        *,
        threads: int | None = None,
        read_base: ReadBase | None = None,
        keep_base: KeepBase | None = None,
        nearer: Nearer | None = None,
    ) -> None:
        self.read_bytes = 0
        self._store = store
        self._opener = _Opener(store, keys, read_base, keep_base, nearer)
        self._threads = threads
        self._fetchers: ThreadPoolExecutor | None = None
        self._openers: ThreadPoolExecutor | None = None
        # Kept from one stream for the next: to allocate 70 MiB takes as long as to read half as much.
        self._free: list[_Window] = []
        self._local = threading.local()

    def __enter__(self) -> Self:
        """Return the reader, for a ``with`` statement."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        """End the threads; do not wait for them if a generator that reads is dropped: see ``Ahead``."""
        self._end(is_waiting=kind is not GeneratorExit)

    def close(self) -> None:
        """End the threads and free their buffers."""
        self._end(is_waiting=True)

    def _end(self, *, is_waiting: bool) -> None:
        for executor in (self._fetchers, self._openers):  # in this order: fetchers wait for openers
            if executor is not None:
                executor.shutdown(wait=is_waiting, cancel_futures=True)
        self._fetchers = self._openers = None
        self._free.clear()

    def one(self, ref: ChunkRef) -> bytes:
        """Return one chunk."""
        window = _Window()
        self.read_bytes += self._opener.fill(window, [ref])
        return bytes(window.views[0])

    def read_into(self, ref: ChunkRef, into: memoryview) -> None:
        """Fill *into* with one chunk, which is as long; several threads may call this at once."""
        window: _Window | None = getattr(self._local, "window", None)
        if window is None:
            window = self._local.window = _Window()
        window.allocated = {ref: into}
        try:
            self._opener.fill(window, [ref])
        finally:
            # No view of the caller's memory outlives the call.
            window.clear(0)
            window.allocated = {}

    def stream(self, refs: Iterable[ChunkRef], allocate: AllocateChunk | None = None) -> Iterator[Plain]:
        """Yield the chunks of *refs* in order; each view is valid until the next is asked for.

        The reader fetches some windows ahead; they bound the memory, whatever the number of chunks. It calls *allocate*
        in order, when it is about to fetch a chunk, and not for a chunk that comes again in the same window.
        """
        fetchers, openers = self._executors()
        free = self._free
        ahead: deque[tuple[_Window, Future[int]]] = deque()
        planned = _windows(refs, lambda: AHEAD_BYTES // self._at_once)
        asked_count = 0
        try:
            while True:
                # One more than calls: whoever reads has a window too.
                while len(ahead) <= self._at_once and (chunks := next(planned, None)) is not None:
                    window = free.pop() if free else _Window()
                    window.allocated = {} if allocate is None else _allocated(chunks, asked_count, allocate)
                    asked_count += len(chunks)
                    ahead.append((window, fetchers.submit(self._opener.fill, window, chunks, openers)))
                if not ahead:
                    return
                window, filled = ahead.popleft()
                self.read_bytes += filled.result()
                yield from window.give()
                window.keep_at_most(_within_run(AHEAD_BYTES // self._at_once))
                # As many as one stream uses now: several streams, or more calls, may have used more.
                if len(free) < self._at_once + 2:
                    free.append(window)
        finally:
            for _, future in ahead:
                future.cancel()

    @property
    def _at_once(self) -> int:
        """How many calls may run at once; the store says it, and may say another number the next time."""
        return max(1, self._threads or self._store.reads_at_once)

    def _executors(self) -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
        """Return the fetchers and the openers; their threads start when there is work."""
        if self._fetchers is None or self._openers is None:
            self._fetchers = ThreadPoolExecutor(FETCHERS_MAX, thread_name_prefix="mlsync-read")
            self._openers = ThreadPoolExecutor(
                threads(min(self._at_once, OPENERS_MAX)), thread_name_prefix="mlsync-read-open"
            )
        return self._fetchers, self._openers


class _Window:
    """Buffers for the sealed and the plain bytes of some chunks, and views of the chunks in the order of the request.

    Chunks in *allocated* take no memory here: the caller allocated theirs.
    """

    def __init__(self) -> None:
        self.views: list[memoryview] = []
        self.allocated: dict[ChunkRef, memoryview] = {}
        # Differences whose base is not added yet, each with the width of its numbers.
        self.differences: dict[ChunkRef, int] = {}
        # Chunks that serve as bases alone, from wherever: whether they have their names shows in what is made of them.
        self.unnamed: set[ChunkRef] = set()
        self._buffer: mmap.mmap | bytes = b""
        self._sealed: mmap.mmap | bytes = b""
        self._filled_bytes = 0

    def clear(self, size_bytes: int) -> None:
        """Empty the window, and have memory for *size_bytes*."""
        self.views = []
        self.differences = {}
        self.unnamed = set()
        self._filled_bytes = 0
        if self.allocated and len(self._buffer) > 4 * size_bytes:
            self._buffer = b""  # allocated chunks take memory elsewhere
        if len(self._buffer) < size_bytes:
            self._buffer = aligned_memory(_rounded_up(size_bytes))

    def sealed(self, start: int, size_bytes: int) -> memoryview:
        """Return memory for the bytes at *start* in a pack, aligned so that they can be read past the page cache."""
        slack = slack_bytes(start)
        if len(self._sealed) < slack + size_bytes:
            self._sealed = aligned_memory(_rounded_up(slack + size_bytes))
        return memoryview(self._sealed)[slack : slack + size_bytes]

    def keep_at_most(self, window_bytes: int) -> None:
        """Free memory from a time when calls were fewer and longer."""
        kept_bytes = max(window_bytes, _KEPT_BYTES_MIN) * 5 // 4
        if len(self._buffer) > kept_bytes:
            self._buffer = b""
        if len(self._sealed) > kept_bytes:
            self._sealed = b""

    def place(self, ref: ChunkRef) -> memoryview:
        """Return the memory for a chunk: the caller's, or else the next bytes of the buffer."""
        if self.allocated and (memory := self.allocated.get(ref)) is not None:
            return memory
        length = ref.plain_bytes
        start, self._filled_bytes = self._filled_bytes, self._filled_bytes + length
        return memoryview(self._buffer)[start : self._filled_bytes]

    def give(self) -> Iterator[memoryview]:
        """Yield the views; each is released when the next is asked for, so that a stale one fails at once."""
        views, self.views = self.views, []
        for view in views:
            with view[:] as given:
                yield given


def _rounded_up(size_bytes: int) -> int:
    """Return a length that fits slightly longer windows too; memory that is not used costs nothing."""
    step_bytes = _LARGE_STEP_BYTES if size_bytes > _LARGE_STEP_BYTES else _SMALL_STEP_BYTES
    return -(-size_bytes // step_bytes) * step_bytes


class _Opener:
    """Fetches, opens and checks the chunks of a window; used by several threads."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        read_base: ReadBase | None = None,
        keep_base: KeepBase | None = None,
        nearer: Nearer | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._read_base = read_base
        self._keep_base = keep_base
        self._nearer = nearer
        self._name_key = keys.of("chunk name")
        self._seals: dict[PackPlace, PackSeal] = {}
        self._moves = Moves(store, keys)
        # Packs that are gone and have a move record: each is asked for once.
        self._gone: set[bytes] = set()
        self._coded = ThreadMemory()
        self._of_mirrors: dict[Store, _Opener] = {}

    def fill(self, window: _Window, refs: list[ChunkRef], openers: Executor | None = None) -> int:
        """Put the plain bytes of *refs* into *window*; return how many bytes came from the store.

        The *openers* open what was fetched; without them, the calling thread does.
        """
        # By the whole reference: if two disagree about one ordinal, each is checked against its own numbers.
        unique = dict.fromkeys(refs)
        needed = dict.fromkeys(with_bases(unique)) if any(ref.base is not None for ref in unique) else unique
        window.clear(sum([ref.plain_bytes for ref in needed if not window.allocated or ref not in window.allocated]))
        plains: dict[ChunkRef, memoryview] = {}
        near = self._fill_nearer(window, unique, openers, plains)
        far = [ref for ref in unique if ref not in near] if near else unique
        read_bytes = self._fill_each(window, far, openers, plains)
        if window.differences:
            read_bytes += self._fill_bases(window, openers, plains)
        window.views = [plains[ref] if ref.base is None or _has_base(ref) else plains[ref][:0] for ref in refs]
        return read_bytes

    def _fill_each(
        self, window: _Window, refs: Iterable[ChunkRef], openers: Executor | None, plains: dict[ChunkRef, memoryview]
    ) -> int:
        groups = _neighbours(sorted(((ref, ref) for ref in refs), key=_place))
        return sum(self._fill_group(window, group, openers, plains) for group in groups)

    def _fill_bases(self, window: _Window, openers: Executor | None, plains: dict[ChunkRef, memoryview]) -> int:
        """Make plain bytes of the window's differences; return how many bytes came from the store for their bases."""
        bases = dict.fromkeys(ref.base for ref in window.differences if ref.base is not None)
        apart = [base for base in bases if base not in plains]
        window.unnamed.update(apart)
        wanted = [base for base in apart if not self._is_at_hand(window, base, plains)]
        read_bytes = self._fill_each(window, wanted, openers, plains)
        if openers is None:
            read_bytes += self._add_bases(window, plains)
        else:
            read_bytes += openers.submit(self._add_bases, window, plains).result()
        if self._keep_base is not None:
            for base in wanted:
                self._keep_base(base, plains[base])
        return read_bytes

    def _is_at_hand(self, window: _Window, base: ChunkRef, plains: dict[ChunkRef, memoryview]) -> bool:
        if self._read_base is None:
            return False
        into = window.place(base)
        plains[base] = into
        # Otherwise it keeps its memory, as after a first try.
        return self._read_base(base, into)

    def _add_bases(self, window: _Window, plains: dict[ChunkRef, memoryview]) -> int:
        """Add their bases to the window's differences; return how many bytes were read for it once more."""
        size_bytes = 0
        for ref, width in window.differences.items():
            assert ref.base is not None
            into, base = plains[ref], plains[ref.base]
            add_base(into, base, width)
            if not is_named(self._name_key, into, ref.name):
                size_bytes += self._add_again(window, plains, ref, ref.base)
        return size_bytes

    def _add_again(self, window: _Window, plains: dict[ChunkRef, memoryview], ref: ChunkRef, base: ChunkRef) -> int:
        """Put a difference together once more that did not come to its name, or raise the damage of what is wrong.

        Return how many bytes were read: the fault may be the base's, and may have been in this machine's memory.
        """
        size_bytes = 0
        if base in window.unnamed and not is_named(self._name_key, plains[base], base.name):
            window.unnamed.discard(base)
            size_bytes += self._fill_each(window, [base], None, plains)
        into, again = plains[ref], self._read_again(ref)
        add_base(into, plains[base], self._open(ref, again, into))
        self._check_name(ref, into)
        return size_bytes + len(again)

    def _fill_nearer(
        self, window: _Window, refs: Iterable[ChunkRef], openers: Executor | None, plains: dict[ChunkRef, memoryview]
    ) -> AbstractSet[ChunkRef]:
        """Put those of *refs* into *window* and *plains* that are had without the store; return them."""
        if self._nearer is None:
            return frozenset()

        def memory_of(ref: ChunkRef) -> memoryview:
            # One that is not had after all finds its memory again.
            return plains[ref] if ref in plains else plains.setdefault(ref, window.place(ref))

        if openers is None:
            return self._nearer(refs, memory_of)
        return openers.submit(self._nearer, refs, memory_of).result()

    def _fill_group(
        self,
        window: _Window,
        group: list[_Sought],
        openers: Executor | None,
        plains: dict[ChunkRef, memoryview],
        before: tuple[bytes, ...] = (),
    ) -> int:
        """Put a group of neighbours into *window* and *plains*, from a mirror if the store has lost it.

        *before* are packs from which they were moved on.
        """
        try:
            return self._fill_here(window, group, openers, plains, before)
        except (Damage, ObjectArchived) as error:
            for mirror in self._store.mirrors():
                opener = self._of_mirrors.setdefault(mirror, _Opener(mirror, self._keys, self._read_base))
                try:
                    read_bytes = opener._fill_here(window, group, openers, plains, before)  # noqa: SLF001 - its own kind
                except (Damage, FormatUnsupported, StoreError):
                    continue
                self._store.note_mirror(error.where or names.pack(group[0][1].pack), mirror, error.what)
                return read_bytes
            raise

    def _fill_here(
        self,
        window: _Window,
        group: list[_Sought],
        openers: Executor | None,
        plains: dict[ChunkRef, memoryview],
        before: tuple[bytes, ...],
    ) -> int:
        """Do the same without mirrors."""
        pack = group[0][1].pack
        if pack in self._gone:
            return self._fill_moved(window, group, openers, plains, before)
        try:
            sealed = self._fetch(window, group)
        except NotFound as error:
            return self._fill_moved(window, group, openers, plains, before, error)
        if openers is None:
            return self._open_group(window, group, sealed, plains)
        return openers.submit(self._open_group, window, group, sealed, plains).result()

    def _fill_moved(
        self,
        window: _Window,
        group: list[_Sought],
        openers: Executor | None,
        plains: dict[ChunkRef, memoryview],
        before: tuple[bytes, ...],
        gone: NotFound | None = None,
    ) -> int:
        """Do the same with the chunks of a pack that is gone, as its move record says."""
        at, where = group[0][1], names.pack(group[0][0].pack)
        moved: list[_Sought] = []
        for ref, old in group:
            place = None if old.pack in before or len(before) == STEPS_MAX else self._moves.next_place(old)
            if place is None:
                moved_on = ", nor is the one to which it was moved" if before else ""
                raise ObjectMissing(f"a pack is not in the store{moved_on}", where=where) from gone
            moved.append((ref, place))
        if len(self._gone) >= GONE_MAX:
            self._gone.clear()
        self._gone.add(at.pack)
        read_bytes = 0
        try:
            for part in _neighbours(sorted(moved, key=_place)):
                read_bytes += self._fill_group(window, part, openers, plains, (*before, at.pack))
        except (Damage, ObjectArchived) as error:
            if error.where == where:
                raise
            what = f"{error.what} ({error.where}, to which it was moved)"
            raise type(error)(what, where=where, advice=error.advice) from error
        return read_bytes

    def _fetch(self, window: _Window, group: list[_Sought]) -> memoryview:
        """Return the sealed bytes of *group*, with the bytes between them; raise ``NotFound`` if the pack is gone."""
        first, last = group[0][1], group[-1][1]
        sealed = window.sealed(first.offset, last.offset + last.stored_bytes - first.offset)
        read_range(self._store, first.pack, first.offset, sealed)
        return sealed

    def _open_group(
        self, window: _Window, group: list[_Sought], sealed: memoryview, plains: dict[ChunkRef, memoryview]
    ) -> int:
        """Put the plain bytes of *group* into *window* and *plains*; return how many bytes came for them."""
        size_bytes, first = len(sealed), group[0][1]
        seal = self._seal_of(first)
        for ref, at in group:
            begin = at.offset - first.offset
            # A second try, for bytes from a mirror, finds the memory of the first.
            into = plains.get(ref)
            if into is None:
                into = plains[ref] = window.place(ref)
            if (
                at.plain_bytes <= _SHORT_BYTES_MAX
                and not window.unnamed
                and at.epoch == first.epoch
                and at.key_kind == first.key_kind
                and self._opens(seal, at, sealed[begin : begin + at.stored_bytes], into)
            ):
                continue
            is_named_later = ref in window.unnamed
            width, again_bytes = self._open_or_read_again(
                at, sealed[begin : begin + at.stored_bytes], into, is_named_later=is_named_later
            )
            size_bytes += again_bytes
            window.differences.pop(ref, None)
            if width and _has_base(at):
                window.differences[ref] = width
        return size_bytes

    def _opens(self, seal: PackSeal, ref: ChunkRef, sealed: memoryview, into: memoryview) -> bool:
        """Fill *into* with a short chunk; return whether that is what it is named after.

        It is a third of the work of ``_open``, which does the rest: differences, and to say what is wrong.
        """
        coding = ref.coding
        if coding is not Coding.ZSTD and coding is not Coding.RAW:
            return False
        try:
            coded = seal.open_short(ref.ordinal, ref.name, coding, ref.plain_bytes, sealed)
            decode_into(coding, memoryview(coded), into)
        except (SealBroken, CodingBroken):
            return False
        return is_named(self._name_key, into, ref.name)

    def _open_or_read_again(
        self, ref: ChunkRef, sealed: memoryview, into: memoryview, *, is_named_later: bool
    ) -> tuple[int, int]:
        """Open a chunk, and if it is damaged the same from a second reading: see second_look.

        Return what ``_open`` does, and how many bytes were read.
        """
        try:
            return self._open(ref, sealed, into, is_named_later=is_named_later), 0
        except ObjectDamaged:
            again = self._read_again(ref, sealed)
            return self._open(ref, again, into, is_named_later=is_named_later), len(again)

    def _read_again(self, ref: ChunkRef, sealed: memoryview | None = None) -> memoryview:
        """Return the sealed bytes of a chunk from another reading, or *sealed* if the store has none now."""
        again = bytearray(ref.stored_bytes)
        try:
            self._store.read(names.pack(ref.pack), ref.offset, memoryview(again))
        except (NotFound, StoreBroken) as error:
            if isinstance(error, StoreBroken) and not error.is_of_object:
                raise
            if sealed is None:
                raise _damaged(ref, _OTHER_NAME) from error
            again[:] = sealed
        return memoryview(again)

    def _open(self, ref: ChunkRef, sealed: memoryview, into: memoryview, *, is_named_later: bool = False) -> int:
        """Fill *into* with the chunk, or raise ``ObjectDamaged``; what lies there is of no use then.

        Its name is compared, unless that *is_named_later*. Return 0. Of a difference, fill it with what the seal holds,
        and return the width of its numbers: the base has to be added.
        """
        is_raw = ref.coding is Coding.RAW and ref.stored_bytes - TAG_BYTES == len(into)
        coded = into if is_raw else self._coded.room(ref.stored_bytes - TAG_BYTES)
        try:
            self._seal_of(ref).open_chunk(
                ref.ordinal, ref.name, ref.coding, ref.plain_bytes, sealed, coded, ref.base_name
            )
            if not is_raw:
                decode_into(ref.coding, coded, into)
        except SealBroken as error:
            self._check_header(ref)
            raise _damaged(ref, str(error)) from None
        except CodingBroken as error:
            raise _damaged(ref, str(error)) from None
        if ref.coding is Coding.DIFFERENCE:
            return coded[0]
        if not is_named_later:
            self._check_name(ref, into)
        return 0

    def _check_name(self, ref: ChunkRef, plain: memoryview) -> None:
        if not is_named(self._name_key, plain, ref.name):
            raise _damaged(ref, _OTHER_NAME)

    def _check_header(self, ref: ChunkRef) -> None:
        """Raise if the pack's header explains why a chunk does not open: another pack or epoch, or a newer format."""
        header = bytearray(HEADER_BYTES)
        with suppress(StoreError):
            self._store.read(names.pack(ref.pack), 0, memoryview(header))
            head = parse_header(bytes(header), self._keys, ref.pack)
            _refuse_other_key(PackPlace(head.epoch, ref.pack, head.key_kind), ref)

    def _seal_of(self, ref: ChunkRef) -> PackSeal:
        seal = self._seals.get(ref.place)
        if seal is None:
            if len(self._seals) >= SEALS_MAX:
                self._seals.clear()
            check_epoch(ref.epoch, self._keys, names.pack(ref.pack))
            try:
                is_sealed = ref.key_kind == KEY_SEALED
                seal = self._read_seal(ref) if is_sealed else PackSeal(self._keys, ref.pack, ref.epoch)
            except WriteOnly as error:
                # A backup stores again what it needs of this pack.
                raise WriteOnly(error.what, where=names.pack(ref.pack)) from None
            self._seals[ref.place] = seal
        return seal

    def _read_seal(self, ref: ChunkRef) -> PackSeal:
        """Return what opens a pack whose key stands in it, sealed to a recipient: one pack costs two requests once."""
        seal = made_seal(self._keys, ref.pack)
        if seal is not None:
            return seal
        try:
            seal, place = read_seal(self._store, self._keys, ref.pack)
        except NotFound as error:
            raise ObjectMissing("a pack is not in the store", where=names.pack(ref.pack)) from error
        _refuse_other_key(place, ref)
        return seal


def _refuse_other_key(found: PackPlace, ref: ChunkRef) -> None:
    """Raise ``ObjectDamaged`` if the pack's key is had in another way than is said of it."""
    if found.epoch != ref.epoch:
        what = f"the pack is of epoch {found.epoch}, and is said to be of epoch {ref.epoch}"
        raise ObjectDamaged(what, where=names.pack(ref.pack))
    if found.key_kind != ref.key_kind:
        what = f"the pack has a key of kind {found.key_kind}, and is said to have one of kind {ref.key_kind}"
        raise ObjectDamaged(what, where=names.pack(ref.pack))


def _has_base(ref: ChunkRef) -> bool:
    """Return whether the chunk is a difference from a base that can be fetched."""
    return ref.base is not None and ref.base.is_placed


def _damaged(ref: ChunkRef, why: str) -> ObjectDamaged:
    return ObjectDamaged(f"chunk {ref.ordinal} of a pack is damaged: {why}", where=names.pack(ref.pack))


def _windows(refs: Iterable[ChunkRef], share_bytes: Callable[[], int]) -> Iterator[list[ChunkRef]]:
    """Cut *refs* into windows, bounded in bytes (stored and plain, with bases) and in number.

    *share_bytes* is the bound now; a window keeps the one of its beginning, and a half more for what lies in its pack.
    """
    window: list[ChunkRef] = []
    bases: set[ChunkRef] = set()
    window_bytes, limit_bytes = 0, _limit_bytes(share_bytes())
    for ref in refs:
        own_bytes = max(ref.stored_bytes, ref.plain_bytes)
        base = ref.base
        cost_bytes = own_bytes if base is None or base in bases else own_bytes + ref.plain_bytes
        bound_bytes = _within_run(limit_bytes) if window and window[-1].pack == ref.pack else limit_bytes
        if window and (window_bytes + cost_bytes > bound_bytes or len(window) >= WINDOW_CHUNKS):
            yield window
            window, bases, limit_bytes = [], set(), _limit_bytes(share_bytes())
            window_bytes, cost_bytes = 0, own_bytes if base is None else own_bytes + ref.plain_bytes
        window.append(ref)
        window_bytes += cost_bytes
        if base is not None:
            bases.add(base)
    if window:
        yield window


def _within_run(limit_bytes: int) -> int:
    # The longest windows are those of a directory, where a call costs nothing and memory does.
    return min(limit_bytes * _RUN_SHARE[0] // _RUN_SHARE[1], max(limit_bytes, WINDOW_BYTES))


def _limit_bytes(share_bytes: int) -> int:
    return min(max(share_bytes, WINDOW_BYTES_MIN), WINDOW_BYTES)


def _allocated(chunks: list[ChunkRef], first: int, allocate: AllocateChunk) -> dict[ChunkRef, memoryview]:
    """Return the caller's memory for a window's chunks, which begin with the *first*-th of the stream.

    A chunk that comes again in the window is opened once, into the reader's memory: its memory may be reused as soon as
    the chunk has been yielded.
    """
    counts = Counter(chunks)
    allocated = {}
    for number, ref in enumerate(chunks, first):
        if counts[ref] == 1 and (memory := allocate(number)) is not None:
            allocated[ref] = memory
    return allocated


def _place(sought: _Sought) -> tuple[bytes, int]:
    """Return by what chunks are sorted: where they lie."""
    return sought[1].pack, sought[1].offset


def _neighbours(chunks: list[_Sought]) -> Iterator[list[_Sought]]:
    """Group sorted *chunks* so that each group is worth one call: one pack, small gaps."""
    group: list[_Sought] = []
    for chunk in chunks:
        if group:
            at, first, last = chunk[1], group[0][1], group[-1][1]
            gap_bytes = at.offset - last.offset - last.stored_bytes
            span_bytes = at.offset + at.stored_bytes - first.offset
            near = at.pack == last.pack and 0 <= gap_bytes <= GAP_BYTES_MAX
            if not near or span_bytes > WINDOW_BYTES + CHUNK_BYTES_MAX:
                yield group
                group = []
        group.append(chunk)
    if group:
        yield group
