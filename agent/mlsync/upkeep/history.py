"""The versions of a run over time, for those who watch: read from the store, and told as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from mlsync.errors import Damage
from mlsync.repository.evaluation import newest_numbers
from mlsync.repository.manifest import Entry
from mlsync.repository.readable import stored_or_none
from mlsync.repository.repository import Repository
from mlsync.upkeep.version_seen import VersionSeen
from mlsync.versions.evaluated import RunEvaluations
from mlsync.versions.measured import FITNESS, Measured, measured
from mlsync.versions.proof_status import ProofStatus, proof_status_of, with_proofs
from mlsync.versions.run_proofs import RunProofs

# Lists of files are small and may be far away; each that is in memory may be of many files.
_AT_ONCE: Final = 4
# What a person wants to see in a list costs no more than this: a longer list of files is not read.
_FILES_MAX: Final = 20_000
# Of these numbers the first that is known tells how good a version is.
_FITNESS: Final = (FITNESS, "best_fitness", "best_metric")


def newest_versions(repository: Repository, run: str, count: int) -> list[VersionSeen]:
    """Return the newest *count* versions of a run that are not forgotten, oldest first."""
    proofs = RunProofs(repository, run)
    found = _seen(proofs, proofs.numbers[-count:])
    measured_of = _measured(repository, run, found)
    return [replace(one, numbers=measured_of.get(one.version, {})) for one in found]


def _measured(repository: Repository, run: str, found: Sequence[VersionSeen]) -> dict[int, dict[str, float]]:
    """Return what was measured of these versions, by number."""
    evaluations = RunEvaluations(repository, run)
    numbers = [one.version for one in found if one.version in evaluations.keys]
    stored = (stored_or_none(repository, run, number) for number in numbers)
    of_all = evaluations.of_all(one for one in stored if one is not None)
    return {number: newest_numbers(some) for number, some in of_all.items()}


def seen_versions(repository: Repository, run: str, numbers: Iterable[int]) -> list[VersionSeen]:
    """Return the versions of these numbers that open, oldest first."""
    return _seen(RunProofs(repository, run), sorted(set(numbers)))


def _seen(proofs: RunProofs, numbers: Sequence[int]) -> list[VersionSeen]:
    # The first one alone: what all of them need is read with it, once.
    found = [_seen_one(proofs, number) for number in numbers[:1]]
    with ThreadPoolExecutor(_AT_ONCE) as executor:
        found += executor.map(lambda number: _seen_one(proofs, number), numbers[1:])
    return [one for one in found if one is not None]


def _seen_one(proofs: RunProofs, number: int) -> VersionSeen | None:
    repository = proofs.repository
    stored = stored_or_none(repository, proofs.run, number)
    if stored is None:
        return None
    later, hidden = proofs.of(stored)
    status = proof_status_of(repository, stored, later.proofs)
    entries: list[Entry] = []
    known: Measured | None = None
    if stored.root.summary.file_count <= _FILES_MAX:
        try:
            entries = list(with_proofs(repository.entries(stored), later.proofs))
            known = measured(repository, entries, {FITNESS})
        except Damage:
            entries = []  # others report it
    return _version(status, known, entries, is_hidden=hidden is not None)


def _version(status: ProofStatus, known: Measured | None, entries: Iterable[Entry], *, is_hidden: bool) -> VersionSeen:
    root, summary = status.root, status.root.summary
    numbers = {} if known is None else known.numbers
    has_sound = summary.checkpoint_count > status.broken_count
    written_ns = max((entry.mtime_ns for entry in entries if entry.proof is not None), default=None)
    return VersionSeen(
        version=root.number,
        made_s=root.created_ns / 1e9,
        host=root.host,
        file_count=summary.file_count,
        size_bytes=summary.size_bytes,
        new_bytes=summary.new_bytes,
        stored_bytes=summary.stored_bytes,
        checkpoint_count=summary.checkpoint_count,
        broken_count=status.broken_count,
        trouble_count=len(root.troubles),
        level=status.lowest_level if has_sound else None,
        is_pending=status.is_pending,
        is_hidden=is_hidden,
        epoch=None if known is None else known.epoch,
        step=None if known is None else known.step,
        fitness=next((max(numbers[name]) for name in _FITNESS if name in numbers), None),
        checkpoint_s=None if written_ns is None else written_ns / 1e9,
    )
