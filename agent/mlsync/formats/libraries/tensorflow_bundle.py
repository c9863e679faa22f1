"""TensorFlow's checkpoints (``X.index``, ``X.data-00000-of-00001``), as ``Saver``, Keras and SavedModels write them.

The index is a table as LevelDB has it: blocks of sorted keys, each with a CRC-32C, and a footer that leads to them. A
key is a tensor's name, its value a message that says type, shape, shard, place and CRC-32C. The shards hold nothing but
tensors and say nothing without the index. Both sums are masked: turned by 15 bits, with a constant added.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from mlsync.formats.facts import with_counts, with_numbers
from mlsync.formats.faults import MeaningBroken, NotChecked, RecordDamaged, read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Extent, Layout, Number, Storage, Tensor
from mlsync.formats.libraries.crc32c import crc32c
from mlsync.formats.libraries.leveldb_table import Table, unmasked, varint
from mlsync.formats.libraries.protobuf_fields import fields_in, numbers_of
from mlsync.formats.strides import TENSORS_BYTES_MAX, dense_stride, held_bytes
from mlsync.values import Fact

INDEX_BYTES_MAX = 32 << 20
#: What the list of all tensors may take.
NAMES_BYTES_MAX = 64 << 20
_SHARD = re.compile(rb"(?P<stem>.+)\.data-(?P<number>\d{5})-of-(?P<count>\d{5})", re.DOTALL)
_KEY_BYTES = 400  # of an entry in the list, beside its name and shape
_NUMBER_BYTES = 40
_SHARDS_MAX = 99_999
_SHAPE, _SLICES = 2, 7
_DIMENSIONS_MAX = 254  # TensorFlow's own limit
_STRING = 7
# Texts, handles and variants, whose sum is not that of their bytes
_SUMMED_OTHERWISE = frozenset({_STRING, 20, 21})
_STRING_LENGTHS_MAX = 100_000
_STRING_BYTES_MAX = 4 << 20
_LENGTH_MAX = 0xFFFFFFFF
_SIZE_MAX = 1 << 63
_TYPES = {
    1: ("float32", 4),
    2: ("float64", 8),
    3: ("int32", 4),
    4: ("uint8", 1),
    5: ("int16", 2),
    6: ("int8", 1),
    8: ("complex64", 8),
    9: ("int64", 8),
    10: ("bool", 1),
    11: ("int8", 1),
    12: ("uint8", 1),
    13: ("int32", 4),
    14: ("bfloat16", 2),
    15: ("int16", 2),
    16: ("uint16", 2),
    17: ("uint16", 2),
    18: ("complex128", 16),
    19: ("float16", 2),
    22: ("uint32", 4),
    23: ("uint64", 8),
    24: ("float8_e5m2", 1),
    25: ("float8_e4m3fn", 1),
    26: ("float8_e4m3fnuz", 1),
    28: ("float8_e5m2fnuz", 1),
}
_STEP_NAMES = ("global_step", "step/.ATTRIBUTES/VARIABLE_VALUE", "optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE")
# The optimizer's own of TensorFlow 1, behind the name of the variable that they are of
_SLOTS = frozenset({"Adam", "Adam_1", "Momentum", "RMSProp", "Adagrad", "beta1_power", "beta2_power"})


class BundleTensor(NamedTuple):
    """A tensor by the word of the index."""

    name: str
    kind: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    length: int
    crc32c: int
    is_sliced: bool


@dataclass(frozen=True, slots=True)
class IndexLayout(Layout):
    """An index's blocks, and what they tell of the shards."""

    shard_count: int = 0
    is_big_endian: bool = False
    described: tuple[BundleTensor, ...] = ()


def shard_name(stem: str, number: int, count: int) -> str:
    """Return the name of a shard."""
    return f"{stem}.data-{number:05}-of-{count:05}"


def index_of(path: bytes) -> bytes | None:
    """Return the path of a shard's index; ``None`` if *path* is no shard's name."""
    match = _SHARD.fullmatch(path)
    return match["stem"] + b".index" if match else None


def shard_of(name: bytes) -> tuple[int, int] | None:
    """Return a shard's number and the number of shards, by its name; ``None`` if it is no shard's name."""
    match = _SHARD.fullmatch(name)
    return (int(match["number"]), int(match["count"])) if match else None


# ---------------------------------------------------------------- the index


def read_index_layout(source: ByteSource) -> IndexLayout:
    """Return level 1: every block has its CRC-32C, and the keys are in order."""
    if source.size_bytes > INDEX_BYTES_MAX:
        raise NotChecked(f"index of {source.size_bytes} bytes is larger than is checked")
    return parse_index(read_bounded(source, 0, source.size_bytes, "index"))


