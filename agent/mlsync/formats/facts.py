"""What a checkpoint is, in a few plain values: framework, epoch, step, size, and whether training can go on from it."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from math import prod

from mlsync.formats.layout import Content, Fact
from mlsync.formats.pickle_machine import Call, Global, Pairs

_TEXT_CHARS_MAX = 200
_NUMBER_MAX = 1 << 63
_STEP_KEYS = ("step", "global_step", "global_steps", "iteration")
_MODEL_ROOTS = ("ema", "model", "state_dict", "model_state_dict", "module", "net")
_OPTIMIZER_ROOTS = ("optimizer", "param_groups", "state")
_NUMPY_SCALARS = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i"}


def torch_facts(root: object) -> dict[str, Fact]:
    """The facts that the root object tells by itself."""
    keys = _top_level(root)
    facts: dict[str, Fact] = {"framework": _framework(keys)}
    _put_number(facts, "epoch", keys.get("epoch"))
    _put_number(facts, "step", next((keys[key] for key in _STEP_KEYS if key in keys), None))
    _put_number(facts, "best_fitness", keys.get("best_fitness"))
    version = keys.get("version") if facts["framework"] == "ultralytics" else keys.get("pytorch-lightning_version")
    if isinstance(version, str):
        facts["framework_version"] = version[:_TEXT_CHARS_MAX]
    has_optimizer = _has_optimizer(keys)
    facts["has_optimizer"] = has_optimizer
    facts["resumable"] = has_optimizer and (facts["framework"] != "ultralytics" or _ultralytics_resumes(keys, facts))
    return facts


def with_counts(content: Content) -> Content:
    """The content with what its tensors add to the facts: how many parameters, of which types."""
    dtypes: set[str] = set()
    floats: dict[str, int] = {}  # how many numbers under each root
    for tensor in content.tensors:
        root = tensor.name.partition(".")[0]
        dtypes.add(tensor.dtype)
        floats[root] = floats.get(root, 0) + (prod(tensor.shape) if "float" in tensor.dtype else 0)
    wanted = next((root for root in _MODEL_ROOTS if root in floats), None)
    if wanted is not None:
        parameter_count = floats[wanted]
    else:
        parameter_count = sum(count for root, count in floats.items() if not root.startswith(_OPTIMIZER_ROOTS))
    facts = {
        **content.facts,
        "tensor_count": len(content.tensors),
        "parameter_count": min(parameter_count, _NUMBER_MAX),
        "dtypes": ",".join(sorted(dtypes))[:_TEXT_CHARS_MAX],
    }
    return replace(content, facts=facts)


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
    if keys.keys() == {"state", "param_groups"}:
        return "huggingface-optimizer"
    return "plain"


def _has_optimizer(keys: dict[str, object]) -> bool:
    if keys.keys() == {"state", "param_groups"}:
        return True
    return any(key.startswith("optimizer") and not _is_empty(value) for key, value in keys.items())


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, (Pairs, list, tuple)) and not value)


def _ultralytics_resumes(keys: dict[str, object], facts: dict[str, Fact]) -> bool:
    """Ultralytics strips its checkpoints when training ends: epoch -1, no optimizer, and no way back into training."""
    epoch = facts.get("epoch", -1)
    has_weights = keys.get("ema") is not None or keys.get("model") is not None
    return isinstance(epoch, int) and epoch >= 0 and has_weights


def _put_number(facts: dict[str, Fact], name: str, value: object) -> None:
    if isinstance(value, Call):
        value = _numpy_scalar(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if math.isfinite(value) and abs(value) < _NUMBER_MAX:
        facts[name] = value


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
