"""The arrays of an npz file, by the ``.npy`` header of each member, which is matched by a pattern, never evaluated."""

from __future__ import annotations

import marshal
import re
from collections.abc import Sequence
from math import prod
from operator import attrgetter
from typing import NamedTuple

from mlsync.formats.content_cache import CONTENT_CACHE, key_of
from mlsync.formats.faults import NotChecked, read_bounded
from mlsync.formats.layout import BIG_ENDIAN, ByteSource, ContainerBroken, Content, Extent, Packed, Storage, Tensor
from mlsync.formats.strides import TENSORS_BYTES_MAX, dense_stride, held_bytes
from mlsync.formats.zips.inflate import inflate_head
from mlsync.formats.zips.zip_layout import MARSHAL_VERSION, ZipLayout, as_bytes, gathered
from mlsync.values import Fact

_HEADER_BYTES_MAX = 64 << 10
_PREFIX_BYTES = 12
_SHORT_PREFIX_BYTES = 10
_USUAL_HEAD_BYTES = 256  # numpy pads its headers to 64 bytes, or twice that
_DIMENSIONS_MAX = 64
_BYTES_MAX = 1 << 63
ARRAYS_MAX = 100_000
# How many different headers are recognised when they come again
_HEADS_MAX = 1000
# A smaller file is parsed as fast as it is looked up
_KEPT_MIN = 1000
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
    """Return level 2: every plain array fills its member; of arrays of objects and records only the CRC is checked."""
    if len(layout.extents) > ARRAYS_MAX:
        msg = f"more than {ARRAYS_MAX} arrays are more than are checked"
        raise NotChecked(msg)
    heads = _heads(source, layout)
    if len(heads) < _KEPT_MIN:
        return _content(layout, heads)
    question = marshal.dumps(([(head.text, head.begins) for head in heads], as_bytes(layout)), MARSHAL_VERSION)
    return CONTENT_CACHE.of(key_of(b"npz", question), lambda: _content(layout, heads))


def _content(layout: ZipLayout, heads: Sequence[_Head]) -> Content:
    storages, tensors = [], []
    skipped = 0
    left_bytes = TENSORS_BYTES_MAX
    arrays: dict[bytes, _Array | None] = {}
    for extent, head in zip(layout.extents, heads, strict=True):
        array = arrays.get(head.text) or _array(head.text, extent.name)
        if array is None:
            skipped += 1
            continue
        if len(arrays) < _HEADS_MAX:
            arrays[head.text] = array
        packed = layout.packed.get(extent.name)
        length = (extent.length if packed is None else packed.plain_bytes) - head.begins
        if array.needed_bytes != length:
            msg = f"array of shape {array.shape[:8]} does not fill its member"
            raise ContainerBroken(msg, record=extent.name, offset=extent.offset + head.begins)
        if packed is None:
            storages.append(
                Storage(extent.name, extent.offset + head.begins, length, array.dtype, max(array.item_bytes, 1))
            )
        tensors.append(Tensor(extent.name.removesuffix(".npy"), extent.name, array.dtype, array.shape, array.stride, 0))
        left_bytes -= held_bytes(tensors[-1])
        if left_bytes < 0:
            msg = "more arrays, or of more dimensions, than are checked"
            raise NotChecked(msg)
    facts: dict[str, Fact] = {"framework": "numpy"}
    if skipped:
        facts["unchecked_array_count"] = skipped
    return Content(tuple(storages), tuple(tensors), facts, len(tensors) - len(storages), aside_count=skipped)


class _Head(NamedTuple):
    """A member's header, and where in the member its array's first byte lies."""

    text: bytes
    begins: int


def _heads(source: ByteSource, layout: ZipLayout) -> list[_Head]:
    """Return the header of each member. Neighbours are read together, and equal headers are kept once."""
    known: dict[_Head, _Head] = {}
    heads = []
    for group in gathered(layout.extents, attrgetter("offset")):
        first, last = group[0].offset, group[-1]
        window = read_bounded(source, first, last.offset + min(_USUAL_HEAD_BYTES, last.length) - first, "array header")
        for extent in group:
            begins = extent.offset - first
            start = window[begins : begins + min(_USUAL_HEAD_BYTES, extent.length)]
            head = _split_head(source, extent, layout.packed.get(extent.name), start)
            heads.append(known.get(head, head))
            if len(known) < _HEADS_MAX:
                known[head] = head
    return heads


class _Array(NamedTuple):
    """What a header says."""

    dtype: str
    item_bytes: int
    needed_bytes: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _array(text: bytes, name: str) -> _Array | None:
    """Return the array that a member's header describes; ``None`` if it is no array of plain numbers."""
    match = _HEADER.fullmatch(text)
    typed = None if match is None else _type(match["descr"])
    if match is None or typed is None:
        return None
    dtype, item_bytes = typed
    sizes = [size for size in match["shape"].replace(b" ", b"").split(b",") if size]
    if not all(map(_SIZE.fullmatch, sizes)):
        return None
    shape = tuple(int(size.rstrip(b"L")) for size in sizes)
    needed_bytes = prod(shape) * item_bytes
    if len(shape) > _DIMENSIONS_MAX or needed_bytes >= _BYTES_MAX:
        return _Array(dtype, item_bytes, -1, shape, ())
    is_fortran = match["fortran"] == b"True"
    stride = dense_stride(name, shape[::-1])[::-1] if is_fortran else dense_stride(name, shape)
    return _Array(dtype, item_bytes, needed_bytes, shape, stride)


def _type(descr: bytes) -> tuple[str, int] | None:
    """Return dtype and width; ``None`` for objects and for unknown types."""
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


def _split_head(source: ByteSource, extent: Extent, packed: Packed | None, start: bytes) -> _Head:
    """Return the member's header from the *start* of its bytes, and read on where that is too short."""
    member_bytes = extent.length if packed is None else packed.plain_bytes
    if packed is not None:
        start = inflate_head(source, extent, _PREFIX_BYTES + _HEADER_BYTES_MAX)
    elif start[6:7] != b"\x01" or int.from_bytes(start[8:10], "little") + _SHORT_PREFIX_BYTES > len(start):
        longer = min(_PREFIX_BYTES + _HEADER_BYTES_MAX, extent.length)
        start = read_bounded(source, extent.offset, longer, "array header")
    if len(start) < _PREFIX_BYTES or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
        msg = "member is no numpy array"
        raise ContainerBroken(msg, record=extent.name, offset=extent.offset)
    if start[6] == 1:
        begins, length = _SHORT_PREFIX_BYTES, int.from_bytes(start[8:10], "little")
    else:
        begins, length = _PREFIX_BYTES, int.from_bytes(start[8:12], "little")
    if length > _HEADER_BYTES_MAX or begins + length > min(member_bytes, len(start)):
        msg = "array header runs past its member"
        raise ContainerBroken(msg, record=extent.name, offset=extent.offset)
    return _Head(start[begins : begins + length], begins + length)
