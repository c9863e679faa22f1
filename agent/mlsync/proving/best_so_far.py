"""Whether a version is the best one of its run so far, by what its trainer says and without its evaluation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mlsync.repository.repository import Repository, StoredVersion
from mlsync.versions.best import named_best
from mlsync.versions.measured import FITNESS, measured


@dataclass(frozen=True, slots=True)
class _Said:
    """What a trainer says: which checkpoint is the best, the best fitness so far, and that of the last epoch."""

    named: bytes | None = None
    best: float | None = None
    last: float | None = None


def is_best_so_far(
    repository: Repository, stored: StoredVersion, previous: int | None, highest_before: float | None
) -> bool | None:
    """Return whether a version is the best so far; ``None`` if its trainer says nothing of that.

    This reads it and the *previous* one with a checkpoint. *highest_before* is the highest fitness of all before it.
    """
    now = _said(repository, stored)
    before = _Said() if previous is None else _said(repository, repository.stored(stored.root.run, previous))
    if now.named is not None:
        return now.named != before.named
    if now.best is not None:
        return before.best is None or now.best > before.best
    return None if now.last is None else highest_before is None or now.last > highest_before


def _said(repository: Repository, stored: StoredVersion) -> _Said:
    entries = repository.entries(stored)
    numbers = measured(repository, entries, {FITNESS}).numbers
    named = named_best(repository, stored, {entry.path: entry for entry in entries})
    return _Said(named, _highest(numbers, "best_fitness"), _highest(numbers, FITNESS))


def _highest(numbers: Mapping[str, Collection[float]], name: str) -> float | None:
    return max(numbers.get(name, ()), default=None)
