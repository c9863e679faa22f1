"""Walk an ONNX model from field to field and collect its tensors; their bytes are stepped over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, NoReturn

from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ByteSource, ContainerBroken, Tensor
from mlsync.formats.strides import TENSORS_BYTES_MAX, held_bytes
from mlsync.values import Fact

PARTS_MAX = 2_000_000  # fields, all that is looked at one by one
_WINDOW_BYTES: Final = 64 << 10
_DIMENSIONS_MAX: Final = 64
_TEXT_BYTES_MAX: Final = 4096
_FACT_CHARS_MAX: Final = 200
_NESTING_MAX: Final = 40
_COUNT_MAX: Final = 1 << 63
_VARINT_BYTES_MAX: Final = 10
_IR_WITH_OPSETS: Final = 3
_LOW: Final = bytes(range(0x80))
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_KEY_MAX: Final = (1 << 32) - 1
# Messages that hold no tensor, and which message lies in which of their fields: each must parse, or no model is read
_INSIDE: Final[Mapping[str, Mapping[int, str]]] = {
    "pair": {},
    "operators": {},
    "annotation": {2: "pair"},
    "value": {2: "type", 4: "pair"},
    "type": {1: "array", 4: "list", 5: "map", 7: "pair", 8: "array", 9: "list"},
    "array": {2: "shape"},
    "list": {1: "type"},
    "map": {2: "type"},
    "shape": {1: "pair"},
    "devices": {2: "sharding"},
    "sharding": {3: "pair", 4: "sharded"},
    "sharded": {2: "pair"},
}
_IN_MODEL: Final = {8: "operators", 14: "pair", 26: "pair"}
_IN_GRAPH: Final = {11: "value", 12: "value", 13: "value", 14: "annotation", 16: "pair"}
_IN_NODE: Final = dict.fromkeys((1, 2, 3, 4, 5), "") | {9: "pair", 10: "devices"}
_IN_TRAINING: Final = {3: "pair", 4: "pair"}
_IN_FUNCTION: Final = {9: "operators", 12: "value", 14: "pair"}
_EXTERNAL: Final = 1
_PLACE: Final = frozenset({"location", "offset", "length"})
_FLOAT_DATA, _INT32_DATA, _INT64_DATA, RAW_DATA, _DOUBLE_DATA, _UINT64_DATA = 4, 5, 7, 9, 10, 11
_NUMBERS_IN: Final = frozenset({RAW_DATA, _FLOAT_DATA, _DOUBLE_DATA, _INT32_DATA, _INT64_DATA, _UINT64_DATA})
FIXED_BYTES: Final = {_FLOAT_DATA: 4, _DOUBLE_DATA: 8}


class ExternalData(NamedTuple):
    """Where the bytes of a tensor lie that are in a file beside; *length* is ``None`` where nobody says."""

    location: str
    offset: int
    length: int | None


class OnnxTensor(NamedTuple):
    """A tensor as the message tells it: so many numbers in the *field* that holds them, at *offset* if plain."""

    name: str
    shape: tuple[int, ...]
    kind: int
    field: int
    offset: int
    length: int
    number_count: int
    external: ExternalData | None


@dataclass(slots=True)
class _Making:
    """A tensor whose fields are being read."""

    shape: list[int] = field(default_factory=list)
    entries: dict[str, str] = field(default_factory=dict)
    name: str = ""
    kind: int = 0
    held_in: int = 0
    offset: int = 0
    length: int = 0
    count: int = 0
    location: int = 0
    is_part: bool = False


class ModelWalk:
    """Walks the message forward; goes no further than the bounds."""

    def __init__(self, source: ByteSource) -> None:
        self.described: list[OnnxTensor] = []
        self._at = 0
        self._source = source
        self._begin = 0
        self._held = b""
        self._parts = 0
        self._left_bytes = TENSORS_BYTES_MAX
        self._names: set[str] = set()

    def model(self) -> dict[str, Fact]:
        """Read the whole model into ``described`` and return the facts about it."""
        facts: dict[str, Fact] = {"framework": "onnx"}
        graphs = opsets = 0
        for number, wire, value in self._fields(self._source.size_bytes):
            if number == 1:
                self._want(wire, _VARINT)
                facts["ir_version"] = min(value, _COUNT_MAX)
            elif number == 2:  # noqa: PLR2004
                facts["producer"] = self._text(wire, value)[:_FACT_CHARS_MAX]
            elif number == 7:  # noqa: PLR2004
                self._want(wire, _BYTES)
                graphs += 1
                self._graph(value, 0)
            elif number in _IN_MODEL:
                opsets += number == 8  # noqa: PLR2004
                self._want(wire, _BYTES)
                self._skim(value, _IN_MODEL[number], 0)
            elif number in (20, 25):
                self._want(wire, _BYTES)
                self._graph_holder(value, {20: (1, 2), 25: ()}[number], 7 if number == 25 else 0, 0)  # noqa: PLR2004
            elif number > 64:  # noqa: PLR2004 - the format has 26, and grows slowly
                self._refuse("field that no ONNX model has")
        if "ir_version" not in facts or graphs != 1:
            self._refuse("no ONNX model: cut short, or something else")
        if not opsets and int(facts["ir_version"]) >= _IR_WITH_OPSETS:
            self._refuse("model without its operators' version: cut short")
        return facts

    def _graph(self, end: int, depth: int) -> None:
        if depth > _NESTING_MAX:
            self._refuse("graphs nested too deeply")
        for number, wire, value in self._fields(end):
            if number == 1:
                self._want(wire, _BYTES)
                self._node(value, depth)
            elif number == 5:  # noqa: PLR2004
                self._want(wire, _BYTES)
                self._tensor(value)
            elif number == 15:  # noqa: PLR2004
                self._want(wire, _BYTES)
                self._sparse(value)
            elif number in _IN_GRAPH:
                self._want(wire, _BYTES)
                self._skim(value, _IN_GRAPH[number], depth)

    def _skim(self, end: int, message: str, depth: int) -> None:
        """Go over a message that holds no tensor, and over those inside of it."""
        if depth > _NESTING_MAX:
            self._refuse("types nested too deeply")
        for number, wire, value in self._fields(end):
            inner = _INSIDE[message].get(number)
            if inner is not None:
                self._want(wire, _BYTES)
                self._skim(value, inner, depth + 1)

    def _graph_holder(self, end: int, graphs: tuple[int, ...], nodes: int, depth: int) -> None:
        """A message that has graphs, or nodes, in the fields of these numbers: a training, a function."""
        others = _IN_FUNCTION if nodes else _IN_TRAINING
        for number, wire, value in self._fields(end):
            if number in others:
                self._want(wire, _BYTES)
                self._skim(value, others[number], depth)
            elif nodes and number == 11:  # noqa: PLR2004
                self._want(wire, _BYTES)
                self._attribute(value, depth)
            elif number in graphs or number == nodes:
                self._want(wire, _BYTES)
                if number == nodes:
                    self._node(value, depth)
                else:
                    self._graph(value, depth + 1)

    def _node(self, end: int, depth: int) -> None:
        for number, wire, value in self._fields(end):
            if number in _IN_NODE:
                self._want(wire, _BYTES)
                if _IN_NODE[number]:
                    self._skim(value, _IN_NODE[number], depth)
                elif number == 5:  # noqa: PLR2004
                    self._attribute(value, depth)

    def _attribute(self, end: int, depth: int) -> None:
        inner: dict[int, Callable[[int], None]] = {
            5: self._tensor,
            10: self._tensor,
            6: lambda place: self._graph(place, depth + 1),
            11: lambda place: self._graph(place, depth + 1),
            14: lambda place: self._skim(place, "type", depth),
            15: lambda place: self._skim(place, "type", depth),
            22: self._sparse,
            23: self._sparse,
        }
        for number, wire, value in self._fields(end):
            if number in (7, 8) and wire == _BYTES:  # in a row: floats, or whole numbers
                self._count(_FLOAT_DATA if number == 7 else _INT64_DATA, wire, value)  # noqa: PLR2004
            elif number in inner:
                self._want(wire, _BYTES)
                inner[number](value)

    def _sparse(self, end: int) -> None:
        for number, wire, value in self._fields(end):
            if number in (1, 2):
                self._want(wire, _BYTES)
                self._tensor(value)

    def _tensor(self, end: int) -> None:
        making = _Making()
        begins = self._at
        for number, wire, value in self._fields(end):
            if number in _NUMBERS_IN:
                self._take_numbers(making, number, wire, value)
            else:
                self._take_about(making, number, wire, value)
        if making.is_part:
            raise NotChecked("tensor in several parts", record=making.name or None, offset=begins)
        where = self._external(making.entries) if making.location == _EXTERNAL else None
        if making.held_in in FIXED_BYTES and not making.length and making.count:
            making.held_in = _INT64_DATA  # one by one, each behind its key: they do not lie plain
        shape, place = tuple(making.shape), (making.offset or begins, making.length)
        self._add(OnnxTensor(making.name, shape, making.kind, making.held_in, *place, making.count, where))

    def _take_about(self, making: _Making, number: int, wire: int, value: int) -> None:
        """Note a field of a tensor that says what it is."""
        if number == 1:
            making.shape += self._numbers(wire, value)
            shape = making.shape
            if len(shape) > _DIMENSIONS_MAX or max(shape, default=0) >= _COUNT_MAX:
                self._refuse("impossible shape")
        elif number in (2, 14):
            self._want(wire, _VARINT)
            if number == 2:  # noqa: PLR2004
                making.kind = value
            else:
                making.location = value
        elif number == 3:  # noqa: PLR2004
            making.is_part = True
        elif number == 8:  # noqa: PLR2004
            making.name = self._text(wire, value)
        elif number == 13:  # noqa: PLR2004
            self._want(wire, _BYTES)
            self._entry(value, making.entries)

    def _take_numbers(self, making: _Making, number: int, wire: int, value: int) -> None:
        """Note a field that holds a tensor's numbers, all of them or, unpacked, one."""
        if making.held_in not in (0, number) or (making.held_in and number == RAW_DATA):
            self._refuse("tensor with its numbers in two places")
        if making.held_in and wire == _BYTES:
            making.is_part = True  # in several pieces, which nobody writes
        making.held_in, making.offset = number, self._at
        making.length = value - self._at if wire == _BYTES else 0
        making.count += self._count(number, wire, value)

    def _add(self, tensor: OnnxTensor) -> None:
        name = tensor.name or f"constant at {tensor.offset}"
        if name in self._names:
            name = f"{name} at {tensor.offset}"
        self._names.add(name)
        tensor = tensor._replace(name=name)
        self._left_bytes -= 3 * held_bytes(Tensor(name, name, "", tensor.shape, (), 0))
        if self._left_bytes < 0:
            raise NotChecked("more tensors, or of more dimensions, than are checked", offset=self._at)
        self.described.append(tensor)

    def _external(self, entries: dict[str, str]) -> ExternalData:
        try:
            offset = int(entries.get("offset") or 0)
            length = int(entries["length"]) if entries.get("length") else None
        except ValueError:
            self._refuse("place in another file that is no number")
        if not entries.get("location") or offset < 0 or (length or 0) < 0:
            self._refuse("tensor in another file that is not named")
        return ExternalData(entries["location"], offset, length)

    def _entry(self, end: int, entries: dict[str, str]) -> None:
        texts = ["", ""]
        for number, wire, value in self._fields(end):
            if number in (1, 2):
                texts[number - 1] = self._text(wire, value)
        if texts[0] in _PLACE:
            entries[texts[0]] = texts[1]

    def _count(self, number: int, wire: int, value: int) -> int:
        """Return how many numbers lie in a field of numbers."""
        if number == RAW_DATA:
            self._want(wire, _BYTES)
            return 0
        width = FIXED_BYTES.get(number)
        if wire != _BYTES:
            self._want(wire, {None: _VARINT, 4: _FOUR, 8: _EIGHT}[width])
            return 1
        if width is not None:
            if (value - self._at) % width:
                self._refuse("numbers cut short")
            return (value - self._at) // width
        return self._count_varints(value)

    def _count_varints(self, end: int) -> int:
        """Return how many varints there are up to *end*: each has one byte below 0x80, its last."""
        count = 0
        last = b"\0"
        for at in range(self._at, end, _WINDOW_BYTES):
            last = self._source.read_at(at, min(_WINDOW_BYTES, end - at))
            count += len(last) - len(last.translate(None, _LOW))
        if last[-1] > _LOW[-1]:
            self._refuse("numbers cut short")
        return count

    def _numbers(self, wire: int, value: int) -> Iterator[int]:
        """Yield the numbers of a field, unpacked as older writers wrote them, or packed."""
        if wire == _VARINT:
            yield value
            return
        self._want(wire, _BYTES)
        while self._at < value:
            self._part()
            yield self._varint(value)

    def _text(self, wire: int, end: int) -> str:
        self._want(wire, _BYTES)
        if end - self._at > _TEXT_BYTES_MAX:
            self._refuse(f"name of {end - self._at} bytes")
        return self._bytes(end - self._at).decode("utf-8", "replace")

    def _fields(self, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield number, wire type and value of each field up to *end*; the value of bytes is where they end."""
        while self._at < end:
            self._part()
            key = self._varint(end)
            wire, value = key & 7, 0
            if not key >> 3 or key > _KEY_MAX:
                self._refuse("field of a number that none has")
            if wire == _VARINT:
                value = self._varint(end)
                following = self._at
            elif wire == _BYTES:
                value = self._varint(end)
                value = following = self._at + value
            elif wire in (_EIGHT, _FOUR):
                following = self._at + (8 if wire == _EIGHT else 4)
            else:
                self._refuse("field of a kind that is not used")
            if following > end:
                self._refuse("field runs past what holds it: cut short, or damaged")
            yield key >> 3, wire, value
            self._at = following

    def _varint(self, end: int) -> int:
        value = shift = 0
        byte = 0x80
        while byte > _LOW[-1]:
            if self._at >= end or shift >= 7 * _VARINT_BYTES_MAX:
                self._refuse("number cut short, or without an end")
            byte = self._bytes(1)[0]
            self._at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
        return value

    def _bytes(self, length: int) -> bytes:
        """Return the next *length* bytes, which the caller knows to be in the file."""
        begin = self._at - self._begin
        if not 0 <= begin <= begin + length <= len(self._held):
            self._begin, begin = self._at, 0
            self._held = self._source.read_at(self._at, min(_WINDOW_BYTES, self._source.size_bytes - self._at))
        return self._held[begin : begin + length]

    def _part(self) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise NotChecked(f"model of more than {PARTS_MAX} parts is larger than is checked", offset=self._at)

    def _want(self, wire: int, wanted: int) -> None:
        if wire != wanted:
            self._refuse("field of another kind than the format has it")

    def _refuse(self, reason: str) -> NoReturn:
        raise ContainerBroken(reason, offset=min(self._at, self._source.size_bytes))
