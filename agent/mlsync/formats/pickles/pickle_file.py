"""Files that are one pickle, as ``pickle.dump`` writes them, or joblib, with raw arrays in between.

The pickle machine runs over the file up to each STOP and skips long byte strings: of a model of ten gigabytes only the
opcodes are read. joblib writes the bytes of an array right after the object that describes it, in the middle of the
pickle; the machine continues behind them. There are no checksums.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from mlsync.formats.faults import NotChecked, read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Extent, Layout, Storage, Tensor
from mlsync.formats.pickles import machine as pickle_machine
from mlsync.formats.pickles.counts import counts_in
from mlsync.formats.pickles.machine import Machine, PickleCutShort
from mlsync.formats.pickles.nodes import Call, Global, Members, Pairs
from mlsync.formats.pickles.numpy_arrays import dtype_code, is_shape
from mlsync.formats.strides import dense_stride
from mlsync.values import Fact

ARRAYS_MAX = 200_000
#: Of all opcodes in a file; the raw bytes between them do not count.
OPCODES_BYTES_MAX = 32 << 20
_FIRST_BYTES = 64 << 10
_STEP_FACTOR = 4
# Shorter byte strings stay in the graph, where they cost less than an extent
_RAW_BYTES_MIN = 1024
_RAW_ROOM_BYTES = 1024
_TEXT_CHARS_MAX = 200
_RECONSTRUCT_PARTS = 5  # version, shape, type, whether it is column by column, bytes
_FROM_BUFFER_ARGUMENTS = 4  # bytes, type, shape, order
_DTYPE_PARTS = 8
_HAS_OBJECTS = 1
_WRAPPER = "NumpyArrayWrapper"
_WALKED = frozenset({Call, list, tuple, Pairs, Members})
_NEXT = re.compile(rb"\x80([\x02-\x05]|$)")
_CODE = re.compile(r"([biufcSUVmM])([0-9]{1,9})")
_KINDS = {"i": "int", "u": "uint", "f": "float", "c": "complex"}
_WIDTHS = {"i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}
_TEXT_WIDTH = 4  # bytes of a character of a text of numpy
_PYTHON_MODULES = frozenset({"builtins", "__builtin__", "collections", "copyreg", "copy_reg", "__main__"})


class Raw(NamedTuple):
    """Bytes of the file that are not read."""

    offset: int
    length: int


class _Array(NamedTuple):
    """An array as the pickle describes it."""

    shape: object
    dtype: object
    is_fortran: bool
    data: Raw | bytes


@dataclass(frozen=True, slots=True)
class PickleLayout(Layout):
    """A pickle's raw byte ranges, and the arrays that the pickle places in them."""

    arrays: tuple[_Array, ...] = ()
    facts: tuple[tuple[str, Fact], ...] = ()


def read_pickle_layout(source: ByteSource) -> PickleLayout:
    """Return level 1: one pickle behind the other, each whole, and all raw bytes inside of the file."""
    window_bytes = _FIRST_BYTES
    while True:
        reader = _Reader(source, window_bytes)
        try:
            roots = reader.read_all()
        except PickleCutShort:
            if window_bytes >= OPCODES_BYTES_MAX:
                raise _too_large() from None
            window_bytes = min(window_bytes * _STEP_FACTOR, OPCODES_BYTES_MAX)
            continue
        arrays = [*reader.arrays, *(array for root in [*roots, *reader.inner] for array in _arrays_in(root))]
        extents = tuple(Extent(f"raw/{place}", *raw) for place, raw in enumerate(reader.raws))
        return PickleLayout("pickle", source.size_bytes, extents, tuple(arrays), tuple(_facts(roots).items()))


def read_pickle_content(layout: PickleLayout) -> Content:
    """Return level 2: every array of numpy has the bytes that its type and shape need."""
    names = {extent.offset: extent.name for extent in layout.extents}
    storages: dict[int, Storage] = {}
    tensors = []
    aside_count = 0
    for place, array in enumerate(layout.arrays):
        view = _view(f"array/{place}", array)
        if view is None or not isinstance(array.data, Raw):
            aside_count += 1
            continue
        dtype, item_bytes, shape, stride = view
        name = names[array.data.offset]
        if array.data.offset in storages:
            continue  # one array under two names
        storages[array.data.offset] = Storage(name, *array.data, dtype, item_bytes)
        tensors.append(Tensor(f"array/{place}", name, dtype, shape, stride, 0))
    in_order = tuple(storages[offset] for offset in sorted(storages))
    return Content(in_order, tuple(tensors), dict(layout.facts), aside_count=aside_count)


class _Ahead(Exception):
    """Raw bytes come next: *described* by an array's wrapper, or a byte string of *length*."""

    def __init__(self, at: int, length: int, described: Call | None) -> None:
        super().__init__()
        self.at = at
        self.length = length
        self.described = described


