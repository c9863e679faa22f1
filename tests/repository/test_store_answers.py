"""What the store says of itself is not said of an object; and a manifest that it overwrote is found out."""

from __future__ import annotations

import pytest
from format_examples import Examples, inputs
from format_parts import PASSPHRASE, file_entry, keys_under, new_repository, noise, unknown, version, write_chunks

from doubles.faulty_store import Fault, FaultyStore
from doubles.memory_store import MemoryStore
from mlsync.errors import KeySlotDamaged, ManifestDamaged, ObjectDamaged, StoreBroken, VersionTaken
from mlsync.repository import names
from mlsync.repository.commit import commit
from mlsync.repository.repository import Repository

WHAT = ("header", "key slot", "manifest", "later proof", "chunk", "footer")


@pytest.fixture
def repository():
    """A repository with a version, a chunk and a later proof."""
    repository = new_repository()
    refs = write_chunks(repository.store, repository.keys, [noise(5000)])
    commit(repository, version((file_entry(b"a", refs, [noise(5000)]),), 1), unknown)
    repository.add_later_proof(Examples(inputs()).later_proof())
    return repository


def reader_of(repository, what):
    """How an object is read through a store, and the damage that it is if it is not as it was written."""
    found = Repository.look(repository.store)
    (proof,) = keys_under(repository.store, names.LATER_PROOFS)
    ((pack, info),) = repository.packs()
    ref = repository.pack_refs(pack, info.size_bytes)[0]
    stored = repository.stored("run", 1)

    def of(store):
        return Repository(store, repository.keys)

    return {
        "header": (ObjectDamaged, Repository.look),
        "key slot": (KeySlotDamaged, lambda store: Repository.open(store, PASSPHRASE, found=found)),
        "manifest": (ManifestDamaged, lambda store: of(store).stored("run", 1)),
        "later proof": (ManifestDamaged, lambda store: of(store).open_later_proof(proof, stored)),
        "chunk": (ObjectDamaged, lambda store: of(store).reader().one(ref)),
        "footer": (ObjectDamaged, lambda store: of(store).pack_refs(pack, info.size_bytes)),
    }[what]


def answering(store, error):
    """*store*, every read of which is answered by *error*."""
    faults = [Fault("before", method=method, lasts=True, error=error, is_transient=False) for method in ("get", "read")]
    return FaultyStore(store, *faults)


@pytest.mark.parametrize("what", WHAT)
def test_an_answer_that_nobody_knows_is_the_stores_error(repository, what):
    """An unknown answer to a read of any object ends with 76 and the store's words, and calls nothing damaged."""
    _, read = reader_of(repository, what)
    with pytest.raises(StoreBroken, match="Odd: asked for") as caught:
        read(answering(repository.store, StoreBroken("the store answered Odd: asked for")))
    assert caught.value.exit_code == 76


@pytest.mark.parametrize("what", WHAT)
def test_an_object_of_another_length_is_damaged(repository, what):
    """What the store has and is shorter or longer than what was written is damage, as ever."""
    damage, read = reader_of(repository, what)
    with pytest.raises(damage):
        read(answering(repository.store, StoreBroken("the object ends before that", is_of_object=True)))


# ------------------------------------------------------------ a store that overwrites


class Overwriting(MemoryStore):
    """Overwrites whatever it is asked, and lets *other* come between a put and what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.other = {}

    def put(self, key, body):
        """Take it, and then what another writer puts there."""
        self._objects.pop(key, None)
        super().put(key, body)
        if key in self.other:
            self._objects[key] = (self.other.pop(key), 0.0)


def two_manifests(repository):
    """Two first versions of a run, as two machines would make them."""
    bodies = []
    for name in (b"mine", b"theirs"):
        commit(repository, version((file_entry(name),), 1), unknown)
        key = repository.version_key("run", 1)
        bodies.append(repository.store.get(key, limit_bytes=1 << 20))
        repository.store.delete(key)
    return key, bodies


def test_a_manifest_that_another_writer_overwrote_is_not_ours():
    """A store that lets two writers win is found out by reading the manifest back: it is not this one's version."""
    repository = new_repository(Overwriting())
    key, (_, theirs) = two_manifests(repository)
    repository.store.other[key] = theirs
    with pytest.raises(VersionTaken) as caught:
        commit(repository, version((file_entry(b"mine"),), 1), unknown)
    assert caught.value.exit_code == 17
    assert repository.entries(repository.stored("run", 1))[0].path == b"theirs"


@pytest.mark.parametrize("change", [lambda body: body[:-1], lambda body: body + b"x", lambda body: b"y" * len(body)])
def test_a_manifest_that_came_into_the_store_damaged_is_no_version(change):
    """What comes back is held against what was sent, whole: a version that could not be opened was not made."""
    repository = new_repository(Overwriting())
    key, (mine, _) = two_manifests(repository)
    repository.store.other[key] = change(mine)
    with pytest.raises(ManifestDamaged):
        commit(repository, version((file_entry(b"mine"),), 1), unknown)


def test_a_flip_on_the_way_back_is_no_reason_to_doubt_a_commit():
    """The manifest is read a second time before it is called another's."""
    repository = new_repository()
    faulty = FaultyStore(repository.store, Fault("flip", nth=2, method="get"))
    committed = commit(Repository(faulty, repository.keys), version((file_entry(b"mine"),), 1), unknown)
    assert repository.stored("run", 1).digest == committed.digest
    assert [method for method, _ in faulty.calls][-5:] == ["put", "get", "get", "stat", "put"]
