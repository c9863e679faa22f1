"""Saves of Megatron-LM: an ``iter_N`` directory, and the tracker beside it that names the newest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from mlsync.formats.groups.tree import Tree, Unit, join, missing_save, shown, unit_of

_ITERATION: Final = re.compile(rb"iter_(\d{7,18})")
_RANK: Final = re.compile(rb"mp_rank_(\d{2,9})(?:_(\d{3,9}))?(?:_(\d{3,9}))?")
_TRACKER: Final = b"latest_checkpointed_iteration.txt"
_NUMBER: Final = re.compile(rb"\d{1,18}")


def is_megatron_directory(name: bytes) -> bool:
    """Return whether a directory of this name is a save of Megatron-LM."""
    return _ITERATION.fullmatch(name) is not None


def is_megatron_tracker(name: bytes) -> bool:
    """Return whether a file of this name says which save of Megatron-LM is the newest."""
    return name == _TRACKER


def missing_iteration(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """Yield the save that the tracker names, if its directory is not there."""
    yield from missing_save(tree, directory, _TRACKER, _iteration_named(tree, directory))


def _iteration_named(tree: Tree, directory: bytes) -> bytes | None:
    """Return the directory that Megatron's tracker names; ``None`` for a word that is no number, such as "release"."""
    word = tree.read_word(join(directory, _TRACKER))
    return b"iter_%07d" % int(word) if _NUMBER.fullmatch(word) else None


def megatron(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """Yield an ``iter_N`` of Megatron, with the tracker beside it that is written last."""
    parent, _, name = directory.rpartition(b"/")
    match = _ITERATION.fullmatch(name)
    if match is None:
        return
    names, folders = tree.directories[directory], tree.folders(directory)
    ranks = [found for found in map(_RANK.fullmatch, folders) if found]
    if not ranks and not names.keys() & {b"metadata.json", b".metadata"}:
        return
    lacking = _check_rank_folders(tree, directory, ranks) if ranks else _check_described(tree, directory)
    lacking = lacking or _check_tracker(tree, parent, int(match[1]))
    is_named = _iteration_named(tree, parent) == name
    unit = unit_of("megatron", directory, tree.below(directory), lacking)
    yield unit._replace(pointer=join(parent, _TRACKER) if is_named else None)


def _check_described(tree: Tree, directory: bytes) -> str | None:
    names = tree.directories[directory]
    for name in (b"metadata.json", b".metadata"):
        if name not in names:
            return f"{shown(name)} is missing"
    about = tree.read_json(join(directory, b"metadata.json"))
    if about is None:
        return "'metadata.json' does not parse"
    is_apart = about.get("common_backend") == "torch" and b"common.pt" not in names
    return "'common.pt' is missing" if is_apart else None


def _check_rank_folders(tree: Tree, directory: bytes, ranks: Sequence[re.Match[bytes]]) -> str | None:
    """Tensor, pipeline and expert ranks make a full grid, and each has the same files, none of them empty."""
    held = {tuple(int(part or 0) for part in match.groups()): match[0] for match in ranks}
    axes = [len({place[axis] for place in held}) for axis in range(3)]
    if any(place[axis] >= count for place in held for axis, count in enumerate(axes)):
        return "a rank's directory is missing"
    if len(held) != axes[0] * axes[1] * axes[2]:
        return f"{len(held)} directories of ranks are there, of {axes[0]} x {axes[1]} x {axes[2]}"
    files = {name: tree.directories[join(directory, name)] for name in held.values()}
    wanted = set().union(*files.values())
    if b"model_optim_rng.pt" not in wanted:
        return "'model_optim_rng.pt' is missing"
    for name, sizes in sorted(files.items()):
        lost = min((file for file in wanted if not sizes.get(file)), default=None)
        if lost is not None:
            return f"{shown(name + b'/' + lost)} is {'empty' if lost in sizes else 'missing'}"
    return None


def _check_tracker(tree: Tree, parent: bytes, iteration: int) -> str | None:
    path = join(parent, _TRACKER)
    if path not in tree.files:
        return f"{shown(_TRACKER)} is missing"
    newest = tree.read_word(path)
    if _NUMBER.fullmatch(newest) and int(newest) < iteration:
        return f"{shown(_TRACKER)} still names {int(newest)}"
    return None
