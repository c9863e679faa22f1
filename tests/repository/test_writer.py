"""Writing chunks: each stored once, in whatever lane, durable after finish; faults come out; nothing hangs."""

from __future__ import annotations

import mmap
import threading

import pytest
from elastic_store import ElasticStore
from format_parts import KEYS, keys_under, noise, unknown
from hypothesis import given, settings
from hypothesis import strategies as st

from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from doubles.memory_store import MemoryStore
from mlsync.buffers import BufferPool
from mlsync.errors import StoreFull, StoreUnavailable
from mlsync.repository import names
from mlsync.repository.pack.lanes import Lanes
from mlsync.repository.reader import ChunkReader
from mlsync.repository.writer import BATCH_SHORT_PIECES, PackWriter
from mlsync.store.counting import CountingStore

pytestmark = pytest.mark.timeout(60)


class Releases:
    """Counts how often each piece's buffer was given back."""

    def __init__(self):
        self.counts = []
        self._lock = threading.Lock()

    def of_next(self):
        """What is called to give the next piece's buffer back."""
        place = len(self.counts)
        self.counts.append(0)

        def release():
            with self._lock:
                self.counts[place] += 1

        return release


class Sent:
    """What became of packs."""

    def __init__(self):
        self.fault, self.stored = None, []

    def fail(self, error):
        """The first fault counts."""
        self.fault = self.fault or error

    def pack_stored(self, pack_id, size_bytes):
        """A pack is durable."""
        self.stored.append(size_bytes)


def test_the_fullest_free_pack_is_filled_on():
    """Of two packs that are free the fuller one is given, so that fewer are left at the end."""
    sent = Sent()
    lanes = Lanes(MemoryStore(), KEYS, sent, at_once=3, pack_bytes=1 << 20, journal=None)
    packs = [lanes.take() for _ in range(3)]
    for pack, size_bytes in zip(packs, (100, 300, 200), strict=True):
        pack.add(bytes([size_bytes % 256]) * 32, memoryview(noise(size_bytes)))
        lanes.give_back(pack)
    assert lanes.take() is packs[1]
    lanes.give_back(packs[1])
    lanes.close()
    assert (sent.fault, len(sent.stored)) == (None, 3)


@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
@pytest.mark.parametrize("part_bytes", [100, 1 << 20])
def test_what_was_put_can_be_read(lanes, part_bytes):
    """However many lanes, packs and parts, every chunk comes back whole, and every buffer is given back once."""
    store = MemoryStore(part_bytes)
    pieces = [noise(1 + 37 * seed % 400, seed) if seed % 3 else bytes(seed + 1) for seed in range(200)]
    writer, releases = PackWriter(store, KEYS, unknown, lanes=lanes, pack_bytes=3000), Releases()
    placed = [writer.put(memoryview(piece), releases.of_next()) for piece in pieces]
    stats = writer.finish()
    with ChunkReader(store, KEYS) as reader:
        assert [bytes(plain) for plain in reader.stream(one.ref for one in placed)] == pieces
    assert releases.counts == [1] * len(pieces)
    assert sorted(names.pack(pack_id) for pack_id in stats.packs) == keys_under(store, "packs/")
    assert stats.stored_bytes == sum(info.size_bytes for info in store.list("packs/"))
    assert len(stats.packs) > lanes


def test_a_pack_ends_where_it_is_full():
    """Three chunks of a hundred bytes fill a pack of three hundred; the fourth begins another one."""
    store = MemoryStore()
    writer = PackWriter(store, KEYS, unknown, lanes=1, pack_bytes=48 + 3 * 116)
    placed = [writer.put(memoryview(noise(100, seed)), lambda: None) for seed in range(7)]
    writer.finish()
    assert [one.ref.ordinal for one in placed] == [0, 1, 2, 0, 1, 2, 0]
    assert len({one.ref.pack for one in placed}) == 3


@pytest.mark.parametrize("lanes", [1, 4])
def test_the_same_chunk_is_stored_once(lanes):
    """A chunk that is put again and again, in any lane, takes room once and lies at one place."""
    store = MemoryStore()
    writer = PackWriter(store, KEYS, unknown, lanes=lanes)
    placed = [writer.put(memoryview(noise(500, seed % 5)), lambda: None) for seed in range(100)]
    stats = writer.finish()
    assert (stats.chunk_count, stats.new_chunk_count, stats.new_bytes) == (100, 5, 2500)
    assert [one.ref for one in placed] == [placed[seed % 5].ref for seed in range(100)]
    assert sum(one.is_new for one in placed) == 5


