"""Move records: a pack that is gone is read where its chunks were moved to, and no record can make a wrong byte."""

from __future__ import annotations

import os
import random

import msgspec
import pytest
from format_parts import (
    KEYS,
    PASSPHRASE,
    commit_unknown,
    file_entry,
    flip,
    new_repository,
    noise,
    replace_object,
    version,
    write_chunks,
)

from doubles.faulty_store import Fault, FaultyStore
from doubles.memory_store import MemoryStore
from mlsync.codec.keys import Keys
from mlsync.errors import FormatUnsupported, ManifestDamaged, ObjectDamaged, ObjectMissing, StoreUnavailable
from mlsync.repository import names, sealed_object
from mlsync.repository.encoding.segments import PackTable
from mlsync.repository.features import MOVES, set_feature
from mlsync.repository.history import move
from mlsync.repository.history.move import Moved, Moves
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.pack.pack import PACK_CHUNKS_MAX
from mlsync.repository.reader import ChunkReader
from mlsync.repository.repository import Repository
from mlsync.store.counting import CountingStore

PIECES = [noise(1000, seed) for seed in range(6)]
WHEN_NS = 1_700_000_000_000_000_000


@pytest.fixture
def store():
    """A store that counts."""
    return CountingStore(MemoryStore())


@pytest.fixture
def refs(store):
    """Six chunks of a pack."""
    return write_chunks(store, KEYS, PIECES)


def moved(store, refs, *, keys=KEYS, pieces=PIECES):
    """Move chunks to a new pack, as compaction does, and delete the old one; return where they are."""
    new = write_chunks(store, keys, pieces)
    Moves(store, keys).add(refs[0].pack, new, WHEN_NS, "mlsync 0.1.0")
    store.delete(names.pack(refs[0].pack))
    return new


def read(store, refs, keys=KEYS):
    """What a reader makes of *refs*."""
    with ChunkReader(store, keys) as reader:
        return [bytes(plain) for plain in reader.stream(refs)]


def test_a_pack_that_is_gone_is_read_where_it_was_moved_to(store, refs):
    """All bytes come, from two reads and the record; nobody has to know that they were moved."""
    moved(store, refs)
    store.reset()
    assert read(store, refs) == PIECES
    assert store.calls == {"read": 2, "get": 1}


def test_a_pack_that_is_there_is_read_without_a_look_at_its_record(store, refs):
    """While the old pack is there, a record costs no call."""
    new = write_chunks(store, KEYS, PIECES)
    Moves(store, KEYS).add(refs[0].pack, new, WHEN_NS, "")
    store.reset()
    assert read(store, refs) == PIECES
    assert store.calls == {"read": 1}


def test_a_reader_asks_for_a_pack_that_is_gone_once(store, refs, monkeypatch):
    """In later windows neither the old pack nor its record is asked for."""
    moved(store, refs)
    monkeypatch.setattr("mlsync.repository.reader.WINDOW_CHUNKS", 1)
    store.reset()
    with ChunkReader(store, KEYS, threads=1) as reader:
        for ref, piece in zip(refs, PIECES, strict=True):
            assert reader.one(ref) == piece
    assert store.calls == {"read": 1 + len(refs), "get": 1}


def test_chunks_that_went_to_several_packs_come_in_order(store, refs):
    """A record may lead to many packs; one that asks in any order, twice, and for another pack too, gets its bytes."""
    parts = [write_chunks(store, KEYS, PIECES[at::3]) for at in range(3)]
    Moves(store, KEYS).add(refs[0].pack, [ref for part in parts for ref in part], WHEN_NS, "")
    store.delete(names.pack(refs[0].pack))
    other = write_chunks(store, KEYS, [noise(1000, 77)])
    asked = [*refs, *refs, *other]
    random.Random(5).shuffle(asked)
    content = dict(zip([*refs, *other], [*PIECES, noise(1000, 77)], strict=True))
    assert read(store, asked) == [content[ref] for ref in asked]


