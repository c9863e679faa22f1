"""GGUF, the container of llama.cpp: a header of keys, values and tensor descriptions, then the tensors, aligned.

There are no checksums. The header is read forward in slices; unneeded values are skipped, so that a vocabulary of a
quarter of a million words costs only its length.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, NoReturn

from mlsync.formats.faults import SLICE_BYTES, NotChecked
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Extent, Layout, Storage, Tensor
from mlsync.formats.strides import dense_stride
from mlsync.values import Fact

HEADER_BYTES_MAX = 256 << 20
PARTS_MAX = 4_000_000  # keys, words of arrays, tensors: all that is looked at one by one
TENSORS_MAX = 200_000
# Names of tensors and keys are kept; the largest file seen has some tens of KiB of them
NAMES_BYTES_MAX = 16 << 20
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_VERSION_MAX = 9  # of those that may come
# A name's length, a type, the shortest value; a name's length, a number of dimensions, a type, a place
_KEY_BYTES_MIN, _TENSOR_BYTES_MIN = 13, 24
_ELEMENT_BYTES_MIN = 8  # a string's length; of an array even more
_KIND_MAX = 255  # of types that may come; ggml has some forty
_DIMENSIONS_MAX = 8
_NAME_BYTES_MAX = 4096
_NAME_BYTES = 32  # of a name that is kept, beside its text
_KEY_BYTES_MAX = 65535  # the format's own limit
_NESTING_MAX = 4
_COUNT_MAX = 1 << 63
_TEXT_CHARS_MAX = 200
_ALIGNMENT = "general.alignment"
_DEFAULT_ALIGNMENT = 32
_FACTS = {"general.architecture": "architecture", "general.name": "name"}

_STRING, _ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class _Kind(NamedTuple):
    """A type of ggml: *block_bytes* for so many elements."""

    name: str
    block_elements: int
    block_bytes: int


# Those that a file can hold; Q8_1 and Q8_K are made while a model runs, and are not stored
_KINDS = {
    0: _Kind("float32", 1, 4),
    1: _Kind("float16", 1, 2),
    2: _Kind("q4_0", 32, 18),
    3: _Kind("q4_1", 32, 20),
    6: _Kind("q5_0", 32, 22),
    7: _Kind("q5_1", 32, 24),
    8: _Kind("q8_0", 32, 34),
    10: _Kind("q2_k", 256, 84),
    11: _Kind("q3_k", 256, 110),
    12: _Kind("q4_k", 256, 144),
    13: _Kind("q5_k", 256, 176),
    14: _Kind("q6_k", 256, 210),
    16: _Kind("iq2_xxs", 256, 66),
    17: _Kind("iq2_xs", 256, 74),
    18: _Kind("iq3_xxs", 256, 98),
    19: _Kind("iq1_s", 256, 50),
    20: _Kind("iq4_nl", 32, 18),
    21: _Kind("iq3_s", 256, 110),
    22: _Kind("iq2_s", 256, 82),
    23: _Kind("iq4_xs", 256, 136),
    24: _Kind("int8", 1, 1),
    25: _Kind("int16", 1, 2),
    26: _Kind("int32", 1, 4),
    27: _Kind("int64", 1, 8),
    28: _Kind("float64", 1, 8),
    29: _Kind("iq1_m", 256, 56),
    30: _Kind("bfloat16", 1, 2),
    34: _Kind("tq1_0", 256, 54),
    35: _Kind("tq2_0", 256, 66),
    39: _Kind("mxfp4", 32, 17),
    40: _Kind("nvfp4", 64, 36),
    41: _Kind("q1_0", 128, 18),
}


class Described(NamedTuple):
    """A tensor as the header tells it; *shape* is torch's order, the fastest dimension last."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class GgufLayout(Layout):
    """A GGUF file's layout, with what the header says of each extent, in their order, and of the model."""

    described: tuple[Described, ...] = ()
    facts: tuple[tuple[str, Fact], ...] = ()