def test_a_known_chunk_is_not_stored():
    """What the caller knows to lie somewhere is not stored again, and a backup of known chunks makes no pack."""
    store = CountingStore(MemoryStore())
    first = PackWriter(store, KEYS, unknown)
    ref = first.put(memoryview(noise(500)), lambda: None)
    first.finish()
    store.reset()
    second = PackWriter(store, KEYS, {ref.ref.name: ref.ref}.get)
    again = second.put(memoryview(noise(500)), lambda: None)
    stats = second.finish()
    assert again.ref == ref.ref
    assert (again.is_new, stats.packs, store.calls) == (False, [], {})


def durable_refs(writer):
    """The chunks that the writer says are durable since it was asked last."""
    refs = []
    writer.remember_durable(refs.extend)
    return refs


def test_a_writer_that_is_not_used_starts_nothing():
    """A backup that finds nothing new costs no thread and no call."""
    store = CountingStore(MemoryStore())
    before = threading.active_count()
    writer = PackWriter(store, KEYS, unknown, lanes=4)
    assert threading.active_count() == before
    assert writer.finish().chunk_count == 0
    writer.abort()
    assert durable_refs(writer) == []
    assert store.calls == {}


def test_more_parts_are_on_their_way_than_threads_code():
    """A store that wants ten at a time gets ten, of as many packs, though few threads fill them."""
    store = ElasticStore(MemoryStore(64 << 10), at_once=10)
    writer = PackWriter(store, KEYS, unknown, batch_bytes=1 << 10)
    assert writer.coder_count < 10
    feeding = threading.Thread(target=_put_noise, args=(writer, 40))
    feeding.start()
    store.wait_for(10)
    store.may_go.set()
    feeding.join()
    stats = writer.finish()
    assert store.most_count == 10
    assert stats.new_chunk_count == 40
    assert len(stats.packs) >= 10


def test_a_store_that_wants_fewer_gets_fewer():
    """What the store says is heeded from the next part on, however many packs were begun by then."""
    store = ElasticStore(MemoryStore(64 << 10), at_once=6)
    writer = PackWriter(store, KEYS, unknown, batch_bytes=1 << 10)
    feeding = threading.Thread(target=_put_noise, args=(writer, 60))
    feeding.start()
    store.wait_for(6)
    store.at_once = 1
    store.may_go.set()
    feeding.join()
    store.most_count, store.hold_s = 0, 0.01
    _put_noise(writer, 30, first=60)
    assert store.most_count == 1
    assert writer.finish().new_chunk_count == 90


def _put_noise(writer, count, first=0):
    """Put pieces of which two make more than a part."""
    for seed in range(first, first + count):
        writer.put(memoryview(noise(40_000, seed)))


def test_parts_are_of_one_length():
    """A pack that is larger than a part goes up in parts of exactly that length, but for the last."""
    store = MemoryStore(64 << 10)
    writes = []

    class Noting(CountingStore):
        def count_written(self, size_bytes):
            writes.append(size_bytes)

    writer = PackWriter(Noting(store), KEYS, unknown, lanes=1)
    for seed in range(10):
        writer.put(memoryview(noise(50_000, seed)), lambda: None)
    writer.finish()
    assert set(writes[:-1]) == {64 << 10}
    assert 0 < writes[-1] <= 64 << 10


FAULTS = [
    (method, nth, kind)
    for method in ("put", "upload", "upload.write", "upload.finish")
    for nth in (1, 2)
    for kind in ("before", "after")
]


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize(("method", "nth", "kind"), FAULTS)
def test_a_fault_in_a_lane_comes_out_and_nothing_hangs(method, nth, kind, lanes):
    """Whatever call of a lane fails, put or finish raises it, all buffers come back, and no upload is left open."""
    inner = _NotingAborts(1000)
    store = FaultyStore(inner, Fault(kind, nth, method, error=StoreFull("no room")))
    writer, releases = PackWriter(store, KEYS, unknown, lanes=lanes, pack_bytes=300), Releases()
    # First packs of several parts, one piece each; then packs that are put at once, six pieces each.
    pieces = [noise(1200 if seed < 8 else 30, seed) for seed in range(64)]
    with BufferPool(4, 2048, before_waiting=writer.hand_on) as pool:
        raised = []
        for piece in pieces:
            buffer = pool.acquire()
            buffer.view[: len(piece)] = piece
            counted = releases.of_next()
            try:
                writer.put(buffer.view[: len(piece)], _both(buffer.release, counted))
            except StoreFull as error:
                raised.append(error)
                counted()
                buffer.release()
                break
        if not raised:
            with pytest.raises(StoreFull):
                writer.finish()
        writer.abort()
        left = durable_refs(writer)
        assert releases.counts == [1] * len(releases.counts)
    # An upload whose very beginning was not answered has no name that could be aborted: remove_stale_uploads finds it.
    assert inner.open_uploads == set() or (method, kind) == ("upload", "after")
    durable = set(keys_under(inner, "packs/"))
    assert {names.pack(ref.pack) for ref in left} <= durable


