"""What a checkpoint of torch is, by its object: framework, epoch, step, and whether training can go on from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

from mlsync.formats.layout import ContainerBroken, Number
from mlsync.formats.pickles.counts import count_candidates, counts_in, number_in, text_keys
from mlsync.formats.pickles.nodes import Call, Pairs
from mlsync.formats.roles import is_optimizers
from mlsync.formats.torch.tensors import ITEM_BYTES, StorageTable, is_tensor_call, rebuilt_call, tensor_view
from mlsync.values import Fact

_TEXT_CHARS_MAX = 200
_NUMBER_MAX = 1 << 63
#: The fact that says how many data-parallel ranks of DeepSpeed each write files of their own.
DATA_RANKS = "data_rank_count"
#: The fact that names the best checkpoint's file, beside the one that says so.
BEST_CHECKPOINT = "best_checkpoint"
_OPTIMIZER_STATE = frozenset({"state", "param_groups"})
# Settings of an optimizer, and no state of it
_SETTINGS = ("name", "type", "class", "cls", "args", "kwargs", "config", "cfg", "params", "conf")
# An optimizer's state lies this deep at most, in containers of no more parts; no more objects are looked at in all.
_DEPTH_MAX = 4
_PARTS_MAX = 1000
_LOOKS_MAX = 20_000
_TENSOR_NUMBERS = {
    "float64": "<d",
    "float32": "<f",
    "float16": "<e",
    "int64": "<q",
    "int32": "<i",
    "int16": "<h",
    "uint8": "<B",
}


def torch_facts(root: object) -> dict[str, Fact]:
    """Return the facts in the root object."""
    keys = text_keys(root)
    facts: dict[str, Fact] = {"framework": _framework(keys), **counts_in(root)}
    version = keys.get("version") if facts["framework"] == "ultralytics" else keys.get("pytorch-lightning_version")
    if isinstance(version, str):
        facts["framework_version"] = version[:_TEXT_CHARS_MAX]
    if (ranks := _data_ranks(keys)) is not None:
        facts[DATA_RANKS] = ranks
    if facts["framework"] == "lightning" and (best := _best_of_lightning(keys)) is not None:
        facts[BEST_CHECKPOINT] = best
    has_optimizer = _has_optimizer(root, keys)
    facts["has_optimizer"] = has_optimizer
    facts["resumable"] = has_optimizer and (facts["framework"] != "ultralytics" or _ultralytics_resumes(keys, facts))
    return facts


def _best_of_lightning(keys: dict[str, object]) -> str | None:
    """Return the name of the file that ``ModelCheckpoint`` counts as the best by the metric that it monitors."""
    for callback in map(text_keys, text_keys(keys.get("callbacks")).values()):
        path = callback.get("best_model_path")
        # Without a metric the best is the last one.
        if isinstance(callback.get("monitor"), str) and isinstance(path, str) and path:
            return path.rpartition("/")[2][:_TEXT_CHARS_MAX]
    return None


def _data_ranks(keys: dict[str, object]) -> int | None:
    """Return how many data-parallel ranks DeepSpeed recorded; ``None`` under MiCS, where only some of them write."""
    ranks = keys.get("dp_world_size")
    settings = text_keys(text_keys(keys.get("ds_config")).get("zero_optimization"))
    if "ds_version" not in keys or type(ranks) is not int or not 0 < ranks < _NUMBER_MAX:
        return None
    return ranks if settings.get("mics_shard_size", -1) in (-1, None) else None


def torch_numbers(root: object, table: StorageTable) -> tuple[Number, ...]:
    """Return the offsets of the facts that the trainer saved as tensors of one element."""
    return tuple(
        number
        for name, values in count_candidates(text_keys(root))
        if not any(number_in(value) is not None for value in values)
        for number in [_first(_place(name, value, table) for value in values)]
        if number is not None
    )


def _framework(keys: dict[str, object]) -> str:
    if "train_args" in keys and "ema" in keys:
        return "ultralytics"
    if "pytorch-lightning_version" in keys:
        return "lightning"
    if keys.keys() == _OPTIMIZER_STATE:
        return "huggingface-optimizer"
    return "plain"


def _place(fact: str, value: object, table: StorageTable) -> Number | None:
    """Return the offset of the number in a tensor of one element, or ``None`` for any other value."""
    call = rebuilt_call(value) if isinstance(value, Call) else None
    if call is None or not is_tensor_call(call):
        return None
    try:
        tensor = tensor_view(fact, call, table)
    except ContainerBroken:
        return None
    kind = _TENSOR_NUMBERS.get(tensor.dtype)
    at = table.offset_of(tensor)
    if kind is None or at is None or prod(tensor.shape) != 1:
        return None
    return Number(fact, at + tensor.first * ITEM_BYTES[tensor.dtype], kind)


def _first(numbers: Iterable[Number | None]) -> Number | None:
    return next((number for number in numbers if number is not None), None)


def _has_optimizer(root: object, keys: dict[str, object]) -> bool:
    """Return whether there is an optimizer's state, by its name or by the form of torch's ``state_dict``."""
    dotted = {key.partition(".")[0] for key in keys if "." in key}  # a flat dict, as of distributed checkpoints
    if any(map(is_optimizers, dotted)):
        return True
    if any(is_optimizers(key) and not key.endswith(_SETTINGS) and _is_state(value) for key, value in keys.items()):
        return True
    return any(_is_optimizer_state(node) for node in _nodes(root))


def _is_state(value: object) -> bool:
    """Return whether a value may be one or several optimizer states, and is not empty."""
    if isinstance(value, Pairs) or not isinstance(value, (list, tuple)):
        return isinstance(value, Call) or (isinstance(value, Pairs) and bool(value))
    return any(isinstance(one, Call) or (isinstance(one, (list, tuple)) and one) for one in value[:_PARTS_MAX])


def _is_optimizer_state(node: object) -> bool:
    """Return whether a node is an optimizer's ``state_dict``; large dicts are not, and may be met many times."""
    return isinstance(node, Pairs) and len(node) <= 2 * _PARTS_MAX and _texts(node) >= _OPTIMIZER_STATE


