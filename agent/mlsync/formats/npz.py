"""What the arrays of an npz file are: the ``.npy`` header of each member, read with a pattern and never evaluated."""

from __future__ import annotations

import re
import struct
from math import prod

from mlsync.formats.faults import NotChecked, read_bounded
from mlsync.formats.inflate import inflate_head
from mlsync.formats.layout import BIG_ENDIAN, ByteSource, ContainerBroken, Content, Extent, Fact, Storage, Tensor
from mlsync.formats.views import TENSORS_BYTES_MAX, dense_stride, held_bytes
from mlsync.formats.zipfile_layout import Packed, ZipLayout

_HEADER_BYTES_MAX = 64 << 10
_PREFIX_BYTES = 12
_SHORT_PREFIX_BYTES = 10
_USUAL_HEAD_BYTES = 256  # numpy pads its headers to 64 bytes, or twice that
_DIMENSIONS_MAX = 64
_HEADER = re.compile(
    rb"\{'descr': '(?P<descr>[^'\\\\]{1,64})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>[0-9L, ]{0,2000})\),? ?\} *\n?"
)
_SIZE = re.compile(rb"[0-9]{1,20}L?")  # numpy under Python 2 wrote long numbers as such
# Types of a fixed width of which torch has no name: longer floats, raw bytes (what numpy writes of ml_dtypes), texts
_WIDE = re.compile(rb"(?P<kind>[fcVSUmM])(?P<width>[0-9]{1,9})(?:\[[0-9a-zA-Z]{1,16}\])?")
_WIDE_NAMES = {b"f": "float", b"c": "complex", b"V": "void"}  # as numpy calls them, with how many bits they have
_TEXTS = b"SUmM"  # and times: nothing in them is ever counted
_CHARACTER_BYTES = 4  # of a text of kind U
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
    storages, tensors = [], []
    skipped = 0
    left_bytes = TENSORS_BYTES_MAX
    for extent in layout.extents:
        packed = layout.packed.get(extent.name)
        length = extent.length if packed is None else packed.plain_bytes
        array = _read_array(_head(source, extent, packed), length, extent)
        if array is None:
            skipped += 1
            continue
        if packed is None:
            storages.append(array[0])
        tensors.append(array[1])
        left_bytes -= held_bytes(array[1])
        if left_bytes < 0:
            msg = "more arrays, or of more dimensions, than are checked"
            raise NotChecked(msg)
    facts: dict[str, Fact] = {"framework": "numpy"}
    if skipped:
        facts["unchecked_array_count"] = skipped
    return Content(tuple(storages), tuple(tensors), facts, len(tensors) - len(storages), aside_count=skipped)


def _head(source: ByteSource, extent: Extent, packed: Packed | None) -> bytes:
    """The member's first bytes as they were before it was packed: all of its header at least, if it has one."""
    if packed is not None:
        return inflate_head(source, extent, _PREFIX_BYTES + _HEADER_BYTES_MAX)
    head = read_bounded(source, extent.offset, min(_USUAL_HEAD_BYTES, extent.length), "array header")
    if head[6:7] == b"\x01" and int.from_bytes(head[8:10], "little") + _SHORT_PREFIX_BYTES <= len(head):
        return head
    return read_bounded(source, extent.offset, min(_PREFIX_BYTES + _HEADER_BYTES_MAX, extent.length), "array header")


def _read_array(head: bytes, member_bytes: int, extent: Extent) -> tuple[Storage, Tensor] | None:
    text, begins = _split_head(head, member_bytes, extent)
    match = _HEADER.fullmatch(text)
    if match is None:
        return None
    descr = match["descr"]
    typed = _type(descr)
    if typed is None:
        return None
    dtype, item_bytes = typed
    sizes = [size for size in match["shape"].replace(b" ", b"").split(b",") if size]
    if not all(map(_SIZE.fullmatch, sizes)):
        return None
    shape = tuple(int(size.rstrip(b"L")) for size in sizes)
    length, data_at = member_bytes - begins, extent.offset + begins
    if len(shape) > _DIMENSIONS_MAX or prod(shape) * item_bytes != length:
        msg = f"array of shape {shape[:8]} does not fill its member"
        raise ContainerBroken(msg, record=extent.name, offset=data_at)
    name = extent.name.removesuffix(".npy")
    is_fortran = match["fortran"] == b"True"
    stride = dense_stride(name, shape[::-1])[::-1] if is_fortran else dense_stride(name, shape)
    return Storage(extent.name, data_at, length, dtype, max(item_bytes, 1)), Tensor(
        name, extent.name, dtype, shape, stride, 0
    )


def _type(descr: bytes) -> tuple[str, int] | None:
    """What numbers these are and how wide; ``None`` for objects, and for what is not known."""
    order, name = descr[:1], descr[1:]
    if order not in b"<>|=":
        return None
    known = _DTYPES.get(name)
    if known is not None:
        item_bytes = int(name[1:])
        return (f"{BIG_ENDIAN}{known}" if order == b">" and item_bytes > 1 else known), item_bytes
    match = _WIDE.fullmatch(name)
    if match is None:
        return None
    kind, width = match["kind"], int(match["width"])
    if kind in _TEXTS:
        return "text", width * (_CHARACTER_BYTES if kind == b"U" else 1)
    return f"{_WIDE_NAMES[kind]}{8 * width}", width


def _split_head(head: bytes, member_bytes: int, extent: Extent) -> tuple[bytes, int]:
    """The header's text, and where in the member the array's first byte lies."""
    if len(head) < _PREFIX_BYTES or head[:6] != b"\x93NUMPY" or head[6] not in (1, 2, 3):
        msg = "member is no numpy array"
        raise ContainerBroken(msg, record=extent.name, offset=extent.offset)
    if head[6] == 1:
        begins, length = _SHORT_PREFIX_BYTES, struct.unpack_from("<H", head, 8)[0]
    else:
        begins, length = _PREFIX_BYTES, struct.unpack_from("<I", head, 8)[0]
    if length > _HEADER_BYTES_MAX or begins + length > min(member_bytes, len(head)):
        msg = "array header runs past its member"
        raise ContainerBroken(msg, record=extent.name, offset=extent.offset)
    return head[begins : begins + length], begins + length
