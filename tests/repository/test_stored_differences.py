"""Chunks stored as differences: written, named with their base, read in few calls, and never a wrong byte."""

from __future__ import annotations

import msgspec
import pytest
from format_parts import KEYS, commit_unknown, file_entry, flip, new_repository, noise, replace_object, version

from difference_parts import NUMBER_BYTES, base_of, put_differences, put_one, trained, unknown, weights
from doubles.faulty_store import Fault, FaultyStore
from doubles.memory_store import MemoryStore
from mlsync.backup.files_cache import decode_location, encode_location
from mlsync.codec.compression import Coding
from mlsync.codec.keys import Keys
from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.errors import ObjectDamaged, ObjectMissing, WriteOnly
from mlsync.repository import names, reader
from mlsync.repository.history.move import Moves
from mlsync.repository.manifest import refs_of, unplaced
from mlsync.repository.pack.base import Base
from mlsync.repository.pack.builder import PackBuilder, buffer_bytes, finish_interrupted
from mlsync.repository.pack.footer import read_refs
from mlsync.repository.pack.journal import PackJournal
from mlsync.repository.pack.resealing import Resealer
from mlsync.repository.reader import ChunkReader
from mlsync.repository.writer import PackWriter
from mlsync.store.counting import CountingStore
from mlsync.store.fallback import FallbackStore

FIRST = weights()
LATER = [trained(FIRST, seed) for seed in range(1, 4)]
WHEN_NS = 1_700_000_000_000_000_000


@pytest.fixture
def stored():
    """A store with a chunk, and three differences from it in another pack."""
    store = CountingStore(MemoryStore())
    base = put_one(store, KEYS, FIRST)
    refs = put_differences(store, KEYS, base, FIRST, LATER)
    assert {ref.coding for ref in refs} == {Coding.DIFFERENCE}
    store.reset()
    return store, base, refs


def read(store, refs, keys=KEYS, **options):
    """What a reader makes of *refs*."""
    with ChunkReader(store, keys, **options) as chunks:
        return [bytes(plain) for plain in chunks.stream(refs)]


def test_differences_come_back(stored):
    """Each reference says where its base lies; three chunks of one base cost one read for them and one for it."""
    store, base, refs = stored
    assert [ref.base for ref in refs] == [base] * 3
    assert read(store, refs) == LATER
    assert store.calls == {"read": 2}
    assert store.read_bytes == base.stored_bytes + sum(ref.stored_bytes for ref in refs)


def test_a_base_that_is_asked_for_too_is_read_once(stored):
    """A base that is a chunk of the stream itself costs nothing more, in any order."""
    store, base, refs = stored
    assert read(store, [refs[1], base, refs[0]]) == [LATER[1], FIRST, LATER[0]]
    assert store.calls == {"read": 2}


def test_a_chunk_of_the_callers_memory_may_be_a_difference(stored):
    """Differences are put together in memory that the caller has given, as other chunks are."""
    store, base, refs = stored
    memories = [memoryview(bytearray(len(FIRST))) for _ in range(4)]
    with ChunkReader(store, KEYS) as chunks:
        for _ in chunks.stream([*refs, base], lambda number: memories[number]):
            pass
    assert [bytes(memory) for memory in memories] == [*LATER, FIRST]


def test_bases_count_in_the_size_of_windows(stored, monkeypatch):
    """A window has room for a chunk and its base, so memory stays what it is without differences."""
    store, _, refs = stored
    monkeypatch.setattr(reader, "WINDOW_BYTES", 2 * len(FIRST))
    monkeypatch.setattr(reader, "WINDOW_BYTES_MIN", 1)
    monkeypatch.setattr(reader, "_RUN_SHARE", (1, 1))
    assert read(store, refs, threads=1) == LATER
    assert store.calls == {"read": 6}
    monkeypatch.setattr(reader, "WINDOW_BYTES", 3 * len(FIRST))
    store.reset()
    assert read(store, refs, threads=1) == LATER
    assert store.calls == {"read": 4}


