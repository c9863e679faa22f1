"""Later proofs: objects beside a manifest, which itself never changes.

A version may be committed below the required level, for example without a GPU; a machine that has one proves it later.
Each later proof names its manifest by digest, so that it applies to no other. See docs/format.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import Final

import msgspec

from mlsync.codec.keys import Keys
from mlsync.errors import Damage, FormatUnsupported, ManifestDamaged, NotFound
from mlsync.repository import names
from mlsync.repository.ahead import each
from mlsync.repository.beside import BesideKind, ObjectsBeside
from mlsync.repository.encoding.room import Room, check_room
from mlsync.repository.encoding.validation import check_proof, is_level, is_safe_path, is_time
from mlsync.repository.proof_links import check_seen, heads_of, link, linked_id, seen_links
from mlsync.repository.sealed_object import LATER_PROOF
from mlsync.store.base import Store
from mlsync.values import Proof, is_count

_BATCH: Final = 100


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


class StoredProof(msgspec.Struct, frozen=True):
    """A later proof as it was read, with the link by which what is written after it names it."""

    key: str
    link: bytes
    proof: LaterProof

    @property
    def refused(self) -> bool:
        """Whether it says that a checkpoint is broken."""
        return self.proof.broken_count > 0 or any(file.proof.is_broken for file in self.proof.files)


class VersionProofs(msgspec.Struct, frozen=True):
    """The later proofs of a version that open, oldest first, and links to those that are *missing*.

    What does not open is not among them: whoever may create objects can put some under any name. A proof is missing if
    another one or a manifest has a link to it, and it is not in the store, does not open, or is another object. Of the
    objects under names that were looked at, *unopened_count* did not open.
    """

    stored: tuple[StoredProof, ...] = ()
    missing: tuple[bytes, ...] = ()
    unopened_count: int = 0

    @property
    def proofs(self) -> list[LaterProof]:
        """The proofs without what shows where they are."""
        return [one.proof for one in self.stored]

    @property
    def heads(self) -> tuple[bytes, ...]:
        """Links to the proofs to which no other one has a link."""
        return heads_of({one.link: seen_links(one.proof.room) for one in self.stored})

    @property
    def refused(self) -> bool:
        """Whether one of them says that a checkpoint is broken."""
        return any(one.refused for one in self.stored)


class LaterProofs(ObjectsBeside[LaterProof]):
    """The later proofs of one repository, by run and version; *refuse* raises an error for one that does not count."""

    def __init__(self, store: Store, keys: Keys, refuse: Callable[[str, bytes], None]) -> None:
        super().__init__(_KIND, store, keys, refuse)

    def open(self, key: str, manifest: bytes | None = None) -> StoredProof:
        """Return the proof of this name; raise ``ManifestDamaged`` if it does not open, or is of another *manifest*."""
        proof, digest = self.opened(key, manifest)
        return StoredProof(key, link(names.later_proof_id(key), digest), proof)

    def read(
        self,
        version: tuple[bytes, int],
        keys: Iterable[str],
        manifest: bytes | None,
        named: Iterable[bytes],
        skipped: MutableMapping[str, Damage | FormatUnsupported],
        *,
        unopened_max: int | None = None,
    ) -> VersionProofs:
        """Return the proofs of a version, a run's id and a number, of those names that open; *named* are links to some.

        A proof that a link is to and that no listing had is looked for by its name: it may be newer than the listing.
        *skipped* gets what does not open or is of another *manifest*, and why. After *unopened_max* of these, only what
        links are to is read. Raises ``FormatUnsupported`` for a proof that opens and is a newer mlsync's.
        """
        found: dict[str, StoredProof | None] = {}
        links, rest = set(named), list(dict.fromkeys(keys))
        at_once = len(rest) if unopened_max is None else _BATCH
        while True:
            wanted = {names.later_proof(*version, linked_id(one)) for one in links} - found.keys()
            if unopened_max is None or list(found.values()).count(None) < unopened_max:
                wanted.update(rest[:at_once])
                del rest[:at_once]
            if not wanted:
                break
            for key, one in self._each_opened(sorted(wanted - found.keys()), skipped):
                found[key] = one
                links.update(() if one is None else seen_links(one.proof.room))
        present = [one for one in found.values() if one is not None]
        missing = links - {one.link for one in present}
        sound = []
        for one in present:
            if manifest in (None, one.proof.manifest):
                sound.append(one)
            else:
                skipped[one.key] = self.of_another(one.key)
        sound.sort(key=lambda one: one.proof.made_ns)
        return VersionProofs(tuple(sound), tuple(sorted(missing)), len(found) - len(present))

    def _each_opened(
        self, keys: Sequence[str], skipped: MutableMapping[str, Damage | FormatUnsupported]
    ) -> Iterator[tuple[str, StoredProof | None]]:
        """Yield each name with its proof, ``None`` for one that does not open."""

        def opened(key: str) -> StoredProof | None:
            try:
                return self.open(key)
            except (ManifestDamaged, FormatUnsupported) as error:
                if isinstance(error, FormatUnsupported) and not error.is_claim:
                    raise
                if not isinstance(error.__cause__, NotFound):
                    skipped[key] = error
                return None

        yield from zip(keys, each(opened, keys), strict=True)

    def add(self, run_id: bytes, proof: LaterProof) -> StoredProof:
        """Store the proof beside its version."""
        proof_id = os.urandom(names.PROOF_ID_BYTES)
        key = names.later_proof(run_id, proof.number, proof_id)
        return StoredProof(key, link(proof_id, self.put(key, proof)), proof)


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
    check_seen(proof.room, names.later_proof_id(where), where)


_KIND: Final = BesideKind(
    LATER_PROOF,
    LaterProof,
    names.parse_later_proof,
    names.run_proofs_prefix,
    names.version_proofs_prefix,
    _check,
)
