"""Checkpoints of Hugging Face: weights in numbered files with an index, and the trainer's ``checkpoint-N``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from mlsync.formats.groups.trainer_saves import (
    is_accelerates,
)
from mlsync.formats.groups.tree import Tree, Unit, join, missing_rank, shown, unit_of

_COUNT_MAX = 1 << 63
_INDEX = re.compile(rb".*\.(safetensors|bin)\.index\.json", re.DOTALL)
_NUMBERED = re.compile(rb"(?P<stem>.+)-(\d{5})-of-(\d{5})\.(?P<suffix>safetensors|bin)", re.DOTALL)
_SPLIT = re.compile(rb"shard-\d{5}-(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.safetensors", re.DOTALL)
_TRAINER = re.compile(rb"checkpoint-(\d{1,18})")
_TRAINER_WEIGHTS = re.compile(
    rb"(model|adapter_model)\.safetensors|(pytorch_model|adapter_model|pytorch_model_fsdp)\.bin"
    rb"|(model.*\.safetensors|pytorch_model.*\.bin)\.index\.json",
    re.DOTALL,
)
_TRAINER_FILES = frozenset({b"trainer_state.json", b"training_args.bin", b"optimizer.pt", b"scheduler.pt"})
_SENTINEL = b"checkpoint-is-incomplete.txt"
_RANDOM_STATE = re.compile(rb"rng_state_(\d{1,9})\.pth")


def is_trainers_directory(name: bytes) -> bool:
    """Return whether a directory of this name is a checkpoint of Hugging Face's trainer."""
    return _TRAINER.fullmatch(name) is not None


def indexed_weights(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """Weights in numbered files, with the index that is written last."""
    names = tree.directories[directory]
    numbered: dict[tuple[bytes, bytes], set[bytes]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match and not name.startswith(b"shard-"):  # parts of torch's writer, which have no index
            numbered.setdefault((match["stem"], match["suffix"]), set()).add(name)
    for index in [name for name in names if _INDEX.fullmatch(name)]:
        lacking, shards = _check_index(tree, directory, index)
        stem, suffix = index.removesuffix(b".index.json").rsplit(b".", 1)
        shards |= numbered.pop((stem, suffix), set()) | {index}
        members = (join(directory, name) for name in shards & names.keys())
        yield unit_of("huggingface-weights", directory, members, lacking)
    for (stem, suffix), shards in numbered.items():
        if shards != {stem + b"-00001-of-00001." + suffix}:
            lacking = f"{shown(stem + b'.' + suffix + b'.index.json')} is missing"
            yield unit_of("huggingface-weights", directory, (join(directory, name) for name in shards), lacking)


def split_weights(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """Yield the weights that each rank wrote with torch's writer for Hugging Face; no file describes them."""
    found: dict[tuple[bytes, bytes], list[bytes]] = {}
    for name in tree.directories[directory]:
        match = _SPLIT.fullmatch(name)
        if match:
            found.setdefault((match["stem"], match["count"]), []).append(join(directory, name))
    for members in found.values():
        yield unit_of("huggingface-shards", directory, members, None)


def _check_index(tree: Tree, directory: bytes, index: bytes) -> tuple[str | None, set[bytes]]:
    """Return what is missing according to an index, and the files that it names."""
    about = tree.read_json(join(directory, index))
    weights = about.get("weight_map") if about is not None else None
    if not isinstance(weights, dict) or not weights:
        return f"{shown(index)} does not parse", set()
    names: set[bytes] = set()
    for value in weights.values():
        name = _encoded(value)
        if name is None:
            return f"{shown(index)} names files that are not beside it", names
        names.add(name)
    held = tree.directories[directory]
    missing = min(names - held.keys(), default=None)
    if missing is not None:
        return f"{shown(missing)} is missing", names
    total = about.get("metadata") if about is not None else None
    total_bytes = total.get("total_size") if isinstance(total, dict) else None
    held_bytes = sum(held[name] for name in names)
    if type(total_bytes) is int and held_bytes < total_bytes < _COUNT_MAX:
        return f"files of {shown(index)} have {held_bytes} bytes, {total_bytes} are needed", names
    return None, names


def _encoded(value: object) -> bytes | None:
    """Return the file system's name for a file beside another; ``None`` if the text is no such name."""
    if not isinstance(value, str) or "/" in value:
        return None
    try:
        return os.fsencode(value)
    except UnicodeEncodeError:
        return None


def trainer(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """Yield a ``checkpoint-N`` of Hugging Face's trainer."""
    match = _TRAINER.fullmatch(directory.rpartition(b"/")[2])
    names = tree.directories[directory]
    weights = {name for name in names if _TRAINER_WEIGHTS.fullmatch(name)}
    if is_accelerates(names):
        return  # as scripts of diffusers call these too
    if match and (weights or _SENTINEL in names or not _TRAINER_FILES.isdisjoint(names)):
        lacking = next(_trainer_lacks(tree, directory, int(match[1]), weights), None)
        yield unit_of("huggingface-trainer", directory, tree.below(directory), lacking)


def _trainer_lacks(tree: Tree, directory: bytes, step: int, weights: set[bytes]) -> Iterator[str]:
    names = tree.directories[directory]
    if _SENTINEL in names:
        yield f"{shown(_SENTINEL)} says that it was not finished"
    if b"trainer_state.json" not in names:
        yield "'trainer_state.json' is missing"
    state = tree.read_json(join(directory, b"trainer_state.json"))
    if state is None:
        yield "'trainer_state.json' does not parse"
    elif state.get("global_step") != step:
        yield f"'trainer_state.json' is of another step than {step}"
    yield from (f"{shown(name)} is empty" for name in sorted(weights) if not names[name])
    folders = tree.folders(directory)
    if not weights and not any(name.startswith((b"global_step", b"pytorch_model_fsdp")) for name in folders):
        yield "there are no weights"
    missing = missing_rank(
        {int(match[1]) for match in map(_RANDOM_STATE.fullmatch, names) if match}, "rng_state_{}.pth"
    )
    if missing is not None:
        yield missing
