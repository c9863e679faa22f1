"""What ranks of DeepSpeed and Megatron wrote, a file or directory each, and the files that name the newest save."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from mlsync.formats.groups.tree import Tree, Unit, join, missing_rank, shown, unit_of

_DEEPSPEED: Final = re.compile(
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
_DEEPSPEED_TAG: Final = re.compile(rb"global_step(\d{1,18})")
_DEEPSPEED_TRACKER: Final = b"latest"
_MEGATRON: Final = re.compile(rb"iter_(\d{7,18})")
_MEGATRON_RANK: Final = re.compile(rb"mp_rank_(\d{2,9})(?:_(\d{3,9}))?(?:_(\d{3,9}))?")
_MEGATRON_TRACKER: Final = b"latest_checkpointed_iteration.txt"
_NUMBER: Final = re.compile(rb"\d{1,18}")


def is_ranks_directory(name: bytes) -> bool:
    """Whether a directory of this name is one of DeepSpeed's or of Megatron's saves."""
    return bool(_DEEPSPEED_TAG.fullmatch(name) or _MEGATRON.fullmatch(name))


def is_tracker(path: bytes) -> bool:
    """Whether a file says of directories beside it which of them are whole."""
    return path.rpartition(b"/")[2] in (_DEEPSPEED_TRACKER, _MEGATRON_TRACKER)


def pointers(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """Files that name the save to go on from, and name one of which nothing is there."""
    for tracker, named in (
        (_DEEPSPEED_TRACKER, _tag_named(tree, directory)),
        (_MEGATRON_TRACKER, _iteration_named(tree, directory)),
    ):
        if named is not None and join(directory, named) not in tree.directories:
            lacking = f"{shown(tracker)} names {shown(named)}, which is not there"
            yield unit_of("pointer", join(directory, named), [join(directory, tracker)], lacking)


def _tag_named(tree: Tree, directory: bytes) -> bytes | None:
    """The directory that ``latest`` names, if it is called as DeepSpeed calls its own."""
    word = tree.read_word(join(directory, _DEEPSPEED_TRACKER))
    return word if _DEEPSPEED_TAG.fullmatch(word) else None


def _iteration_named(tree: Tree, directory: bytes) -> bytes | None:
    """The directory that Megatron's tracker names; other words than a number, as "release", name none of these."""
    word = tree.read_word(join(directory, _MEGATRON_TRACKER))
    return b"iter_%07d" % int(word) if _NUMBER.fullmatch(word) else None


# ---------------------------------------------------------------- DeepSpeed


def deepspeed(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """A tag of DeepSpeed: a file of each rank, and beside the directory the name of the newest."""
    names = tree.directories[directory]
    found = [match for match in map(_DEEPSPEED.fullmatch, names) if match]
    if not found:
        return
    lacking = _check_ranks(found) or _check_experts(names) or _check_layers(names) or _check_latest(tree, directory)
    empty = min((name for name in names if name.endswith(b"_states.pt") and not names[name]), default=None)
    if lacking is None and empty is not None:
        lacking = f"{shown(empty)} is empty"
    parent, _, tag = directory.rpartition(b"/")
    tracker = join(parent, _DEEPSPEED_TRACKER)
    is_named = bool(tag) and tree.read_word(tracker) == tag
    unit = unit_of("deepspeed", directory, tree.below(directory), lacking)
    yield unit._replace(pointer=tracker if is_named else None)


def data_rank_count(members: Iterable[bytes]) -> int:
    """How many data-parallel ranks of DeepSpeed wrote files of their own, by the names of these."""
    matches = (_DEEPSPEED.fullmatch(path.rpartition(b"/")[2]) for path in members)
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
    """The experts of each layer are counted from zero, and each has a file of every rank that has one of its layer."""
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
    """Where a layer is in parts, it has as many as the others; layers without weights leave gaps in the numbers."""
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
    """The file ``latest`` beside a tag is written when all ranks are done; it may name a newer one by now."""
    parent, _, tag = directory.rpartition(b"/")
    own = _DEEPSPEED_TAG.fullmatch(tag)
    path = join(parent, _DEEPSPEED_TRACKER)
    if path not in tree.files:
        return "'latest' is missing"
    newest = _DEEPSPEED_TAG.fullmatch(tree.read_word(path))
    if own is not None and newest is not None and int(newest[1]) < int(own[1]):
        return f"'latest' still names global_step{int(newest[1])}"
    return None


# ---------------------------------------------------------------- Megatron


def megatron(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """An ``iter_N`` of Megatron, with the tracker beside it that is written last."""
    parent, _, name = directory.rpartition(b"/")
    match = _MEGATRON.fullmatch(name)
    if match is None:
        return
    names, folders = tree.directories[directory], tree.folders(directory)
    ranks = [found for found in map(_MEGATRON_RANK.fullmatch, folders) if found]
    if not ranks and not names.keys() & {b"metadata.json", b".metadata"}:
        return
    lacking = _check_rank_folders(tree, directory, ranks) if ranks else _check_described(tree, directory)
    lacking = lacking or _check_tracker(tree, parent, int(match[1]))
    is_named = _iteration_named(tree, parent) == name
    unit = unit_of("megatron", directory, tree.below(directory), lacking)
    yield unit._replace(pointer=join(parent, _MEGATRON_TRACKER) if is_named else None)


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
    path = join(parent, _MEGATRON_TRACKER)
    if path not in tree.files:
        return f"{shown(_MEGATRON_TRACKER)} is missing"
    newest = tree.read_word(path)
    if _NUMBER.fullmatch(newest) and int(newest) < iteration:
        return f"{shown(_MEGATRON_TRACKER)} still names {int(newest)}"
    return None
