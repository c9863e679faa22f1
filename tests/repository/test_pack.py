"""A pack's bytes: what is bound, what is bounded, and that no key and nonce ever come twice."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from format_parts import KEYS, body_of, file_entry, flip, keys_under, noise, replace_object, unknown, write_chunks
from hypothesis import given, settings
from hypothesis import strategies as st

from doubles.memory_store import MemoryStore
from mlsync.codec.compression import Coding
from mlsync.codec.digest import chunk_name
from mlsync.codec.keys import Keys
from mlsync.codec.sealing import TAG_BYTES, Seal, SealBroken
from mlsync.errors import EpochUnknown, FormatUnsupported, ObjectDamaged
from mlsync.repository import names
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.pack import builder as pack_builder
from mlsync.repository.pack import footer as pack_footer
from mlsync.repository.pack import pack
from mlsync.repository.pack.builder import PackBuilder
from mlsync.repository.pack.pack import HEADER_BYTES, TRAILER_BYTES, ChunkRecord, PackSeal
from mlsync.repository.reader import ChunkReader
from mlsync.repository.writer import PackWriter

PACK_ID = bytes(range(0xA0, 0xB0))
OTHER_KEYS = Keys(bytes(32), KEYS.repository_id)
NAME = chunk_name(KEYS.of("chunk name"), b"plain")


def test_a_sealed_chunk_opens():
    """What was sealed under an ordinal comes back from it."""
    sealed = _sealed()
    assert _opened(sealed) == b"plain"


@pytest.mark.parametrize(
    "change",
    [
        {"ordinal": 8},
        {"name": bytes(32)},
        {"coding": Coding.ZSTD},
        {"plain_bytes": 6},
        {"pack_id": bytes(16)},
        {"keys": OTHER_KEYS},
        {"keys": Keys(KEYS.master, bytes(16))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_chunk_opens_only_as_what_it_was_sealed_as(change):
    """Place, name, coding, length, pack, key and repository are bound: with one of them another, nothing opens."""
    with pytest.raises(SealBroken):
        _opened(_sealed(), **change)


@given(st.data())
def test_a_changed_or_cut_chunk_does_not_open(data):
    """One bit changed, or bytes cut off or added, and the chunk does not open."""
    sealed = bytearray(_sealed())
    if data.draw(st.booleans()):
        sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        sealed = sealed[: data.draw(st.integers(0, len(sealed) - 1))] + bytes(data.draw(st.sampled_from([0, 64])))
    with pytest.raises(SealBroken):
        _opened(bytes(sealed))


def test_the_footer_lists_the_chunks():
    """With the master key and the pack alone, every chunk is found where it lies."""
    store = MemoryStore()
    refs = write_chunks(store, KEYS, [noise(100, seed) for seed in range(5)] + [bytes(5000)])
    assert _footer(store) == refs
    assert [ref.coding for ref in refs] == [Coding.RAW] * 5 + [Coding.ZSTD]


def test_every_changed_byte_of_a_pack_is_found_out():
    """Footer and chunks together leave no byte of a pack that can change unseen, its free bytes included."""
    store = MemoryStore()
    write_chunks(store, KEYS, [noise(40, 1), noise(50, 2)])
    key = keys_under(store, "packs/")[0]
    whole = body_of(store, key)
    for offset in range(len(whole)):
        replace_object(store, key, lambda _, at=offset: flip(at)(whole))
        with pytest.raises((ObjectDamaged, FormatUnsupported)):
            _read_all(store)
    replace_object(store, key, lambda _: whole)
    assert _read_all(store) == [noise(40, 1), noise(50, 2)]


@pytest.mark.parametrize("length", range(200))
def test_every_cut_is_found_out(length):
    """However short a pack was cut, that is damage and nothing else."""
    store = MemoryStore()
    write_chunks(store, KEYS, [noise(40, 1), noise(50, 2)])
    replace_object(store, keys_under(store, "packs/")[0], lambda body: body[:length])
    with pytest.raises(ObjectDamaged):
        _footer(store)


def test_bytes_behind_the_trailer_are_found_out():
    """A pack that grew has no trailer at its end."""
    store = MemoryStore()
    write_chunks(store, KEYS, [noise(40, 1)])
    replace_object(store, keys_under(store, "packs/")[0], lambda body: body + b"\0")
    with pytest.raises(ObjectDamaged, match="trailer"):
        _footer(store)


@pytest.mark.parametrize(
    ("offset", "value", "error", "message"),
    [
        (0, b"MLSYNCP\0", ObjectDamaged, "no pack"),
        (8, b"\2\0", FormatUnsupported, "format 2"),
        (10, b"\3", FormatUnsupported, "key kind 3"),
        (11, b"\1", EpochUnknown, "epoch 1"),
        (12, b"\1\0\0\0", ObjectDamaged, "header is damaged"),
        (16, bytes(16), ObjectDamaged, "another name"),
        (32, bytes(16), ObjectDamaged, "another repository"),
    ],
)
def test_every_field_of_the_header_is_read(offset, value, error, message):
    """Each field of the header is refused by name where it is not what it has to be."""
    header = bytearray(pack.PackHead(PACK_ID, KEYS.repository_id, 0).encode())
    pack.parse_header(bytes(header), KEYS, PACK_ID)
    header[offset : offset + len(value)] = value
    with pytest.raises(error, match=message):
        pack.parse_header(bytes(header), KEYS, PACK_ID)


@pytest.mark.parametrize("footer_bytes", [0, TAG_BYTES, 1 << 20, pack.FOOTER_BYTES_MAX + 1, (1 << 32) - 1])
def test_a_footer_of_an_impossible_length_is_refused(footer_bytes):
    """A trailer is not believed about a length that the pack, or any pack, cannot have."""
    trailer = struct.pack("<II8s", footer_bytes, 1, b"mlsyncE\0")
    with pytest.raises(ObjectDamaged, match="numbers are out of bounds"):
        pack.parse_trailer(trailer, 5000 if footer_bytes == 1 << 20 else 1 << 40, "pack")


def test_a_count_that_the_footer_does_not_have_is_refused():
    """Trailer and footer name one number of chunks."""
    seal = PackSeal(KEYS, PACK_ID, 0)
    plain = b"\x90"
    trailer = struct.pack("<II8s", len(plain) + TAG_BYTES, 1, b"mlsyncE\0")
    footer_nonce = struct.pack(">IQ", 1, 1)
    sealed = Seal(KEYS.of("pack", PACK_ID)).seal(footer_nonce, plain, seal.header + trailer)
    with pytest.raises(SealBroken, match="another number"):
        seal.open_footer(sealed, trailer)


@pytest.mark.parametrize(
    "record",
    [
        ChunkRecord(bytes(31), HEADER_BYTES, 20, 4, 0),
        ChunkRecord(bytes(32), HEADER_BYTES + 1, 20, 4, 0),
        ChunkRecord(bytes(32), 0, 20, 4, 0),
        ChunkRecord(bytes(32), HEADER_BYTES, 16, 0, 0),
        ChunkRecord(bytes(32), HEADER_BYTES, 16, 4, 0),
        ChunkRecord(bytes(32), HEADER_BYTES, 21, 4, 0),
        ChunkRecord(bytes(32), HEADER_BYTES, 20, (16 << 20) + 1, 0),
        ChunkRecord(bytes(32), HEADER_BYTES, -20, 4, 0),
    ],
)
def test_a_footer_that_does_not_describe_a_pack_is_refused(record):
    """Gaps, empty chunks, chunks that grew when they were coded, and lengths out of bounds are no pack."""
    assert not pack.records_are_sound([record], HEADER_BYTES + record.stored_bytes)
    sound = ChunkRecord(bytes(32), HEADER_BYTES, 20, 4, 0)
    assert pack.records_are_sound([sound], HEADER_BYTES + 20)
    assert not pack.records_are_sound([sound], HEADER_BYTES + 21)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.binary(min_size=1, max_size=40), max_size=8), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(50, 300),
)
def test_no_key_and_nonce_come_twice(backups, lanes, pack_bytes):
    """Over many packs, writers, lanes and footers, no pair of key and nonce seals two things."""
    pairs: Counter[tuple[bytes, bytes]] = Counter()

    class _Noting(Seal):
        def __init__(self, key):
            super().__init__(key)
            self._key = key

        def seal_into(self, nonce, plain, bound, into):
            pairs[self._key, nonce] += 1
            return super().seal_into(nonce, plain, bound, into)

        def seal(self, nonce, plain, bound):
            pairs[self._key, nonce] += 1
            return super().seal(nonce, plain, bound)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "Seal", _Noting)
        store = MemoryStore(64)
        for pieces in backups:
            writer = PackWriter(store, KEYS, unknown, lanes=lanes, pack_bytes=pack_bytes)
            for piece in pieces:
                writer.put(memoryview(piece), lambda: None)
            writer.finish()
    assert set(pairs.values()) <= {1}
    assert len(pairs) >= sum(len(set(pieces)) for pieces in backups)


def test_a_pack_is_closed_when_it_holds_as_many_chunks_as_it_may(monkeypatch):
    """Tiny chunks fill a pack by their number, so that no footer is longer than readers take."""
    monkeypatch.setattr(pack_builder, "PACK_CHUNKS_MAX", 3)
    store = MemoryStore()
    refs = write_chunks(store, KEYS, [noise(9, seed) for seed in range(7)])
    assert [ref.ordinal for ref in refs] == [0, 1, 2, 0, 1, 2, 0]
    assert len(keys_under(store, "packs/")) == 3


def test_chunks_that_are_sealed_together_make_the_same_pack():
    """Bytes, references and the place where a part or the pack ends are those of chunks that are sealed one by one."""
    pieces = [noise(40 + 7 * number, number) for number in range(9)]
    chunks = [(bytes([number]) * 32, Coding.RAW, len(piece), piece) for number, piece in enumerate(pieces)]
    together, alone = _builder(300), _builder(300)
    refs = []
    while len(refs) < len(chunks):
        some = together.add_short(chunks[len(refs) :])
        assert some
        for chunk in chunks[len(refs) : len(refs) + len(some)]:
            assert not alone.has_part
            refs.append(alone.add_coded(*chunk))
        assert some == refs[-len(some) :]
        assert len(refs) == len(chunks) or alone.has_part
        together.send_parts()
        alone.send_parts()
    assert together.finish() == alone.finish()
    key = names.pack(PACK_ID)
    assert body_of(together._store, key) == body_of(alone._store, key)


def test_short_chunks_fill_a_pack_by_their_number(monkeypatch):
    """As many go in as a footer may list."""
    monkeypatch.setattr(pack_builder, "PACK_CHUNKS_MAX", 3)
    builder = _builder(1 << 20)
    chunks = [(bytes([number]) * 32, Coding.RAW, 9, noise(9, number)) for number in range(5)]
    assert [ref.ordinal for ref in builder.add_short(chunks)] == [0, 1, 2]
    assert builder.is_full
    assert builder.add_short(chunks[3:]) == []


def test_the_longest_footer_is_within_its_bound():
    """As many chunks as a pack may hold, each with the largest numbers, make a footer that readers take."""
    record = ChunkRecord(b"\xff" * 32, pack.PACK_BYTES_MAX, 17 << 20, 16 << 20, 1)
    sealed = PackSeal(KEYS, PACK_ID, 0).seal_end([record] * pack.PACK_CHUNKS_MAX)
    assert len(sealed) - TRAILER_BYTES <= pack.FOOTER_BYTES_MAX


@pytest.mark.parametrize("size_bytes", [0, (16 << 20) + 1])
def test_a_chunk_out_of_bounds_is_not_written(size_bytes):
    """A writer is not made to store what no reader would take."""
    writer = PackWriter(MemoryStore(), KEYS, unknown)
    writer.put(memoryview(bytes(size_bytes)), lambda: None)
    with pytest.raises(ValueError, match="a chunk of"):
        writer.finish()


def test_unknown_codings_are_refused_by_number():
    """A coding to come is no damage."""
    record = ChunkRecord(bytes(32), HEADER_BYTES, 20, 4, 9)
    seal = PackSeal(KEYS, PACK_ID, 0)
    store = MemoryStore()
    store.put(names.pack(PACK_ID), seal.header + bytes(20) + seal.seal_end([record]))
    with pytest.raises(FormatUnsupported, match="coding 9"):
        _footer(store)


def test_a_pack_that_lies_under_another_name_is_named_as_such():
    """Two packs swapped: a reader says that the pack belongs elsewhere, not only that it is damaged."""
    store = MemoryStore()
    refs = [*write_chunks(store, KEYS, [noise(40, 1)]), *write_chunks(store, KEYS, [noise(40, 2)])]
    one, other = (names.pack(ref.pack) for ref in refs)
    store._objects[one], store._objects[other] = store._objects[other], store._objects[one]
    with ChunkReader(store, KEYS) as reader:
        for ref in refs:
            with pytest.raises(ObjectDamaged, match="another name"):
                reader.one(ref)


def test_a_newer_pack_is_refused_by_its_format():
    """A chunk of a pack that a newer mlsync wrote is not called damaged."""
    store = MemoryStore()
    (ref,) = write_chunks(store, KEYS, [noise(40, 1)])
    replace_object(store, names.pack(ref.pack), lambda body: body[:8] + b"\2\0" + body[10:48] + bytes(len(body) - 48))
    with ChunkReader(store, KEYS) as reader, pytest.raises(FormatUnsupported, match="format 2"):
        reader.one(ref)


def test_entries_hold_what_the_footer_says():
    """A manifest's reference and the footer's record of a chunk are the same in every field."""
    store = MemoryStore()
    refs = write_chunks(store, KEYS, [noise(40, 1)])
    assert file_entry(b"a", refs).chunks == tuple(_footer(store))


def _sealed():
    into = memoryview(bytearray(100))
    length = PackSeal(KEYS, PACK_ID, 0).seal_chunk(7, NAME, Coding.RAW, 5, b"plain", into)
    return bytes(into[:length])


def _opened(sealed, *, ordinal=7, name=NAME, coding=Coding.RAW, plain_bytes=5, pack_id=PACK_ID, keys=KEYS):
    into = bytearray(5)
    PackSeal(keys, pack_id, 0).open_chunk(ordinal, name, coding, plain_bytes, sealed, memoryview(into))
    return bytes(into)


def _footer(store) -> list[ChunkRef]:
    (info,) = store.list("packs/")
    pack_id = names.parse_pack(info.key)
    return pack_footer.read_refs(store, KEYS, pack_id, info.size_bytes)


def _read_all(store):
    with ChunkReader(store, KEYS, threads=1) as reader:
        return [reader.one(ref) for ref in _footer(store)]


def _builder(part_bytes):
    store = MemoryStore(part_bytes)
    return PackBuilder(store, KEYS, memoryview(bytearray(pack_builder.buffer_bytes(store))), PACK_ID, epoch=0)
