"""The safetensors container: a length, a JSON header, and tensors that cover the rest of the file exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from operator import itemgetter

from mlsync.formats.content_cache import CONTENT_CACHE, key_of
from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import UNKNOWN, ByteSource, ContainerBroken, Content, Extent, Layout, Storage, Tensor
from mlsync.formats.libraries.safetensors_header import (
    LENGTH_BYTES,
    MEANINGS_MAX,
    counted_facts,
    header_entries,
    read_header_json,
    refuse,
)
from mlsync.formats.roles import is_optimizers
from mlsync.formats.strides import TENSORS_BYTES_MAX, dense_stride, held_bytes
from mlsync.values import Fact

_PRODUCT_MAX = 1 << 64
# A smaller file is parsed as fast as it is looked up
_KEPT_MIN = 1000


# token -> torch's name and bits per element
_DTYPES = {
    "F64": ("float64", 64),
    "F32": ("float32", 32),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F6_E3M2": ("float6_e3m2", 6),
    "F6_E2M3": ("float6_e2m3", 6),
    "F4": ("float4_e2m1fn_x2", 4),
    "C64": ("complex64", 64),
    "I64": ("int64", 64),
    "I32": ("int32", 32),
    "I16": ("int16", 16),
    "I8": ("int8", 8),
    "U64": ("uint64", 64),
    "U32": ("uint32", 32),
    "U16": ("uint16", 16),
    "U8": ("uint8", 8),
    "BOOL": ("bool", 8),
}
_NO_TYPE = ("", 0)


@dataclass(frozen=True, slots=True)
class SafetensorsLayout(Layout):
    """The layout, with what the header says of the type and shape of each extent; *header* is a digest of all of it.

    *counted* is what the writer's texts say of epoch and step.
    """

    meanings: tuple[tuple[str | None, tuple[int, ...] | None], ...] = ()
    header: bytes = b""
    counted: Mapping[str, Fact] = field(default_factory=dict)


def read_safetensors_layout(source: ByteSource) -> SafetensorsLayout:
    """Return level 1: the header parses and its tensors cover the file, each byte once."""
    raw = read_header_json(source)
    data_at = LENGTH_BYTES + len(raw)
    entries = []
    about: list[bytes] = []
    for entry in header_entries(raw, about):
        if entry.begin < 0:
            raise ContainerBroken("tensor without a place in the file", record=entry.name, offset=LENGTH_BYTES)
        entries.append(entry)
    entries.sort(key=itemgetter(3, 4))
    extents = []
    covered = data_at
    for name, _, _, begin, end in entries:
        if data_at + begin != covered:
            refuse("tensors overlap or leave a gap", name, data_at + begin)
        extents.append(Extent(name, covered, end - begin))
        covered = data_at + end
    if covered != source.size_bytes:
        refuse(
            f"header tells of {covered} bytes, the file has {source.size_bytes}", None, min(covered, source.size_bytes)
        )
    meanings = tuple((entry.token, entry.shape) for entry in entries)
    return SafetensorsLayout(
        "safetensors", source.size_bytes, tuple(extents), meanings, key_of(raw), counted_facts(about)
    )


def read_safetensors_content(layout: SafetensorsLayout) -> Content:
    """Return level 2: each tensor's type and shape need exactly the bytes that it has."""
    if len(layout.extents) < _KEPT_MIN:
        return _content(layout)
    return CONTENT_CACHE.of(key_of(b"safetensors", layout.header), lambda: _content(layout))


def _content(layout: SafetensorsLayout) -> Content:
    storages, tensors = [], []
    left_bytes = TENSORS_BYTES_MAX
    strides: dict[tuple[int, ...], tuple[int, ...]] = {}
    for (name, offset, length, _, _), (token, shape) in zip(layout.extents, layout.meanings, strict=True):
        if shape is None:
            refuse("tensor without a shape", name, LENGTH_BYTES)
        if token is None:
            refuse("tensor without a type", name, offset)
        dtype, bits = _DTYPES.get(token, _NO_TYPE)
        if not bits:
            dtype = f"{UNKNOWN}{token[:32]}"
        elif _product(shape, name) * bits != length * 8:
            refuse(f"shape and type need {prod(shape) * bits // 8} bytes, there are {length}", name, offset)
        stride = strides.get(shape)
        if stride is None:
            stride = dense_stride(name, shape)
            if len(strides) < MEANINGS_MAX:
                strides[shape] = stride
        storages.append(Storage(name, offset, length, dtype, max(bits // 8, 1)))
        tensors.append(Tensor(name, name, dtype, shape, stride, 0))
        left_bytes -= held_bytes(tensors[-1])
        if left_bytes < 0:
            raise NotChecked("more tensors, or of more dimensions, than are checked", offset=LENGTH_BYTES)
    return Content(tuple(storages), tuple(tensors), {**_facts(tensors), **layout.counted})


def _facts(tensors: Sequence[Tensor]) -> dict[str, Fact]:
    """Return whether training can continue from the file; weights alone do not tell, with the optimizer elsewhere."""
    # Most names are no optimizer's by three letters, and cost no call.
    roots = [tensor.name.partition(".")[0] for tensor in tensors if "opt" in tensor.name]
    optimizers = set(filter(is_optimizers, set(roots)))
    facts: dict[str, Fact] = {"framework": "safetensors"}
    if optimizers:
        facts |= {"has_optimizer": True, "resumable": sum(root in optimizers for root in roots) < len(tensors)}
    return facts


def _product(shape: tuple[int, ...], name: str) -> int:
    """Return how many elements there are; as in the library, the product must fit in 64 bits at each step."""
    count = 1
    for size in shape:
        count *= size
        if count >= _PRODUCT_MAX:
            refuse("shape of more elements than can be counted", name, LENGTH_BYTES)
    return count
