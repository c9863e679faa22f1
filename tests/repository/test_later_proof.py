"""Later proofs as objects: of one version, authentic, and never mistaken for anything else."""

from __future__ import annotations

import os

import msgspec
import pytest
from format_examples import Examples, inputs, parse

from doubles.faulty_store import Fault, FaultyStore
from doubles.memory_store import MemoryStore
from mlsync.codec.digest import object_digest, run_id
from mlsync.codec.keys import Keys
from mlsync.errors import FormatUnsupported, ManifestDamaged
from mlsync.repository import names, sealed_object
from mlsync.repository.encoding.canonical import decode_as
from mlsync.repository.keys.epochs import RetiredKeys
from mlsync.repository.later_proof import LaterProof, LaterProofs, VersionProofs
from mlsync.repository.sealed_object import LATER_PROOF, MANIFEST

EXAMPLES = Examples(inputs())
RUN_ID = run_id(EXAMPLES.keys.of("run id"), EXAMPLES.run)
DIGEST = object_digest(parse("manifest"))
KEY = names.later_proof(RUN_ID, 2, bytes(16))


def proofs_in(store, keys=EXAMPLES.keys):
    """The later proofs of a store whose key was never rotated."""
    return LaterProofs(store, keys, RetiredKeys(store, keys).refuse)


@pytest.fixture
def store():
    """A store with nothing in it."""
    return MemoryStore()


@pytest.fixture
def proofs(store):
    """Its later proofs."""
    return proofs_in(store)


def proof(**changes) -> LaterProof:
    """The document's example, changed."""
    return msgspec.structs.replace(EXAMPLES.later_proof(), **changes)


def put(store, key=KEY, kind=LATER_PROOF, keys=EXAMPLES.keys, plain=None):
    """Put an object where a later proof may lie."""
    plain = msgspec.msgpack.encode(proof()) if plain is None else plain
    store.put(key, sealed_object.seal(keys, kind, key, plain))


def read(proofs, named=(), skipped=None) -> VersionProofs:
    """The later proofs of version 2 as readers read them."""
    keys = proofs.of_version(RUN_ID, 2)
    return proofs.read((RUN_ID, 2), keys, DIGEST, named, {} if skipped is None else skipped)


def test_the_documents_example_is_read(store, proofs):
    """The document's later proof opens under its key, and says of version 2 what the text says."""
    store.put(EXAMPLES.proof_key, parse("later-proof"))
    assert proofs.open(EXAMPLES.proof_key, DIGEST).proof == EXAMPLES.later_proof()
    assert decode_as(parse("later-proof-body"), LaterProof, "document") == EXAMPLES.later_proof()


def test_proofs_are_given_in_the_order_they_were_made(store, proofs):
    """Whatever their random names, those made first come first; other versions' and runs' are not among them."""
    moments = [5, 3, 9, 1, 7]
    for moment in moments:
        proofs.add(RUN_ID, proof(made_ns=moment))
    proofs.add(RUN_ID, proof(number=3))
    proofs.add(bytes(16), proof(made_ns=4))
    assert [one.made_ns for one in read(proofs).proofs] == sorted(moments)
    assert {number: len(keys) for number, keys in proofs.of_run(RUN_ID).items()} == {2: 5, 3: 1}


@pytest.mark.parametrize("change", [{"number": 3}, {"manifest": bytes(32)}])
def test_a_proof_of_another_version_is_damage(store, proofs, change):
    """An object that says another number than its key, or is of another manifest, is not believed."""
    put(store, plain=msgspec.msgpack.encode(proof(**change)))
    with pytest.raises(ManifestDamaged, match="belongs to another version"):
        proofs.open(KEY, DIGEST)


def test_a_proof_opens_only_where_it_belongs(store, proofs):
    """Moved to another version, another run or another repository it does not open."""
    put(store)
    body = store.get(KEY, limit_bytes=1 << 20)
    for key in (names.later_proof(RUN_ID, 3, bytes(16)), names.later_proof(bytes(16), 2, bytes(16))):
        store.put(key, body)
        with pytest.raises(ManifestDamaged, match="does not authenticate"):
            proofs.open(key, DIGEST)
    for keys in (Keys(os.urandom(32), EXAMPLES.keys.repository_id), Keys(EXAMPLES.keys.master, bytes(16))):
        with pytest.raises(ManifestDamaged, match="does not authenticate"):
            proofs_in(store, keys).open(KEY, DIGEST)


def test_a_manifest_is_no_proof_and_a_proof_no_manifest(store, proofs):
    """Each kind of object has a magic of its own, and a key of its own should somebody change the magic."""
    put(store, kind=MANIFEST)
    with pytest.raises(ManifestDamaged, match="no later proof"):
        proofs.open(KEY, DIGEST)
    body = store.get(KEY, limit_bytes=1 << 20)
    with pytest.raises(ManifestDamaged, match="does not authenticate"):
        sealed_object.open_(EXAMPLES.keys, LATER_PROOF, KEY, LATER_PROOF.magic + body[8:])


def test_every_flipped_bit_is_found():
    """No bit of the object can change unseen."""
    sealed = sealed_object.seal(EXAMPLES.keys, LATER_PROOF, KEY, msgspec.msgpack.encode(proof()))
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1 << place % 8
        with pytest.raises((ManifestDamaged, FormatUnsupported)):
            sealed_object.open_(EXAMPLES.keys, LATER_PROOF, KEY, bytes(changed))


@pytest.mark.parametrize("plain", [b"", b"\xc0", msgspec.msgpack.encode([1, 2]), msgspec.msgpack.encode({"run": "x"})])
def test_what_does_not_parse_is_damage(store, proofs, plain):
    """A body that is no later proof is refused, though it is sealed."""
    put(store, plain=plain)
    with pytest.raises(ManifestDamaged, match="does not parse"):
        proofs.open(KEY, DIGEST)


def test_one_that_was_listed_and_is_gone_is_damage(store, proofs):
    """A store that shows a name and has no object for it is found out."""
    with pytest.raises(ManifestDamaged, match="is gone"):
        proofs.open(KEY, DIGEST)


def test_a_bit_that_flips_on_the_way_is_read_again(store):
    """What comes back whole the second time is believed."""
    put(store)
    faulty = FaultyStore(store, Fault("flip", 1, "get"))
    assert proofs_in(faulty).open(KEY, DIGEST).proof == proof()


def test_other_names_are_passed_over(store, proofs):
    """What does not look like a later proof is not read as one; check names it."""
    store.put(f"{names.version_proofs_prefix(RUN_ID, 2)}readme", b"x")
    assert proofs.of_version(RUN_ID, 2) == []