def test_a_version_restores_through_a_move():
    """What names a pack that was moved opens in a repository that was opened anew, with the feature set."""
    repository = new_repository()
    refs = write_chunks(repository.store, repository.keys, PIECES)
    commit_unknown(repository, version([file_entry(b"a", refs, PIECES)]))
    set_feature(repository.store, repository.keys, MOVES)
    set_feature(repository.store, repository.keys, MOVES)
    moved(repository.store, refs, keys=repository.keys)
    opened = Repository.open(repository.store, PASSPHRASE)
    (entry,) = opened.entries(opened.stored("run", 1))
    with opened.reader() as reader:
        assert [bytes(plain) for plain in reader.stream(entry.chunks)] == PIECES


# ---------------------------------------------------------------- chains


def chain(store, count):
    """Chunks that were moved *count* times; where they were first."""
    first = at = write_chunks(store, KEYS, PIECES)
    for _ in range(count):
        at = moved(store, at)
    return first


def test_a_chain_of_sixteen_is_followed(store):
    """Chunks that were moved sixteen times are read by their first place."""
    first = chain(store, move.STEPS_MAX)
    store.reset()
    assert read(store, first) == PIECES
    assert store.calls == {"read": 17, "get": 16}


def test_a_longer_chain_is_not(store):
    """A seventeenth record is not followed: a hostile writer must not make readers walk for ever."""
    first = chain(store, move.STEPS_MAX + 1)
    with pytest.raises(ObjectMissing, match="nor is the one to which it was moved") as caught:
        read(store, first)
    assert caught.value.where == names.pack(first[0].pack)


@pytest.mark.parametrize("length", [2, 3])
def test_a_circle_of_records_ends(store, length):
    """Records that lead to each other, as only a holder of the key can forge, are noticed within a round."""
    packs = [write_chunks(store, KEYS, PIECES) for _ in range(length)]
    for at in range(length):
        Moves(store, KEYS).add(packs[at][0].pack, packs[(at + 1) % length], WHEN_NS, "")
    for refs in packs:
        store.delete(names.pack(refs[0].pack))
    store.reset()
    with pytest.raises(ObjectMissing):
        read(store, packs[0])
    assert store.calls == {"read": length, "get": length}


def test_the_last_place_is_the_first_that_is_there(store):
    """A chunk that is there stays; one that was moved is found at the end of the chain, or nowhere."""
    first = chain(store, 3)
    there = {names.parse_pack(info.key) for info in store.list(names.PACKS)}
    moves = Moves(store, KEYS)
    (last,) = there
    assert moves.last_place(first[2], there.__contains__).pack == last
    assert moves.last_place(first[2], lambda _: True) == first[2]
    assert moves.last_place(first[2], lambda _: False) is None


# ---------------------------------------------------------------- liars


def test_without_a_record_the_pack_is_lost(store, refs):
    """A pack that is gone and was never moved is reported as before."""
    store.delete(names.pack(refs[0].pack))
    with pytest.raises(ObjectMissing, match=r"^a pack is not in the store: packs/") as caught:
        read(store, refs)
    assert caught.value.where == names.pack(refs[0].pack)


@pytest.mark.parametrize("how", ["noise", "empty", "flipped", "of another pack", "too long", "of another repository"])
def test_a_planted_record_is_none(store, refs, how):
    """Whatever lies under the record's name and does not open is no record: the pack counts as lost."""
    key, good = names.move(refs[0].pack), names.move(os.urandom(16))
    new = write_chunks(store, KEYS, PIECES)
    Moves(store, KEYS).add(names.parse_move(good), new, WHEN_NS, "")
    body = store.get(good, limit_bytes=1 << 20)
    bodies = {
        "noise": os.urandom(500),
        "empty": b"",
        "flipped": flip(60)(body),
        "too long": bytes((8 << 20) + 1),
        "of another repository": sealed_object.seal(Keys(bytes(32), bytes(16)), sealed_object.MOVE, key, b"x"),
    }
    store.put(key, bodies.get(how, body))
    store.delete(names.pack(refs[0].pack))
    with pytest.raises(ObjectMissing):
        read(store, refs)


