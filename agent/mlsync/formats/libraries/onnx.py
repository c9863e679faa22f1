"""ONNX: a protobuf message of a graph whose initializers and constants are its tensors, or name where these lie.

There are no checksums. The message is walked from field to field, and the bytes of tensors are skipped, so that a file
of gigabytes costs its fields and leaves only its tensors' names and shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Final, NamedTuple

from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Extent, Layout, Storage, Tensor
from mlsync.formats.libraries.onnx_message import FIXED_BYTES, RAW_DATA, ModelWalk, OnnxTensor
from mlsync.formats.section import BytesSource
from mlsync.formats.strides import dense_stride
from mlsync.values import Fact

_BYTE_BITS: Final = 8

_STRING: Final = 8


class _Kind(NamedTuple):
    """A type of tensors: torch's name for it where there is one, and how many bits an element takes."""

    name: str
    bits: int


_KINDS: Final = {
    1: _Kind("float32", 32),
    2: _Kind("uint8", 8),
    3: _Kind("int8", 8),
    4: _Kind("uint16", 16),
    5: _Kind("int16", 16),
    6: _Kind("int32", 32),
    7: _Kind("int64", 64),
    9: _Kind("bool", 8),
    10: _Kind("float16", 16),
    11: _Kind("float64", 64),
    12: _Kind("uint32", 32),
    13: _Kind("uint64", 64),
    14: _Kind("complex64", 64),
    15: _Kind("complex128", 128),
    16: _Kind("bfloat16", 16),
    17: _Kind("float8_e4m3fn", 8),
    18: _Kind("float8_e4m3fnuz", 8),
    19: _Kind("float8_e5m2", 8),
    20: _Kind("float8_e5m2fnuz", 8),
    21: _Kind("uint4", 4),
    22: _Kind("int4", 4),
    23: _Kind("float4_e2m1fn_x2", 4),
    24: _Kind("float8_e8m0fnu", 8),
    25: _Kind("uint2", 2),
    26: _Kind("int2", 2),
}
# Two numbers in a row make one of these
_PAIRS: Final = frozenset({"complex64", "complex128"})


@dataclass(frozen=True, slots=True)
class OnnxLayout(Layout):
    """An ONNX file's layout, its tensors in file order, and what it says of itself."""

    described: tuple[OnnxTensor, ...] = ()
    facts: tuple[tuple[str, Fact], ...] = ()


def read_onnx_layout(source: ByteSource) -> OnnxLayout:
    """Return level 1: the message's fields fill the file exactly, those of its graph and its tensors fill these."""
    walk = ModelWalk(source)
    facts = walk.model()
    extents = tuple(
        Extent(tensor.name, tensor.offset, tensor.length)
        for tensor in walk.described
        if tensor.field == RAW_DATA or tensor.field in FIXED_BYTES
    )
    return OnnxLayout("onnx", source.size_bytes, extents, tuple(walk.described), tuple(facts.items()))


def read_onnx_content(layout: OnnxLayout) -> Content | None:
    """Return level 2: each tensor has as many numbers as its shape and type need; those in other files are counted."""
    storages: list[Storage] = []
    tensors: list[Tensor] = []
    aside = 0
    for tensor in layout.described:
        if tensor.kind == _STRING:
            continue
        kind = _KINDS.get(tensor.kind)
        if kind is None:
            raise NotChecked(f"tensor type {tensor.kind} is not known here", record=tensor.name, offset=tensor.offset)
        needed_bytes = _check_size(tensor, kind)
        if tensor.field == RAW_DATA or tensor.field in FIXED_BYTES:
            item_bytes = max(kind.bits // 8, 1)
            storages.append(Storage(tensor.name, tensor.offset, tensor.length, kind.name, item_bytes))
        elif needed_bytes:
            aside += 1
        else:
            storages.append(Storage(tensor.name, tensor.offset, 0, kind.name, 1))
        stride = dense_stride(tensor.name, tensor.shape)
        tensors.append(Tensor(tensor.name, tensor.name, kind.name, tensor.shape, stride, 0))
    facts: dict[str, Fact] = dict(layout.facts)
    if aside:
        facts["unchecked_tensor_count"] = aside
    return Content(tuple(storages), tuple(tensors), facts, aside_count=aside) if tensors else None


def _check_size(tensor: OnnxTensor, kind: _Kind) -> int:
    """Return how many bytes the tensor's shape and type need; ``ContainerBroken`` if it has another number of them."""
    elements = prod(tensor.shape)
    needed_bytes = (elements * kind.bits + 7) // 8
    external = tensor.external
    if external is not None:
        held_bytes, needed = external.length, needed_bytes
    elif tensor.field == RAW_DATA:
        held_bytes, needed = tensor.length, needed_bytes
    else:
        per_number = max(_BYTE_BITS // kind.bits, 1)  # small ones are packed, as they are in raw bytes
        held_bytes, needed = tensor.number_count, -(-elements // per_number) * (2 if kind.name in _PAIRS else 1)
    if held_bytes is not None and held_bytes != needed:
        unit = "bytes" if external is not None or tensor.field == RAW_DATA else "numbers"
        what = f"tensor needs {needed} {unit}, and has {held_bytes}"
        raise ContainerBroken(what, record=tensor.name, offset=tensor.offset)
    return needed_bytes


def read_external(data: bytes) -> dict[str, int]:
    """Return the files with a model's external tensors, and how many bytes each must have at least."""
    files: dict[str, int] = {}
    for tensor in read_onnx_layout(BytesSource(data)).described:
        kind = _KINDS.get(tensor.kind)
        if tensor.external is not None and kind is not None:
            end = tensor.external.offset + _check_size(tensor, kind)
            files[tensor.external.location] = max(end, files.get(tensor.external.location, 0))
    return files
