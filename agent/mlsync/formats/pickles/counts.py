"""What trainers count (epoch, step, best fitness), found near the root of a pickle's graph."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mlsync.formats.facts import NUMBER_KEYS, number_fact
from mlsync.formats.pickles.nodes import Call, Global, Pairs
from mlsync.values import Fact

# The dicts in which trainers keep these numbers, if not at the top
_ABOUT = ("meta", "metadata", "progress", "train_state", "training_state", "trainer_state", "trainer", "extra_state")
_NUMPY_SCALARS = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i"}


def text_keys(root: object) -> dict[str, object]:
    """Return a dict's values by their text keys; of a repeated key the last value, as when it is loaded."""
    if isinstance(root, Call):
        root = root.then and root.then.pairs
    if not isinstance(root, Pairs):
        return {}
    return {key: value for key, value in root.pairs() if isinstance(key, str)}


def count_candidates(keys: dict[str, object]) -> Iterator[tuple[str, list[object]]]:
    """Yield each fact with the nodes that may be its value, those at the top before those below."""
    places = [keys, *(text_keys(keys[about]) for about in _ABOUT if about in keys)]
    for name, words in NUMBER_KEYS.items():
        yield name, [place[word] for place in places for word in words if word in place]


def counts_in(root: object) -> dict[str, Fact]:
    """Return the numbers that the trainer counted, as far as the object holds them: epoch, step, best fitness."""
    counts: dict[str, Fact] = {}
    for name, values in count_candidates(text_keys(root)):
        number = next((number for number in map(number_in, values) if number is not None), None)
        if number is not None:
            counts[name] = number
    return counts


def number_in(value: object) -> int | float | None:
    """Return the number that a node is, a scalar of numpy too, if it can be a fact."""
    return number_fact(_numpy_scalar(value) if isinstance(value, Call) else value)


def _numpy_scalar(call: Call) -> object:
    """Return the number in ``numpy.core.multiarray.scalar(dtype, bytes)``, which is how a numpy float is pickled."""
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
    """Return the bytes of a node; protocol 2 writes them as a text."""
    if isinstance(raw, bytes):
        return raw
    if isinstance(raw, Call) and raw.args and isinstance(raw.args[0], str):
        return raw.args[0].encode("latin-1", "replace")
    return None