def read_gguf_layout(source: ByteSource) -> GgufLayout:
    """Return level 1: the header parses, and its tensors lie behind it, inside of the file, on no byte twice."""
    reader = _Reader(source)
    tensor_count, facts, alignment = _read_keys(reader)
    described = _read_described(reader, tensor_count)
    reader.take(0)  # what was stepped over last is there
    data_at = -(-reader.at // alignment) * alignment
    extents = tuple(_extents(source, described, data_at, alignment))
    # Writers pad the last tensor too, or do not
    end = extents[-1].offset + extents[-1].length if extents else reader.at
    if not end <= source.size_bytes <= -(-end // alignment) * alignment:
        msg = f"{source.size_bytes - end} bytes behind the last tensor"
        raise ContainerBroken(msg, offset=end)
    facts["framework"] = "gguf"
    if reader.order == ">":
        facts["byteorder"] = "big"
    return GgufLayout("gguf", source.size_bytes, extents, tuple(described), tuple(facts.items()))


def read_gguf_content(layout: GgufLayout) -> Content:
    """Return level 2: every tensor is of a type that is known, and has the bytes that type and shape need."""
    storages, tensors = [], []
    held_bytes: Counter[str] = Counter()
    for extent, tensor in zip(layout.extents, layout.described, strict=True):
        kind = _KINDS.get(tensor.kind)
        if kind is None:
            msg = f"tensor type {tensor.kind} is not known here"
            raise NotChecked(msg, record=extent.name, offset=extent.offset)
        is_plain = kind.block_elements == 1
        stride = dense_stride(extent.name, tensor.shape)
        item_bytes = kind.block_bytes if is_plain else 1  # blocks are scales and bits mixed, and have no elements
        storages.append(Storage(extent.name, extent.offset, extent.length, kind.name, item_bytes))
        tensors.append(Tensor(extent.name, extent.name, kind.name, tensor.shape, stride, 0))
        held_bytes[kind.name] += extent.length
    facts = dict(layout.facts)
    if held_bytes:
        facts["quantisation"] = max(held_bytes, key=lambda name: held_bytes[name])
    facts["tensor_count"] = len(tensors)
    counted = [prod(tensor.shape) for tensor in tensors if not tensor.dtype.startswith("int")]
    facts["parameter_count"] = min(sum(counted), _COUNT_MAX)
    facts["dtypes"] = ",".join(sorted(held_bytes))
    return Content(tuple(storages), tuple(tensors), facts)


class _Reader:
    """Reads a header forward; counts what is looked at, and goes no further than the bounds."""

    def __init__(self, source: ByteSource) -> None:
        self.at = 0
        self.order = "<"
        self._source = source
        self._begin = 0
        self._held = b""
        self._parts = 0
        self._left_bytes = NAMES_BYTES_MAX

    def take(self, length: int) -> bytes:
        """Return the next *length* bytes."""
        begin, self.at = self.at, self.at + length
        if self.at > self._source.size_bytes:
            msg = "file ends inside of its header"
            raise ContainerBroken(msg, offset=self._source.size_bytes)
        if self.at > HEADER_BYTES_MAX:
            msg = f"header of more than {HEADER_BYTES_MAX} bytes is larger than is checked"
            raise NotChecked(msg, offset=begin)
        if self.at > self._begin + len(self._held):
            self._begin = begin
            wanted = max(length, min(SLICE_BYTES, self._source.size_bytes - begin))
            self._held = self._source.read_at(begin, wanted)
        return self._held[begin - self._begin : self.at - self._begin]

    def skip(self, length: int) -> None:
        """Leave the next *length* bytes unread; that they are there shows with what is read next."""
        self.at += length

    def number(self, pattern: str) -> int:
        """Return the next number, as *pattern* of ``struct`` has it."""
        value: int = struct.unpack(self.order + pattern, self.take(struct.calcsize(pattern)))[0]
        return value

    def text(self, limit_bytes: int, what: str) -> str:
        """Return the next string, if it is within the limit."""
        length = self.number("Q")
        if length > limit_bytes:
            self.refuse(f"{what} of {length} bytes")
        self._left_bytes -= length + _NAME_BYTES
        if self._left_bytes < 0:
            msg = "header of more or longer names than are checked"
            raise NotChecked(msg, offset=self.at)
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            self.refuse(f"{what} that is no text")

    def refuse_more_than(self, count: int, least_bytes: int, what: str) -> None:
        """So many things of at least so many bytes each must have room in what is left of the file."""
        if count * least_bytes > self._source.size_bytes - self.at:
            self.refuse(f"{count} {what}, more than the file has room for")

    def count_part(self) -> None:
        """Note that one more thing is looked at by itself."""
        self._parts += 1
        if self._parts > PARTS_MAX:
            msg = f"header of more than {PARTS_MAX} parts is larger than is checked"
            raise NotChecked(msg, offset=self.at)

    def refuse(self, reason: str) -> NoReturn:
        """The header is at fault, here."""
        raise ContainerBroken(reason, offset=min(self.at, self._source.size_bytes))


def _read_keys(reader: _Reader) -> tuple[int, dict[str, Fact], int]:
    """Return the number of tensors, what the keys tell of the model, and the alignment of its tensors."""
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise ContainerBroken("no GGUF file", offset=0)
    version = reader.number("I")
    if version not in _VERSIONS:
        version, reader.order = int.from_bytes(version.to_bytes(4, "little"), "big"), ">"
        if version not in _VERSIONS:
            little = int.from_bytes(version.to_bytes(4, "big"), "little")
            if min(version, little) > _VERSION_MAX:
                raise ContainerBroken("a version of GGUF that there never was", offset=len(_MAGIC))
            raise NotChecked("a version of GGUF that is not known here", offset=len(_MAGIC))
    tensor_count, key_count = reader.number("Q"), reader.number("Q")
    # What cannot be is said before what is too much: counts that are damaged are as a rule far too large
    reader.refuse_more_than(key_count, _KEY_BYTES_MIN, "keys")
    reader.refuse_more_than(tensor_count, _TENSOR_BYTES_MIN, "tensors")
    facts: dict[str, Fact] = {}
    alignment: object = _DEFAULT_ALIGNMENT
    seen: set[str] = set()
    for _ in range(key_count):
        reader.count_part()
        key = reader.text(_KEY_BYTES_MAX, "key")
        if key in seen:
            reader.refuse(f"key {key[:_TEXT_CHARS_MAX]!r} comes twice")
        seen.add(key)
        value = _read_value(reader, reader.number("I"), is_wanted=key in _FACTS or key == _ALIGNMENT)
        if key == _ALIGNMENT:
            alignment = value
        elif key in _FACTS and isinstance(value, str):
            facts[_FACTS[key]] = value[:_TEXT_CHARS_MAX]
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        reader.refuse("alignment that is no power of two")
    return tensor_count, facts, alignment


def _read_value(reader: _Reader, kind: int, *, is_wanted: bool, depth: int = 0) -> object:
    """Return a value if it is wanted and no array; skip all others."""
    if kind == _STRING:
        length = reader.number("Q")
        if is_wanted and length <= _KEY_BYTES_MAX:
            return reader.take(length).decode("utf-8", "replace")
        reader.skip(length)
    elif kind == _ARRAY:
        if depth == _NESTING_MAX:
            reader.refuse("arrays nested too deeply")
        _step_over_array(reader, depth)
    elif kind not in _NUMBERS:
        reader.refuse(f"value of the unknown type {kind}")
    elif is_wanted:
        return reader.number(_NUMBERS[kind])
    else:
        reader.skip(struct.calcsize(_NUMBERS[kind]))
    return None


def _step_over_array(reader: _Reader, depth: int) -> None:
    kind, count = reader.number("I"), reader.number("Q")
    if kind in _NUMBERS:
        reader.skip(struct.calcsize(_NUMBERS[kind]) * count)
        return
    reader.refuse_more_than(count, _ELEMENT_BYTES_MIN, "values of an array")
    for _ in range(count):
        reader.count_part()
        _read_value(reader, kind, is_wanted=False, depth=depth + 1)


def _read_described(reader: _Reader, count: int) -> list[Described]:
    """Return the tensors, in the order of their bytes."""
    described: list[Described] = []
    names: set[str] = set()
    for _ in range(count):
        reader.count_part()
        name = reader.text(_NAME_BYTES_MAX, "tensor name")
        if name in names:
            reader.refuse(f"tensor {name[:_TEXT_CHARS_MAX]!r} comes twice")
        names.add(name)
        dimensions = reader.number("I")
        if dimensions > _DIMENSIONS_MAX:
            reader.refuse(f"tensor of {dimensions} dimensions")
        shape = tuple(reader.number("Q") for _ in range(dimensions))[::-1]
        if len(described) == TENSORS_MAX:
            msg = f"header of more than {TENSORS_MAX} tensors is larger than is checked"
            raise NotChecked(msg, offset=reader.at)
        described.append(Described(name, shape, reader.number("I"), reader.number("Q")))
    return sorted(described, key=lambda tensor: tensor.offset)


def _extents(source: ByteSource, described: list[Described], data_at: int, alignment: int) -> Iterator[Extent]:
    """Yield where each tensor's bytes lie; one of an unknown type has those up to the next tensor."""
    reached = data_at
    for place, tensor in enumerate(described):
        offset = data_at + tensor.offset
        if tensor.offset % alignment:
            raise ContainerBroken("tensor is not aligned", record=tensor.name, offset=offset)
        if offset < reached:
            raise ContainerBroken("tensors overlap", record=tensor.name, offset=offset)
        following = data_at + described[place + 1].offset if place + 1 < len(described) else source.size_bytes
        if reached + alignment <= offset <= source.size_bytes:
            raise ContainerBroken("a gap before the tensor", record=tensor.name, offset=reached)
        length = _length(tensor, offset)
        reached = offset + (max(following - offset, 0) if length is None else length)
        if reached > source.size_bytes or offset > source.size_bytes:
            raise ContainerBroken("tensor lies outside of the file", record=tensor.name, offset=source.size_bytes)
        yield Extent(tensor.name, offset, reached - offset)


def _length(tensor: Described, offset: int) -> int | None:
    """Return how many bytes the tensor's type and shape need; ``None`` if the type is not known."""
    kind = _KINDS.get(tensor.kind)
    if tensor.kind > _KIND_MAX:
        raise ContainerBroken(f"tensor type {tensor.kind}, which there is not", record=tensor.name, offset=offset)
    if kind is None:
        return None
    row = tensor.shape[-1] if tensor.shape else 1
    if row % kind.block_elements:
        what = f"rows of {row} elements are no whole number of {kind.name} blocks"
        raise ContainerBroken(what, record=tensor.name, offset=offset)
    return prod(tensor.shape) // kind.block_elements * kind.block_bytes
