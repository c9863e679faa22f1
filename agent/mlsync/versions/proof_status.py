"""The proof status of versions: what their manifests say, with the proofs that were made later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import msgspec

from mlsync.errors import Damage, ManifestDamaged
from mlsync.repository.ahead import each
from mlsync.repository.history.decision import Forgotten
from mlsync.repository.history.decisions import Decided
from mlsync.repository.later_proof import LaterProof, VersionProofs
from mlsync.repository.manifest import Entry, Manifest, ManifestRoot
from mlsync.repository.proof_links import seen_proofs
from mlsync.repository.readable import stored_or_none
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.source.paths import display
from mlsync.values import Proof
from mlsync.versions.decided import decided_of
from mlsync.versions.hidden_proofs import HiddenProofs, hidden_in


@dataclass(frozen=True, slots=True)
class ProofStatus:
    """The proof status of a version, as lists of versions show it.

    *lowest_level*, on *device*, is the level that all of its checkpoints have reached, except broken ones. A version
    that *is_settled* is proved as far as possible, although a checkpoint may be below the required level: level 5 does
    not apply to it, or its numbers are compressed. What later proofs say that are *hidden* is not known.
    """

    stored: StoredVersion
    lowest_level: int
    device: str
    broken_count: int = 0
    is_settled: bool = False
    hidden: HiddenProofs | None = None

    @property
    def root(self) -> ManifestRoot:
        """The root of its manifest."""
        return self.stored.root

    @property
    def is_pending(self) -> bool:
        """Whether a checkpoint still has to be proved to the required level."""
        return not self.is_settled and self.lacks(self.root.required_level)

    def lacks(self, level: int) -> bool:
        """Return whether a checkpoint that is not broken is below *level*."""
        return self.root.summary.checkpoint_count > self.broken_count and self.lowest_level < level


_NO_PROOFS: Final = VersionProofs()


class Told(msgspec.Struct, frozen=True):
    """What a list of files told of a version with these later proofs: its *status*, and whether it *is_resumable*."""

    proofs: VersionProofs
    status: ProofStatus
    is_resumable: bool


@dataclass(slots=True)
class KnownVersions:
    """What was read of a run's versions, for a flow that asks about them more than once: nothing is read again.

    Manifests never change, and what was *told* of a version holds as long as it has no other later proofs. Lists of
    files are not kept.
    """

    manifests: dict[int, StoredVersion] = field(default_factory=dict)
    told: dict[int, Told] = field(default_factory=dict)
    _proofs: dict[int, tuple[Sequence[str], Sequence[bytes], VersionProofs]] = field(default_factory=dict)

    def stored(self, repository: Repository, run: str, number: int) -> StoredVersion | None:
        """Return a version; ``None`` for what does not open, which is tried each time."""
        found = self.manifests.get(number) or stored_or_none(repository, run, number)
        if found is not None:
            self.manifests[number] = found
        return found

    def later_proofs(
        self, repository: Repository, stored: StoredVersion, keys: Sequence[str], links: Sequence[bytes]
    ) -> VersionProofs:
        """Return the later proofs of a version, which has those of these names and links; the same object if known."""
        if not keys and not links:
            return _NO_PROOFS
        number = stored.root.number
        known = self._proofs.get(number)
        if known is None or known[:2] != (keys, links):
            found = repository.read_later_proofs(stored.root.run, number, keys, manifest=stored.digest, named=links)
            known = self._proofs[number] = keys, links, found
        return known[2]


@dataclass(frozen=True, slots=True)
class RunVersions:
    """The versions of a run that are listed, oldest first, and what is decided of all of them.

    *measured* has the numbers of those that were evaluated, for whoever asked for them. *newest* is the newest version
    that opens, also one that is not listed; *numbers* and *proof_keys* are what was listed, names of later proofs by
    version.
    """

    statuses: list[ProofStatus]
    decided: Decided
    measured: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    newest: StoredVersion | None = None
    numbers: Sequence[int] = ()
    proof_keys: Mapping[int, list[str]] = field(default_factory=dict)


def proof_statuses(repository: Repository, run: str) -> list[ProofStatus]:
    """Return the proof status of each version of a run that is not forgotten: see ``run_versions``."""
    return run_versions(repository, run).statuses


def run_versions(
    repository: Repository,
    run: str,
    *,
    with_forgotten: bool = False,
    known: KnownVersions | None = None,
    by_summaries: bool = False,
) -> RunVersions:
    """Return the proof status of each version of a run, oldest first; this reads all manifests, and few lists of files.

    Objects that do not open are left out; ``repository.skipped`` has them. So are versions that are gone, and those
    that are forgotten unless *with_forgotten*. What is *known* is not read again, and gets what is read. *by_summaries*
    no list of files is read, and a version may look pending that is not: see ``status_from_summaries``.
    """
    read = known or KnownVersions()

    def status(stored: StoredVersion) -> ProofStatus:
        number = stored.root.number
        seen = named.get(number)
        links = () if seen is None else seen.heads
        proofs = read.later_proofs(repository, stored, keys.get(number, ()), links)
        told = read.told.get(number)
        if told is not None and told.proofs is proofs:
            found = told.status
        else:
            found = (status_from_summaries if by_summaries else of_entries)(stored, proofs.proofs)
        return replace(found, hidden=hidden_in(repository, stored.root.run, number, proofs, seen))

    def of_entries(stored: StoredVersion, later: Sequence[LaterProof]) -> ProofStatus:
        return proof_status_of(repository, stored, later)

    def is_listed(stored: StoredVersion) -> bool:
        dropped = decided.dropped(stored.root.number, stored.digest)
        return dropped is None or (with_forgotten and isinstance(dropped, Forgotten))

    numbers = repository.numbers(run)
    versions = [one for one in each(partial(read.stored, repository, run), numbers) if one is not None]
    if not versions:
        return RunVersions([], Decided(run), numbers=numbers)
    newest = versions[-1]
    decided = decided_of(repository, run, newest)
    named = seen_proofs(newest.root.room)
    keys = repository.later_proof_keys(run)
    statuses = list(each(status, filter(is_listed, versions)))
    return RunVersions(statuses, decided, newest=newest, numbers=numbers, proof_keys=keys)


def proof_status_of(repository: Repository, stored: StoredVersion, later: Sequence[LaterProof]) -> ProofStatus:
    """Return the proof status of a version, from its manifest and its later proofs.

    If the version looks pending, this reads its list of files. Machines that prove a part each write no summary that
    has all parts, and no summary says whether a checkpoint below its level can be proved further.
    """
    shown = status_from_summaries(stored, later)
    if shown.is_pending:
        # A list that cannot be read is reported by others, such as check.
        with suppress(Damage):
            return status_from_entries(shown, tuple(with_proofs(repository.entries(stored), later)))
    return shown


def status_from_summaries(stored: StoredVersion, later: Iterable[LaterProof]) -> ProofStatus:
    """Return the proof status from the summaries in manifest and later proofs; it may be too low, never too high."""
    summary = stored.root.summary
    status = ProofStatus(stored, summary.lowest_level, summary.device)
    for proof in later:
        if (proof.broken_count, proof.lowest_level) >= (status.broken_count, status.lowest_level):
            status = ProofStatus(stored, proof.lowest_level, proof.device, proof.broken_count)
    return status


def status_from_entries(status: ProofStatus, entries: Sequence[Entry]) -> ProofStatus:
    """Return the proof status from the entries of a version, with their latest proofs."""
    required_level = status.root.required_level
    is_pending = any(entry.proof is not None and entry.proof.is_pending(required_level) for entry in entries)
    return ProofStatus(status.stored, *summed(entries), is_settled=not is_pending)


def manifest_of(repository: Repository, stored: StoredVersion, later: Sequence[LaterProof] | None = None) -> Manifest:
    """Return a version in which each checkpoint has its furthest proof; *later* are its proofs, if read already."""
    manifest = repository.manifest(stored)
    later = repository.later_proofs(stored).proofs if later is None else later
    return msgspec.structs.replace(manifest, entries=tuple(with_proofs(manifest.entries, later)))


def with_proofs(entries: Iterable[Entry], later: Iterable[LaterProof]) -> Iterator[Entry]:
    """Yield the entries of a version with their later proofs; raise ``ManifestDamaged`` if one is of no checkpoint."""
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
    """Return the lowest level of the checkpoints that are not broken, its device, and the number of broken ones."""
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
    """Return whether *proof*, made later, replaces *known*: a broken checkpoint stays broken."""
    return not known.is_broken and (proof.is_broken or proof.level >= known.level)


def _of_no_checkpoint(path: bytes) -> ManifestDamaged:
    return ManifestDamaged(f"a later proof is of a file that is no checkpoint of the version: {display(path)}")
