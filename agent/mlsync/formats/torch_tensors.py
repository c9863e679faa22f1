"""Torch's own calls in a pickle: which of them make tensors, on which storage, and whether the view fits."""

from __future__ import annotations

from typing import NoReturn

from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ContainerBroken, Extent, Storage, Tensor
from mlsync.formats.pickle_machine import Call, Global, Persistent
from mlsync.formats.zipfile_layout import ZipLayout

_DIMENSIONS_MAX = 64
_COUNT_MAX = 1 << 63

_ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
    "uint8": 1,
    "bool": 1,
    "quint8": 1,
    "qint8": 1,
    "qint32": 4,
}
_STORAGE_TYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "QUInt8Storage": "quint8",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "UntypedStorage": "",
}
_STRIDED = frozenset({"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor"})
_REBUILD_MODULES = frozenset({"torch._utils", "torch._tensor"})
_STRIDED_ARGUMENTS = 4  # storage, place, shape, strides
_ID_PARTS = 5  # "storage", type, key, location, number of elements
_DTYPE_ARGUMENT = 6  # of _rebuild_tensor_v3, whose storage has no type of its own


class _Block:
    """A storage as seen so far; *dtype* is empty while only untyped mentions of it were met."""

    __slots__ = ("dtype", "extent")

    def __init__(self, extent: Extent, dtype: str) -> None:
        self.extent = extent
        self.dtype = dtype


class StorageTable:
    """The storages that the pickle mentions; answers which record each one is, and refuses what does not fit."""

    def __init__(self, layout: ZipLayout, prefix: str) -> None:
        self._extents = {extent.name: extent for extent in layout.extents}
        self._packed = layout.packed
        self._prefix = f"{prefix}data/"
        self._blocks: dict[str, _Block] = {}

    def add(self, persistent: Persistent) -> tuple[_Block, str]:
        """The storage behind a persistent id, and the type that the id gives it (empty: untyped)."""
        kind, key, count = _parse_id(persistent.id)
        dtype = _STORAGE_TYPES.get(kind)
        if dtype is None:
            msg = f"storage type {kind[:64]!r} is not known here"
            raise NotChecked(msg)
        block = self._blocks.get(key)
        extent = self._find(key) if block is None else block.extent
        needed = count * _ITEM_BYTES.get(dtype, 1)
        if needed != extent.length:
            _refuse(f"storage needs {needed} bytes, its record has {extent.length}", extent)
        if block is None:
            block = self._blocks[key] = _Block(extent, dtype)
        elif not block.dtype:
            block.dtype = dtype
        return block, dtype

    def storages(self) -> tuple[Storage, ...]:
        """All of them in file order."""
        blocks = sorted(self._blocks.values(), key=lambda block: block.extent.offset)
        return tuple(_storage(block.extent, block.dtype or "uint8") for block in blocks)

    def _find(self, key: str) -> Extent:
        name = self._prefix + key
        extent = self._extents.get(name)
        if extent is None:
            msg = "storage has no record"
            raise ContainerBroken(msg, record=name[:256])
        if name in self._packed:
            msg = "storage is compressed, which is not checked"
            raise NotChecked(msg, record=name, offset=extent.offset)
        return extent


def is_tensor_call(call: Call) -> bool:
    """Whether the call makes a tensor out of a storage, a place and strides."""
    func = call.func
    if not isinstance(func, Global) or func.module not in _REBUILD_MODULES or func.name not in _STRIDED:
        return False
    return bool(call.args) and isinstance(call.args[0], Persistent)


def is_parameter_call(call: Call) -> bool:
    """Whether the call wraps a tensor as a parameter of a module."""
    func = call.func
    return isinstance(func, Global) and func.module == "torch._utils" and func.name.startswith("_rebuild_parameter")


def rebuilt_call(call: Call) -> Call:
    """The call inside of ``_rebuild_from_type_v2``, which wraps the call of every subclass; others as they are."""
    func = call.func
    if isinstance(func, Global) and func.name == "_rebuild_from_type_v2" and func.module in _REBUILD_MODULES:
        match call.args:
            case [Global() as inner, _, tuple() as args]:
                return Call(inner, args)
            case [Global() as inner, _, tuple() as args, state, *_]:
                made = Call(inner, args)
                made.touch().state = state
                return made
    return call


def tensor_view(name: str, call: Call, table: StorageTable) -> Tensor:
    """The tensor that the call would make, known to lie inside of its storage."""
    args = call.args
    if len(args) < _STRIDED_ARGUMENTS or not isinstance(args[0], Persistent):
        _refuse(f"tensor {name!r} is described in too few words")
    block, storage_dtype = table.add(args[0])
    extent = block.extent
    dtype = _own_dtype(call) or storage_dtype or "uint8"
    item_bytes = _ITEM_BYTES.get(dtype)
    if item_bytes is None:
        msg = f"tensor type {dtype[:64]!r} is not known here"
        raise NotChecked(msg, record=extent.name)
    if not block.dtype and extent.length % item_bytes == 0:
        block.dtype = dtype  # the type of a tensor on an untyped storage, for the counts
    first, shape, stride = args[1], _counts(name, args[2], extent), _counts(name, args[3], extent)
    if type(first) is not int or not 0 <= first < _COUNT_MAX or len(shape) != len(stride):
        _refuse(f"tensor {name!r} has no place or no strides", extent)
    reach = first + 1
    for size, step in zip(shape, stride, strict=True):
        reach += (size - 1) * step
    if reach * item_bytes > extent.length and 0 not in shape:
        _refuse(f"tensor {name!r} reaches past its storage", extent)
    return Tensor(name, extent.name, dtype, shape, stride, first)


def _storage(extent: Extent, dtype: str) -> Storage:
    return Storage(extent.name, extent.offset, extent.length, dtype, _ITEM_BYTES[dtype])


def _own_dtype(call: Call) -> str:
    if isinstance(call.func, Global) and call.func.name == "_rebuild_tensor_v3" and len(call.args) > _DTYPE_ARGUMENT:
        dtype = call.args[_DTYPE_ARGUMENT]
        if isinstance(dtype, Global) and dtype.module == "torch":
            return dtype.name
    return ""


def _parse_id(persistent_id: object) -> tuple[str, str, int]:
    """Storage type, record key and number of elements."""
    if type(persistent_id) is tuple and len(persistent_id) >= _ID_PARTS:
        tag, kind, key, _, count = persistent_id[:_ID_PARTS]
        is_one = tag == "storage" and type(kind) is Global and type(key) is str
        if is_one and type(count) is int and 0 <= count < _COUNT_MAX:
            return kind.name, key, count
    raise ContainerBroken("persistent id that is no storage")


def _counts(name: str, value: object, extent: Extent) -> tuple[int, ...]:
    """A shape or strides: a tuple, or torch.Size of one, of whole numbers."""
    if isinstance(value, Call) and len(value.args) == 1:
        value = value.args[0]
    if type(value) is list:
        value = tuple(value)
    if type(value) is not tuple or len(value) > _DIMENSIONS_MAX:
        _refuse(f"tensor {name!r} has no shape", extent)
    for count in value:
        if type(count) is not int or count < 0 or count >= _COUNT_MAX:
            _refuse(f"tensor {name!r} has a shape that cannot be", extent)
    return value


def _refuse(reason: str, extent: Extent | None = None) -> NoReturn:
    if extent is None:
        raise ContainerBroken(reason)
    raise ContainerBroken(reason, record=extent.name, offset=extent.offset)
