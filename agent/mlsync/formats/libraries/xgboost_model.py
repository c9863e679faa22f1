"""XGBoost's models, in JSON and in Universal Binary JSON: counts that must agree, and nodes that name each other.

JSON is decoded into what is wanted of it, lists as the text that they are. Of the binary form heads alone are read, and
the numbers of children.
"""

from __future__ import annotations

import re
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, NoReturn

import msgspec

from mlsync.formats.faults import MeaningBroken, NotChecked, read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken, Fact
from mlsync.formats.libraries.boosting import BoosterLayout

JSON_BYTES_MAX = 32 << 20
PARTS_MAX = 4_000_000
LIST_BYTES_MAX = 4 << 20
_TEXT_BYTES_MAX: Final = 256
_TEXT_CHARS_MAX: Final = 200
_KEYS_MAX: Final = 1000
_NESTING_MAX: Final = 24
_WINDOW_BYTES: Final = 64 << 10
_COUNT_MAX: Final = 1 << 63
_JSON = re.compile(rb'\{\s*(?:"version"\s*:\s*\[[0-9, ]*\]\s*,\s*)?"learner"\s*:')
_BINARY = re.compile(rb"\{(?:L\0{7}|[iU])\x07learner\{", re.DOTALL)
_WHOLE_NUMBERS = re.compile(r"\[\s*(?:-?[0-9]{1,10}(?:\s*,\s*-?[0-9]{1,10})*+)?\s*\]")
_VERSION = re.compile(rb"\[\s*([0-9]{1,9})\s*,\s*([0-9]{1,9})\s*,\s*([0-9]{1,9})\s*\]")
_NUMBER = re.compile(r"[0-9]{1,18}")
# XGBoost writes them, and JSON does not have them; no name that is asked for has one in it
_NO_JSON: Final = (b"Infinity", b"NaN")
NODE_LISTS: Final = ("left_children", "right_children", "parents", "split_indices", "split_conditions", "default_left")


def begins_as_xgboost(head: bytes) -> str | None:
    """The container that a file is which begins as a model of XGBoost does."""
    if _BINARY.match(head):
        return "xgboost-ubj"
    return "xgboost-json" if _JSON.match(head) else None


class _Tree(NamedTuple):
    """One tree: how many nodes it says it has, how long its lists are, which nodes are whose children."""

    nodes: str
    lengths: dict[str, int]
    children: Iterable[int]


class _Model(NamedTuple):
    """A model beside its trees."""

    about: dict[str, object]
    objective: object
    version: object
    trees_told: object
    info_count: int | None
    last_round: int | None
    drop_count: int | None
    weight_count: int | None
    rounds: object


def _check_tree(tree: _Tree, place: int) -> int:
    """How many lists a tree has, which are as long as it has nodes; its children are nodes of it."""
    nodes = _whole(tree.nodes, f"tree {place}: number of nodes")
    for name, length in tree.lengths.items():
        if length != nodes:
            _refuse(f"tree {place}: {name} has {length} numbers, and {nodes} nodes")
    if any(not -1 <= child < nodes for child in tree.children):
        _refuse(f"tree {place}: a node has a child that there is not")
    return len(tree.lengths)


def _layout(container: str, size_bytes: int, model: _Model, trees: int | None, arrays: int) -> BoosterLayout:
    """The layout of a model whose trees are right, if it says the same of them in all places."""
    features = _whole(model.about.get("num_feature"), "number of features")
    if trees is not None:
        _check_counts(model, trees)
    elif model.weight_count is not None and model.weight_count % (features + 1):
        _refuse(f"{model.weight_count} weights of {features} features")
    facts: dict[str, Fact] = {"framework": "xgboost", "feature_count": min(features, _COUNT_MAX - 1)}
    if isinstance(model.version, str):
        facts["framework_version"] = model.version[:_TEXT_CHARS_MAX]
    if isinstance(model.objective, str):
        facts["objective"] = model.objective[:_TEXT_CHARS_MAX]
    if trees is not None:
        facts["tree_count"] = trees
    if isinstance(model.rounds, int) and 0 <= model.rounds < _COUNT_MAX:
        facts["step"] = model.rounds
    return BoosterLayout(container, size_bytes, (), arrays + (trees is None), tuple(facts.items()))


def _check_counts(model: _Model, trees: int) -> None:
    """There are as many trees as the model says in each of several places."""
    told = _whole(model.trees_told, "number of trees")
    counts = {
        "its own count": told,
        "the groups of trees": model.info_count,
        "the weights of trees": model.drop_count,
        "the end of the last round": model.last_round,
    }
    for what, count in counts.items():
        if count not in (None, trees):
            _refuse(f"{trees} trees, and {count} by {what}")


def _whole(text: object, what: str) -> int:
    if not isinstance(text, str) or _NUMBER.fullmatch(text) is None:
        raise NotChecked(f"{what} is not told as it is known here")
    return int(text)


def _refuse(reason: str) -> NoReturn:
    raise MeaningBroken(reason)


# ---------------------------------------------------------------- JSON


_NO_LIST: Final = msgspec.Raw(b"")


class _Nodes(msgspec.Struct, gc=False):
    num_nodes: str


class _JsonTree(msgspec.Struct, gc=False):
    left_children: msgspec.Raw
    right_children: msgspec.Raw
    parents: msgspec.Raw
    split_indices: msgspec.Raw
    split_conditions: msgspec.Raw
    default_left: msgspec.Raw
    tree_param: _Nodes


class _Told(msgspec.Struct):
    num_trees: str