def _both(one, other):
    def call():
        one()
        other()

    return call


class _NotingAborts(MemoryStore):
    """Knows which uploads were neither finished nor aborted."""

    def __init__(self, part_bytes):
        super().__init__(part_bytes)
        self.open_uploads = set()

    def upload(self, key):
        upload, uploads = super().upload(key), self.open_uploads
        uploads.add(key)

        class Noting:
            def write(self, offset, part):
                upload.write(offset, part)

            def finish(self, size_bytes):
                upload.finish(size_bytes)
                uploads.discard(key)

            def abort(self):
                upload.abort()
                uploads.discard(key)

        return Noting()


def test_the_first_fault_is_the_one_that_is_raised():
    """What goes wrong in consequence does not hide what went wrong."""
    faults = [Fault("before", 1, "put", error=StoreFull("first")), Fault("before", 2, "put", lasts=True)]
    writer = PackWriter(FaultyStore(MemoryStore(), *faults), KEYS, unknown, lanes=1, pack_bytes=10)
    with pytest.raises(StoreFull, match="first"):  # noqa: PT012 - which of the calls raises is the threads' affair
        for seed in range(100):
            writer.put(memoryview(noise(100, seed)), lambda: None)
        writer.finish()
    writer.abort()


def test_a_process_that_dies_in_a_lane_dies_in_its_owner():
    """Even what is no ordinary exception reaches whoever waits."""
    writer = PackWriter(FaultyStore(MemoryStore(), Fault("die-before", 1, "put")), KEYS, unknown)
    writer.put(memoryview(noise(100)), lambda: None)
    with pytest.raises(ProcessDied):
        writer.finish()


def test_no_memory_for_a_lane_comes_out(monkeypatch):
    """A lane that cannot have its buffer says so, instead of leaving its owner to wait for ever."""

    def refuse(*args, **kwargs):
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    writer, releases = PackWriter(MemoryStore(), KEYS, unknown, lanes=2), Releases()
    with pytest.raises(OSError, match="allocate"):  # noqa: PT012 - as above
        for seed in range(200):
            release = releases.of_next()
            try:
                writer.put(memoryview(noise(10, seed)), release)
            except OSError:
                release()
                raise
        writer.finish()
    writer.abort()
    assert releases.counts == [1] * len(releases.counts)


def test_abort_says_what_is_durable():
    """After an abort the chunks of finished packs are told, and nothing is in the store that was not."""
    store = MemoryStore()
    writer = PackWriter(store, KEYS, unknown, lanes=1, pack_bytes=300)
    for seed in range(5):
        writer.put(memoryview(noise(100, seed)), lambda: None)
    writer.abort()
    left = durable_refs(writer)
    assert {names.pack(ref.pack) for ref in left} == set(keys_under(store, "packs/"))
    with ChunkReader(store, KEYS) as reader:
        assert [reader.one(ref) for ref in left] == [noise(100, seed) for seed in range(len(left))]


def test_abort_during_an_upload_leaves_none():
    """An upload that was under way when the backup was given up is aborted."""
    store = _NotingAborts(1 << 20)
    counting = CountingStore(store)
    writer = PackWriter(counting, KEYS, unknown, lanes=1)
    for seed in range(3):
        writer.put(memoryview(noise(8 << 20, seed)), lambda: None)
    writer.abort()
    assert (store.open_uploads, keys_under(store, "")) == (set(), [])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=30), st.integers(1, 4), st.integers(1, 700))
