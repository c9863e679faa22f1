"""Saves of DeepSpeed: a directory with files of each rank (a tag), and ``latest`` beside it, which names the newest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from mlsync.formats.groups.tree import Tree, Unit, join, missing_rank, missing_save, shown, unit_of

_STATES: Final = re.compile(
    rb"(?P<kind>(?:bf16_|fp16_)?(?:zero_pp_rank_(?P<data>\d{1,9})_)?)mp_rank_(?P<model>\d{1,9})_(?P<what>model|optim)_states\.pt"
)
# Of a mixture of experts; without a layer's number by older ones
_EXPERT: Final = re.compile(
    rb"(?P<group>layer_\d{1,9}_)?expert_(?P<one>\d{1,9})_mp_rank_(?P<rank>\d{1,9})_model_states\.pt"
)
_EXPERTS_OPTIMIZER: Final = re.compile(
    rb"(?P<group>)expp_rank_(?P<one>\d{1,9})_mp_rank_(?P<rank>\d{1,9})_optim_states\.pt"
)
# Of a model in a pipeline: each layer's file, where tensors are split one of each part
_LAYER: Final = re.compile(rb"layer_(?P<layer>\d{1,9})-(?:model_(?P<rank>\d{1,9})-)?model_states\.pt")
_TAG: Final = re.compile(rb"global_step(\d{1,18})")
_TRACKER: Final = b"latest"


def is_deepspeed_tag(name: bytes) -> bool:
    """Return whether a directory of this name is a save of DeepSpeed."""
    return _TAG.fullmatch(name) is not None


def is_deepspeed_tracker(name: bytes) -> bool:
    """Return whether a file of this name says which save of DeepSpeed is the newest."""
    return name == _TRACKER


def missing_tag(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """Yield the save that ``latest`` names, if its directory is not there."""
    yield from missing_save(tree, directory, _TRACKER, _tag_named(tree, directory))


def _tag_named(tree: Tree, directory: bytes) -> bytes | None:
    """Return the directory that ``latest`` names, if it has the form of DeepSpeed's names."""
    word = tree.read_word(join(directory, _TRACKER))
    return word if _TAG.fullmatch(word) else None


def deepspeed(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """Yield a tag of DeepSpeed: the files of each rank, and ``latest`` beside the directory."""
    names = tree.directories[directory]
    found = [match for match in map(_STATES.fullmatch, names) if match]
    if not found:
        return
    lacking = _check_ranks(found) or _check_experts(names) or _check_layers(names) or _check_latest(tree, directory)
    empty = min((name for name in names if name.endswith(b"_states.pt") and not names[name]), default=None)
    if lacking is None and empty is not None:
        lacking = f"{shown(empty)} is empty"
    parent, _, tag = directory.rpartition(b"/")
    tracker = join(parent, _TRACKER)
    is_named = bool(tag) and tree.read_word(tracker) == tag
    unit = unit_of("deepspeed", directory, tree.below(directory), lacking)
    yield unit._replace(pointer=tracker if is_named else None)


def data_rank_count(members: Iterable[bytes]) -> int:
    """Return how many data-parallel ranks of DeepSpeed wrote files of their own, by the names of these."""
    matches = (_STATES.fullmatch(path.rpartition(b"/")[2]) for path in members)
    return len({match["data"] for match in matches if match and match["data"] is not None})


def _check_ranks(found: Iterable[re.Match[bytes]]) -> str | None:
    """Model and data ranks are counted from zero without a gap; all kinds of files are there for the same ranks."""
    groups: dict[tuple[bytes, bytes], dict[int, set[int]]] = {}
    for match in found:
        group = match["what"], re.sub(rb"\d+", b"N", match["kind"])
        groups.setdefault(group, {}).setdefault(int(match["model"]), set()).add(int(match["data"] or 0))
    if not any(what == b"model" for what, _ in groups):
        return "there are no model states"
    models = set().union(*groups.values())
    split = [data for (_, kind), by_model in groups.items() if kind for data in by_model.values()]
    datas = set().union(*split)
    for (what, kind), by_model in groups.items():
        missing = missing_rank(models, "mp_rank_{:02}") or missing_rank(set(by_model), "mp_rank_{:02}", models)
        for model, held in by_model.items():
            expected = datas if kind else {0}
            missing = missing or missing_rank(held, f"zero_pp_rank_{{}} of mp_rank_{model:02}", expected)
        if missing is not None:
            return f"{what.decode()} states: {missing}"
    return missing_rank(datas, "zero_pp_rank_{}")


def _check_experts(names: Iterable[bytes]) -> str | None:
    """Return what is missing: an expert in a layer's sequence from zero, or an expert's file of one rank."""
    for pattern, what in ((_EXPERT, "expert"), (_EXPERTS_OPTIMIZER, "expp_rank")):
        groups: dict[bytes, dict[int, set[int]]] = {}
        for match in filter(None, map(pattern.fullmatch, names)):
            experts = groups.setdefault(match["group"] or b"", {})
            experts.setdefault(int(match["one"]), set()).add(int(match["rank"]))
        for group, experts in sorted(groups.items()):
            ranks = set().union(*experts.values())
            missing = missing_rank(set(experts), f"{group.decode()}{what}_{{}}")
            for expert, held in sorted(experts.items()):
                missing = missing or missing_rank(held, f"{group.decode()}{what}_{expert}_mp_rank_{{:02}}", ranks)
            if missing is not None:
                return missing
    return None


def _check_layers(names: Iterable[bytes]) -> str | None:
    """Return what is missing: a part of a layer, if others have more. Layers without weights leave gaps."""
    layers: dict[int, set[int]] = {}
    for match in filter(None, map(_LAYER.fullmatch, names)):
        layers.setdefault(int(match["layer"]), set()).add(int(match["rank"] or 0))
    ranks = set().union(*layers.values())
    for layer, held in sorted(layers.items()):
        missing = missing_rank(held, f"layer_{layer:02}-model_{{:02}}", ranks)
        if missing is not None:
            return missing
    return None


def _check_latest(tree: Tree, directory: bytes) -> str | None:
    """Return what is wrong with ``latest``, which is written after all ranks are done and may name a newer tag."""
    parent, _, tag = directory.rpartition(b"/")
    own = _TAG.fullmatch(tag)
    path = join(parent, _TRACKER)
    if path not in tree.files:
        return "'latest' is missing"
    newest = _TAG.fullmatch(tree.read_word(path))
    if own is not None and newest is not None and int(newest[1]) < int(own[1]):
        return f"'latest' still names global_step{int(newest[1])}"
    return None
