"""Reading chunks: few calls, in order, bounded memory, and never a wrong byte."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
from elastic_store import ElasticStore
from format_parts import KEYS, keys_under, noise, replace_object, write_chunks
from hypothesis import given, settings
from hypothesis import strategies as st

from doubles.faulty_store import Fault, FaultyStore
from doubles.memory_store import MemoryStore
from mlsync.codec.compression import Coding
from mlsync.errors import ObjectDamaged, ObjectMissing, StoreUnavailable
from mlsync.repository import names, reader
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.pack.pack import PackSeal
from mlsync.repository.reader import ChunkReader
from mlsync.store.counting import CountingStore


@pytest.fixture
def counted():
    """A store of twenty chunks of a pack, and where they lie."""
    store = CountingStore(MemoryStore())
    refs = write_chunks(store, KEYS, [noise(1000, seed) for seed in range(20)])
    store.reset()
    return store, refs


def test_neighbours_come_in_one_call(counted):
    """Twenty chunks that lie side by side cost one read, and not a byte more than they take."""
    store, refs = counted
    assert _read(store, refs) == [noise(1000, seed) for seed in range(20)]
    assert store.calls == {"read": 1}
    assert store.read_bytes == 20 * 1016


def test_small_gaps_are_read_over(counted):
    """Every second chunk costs one read too: a call is dearer than a kilobyte."""
    store, refs = counted
    assert _read(store, refs[::2]) == [noise(1000, seed) for seed in range(0, 20, 2)]
    assert store.calls == {"read": 1}
    assert store.read_bytes == 19 * 1016


def test_large_gaps_are_not(counted, monkeypatch):
    """Where the gap is wider than it is worth, there are two reads and nothing between is fetched."""
    store, refs = counted
    monkeypatch.setattr(reader, "GAP_BYTES_MAX", 5 * 1016)
    assert len(_read(store, [*refs[:2], *refs[8:10]])) == 4
    assert store.calls == {"read": 2}
    assert store.read_bytes == 4 * 1016


def test_the_order_is_the_callers(counted):
    """Asked for backwards or shuffled, chunks come in the order asked for, still in one call."""
    store, refs = counted
    order = list(range(20))
    random.Random(3).shuffle(order)
    assert _read(store, [refs[at] for at in order]) == [noise(1000, at) for at in order]
    assert store.calls == {"read": 1}


def test_a_chunk_that_is_asked_for_again_is_fetched_once(counted):
    """A chunk that a file repeats is fetched and opened once in a window and given as often as asked."""
    store, refs = counted
    assert _read(store, [refs[0]] * 50 + [refs[1]]) == [noise(1000, 0)] * 50 + [noise(1000, 1)]
    assert store.calls == {"read": 1}
    assert store.read_bytes == 2 * 1016


def test_windows_bound_what_is_fetched_at_once(counted, monkeypatch):
    """Windows are bounded in bytes, and only a few of them are fetched ahead of whoever reads."""
    store, refs = counted
    monkeypatch.setattr(reader, "WINDOW_BYTES", 2500)
    with ChunkReader(store, KEYS, threads=2) as chunks:
        stream = chunks.stream(refs)
        next(stream)
        assert store.read_bytes <= 3 * 2 * 1016
        assert len(list(stream)) == 19
    assert store.calls == {"read": 10}


def test_reads_are_as_many_as_the_store_says(counted, monkeypatch):
    """A store that wants more gets more calls at a time, and shorter ones; one that wants fewer gets fewer, longer."""
    inner, refs = counted
    monkeypatch.setattr(reader, "AHEAD_BYTES", 8000)
    monkeypatch.setattr(reader, "WINDOW_BYTES_MIN", 1000)
    store = ElasticStore(inner, at_once=8)
    with ChunkReader(store, KEYS) as chunks, ThreadPoolExecutor(1) as asker:
        first = asker.submit(lambda: [bytes(plain) for plain in chunks.stream(refs[:12])])
        store.wait_for(8)
        store.may_go.set()
        assert first.result() == [noise(1000, at) for at in range(12)]
        assert store.calls == {"read": 12}
        store.reset()
        store.at_once, store.most_count = 2, 0
        assert [bytes(plain) for plain in chunks.stream(refs)] == [noise(1000, at) for at in range(20)]
        # Two that are fetched, and one that is read from.
        assert store.most_count <= 3
        assert store.calls == {"read": 4}


def test_a_run_of_one_pack_is_fetched_at_once(monkeypatch):
    """Writers fill packs in turns: a window may be a half longer where its next chunk lies in the same pack."""
    store = CountingStore(MemoryStore())
    packs = [iter(write_chunks(store, KEYS, [noise(1000, 100 * pack + at) for at in range(9)])) for pack in range(2)]
    runs = [next(packs[at % 2]) for at in range(6) for _ in range(3)]
    monkeypatch.setattr(reader, "AHEAD_BYTES", 2500)
    monkeypatch.setattr(reader, "WINDOW_BYTES_MIN", 1)
    store.reset()
    with ChunkReader(store, KEYS, threads=1) as chunks:
        assert len(list(chunks.stream(runs))) == 18
    assert store.calls == {"read": 6}


def test_the_longest_windows_get_no_longer_within_a_pack(counted, monkeypatch):
    """Of a directory each window has the longest length already, and all of them together a bound in memory."""
    _, refs = counted
    monkeypatch.setattr(reader, "WINDOW_BYTES", 4 * 1016)
    assert [len(window) for window in reader._windows(refs, lambda: reader.AHEAD_BYTES)] == [4] * 5
    monkeypatch.setattr(reader, "WINDOW_BYTES", 5 * 1016)
    monkeypatch.setattr(reader, "WINDOW_BYTES_MIN", 1)
    assert [len(window) for window in reader._windows(refs, lambda: 4 * 1016)] == [5] * 4
    assert [len(window) for window in reader._windows(refs, lambda: 2 * 1016)] == [3] * 6 + [2]


def test_windows_bound_the_number_of_chunks(counted, monkeypatch):
    """Many tiny chunks are cut into windows by their number."""
    store, refs = counted
    monkeypatch.setattr(reader, "WINDOW_CHUNKS", 5)
    assert len(_read(store, refs)) == 20
    assert store.calls == {"read": 4}


def test_chunks_of_several_packs():
    """Chunks of many packs, in turns, cost one read for each pack of a window."""
    store = CountingStore(MemoryStore())
    packs = [write_chunks(store, KEYS, [noise(100, (pack, seed)) for seed in range(4)]) for pack in range(5)]
    store.reset()
    refs = [packs[pack][seed] for seed in range(4) for pack in range(5)]
    assert _read(store, refs) == [noise(100, (pack, seed)) for seed in range(4) for pack in range(5)]
    assert store.calls == {"read": 5}


def test_nothing_asked_nothing_read(counted):
    """An empty list of chunks costs nothing."""
    store, _ = counted
    assert _read(store, []) == []
    assert store.calls == {}


def test_a_view_dies_when_the_next_is_asked_for(counted):
    """Memory is used again, so a view that is kept too long fails instead of showing other bytes."""
    store, refs = counted
    with ChunkReader(store, KEYS) as chunks:
        stream = chunks.stream(refs)
        first = next(stream)
        next(stream)
        with pytest.raises(ValueError, match="released"):
            bytes(first)


def test_a_stream_that_is_given_up_ends_its_threads(counted):
    """Closing the reader in the middle of a stream leaves no thread."""
    store, refs = counted
    with ChunkReader(store, KEYS, threads=3) as chunks:
        next(chunks.stream(refs))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mlsync-read")]


def test_the_next_stream_has_the_memory_of_the_last(counted, monkeypatch):
    """Memory is made for the first stream of a reader and used by those behind it; closing the reader gives it back."""
    store, refs = counted
    monkeypatch.setattr(reader, "WINDOW_BYTES", 2500)
    made: list[int] = []
    monkeypatch.setattr(reader, "aligned_memory", lambda size: (made.append(size), bytearray(size))[1])
    with ChunkReader(store, KEYS, threads=2) as chunks:
        opened = [[bytes(plain) for plain in chunks.stream(refs)] for _ in range(3)]
        assert opened == [[noise(1000, at) for at in range(20)]] * 3
        assert len(made) <= 2 * 4
        assert 0 < len(chunks._free) <= 4
    assert not chunks._free


def test_a_missing_pack_is_named(counted):
    """A pack that is gone is missing, by name, for one chunk and for a stream."""
    store, refs = counted
    store.delete(names.pack(refs[0].pack))
    with ChunkReader(store, KEYS) as chunks:
        with pytest.raises(ObjectMissing, match=refs[0].pack.hex()):
            chunks.one(refs[0])
        with pytest.raises(ObjectMissing, match=refs[0].pack.hex()):
            list(chunks.stream(refs))


def test_a_pack_that_is_cut_short_is_damage(counted):
    """Reading behind the end of a pack is its damage, not the store's."""
    store, refs = counted
    replace_object(store._store, names.pack(refs[0].pack), lambda body: body[:5000])
    with ChunkReader(store, KEYS) as chunks:
        assert chunks.one(refs[0]) == noise(1000, 0)
        with pytest.raises(ObjectDamaged, match="cut short"):
            chunks.one(refs[9])