def parse_index(data: bytes) -> IndexLayout:
    """Return the whole index; ``ContainerBroken`` if it contradicts itself."""
    table = Table(data)
    described: list[BundleTensor] = []
    header: tuple[int, bool] | None = None
    left_bytes = NAMES_BYTES_MAX
    for key, message, begin in table.entries():
        if not key:
            header = _header(message)
            continue
        described.append(_described(key, message, begin))
        left_bytes -= _KEY_BYTES + 4 * len(key) + _NUMBER_BYTES * len(described[-1].shape)
        if left_bytes < 0:
            raise NotChecked("index of more tensors, or of longer names, than are checked", offset=begin)
    if header is None:
        raise ContainerBroken("no header: not the index of a checkpoint of TensorFlow")
    return IndexLayout("tensorflow-index", len(data), tuple(table.extents()), *header, tuple(described))


def read_index_content(layout: IndexLayout) -> Content:
    """Return level 2: every tensor has the bytes that its type and shape need, in a shard that is, on no byte twice."""
    check_described(layout)
    return Content((), (), _facts(layout))


def check_described(layout: IndexLayout) -> None:
    """Raise ``MeaningBroken`` where the index contradicts itself."""
    reached: dict[int, int] = {}
    for tensor in sorted(layout.described, key=lambda one: (one.shard, one.offset, one.length)):
        if tensor.is_sliced:
            continue
        if tensor.shard >= layout.shard_count:
            raise MeaningBroken(f"tensor in shard {tensor.shard} of {layout.shard_count}", record=tensor.name)
        if tensor.offset < reached.get(tensor.shard, 0):
            raise MeaningBroken("tensors overlap", record=tensor.name, offset=tensor.offset)
        reached[tensor.shard] = tensor.offset + tensor.length
        known = _TYPES.get(tensor.kind)
        if known is not None and prod(tensor.shape) * known[1] != tensor.length:
            what = f"shape {tensor.shape[:8]} of {known[0]} does not need {tensor.length} bytes"
            raise MeaningBroken(what, record=tensor.name, offset=tensor.offset)


def shard_bytes(layout: IndexLayout) -> dict[int, int]:
    """Return the length of each shard that the index implies: its last tensor ends where the shard ends."""
    ends = dict.fromkeys(range(layout.shard_count), 0)
    for tensor in layout.described:
        if not tensor.is_sliced:
            ends[tensor.shard] = max(ends.get(tensor.shard, 0), tensor.offset + tensor.length)
    return ends


def check_against_shards(layout: IndexLayout, stem: str, sizes: Mapping[str, int]) -> None:
    """Raise ``ContainerBroken`` if the files beside the index are not those that it tells of; *sizes* by name."""
    check_described(layout)
    if layout.shard_count > len(sizes):
        raise ContainerBroken(f"{layout.shard_count} shards are needed")
    for number, needed in shard_bytes(layout).items():
        name = shard_name(stem, number, layout.shard_count)
        if name not in sizes:
            raise ContainerBroken(f"file {name!r} is missing")
        if sizes[name] != needed:
            raise ContainerBroken(f"file {name!r} has {sizes[name]} bytes, {needed} are needed")


def _header(message: bytes) -> tuple[int, bool]:
    numbers = numbers_of(message)
    shard_count = numbers.get(1, 0)
    if not 0 < shard_count <= _SHARDS_MAX:
        raise MeaningBroken(f"{shard_count} shards")
    return shard_count, numbers.get(2, 0) == 1


def _described(key: bytes, message: bytes, at: int) -> BundleTensor:
    name = _name_of(key)
    numbers: dict[int, int] = {}
    shape: tuple[int, ...] = ()
    is_sliced = False
    for field, value in fields_in(message, at):
        if isinstance(value, int):
            numbers[field] = value
        elif field == _SHAPE:
            shape = _shape(value, name, at)
        elif field == _SLICES:
            is_sliced = True
    offset, length = numbers.get(4, 0), numbers.get(5, 0)
    if max(offset, length, offset + length) >= _SIZE_MAX:
        raise MeaningBroken("impossible offset", record=name, offset=at)
    return BundleTensor(
        name, numbers.get(1, 0), shape, numbers.get(3, 0), offset, length, unmasked(numbers.get(6, 0)), is_sliced
    )


def _name_of(key: bytes) -> str:
    """Return the name of a tensor; a slice of a partitioned variable is the variable's name and the slice's key."""
    begin, _, place = key[1:].partition(b"\0\1") if key[:1] == b"\0" else (key, b"", b"")
    return begin.decode("utf-8", "backslashreplace") + (f"/slice/{place.hex()}" if place else "")


