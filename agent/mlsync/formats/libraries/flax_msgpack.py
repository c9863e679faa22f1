"""Flax's checkpoints in msgpack (``flax_model.msgpack``, ``flax.serialization.to_bytes``): one map of maps and arrays.

An array is an extension of type 1 with shape, numpy's name of the type and the bytes. Nothing has a checksum. The walk
reads only headers: the bytes of arrays are skipped.
"""

from __future__ import annotations

import codecs
import re
import struct
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, NoReturn

from mlsync.formats.faults import SLICE_BYTES, MeaningBroken, NotChecked
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Extent, Layout, Storage, Tensor
from mlsync.formats.strides import TENSORS_BYTES_MAX, dense_stride, held_bytes
from mlsync.values import Fact

PARTS_MAX = 2_000_000
_NESTING_MAX = 100
_DIMENSIONS_MAX = 64
_SIZE_MAX = 1 << 63
_NAME_BYTES_MAX = 4096
_HEAD_BYTES = 16
_SEEK_BYTES = 4096  # what is read behind an array that was stepped over
_ARRAY, _SCALAR = 1, 3
_KIND_MAX = 127
_FACTS = frozenset({"step", "epoch"})
_DTYPE = re.compile(
    r"(?:bfloat(16)|float(16|32|64)|u?int(8|16|32|64)|complex(64|128)|bool|float8_e[0-9]m[0-9][a-z0-9]*)"
)
# What numpy has besides, and nobody counts
_OTHER_DTYPE = re.compile(
    r"(str|bytes|void)[0-9]{0,9}|object|(datetime|timedelta)64(\[[^\]]*\]?)?|float128|complex256"
    r"|u?int[124]|float[46]_e[0-9]m[0-9][a-z0-9]*"
)
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}
_INTEGERS = {0xCC: "B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: "b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
_LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_TEXTS = frozenset({0xD9, 0xDA, 0xDB})


class _Held(NamedTuple):
    """An array of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class FlaxLayout(Layout):
    """A msgpack's arrays, in their order, with what the map says of the training."""

    arrays: tuple[_Held, ...] = ()
    facts: tuple[tuple[str, Fact], ...] = ()


def read_flax_layout(source: ByteSource) -> FlaxLayout:
    """Return level 1: one value, whole, that ends where the file does."""
    walk = _Walk(source)
    walk.value("", 0)
    if walk.at != source.size_bytes:
        if not walk.arrays:
            raise NotChecked("values in a row, none of them an array: not a checkpoint of flax", offset=walk.at)
        raise ContainerBroken("bytes behind the map", offset=walk.at)
    extents = tuple(Extent(one.name, one.offset, one.length) for one in walk.arrays)
    return FlaxLayout("flax-msgpack", source.size_bytes, extents, tuple(walk.arrays), tuple(walk.facts.items()))


def read_flax_content(layout: FlaxLayout) -> Content:
    """Return level 2: every array has the bytes that its type and shape need."""
    storages, tensors = [], []
    aside_count = 0
    for one in layout.arrays:
        width = _width(one.dtype)
        if width is None:
            if not _OTHER_DTYPE.fullmatch(one.dtype):
                raise NotChecked(f"array of type {one.dtype} is not known here", record=one.name, offset=one.offset)
            aside_count += 1
            continue
        if prod(one.shape) * width != one.length:
            what = f"array of shape {one.shape[:8]} needs {prod(one.shape) * width} bytes, there are {one.length}"
            raise MeaningBroken(what, record=one.name, offset=one.offset)
        storages.append(Storage(one.name, one.offset, one.length, one.dtype, width))
        tensors.append(Tensor(one.name, one.name, one.dtype, one.shape, dense_stride(one.name, one.shape), 0))
    facts: dict[str, Fact] = {"framework": "flax", **dict(layout.facts)}
    return Content(tuple(storages), tuple(tensors), facts, aside_count=aside_count)


def _width(dtype: str) -> int | None:
    match = _DTYPE.fullmatch(dtype)
    if match is None:
        return None
    return int(match[match.lastindex]) // 8 if match.lastindex else 1


class _Walk:
    """Walks the values of a file, and collects its arrays."""

    def __init__(self, source: ByteSource) -> None:
        self.at = 0
        self.arrays: list[_Held] = []
        self.facts: dict[str, Fact] = {}
        self._source = source
        self._begin = 0
        self._held = b""
        self._parts = 0
        self._left_bytes = TENSORS_BYTES_MAX
        self._names: set[str] = set()

    def value(self, name: str, depth: int) -> object:
        """Return the next value if it is a number or a short text; larger values are skipped."""
        self._parts += 1
        if self._parts > PARTS_MAX or depth > _NESTING_MAX:
            raise NotChecked("map of more parts, or deeper, than are checked", offset=self.at)
        kind = self._take(1)[0]
        if kind < 0x80 or kind >= 0xE0:  # noqa: PLR2004 - numbers of one byte
            return kind if kind < 0x80 else kind - 256  # noqa: PLR2004
        count = self._count_of(kind)
        if count is not None:
            self._inside(name, depth, count, is_map=kind < 0x90 or kind >= 0xDE)  # noqa: PLR2004
            return None
        if kind < 0xC0:  # noqa: PLR2004 - short texts
            return self._text(kind & 31)
        return self._plain(kind, name, depth)

    def _count_of(self, kind: int) -> int | None:
        if 0x80 <= kind < 0xA0:  # noqa: PLR2004 - small maps and lists
            return kind & 15
        if kind in (0xDC, 0xDE):
            return int.from_bytes(self._take(2), "big")
        return int.from_bytes(self._take(4), "big") if kind in (0xDD, 0xDF) else None

    def _inside(self, name: str, depth: int, count: int, *, is_map: bool) -> None:
        for place in range(count):
            key = self.value("", depth + 1) if is_map else place
            if is_map and not isinstance(key, str):
                self._refuse("map with a key that is no name")
            inner = f"{name}.{key}" if name else str(key)
            found = self.value(inner[: _NAME_BYTES_MAX // 4], depth + 1)
            if depth == 0 and key in _FACTS and type(found) is int:
                self.facts[str(key)] = found

    def _plain(self, kind: int, name: str, depth: int) -> object:
        if kind in _INTEGERS:
            number: int = struct.unpack(_INTEGERS[kind], self._take(struct.calcsize(_INTEGERS[kind])))[0]
            return number
        if kind in _FIXED:
            self._skip(_FIXED[kind])
        elif kind in _LENGTHS:
            length = int.from_bytes(self._take(_LENGTHS[kind]), "big")
            if kind in _TEXTS:
                return self._text(length)
            self._skip(length)
        elif kind in _EXTENSIONS or kind in _FIXED_EXTENSIONS:
            width = _EXTENSIONS.get(kind)
            length = _FIXED_EXTENSIONS[kind] if width is None else int.from_bytes(self._take(width), "big")
            self._extension(self._take(1)[0], length, name, depth)
        else:
            self._refuse(f"byte 0x{kind:02x} begins no value")
        return None

    def _text(self, length: int) -> str:
        if length <= _NAME_BYTES_MAX:
            return self._decoded(self._take(length))
        decoder = codecs.getincrementaldecoder("utf-8")()
        for left in range(length, 0, -_NAME_BYTES_MAX):
            part = self._take(min(_NAME_BYTES_MAX, left))
            try:
                decoder.decode(part, final=left <= _NAME_BYTES_MAX)
            except UnicodeDecodeError:
                self._refuse("text that is no UTF-8")
        return ""

    def _decoded(self, text: bytes) -> str:
        try:
            return text.decode()
        except UnicodeDecodeError:
            self._refuse("text that is no UTF-8")

    def _extension(self, kind: int, length: int, name: str, depth: int) -> None:
        end = self.at + length
        if end > self._source.size_bytes:
            self._refuse(f"file ends inside of {length} bytes")
        if kind not in (_ARRAY, _SCALAR):
            if kind > _KIND_MAX:
                self._refuse("extension of a number that none has")
            self.at = end
            return
        if self._take(1) != b"\x93":
            self._refuse("array that is not of shape, type and bytes")
        shape = self._shape(depth)
        dtype = self.value("", depth)
        head = self._take(1)[0]
        if not isinstance(dtype, str) or head not in (0xC4, 0xC5, 0xC6):
            self._refuse("array without type or bytes")
        held = int.from_bytes(self._take(_LENGTHS[head]), "big")
        if self.at + held != end:
            self._refuse("array that does not fill its place")
        self._keep(_Held(self._own(name), dtype[:_HEAD_BYTES], shape, self.at, held))
        self.at = end

    def _shape(self, depth: int) -> tuple[int, ...]:
        kind = self._take(1)[0]
        count = self._count_of(kind)
        if count is None or count > _DIMENSIONS_MAX or kind < 0x90 or kind >= 0xDE:  # noqa: PLR2004 - a map
            self._refuse("array without a shape")
        sizes = [self.value("", depth) for _ in range(count)]
        shape = tuple(size for size in sizes if isinstance(size, int) and 0 <= size < _SIZE_MAX)
        if len(shape) != count:
            self._refuse("array of an impossible size")
        return shape

    def _keep(self, one: _Held) -> None:
        self._left_bytes -= 2 * held_bytes(Tensor(one.name, one.name, one.dtype, one.shape, one.shape, 0))
        if self._left_bytes < 0:
            raise NotChecked("more arrays, or of more dimensions, than are checked", offset=one.offset)
        self.arrays.append(one)

    def _own(self, name: str) -> str:
        """Return the name, made unique within the file."""
        if name in self._names:
            name = f"{name}@{self.at}"
        self._names.add(name)
        return name

    def _take(self, length: int) -> bytes:
        begin, self.at = self.at, self.at + length
        if self.at > self._source.size_bytes:
            self._refuse("file ends inside of its map")
        if not self._begin <= begin or self.at > self._begin + len(self._held):
            is_far = begin > self._begin + len(self._held)
            wanted = max(length, _SEEK_BYTES if is_far else SLICE_BYTES // 4)
            self._begin = begin
            self._held = self._source.read_at(begin, min(wanted, self._source.size_bytes - begin))
        return self._held[begin - self._begin : self.at - self._begin]

    def _skip(self, length: int) -> None:
        self.at += length
        if self.at > self._source.size_bytes:
            self._refuse("file ends inside of its map")

    def _refuse(self, reason: str) -> NoReturn:
        raise ContainerBroken(reason, offset=min(self.at, self._source.size_bytes))
