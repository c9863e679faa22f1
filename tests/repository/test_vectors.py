"""The test vectors: objects in files, each with what a reader must say of it; for readers of any language."""

from __future__ import annotations

import hashlib
import json
import runpy
from pathlib import Path

import msgspec
import pytest
from stated_key_service import StatedKeyService

from doubles.memory_store import MemoryStore
from mlsync.codec.keys import Keys
from mlsync.errors import (
    EpochUnknown,
    FormatUnsupported,
    KeySlotDamaged,
    ManifestDamaged,
    ObjectDamaged,
    WrongPassphrase,
)
from mlsync.repository import header, names, sealed_object
from mlsync.repository.history import fence, omission, tombstone
from mlsync.repository.history.decision import open_decision
from mlsync.repository.history.move import Moves
from mlsync.repository.keys import keyslot
from mlsync.repository.keys.epochs import open_epoch
from mlsync.repository.keys.keyslot import KeyFile, KmsKey, Passphrase, RecoveryKey
from mlsync.repository.pack import footer as pack_footer
from mlsync.repository.reader import ChunkReader
from mlsync.repository.repository import Repository

VECTORS = Path(__file__).parents[1] / "vectors"
FILES = sorted(VECTORS.glob("*.txt"))
DAMAGE = (ObjectDamaged, ManifestDamaged, KeySlotDamaged)
# What each expectation means here: which errors, with which words.
EXPECTED = {
    "no such format": (FormatUnsupported, "is not known here|are not known here"),
    "wrong key": (WrongPassphrase, "opens no key slot"),
    "authentication failure": (DAMAGE, "does not authenticate|the header was changed"),
    "truncated": (DAMAGE, "cut short|shorter"),
    "trailing data": (DAMAGE, "longer"),
    "out of bounds": (DAMAGE, "numbers are out of bounds|out of range|more memory or time|larger than any"),
    "unknown epoch": (EpochUnknown, "the key of epoch 1"),
    "reserved bytes": (DAMAGE, "header is damaged|key material, which|reserved byte"),
    "wrong place": (DAMAGE, "under another name or in another repository"),
    "not this object": (DAMAGE, "this is no|not a key slot|not a repository's"),
    "contradiction": (DAMAGE, "does not describe the pack"),
    "does not decode": (DAMAGE, "zstd|decode|bytes instead"),
    "wrong name": (DAMAGE, "named after"),
    "malformed": (DAMAGE, "does not parse"),
    # Of versions, later proofs and decisions: which rule is broken stands in the vector.
    "damage": (DAMAGE, "."),
    "newer": (FormatUnsupported, "."),
}


