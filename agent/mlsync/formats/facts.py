"""What a checkpoint is, in a few plain values: framework, epoch, step, size, and whether training can go on from it."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from math import prod

from mlsync.formats.faults import read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Fact, Number
from mlsync.formats.pickles.machine import Call, Global, Pairs
from mlsync.formats.roles import MODEL_ROOTS, is_optimizers, roles_of, root_of
from mlsync.formats.torch.tensors import ITEM_BYTES, StorageTable, is_tensor_call, rebuilt_call, tensor_view

#: How many data-parallel ranks of DeepSpeed each write files of their own.
DATA_RANKS = "data_rank_count"
_TEXT_CHARS_MAX = 200
_NUMBER_CHARS_MAX = 40
_NUMBER_MAX = 1 << 63
# How trainers call what they count, the most telling name first
_EPOCH_KEYS = ("epoch", "current_epoch", "cur_epoch", "epochs_run", "epoch_num", "epoch_idx")
_STEP_KEYS = (
    *("step", "global_step", "global_steps", "iteration", "iter_num", "iter", "steps", "iterations"),
    *("num_updates", "current_step", "train_step", "train_steps"),
)
_NUMBER_KEYS = {"epoch": _EPOCH_KEYS, "step": _STEP_KEYS, "best_fitness": ("best_fitness",)}
# Where they put it, if not at the top
_ABOUT = ("meta", "metadata", "progress", "train_state", "training_state", "trainer_state", "trainer", "extra_state")
_OPTIMIZER_STATE = frozenset({"state", "param_groups"})
# Settings of an optimizer, and no state of it
_SETTINGS = ("name", "type", "class", "cls", "args", "kwargs", "config", "cfg", "params", "conf")
# An optimizer's state lies this deep at most, in containers of no more parts; no more objects are looked at in all.
_DEPTH_MAX = 4
_PARTS_MAX = 1000
_LOOKS_MAX = 20_000
NUMBER_WORDS = frozenset(word for words in _NUMBER_KEYS.values() for word in words)
_NUMPY_SCALARS = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i"}
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
    """The facts that the root object tells by itself."""
    keys = _top_level(root)
    facts: dict[str, Fact] = {"framework": _framework(keys)}
    for name, values in _counted(keys):
        number = next((number for number in map(_number, values) if number is not None), None)
        if number is not None:
            facts[name] = number
    version = keys.get("version") if facts["framework"] == "ultralytics" else keys.get("pytorch-lightning_version")
    if isinstance(version, str):
        facts["framework_version"] = version[:_TEXT_CHARS_MAX]
    if (ranks := _data_ranks(keys)) is not None:
        facts[DATA_RANKS] = ranks
    has_optimizer = _has_optimizer(root, keys)
    facts["has_optimizer"] = has_optimizer
    facts["resumable"] = has_optimizer and (facts["framework"] != "ultralytics" or _ultralytics_resumes(keys, facts))
    return facts


def _data_ranks(keys: dict[str, object]) -> int | None:
    """How many data-parallel ranks DeepSpeed says that there were, but for a way in which few of them write (MiCS)."""
    ranks = keys.get("dp_world_size")
    settings = _top_level(_top_level(keys.get("ds_config")).get("zero_optimization"))
    if "ds_version" not in keys or type(ranks) is not int or not 0 < ranks < _NUMBER_MAX:
        return None
    return ranks if settings.get("mics_shard_size", -1) in (-1, None) else None


def torch_numbers(root: object, table: StorageTable) -> tuple[Number, ...]:
    """Where the numbers lie that are facts and that the trainer saved as tensors of one element."""
    return tuple(
        number
        for name, values in _counted(_top_level(root))
        if not any(_number(value) is not None for value in values)
        for number in [_first(_place(name, value, table) for value in values)]
        if number is not None
    )


def text_facts(texts: Mapping[str, str]) -> dict[str, Fact]:
    """The facts that a writer of tensors put down beside them, as texts: ``{"epoch": "3", "step": "70"}``."""
    found: dict[str, Fact] = {}
    for name, words in _NUMBER_KEYS.items():
        number = next((number for word in words if (number := _text_number(texts.get(word, ""))) is not None), None)
        if number is not None:
            found[name] = number
    return found


def with_numbers(source: ByteSource, content: Content) -> Content:
    """The content with those of its facts that are read from its tensors; a few bytes each."""
    facts = dict(content.facts)
    for fact, offset, kind in content.numbers:
        value = struct.unpack(kind, read_bounded(source, offset, struct.calcsize(kind), "number"))[0]
        if (number := _number(value)) is not None:
            facts[fact] = int(number) if fact in ("epoch", "step") and number == int(number) else number
    return replace(content, facts=facts)


def with_counts(content: Content) -> Content:
    """The content with what its tensors add to the facts: how many parameters, of which types."""
    dtypes: set[str] = set()
    floats: dict[str, int] = {}  # how many numbers of weights under each root
    for tensor, role in zip(content.tensors, roles_of(content.tensors), strict=True):
        dtypes.add(tensor.dtype)
        if role == "weight" and "float" in tensor.dtype:
            root = root_of(tensor.name)
            floats[root] = floats.get(root, 0) + prod(tensor.shape)
    facts = {
        **content.facts,
        "tensor_count": len(content.tensors),
        "parameter_count": min(_parameter_count(floats), _NUMBER_MAX),
        "dtypes": ",".join(sorted(dtypes))[:_TEXT_CHARS_MAX],
    }
    return replace(content, facts=facts)


def _parameter_count(floats: dict[str, int]) -> int:
    """How many numbers the model has that is used: what it is an average of is not counted beside it."""
    wanted = next((root for root in MODEL_ROOTS if floats.get(root)), None)
    if wanted is not None:
        return floats[wanted]
    trained = [count for root, count in floats.items() if "ema" not in root.lower().split("_")]
    return sum(trained or floats.values())


def _top_level(root: object) -> dict[str, object]:
    """The root's text keys; a key that comes twice means its last value, as it would when loaded."""
    if isinstance(root, Call):
        root = root.then and root.then.pairs
    if not isinstance(root, Pairs):
        return {}
    return {key: value for key, value in root.pairs() if isinstance(key, str)}


