"""XGBoost's models in Universal Binary JSON: only the headers of values and the lists of children are read."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from mlsync.formats.faults import NotChecked, read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken
from mlsync.formats.libraries.boosting import BoosterLayout
from mlsync.formats.libraries.xgboost_model import (
    LIST_BYTES_MAX,
    NODE_LISTS,
    BoosterModel,
    BoosterTree,
    booster_layout,
    check_tree,
)

PARTS_MAX = 4_000_000
_TEXT_BYTES_MAX: Final = 256
_KEYS_MAX: Final = 1000
_NESTING_MAX: Final = 24
_WINDOW_BYTES: Final = 64 << 10


class _List(NamedTuple):
    """A list of the binary form: how many items it has, the last one, and where its numbers lie, of which type."""

    length: int
    last: object
    code: str
    at: int


_WIDTHS: Final = {"i": 1, "U": 1, "I": 2, "l": 4, "L": 8, "d": 4, "D": 8}
_INTEGERS: Final = {"i": ">b", "U": ">B", "I": ">h", "l": ">i", "L": ">q"}
_FLOATS: Final = {"d": ">f", "D": ">d"}
_CONSTANTS: Final = {"Z": None, "T": True, "F": False, "N": None}


def read_xgboost_binary_layout(source: ByteSource) -> BoosterLayout:
    """Return levels 1 and 2 of a model in binary JSON: one value to the end of the file, and its counts agree."""
    trees = arrays = 0

    def take(tree: object) -> None:
        nonlocal trees, arrays
        arrays += check_tree(_binary_tree(source, tree), trees)
        trees += 1

    walk = _Walk(source, take)
    root = walk.value(walk.marker(), 0)
    if walk.at != source.size_bytes:
        raise ContainerBroken("more behind the model", offset=walk.at)
    learner = _of(root, "learner")
    booster = _of(learner, "gradient_booster")
    inner = _of(booster, "model") or _of(_of(booster, "gbtree"), "model")
    about = _of(learner, "learner_model_param")
    has_trees, rounds = isinstance(_of(inner, "trees"), _List), _of(inner, "iteration_indptr")
    if not isinstance(inner, dict) or not isinstance(about, dict):
        raise NotChecked("model without a booster that is known here")
    last = rounds.last if isinstance(rounds, _List) else None
    model = BoosterModel(
        about,
        _of(_of(learner, "objective"), "name"),
        walk.version,
        _of(_of(inner, "gbtree_model_param"), "num_trees"),
        _length(_of(inner, "tree_info")),
        last if isinstance(last, int) else None,
        _length(_of(booster, "weight_drop")),
        _length(_of(inner, "weights")),
        rounds.length - 1 if isinstance(rounds, _List) else _of(inner, "boosted_rounds"),
    )
    return booster_layout("xgboost-ubj", source.size_bytes, model, trees if has_trees else None, arrays)


def _of(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None


def _length(value: object) -> int | None:
    return value.length if isinstance(value, _List) else None


def _binary_tree(source: ByteSource, tree: object) -> BoosterTree:
    nodes = _of(_of(tree, "tree_param"), "num_nodes")
    lists = {name: value for name in NODE_LISTS if isinstance(value := _of(tree, name), _List)}
    if not isinstance(nodes, str) or len(lists) != len(NODE_LISTS):
        raise NotChecked("tree that is not known here")
    children: list[int] = []
    for name in ("left_children", "right_children"):
        children += _numbers(source, lists[name])
    return BoosterTree(nodes, {name: value.length for name, value in lists.items()}, children)


def _numbers(source: ByteSource, value: _List) -> Iterable[int]:
    """Return the smallest and the largest number of a list of 32-bit integers; nothing for other lists."""
    size_bytes = value.length * 4
    if value.code != "l" or not value.length:
        return ()
    if size_bytes > LIST_BYTES_MAX:
        raise NotChecked("tree of more nodes than is checked", offset=value.at)
    numbers = array("i", read_bounded(source, value.at, size_bytes, "children"))
    if sys.byteorder == "little":
        numbers.byteswap()
    return min(numbers), max(numbers)


class _Walk:
    """Reads the values of a file from its beginning; *take* is given each of the trees, which are not kept."""

    def __init__(self, source: ByteSource, take: Callable[[object], None]) -> None:
        self.at = 0
        self.version: str | None = None
        self._source = source
        self._take = take
        self._parts = 0
        self._begin = 0
        self._held = b""

    def marker(self) -> str:
        """Return the next byte, which says what follows."""
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise NotChecked(f"model of more than {PARTS_MAX} parts is larger than is checked")
        return self._bytes(1).decode("latin-1")

    def value(self, kind: str, depth: int, key: str = "") -> object:
        """Return a value of that kind; of a list only its length and its last item."""
        if depth > _NESTING_MAX:
            raise NotChecked("model that is nested more deeply than is checked", offset=self.at)
        if kind == "{":
            return self._object(depth)
        if kind == "[":
            return self._list(depth, key)
        if kind in _INTEGERS or kind in _FLOATS:
            return struct.unpack(_INTEGERS.get(kind) or _FLOATS[kind], self._bytes(_WIDTHS[kind]))[0]
        if kind == "S":
            return self._text(self._size(self.marker()))
        if kind == "C":
            return self._bytes(1).decode("latin-1")
        if kind in _CONSTANTS:
            return _CONSTANTS[kind]
        raise ContainerBroken("value of a kind that there is not", offset=self.at - 1)

    def _object(self, depth: int) -> dict[str, object]:
        found: dict[str, object] = {}
        left = None
        kind = self.marker()
        if kind == "#":
            left = self._size(self.marker())
            kind = self.marker() if left else ""
        while left != 0 and kind != "}":
            key = self._text(self._size(kind))
            value = self.value(self.marker(), depth + 1, key)
            if len(found) < _KEYS_MAX:
                found[key] = value
            left = None if left is None else left - 1
            kind = self.marker() if left != 0 else ""
        return found

    def _list(self, depth: int, key: str) -> _List:
        kind, code = self.marker(), ""
        if kind == "$":
            code = self.marker()
            kind = self.marker()
            if kind != "#":
                raise ContainerBroken("list of one kind without a length", offset=self.at)
        if kind != "#":
            return self._open_list(kind, depth, key)
        count = self._size(self.marker())
        if code:
            width = _WIDTHS.get(code)
            if width is None:
                raise NotChecked("list of a kind that is not known here", offset=self.at)
            begin = self.at
            self._skip(count * width)
            return _List(count, None, code, begin)
        last: object = None
        texts = []
        for place in range(count):
            last = self._item(self.marker(), depth, key)
            if key == "version" and place < 4:  # noqa: PLR2004 - numbers of a version
                texts.append(str(last))
        if key == "version" and depth == 1:
            self.version = ".".join(texts)
        return _List(count, last, "", self.at)

    def _open_list(self, kind: str, depth: int, key: str) -> _List:
        count, last = 0, None
        while kind != "]":
            last = self._item(kind, depth, key)
            count += 1
            kind = self.marker()
        return _List(count, last, "", self.at)

    def _item(self, kind: str, depth: int, key: str) -> object:
        value = self.value(kind, depth + 1)
        if key == "trees":
            self._take(value)
        return value if isinstance(value, (int, float, str)) else None

    def _text(self, length: int) -> str:
        """Return a text; a long one, which no caller needs, is skipped and returned as empty."""
        if length > _TEXT_BYTES_MAX:
            self._skip(length)
            return ""
        return self._bytes(length).decode("utf-8", "replace")

    def _size(self, kind: str) -> int:
        if kind not in _INTEGERS:
            raise ContainerBroken("length that is no number", offset=self.at - 1)
        [size] = struct.unpack(_INTEGERS[kind], self._bytes(_WIDTHS[kind]))
        if not 0 <= size <= self._source.size_bytes - self.at:
            raise ContainerBroken("file ends inside of a value", offset=self.at)
        return int(size)

    def _skip(self, length: int) -> None:
        if length > self._source.size_bytes - self.at:
            raise ContainerBroken("file ends inside of a list", offset=self.at)
        self.at += length

    def _bytes(self, length: int) -> bytes:
        begin = self.at - self._begin
        if not 0 <= begin <= len(self._held) - length:
            left = self._source.size_bytes - self.at
            if length > left:
                raise ContainerBroken("file ends inside of a value", offset=self._source.size_bytes)
            self._begin, self._held = self.at, self._source.read_at(self.at, min(_WINDOW_BYTES, left))
            begin = 0
        self.at += length
        return self._held[begin : begin + length]