def test_there_are_vectors():
    """Every kind of object has vectors, sound ones and others, and every expectation comes."""
    vectors = [_parse(path) for path in FILES]
    assert {fields["object"] for fields, _ in vectors} == {
        "pack",
        "manifest",
        "key slot",
        "header",
        "version",
        "later proof",
        "evaluation",
        "decision",
        "move record",
        "fence",
        "tombstone",
        "registration",
        "omission",
        "epoch",
    }
    assert {fields["expect"] for fields, _ in vectors} == {"success", *EXPECTED}
    assert {fields["object"] for fields, _ in vectors if fields["expect"] == "success"} == set(READERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_vector_is_read_as_it_says(path):
    """A sound object gives the content that the vector names; any other is refused for the stated reason."""
    fields, body = _parse(path)
    expect = fields["expect"]
    assert expect == "success" or expect in EXPECTED, f"{path.name} expects what nobody knows: {expect}"
    keys = Keys(bytes.fromhex(fields["master key"]), bytes.fromhex(fields["repository id"]))
    if expect == "success":
        content = READERS[fields["object"]](fields, keys, body)
        assert hashlib.sha256(content).hexdigest() == fields["content"]
        return
    errors, words = EXPECTED[expect]
    with pytest.raises(errors, match=words):
        READERS[fields["object"]](fields, keys, body)


def test_the_script_gives_the_files():
    """The kept script makes exactly the vectors that are there, so that each can be understood."""
    made = dict(runpy.run_path(str(VECTORS / "make.py"))["files"]())
    assert made == {path.name: path.read_text() for path in FILES}


def _parse(path):
    head, _, body = path.read_text().partition("\n\n")
    fields = dict(line.split(": ", 1) for line in head.splitlines())
    return fields, bytes.fromhex(body)


def _pack(fields, keys, body):
    pack_id, store = names.parse_pack(fields["name"]), MemoryStore()
    store.put(fields["name"], body)
    with ChunkReader(store, keys) as reader:
        refs = pack_footer.read_refs(store, keys, pack_id, len(body))
        # A footer does not say where a base lies; here it can only be in the same pack.
        places = {ref.name: ref for ref in refs}
        bases = [None if ref.base is None else places.get(ref.base.name, ref.base) for ref in refs]
        placed = (msgspec.structs.replace(ref, base=base) for ref, base in zip(refs, bases, strict=True))
        return b"".join(reader.one(ref) for ref in placed)


def _manifest(fields, keys, body):
    return sealed_object.open_(keys, sealed_object.MANIFEST, fields["name"], body)


def _slot(fields, keys, body):
    kinds = {"key file": KeyFile, "recovery key": RecoveryKey, "passphrase": Passphrase}
    if "kms key" in fields:
        return _kms_slot(fields, body)
    (unlock,) = [kind(bytes.fromhex(fields[name])) for name, kind in kinds.items() if name in fields]
    master = keyslot.unwrap(keyslot.parse(body, fields["name"]), unlock)
    if master is None:
        raise keyslot.wrong_unlock(unlock, fields["name"])
    return master


def _kms_slot(fields, body):
    secret, wrapped = (bytes.fromhex(fields[name]) for name in ("kms secret", "kms wrapped"))
    service = StatedKeyService(fields["kms key"], secret, wrapped)
    slot = keyslot.parse(body, fields["name"])
    assert slot.context() == json.loads(fields.get("kms context", json.dumps(slot.context())))
    master = keyslot.unwrap(slot, KmsKey(service))
    if master is None:
        raise keyslot.wrong_unlock(KmsKey(service), fields["name"])
    return master


def _header(fields, keys, body):
    found = header.decode(body, "vector")
    # As opening a repository does, with the master key that a slot gave and the id that the header states.
    if not found.is_of(Keys(keys.master, found.repository_id)):
        raise ObjectDamaged("the header was changed")
    return found.repository_id


def _version(fields, keys, body):
    repository = Repository(MemoryStore(), keys)
    repository.store.put(fields["name"], body)
    stored = repository.stored(fields["run"], int(fields["name"].rpartition("/")[2]))
    repository.entries(stored)
    return sealed_object.open_(keys, sealed_object.MANIFEST, fields["name"], body)


def _later_proof(fields, keys, body):
    repository = Repository(MemoryStore(), keys)
    _, number = names.parse_later_proof(fields["name"])
    repository.store.put(repository.version_key(fields["run"], number), bytes.fromhex(fields["version"]))
    repository.store.put(fields["name"], body)
    repository.open_later_proof(fields["name"], repository.stored(fields["run"], number))
    return sealed_object.open_(keys, sealed_object.LATER_PROOF, fields["name"], body)


def _evaluation(fields, keys, body):
    repository = Repository(MemoryStore(), keys)
    _, number = names.parse_evaluation(fields["name"])
    repository.store.put(repository.version_key(fields["run"], number), bytes.fromhex(fields["version"]))
    repository.store.put(fields["name"], body)
    repository.open_evaluation(fields["name"], repository.stored(fields["run"], number))
    return sealed_object.open_(keys, sealed_object.EVALUATION, fields["name"], body)


def _decision(fields, keys, body):
    open_decision(keys, fields["name"], body)
    return sealed_object.open_(keys, sealed_object.DECISION, fields["name"], body)


def _move(fields, keys, body):
    store = MemoryStore()
    store.put(fields["name"], body)
    assert len(Moves(store, keys).open(names.parse_move(fields["name"]))) > 0
    return sealed_object.open_(keys, sealed_object.MOVE, fields["name"], body)


def _fence(fields, keys, body):
    fence.open_(keys, fields["name"], body)
    return sealed_object.open_(keys, sealed_object.FENCE, fields["name"], body)


def _tombstone(fields, keys, body):
    tombstone.open_tombstone(keys, fields["name"], body)
    return sealed_object.open_(keys, sealed_object.TOMBSTONE, fields["name"], body)


def _registration(fields, keys, body):
    repository = Repository(MemoryStore(), keys)
    tombstone.open_registration(keys, fields["name"], body, lambda run: repository.is_run(fields["name"], run))
    return sealed_object.open_(keys, sealed_object.REGISTRATION, fields["name"], body)


def _omission(fields, keys, body):
    omission.open_omission(keys, fields["name"], body)
    return sealed_object.open_(keys, sealed_object.OMISSION, fields["name"], body)


def _epoch(fields, keys, body):
    master, number = bytes.fromhex(fields["epoch 1 master key"]), names.parse_epoch(fields["name"])
    open_epoch(keys.repository_id, number, master, body)
    later = Keys(keys.master, keys.repository_id, (master,))
    return sealed_object.open_(later, sealed_object.EPOCH, fields["name"], body)


READERS = {
    "epoch": _epoch,
    "decision": _decision,
    "move record": _move,
    "fence": _fence,
    "tombstone": _tombstone,
    "registration": _registration,
    "omission": _omission,
    "version": _version,
    "later proof": _later_proof,
    "evaluation": _evaluation,
    "pack": _pack,
    "manifest": _manifest,
    "key slot": _slot,
    "header": _header,
}
