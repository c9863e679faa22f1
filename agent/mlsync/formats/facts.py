"""Facts about a checkpoint that do not depend on its format: counts of tensors, and the numbers that trainers count."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import replace
from math import prod

from mlsync.formats.faults import read_bounded
from mlsync.formats.layout import ByteSource, Content
from mlsync.formats.roles import MODEL_ROOTS, roles_of, root_of
from mlsync.values import Fact

_TEXT_CHARS_MAX = 200
_NUMBER_CHARS_MAX = 40
_NUMBER_MAX = 1 << 63
_EPOCH_KEYS = ("epoch", "current_epoch", "cur_epoch", "epochs_run", "epoch_num", "epoch_idx")
_STEP_KEYS = (
    *("step", "global_step", "global_steps", "iteration", "iter_num", "iter", "steps", "iterations"),
    *("num_updates", "current_step", "train_step", "train_steps"),
)
#: The names that trainers give each number, the most telling first.
NUMBER_KEYS = {"epoch": _EPOCH_KEYS, "step": _STEP_KEYS, "best_fitness": ("best_fitness",)}
#: All names under which trainers keep these numbers.
NUMBER_WORDS = frozenset(word for words in NUMBER_KEYS.values() for word in words)


def text_facts(texts: Mapping[str, str]) -> dict[str, Fact]:
    """Return the facts in the texts that a writer stored beside its tensors: ``{"epoch": "3", "step": "70"}``."""
    found: dict[str, Fact] = {}
    for name, words in NUMBER_KEYS.items():
        number = next((number for word in words if (number := _text_number(texts.get(word, ""))) is not None), None)
        if number is not None:
            found[name] = number
    return found


def with_numbers(source: ByteSource, content: Content) -> Content:
    """Return the content with the facts that are read from its tensors, a few bytes each."""
    facts = dict(content.facts)
    for fact, offset, kind in content.numbers:
        value = struct.unpack(kind, read_bounded(source, offset, struct.calcsize(kind), "number"))[0]
        if (number := number_fact(value)) is not None:
            facts[fact] = int(number) if fact in ("epoch", "step") and number == int(number) else number
    return replace(content, facts=facts)


def with_counts(content: Content) -> Content:
    """Return the content with the facts that its tensors give: how many parameters there are, and of which types."""
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
    """Return how many parameters the model has; beside its moving average, the trained weights do not count again."""
    wanted = next((root for root in MODEL_ROOTS if floats.get(root)), None)
    if wanted is not None:
        return floats[wanted]
    trained = [count for root, count in floats.items() if "ema" not in root.lower().split("_")]
    return sum(trained or floats.values())


def number_fact(value: object) -> int | float | None:
    """Return a number that can be a fact, else ``None``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) and abs(value) < _NUMBER_MAX else None


def _text_number(text: str) -> int | float | None:
    """Return the number that a text is, if it can be a fact."""
    if len(text) > _NUMBER_CHARS_MAX or not text.isascii() or text != text.strip():
        return None
    try:
        return number_fact(int(text) if text.isdigit() else float(text))
    except ValueError:
        return None