def test_a_store_that_is_away_is_no_damage(counted):
    """What the store says of itself is passed on as it is."""
    store, refs = counted
    faulty = FaultyStore(store, Fault("before", 1, "read"))
    with ChunkReader(faulty, KEYS) as chunks, pytest.raises(StoreUnavailable):
        chunks.one(refs[0])


def test_a_bit_flipped_on_the_way_is_found_out(counted):
    """Bytes that change between store and reader are read again, once, and are damage if they are the same then."""
    store, refs = counted
    faulty = FaultyStore(store, Fault("flip", 1, "read"))
    with ChunkReader(faulty, KEYS) as chunks:
        assert chunks.one(refs[3]) == noise(1000, 3)
        assert chunks.read_bytes == 2 * refs[3].stored_bytes
    faulty = FaultyStore(store, Fault("flip", 1, "read", lasts=True))
    with ChunkReader(faulty, KEYS) as chunks, pytest.raises(ObjectDamaged):
        chunks.one(refs[3])
    # After each of the two, the pack's header is asked what the pack is.
    assert [method for method, _ in faulty.calls].count("read") == 4


@pytest.mark.parametrize(
    "change",
    [
        {"name": bytes(32)},
        {"ordinal": 1},
        {"offset": 49},
        {"stored_bytes": 1015},
        {"stored_bytes": 1017},
        {"plain_bytes": 999},
        {"coding": Coding.ZSTD},
        {"pack": bytes(16)},
    ],
    ids=lambda change: "-".join(map(str, change)),
)
def test_a_reference_that_is_wrong_in_one_field_opens_nothing(counted, change):
    """Whatever a manifest says wrongly of a chunk, no bytes come out."""
    store, refs = counted
    wrong = msgspec.structs.replace(refs[0], **change)
    with ChunkReader(store, KEYS) as chunks:
        with pytest.raises((ObjectDamaged, ObjectMissing)):
            chunks.one(wrong)
        # Beside a right reference to the same ordinal, too.
        with pytest.raises((ObjectDamaged, ObjectMissing)):
            list(chunks.stream([wrong, refs[0]]))


