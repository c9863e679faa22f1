"""Keys of several epochs: what is written is of the newest one, and what is older is read with its own key."""

from __future__ import annotations

import os

import msgspec
import pytest
from format_parts import (
    KEYS,
    MASTER,
    PASSPHRASE,
    body_of,
    commit_unknown,
    file_entry,
    noise,
    replace_object,
    version,
    write_chunks,
)

from doubles.memory_store import MemoryStore
from mlsync.codec.keys import Keys
from mlsync.errors import EpochUnknown, KeySlotDamaged, ManifestDamaged, ObjectDamaged
from mlsync.repository import names
from mlsync.repository.keys import keyslot
from mlsync.repository.keys.keyslot import Stretching
from mlsync.repository.pack.builder import PackBuilder, buffer_bytes, finish_interrupted
from mlsync.repository.pack.footer import read_refs
from mlsync.repository.pack.journal import PackJournal
from mlsync.repository.readable import newest_readable
from mlsync.repository.reader import ChunkReader
from mlsync.repository.repository import Repository

LATER = Keys(KEYS.master, KEYS.repository_id, (bytes(range(1, 33)),))
PIECES = [noise(3000, seed) for seed in range(2)]


def two_versions(store):
    """A store with a version of each epoch; the second one has the chunks of both."""
    old = Repository(store, KEYS)
    refs = write_chunks(store, KEYS, PIECES[:1])
    commit_unknown(old, version([file_entry(b"a", refs, PIECES[:1])]))
    new = Repository(store, LATER)
    refs += write_chunks(store, LATER, PIECES[1:])
    commit_unknown(new, version([file_entry(b"a", refs, PIECES)], number=2))
    return refs


@pytest.fixture
def store(monkeypatch):
    """A store whose repository is not asked for its header."""
    monkeypatch.setattr(Repository, "confirm", lambda _self: None)
    return MemoryStore()


def test_what_names_and_identifies_is_of_the_first_epoch():
    """Chunks and runs keep their names, so that nothing is stored twice; what seals is another key."""
    for purpose in ("chunk name", "run id", "header", "feature"):
        assert LATER.of(purpose) == KEYS.of(purpose)
    assert LATER.of("pack", b"x", epoch=1) not in (KEYS.of("pack", b"x"), LATER.of("pack", b"x", epoch=0))
    assert (KEYS.epoch, LATER.epoch) == (0, 1)
    assert bytes(range(1, 33)).hex() not in repr(LATER)


def test_a_version_may_have_packs_of_several_epochs(store):
    """What is written is of the newest epoch, what was there is read as before."""
    refs = two_versions(store)
    assert [ref.epoch for ref in refs] == [0, 1]
    assert {body_of(store, names.pack(ref.pack))[11] for ref in refs} == {0, 1}
    found = Repository(store, LATER)
    assert [body_of(store, found.version_key("run", number))[18] for number in (1, 2)] == [0, 1]
    (entry,) = found.entries(found.stored("run", 2))
    assert list(entry.chunks) == refs
    with found.reader() as reader:
        assert [bytes(plain) for plain in reader.stream(entry.chunks)] == PIECES
    for ref in refs:
        size_bytes = store.stat(names.pack(ref.pack)).size_bytes
        assert read_refs(store, LATER, ref.pack, size_bytes) == [ref]


def test_an_epoch_that_is_not_known_is_no_damage(store):
    """Who opened the repository before the key was replaced is told so, of each kind of object."""
    refs = two_versions(store)
    old = Repository(store, KEYS)
    with pytest.raises(EpochUnknown, match="epoch 1") as caught:
        old.stored("run", 2)
    assert caught.value.is_claim
    assert caught.value.exit_code == 28
    with pytest.raises(EpochUnknown, match="epoch 1"):
        old.pack_refs(refs[1].pack, store.stat(names.pack(refs[1].pack)).size_bytes)
    with ChunkReader(store, KEYS) as reader, pytest.raises(EpochUnknown, match="epoch 1"):
        reader.one(refs[1])
    newest = newest_readable(old, "run")
    assert newest is not None
    assert newest.root.number == 1
    assert [type(error) for error in old.skipped.values()] == [EpochUnknown]


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_that_was_changed_is_found_out(store, epoch):
    """The epoch of a manifest and of a pack is bound: with another one, neither opens."""
    refs = two_versions(store)
    found = Repository(store, LATER)
    key = found.version_key("run", epoch + 1)
    replace_object(store, key, lambda body: body[:18] + bytes([1 - epoch]) + body[19:])
    with pytest.raises(ManifestDamaged, match="does not authenticate"):
        found.open_version(key)
    wrong = msgspec.structs.replace(refs[epoch], epoch=1 - epoch)
    with found.reader() as reader, pytest.raises(ObjectDamaged, match=f"is of epoch {epoch}, and is said"):
        reader.one(wrong)
    replace_object(store, names.pack(refs[epoch].pack), lambda body: body[:11] + bytes([1 - epoch]) + body[12:])
    with pytest.raises(ObjectDamaged, match="footer is damaged"):
        read_refs(store, LATER, refs[epoch].pack, store.stat(names.pack(refs[epoch].pack)).size_bytes)


def test_an_interrupted_pack_is_finished_in_its_own_epoch(tmp_path):
    """Its header was sent: with a newer key, the footer of another epoch would make it unreadable."""
    store, journal, pack_id = MemoryStore(4096), PackJournal(tmp_path / "run"), os.urandom(16)
    builder = PackBuilder(store, KEYS, memoryview(bytearray(buffer_bytes(store))), pack_id, journal)
    for seed in range(4):
        builder.add(noise(32, seed), memoryview(noise(3000, seed)))
        builder.send_parts()
    (pack,) = journal.interrupted()
    refs = finish_interrupted(store, LATER, pack)
    assert {ref.epoch for ref in refs} == {0}
    assert read_refs(store, KEYS, pack_id, store.stat(names.pack(pack_id)).size_bytes) == refs
    with pytest.raises(EpochUnknown):
        finish_interrupted(store, KEYS, msgspec.structs.replace(pack, epoch=1))


def test_a_slots_epoch_is_bound():
    """A slot with another epoch than it was made with opens nothing, and one that cannot be is damage."""
    body = keyslot.make(PASSPHRASE, MASTER, KEYS.repository_id, bytes(16), Stretching(64, 1, 1))
    slot = keyslot.parse(body, "here")
    assert slot.epoch == 0
    assert keyslot.unwrap(slot, PASSPHRASE) == MASTER
    assert keyslot.unwrap(msgspec.structs.replace(slot, epoch=1), PASSPHRASE) is None
    for epoch in (-1, 256):
        with pytest.raises(KeySlotDamaged):
            keyslot.parse(body.replace(b'"epoch": 0', f'"epoch": {epoch}'.encode()), "here")
