"""Find the checkpoints of a version that training can resume from, by what their proofs say of them.

A checkpoint is a file with weights and an optimizer's state, or a directory that has both in separate files. Of each
training only its newest one counts: of the files beside each other, or of the directories, as of ``checkpoint-N``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mlsync.formats.groups.huggingface import is_trainers_directory
from mlsync.formats.groups.megatron import is_megatron_directory
from mlsync.formats.groups.names import enclosing, is_named_for_all
from mlsync.formats.groups.trainer_saves import is_accelerates
from mlsync.formats.logs.trainer_logs import STATE_NAME
from mlsync.repository.manifest import Entry
from mlsync.values import Fact, Proof
from mlsync.versions.incomplete import INCOMPLETE

_Proved = tuple[Entry, Proof]
ULTRALYTICS: Final = "ultralytics"
OPTIMIZER_ALONE: Final = "huggingface-optimizer"
_NUMBER: Final = re.compile(rb"(\d{1,18})$")
_STEPS: Final = frozenset({"huggingface-trainer", "deepspeed", "megatron", "dcp"})
_DCP: Final = frozenset({"dcp", "dcp-metadata", "dcp-rank-metadata"})
# The names that trainers give a copy of their newest checkpoint
_LAST: Final = re.compile(rb"(last|latest)\b.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Resumable:
    """A checkpoint that training can resume from: a file, or a directory of several.

    *kind* is "ultralytics", "huggingface-trainer", "lightning", "accelerate", "deepspeed", "megatron", "dcp", "torch",
    "safetensors", the name of another framework, or "several-files".
    """

    kind: str
    path: bytes
    epoch: Fact | None = None
    step: Fact | None = None
    is_complete: bool = True
    mtime_ns: int = 0


def resumables(entries: Iterable[Entry]) -> list[Resumable]:
    """Return the checkpoint that each training in a version can resume from, the newest training first."""
    entries = list(entries)
    proved = [(entry, entry.proof) for entry in entries if entry.proof is not None and not entry.proof.is_broken]
    states = {_place(entry.path) for entry in entries if _name(entry.path) == STATE_NAME}
    best: dict[tuple[str, bytes], Resumable] = {}
    for one in (*_files(proved, states), *_directories(proved, states)):
        training = (one.kind, _parent(one.path))
        if training not in best or _rank(one) > _rank(best[training]):
            best[training] = one
    return sorted(best.values(), key=lambda one: (-one.mtime_ns, one.path))


def has_weights(facts: Mapping[str, Fact]) -> bool:
    """Return whether a file has parameters, by the facts of its proof."""
    count = facts.get("parameter_count")
    return isinstance(count, int) and count > 0


def _rank(one: Resumable) -> tuple[bool, bool, float, float, bool, int, bytes]:
    """Order the checkpoints of one training, the one to resume from last."""
    is_last = _LAST.fullmatch(_name(one.path)) is not None
    # What Ultralytics keeps of single epochs may be of an earlier training in that directory.
    is_current = is_last and one.kind == ULTRALYTICS
    return one.is_complete, is_current, _number(one.step), _number(one.epoch), is_last, one.mtime_ns, one.path


def _files(proved: Sequence[_Proved], states: set[bytes]) -> Iterator[Resumable]:
    """Yield the checkpoints whose proof says by itself that training can resume from them.

    Ultralytics strips one file after the other when training ends, and never those of ``save_period``: for a moment, or
    for good, an older checkpoint that is not stripped is beside a stripped last.pt, and nobody would resume from it.
    """
    ended = {
        _parent(entry.path)
        for entry, proof in proved
        if proof.facts.get("framework") == ULTRALYTICS and not proof.facts.get("resumable")
    }
    for entry, proof in proved:
        framework = proof.facts.get("framework")
        if proof.facts.get("resumable") is not True or framework == OPTIMIZER_ALONE:
            continue
        if framework == ULTRALYTICS and _parent(entry.path) in ended:
            continue
        place = _place(entry.path)
        if is_named_for_all(place) and (place in states or not is_trainers_directory(_name(place))):
            yield _directory(place, [(entry, proof)], states)
        elif proof.container in _DCP:
            yield _directory(_parent(entry.path), [(entry, proof)], states)
        else:
            yield _of(_kind_of_file(proof), entry.path, [(entry, proof)])


def _kind_of_file(proof: Proof) -> str:
    framework = str(proof.facts.get("framework", ""))
    if not proof.facts.get("parameter_count", 1):
        return "several-files"  # the weights are elsewhere
    if framework in (ULTRALYTICS, "lightning"):
        return framework
    if proof.container.startswith("torch-"):
        return "torch"
    return "safetensors" if proof.container == "safetensors" else framework or proof.container


def _directories(proved: Sequence[_Proved], states: set[bytes]) -> Iterator[Resumable]:
    """Yield the directories that have weights and an optimizer's state in separate files.

    Hugging Face's trainer and accelerate write them so; the trainer cannot resume without its ``trainer_state.json``.
    """
    places: dict[bytes, list[_Proved]] = {}
    for entry, proof in proved:
        # A stripped file lacks its optimizer on purpose, even beside files that have one.
        if proof.facts.get("framework") != ULTRALYTICS:
            places.setdefault(_place(entry.path), []).append((entry, proof))
    for place, held in places.items():
        has_optimizer = any(proof.facts.get("has_optimizer") is True for _, proof in held)
        holds_weights = any(has_weights(proof.facts) for _, proof in held)
        is_trainers = is_trainers_directory(_name(place))
        is_one_file = any(proof.facts.get("resumable") is True and has_weights(proof.facts) for _, proof in held)
        if has_optimizer and holds_weights and not is_one_file and (place in states or not is_trainers):
            yield _directory(place, held, states)


def _directory(place: bytes, held: list[_Proved], states: set[bytes]) -> Resumable:
    name = _name(place)
    if place in states and is_trainers_directory(name):
        kind = "huggingface-trainer"
    elif is_named_for_all(place) and not is_trainers_directory(name):
        kind = "megatron" if is_megatron_directory(name) else "deepspeed"
    elif any(proof.container in _DCP for _, proof in held):
        kind = "dcp"
    else:
        is_accelerate = is_accelerates(_name(entry.path) for entry, _ in held)
        kind = "accelerate" if is_accelerate else "several-files"
    # Other names count saves, or anything.
    number = _NUMBER.search(name) if kind in _STEPS else None
    return _of(kind, place, held, step=int(number[1]) if number else None)


def _of(kind: str, path: bytes, held: list[_Proved], step: Fact | None = None) -> Resumable:
    facts: dict[str, Fact] = {}
    for _, proof in held:
        facts |= {name: proof.facts[name] for name in ("epoch", "step") if name in proof.facts}
    found = [finding.what for _, proof in held for finding in proof.findings]
    return Resumable(
        kind,
        path,
        epoch=facts.get("epoch"),
        step=facts.get("step") if step is None else step,
        is_complete=not any(what.startswith(INCOMPLETE) for what in found),
        mtime_ns=max(entry.mtime_ns for entry, _ in held),
    )


def _place(path: bytes) -> bytes:
    """Return the directory that a file is in, or the outermost above it that is one checkpoint by its name."""
    return enclosing(_parent(path))


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def _name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _number(fact: Fact | None) -> float:
    return fact if isinstance(fact, (int, float)) else -1