def test_a_base_that_is_at_hand_is_not_fetched(stored):
    """Where the caller has the base, only the difference comes from the store; where not, both do."""
    store, base, refs = stored
    hand = base_of(base, FIRST).read
    assert read(store, refs, read_base=lambda ref, into: ref == base and hand(into)) == LATER
    assert store.calls == {"read": 1}
    assert read(store, refs, read_base=lambda _ref, _into: False) == LATER


@pytest.mark.parametrize("is_base", [True, False])
def test_damage_names_the_pack_that_has_it(stored, is_base):
    """A flipped bit of the base is damage of the base's pack, one of the difference of its own."""
    store, base, refs = stored
    at = base if is_base else refs[0]
    replace_object(store._store, names.pack(at.pack), flip(at.offset + 100))
    with pytest.raises(ObjectDamaged) as raised:
        read(store, refs[:1])
    assert raised.value.where == names.pack(at.pack)


@pytest.mark.parametrize("is_base", [True, False])
def test_a_pack_that_is_gone_is_named(stored, is_base):
    """Without its base's pack a difference cannot be read, and neither without its own."""
    store, base, refs = stored
    at = base if is_base else refs[0]
    store.delete(names.pack(at.pack))
    with pytest.raises(ObjectMissing) as raised:
        read(store, refs)
    assert raised.value.where == names.pack(at.pack)


def test_another_base_is_refused(stored):
    """The seal binds the base's name, and the base is compared with it: neither can be exchanged."""
    store, base, refs = stored
    other = put_one(store, KEYS, trained(FIRST, 9))
    with pytest.raises(ObjectDamaged, match="does not authenticate"):
        read(store, [msgspec.structs.replace(refs[0], base=other)])
    there = msgspec.structs.replace(other, name=base.name)
    with pytest.raises(ObjectDamaged) as raised:
        read(store, [msgspec.structs.replace(refs[0], base=there)])
    assert raised.value.where == names.pack(other.pack)


def test_a_difference_that_does_not_come_to_its_name_is_damage(stored):
    """If what was sealed was wrong already, the name shows it, after a second look at the difference."""
    store, base, _ = stored
    writer = PackWriter(store, KEYS, unknown, lanes=1)
    lie = Base(base, lambda into: bool(memoryview(into).__setitem__(slice(None), LATER[2])) or True)
    placed = writer.put(memoryview(LATER[0]), item_bytes=NUMBER_BYTES, base=lie)
    writer.finish()
    assert placed.ref.coding is Coding.DIFFERENCE
    store.reset()
    with pytest.raises(ObjectDamaged, match="named after"):
        read(store, [placed.ref])
    assert store.calls == {"read": 3}


@pytest.mark.parametrize("call", [1, 2])
def test_a_flipped_bit_on_the_way_is_read_again(stored, call):
    """The first reading of the difference, or of its base, is wrong: a second one is right, and nobody hears of it."""
    store, _, refs = stored
    faulty = FaultyStore(store, Fault("flip", call, "read"))
    assert read(faulty, refs) == LATER
    # Once more, and the pack's header.
    assert store.calls == {"read": 4}


@pytest.mark.parametrize("is_base", [True, False])
def test_a_mirror_gives_what_the_store_has_lost(stored, is_base):
    """A base comes from a mirror as any chunk does, and the difference from the store, or the other way round."""
    store, base, refs = stored
    mirror, told = MemoryStore(), []
    for ref in (base, refs[0]):
        key = names.pack(ref.pack)
        mirror.put(key, store.get(key, limit_bytes=1 << 20))
    at = base if is_base else refs[0]
    replace_object(store._store, names.pack(at.pack), flip(at.offset + 100))
    with_mirror = FallbackStore(
        store, lambda: (mirror,), is_lost=lambda _key, _after: True, told=lambda key, *_: told.append(key)
    )
    assert read(with_mirror, refs) == LATER
    assert told == [names.pack(at.pack)]


def test_a_base_that_was_moved_is_found(stored):
    """A base whose pack is gone is read where its record says."""
    store, base, refs = stored
    Moves(store, KEYS).add(base.pack, [put_one(store, KEYS, FIRST)], WHEN_NS, "")
    store.delete(names.pack(base.pack))
    assert read(store, refs) == LATER