class _FileMachine(Machine):
    """The machine over a part of a file that begins at *base*; it stops at raw bytes."""

    __slots__ = ("base", "size_bytes", "takes_wrappers")

    def __init__(self, data: bytes, base: int, room_bytes: int, size_bytes: int, *, takes_wrappers: bool) -> None:
        super().__init__(data, 0, room_bytes)
        self.base = base
        self.size_bytes = size_bytes
        self.takes_wrappers = takes_wrappers

    def push_bytes(self, length: int) -> None:
        """Stop at a long byte string."""
        if length < _RAW_BYTES_MIN:
            super().push_bytes(length)
        else:
            raise _Ahead(self.at, length, None)

    def built(self, made: Call) -> None:
        """Stop after the object that joblib writes before an array."""
        if self.takes_wrappers and _is_wrapper(made.func):
            raise _Ahead(self.at, 0, made)

    def rest_bytes(self) -> int:
        """Return how many bytes the file has from here on."""
        return self.size_bytes - self.base - self.at


def _is_wrapper(func: object) -> bool:
    return type(func) is Global and func.name == _WRAPPER and "joblib" in func.module


class _Reader:
    """Runs machines over a file; *raws* are the byte ranges that they skipped, in file order."""

    def __init__(self, source: ByteSource, window_bytes: int) -> None:
        self.raws: list[Raw] = []
        self.arrays: list[_Array] = []
        self.inner: list[object] = []  # what the pickles in the place of arrays make
        self._source = source
        self._window_bytes = window_bytes
        self._room_bytes = pickle_machine.GRAPH_BYTES_MAX
        self._opcodes_bytes = OPCODES_BYTES_MAX
        self._begin = 0
        self._held = b""

    def read_all(self) -> list[object]:
        """Return what each of the file's pickles makes."""
        roots, at = [], 0
        while at < self._source.size_bytes:
            if at and not _NEXT.match(self._window(at)):
                raise NotChecked("what lies behind the pickle is not known here", offset=at)
            root, at = self._read_one(at, takes_wrappers=True)
            roots.append(root)
        if not roots:
            raise ContainerBroken("no pickle", offset=0)
        return roots

    def _read_one(self, at: int, *, takes_wrappers: bool) -> tuple[object, int]:
        size_bytes = self._source.size_bytes
        machine = _FileMachine(self._window(at), at, self._room_bytes, size_bytes, takes_wrappers=takes_wrappers)
        while True:
            try:
                root, end = machine.finish()
            except _Ahead as ahead:
                self._count(ahead.at)
                self._room_bytes = machine.room_bytes - _RAW_ROOM_BYTES
                machine.base = self._step_over(machine, ahead)
                machine.room_bytes = self._room_bytes
                machine.data, machine.at = self._window(machine.base), 0
            except PickleCutShort as cut:
                if machine.base + len(machine.data) < size_bytes:
                    raise
                raise ContainerBroken("file ends inside of its pickle", offset=size_bytes) from cut
            except ContainerBroken as fault:
                raise type(fault)(fault.reason, offset=machine.base + (fault.offset or 0)) from None
            else:
                self._count(end)
                self._room_bytes = machine.room_bytes
                return root, machine.base + end

    def _count(self, length: int) -> None:
        self._opcodes_bytes -= length
        if self._opcodes_bytes < 0 or len(self.raws) > ARRAYS_MAX:
            raise _too_large()

    def _step_over(self, machine: _FileMachine, ahead: _Ahead) -> int:
        """Record the raw bytes that come next; return where the pickle continues."""
        at = machine.base + ahead.at
        if ahead.described is None:
            raw = self._take_raw(at, ahead.length)
            machine.stack.append(raw)
            return at + ahead.length
        state = ahead.described.then.state if ahead.described.then is not None else None
        fields = dict(_text_pairs(state))
        width, has_objects = _width(fields.get("dtype"))
        if has_objects:
            root, end = self._read_one(at, takes_wrappers=False)
            self.inner.append(root)
            return end
        shape = fields.get("shape")
        if width is None or not is_shape(shape):
            raise NotChecked("array of joblib of a type that is not known here", offset=at)
        if fields.get("numpy_array_alignment_bytes") is not None:
            at += 1 + read_bounded(self._source, at, 1, "array's padding")[0]
        raw = self._take_raw(at, prod(shape) * width)
        self.arrays.append(_Array(shape, fields.get("dtype"), fields.get("order") == "F", raw))
        return at + raw.length

    def _take_raw(self, at: int, length: int) -> Raw:
        if at + length > self._source.size_bytes:
            raise ContainerBroken(f"file ends inside of {length} raw bytes", offset=at)
        raw = Raw(at, length)
        self.raws.append(raw)
        return raw

    def _window(self, at: int) -> bytes:
        """Return the bytes from *at* on, one window of them; bytes that are already in memory are not read again."""
        wanted = min(self._window_bytes, self._source.size_bytes - at)
        held = self._begin + len(self._held) - at
        if at < self._begin or held < min(wanted, self._window_bytes // 2):
            self._begin, self._held = at, read_bounded(self._source, at, wanted, "pickle")
        return self._held[at - self._begin :]


def _too_large() -> NotChecked:
    return NotChecked(f"pickle of more than {OPCODES_BYTES_MAX} bytes, or {ARRAYS_MAX} arrays, is more than is checked")


def _text_pairs(state: object) -> Iterator[tuple[str, object]]:
    if isinstance(state, Pairs):
        yield from ((key, value) for key, value in state.pairs() if isinstance(key, str))


def _arrays_in(root: object) -> Iterator[_Array]:
    """Yield numpy's arrays in a graph, each once; joblib's were collected while the file was read."""
    seen: set[int] = set()
    waiting: list[Iterator[object]] = [iter((root,))]
    while waiting:
        node = next(waiting[-1], waiting)
        if node is waiting:
            waiting.pop()
        elif type(node) in _WALKED and id(node) not in seen:
            seen.add(id(node))
            array = _array_made_by(node) if type(node) is Call else None
            if array is not None:
                yield array
            waiting.append(_parts(node))


def _parts(node: object) -> Iterator[object]:
    if type(node) is not Call:
        assert isinstance(node, (list, tuple))
        return iter(node)
    then = node.then
    if then is None:
        return iter((node.args,))
    return iter((node.args, then.kwargs, then.state, then.items, then.pairs))


def _array_made_by(call: Call) -> _Array | None:
    func = call.func
    if type(func) is not Global or not func.module.startswith("numpy"):
        return None
    if func.name == "_reconstruct":
        state = call.then.state if call.then is not None else None
        if type(state) is tuple and len(state) == _RECONSTRUCT_PARTS and isinstance(state[4], (Raw, bytes)):
            return _Array(state[1], state[2], state[3] is True, state[4])
    elif func.name == "_frombuffer" and len(call.args) == _FROM_BUFFER_ARGUMENTS:
        data, dtype, shape, order = call.args
        if type(data) is Call and data.args:  # bytearray(b"...")
            data = data.args[0]
        if isinstance(data, (Raw, bytes)):
            return _Array(shape, dtype, order == "F", data)
    return None


def _view(name: str, array: _Array) -> tuple[str, int, tuple[int, ...], tuple[int, ...]] | None:
    """Return type, width of an element, shape and stride; ``None`` where the array is of nothing that is known here."""
    width, has_objects = _width(array.dtype)
    shape = array.shape
    if width is None or has_objects or not is_shape(shape):
        return None
    length, needed = len(array.data) if isinstance(array.data, bytes) else array.data.length, prod(shape) * width
    if length != needed:
        offset = array.data.offset if isinstance(array.data, Raw) else None
        what = f"array of shape {shape[:8]} needs {needed} bytes, there are {length}"
        raise ContainerBroken(what, record=name, offset=offset)
    code, order = dtype_code(array.dtype)
    dtype = _torch_name(code, width) if order != ">" else None
    stride = dense_stride(name, shape[::-1])[::-1] if array.is_fortran else dense_stride(name, shape)
    if dtype is None:
        return None if order == ">" else ("bytes", 1, (needed,), (1,))
    return dtype, width, shape, stride


def _torch_name(code: str, width: int) -> str | None:
    if code[:1] == "b":
        return "bool"
    kind = _KINDS.get(code[:1])
    return f"{kind}{8 * width}" if kind is not None and width in _WIDTHS[code[:1]] else None


def _width(dtype: object) -> tuple[int | None, bool]:
    """Return how many bytes an element has, if that is known, and whether it is, or may hold, an object of Python."""
    code, _ = dtype_code(dtype)
    if code[:1] == "O":
        return None, True
    match = _CODE.fullmatch(code)
    if match is None:
        return None, False
    if match[1] == "V" and isinstance(dtype, Call) and dtype.then is not None:
        return int(match[2]), _mentions_objects(dtype.then.state)
    if match[1] in "mM" or match[1] == "V":
        return int(match[2]), False
    return int(match[2]) * (_TEXT_WIDTH if match[1] == "U" else 1), False


def _mentions_objects(state: object) -> bool:
    """Return whether a type of several fields has one of objects: the last number of its state is a set of flags."""
    if type(state) is not tuple or len(state) < _DTYPE_PARTS:
        return False
    flags = state[_DTYPE_PARTS - 1]
    return type(flags) is int and bool(flags & _HAS_OBJECTS)


def _facts(roots: list[object]) -> dict[str, Fact]:
    """Return the object's framework and class, and what its trainer counted."""
    root = roots[0]
    facts: dict[str, Fact] = {**counts_in(root), "framework": "pickle"}
    maker = root.func if isinstance(root, Call) else None
    if isinstance(maker, Global) and maker.name in ("_reconstructor", "__newobj__") and isinstance(root, Call):
        maker = root.args[0] if root.args else None
    if isinstance(maker, Global) and maker.module not in _PYTHON_MODULES:
        facts["framework"] = maker.module.partition(".")[0][:_TEXT_CHARS_MAX]
        facts["class"] = f"{maker.module}.{maker.name}"[:_TEXT_CHARS_MAX]
    return facts
