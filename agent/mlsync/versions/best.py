"""Find the version with the best checkpoint: by the fitness in checkpoints, or else by the logs of their trainers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from mlsync.errors import Damage, Error, StoreError, VersionMissing
from mlsync.formats.groups.huggingface import is_trainers_directory
from mlsync.formats.logs.trainer_logs import (
    ARGUMENTS_NAME,
    RESULTS_BYTES_MAX,
    RESULTS_NAME,
    STATE_BYTES_MAX,
    STATE_NAME,
    TrainerState,
    read_fitness,
    read_trainer_state,
)
from mlsync.formats.torch.facts import BEST_CHECKPOINT
from mlsync.repository.manifest import ChunkRef, Entry
from mlsync.repository.readable import readable
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.source.paths import display
from mlsync.versions.logged import read_files
from mlsync.versions.resumable import has_weights
from mlsync.versions.run_proofs import RunProofs

_SHOWN_BY: Final = "mlsync show says what each checkpoint is"
_TELLING: Final = (
    "best reads best_fitness in a checkpoint, the best one that Hugging Face's trainer_state.json or Lightning's "
    "ModelCheckpoint(monitor=...) names, and mAP or accuracy in Ultralytics' results.csv beside args.yaml; to choose "
    "by yourself, see mlsync versions and give --version N, latest or resumable"
)
# The logs that may tell, and what they lack if they do not
_LOGS: Final = {STATE_NAME: "names no best checkpoint", RESULTS_NAME: "has no mAP or accuracy of Ultralytics"}
_NAMED_MAX: Final = 3


def best_number(repository: Repository, run: str) -> int:
    """Return the number of the version with the best checkpoint of a run, or raise ``VersionMissing``.

    This reads each version once.
    """
    proofs = RunProofs(repository, run)
    search = BestSearch(repository, run)
    for stored in proofs.trusted(reversed(proofs.numbers)):
        search.look(stored, list(proofs.entries(stored)))
    for stored in readable(repository, run, sorted(proofs.hidden)) if search.finds_nothing else ():
        search.name(repository.entries(stored))
    return search.number(proofs.passed_over())


def named_best(repository: Repository, stored: StoredVersion, entries: Mapping[bytes, Entry]) -> bytes | None:
    """Return the file or directory in a version that its trainer names the best, if the version holds it."""
    state, lightning = _Named(), _Named()
    search = BestSearch(repository, stored.root.run)
    for named, find in ((state, search.named_by_state), (lightning, _named_by_lightning)):
        named.look(stored.root.number, entries, find)
        if named.number is not None:
            return named.best
    return None


class BestSearch:
    """Finds the version with the best checkpoint of a run, in one walk over its versions, the newest first.

    What is kept of a version are a few numbers, whatever its size. A log is read only as long as it may tell: that of
    Hugging Face until a version names a checkpoint, that of Ultralytics until anything else tells. A log that cannot
    be read is an error only if it would have told.
    """

    def __init__(self, repository: Repository, run: str) -> None:
        self._repository = repository
        self._run = run
        self._fitness: _Highest = _Highest()
        self._results: _Highest = _Highest()
        self._state = _Named()
        self._lightning = _Named()
        self._states: dict[tuple[ChunkRef, ...], TrainerState | None] = {}
        self._fitnesses: dict[tuple[ChunkRef, ...], float | None] = {}
        # What was looked at, for the message that nothing tells.
        self._version_count = 0
        self._checkpoints: list[bytes] = []
        self._logs: set[bytes] = set()

    def look(self, stored: StoredVersion, entries: Collection[Entry]) -> None:
        """Look at a version that is older than those before, with its entries and their latest proofs."""
        number = stored.root.number
        self.name(entries)
        for facts in _sound_facts(entries):
            self._fitness.take(facts.get("best_fitness"), number)
        files = {entry.path: entry for entry in entries}
        self._lightning.look(number, files, _named_by_lightning)
        if self._fitness.number is None:
            self._state.look(number, files, self.named_by_state)
            if self._state.best is None and self._lightning.best is None:
                self._look_at_results(number, files)

    def name(self, entries: Iterable[Entry]) -> None:
        """Note what a version has, for the message that nothing tells."""
        self._version_count += 1
        checkpoints = set(self._checkpoints)
        for entry in entries:
            if entry.proof is not None:
                checkpoints.add(entry.path)
            elif _name(entry.path) in _LOGS:
                self._logs.add(_name(entry.path))
        self._checkpoints = sorted(checkpoints)[: _NAMED_MAX + 1]

    @property
    def finds_nothing(self) -> bool:
        """Whether nothing that was looked at tells."""
        told = (self._fitness.number, self._state.best, self._lightning.best, self._results.number)
        faults = (self._state.fault, self._results.fault)
        return all(one is None for one in (*told, *faults))

    def number(self, passed_over: str = "") -> int:
        """Return the version; raise ``VersionMissing``, which ends with *passed_over*, or what a log's reading raised.

        Checkpoints count before logs, and of these the trainer that names a checkpoint before one that logs a value.
        """
        if self._fitness.number is not None:
            return self._fitness.number
        for named in (self._state, self._lightning):
            if named.fault is not None:
                raise named.fault
            if named.number is not None:
                return named.number
            if named.best is not None:
                what = f"the trainer of run {self._run!r} names {display(named.best)} the best, and no version holds it"
                raise self._missing(what + passed_over, _SHOWN_BY)
        if self._results.fault is not None:
            raise self._results.fault
        if self._results.number is not None:
            return self._results.number
        raise self._missing(self._nothing_tells() + passed_over, _TELLING)

    def _missing(self, what: str, advice: str) -> VersionMissing:
        return VersionMissing(what, where=self._repository.store.url, advice=advice)

    def _nothing_tells(self) -> str:
        """Return what was looked at in vain."""
        named = ", ".join(map(display, self._checkpoints[:_NAMED_MAX]))
        named += " and others" if len(self._checkpoints) > _NAMED_MAX else ""
        versions = "its only version" if self._version_count == 1 else f"its {self._version_count} versions"
        nothing = f"nothing tells which version of run {self._run!r} is best"
        if not self._checkpoints:
            return f"{nothing}: there is no checkpoint in {versions}"
        lacks = "".join(f", and {os.fsdecode(name)} {_LOGS[name]}" for name in sorted(self._logs))
        return f"{nothing}: no checkpoint in {versions} ({named}) has a best_fitness{lacks}"

    def named_by_state(self, files: Mapping[bytes, Entry]) -> bytes | None:
        """Return the checkpoint that Hugging Face's trainer names the best.

        The state does not say whether a higher metric is better, but it names the best checkpoint.
        """
        states = {path: entry for path, entry in files.items() if _is_state(path)}
        return _named_best(read_files(self._repository, states, STATE_BYTES_MAX, read_trainer_state, self._states))

    def _look_at_results(self, number: int, files: Mapping[bytes, Entry]) -> None:
        """Take the fitness in each ``results.csv`` of Ultralytics."""
        results = {path: entry for path, entry in files.items() if _name(path) == RESULTS_NAME}
        # Any program may write a results.csv: beside that of Ultralytics are the settings of the training.
        results = {path: one for path, one in results.items() if _beside(path, ARGUMENTS_NAME) in files}
        try:
            found = [*read_files(self._repository, results, RESULTS_BYTES_MAX, read_fitness, self._fitnesses)]
        except (Damage, StoreError) as error:
            self._results.fault = self._results.fault or error
            return
        for _, fitness in found:
            self._results.take(fitness, number)


@dataclass(slots=True)
class _Highest:
    """The version with the highest value; of equals the newest. *fault*: a value could not be read."""

    value: float = 0.0
    number: int | None = None
    fault: Error | None = None

    def take(self, value: object, number: int) -> None:
        """Compare the value of a version; what is no number, or not one that can be compared, counts for nothing."""
        if not isinstance(value, (int, float)) or math.isnan(value):
            return
        if self.number is None or (value, number) > (self.value, self.number):
            self.value, self.number = value, number


@dataclass(slots=True)
class _Named:
    """The newest version that holds what the newest one that names a *best* checkpoint names."""

    best: bytes | None = None
    number: int | None = None
    fault: Error | None = None

    def look(
        self, number: int, files: Mapping[bytes, Entry], named: Callable[[Mapping[bytes, Entry]], bytes | None]
    ) -> None:
        """Look at the next older version, which names what *named* returns."""
        if self.number is not None or self.fault is not None:
            return
        try:
            self.best = named(files) if self.best is None else self.best
        except (Damage, StoreError) as error:
            self.fault = error
            return
        best = self.best
        if best is not None and any(_has_weights(path, entry, best) for path, entry in files.items()):
            self.number = number


def _named_by_lightning(files: Mapping[bytes, Entry]) -> bytes | None:
    """Return the file that Lightning's ``ModelCheckpoint`` named the best in the end."""
    naming: list[tuple[float, bytes]] = []
    for path, entry in files.items():
        facts = entry.proof.facts if entry.proof is not None else {}
        best, step = facts.get(BEST_CHECKPOINT), facts.get("step")
        if isinstance(best, str) and isinstance(step, (int, float)):
            naming.append((step, _beside(path, os.fsencode(best))))
    return max(naming)[1] if naming else None