class _Trees(msgspec.Struct):
    trees: list[_JsonTree] | None = None
    gbtree_model_param: _Told | None = None
    tree_info: msgspec.Raw = _NO_LIST
    iteration_indptr: msgspec.Raw = _NO_LIST
    weights: msgspec.Raw = _NO_LIST
    boosted_rounds: int | None = None


class _Inner(msgspec.Struct):
    model: _Trees


class _Booster(msgspec.Struct):
    model: _Trees | None = None
    gbtree: _Inner | None = None
    weight_drop: msgspec.Raw = _NO_LIST


class _About(msgspec.Struct):
    num_feature: str


class _Objective(msgspec.Struct):
    name: str | None = None


class _Learner(msgspec.Struct):
    gradient_booster: _Booster
    learner_model_param: _About
    objective: _Objective | None = None


class _File(msgspec.Struct):
    learner: _Learner
    version: msgspec.Raw = _NO_LIST


def read_xgboost_json_layout(source: ByteSource) -> BoosterLayout:
    """Level 1 and 2 of a model in JSON: it parses to its end, and its counts agree."""
    if source.size_bytes > JSON_BYTES_MAX:
        raise NotChecked(f"JSON of {source.size_bytes} bytes is larger than is checked")
    file = _decoded(read_bounded(source, 0, source.size_bytes, "model"))
    booster = file.learner.gradient_booster
    trees = booster.model or (booster.gbtree.model if booster.gbtree is not None else None)
    if trees is None:
        raise NotChecked("model without a booster that is known here")
    arrays = 0
    for place, tree in enumerate(trees.trees or ()):
        lists = {name: _count(getattr(tree, name)) or 0 for name in NODE_LISTS}
        arrays += _check_tree(_Tree(tree.tree_param.num_nodes, lists, _children(tree)), place)
    rounds = _last(trees.iteration_indptr)
    model = _Model(
        {"num_feature": file.learner.learner_model_param.num_feature},
        file.learner.objective and file.learner.objective.name,
        _dotted(bytes(file.version)),
        trees.gbtree_model_param and trees.gbtree_model_param.num_trees,
        _count(trees.tree_info),
        rounds,
        _count(booster.weight_drop),
        _count(trees.weights),
        trees.boosted_rounds if trees.trees is None else (_count(trees.iteration_indptr) or 1) - 1,
    )
    return _layout("xgboost-json", source.size_bytes, model, None if trees.trees is None else len(trees.trees), arrays)


def _decoded(data: bytes) -> _File:
    """The model; numbers that JSON does not have, and XGBoost writes, count as any others."""
    try:
        for word in _NO_JSON:
            data = data.replace(word, b"0")
        return msgspec.json.decode(data, type=_File)
    except msgspec.ValidationError as error:
        raise NotChecked(f"a model that is not known here: {str(error)[:200]}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ContainerBroken(f"does not parse: {str(error)[:100]}") from None


def _dotted(version: bytes) -> str | None:
    match = _VERSION.fullmatch(version)
    return b".".join(match.groups()).decode() if match is not None else None


def _count(raw: msgspec.Raw) -> int | None:
    """How many items a list of numbers has, by its text."""
    text = bytes(raw).strip()
    if not text:
        return None
    if text[:1] != b"[" or text.count(b"[") != 1:
        raise NotChecked("list of what is not known here")
    return text.count(b",") + 1 if text[1:-1].strip() else 0


def _children(tree: _JsonTree) -> Iterator[int]:
    for raw in (tree.left_children, tree.right_children):
        yield from _whole_numbers(raw)


def _whole_numbers(raw: msgspec.Raw) -> Iterator[int]:
    text = bytes(raw).decode("latin-1")
    if len(text) > LIST_BYTES_MAX:
        raise NotChecked("tree of more nodes than is checked")
    if _WHOLE_NUMBERS.fullmatch(text) is None:
        _refuse("list of children is none of whole numbers")
    inside = text.strip()[1:-1].strip()
    return map(int, inside.split(",")) if inside else iter(())


def _last(raw: msgspec.Raw) -> int | None:
    numbers = list(_whole_numbers(raw)) if bytes(raw) else []
    return numbers[-1] if numbers else None


# ---------------------------------------------------------------- binary


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
    """Level 1 and 2 of a model in binary JSON: one value to the end of the file, and its counts agree."""
    trees = arrays = 0

    def take(tree: object) -> None:
        nonlocal trees, arrays
        arrays += _check_tree(_binary_tree(source, tree), trees)
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
    model = _Model(
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
    return _layout("xgboost-ubj", source.size_bytes, model, trees if has_trees else None, arrays)


def _of(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None


def _length(value: object) -> int | None:
    return value.length if isinstance(value, _List) else None


def _binary_tree(source: ByteSource, tree: object) -> _Tree:
    nodes = _of(_of(tree, "tree_param"), "num_nodes")
    lists = {name: value for name in NODE_LISTS if isinstance(value := _of(tree, name), _List)}
    if not isinstance(nodes, str) or len(lists) != len(NODE_LISTS):
        raise NotChecked("tree that is not known here")
    children: list[int] = []
    for name in ("left_children", "right_children"):
        children += _numbers(source, lists[name])
    return _Tree(nodes, {name: value.length for name, value in lists.items()}, children)


def _numbers(source: ByteSource, value: _List) -> Iterable[int]:
    """The least and the largest of a list of numbers of four bytes; of others nothing."""
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
        """The next byte, which says what follows."""
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise NotChecked(f"model of more than {PARTS_MAX} parts is larger than is checked")
        return self._bytes(1).decode("latin-1")

    def value(self, kind: str, depth: int, key: str = "") -> object:
        """A value of that kind; of a list no more than its length and its last item."""
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
        """A text; a long one is none of those that are asked for, and empty."""
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