def _framework(keys: dict[str, object]) -> str:
    if "train_args" in keys and "ema" in keys:
        return "ultralytics"
    if "pytorch-lightning_version" in keys:
        return "lightning"
    if keys.keys() == _OPTIMIZER_STATE:
        return "huggingface-optimizer"
    return "plain"


# ---------------------------------------------------------------- what the trainer counts


def _counted(keys: dict[str, object]) -> Iterator[tuple[str, list[object]]]:
    """What may be the value of each fact that is a number, at the top before what lies below it."""
    places = [keys, *(_top_level(keys[about]) for about in _ABOUT if about in keys)]
    for name, words in _NUMBER_KEYS.items():
        yield name, [place[word] for place in places for word in words if word in place]


def _number(value: object) -> int | float | None:
    """A number that can be a fact, or ``None``."""
    if isinstance(value, Call):
        value = _numpy_scalar(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) and abs(value) < _NUMBER_MAX else None


def _text_number(text: str) -> int | float | None:
    """The number that a text is, if it can be a fact."""
    if len(text) > _NUMBER_CHARS_MAX or not text.isascii() or text != text.strip():
        return None
    try:
        return _number(int(text) if text.isdigit() else float(text))
    except ValueError:
        return None


def _place(fact: str, value: object, table: StorageTable) -> Number | None:
    """Where the one number of a tensor lies in the file, or ``None`` where it is no such tensor."""
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


# ---------------------------------------------------------------- can training go on


def _has_optimizer(root: object, keys: dict[str, object]) -> bool:
    """Whether an optimizer's state is there: by its name, or by how torch writes one, whatever its name."""
    dotted = {key.partition(".")[0] for key in keys if "." in key}  # a flat dict, as of distributed checkpoints
    if any(map(is_optimizers, dotted)):
        return True
    if any(is_optimizers(key) and not key.endswith(_SETTINGS) and _is_state(value) for key, value in keys.items()):
        return True
    return any(_is_optimizer_state(node) for node in _nodes(root))


def _is_state(value: object) -> bool:
    """Whether something may be an optimizer's state, or several of these, and is not empty."""
    if isinstance(value, Pairs) or not isinstance(value, (list, tuple)):
        return isinstance(value, Call) or (isinstance(value, Pairs) and bool(value))
    return any(isinstance(one, Call) or (isinstance(one, (list, tuple)) and one) for one in value[:_PARTS_MAX])


def _is_optimizer_state(node: object) -> bool:
    """Whether it is what ``state_dict`` of an optimizer gives; a large one is not, and may be met many times."""
    return isinstance(node, Pairs) and len(node) <= 2 * _PARTS_MAX and _texts(node) >= _OPTIMIZER_STATE


def _texts(node: Pairs) -> set[str]:
    return {key for key in node[::2] if isinstance(key, str)}


def _nodes(root: object) -> Iterator[object]:
    """The containers near the root, those above before those below; each once."""
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
    """What an object of a class has: its items and its attributes."""
    return (node.then.pairs, node.then.state) if isinstance(node, Call) and node.then is not None else ()


def _parts(node: object) -> list[object]:
    """What lies in a container, if that is not more than is looked at."""
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


def _numpy_scalar(call: Call) -> object:
    """The number in ``numpy.core.multiarray.scalar(dtype, bytes)``, which is how a numpy float is pickled."""
    if not isinstance(call.func, Global) or call.func.name != "scalar" or not call.func.module.startswith("numpy"):
        return None
    match call.args:
        case [Call(args=[str() as kind, *_]), raw]:
            pattern = _NUMPY_SCALARS.get(kind)
            data = _latin1_bytes(raw)
            if pattern is not None and data is not None and len(data) == struct.calcsize(pattern):
                return struct.unpack(pattern, data)[0]
    return None


def _latin1_bytes(raw: object) -> bytes | None:
    """Bytes, or the text that protocol 2 writes in their place."""
    if isinstance(raw, bytes):
        return raw
    if isinstance(raw, Call) and raw.args and isinstance(raw.args[0], str):
        return raw.args[0].encode("latin-1", "replace")
    return None
