"""Packs and manifests whose key is sealed to a recipient: whoever has a master key opens them, and a node cannot."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from format_parts import (
    KEYS,
    body_of,
    commit_unknown,
    file_entry,
    flip,
    keys_under,
    noise,
    replace_object,
    unknown,
    version,
    write_chunks,
)

from doubles.memory_store import MemoryStore
from mlsync.codec import hpke
from mlsync.codec.keys import Keys
from mlsync.codec.sealing import SealBroken
from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.errors import EpochUnknown, ManifestDamaged, ObjectDamaged, WriteOnly
from mlsync.repository import names, sealed_object
from mlsync.repository.keys.object_key import MATERIAL_BYTES
from mlsync.repository.pack.footer import read_refs
from mlsync.repository.pack.journal import PackJournal
from mlsync.repository.reader import ChunkReader
from mlsync.repository.repository import Repository
from mlsync.repository.writer import PackWriter
from mlsync.store.counting import CountingStore

PIECES = [noise(3000, seed) for seed in range(4)]
LATER = Keys(KEYS.master, KEYS.repository_id, (bytes(range(1, 33)),))


@pytest.fixture
def node():
    """What a node holds."""
    return WriteOnlyKeys.make(KEYS, bytes(32))


@pytest.fixture
def written(node, monkeypatch):
    """A store with a version that a node made, and where its chunks lie."""
    monkeypatch.setattr(Repository, "confirm", lambda _self: None)
    store = MemoryStore()
    refs = write_chunks(store, node, PIECES)
    commit_unknown(Repository(store, node), version([file_entry(b"a", refs, PIECES)]))
    return store, refs


def restarted(keys):
    """The same keys in another process."""
    return dataclasses.replace(keys, _made={})


def read(store, keys, refs):
    """The plain bytes of chunks."""
    with ChunkReader(store, keys) as reader:
        return [bytes(plain) for plain in reader.stream(refs)]


def test_whoever_has_the_master_key_reads_what_a_node_wrote(written):
    """Version, entries, chunks and the pack's own list come back, and name the kind of key."""
    store, refs = written
    found = Repository(store, KEYS)
    (entry,) = found.entries(found.stored("run", 1))
    assert list(entry.chunks) == refs
    assert {ref.key_kind for ref in refs} == {2}
    assert read(store, KEYS, refs) == PIECES
    pack_id = refs[0].pack
    assert read_refs(store, KEYS, pack_id, store.stat(names.pack(pack_id)).size_bytes) == refs
    assert body_of(store, names.pack(pack_id))[10] == 2
    assert body_of(store, found.version_key("run", 1))[10] == 2


def test_chunks_have_the_names_that_every_writer_gives_them(written, node):
    """A node and a machine with the master key store nothing twice."""
    _, refs = written
    assert [ref.name for ref in write_chunks(MemoryStore(), KEYS, PIECES)] == [ref.name for ref in refs]
    assert Repository(MemoryStore(), node).version_key("run", 1) == Repository(MemoryStore(), KEYS).version_key(
        "run", 1
    )


def test_a_node_reads_back_what_it_wrote_in_this_process_and_nothing_later(written, node):
    """It proves what it has just written; the same keys in another process open nothing, by no way."""
    store, refs = written
    assert read(store, node, refs) == PIECES
    assert Repository(store, node).stored("run", 1).root.number == 1
    later = Repository(store, restarted(node))
    pack_id = refs[0].pack
    for attempt in (
        lambda: read(store, later.keys, refs),
        lambda: later.stored("run", 1),
        lambda: later.pack_refs(pack_id, store.stat(names.pack(pack_id)).size_bytes),
        lambda: read(store, WriteOnlyKeys.make(KEYS, bytes(32)), refs),
    ):
        with pytest.raises(WriteOnly, match="can write to the repository and read nothing"):
            attempt()


def test_a_node_opens_nothing_that_others_wrote(node):
    """What was sealed with the master key stays closed to it."""
    store = MemoryStore()
    refs = write_chunks(store, KEYS, PIECES)
    with pytest.raises(WriteOnly):
        read(store, node, refs)


def test_a_node_has_no_key_but_those_that_name():
    """It cannot tell tags of decisions, prove, decide or check the header, and has no master key to wrap."""
    node = WriteOnlyKeys.make(KEYS, bytes(32))
    assert (node.of("chunk name"), node.of("run id")) == (KEYS.of("chunk name"), KEYS.of("run id"))
    for purpose in ("header", "pack", "manifest", "later proof", "decision", "tag of decision", "feature", "recipient"):
        with pytest.raises(WriteOnly):
            node.of(purpose)
    with pytest.raises(WriteOnly):
        assert node.masters
    for kind in (sealed_object.DECISION, sealed_object.LATER_PROOF):
        with pytest.raises(WriteOnly):
            sealed_object.seal(node, kind, "a", b"plain")
    assert node.token.hex() not in repr(node)
    assert node.public.hex() not in repr(node)


def test_who_only_learned_the_public_key_cannot_write_as_a_node(written, node):
    """Without the token the object does not open: HPKE alone does not say who sealed."""
    key = "versions/" + "0" * 32 + "/0000000001"
    forged = sealed_object.seal(dataclasses.replace(node, token=bytes(32)), sealed_object.MANIFEST, key, b"root")
    with pytest.raises(ManifestDamaged, match="does not authenticate"):
        sealed_object.open_(KEYS, sealed_object.MANIFEST, key, forged)
    sound = sealed_object.seal(node, sealed_object.MANIFEST, key, b"root")
    assert sealed_object.open_(KEYS, sealed_object.MANIFEST, key, sound) == b"root"


