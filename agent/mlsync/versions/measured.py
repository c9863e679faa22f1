"""The numbers that are known of a version, by which versions are compared: measured, from proofs, and from logs.

A name is that of a number that a command measured, or of a fact in the proof of a checkpoint (``best_fitness``,
``epoch``) or in a trainer's log, ``fitness`` for that of Ultralytics' last epoch, ``FILE:NAME`` for the last value of a
column of a ``.csv`` file or of a number in a ``.json`` file such as Hugging Face's trainer_state.json, or the name of a
metric that a trainer logged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from mlsync.errors import Damage, StoreError
from mlsync.formats.logs.trainer_logs import (
    RESULTS_BYTES_MAX,
    RESULTS_NAME,
    STATE_BYTES_MAX,
    last_fitness,
    last_in_column,
    last_logged,
)
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import ChunkRef, Entry
from mlsync.repository.repository import Repository
from mlsync.values import Fact
from mlsync.versions.logged import logged_facts, read_files
from mlsync.versions.logs.metrics import logged_metrics
from mlsync.versions.resumable import Resumable, resumables

FITNESS: Final = "fitness"
# Of more files of one name, such as those of many checkpoints, the newest tell.
_FILES_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a version's training: how far it was, and its numbers by name; each may have several values."""

    is_resumable: bool
    epoch: float | None
    step: float | None
    numbers: Mapping[str, tuple[float, ...]]


def measured(
    repository: Repository,
    entries: Collection[Entry],
    asked: Collection[str] | None,
    evaluated: Mapping[str, float] | None = None,
) -> Measured:
    """Return what is known of a version with these entries, with their latest proofs.

    What was *evaluated* of it counts before what checkpoints and logs say under the same name.

    With names that are *asked* for (also none), trainers' logs are read too: some small files of the version. A log
    that cannot be read tells nothing.
    """
    proved: list[Mapping[str, Fact]] = [
        entry.proof.facts for entry in entries if entry.proof is not None and not entry.proof.is_broken
    ]
    logged: list[Mapping[str, Fact]] = [] if asked is None else [*logged_facts(repository, entries).values()]
    numbers: dict[str, list[float]] = {}
    for name, number in _numbers((*proved, *logged)):
        numbers.setdefault(name, []).append(number)
    for name in asked or ():
        numbers.setdefault(name, []).extend(_of_files(repository, entries, name))
    for name, number in (evaluated or {}).items():
        numbers[name] = [number]
    if any(not numbers.get(name) and name != FITNESS for name in asked or ()):
        for name, number in logged_metrics(repository, entries).items():
            numbers[name] = numbers.get(name) or [number]
    found = resumables(entries)
    newest: list[Mapping[str, Fact]] = [_counts(found[0])] if found else []
    return Measured(
        bool(found),
        _count("epoch", newest, proved, logged),
        _count("step", newest, proved, logged),
        {name: tuple(sorted(set(values))) for name, values in numbers.items() if values},
    )


def _numbers(facts: Iterable[Mapping[str, Fact]]) -> Iterator[tuple[str, float]]:
    for some in facts:
        for name, fact in some.items():
            if isinstance(fact, (int, float)) and not isinstance(fact, bool):
                yield name, float(fact)


def _counts(one: Resumable) -> dict[str, Fact]:
    found = {"epoch": one.epoch, "step": one.step}
    return {name: fact for name, fact in found.items() if fact is not None}


def _count(name: str, *known: Iterable[Mapping[str, Fact]]) -> float | None:
    """Return how far the training was: what it would go on from says so, else its checkpoints, else its logs."""
    for facts in known:
        # Ultralytics writes -1 into a checkpoint when training has ended.
        found = [number for fact, number in _numbers(facts) if fact == name and number >= 0]
        if found:
            return max(found)
    return None


def _of_files(repository: Repository, entries: Iterable[Entry], name: str) -> Iterator[float]:
    """Yield the values of a name that is in files, one for each file."""
    for file, bytes_max, read in _readers(name):
        files = [entry for entry in entries if entry.kind is EntryKind.FILE and _is_named(entry.path, file)]
        looked: dict[tuple[ChunkRef, ...], float | None] = {}
        for entry in sorted(files, key=lambda entry: entry.mtime_ns)[-_FILES_MAX:]:
            try:
                yield from (value for _, value in read_files(repository, {entry.path: entry}, bytes_max, read, looked))
            except (Damage, StoreError):
                continue


def _readers(name: str) -> Iterator[tuple[bytes, int, Callable[[bytes], float | None]]]:
    """Yield the file that a name is in, its largest size, and what reads the value in it."""
    if name == FITNESS:
        yield RESULTS_NAME, RESULTS_BYTES_MAX, last_fitness
    file, colon, column = name.partition(":")
    if colon and file.endswith(".csv"):
        yield os.fsencode(file), RESULTS_BYTES_MAX, lambda data: last_in_column(data, column)
    elif colon and file.endswith(".json"):
        yield os.fsencode(file), STATE_BYTES_MAX, lambda data: last_logged(data, column)


def _is_named(path: bytes, name: bytes) -> bool:
    return path == name or path.endswith(b"/" + name)