def test_a_difference_that_was_moved_needs_no_base(stored):
    """It lies elsewhere without a base, which may be gone with no record of its own."""
    store, base, refs = stored
    with Resealer(store, KEYS) as resealer:
        places = resealer.copy(refs)
        resealer.finish()
    assert {place.coding for place in places} == {Coding.PLANES}
    assert [place.name for place in places] == [ref.name for ref in refs]
    Moves(store, KEYS).add(refs[0].pack, places, WHEN_NS, "")
    for pack in (base.pack, refs[0].pack):
        store.delete(names.pack(pack))
    assert read(store, refs) == LATER


def test_differences_are_copied_to_other_keys_without_a_base(stored):
    """In another repository, under other names, what was a difference stands by itself."""
    store, _, refs = stored
    other, keys = MemoryStore(), Keys(bytes(32), bytes(16))
    with Resealer(store, KEYS, into=(other, keys)) as resealer:
        places = resealer.copy(refs)
        resealer.finish()
    assert read(other, places, keys) == LATER
    assert {place.base for place in places} == {None}


def test_a_copy_of_a_difference_is_checked(stored):
    """A chunk whose base is damaged is not copied, and the error names the base's pack."""
    store, base, refs = stored
    replace_object(store._store, names.pack(base.pack), flip(base.offset + 100))
    with Resealer(store, KEYS) as resealer, pytest.raises(ObjectDamaged) as raised:
        resealer.copy(refs)
    assert raised.value.where == names.pack(base.pack)


def test_a_footer_names_the_base(stored):
    """By its footer a pack tells which chunk is the base, and not where it lies; the rest is as manifests have it."""
    store, base, refs = stored
    listed = read_refs(store, KEYS, refs[0].pack, store.stat(names.pack(refs[0].pack)).size_bytes)
    assert listed == [ref.as_listed for ref in refs]
    assert [ref.base for ref in listed] == [unplaced(base.name, len(FIRST))] * 3


def test_a_pack_alone_is_checked_by_its_seals(stored):
    """Without the place of the base there are no bytes, but a bit that has changed is found."""
    store, _, refs = stored
    assert read(store, [ref.as_listed for ref in refs]) == [b""] * 3
    replace_object(store._store, names.pack(refs[1].pack), flip(refs[1].offset + 100))
    with pytest.raises(ObjectDamaged, match="chunk 1"):
        read(store, [ref.as_listed for ref in refs])


def test_a_version_names_the_packs_of_bases():
    """A manifest has both chunks of a difference, so that it can be read with nothing else."""
    repository = new_repository()
    base = put_one(repository.store, repository.keys, FIRST)
    refs = put_differences(repository.store, repository.keys, base, FIRST, LATER)
    commit_unknown(repository, version([file_entry(b"a", refs, LATER)]))
    (entry,) = repository.entries(repository.stored("run", 1))
    assert entry.chunks == tuple(refs)
    assert set(refs_of([entry])) == {*refs, base}
    with repository.reader() as chunks:
        assert [bytes(plain) for plain in chunks.stream(entry.chunks)] == LATER


@pytest.mark.parametrize(
    "change",
    [
        {"base": None},
        {"base": 0},
        {"coding": Coding.PLANES},
        {"coding": Coding.DIFFERENCE},
        {"plain_bytes": 4},
        {"name": LATER[0][:32]},
    ],
    ids=str,
)
def test_a_base_that_does_not_fit_is_not_taken(stored, change):
    """Of another length, a difference itself, the chunk itself, or not at hand: the chunk is stored without."""
    store, base, refs = stored
    builder = PackBuilder(store, KEYS, memoryview(bytearray(buffer_bytes(store))), bytes(16))
    name = LATER[0][:32]
    fits = "coding" in change and change["coding"] is Coding.PLANES
    if change.get("coding") is Coding.DIFFERENCE:
        offered = base_of(refs[0], LATER[0])
    elif "base" in change:
        offered = None if change["base"] is None else Base(base, lambda _into: False)
    else:
        offered = base_of(msgspec.structs.replace(base, **change), FIRST)
    ref = builder.add(name, memoryview(LATER[1]), NUMBER_BYTES, offered)
    assert (ref.coding is Coding.DIFFERENCE) == (ref.base is not None) == fits