def test_a_record_without_the_chunk_is_no_help(store, refs):
    """A record lists what was needed when the pack was moved; another chunk of the pack is lost."""
    moved(store, refs, pieces=PIECES[:5])
    assert read(store, refs[:5]) == PIECES[:5]
    with pytest.raises(ObjectMissing):
        read(store, refs)


@pytest.mark.parametrize("length", [999, 1001])
def test_a_record_that_tells_another_length_is_no_help(store, refs, length):
    """Memory is allocated for what the manifest says, and a record cannot have more written there."""
    new = write_chunks(store, KEYS, PIECES)
    new = [msgspec.structs.replace(ref, plain_bytes=length, stored_bytes=length + 16) for ref in new]
    lie(store, refs, new)
    with pytest.raises(ObjectMissing):
        read(store, refs)


@pytest.mark.parametrize("shift", ["other chunk", "other offset", "other pack"])
def test_a_record_that_lies_about_the_place_yields_no_wrong_byte(store, refs, shift):
    """Seal and name are checked at the new place as everywhere; the error names the pack that was asked for."""
    new = write_chunks(store, KEYS, PIECES)
    if shift == "other chunk":
        lies = [msgspec.structs.replace(ref, name=other.name) for ref, other in zip(new, reversed(new), strict=True)]
    elif shift == "other offset":
        lies = [msgspec.structs.replace(ref, offset=ref.offset + 1) for ref in new]
    else:
        other = write_chunks(store, KEYS, [noise(9000)])[0].pack
        lies = [msgspec.structs.replace(ref, pack=other) for ref in new]
    lie(store, refs, lies)
    with pytest.raises(ObjectDamaged, match="to which it was moved") as caught:
        read(store, refs)
    assert caught.value.where == names.pack(refs[0].pack)


def lie(store, refs, new):
    """Forge the record of a pack, and delete the pack."""
    Moves(store, KEYS).add(refs[0].pack, new, WHEN_NS, "")
    store.delete(names.pack(refs[0].pack))


def test_a_record_of_a_newer_mlsync_is_told(store, refs):
    """A record that opens and is of a newer mlsync is called that; one that only claims it is none."""
    key = names.move(refs[0].pack)
    table = PackTable()
    chunk = table.refer(msgspec.structs.replace(refs[0], pack=bytes(16)))
    packs = [b"\3" + table.packs[0][1:]]
    plain = msgspec.msgpack.encode([refs[0].pack, 0, "", packs, [chunk], None])
    store.put(key, sealed_object.seal(KEYS, sealed_object.MOVE, key, plain))
    store.delete(names.pack(refs[0].pack))
    with pytest.raises(FormatUnsupported):
        read(store, refs)
    replace_object(store._store, key, lambda body: body[:8] + b"\2\0" + body[10:])
    with pytest.raises(ObjectMissing):
        read(store, refs)


def test_a_bit_that_flips_on_the_way_loses_nothing(store, refs):
    """A record that comes damaged once is read a second time."""
    moved(store, refs)
    assert read(FaultyStore(store, Fault("flip", method="get")), refs) == PIECES


def test_an_error_of_the_store_is_not_taken_for_a_missing_record(store, refs):
    """A store that cannot be asked for the record says nothing about the chunk."""
    moved(store, refs)
    with pytest.raises(StoreUnavailable):
        read(FaultyStore(store, Fault("before", method="get")), refs)


# ---------------------------------------------------------------- writing, memory


def test_the_first_record_of_a_pack_stays(store, refs):
    """Of two compactions at once one record is stored, and both are told what it says."""
    ours, theirs = (write_chunks(store, KEYS, PIECES) for _ in range(2))
    first = Moves(store, KEYS).add(refs[0].pack, ours, WHEN_NS, "")
    second = Moves(store, KEYS).add(refs[0].pack, theirs, WHEN_NS, "")
    assert set(first) == set(second) == set(ours)
    assert first.packs == {ours[0].pack}


