"""The safetensors container: a length, a JSON header, and tensors that cover the rest of the file exactly."""

from __future__ import annotations

import json
from math import prod
from typing import NoReturn

from mlsync.formats.faults import read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Extent, Fact, Layout, Storage, Tensor

HEADER_BYTES_MAX = 100_000_000  # the format's own limit
_LENGTH_BYTES = 8
_DIMENSIONS_MAX = 64

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


def read_safetensors_layout(source: ByteSource) -> Layout:
    """Level 1: the header parses and its tensors cover the file, each byte once."""
    header, data_at = _read_header(source)
    extents = []
    for name, entry in header.items():
        begin, end = _span(name, entry)
        extents.append(Extent(name, data_at + begin, end - begin))
    extents.sort(key=lambda extent: (extent.offset, extent.length))
    covered = data_at
    for extent in extents:
        if extent.offset != covered:
            _refuse("tensors overlap or leave a gap", extent.name, extent.offset)
        covered += extent.length
    if covered != source.size_bytes:
        _refuse(
            f"header tells of {covered} bytes, the file has {source.size_bytes}", None, min(covered, source.size_bytes)
        )
    return Layout("safetensors", source.size_bytes, tuple(extents))


def read_safetensors_content(source: ByteSource, layout: Layout) -> Content:
    """Level 2: each tensor's type and shape need exactly the bytes that it has."""
    header, _ = _read_header(source)
    storages, tensors = [], []
    for extent in layout.extents:
        entry = header[extent.name]
        shape = _shape(extent.name, entry)
        token = entry.get("dtype")
        if not isinstance(token, str):
            _refuse("tensor without a type", extent.name, extent.offset)
        dtype, bits = _DTYPES.get(token, (f"unknown:{token[:32]}", 0))
        if bits and prod(shape) * bits != extent.length * 8:
            _refuse(
                f"shape and type need {prod(shape) * bits // 8} bytes, there are {extent.length}",
                extent.name,
                extent.offset,
            )
        storages.append(Storage(extent.name, extent.offset, extent.length, dtype, max(bits // 8, 1)))
        tensors.append(Tensor(extent.name, extent.name, dtype, shape, _dense_stride(shape), 0))
    facts: dict[str, Fact] = {"framework": "safetensors"}
    return Content(tuple(storages), tuple(tensors), facts)


def _read_header(source: ByteSource) -> tuple[dict[str, dict[str, object]], int]:
    """The header's tensor entries by name, and the offset at which their bytes begin."""
    length = int.from_bytes(read_bounded(source, 0, _LENGTH_BYTES, "header length"), "little")
    if length > HEADER_BYTES_MAX:
        _refuse(f"header of {length} bytes", None, 0)
    raw = read_bounded(source, _LENGTH_BYTES, length, "header")
    if raw[:1] != b"{":
        _refuse("header is no JSON object", None, _LENGTH_BYTES)
    try:
        header = json.loads(raw.decode().rstrip(" "), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = error.args[0] if isinstance(error, _Refused) else "header is no JSON"
        raise ContainerBroken(str(reason), offset=_LENGTH_BYTES) from None
    _check_metadata(header.pop("__metadata__", {}))
    for name, entry in header.items():
        if not isinstance(entry, dict):
            _refuse("header entry is no object", name, _LENGTH_BYTES)
    return header, _LENGTH_BYTES + length


class _Refused(ValueError):
    """JSON that parses, but not as the format wants it."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        msg = "header names something twice"
        raise _Refused(msg)
    return unique


def _no_constant(_name: str) -> NoReturn:
    msg = "header holds a number that JSON does not have"
    raise _Refused(msg)


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse("metadata is not text by text", None, _LENGTH_BYTES)


def _span(name: str, entry: dict[str, object]) -> tuple[int, int]:
    offsets = entry.get("data_offsets")
    if isinstance(offsets, list) and len(offsets) == len(("begin", "end")) and all(map(_is_count, offsets)):
        begin, end = offsets
        if begin <= end:
            return begin, end
    raise ContainerBroken("tensor without a place in the file", record=name, offset=_LENGTH_BYTES)


def _shape(name: str, entry: dict[str, object]) -> tuple[int, ...]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or len(shape) > _DIMENSIONS_MAX or not all(_is_count(size) for size in shape):
        _refuse("tensor without a shape", name, _LENGTH_BYTES)
    return tuple(shape)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _dense_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[place + 1 :]) for place in range(len(shape)))


def _refuse(reason: str, name: str | None, offset: int) -> NoReturn:
    raise ContainerBroken(reason, record=name, offset=offset)