def test_a_pack_with_differences_that_was_cut_off_is_finished(tmp_path):
    """Whoever finishes it makes the footer that its writer would have made; only bases' places are not told."""
    journal = PackJournal(tmp_path / "uploads")
    store = MemoryStore(part_bytes=4096)
    base = put_one(store, KEYS, FIRST)
    builder = PackBuilder(store, KEYS, memoryview(bytearray(buffer_bytes(store))), bytes(16), journal)
    refs = []
    for number, plain in enumerate([noise(5000), *LATER]):
        refs.append(builder.add(noise(32, number), memoryview(plain), NUMBER_BYTES, base_of(base, FIRST)))
        builder.send_parts()
    assert [ref.coding for ref in refs[1:]] == [Coding.DIFFERENCE] * 3
    (pack,) = journal.interrupted()
    found = finish_interrupted(store, KEYS, pack)
    assert found == [ref.as_listed for ref in refs[: len(found)]]
    assert len(found) > 1


def test_a_node_that_only_writes_reads_back_with_a_base_at_hand():
    """It has no key for the base's pack: it needs the base itself, and is told which pack it cannot open."""
    store = MemoryStore()
    earlier, keys = (WriteOnlyKeys.make(KEYS, bytes(32)) for _ in range(2))
    base = put_one(store, earlier, FIRST)
    refs = put_differences(store, keys, base, FIRST, LATER)
    with pytest.raises(WriteOnly) as raised:
        read(store, refs, keys)
    assert raised.value.where == names.pack(base.pack)
    hand = base_of(base, FIRST).read
    assert read(store, refs, keys, read_base=lambda _ref, into: hand(into)) == LATER


def test_the_local_state_keeps_bases(stored):
    """A difference is remembered with its base; a row that no version may hold counts as none."""
    _, base, refs = stored
    assert decode_location(encode_location(refs[0])) == refs[0]
    assert decode_location(encode_location(base)) == base
    for wrong in (
        msgspec.structs.replace(refs[0], base=None),
        msgspec.structs.replace(base, base=refs[0].base),
        msgspec.structs.replace(refs[0], base=refs[1]),
        refs[0].as_listed,
    ):
        assert decode_location(encode_location(wrong)) is None


def test_a_base_is_hashed_only_where_something_is_wrong(stored, monkeypatch):
    """What comes to its name had the right base; a base that serves nothing else is not hashed as well."""
    store, base, refs = stored
    hashed = []
    is_named = reader.is_named
    monkeypatch.setattr(reader, "is_named", lambda key, plain, name: hashed.append(name) or is_named(key, plain, name))
    assert read(store, refs) == LATER
    assert sorted(hashed) == sorted(ref.name for ref in refs)
    hashed.clear()
    assert read(store, [base, *refs]) == [FIRST, *LATER]
    assert base.name in hashed


@pytest.mark.parametrize("is_lasting", [False, True])
def test_a_base_that_decodes_wrong_is_read_again(stored, monkeypatch, is_lasting):
    """A bit that flips in this machine's memory is mended by reading once more; a fault that stays is the base's."""
    store, base, refs = stored
    decode_into, faults = reader.decode_into, []

    def decode_wrong(coding, coded, into, *rest):
        decode_into(coding, coded, into, *rest)
        if coding is not Coding.DIFFERENCE and (is_lasting or not faults):
            faults.append(coding)
            into[5] ^= 1

    monkeypatch.setattr(reader, "decode_into", decode_wrong)
    if not is_lasting:
        assert read(store, refs) == LATER
        return
    with pytest.raises(ObjectDamaged) as raised:
        read(store, refs)
    assert raised.value.where == names.pack(base.pack)
