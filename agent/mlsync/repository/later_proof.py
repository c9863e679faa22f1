"""Later proofs: objects beside a manifest, which itself never changes.

A version may be committed below the required level, for example without a GPU; a machine that has one proves it later.
Each later proof names its manifest by digest, so that it applies to no other. See docs/format.md.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial

import msgspec

from mlsync.codec import digest
from mlsync.codec.keys import Keys
from mlsync.errors import ManifestDamaged, NotFound, StoreBroken
from mlsync.repository import names, sealed_object
from mlsync.repository.canonical import decode_as
from mlsync.repository.read_twice import read_twice
from mlsync.repository.room import Room, check_room
from mlsync.repository.sealed_object import LATER_PROOF
from mlsync.repository.validation import check_proof, is_level, is_safe_path, is_time
from mlsync.store.base import Store
from mlsync.values import Proof, is_count


class ProvedFile(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A checkpoint of the version, and its proof."""

    path: bytes
    proof: Proof


class LaterProof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The proof of a version that was made after its commit.

    *manifest* is the digest of the version's manifest. *lowest_level*, on *device*, is the level that all checkpoints
    of the version have reached with this proof, except the *broken_count* broken ones.
    """

    run: str
    number: int
    manifest: bytes
    made_ns: int
    writer: str
    host: str
    lowest_level: int
    device: str
    broken_count: int
    files: list[ProvedFile]
    room: Room = None


class LaterProofs:
    """The later proofs of one repository, by run and version."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        self._run_key = keys.of("run id")

    def of_run(self, run_id: bytes) -> dict[int, list[str]]:
        """Return the names of all proofs of a run's versions, by version: one listing."""
        found: dict[int, list[str]] = defaultdict(list)
        for key, number in self._listed(names.run_proofs_prefix(run_id)):
            found[number].append(key)
        return found

    def of_version(self, run_id: bytes, number: int, manifest: bytes) -> list[LaterProof]:
        """Return the proofs of the version whose manifest has the digest *manifest*, oldest first."""
        return self.read([key for key, _ in self._listed(names.version_proofs_prefix(run_id, number))], manifest)

    def read(self, keys: Iterable[str], manifest: bytes) -> list[LaterProof]:
        """Return the proofs of these names, oldest first; raise ``ManifestDamaged`` if one is of another manifest."""
        proofs = [read_twice(partial(self._read, key, manifest)) for key in keys]
        return sorted(proofs, key=lambda proof: proof.made_ns)

    def add(self, run_id: bytes, proof: LaterProof) -> None:
        """Store the proof beside its version."""
        key = names.later_proof(run_id, proof.number, os.urandom(names.PROOF_ID_BYTES))
        _check(proof, key)
        self._store.put(key, sealed_object.seal(self._keys, LATER_PROOF, key, msgspec.msgpack.encode(proof)))

    def _listed(self, prefix: str) -> Iterator[tuple[str, int]]:
        for info in self._store.list(prefix):
            parsed = names.parse_later_proof(info.key)
            if parsed is not None:
                yield info.key, parsed[1]

    def _read(self, key: str, manifest: bytes) -> LaterProof:
        try:
            body = self._store.get(key, limit_bytes=sealed_object.OBJECT_BYTES_MAX)
        except StoreBroken as error:
            if not error.is_of_object:
                raise
            raise ManifestDamaged(f"the later proof is not as it was written: {error.what}", where=key) from error
        except NotFound as error:
            raise ManifestDamaged("the later proof was listed and is gone", where=key) from error
        proof = decode_as(sealed_object.open_(self._keys, LATER_PROOF, key, body), LaterProof, key)
        version = digest.run_id(self._run_key, proof.run), proof.number
        if names.parse_later_proof(key) != version or proof.manifest != manifest:
            raise ManifestDamaged("the later proof belongs to another version than its name says", where=key)
        _check(proof, key)
        return proof


def _check(proof: LaterProof, where: str) -> None:
    """Raise ``ManifestDamaged`` for numbers or paths that are out of bounds: see docs/format.md, "Later proof"."""
    is_sound = is_time(proof.made_ns) and is_level(proof.lowest_level) and is_count(proof.broken_count)
    if not is_sound:
        raise ManifestDamaged("the later proof's time, level or count is out of bounds", where=where)
    paths = [file.path for file in proof.files]
    if not all(map(is_safe_path, paths)) or len(set(paths)) != len(paths):
        raise ManifestDamaged("the later proof has an invalid path, or a path twice", where=where)
    for file in proof.files:
        check_proof(file.proof, where)
    check_room(proof.room, "the later proof", where)
