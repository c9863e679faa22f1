"""Chunks that are sealed anew: checked on the way, coded as they were, under the new pack's own key."""

from __future__ import annotations

import pytest
from format_parts import KEYS, flip, noise, replace_object, write_chunks

from doubles.memory_store import MemoryStore
from mlsync.codec.keys import Keys
from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.errors import ObjectDamaged, ObjectMissing
from mlsync.repository import names
from mlsync.repository.encoding.tokens import KEY_DERIVED, KEY_SEALED
from mlsync.repository.history.move import Moves
from mlsync.repository.pack.resealing import Resealer
from mlsync.repository.reader import ChunkReader
from mlsync.store.counting import CountingStore

PIECES = [noise(1000, seed) for seed in range(6)]


def resealed(store, refs, *, keys=KEYS, **options):
    """Copy chunks into new packs; where they are."""
    with Resealer(store, keys, **options) as resealer:
        places = resealer.copy(refs)
        resealer.finish()
        assert {place.pack for place in places} == resealer.durable.keys()
        return places


def read(store, refs, keys=KEYS):
    """The bytes of chunks."""
    with ChunkReader(store, keys) as reader:
        return [bytes(plain) for plain in reader.stream(refs)]


def test_what_is_copied_is_the_same():
    """All chunks come out of the new pack, in one read and one put."""
    store = CountingStore(MemoryStore())
    refs = write_chunks(store, KEYS, PIECES)
    store.reset()
    places = resealed(store, refs)
    assert store.calls == {"read": 1, "put": 1}
    assert read(store, places) == PIECES
    assert not {ref.pack for ref in refs} & {place.pack for place in places}


def test_packs_are_filled():
    """A new pack ends when it is long enough, and large ones go up in parts."""
    store = MemoryStore(part_bytes=4096)
    refs = write_chunks(store, KEYS, [noise(3000, seed) for seed in range(12)])
    places = resealed(store, refs, pack_bytes=9000)
    assert len({place.pack for place in places}) == 4
    assert read(store, places) == [noise(3000, seed) for seed in range(12)]
    assert store.uploads == {}


def test_packs_that_a_write_only_node_made_are_copied():
    """A pack whose key stands in it, sealed to a recipient, is opened with the master key, and sealed as packs are."""
    store = MemoryStore()
    refs = write_chunks(store, WriteOnlyKeys.make(KEYS, bytes(32)), PIECES)
    assert {ref.key_kind for ref in refs} == {KEY_SEALED}
    places = resealed(store, refs)
    assert {place.key_kind for place in places} == {KEY_DERIVED}
    assert read(store, places) == PIECES
    Moves(store, KEYS).add(refs[0].pack, places, 0, "")
    store.delete(names.pack(refs[0].pack))
    assert read(store, refs) == PIECES


def test_a_write_only_node_knows_of_no_move():
    """It cannot open a record, so what it needs of a pack that is gone counts as lost, and is stored again."""
    store = MemoryStore()
    refs = write_chunks(store, KEYS, PIECES)
    Moves(store, KEYS).add(refs[0].pack, resealed(store, refs), 0, "")
    assert Moves(store, WriteOnlyKeys.make(KEYS, bytes(32))).of(refs[0].pack) is None


def test_new_packs_are_of_the_newest_epoch():
    """What is sealed anew is so under the newest master key; a record tells it, and readers follow."""
    store = MemoryStore()
    refs = write_chunks(store, KEYS, PIECES)
    later = Keys(KEYS.master, KEYS.repository_id, (bytes(32),))
    places = resealed(store, refs, keys=later)
    assert {place.epoch for place in places} == {1}
    found = Moves(store, later).add(refs[0].pack, places, 0, "")
    assert {place.epoch for place in found} == {1}
    store.delete(names.pack(refs[0].pack))
    assert read(store, refs, later) == PIECES


@pytest.mark.parametrize("damage", ["flipped", "short", "gone"])
def test_damage_is_not_copied(damage):
    """A chunk that does not open is never sealed anew; nothing of the unfinished pack stays."""
    store = MemoryStore(part_bytes=512)
    refs = write_chunks(store, KEYS, PIECES)
    key = names.pack(refs[0].pack)
    if damage == "gone":
        store.delete(key)
    else:
        replace_object(store, key, flip(refs[3].offset + 4) if damage == "flipped" else lambda body: body[:3000])
    with pytest.raises(ObjectMissing if damage == "gone" else ObjectDamaged) as caught:
        resealed(store, refs)
    assert caught.value.where == key
    assert [info.key for info in store.list(names.PACKS)] == ([] if damage == "gone" else [key])
    assert store.uploads == {}


def test_a_chunk_of_two_packs_is_stored_once():
    """Two old packs with one chunk lead to one place in a new pack."""
    store = MemoryStore()
    first, second = (write_chunks(store, KEYS, PIECES) for _ in range(2))
    with Resealer(store, KEYS) as resealer:
        assert resealer.copy(first) == resealer.copy(second)
        resealer.finish()
        assert resealer.pack_count == 1
