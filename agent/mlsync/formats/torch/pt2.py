"""Programs that ``torch.export.save`` wrote: the tables of weights and constants must match the records.

The tables are JSON, decoded straight into the wanted fields, so that everything else in them costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from typing import Final, NoReturn, TypeAlias

import msgspec

from mlsync.formats.faults import MeaningBroken, NotChecked
from mlsync.formats.layout import ByteSource, Content, Extent, Storage, Tensor
from mlsync.formats.strides import TENSORS_BYTES_MAX, held_bytes, span_count
from mlsync.formats.torch.tensors import ITEM_BYTES
from mlsync.formats.zips.record import read_record
from mlsync.formats.zips.zip_layout import ZipLayout
from mlsync.values import Fact

TABLE_BYTES_MAX = 8 << 20  # a weight has some 270 bytes of it
_TABLE: Final = re.compile(r"(?P<folder>([^/]+/)?data/(weights|constants)/)[^/]*_config\.json")
_DIMENSIONS_MAX: Final = 64
_COUNT_MAX: Final = 1 << 63
_STRIDED: Final = 7
# The numbers that torch.export's schema gives the types
_DTYPES: Final = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    9: "complex32",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz",
    33: "float8_e8m0fnu",
    34: "uint32",
    35: "uint64",
}


class _Size(msgspec.Struct, gc=False):
    as_int: int | None = None


class _Meta(msgspec.Struct):
    dtype: int
    sizes: list[_Size]
    strides: list[_Size]
    storage_offset: _Size
    layout: int


class _Payload(msgspec.Struct):
    path_name: str
    use_pickle: bool
    tensor_meta: _Meta | None


class _Table(msgspec.Struct):
    config: dict[str, _Payload]


# Made by the thread that imports this: a first decoding in several at once would crash.
_table_decoder: Final = msgspec.json.Decoder(_Table)

_Weights: TypeAlias = dict[str, tuple[Extent, list[tuple[str, _Meta]]]]


def read_pt2_content(source: ByteSource, layout: ZipLayout) -> Content | None:
    """Return level 2: each weight and constant is inside its record; of pickled ones only the CRC is checked.

    Archives of before torch 2.9 have no tables, and of these nothing is known to look for.
    """
    storages: list[Storage] = []
    tensors: list[Tensor] = []
    left_bytes = TENSORS_BYTES_MAX
    aside = 0
    records: _Weights = {}
    for table in layout.extents:
        match = _TABLE.fullmatch(table.name)
        if match is not None:
            aside += _add_table(source, layout, table, match["folder"], records)
    for extent, views in records.values():
        if extent.name in layout.packed or not extent.length:
            aside += sum(0 not in _shape(meta) for _, meta in views)  # of a program without its values
            continue
        storages.append(_storage(extent, views))
        for tensor in _views(extent, views):
            left_bytes -= held_bytes(tensor)
            if left_bytes < 0:
                raise NotChecked("more weights, or of more dimensions, than are checked")
            tensors.append(tensor)
    if not tensors and not aside:
        return None
    facts: dict[str, Fact] = {"framework": "torch-export"}
    if aside:
        facts["unchecked_weight_count"] = aside
    storages.sort(key=lambda storage: storage.offset)
    return Content(tuple(storages), tuple(tensors), facts, aside_count=aside)


def _add_table(source: ByteSource, layout: ZipLayout, extent: Extent, folder: str, records: _Weights) -> int:
    """Note which tensors lie in which record, and return how many of the table's entries are not looked at."""
    data = read_record(source, layout, extent, TABLE_BYTES_MAX, "table of weights")
    try:
        table = _table_decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        what = f"table of weights does not parse: {str(error)[:100]}"
        raise MeaningBroken(what, record=extent.name, offset=extent.offset) from None
    places = {other.name: other for other in layout.extents}
    aside = 0
    for name, payload in table.config.items():
        record = places.get(folder + payload.path_name)
        if record is None:
            what = f"weight {name[:100]!r} has no record {payload.path_name[:100]!r}"
            raise MeaningBroken(what, record=extent.name, offset=extent.offset)
        meta = payload.tensor_meta
        if payload.use_pickle or meta is None or meta.layout != _STRIDED or meta.dtype not in _DTYPES:
            aside += 1
        elif any(size.as_int is None for size in (*meta.sizes, *meta.strides, meta.storage_offset)):
            aside += 1  # an expression, which only the program can work out
        else:
            records.setdefault(record.name, (record, []))[1].append((name, meta))
    return aside


def _shape(meta: _Meta) -> tuple[int, ...]:
    return tuple(size.as_int or 0 for size in meta.sizes)


def _storage(extent: Extent, views: list[tuple[str, _Meta]]) -> Storage:
    """Return the whole record as a storage, of bytes where its length is no multiple of an element's."""
    dtype = _DTYPES[views[0][1].dtype]
    if extent.length % ITEM_BYTES[dtype]:
        dtype = "uint8"
    return Storage(extent.name, extent.offset, extent.length, dtype, ITEM_BYTES[dtype])


def _views(extent: Extent, views: list[tuple[str, _Meta]]) -> Iterator[Tensor]:
    """Yield the tensors on a record, after a check that each is inside it."""
    for name, meta in views:
        dtype, shape = _DTYPES[meta.dtype], _shape(meta)
        stride = tuple(step.as_int or 0 for step in meta.strides)
        first = meta.storage_offset.as_int or 0
        if len(shape) != len(stride) or len(shape) > _DIMENSIONS_MAX or min((*shape, *stride, first)) < 0:
            _refuse("impossible shape", name, extent)
        tensor = Tensor(name, extent.name, dtype, shape, stride, first)
        end = (first + span_count(tensor) if 0 not in shape else 0) * ITEM_BYTES[dtype]
        if end > extent.length or prod(shape) >= _COUNT_MAX:
            _refuse(f"needs {end} bytes, and its record has {extent.length}", name, extent)
        yield tensor


def _refuse(reason: str, name: str, extent: Extent) -> NoReturn:
    raise MeaningBroken(f"weight {name[:100]!r}: {reason}", record=extent.name, offset=extent.offset)
