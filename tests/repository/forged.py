"""Objects as only a holder of the keys can forge them: whatever values, sealed and bound as the format says."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import msgspec
from format_examples import Examples, inputs

from doubles.memory_store import MemoryStore
from mlsync.codec.digest import object_digest
from mlsync.repository import names, sealed_object
from mlsync.repository.evaluation import Evaluation
from mlsync.repository.history import fence, tombstone
from mlsync.repository.history.decision import Decision, open_decision
from mlsync.repository.history.fence import Fence
from mlsync.repository.history.move import Moved, Moves
from mlsync.repository.history.omission import Omission, open_omission
from mlsync.repository.history.tombstone import Registration, Tombstone
from mlsync.repository.keys.epochs import EpochKeys, open_epoch
from mlsync.repository.later_proof import LaterProof
from mlsync.repository.manifest import Entry
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.repository.sealed_object import (
    DECISION,
    EPOCH,
    EVALUATION,
    FENCE,
    LATER_PROOF,
    MANIFEST,
    MOVE,
    OMISSION,
    REGISTRATION,
    TOMBSTONE,
)

EXAMPLES = Examples(inputs())
DROPPED: Any = object()

# Where things stand in the values below.
SEGMENTS, INLINE, ENTRIES = 11, 2, 1
CHUNKS, PROOF = 10, 11

Path = Sequence[Any]


def root_value() -> list[Any]:
    """The document's root as plain values, its segment's bytes opened up too."""
    root = msgspec.msgpack.decode(msgspec.msgpack.encode(EXAMPLES.root()))
    segment = root[SEGMENTS][0]
    segment[INLINE] = msgspec.msgpack.decode(segment[INLINE])
    return root


def proof_value() -> list[Any]:
    """The document's later proof as plain values."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(EXAMPLES.later_proof()))


def evaluation_value() -> list[Any]:
    """The document's evaluation as plain values."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(EXAMPLES.evaluation()))


def epoch_value() -> list[Any]:
    """The document's epoch as plain values."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(EXAMPLES.epoch()))


def decision_value() -> list[Any]:
    """The document's decision as plain values."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(EXAMPLES.decision()))


def move_value() -> list[Any]:
    """The document's move record as plain values."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(EXAMPLES.move()))


def changed(value: Any, path: Path, new: Any) -> Any:
    """Return *value* with *new* at *path*, or with what stood there left out."""
    if not path:
        return new
    value = copy.deepcopy(value)
    place = value
    for step in path[:-1]:
        place = place[step]
    if new is DROPPED:
        del place[path[-1]]
    elif isinstance(place, list) and path[-1] == len(place):
        place.append(new)
    else:
        place[path[-1]] = new
    return value


def packed(root: Any) -> bytes:
    """The bytes of a root whose segment may still be opened up."""
    root = copy.deepcopy(root)
    if isinstance(root, list) and len(root) > SEGMENTS and isinstance(root[SEGMENTS], list):
        for segment in root[SEGMENTS]:
            if isinstance(segment, list) and len(segment) > INLINE and isinstance(segment[INLINE], list):
                segment[INLINE] = msgspec.msgpack.encode(segment[INLINE])
    return msgspec.msgpack.encode(root)


def read_root(plain: bytes) -> tuple[StoredVersion, tuple[Entry, ...]]:
    """Seal *plain* as the root of the document's version, and read that as every reader does."""
    repository = Repository(MemoryStore(), EXAMPLES.keys)
    repository.store.put(EXAMPLES.version_key, sealed_object.seal(EXAMPLES.keys, MANIFEST, EXAMPLES.version_key, plain))
    stored = repository.stored(EXAMPLES.run, 2)
    return stored, repository.entries(stored)


def read_proof(plain: bytes) -> LaterProof:
    """Seal *plain* as the document's later proof, and read that as every reader does."""
    repository = Repository(MemoryStore(), EXAMPLES.keys)
    body = b"".join(part for part, _ in EXAMPLES.manifest())
    repository.store.put(EXAMPLES.version_key, body)
    assert names.parse_later_proof(EXAMPLES.proof_key)
    repository.store.put(EXAMPLES.proof_key, sealed_object.seal(EXAMPLES.keys, LATER_PROOF, EXAMPLES.proof_key, plain))
    stored = repository.stored(EXAMPLES.run, 2)
    assert stored.digest == object_digest(body)
    return repository.open_later_proof(EXAMPLES.proof_key, stored).proof


def read_evaluation(plain: bytes) -> Evaluation:
    """Seal *plain* as the document's evaluation, and read that as every reader does."""
    repository, key = Repository(MemoryStore(), EXAMPLES.keys), EXAMPLES.evaluation_key
    repository.store.put(EXAMPLES.version_key, b"".join(part for part, _ in EXAMPLES.manifest()))
    repository.store.put(key, sealed_object.seal(EXAMPLES.keys, EVALUATION, key, plain))
    return repository.open_evaluation(key, repository.stored(EXAMPLES.run, 2)).evaluation


def read_epoch(plain: bytes) -> EpochKeys:
    """Seal *plain* as the document's epoch, and open that as every reader does."""
    keys, key = EXAMPLES.later_keys, names.epoch(1)
    return open_epoch(keys.repository_id, 1, keys.masters[1], sealed_object.seal(keys, EPOCH, key, plain))


def read_decision(plain: bytes) -> Decision:
    """Seal *plain* as the document's decision, and open that as every reader does."""
    key = EXAMPLES.decision_key
    return open_decision(EXAMPLES.keys, key, sealed_object.seal(EXAMPLES.keys, DECISION, key, plain))[0]


def read_move(plain: bytes) -> Moved:
    """Seal *plain* as the document's move record, and read that as every reader does."""
    store = MemoryStore()
    store.put(EXAMPLES.move_key, sealed_object.seal(EXAMPLES.keys, MOVE, EXAMPLES.move_key, plain))
    return Moves(store, EXAMPLES.keys).open(EXAMPLES.moved_id)


def read_fence(plain: bytes) -> Fence:
    """Seal *plain* as the body of a fence, and read that as a prune does."""
    key = EXAMPLES.version_key
    return fence.open_(EXAMPLES.keys, key, sealed_object.seal(EXAMPLES.keys, FENCE, key, plain))


def read_tombstone(plain: bytes) -> Tombstone:
    """Seal *plain* as the tombstone of the document's pack, and read that as a prune does."""
    key = names.tombstone(EXAMPLES.pack_id)
    return tombstone.open_tombstone(EXAMPLES.keys, key, sealed_object.seal(EXAMPLES.keys, TOMBSTONE, key, plain))


def read_omission(plain: bytes) -> Omission:
    """Seal *plain* as an omission of the document's run, and read that as a check does."""
    key = EXAMPLES.omission_key
    return open_omission(EXAMPLES.keys, key, sealed_object.seal(EXAMPLES.keys, OMISSION, key, plain))


def read_registration(plain: bytes) -> Registration:
    """Seal *plain* as the registration of the document's run, and read that as a prune does."""
    body = sealed_object.seal(EXAMPLES.keys, REGISTRATION, EXAMPLES.registration_key, plain)
    is_of_run = Repository(MemoryStore(), EXAMPLES.keys).is_run
    return tombstone.open_registration(
        EXAMPLES.keys, EXAMPLES.registration_key, body, lambda run: is_of_run(EXAMPLES.registration_key, run)
    )