def _texts(node: Pairs) -> set[str]:
    return {key for key in node[::2] if isinstance(key, str)}


def _nodes(root: object) -> Iterator[object]:
    """Yield the containers near the root, those above before those below; each once."""
    seen: set[int] = set()
    level: list[object] = [root]
    looks = _LOOKS_MAX
    for _ in range(_DEPTH_MAX + 1):
        below: list[object] = []
        for node in level:
            if id(node) in seen or looks <= 0:
                continue
            seen.add(id(node))
            parts = _parts(node)
            looks -= 1 + len(parts)
            yield node
            below += [part for part in parts if isinstance(part, (Pairs, list, tuple, Call))]
        level = below


def _attributes(node: object) -> tuple[object, ...]:
    """Return what an object of a class has: its items and its attributes."""
    return (node.then.pairs, node.then.state) if isinstance(node, Call) and node.then is not None else ()


def _parts(node: object) -> list[object]:
    """Return the parts of a container, unless there are too many."""
    if isinstance(node, Call):
        return list(_attributes(node))
    if not isinstance(node, (list, tuple)) or len(node) > 2 * _PARTS_MAX:
        return []
    return list(node[1::2] if isinstance(node, Pairs) else node)


def _ultralytics_resumes(keys: dict[str, object], facts: dict[str, Fact]) -> bool:
    """Ultralytics strips its checkpoints when training ends: epoch -1, no optimizer, and no way back into training."""
    epoch = facts.get("epoch", -1)
    has_weights = keys.get("ema") is not None or keys.get("model") is not None
    return isinstance(epoch, int) and epoch >= 0 and has_weights