def test_bytes_that_do_not_have_the_name_are_refused():
    """A writer that sealed other bytes than it named is found out: the seal holds, the name does not."""
    store, pack_id = MemoryStore(), bytes(16)
    seal, into = PackSeal(KEYS, pack_id, 0), memoryview(bytearray(21))
    seal.seal_chunk(0, bytes(32), Coding.RAW, 5, b"plain", into)
    store.put(names.pack(pack_id), seal.header + bytes(into))
    with ChunkReader(store, KEYS) as chunks, pytest.raises(ObjectDamaged, match="named after"):
        chunks.one(ChunkRef(bytes(32), pack_id, 0, 48, 21, 5, Coding.RAW))


def test_many_packs_do_not_pile_up_keys(monkeypatch):
    """A version of thousands of packs keeps a bounded number of their keys."""
    monkeypatch.setattr(reader, "SEALS_MAX", 3)
    store = MemoryStore()
    refs = [ref for seed in range(10) for ref in write_chunks(store, KEYS, [noise(10, seed)])]
    with ChunkReader(store, KEYS) as chunks:
        assert len(list(chunks.stream(refs))) == 10
        assert len(chunks._opener._seals) <= 3
    assert len(keys_under(store, "packs/")) == 10


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 19), max_size=60),
    st.integers(1, 3),
    st.sampled_from([1, 1500, 1 << 20]),
    st.sampled_from([0, 2000, 1 << 20]),
)
def test_any_order_any_windows(order, threads, window_bytes, gap_bytes):
    """Whatever is asked for in whatever order, and however windows and gaps fall, the right bytes come."""
    store = MemoryStore()
    pieces = [noise(50 * seed + 1, seed) if seed % 2 else bytes(30 * seed + 1) for seed in range(20)]
    refs = write_chunks(store, KEYS, pieces[:10]) + write_chunks(store, KEYS, pieces[10:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "WINDOW_BYTES", window_bytes)
        patch.setattr(reader, "GAP_BYTES_MAX", gap_bytes)
        with ChunkReader(store, KEYS, threads=threads) as chunks:
            assert [bytes(plain) for plain in chunks.stream(refs[at] for at in order)] == [pieces[at] for at in order]


def _read(store, refs):
    with ChunkReader(store, KEYS) as chunks:
        return [bytes(plain) for plain in chunks.stream(refs)]


def test_a_chunk_is_opened_right_into_the_room_that_it_is_given(monkeypatch):
    """Raw, zstd and planes alike: what is yielded is the room itself, and the reader takes no memory of its own."""
    halves = np.random.default_rng(0).standard_normal(40_000, np.float32).view("<u2")[1::2].tobytes()
    store, pieces = MemoryStore(), [noise(70_000), b"epoch 1\n" * 9000, halves]
    refs = write_chunks(store, KEYS, pieces[:2]) + write_chunks(store, KEYS, pieces[2:], item_bytes=2)
    assert [ref.coding for ref in refs] == [Coding.RAW, Coding.ZSTD, Coding.PLANES]
    rooms = [memoryview(bytearray(len(piece))) for piece in pieces]
    made = []
    monkeypatch.setattr(reader._Window, "clear", lambda _, size_bytes: made.append(size_bytes))
    with ChunkReader(store, KEYS) as chunks:
        for view, room in zip(chunks.stream(refs, lambda number: rooms[number]), rooms, strict=True):
            assert view.obj is room.obj
    assert [bytes(room) for room in rooms] == pieces
    assert made == [0]


def test_rooms_are_asked_for_in_order_and_not_for_what_comes_again(counted, monkeypatch):
    """A chunk twice in a window lies in the reader's memory, for its first room may be used again by then."""
    store, refs = counted
    monkeypatch.setattr(reader, "WINDOW_BYTES", 5 * 1016)
    monkeypatch.setattr(reader, "_RUN_SHARE", (1, 1))
    asked: list[int] = []

    def room(number: int) -> memoryview | None:
        asked.append(number)
        return memoryview(bytearray(1000)) if number % 2 else None

    order = [0, 1, 2, 1, 3, 1, 4, 4, 5, 6]
    with ChunkReader(store, KEYS) as chunks:
        assert [bytes(plain) for plain in chunks.stream([refs[at] for at in order], room)] == [
            noise(1000, at) for at in order
        ]
    assert asked == [0, 2, 4, 5, 8, 9]


def test_a_chunk_that_fails_in_its_room_is_read_again_and_told(counted):
    """Damage is told as without a room; where the second reading is right, the room has the right bytes."""
    store, refs = counted
    rooms = [memoryview(bytearray(1000)) for _ in refs]
    with ChunkReader(FaultyStore(store, Fault("flip", 1, "read")), KEYS) as chunks:
        opened = [bytes(plain) for plain in chunks.stream(refs, lambda number: rooms[number])]
    assert opened == [bytes(room) for room in rooms] == [noise(1000, at) for at in range(20)]
    at = refs[3].offset + 500
    replace_object(store._store, names.pack(refs[0].pack), lambda body: flipped_at(body, at))
    with ChunkReader(store, KEYS) as chunks, pytest.raises(ObjectDamaged, match="chunk 3 of a pack is damaged"):
        list(chunks.stream(refs, lambda number: rooms[number]))


def flipped_at(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