def _is_state(path: bytes) -> bool:
    """Return whether a file is the state of a checkpoint of Hugging Face's trainer."""
    directory, _, name = path.rpartition(b"/")
    return name == STATE_NAME and is_trainers_directory(directory.rpartition(b"/")[2])


def _named_best(states: Iterable[tuple[bytes, TrainerState]]) -> bytes | None:
    """Return the directory of the best checkpoint, from the state of the last step that names one."""
    naming = [(state.step, path, state.best_step) for path, state in states if state.best_step is not None]
    if not naming:
        return None
    _, path, best_step = max(naming)
    above = path.rpartition(b"/")[0].rpartition(b"/")[0]
    return (above + b"/" if above else b"") + b"checkpoint-%d" % best_step


def _has_weights(path: bytes, entry: Entry, best: bytes) -> bool:
    """Return whether a file is *best*, or in that directory, and has weights and is not broken."""
    is_there = path == best or path.startswith(best + b"/")
    return is_there and entry.proof is not None and not entry.proof.is_broken and has_weights(entry.proof.facts)


def _beside(path: bytes, name: bytes) -> bytes:
    return path[: len(path) - len(_name(path))] + name


def _name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _sound_facts(entries: Iterable[Entry]) -> Iterator[Mapping[str, object]]:
    """Yield the facts in the proof of each checkpoint that is not broken."""
    found = (entry.proof for entry in entries)
    return (proof.facts for proof in found if proof is not None and not proof.is_broken)
