"""Find the version with the best checkpoint: by the fitness in checkpoints, or else by the logs of their trainers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from mlsync.errors import VersionMissing
from mlsync.formats.groups.huggingface import is_trainers_directory
from mlsync.formats.libraries.trainer_logs import (
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
    """Return the number of the version with the best checkpoint of a run, or raise ``VersionMissing``."""
    proofs = RunProofs(repository, run)
    for best_by in (_best_by_checkpoints, _best_by_state, _best_by_lightning, _best_by_results):
        number = best_by(proofs)
        if number is not None:
            return number
    what = _nothing_tells(proofs) + proofs.passed_over()
    raise VersionMissing(what, where=repository.store.url, advice=_TELLING)


def _nothing_tells(proofs: RunProofs) -> str:
    """Return what was looked at in vain."""
    repository, run = proofs.repository, proofs.run
    version_count, checkpoints, logs = 0, set[bytes](), set[bytes]()
    for stored in readable(repository, run, proofs.numbers):
        version_count += 1
        for entry in repository.entries(stored):
            if entry.proof is not None:
                checkpoints.add(entry.path)
            elif _name(entry.path) in _LOGS:
                logs.add(_name(entry.path))
    paths = sorted(checkpoints)
    named = ", ".join(map(display, paths[:_NAMED_MAX])) + (" and others" if len(paths) > _NAMED_MAX else "")
    versions = "its only version" if version_count == 1 else f"its {version_count} versions"
    if not paths:
        return f"nothing tells which version of run {run!r} is best: there is no checkpoint in {versions}"
    looked = f"no checkpoint in {versions} ({named}) has a best_fitness"
    lacks = "".join(f", and {os.fsdecode(name)} {_LOGS[name]}" for name in sorted(logs))
    return f"nothing tells which version of run {run!r} is best: {looked}{lacks}"


def _best_by_checkpoints(proofs: RunProofs) -> int | None:
    """Return the version with the highest ``best_fitness`` in a checkpoint; of equals the newest."""
    found: tuple[float, int] | None = None
    for stored in proofs.trusted(proofs.numbers):
        for facts in _facts(proofs, stored):
            fitness = facts.get("best_fitness")
            if isinstance(fitness, (int, float)) and (found is None or (fitness, stored.root.number) > found):
                found = (fitness, stored.root.number)
    return None if found is None else found[1]


def _best_by_state(proofs: RunProofs) -> int | None:
    """Return the newest version with the checkpoint that Hugging Face's trainer named the best in the end.

    The state does not say whether a higher metric is better, but it names the best checkpoint.
    """
    looked: dict[tuple[ChunkRef, ...], TrainerState | None] = {}

    def named(files: Mapping[bytes, Entry]) -> bytes | None:
        states = {path: entry for path, entry in files.items() if _is_state(path)}
        return _named_best(read_files(proofs.repository, states, STATE_BYTES_MAX, read_trainer_state, looked))

    return _newest_with_named(proofs, named)


def _best_by_lightning(proofs: RunProofs) -> int | None:
    """Return the newest version with the file that Lightning's ``ModelCheckpoint`` named the best in the end."""

    def named(files: Mapping[bytes, Entry]) -> bytes | None:
        naming: list[tuple[float, bytes]] = []
        for path, entry in files.items():
            facts = entry.proof.facts if entry.proof is not None else {}
            best, step = facts.get(BEST_CHECKPOINT), facts.get("step")
            if isinstance(best, str) and isinstance(step, (int, float)):
                naming.append((step, _beside(path, os.fsencode(best))))
        return max(naming)[1] if naming else None

    return _newest_with_named(proofs, named)


def _newest_with_named(proofs: RunProofs, named: Callable[[Mapping[bytes, Entry]], bytes | None]) -> int | None:
    """Return the newest version that holds what the newest one that names a best checkpoint, by *named*, names."""
    best: bytes | None = None
    for stored in proofs.trusted(reversed(proofs.numbers)):
        files = {entry.path: entry for entry in proofs.entries(stored)}
        if best is None:
            best = named(files)
        if best is not None and any(_has_weights(path, entry, best) for path, entry in files.items()):
            return stored.root.number
    if best is not None:
        what = f"the trainer of run {proofs.run!r} names {display(best)} the best, and no version holds it"
        raise VersionMissing(what + proofs.passed_over(), where=proofs.repository.store.url, advice=_SHOWN_BY)
    return None


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


def _best_by_results(proofs: RunProofs) -> int | None:
    """Return the version with the highest fitness in a ``results.csv`` of Ultralytics; of equals the newest."""
    looked: dict[tuple[ChunkRef, ...], float | None] = {}
    found: tuple[float, int] | None = None
    for stored in proofs.trusted(proofs.numbers):
        files = {entry.path: entry for entry in proofs.repository.entries(stored)}
        results = {path: entry for path, entry in files.items() if path.rpartition(b"/")[2] == RESULTS_NAME}
        # Any program may write a results.csv: beside that of Ultralytics are the settings of the training.
        results = {path: one for path, one in results.items() if _beside(path, ARGUMENTS_NAME) in files}
        for _, fitness in read_files(proofs.repository, results, RESULTS_BYTES_MAX, read_fitness, looked):
            found = max(found or (fitness, 0), (fitness, stored.root.number))
    return None if found is None else found[1]


def _beside(path: bytes, name: bytes) -> bytes:
    return path[: len(path) - len(_name(path))] + name


def _name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _facts(proofs: RunProofs, stored: StoredVersion) -> Iterator[Mapping[str, object]]:
    """Yield the facts in the proof of each checkpoint of a version that is not broken."""
    found = (entry.proof for entry in proofs.entries(stored))
    return (proof.facts for proof in found if proof is not None and not proof.is_broken)
