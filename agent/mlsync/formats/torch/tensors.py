"""Torch's calls in a pickle: which of them make tensors, on which storage, and whether the view fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, NoReturn, TypeGuard

from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ContainerBroken, Extent, Packed, Storage, Tensor
from mlsync.formats.pickles.nodes import Call, Global, Persistent

_DIMENSIONS_MAX = 64
_COUNT_MAX = 1 << 63

#: The width of an element of each type; a complex number is one.
ITEM_BYTES = {
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
# How many arguments each of them takes, at least and at most
_STRIDED = {
    "_rebuild_tensor": (4, 4),
    "_rebuild_tensor_v2": (6, 7),
    "_rebuild_tensor_v3": (7, 8),
    "_rebuild_qtensor": (7, 7),
}
_REBUILD_MODULES = frozenset({"torch._utils", "torch._tensor"})
_LEARNS_ARGUMENT = 4  # of _rebuild_tensor_v2 and _v3, behind storage, place, shape and strides
_ID_PARTS = 5  # "storage", type, key, location, number of elements; before 1.6 which of these the tensor may see
_CLASS_ID_PARTS = 4  # "module", class, source file, source
_DTYPE_ARGUMENT = 6  # of _rebuild_tensor_v3, whose storage has no type of its own


class _Block:
    """A storage as found so far; *dtype* is empty as long as only untyped references to it were found."""

    __slots__ = ("dtype", "extent", "length")

    def __init__(self, extent: Extent, length: int, dtype: str) -> None:
        self.extent = extent
        self.length = length  # of the storage, which may be compressed in the file
        self.dtype = dtype


class StorageId(NamedTuple):
    """A parsed persistent id; a tensor on the storage sees the elements from *begin* to *end*."""

    key: str
    dtype: str  # empty: the storage has no type of its own
    elements: int
    item_bytes: int
    begin: int
    end: int


class StorageTable:
    """The storages that the pickle names, each with its record; refuses those that do not fit."""

    def __init__(
        self, extents: Iterable[Extent], prefix: str, packed: Mapping[str, Packed] | None = None, suffix: str = ""
    ) -> None:
        self._extents = {extent.name: extent for extent in extents}
        self._packed = packed or {}
        self._prefix = prefix
        self._suffix = suffix
        self._blocks: dict[str, _Block] = {}

    def add(self, storage: StorageId) -> _Block:
        """Return the storage behind an id, which must have the length that the id tells."""
        block = self._blocks.get(storage.key)
        if block is None:
            block = self._blocks[storage.key] = self._find(storage.key)
        needed = storage.elements * storage.item_bytes
        if needed != block.length:
            _refuse(f"storage needs {needed} bytes, its record has {block.length}", block.extent)
        block.dtype = block.dtype or storage.dtype
        return block

    def add_all(self, persistents: Iterable[Persistent]) -> None:
        """Add the storages of all ids of a pickle, also unreachable ones: torch reads each of them."""
        for persistent in persistents:
            storage = storage_id(persistent)
            if storage is not None:
                self.add(storage)

    def storages(self) -> tuple[Storage, ...]:
        """Return the storages whose bytes are uncompressed in the file, in file order."""
        blocks = [block for block in self._blocks.values() if block.extent.name not in self._packed]
        blocks.sort(key=lambda block: block.extent.offset)
        return tuple(_storage(block.extent, block.dtype or "uint8") for block in blocks)

    def offset_of(self, tensor: Tensor) -> int | None:
        """Return where in the file the storage of a tensor begins, if it lies there as it is."""
        name = tensor.storage
        return None if name in self._packed or name not in self._extents else self._extents[name].offset

    def packed_count(self) -> int:
        """Return how many of them are compressed."""
        return sum(block.extent.name in self._packed for block in self._blocks.values())

    def _find(self, key: str) -> _Block:
        name = self._prefix + key + self._suffix
        extent = self._extents.get(name)
        if extent is None:
            msg = "storage has no record"
            raise ContainerBroken(msg, record=name[:256])
        packed = self._packed.get(name)
        return _Block(extent, extent.length if packed is None else packed.plain_bytes, "")


def storage_id(persistent: Persistent) -> StorageId | None:
    """Return the storage that a persistent id names; ``None`` for a module's class, which old torch saved as one."""
    parts = persistent.id
    if type(parts) is not tuple or len(parts) < _CLASS_ID_PARTS:
        raise ContainerBroken("persistent id that is no storage")
    if parts[0] == "module" and len(parts) == _CLASS_ID_PARTS:
        return None
    tag, kind, key, _, count = parts[:_ID_PARTS] if len(parts) >= _ID_PARTS else (None,) * _ID_PARTS
    if tag != "storage" or type(kind) is not Global or type(key) is not str or not _is_count(count):
        raise ContainerBroken("persistent id that is no storage")
    dtype = _STORAGE_TYPES.get(kind.name)
    if dtype is None:
        raise NotChecked(f"storage type {kind.name[:64]!r} is not known here")
    begin, end = _view(parts[_ID_PARTS:], count)
    return StorageId(key, dtype, count, ITEM_BYTES.get(dtype, 1), begin, end)