@pytest.mark.parametrize("fault", ["planted", "lost"])
def test_a_record_that_is_not_in_the_store_afterwards_is_an_error(store, refs, fault, monkeypatch):
    """Where something else lies, or the store dropped the record and told nobody, the old pack must not go."""
    new, key = write_chunks(store, KEYS, PIECES), names.move(refs[0].pack)
    if fault == "planted":
        store.put(key, b"planted")
        said = f"in the place of its move record is none: .*; mlsync repair --discard {key} helps"
    else:
        monkeypatch.setattr(CountingStore, "put", lambda *_: None)
        said = "the store took its move record, and does not have it"
    with pytest.raises(ObjectDamaged, match=said) as caught:
        Moves(store, KEYS).add(refs[0].pack, new, WHEN_NS, "")
    assert caught.value.where == key


def test_a_record_that_no_reader_takes_is_not_written(store, refs):
    """A writer is held to the rules of readers: nothing is stored."""
    with pytest.raises(ManifestDamaged):
        Moves(store, KEYS).add(refs[0].pack, [], WHEN_NS, "")
    with pytest.raises(ManifestDamaged):
        Moves(store, KEYS).add(refs[0].pack, refs, WHEN_NS, "")
    assert list(store.list(names.MOVES)) == []


def test_the_largest_record_is_within_its_bound_and_takes_little_memory(store):
    """As many chunks as a pack may hold, each in a pack of its own, make a record that readers take."""
    spread = random.Random(1)
    refs = [
        ChunkRef(spread.randbytes(32), spread.randbytes(16), 65_535, 1 << 40, 1 << 24, 1 << 24, 2)
        for _ in range(PACK_CHUNKS_MAX)
    ]
    found = Moves(store, KEYS).add(bytes(16), refs, WHEN_NS, "mlsync 0.1.0")
    assert store.written_bytes <= move.RECORD_BYTES_MAX
    assert len(found) == PACK_CHUNKS_MAX
    assert found.find(refs[99].name) == refs[99]
    assert found.find(bytes(32)) is None
    assert len(found._rows) < 4 << 20


def test_few_records_are_kept(store, monkeypatch):
    """Records that were read are kept up to a number of chunks, the last ones that were used."""
    monkeypatch.setattr(move, "_KEPT_CHUNKS_MAX", 3 * len(PIECES))
    moves = Moves(store, KEYS)
    olds = [bytes([at]) * 16 for at in range(5)]
    for old in olds:
        moves.add(old, write_chunks(store, KEYS, PIECES), WHEN_NS, "")
    assert all(len(moves.of(old)) == 6 for old in olds)
    store.reset()
    assert moves.of(olds[2]).packs
    assert store.calls == {}
    assert moves.of(olds[0]).packs
    assert store.calls == {"get": 1}
    assert moves.of(olds[2]).packs
    assert store.calls == {"get": 1}
    assert moves.of(olds[3]).packs
    assert store.calls == {"get": 2}


def test_all_that_was_moved_can_be_listed(store, refs):
    """The packs that have an object under the name of a record, and nothing else."""
    moved(store, refs)
    store.put("moves/" + "0" * 31, b"odd")
    store.put("moves/" + "f" * 32, b"planted")
    assert sorted(Moves(store, KEYS).listed()) == sorted([refs[0].pack, b"\xff" * 16])


def test_moved_chunks_are_found_by_name():
    """The compact list has exactly the places that went in."""
    refs = [ChunkRef(bytes([at]) * 32, bytes([at % 3]) * 16, at, 48 + at, 20, 10, 0) for at in range(50)]
    found = Moved(refs)
    assert list(found) == refs
    assert [found.find(ref.name) for ref in refs] == refs
    assert found.find(b"\xff" * 32) is None
    assert found.packs == {bytes([at]) * 16 for at in range(3)}