def test_any_pieces_in_any_lanes(pieces, lanes, part_bytes):
    """Whatever the pieces, their repeats and the lengths of parts and packs, all of it comes back."""
    store = MemoryStore(part_bytes)
    writer = PackWriter(store, KEYS, unknown, lanes=lanes, pack_bytes=500)
    placed = [writer.put(memoryview(piece), lambda: None) for piece in pieces]
    stats = writer.finish()
    assert stats.new_chunk_count == len(set(pieces))
    with ChunkReader(store, KEYS) as reader:
        assert [bytes(plain) for plain in reader.stream(one.ref for one in placed)] == pieces


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.binary(min_size=1, max_size=300), max_size=12), max_size=8),
    st.integers(1, 4),
    st.integers(1, 700),
    st.integers(0, 1),
)
def test_any_short_pieces_together(groups, lanes, part_bytes, known):
    """Short pieces come back whatever they are, whoever put them before, in one call or each by itself."""
    store = MemoryStore(part_bytes)
    before = PackWriter(store, KEYS, unknown)
    stored = _put_all(before, groups[:known])
    before.finish()
    refs = {one.ref.name: one.ref for one in stored}
    writer = PackWriter(store, KEYS, refs.get, lanes=lanes, pack_bytes=500)
    placed = _put_all(writer, groups)
    stats = writer.finish()
    pieces = [piece for group in groups for piece in group]
    assert stats.chunk_count == len(pieces)
    assert stats.new_chunk_count == len(set(pieces) - {piece for group in groups[:known] for piece in group})
    assert sum(one.is_new for one in placed) == stats.new_chunk_count
    assert len({one.ref for one in placed}) == len(set(pieces))
    with ChunkReader(store, KEYS) as reader:
        assert [bytes(plain) for plain in reader.stream(one.ref for one in placed)] == pieces


def _put_all(writer, groups):
    """Put every second group's pieces together, the others' one by one."""
    placed = []
    for number, group in enumerate(groups):
        placed += writer.put_short(group) if number % 2 else [writer.put(memoryview(piece)) for piece in group]
    return placed


def test_many_short_pieces_are_looked_up_together():
    """One question for many names: a question for each would take longer than all the rest."""
    asked = []

    def lookup_all(names):
        asked.append(list(names))
        return {}

    writer = PackWriter(MemoryStore(), KEYS, unknown, lanes=1, lookup_all=lookup_all)
    for start in range(0, 300, 100):
        writer.put_short([noise(50, seed) for seed in range(start, start + 100)])
    assert writer.finish().new_chunk_count == 300
    assert list(map(len, asked)) == [100] * 3
    # What this writer stored is not asked for.
    writer = PackWriter(MemoryStore(), KEYS, unknown, lanes=1, lookup_all=lookup_all)
    writer.put_short([noise(50), noise(50, 1)])
    writer.put_short([noise(50), noise(50, 2)])
    writer.finish()
    assert list(map(len, asked[3:])) == [2, 1]


def test_short_pieces_go_to_a_coder_before_they_are_megabytes():
    """A thousand short pieces are worth a coder's while: it works while the rest of the tree is read."""
    writer = PackWriter(MemoryStore(), KEYS, unknown, lanes=1)
    writer.put_short([noise(50, seed) for seed in range(BATCH_SHORT_PIECES - 1)])
    assert not writer._threads
    writer.put_short([noise(50, BATCH_SHORT_PIECES)])
    assert len(writer._threads) == 1
    writer.finish()


def test_a_fault_among_short_pieces_comes_out():
    """A store that fails ends the writer at the next call, or at its end."""
    store = FaultyStore(MemoryStore(64), Fault("before", 1, "upload", lasts=True))
    writer = PackWriter(store, KEYS, unknown, lanes=1)
    writer.put_short([noise(50, seed) for seed in range(10)])
    with pytest.raises(StoreUnavailable):
        writer.finish()
    with pytest.raises(StoreUnavailable):
        writer.put_short([b"more"])


def test_a_store_that_is_away_is_not_asked_for_ever():
    """A fault that stays is raised at the first call that meets it: trying again is another layer's business."""
    store = FaultyStore(MemoryStore(), Fault("before", 1, "put", lasts=True))
    writer = PackWriter(store, KEYS, unknown, lanes=1)
    writer.put(memoryview(noise(10)), lambda: None)
    with pytest.raises(StoreUnavailable):
        writer.finish()
    assert [method for method, _ in store.calls] == ["put"]
