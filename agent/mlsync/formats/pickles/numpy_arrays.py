"""Arrays of numpy inside a pickle: whether they have as many bytes as they need, and whether they hold floats.

Their bytes are part of the pickle, usually as text, and go to no device. Integers, booleans and texts (the state of a
random generator, for example) have no NaN to count, so only their lengths are checked. The numbers of floats and of
unknown types stay unchecked.
"""

from __future__ import annotations

import re
from math import prod
from typing import Literal, TypeGuard

from mlsync.formats.layout import ContainerBroken
from mlsync.formats.pickles.nodes import Call, Global

#: none: the call makes no array. seen: nothing in it would be counted. aside: its numbers are not checked.
ArrayKind = Literal["none", "seen", "aside"]

_DTYPE = re.compile(r"([biufcSU])([0-9]{1,9})")
_UNCOUNTED = "biuSU"
_STATE_PARTS = 5  # version, shape, type, whether it is column by column, bytes
_BUFFER_ARGUMENTS = 4  # bytes, type, shape, order
_DIMENSIONS_MAX = 64
_SIZE_MAX = 1 << 63
_TEXT_WIDTH = 4  # bytes of a character of a text of numpy


def array_made_by(call: Call) -> ArrayKind:
    """Return what kind of array the call makes, if it does; one that lacks bytes is ``ContainerBroken``."""
    func = call.func
    if type(func) is not Global or not func.module.startswith("numpy"):
        is_hidden = type(func) is Global and func.module == "torch.storage" and func.name == "_load_from_bytes"
        return "aside" if is_hidden else "none"
    if func.name == "_reconstruct":
        state = call.then.state if call.then is not None else None
        if type(state) is not tuple or len(state) != _STATE_PARTS:
            return "aside"
        return _judged(shape=state[1], dtype=state[2], data=state[4])
    if func.name == "_frombuffer" and len(call.args) == _BUFFER_ARGUMENTS:
        return _judged(shape=call.args[2], dtype=call.args[1], data=call.args[0])
    return "none"


def _judged(*, shape: object, dtype: object, data: object) -> ArrayKind:
    match = _DTYPE.fullmatch(dtype_code(dtype)[0])
    held_bytes = _length(data)
    if match is None or held_bytes is None or not is_shape(shape):
        return "aside"
    kind, width = match[1], int(match[2]) * (_TEXT_WIDTH if match[1] == "U" else 1)
    needed = prod(shape) * width
    if needed != held_bytes:
        raise ContainerBroken(f"array in the pickle needs {needed} bytes, there are {held_bytes}")
    return "seen" if kind in _UNCOUNTED or not needed else "aside"


def dtype_code(dtype: object) -> tuple[str, str]:
    """Return numpy's code of the type (``f4``) and its byte order; both empty for what is no type."""
    if type(dtype) is not Call or type(dtype.func) is not Global or dtype.func.name != "dtype":
        return "", ""
    state = dtype.then.state if dtype.then is not None else None
    order = state[1] if type(state) is tuple and len(state) > 1 else ""
    code = dtype.args[0] if dtype.args else ""
    return code if isinstance(code, str) else "", order if isinstance(order, str) else ""


def _length(data: object) -> int | None:
    """Return how many bytes there are, or ``None`` where that cannot be told."""
    if type(data) is bytes:
        return len(data)
    if type(data) is Call and type(data.func) is Global:
        # Protocol 2 has no bytes: a text of which each character is one, or nothing at all
        if data.func.name == "encode" and data.args and type(data.args[0]) is str:
            return len(data.args[0])
        if data.func.name in ("bytes", "bytearray") and not data.args:
            return 0
    return None


def is_shape(shape: object) -> TypeGuard[tuple[int, ...]]:
    """Return whether a node is a shape of an array."""
    return (
        type(shape) is tuple
        and len(shape) <= _DIMENSIONS_MAX
        and all(type(size) is int and 0 <= size < _SIZE_MAX for size in shape)
    )
