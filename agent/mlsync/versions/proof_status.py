"""How a version stands today: as its manifest says, with what was proved of it since."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from mlsync.errors import Damage, ManifestDamaged
from mlsync.repository.later_proof import LaterProof
from mlsync.repository.manifest import Entry, Manifest, ManifestRoot
from mlsync.repository.readable import stored_or_none
from mlsync.repository.repository import Repository, Stored
from mlsync.source.paths import display
from mlsync.values import Proof

# Manifests are small and far away: what a listing waits for is the way there and back.
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class ProofStatus:
    """A version as a listing shows it.

    *lowest_level*, on *device*, is what all of its checkpoints have reached but for those that are broken. One that
    *is_settled* is proved as far as it can be, although a checkpoint of it may be below what was required: level 5 was
    not meant for it, or its numbers are compressed.
    """

    stored: Stored
    lowest_level: int
    device: str
    broken_count: int = 0
    is_settled: bool = False

    @property
    def root(self) -> ManifestRoot:
        """What its manifest says."""
        return self.stored.root

    @property
    def is_pending(self) -> bool:
        """Whether a checkpoint of it still has to be proved as far as was required."""
        return not self.is_settled and self.lacks(self.root.required_level)

    def lacks(self, level: int) -> bool:
        """Whether a checkpoint of it that is not broken was not proved up to *level*."""
        return self.root.summary.checkpoint_count > self.broken_count and self.lowest_level < level


def proof_statuses(repository: Repository, run: str) -> list[ProofStatus]:
    """Return how each version of a run stands, oldest first: its manifests are read, and few lists of files.

    What does not open is no version, and left out; the repository notes it.
    """
    keys = repository.later_proof_keys(run)

    def status(number: int) -> ProofStatus | None:
        stored = stored_or_none(repository, run, number)
        if stored is None:
            return None
        return proof_status_of(repository, stored, repository.read_later_proofs(keys.get(number, ()), stored))

    with ThreadPoolExecutor(_AT_ONCE) as executor:
        found = executor.map(status, repository.numbers(run))
        return [one for one in found if one is not None]


def proof_status_of(repository: Repository, stored: Stored, later: Sequence[LaterProof]) -> ProofStatus:
    """Return how a version stands by all that was proved of it.

    Its list of files is read where it looks pending. Who proves a part of it while others prove theirs knows of no sum
    that has all of them in it; nor does any sum tell whether a checkpoint below its level can be proved further.
    """
    shown = status_by_sums(stored, later)
    if shown.is_pending:
        # A list that cannot be read is for others to tell of.
        with suppress(Damage):
            return status_by_entries(shown, tuple(with_proofs(repository.entries(stored), later)))
    return shown


def status_by_sums(stored: Stored, later: Iterable[LaterProof]) -> ProofStatus:
    """Return how a version stands by its manifest and the sums in its later proofs: never as more than it is."""
    summary = stored.root.summary
    status = ProofStatus(stored, summary.lowest_level, summary.device)
    for proof in later:
        if (proof.broken_count, proof.lowest_level) >= (status.broken_count, status.lowest_level):
            status = ProofStatus(stored, proof.lowest_level, proof.device, proof.broken_count)
    return status


def status_by_entries(status: ProofStatus, entries: Sequence[Entry]) -> ProofStatus:
    """Return how a version stands by its entries, as they were proved by now: what no sum knows of each of them."""
    required_level = status.root.required_level
    is_pending = any(entry.proof is not None and entry.proof.is_pending(required_level) for entry in entries)
    return ProofStatus(status.stored, *summed(entries), is_settled=not is_pending)


def manifest_of(repository: Repository, stored: Stored, later: Sequence[LaterProof] | None = None) -> Manifest:
    """Return a version whole, each checkpoint with the proof that went furthest; *later* if they were read already."""
    manifest = repository.manifest(stored)
    later = repository.later_proofs(stored) if later is None else later
    return msgspec.structs.replace(manifest, entries=tuple(with_proofs(manifest.entries, later)))


def with_proofs(entries: Iterable[Entry], later: Iterable[LaterProof]) -> Iterator[Entry]:
    """Yield the entries of a version with what was proved of them later; raises ``ManifestDamaged``."""
    best = _best(later)
    for entry in entries:
        proof = best.pop(entry.path, None)
        if proof is None:
            yield entry
        elif entry.proof is None:
            raise _of_no_checkpoint(entry.path)
        else:
            yield msgspec.structs.replace(entry, proof=proof) if _is_further(proof, entry.proof) else entry
    if best:
        raise _of_no_checkpoint(min(best))


def summed(entries: Iterable[Entry]) -> tuple[int, str, int]:
    """Return the lowest level of a version's checkpoints, its device, and how many are broken and left out of this."""
    proofs = [entry.proof for entry in entries if entry.proof is not None]
    lowest = min((proof for proof in proofs if not proof.is_broken), key=lambda proof: proof.level, default=None)
    broken_count = sum(proof.is_broken for proof in proofs)
    return (0, "", broken_count) if lowest is None else (lowest.level, lowest.device, broken_count)


def _best(later: Iterable[LaterProof]) -> dict[bytes, Proof]:
    best: dict[bytes, Proof] = {}
    for one in later:
        for file in one.files:
            known = best.get(file.path)
            if known is None or _is_further(file.proof, known):
                best[file.path] = file.proof
    return best


def _is_further(proof: Proof, known: Proof) -> bool:
    """Whether *proof*, made later, says more: what is broken stays so, whatever was reached before or is after."""
    return not known.is_broken and (proof.is_broken or proof.level >= known.level)


def _of_no_checkpoint(path: bytes) -> ManifestDamaged:
    return ManifestDamaged(f"a later proof is of no checkpoint of the version: {display(path)}")