def _shape(message: bytes, name: str, at: int) -> tuple[int, ...]:
    sizes = []
    for field, value in fields_in(message, at):
        if field == _SHAPE and isinstance(value, bytes):
            sizes.append(numbers_of(value).get(1, 0))
        if len(sizes) > _DIMENSIONS_MAX:
            raise MeaningBroken("shape of more dimensions than TensorFlow has", record=name, offset=at)
    if any(size >= _SIZE_MAX for size in sizes):
        raise MeaningBroken("impossible shape", record=name, offset=at)
    return tuple(sizes)


def _facts(layout: IndexLayout) -> dict[str, Fact]:
    facts: dict[str, Fact] = {"framework": "tensorflow", "file_count": layout.shard_count}
    plain = [one for one in layout.described if one.kind in _TYPES and not one.is_sliced]
    facts["tensor_count"] = len(plain)
    floats = [one for one in plain if "float" in _TYPES[one.kind][0] and not _is_slot(one.name)]
    facts["parameter_count"] = min(sum(prod(one.shape) for one in floats), _SIZE_MAX)
    facts["dtypes"] = ",".join(sorted({_TYPES[one.kind][0] for one in plain}))
    facts["has_optimizer"] = any(_is_optimizer(one.name) for one in layout.described)
    if layout.is_big_endian:
        facts["byteorder"] = "big"
    return facts


def _is_slot(name: str) -> bool:
    return ".OPTIMIZER_SLOT" in name or _is_optimizer(name)


def _is_optimizer(name: str) -> bool:
    return name.startswith(("optimizer/", "_optimizer/", "keras_api/optimizer")) or name.rpartition("/")[2] in _SLOTS


# ---------------------------------------------------------------- a shard


def read_shard(source: ByteSource, index: IndexLayout, number: int) -> tuple[Layout, Content]:
    """Return levels 1 and 2 of a shard, given its index: all tensors are in it, and texts match their checksums."""
    check_described(index)
    own = sorted((one for one in index.described if one.shard == number and not one.is_sliced), key=lambda one: one[4])
    extents, storages, tensors = [], [], []
    aside_count, left_bytes = 0, TENSORS_BYTES_MAX
    for one in own:
        if one.offset + one.length > source.size_bytes:
            raise ContainerBroken("tensor lies outside of the file", record=one.name, offset=source.size_bytes)
        is_summed = one.kind not in _SUMMED_OTHERWISE
        extents.append(Extent(one.name, one.offset, one.length, crc32c=one.crc32c if is_summed else None))
        if one.kind not in _TYPES:
            aside_count += is_summed or not _is_text_checked(source, one)
            continue
        dtype, item_bytes = _TYPES[one.kind]
        tensor = Tensor(one.name, one.name, dtype, one.shape, dense_stride(one.name, one.shape), 0)
        left_bytes -= held_bytes(tensor)
        if left_bytes < 0:
            raise NotChecked("more tensors, or of more dimensions, than are checked")
        storages.append(Storage(one.name, one.offset, one.length, dtype, item_bytes))
        tensors.append(tensor)
    layout = Layout("tensorflow-shard", source.size_bytes, tuple(extents))
    facts: dict[str, Fact] = {"framework": "tensorflow"}
    if index.is_big_endian:
        facts["byteorder"] = "big"
    step = next((one for name in _STEP_NAMES for one in storages if (one.name, one.dtype) == (name, "int64")), None)
    numbers = () if step is None or step.length != step.item_bytes else (Number("step", step.offset, "<q"),)
    content = Content(tuple(storages), tuple(tensors), facts, numbers=numbers, aside_count=aside_count)
    return layout, with_counts(with_numbers(source, content))


def _is_text_checked(source: ByteSource, one: BundleTensor) -> bool:
    """Return whether the texts of a tensor were checked against their checksum, which covers their lengths as numbers.

    Raises ``RecordDamaged`` if they are not what was written.
    """
    count = prod(one.shape)
    if one.kind != _STRING or count > _STRING_LENGTHS_MAX or one.length > _STRING_BYTES_MAX:
        return False
    data = read_bounded(source, one.offset, one.length, "texts")
    lengths, at = [], 0
    try:
        for _ in range(count):
            length, at = varint(data, at)
            lengths.append(length)
    except ContainerBroken as fault:
        raise RecordDamaged("lengths of texts do not parse", record=one.name, offset=one.offset) from fault
    if at + 4 + sum(lengths) != len(data):
        raise RecordDamaged("texts are not as long as their tensor", record=one.name, offset=one.offset)
    numbers = b"".join(length.to_bytes(4 if length <= _LENGTH_MAX else 8, "little") for length in lengths)
    of_lengths = crc32c(numbers)
    is_right = unmasked(int.from_bytes(data[at : at + 4], "little")) == of_lengths
    if not is_right or crc32c(memoryview(data)[at:], of_lengths) != one.crc32c:
        raise RecordDamaged("CRC-32C differs", record=one.name, offset=one.offset)
    return True