def test_an_object_of_one_kind_does_not_pass_for_another(node):
    """The key of an object is bound to its purpose, its salt and its repository."""
    key = "versions/" + "0" * 32 + "/0000000001"
    sound = sealed_object.seal(node, sealed_object.MANIFEST, key, b"root")
    other = Keys(KEYS.master, bytes(16))
    for keys, body in ((other, sound), (KEYS, flip(30)(sound)), (KEYS, flip(60)(sound)), (KEYS, flip(700)(sound))):
        with pytest.raises(ManifestDamaged, match="does not authenticate"):
            sealed_object.open_(keys, sealed_object.MANIFEST, key, body)


@pytest.mark.parametrize("offset", [48, 80, 700, 48 + MATERIAL_BYTES - 1])
def test_changed_key_material_of_a_pack_is_damage(written, offset):
    """Recipient, encapsulated key and secret: each bit counts, for a chunk and for the pack's list."""
    store, refs = written
    key = names.pack(refs[0].pack)
    replace_object(store, key, flip(offset))
    with pytest.raises(ObjectDamaged, match="key material does not authenticate"):
        read(store, KEYS, refs)
    with pytest.raises(ObjectDamaged, match="key material does not authenticate"):
        read_refs(store, KEYS, refs[0].pack, store.stat(key).size_bytes)


def test_material_of_another_pack_opens_nothing(written, node):
    """A store cannot put one pack's material before the chunks of another."""
    store, refs = written
    (other,) = write_chunks(store, node, [noise(10, "other")])
    material = body_of(store, names.pack(other.pack))[48 : 48 + MATERIAL_BYTES]
    replace_object(store, names.pack(refs[0].pack), lambda body: body[:48] + material + body[48 + MATERIAL_BYTES :])
    with pytest.raises(ObjectDamaged):
        read(store, KEYS, refs)


def test_a_reference_that_tells_another_kind_of_key_is_damage(written):
    """A manifest says how each pack's key is had; the pack must say the same."""
    store, refs = written
    wrong = msgspec.structs.replace(refs[0], key_kind=1)
    with pytest.raises(ObjectDamaged, match="has a key of kind 2, and is said to have one of kind 1"):
        read(store, KEYS, [wrong])
    (plain,) = write_chunks(store, KEYS, [b"derived"])
    with pytest.raises(ObjectDamaged, match="has a key of kind 1, and is said to have one of kind 2"):
        read(store, KEYS, [msgspec.structs.replace(plain, key_kind=2)])


def test_a_pack_that_is_cut_within_its_material_is_damage(written):
    """What is shorter than header and material is no pack."""
    store, refs = written
    replace_object(store, names.pack(refs[0].pack), lambda body: body[:200])
    with pytest.raises(ObjectDamaged, match="cut short"):
        read(store, KEYS, refs)


def test_a_pack_costs_two_reads_more_once(written):
    """Its header and material are read for the first chunk, and for no other."""
    store, refs = written
    counted = CountingStore(store)
    with ChunkReader(counted, KEYS) as reader:
        for ref in refs:
            reader.one(ref)
    assert counted.calls == {"read": len(refs) + 2}


def test_a_recipient_is_of_an_epoch():
    """A node's keys are of the epoch in which they were made: later masters open it, earlier ones call it unknown."""
    node, store = WriteOnlyKeys.make(LATER, bytes(32)), MemoryStore()
    assert node.epoch == 1
    refs = write_chunks(store, node, PIECES)
    assert [ref.epoch for ref in refs] == [1] * len(refs)
    assert read(store, LATER, refs) == PIECES
    with pytest.raises(EpochUnknown):
        read(store, KEYS, refs)


def test_no_record_of_an_unfinished_pack_is_left(tmp_path, node):
    """Another process has no key to finish it with, and a thief of the disk must not find one."""
    store = MemoryStore(part_bytes=1 << 20)
    writer = PackWriter(store, node, unknown, lanes=1, pack_bytes=1 << 24, journal=PackJournal(tmp_path / "journal"))
    for seed in range(6):
        writer.put(memoryview(noise(1 << 20, seed)))
    writer.hand_on()
    writer.abort()
    assert list(PackJournal(tmp_path / "journal").interrupted()) == []
    assert keys_under(store, "packs/") == []


def test_a_secret_opens_for_its_recipient_alone():
    """Another private key, other words or a changed bit give an error, and no bytes."""
    seed, secret = bytes(range(96)), bytes(range(32))
    wrapped = hpke.wrap(hpke.public_of(seed), secret, b"words")
    assert len(wrapped) == hpke.WRAPPED_BYTES
    assert hpke.unwrap(seed, wrapped, b"words") == secret
    for other in (
        (bytes(96), wrapped, b"words"),
        (seed, wrapped, b"others"),
        (seed, flip(5)(wrapped), b"words"),
        (seed, flip(1100)(wrapped), b"words"),
        (seed, wrapped[:-1], b"words"),
        (seed, b"", b"words"),
    ):
        with pytest.raises(SealBroken):
            hpke.unwrap(*other)
    with pytest.raises(ValueError, match="key"):
        hpke.wrap(bytes(10), secret, b"words")
