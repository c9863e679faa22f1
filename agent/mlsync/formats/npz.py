"""What the arrays of an npz file are: the ``.npy`` header of each member, read with a pattern and never evaluated."""

from __future__ import annotations

import re
import struct
from math import prod

from mlsync.formats.faults import NotChecked, read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Extent, Fact, Storage, Tensor
from mlsync.formats.zipfile_layout import ZipLayout

_HEADER_BYTES_MAX = 64 << 10
_PREFIX_BYTES = 12
_SHORT_PREFIX_BYTES = 10
_DIMENSIONS_MAX = 64
_HEADER = re.compile(
    rb"\{'descr': '(?P<descr>[^']{1,64})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>[0-9L, ]{0,2000})\),? ?\} *\n?"
)
_DTYPES = {
    b"f8": "float64",
    b"f4": "float32",
    b"f2": "float16",
    b"c8": "complex64",
    b"c16": "complex128",
    b"i8": "int64",
    b"i4": "int32",
    b"i2": "int16",
    b"i1": "int8",
    b"u8": "uint64",
    b"u4": "uint32",
    b"u2": "uint16",
    b"u1": "uint8",
    b"b1": "bool",
}


def read_npz_content(source: ByteSource, layout: ZipLayout) -> Content:
    """Level 2: every plain array fills its member; arrays of objects, texts and records are left to the checksum."""
    if layout.packed:
        msg = "arrays are compressed, which is not checked"
        raise NotChecked(msg, record=min(layout.packed))
    storages, tensors = [], []
    skipped = 0
    for extent in layout.extents:
        array = _read_array(source, extent)
        if array is None:
            skipped += 1
            continue
        storages.append(array[0])
        tensors.append(array[1])
    facts: dict[str, Fact] = {"framework": "numpy"}
    if skipped:
        facts["unchecked_array_count"] = skipped
    return Content(tuple(storages), tuple(tensors), facts)


def _read_array(source: ByteSource, extent: Extent) -> tuple[Storage, Tensor] | None:
    text, data_at = _read_npy_header(source, extent)
    match = _HEADER.fullmatch(text)
    if match is None:
        return None
    descr = match["descr"]
    dtype = _DTYPES.get(descr[1:])
    if dtype is None or descr[:1] not in b"<|=":
        return None
    shape = tuple(int(size.rstrip(b"L")) for size in match["shape"].replace(b" ", b"").split(b",") if size.rstrip(b"L"))
    item_bytes = int(descr[2:])
    length = extent.offset + extent.length - data_at
    if len(shape) > _DIMENSIONS_MAX or prod(shape) * item_bytes != length:
        msg = f"array of shape {shape[:8]} does not fill its member"
        raise ContainerBroken(msg, record=extent.name, offset=data_at)
    name = extent.name.removesuffix(".npy")
    stride = _stride(shape, fortran=match["fortran"] == b"True")
    return Storage(extent.name, data_at, length, dtype, item_bytes), Tensor(name, extent.name, dtype, shape, stride, 0)


def _read_npy_header(source: ByteSource, extent: Extent) -> tuple[bytes, int]:
    """The header's text and the offset of the array's first byte."""
    prefix = read_bounded(source, extent.offset, min(_PREFIX_BYTES, extent.length), "array header")
    if len(prefix) < _PREFIX_BYTES or prefix[:6] != b"\x93NUMPY" or prefix[6] not in (1, 2, 3):
        msg = "member is no numpy array"
        raise ContainerBroken(msg, record=extent.name, offset=extent.offset)
    if prefix[6] == 1:
        begins, length = _SHORT_PREFIX_BYTES, struct.unpack_from("<H", prefix, 8)[0]
    else:
        begins, length = _PREFIX_BYTES, struct.unpack_from("<I", prefix, 8)[0]
    if length > _HEADER_BYTES_MAX or begins + length > extent.length:
        msg = "array header runs past its member"
        raise ContainerBroken(msg, record=extent.name, offset=extent.offset)
    return read_bounded(source, extent.offset + begins, length, "array header"), extent.offset + begins + length


def _stride(shape: tuple[int, ...], *, fortran: bool) -> tuple[int, ...]:
    if fortran:
        return tuple(prod(shape[:place]) for place in range(len(shape)))
    return tuple(prod(shape[place + 1 :]) for place in range(len(shape)))