def _view(parts: tuple[object, ...], count: int) -> tuple[int, int]:
    """Return the range of the storage's elements that an id means: all, or those that its sixth part names."""
    match parts:
        case () | (None, *_):
            return 0, count
        case ((_, int() as begin, int() as length), *_) if 0 <= begin <= begin + length <= count:
            return begin, begin + length
    raise ContainerBroken("view that lies outside of its storage")


def is_tensor_call(call: Call) -> bool:
    """Return whether the call makes a tensor out of a storage, a place and strides."""
    func = call.func
    return isinstance(func, Global) and func.module in _REBUILD_MODULES and func.name in _STRIDED


def is_parameter_call(call: Call) -> bool:
    """Return whether the call wraps a tensor as a parameter of a module."""
    func = call.func
    return isinstance(func, Global) and func.module == "torch._utils" and func.name.startswith("_rebuild_parameter")


def rebuilt_call(call: Call) -> Call:
    """Return the call inside ``_rebuild_from_type_v2``, which wraps a subclass's call; other calls unchanged."""
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
    """Return the tensor that the call would make, known to lie inside of its storage."""
    args = call.args
    assert isinstance(call.func, Global)
    least, most = _STRIDED[call.func.name]
    if not least <= len(args) <= most or not isinstance(args[0], Persistent):
        _refuse(f"tensor {name!r} is described in {len(args)} words, or without a storage")
    storage = storage_id(args[0])
    if storage is None:
        _refuse(f"tensor {name!r} lies on a class")
    block = table.add(storage)
    extent = block.extent
    dtype = _own_dtype(call) or storage.dtype or "uint8"
    item_bytes = ITEM_BYTES.get(dtype)
    if item_bytes is None:
        msg = f"tensor type {dtype[:64]!r} is not known here"
        raise NotChecked(msg, record=extent.name)
    if not block.dtype and block.length % item_bytes == 0:
        block.dtype = dtype  # the type of a tensor on an untyped storage, for the counts
    first, shape, stride = args[1], _counts(name, args[2], extent), _counts(name, args[3], extent)
    if not _is_count(first) or len(shape) != len(stride):
        _refuse(f"tensor {name!r} has no place or no strides", extent)
    reach = first + 1
    for size, step in zip(shape, stride, strict=True):
        reach += (size - 1) * step
    if args[_LEARNS_ARGUMENT:][:1] == (True,) and "float" not in dtype and "complex" not in dtype:
        _refuse(f"tensor {name!r} of {dtype} cannot learn, and should", extent)
    if reach * item_bytes > (storage.end - storage.begin) * storage.item_bytes and 0 not in shape:
        _refuse(f"tensor {name!r} reaches past its storage", extent)
    return Tensor(name, extent.name, dtype, shape, stride, storage.begin + first)


def _storage(extent: Extent, dtype: str) -> Storage:
    return Storage(extent.name, extent.offset, extent.length, dtype, ITEM_BYTES[dtype])


def _own_dtype(call: Call) -> str:
    if isinstance(call.func, Global) and call.func.name == "_rebuild_tensor_v3" and len(call.args) > _DTYPE_ARGUMENT:
        dtype = call.args[_DTYPE_ARGUMENT]
        if isinstance(dtype, Global) and dtype.module == "torch":
            return dtype.name
    return ""


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _COUNT_MAX


def _counts(name: str, value: object, extent: Extent) -> tuple[int, ...]:
    """Return a shape or strides: a tuple, or torch.Size of one, of whole numbers."""
    if isinstance(value, Call) and len(value.args) == 1:
        value = value.args[0]
    if type(value) is list:
        value = tuple(value)
    if type(value) is not tuple or len(value) > _DIMENSIONS_MAX:
        _refuse(f"tensor {name!r} has no shape", extent)
    for count in value:
        if not _is_count(count):
            _refuse(f"tensor {name!r} has an impossible shape", extent)
    return value


def _refuse(reason: str, extent: Extent | None = None) -> NoReturn:
    if extent is None:
        raise ContainerBroken(reason)
    raise ContainerBroken(reason, record=extent.name, offset=extent.offset)
