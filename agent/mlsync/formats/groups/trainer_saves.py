"""Directories with one save each: accelerate, PEFT, torchtune, NeMo 2."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from mlsync.formats.groups.tree import Tree, Unit, join, missing_rank, shown, unit_of

#: What accelerate's main process writes last, and what a directory of NeMo 2 or torchtune has: all below is of one.
ACCELERATE_MARK: Final = b"random_states_0.pkl"
NEMO_MARKS: Final = (b"context/io.json", b"context/model.yaml")
TORCHTUNE_MARK: Final = b"recipe_state/recipe_state.pt"

_RANDOM_STATES: Final = re.compile(rb"random_states_(\d{1,9})\.pkl")
# The first one has no number
_NUMBERED_STATES: Final = (
    (re.compile(rb"optimizer(?:_(\d{1,9}))?\.bin"), "optimizer_{}.bin"),
    (re.compile(rb"scheduler(?:_(\d{1,9}))?\.bin"), "scheduler_{}.bin"),
    (re.compile(rb"sampler(?:_(\d{1,9}))?\.bin"), "sampler_{}.bin"),
    (re.compile(rb"model(?:_(\d{1,9}))?\.safetensors"), "model_{}.safetensors"),
    (re.compile(rb"pytorch_model(?:_(\d{1,9}))?\.bin"), "pytorch_model_{}.bin"),
)
_NO_WEIGHTS: Final = re.compile(
    rb"(optimizer|scheduler|sampler|dl_state_dict)(_\d{1,9})?\.bin|scaler\.pt|random_states_\d+\.pkl"
)
_WEIGHTS: Final = re.compile(rb".+\.(safetensors|bin|pt|pth|ckpt|distcp)", re.DOTALL)
_TRAINERS_OWN: Final = frozenset({b"trainer_state.json", b"training_args.bin", b"optimizer.pt", b"scheduler.pt"})
_ADAPTER: Final = re.compile(rb"adapter_(config\.json|model.*\.(safetensors|bin|pt))", re.DOTALL)
_ADAPTER_CONFIG: Final = b"adapter_config.json"
_EPOCH: Final = re.compile(rb"epoch_(\d{1,9})")
_UNFINISHED: Final = b"-unfinished"


def is_accelerates(names: Iterable[bytes]) -> bool:
    """Return whether ``save_state`` of accelerate wrote these files beside each other."""
    held = frozenset(names)
    if not _TRAINERS_OWN.isdisjoint(held):
        return False
    return any(map(_RANDOM_STATES.fullmatch, held)) or held >= {b"optimizer.bin", b"scheduler.bin"}


def accelerate(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """Yield what ``save_state`` wrote: weights, each optimizer and schedule, and the random states of each rank."""
    names = tree.directories[directory]
    if not is_accelerates(names):
        return
    yield unit_of("accelerate", directory, tree.below(directory), next(_accelerate_lacks(tree, directory), None))


def _accelerate_lacks(tree: Tree, directory: bytes) -> Iterator[str]:
    names = tree.directories[directory]
    files = (path.rpartition(b"/")[2] for path in tree.below(directory))
    if not any(_WEIGHTS.fullmatch(name) and not _NO_WEIGHTS.fullmatch(name) for name in files):
        yield "there are no weights"
    for pattern, name in _NUMBERED_STATES:
        numbers = {int(match[1] or 0) for match in map(pattern.fullmatch, names) if match}
        missing = missing_rank(numbers, name)
        if missing is not None:
            yield missing.replace("_0.", ".")
    ranks = {int(match[1]) for match in map(_RANDOM_STATES.fullmatch, names) if match}
    if not ranks:
        yield f"{shown(ACCELERATE_MARK)} is missing"
    missing = missing_rank(ranks, "random_states_{}.pkl")
    if missing is not None:
        yield missing
    yield from (f"{shown(name)} is empty" for name in sorted(names) if _WEIGHTS.fullmatch(name) and not names[name])


def peft(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """Yield an adapter of PEFT: its weights and its settings. Further adapters are in directories below."""
    names = tree.directories[directory]
    found = [name for name in names if _ADAPTER.fullmatch(name)]
    if found:
        members = [join(directory, name) for name in found]
        yield unit_of("peft", directory, members, next(_adapter_lacks(tree, directory, found), None))


def _adapter_lacks(tree: Tree, directory: bytes, found: list[bytes]) -> Iterator[str]:
    if found == [_ADAPTER_CONFIG]:
        yield "'adapter_model.safetensors' is missing"
    if _ADAPTER_CONFIG not in found:
        yield f"{shown(_ADAPTER_CONFIG)} is missing"
    elif tree.read_json(join(directory, _ADAPTER_CONFIG)) is None:
        yield f"{shown(_ADAPTER_CONFIG)} does not parse"
    yield from (f"{shown(name)} is empty" for name in found if not tree.directories[directory][name])


def torchtune(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """Yield an ``epoch_N`` of torchtune; the recipe's state beside it is written last, over the one before.

    The last epoch has none: that there is an older one says nothing.
    """
    parent, _, name = directory.rpartition(b"/")
    match = _EPOCH.fullmatch(name)
    state = join(parent, TORCHTUNE_MARK)
    if match is None or state not in tree.files:
        return
    members = tree.below(directory)
    weights = [path for path in members if _WEIGHTS.fullmatch(path)]
    lacking = next((f"{shown(path)} is empty" for path in weights if not tree.files[path]), None)
    if not weights:
        lacking = "there are no weights"
    others = (int(found[1]) for found in map(_EPOCH.fullmatch, tree.folders(parent)) if found)
    is_newest = int(match[1]) == max(others, default=-1)
    unit = unit_of("torchtune", directory, members, lacking)
    yield unit._replace(pointer=state if is_newest else None)


def nemo(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """Yield a directory of NeMo 2: a distributed checkpoint in ``weights``, and its configuration in ``context``.

    While it is written, and after a crash, a file beside it is called as it is, and "-unfinished".
    """
    if any(join(directory, mark) in tree.files for mark in NEMO_MARKS):
        yield unit_of("nemo", directory, tree.below(directory), next(_nemo_lacks(tree, directory), None))


def _nemo_lacks(tree: Tree, directory: bytes) -> Iterator[str]:
    marker = directory + _UNFINISHED
    if directory and marker in tree.files:
        yield f"{shown(marker.rpartition(b'/')[2])} says that it was not finished"
    weights = join(directory, b"weights")
    for name in (b"metadata.json", b".metadata"):
        if join(weights, name) not in tree.files:
            yield f"{shown(b'weights/' + name)} is missing"
    yield from (f"{shown(mark)} is missing" for mark in NEMO_MARKS if join(directory, mark) not in tree.files)
