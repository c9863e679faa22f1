"""A pickle interpreter that runs nothing: names stay names, calls stay calls, and what comes out is a graph to look at.

Nothing is imported, looked up, called or compared; no key is hashed (the hash of a tuple costs what its author wants).
Memory and time are bounded by the pickle's length and by the number of its opcodes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NoReturn

from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ContainerBroken

PICKLE_BYTES_MAX = 128 << 20
OPCODES_MAX = 4_000_000
MARKS_MAX = 10_000
INTEGER_BYTES_MAX = 1024
LINE_BYTES_MAX = 64 << 10
DIGITS_MAX = 1000
PROTOCOL_MAX = 5

_STOP = 0x2E


class Global:
    """A name that a pickle wants imported; it stays a name."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    def __repr__(self) -> str:
        return f"Global({self.module!r}, {self.name!r})"


class Call:
    """What would have been an object: *func* called with *args*, then *state* set, *items* appended, *pairs* set."""

    __slots__ = ("args", "func", "items", "kwargs", "pairs", "state")

    def __init__(self, func: object, args: tuple[object, ...], kwargs: object = None) -> None:
        self.func = func
        self.args = args
        self.kwargs = kwargs
        self.state: object = None
        self.items: list[object] | None = None
        self.pairs: Pairs | None = None


class Persistent:
    """An object that lies outside of the pickle, by its id."""

    __slots__ = ("id",)

    def __init__(self, persistent_id: object) -> None:
        self.id = persistent_id


class Pairs(list[tuple[object, object]]):
    """A dict as it was written: pairs in order, keys unhashed, later ones win."""

    __slots__ = ()


class Members(list[object]):
    """A set or frozenset as it was written."""

    __slots__ = ()


def read_pickle(data: bytes, start: int = 0) -> tuple[object, int]:
    """The object graph of the pickle at *start* and the offset behind its STOP, or ``ContainerBroken``."""
    if len(data) - start > PICKLE_BYTES_MAX:
        msg = f"pickle of {len(data) - start} bytes is larger than is checked"
        raise NotChecked(msg, offset=start)
    machine = _Machine(data, start)
    try:
        return machine.run()
    except (IndexError, KeyError, ValueError, OverflowError, struct.error) as error:
        reason = "stack underflow" if isinstance(error, IndexError) else "malformed operand"
        reason = "memo entry missing" if isinstance(error, KeyError) else reason
        msg = f"pickle: {reason}"
        raise ContainerBroken(msg, offset=machine.at) from None


class _Machine:
    """The pickle machine's registers, one method per kind of opcode."""

    __slots__ = ("at", "data", "memo", "outer", "stack")

    def __init__(self, data: bytes, start: int) -> None:
        self.data = data
        self.at = start
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each open mark
        self.memo: dict[int, Any] = {}  # a dict: a huge index costs no more than a small one

    def run(self) -> tuple[object, int]:
        """Execute up to STOP."""
        data, handlers, size = self.data, _HANDLERS, len(self.data)
        for _ in range(OPCODES_MAX):
            if self.at >= size:
                self.fail("cut short")
            opcode = data[self.at]
            self.at += 1
            handler = handlers[opcode]
            if handler is not None:
                handler(self)
            elif opcode == _STOP:
                return self.stop()
            else:
                self.fail(f"opcode 0x{opcode:02x} is not allowed")
        msg = f"pickle of more than {OPCODES_MAX} operations is larger than is checked"
        raise NotChecked(msg, offset=self.at)

    def stop(self) -> tuple[object, int]:
        """The result, which must be all that is left."""
        value = self.stack.pop()
        if self.stack or self.outer:
            self.fail("objects left over at the end")
        return value, self.at

    def fail(self, reason: str) -> NoReturn:
        """Give up on the pickle."""
        msg = f"pickle: {reason}"
        raise ContainerBroken(msg, offset=self.at)

    # Operands

    def take(self, length: int) -> bytes:
        """The next *length* bytes of the pickle."""
        begins = self.at
        ends = begins + length
        if length < 0 or ends > len(self.data):
            self.fail("cut short")
        self.at = ends
        return self.data[begins:ends]

    def number(self, length: int) -> int:
        """An unsigned little-endian operand."""
        return int.from_bytes(self.take(length), "little")

    def line(self) -> bytes:
        """A text operand up to its newline."""
        ends = self.data.find(b"\n", self.at, self.at + LINE_BYTES_MAX)
        if ends < 0:
            self.fail("line without end")
        text = self.data[self.at : ends]
        self.at = ends + 1
        return text

    def digits(self) -> int:
        """A decimal operand, no longer than any honest one."""
        text = self.line().removesuffix(b"L")
        if len(text) > DIGITS_MAX:
            self.fail("number too long")
        return int(text)

    def close_mark(self) -> list[Any]:
        """Everything above the newest mark; the stack is what was below it."""
        items = self.stack
        self.stack = self.outer.pop()
        return items

    # Constants

    def op_none(self) -> None:
        self.stack.append(None)

    def op_true(self) -> None:
        self.stack.append(True)

    def op_false(self) -> None:
        self.stack.append(False)

    def op_int_text(self) -> None:
        text = self.data[self.at : self.at + 3]
        value: int = self.digits()
        self.stack.append({b"00\n": False, b"01\n": True}.get(text, value))

    def op_long_text(self) -> None:
        self.stack.append(self.digits())

    def op_binint(self) -> None:
        self.stack.append(int.from_bytes(self.take(4), "little", signed=True))

    def op_binint1(self) -> None:
        self.stack.append(self.data[self.at])
        self.at += 1

    def op_binint2(self) -> None:
        self.stack.append(self.number(2))

    def op_long1(self) -> None:
        self.stack.append(int.from_bytes(self.take(self.number(1)), "little", signed=True))

    def op_long4(self) -> None:
        length = self.number(4)
        if length > INTEGER_BYTES_MAX:
            self.fail(f"integer of {length} bytes")
        self.stack.append(int.from_bytes(self.take(length), "little", signed=True))

    def op_float_text(self) -> None:
        self.stack.append(float(self.line()))

    def op_binfloat(self) -> None:
        self.stack.append(struct.unpack(">d", self.take(8))[0])

    # Strings and bytes; the 8-bit strings of Python 2 are text here, with their escapes left as written

    def op_string_text(self) -> None:
        text = self.line()
        if len(text) < len("''") or text[:1] != text[-1:] or text[:1] not in b"'\"":
            self.fail("string without quotes")
        self.stack.append(text[1:-1].decode("latin-1"))

    def op_unicode_text(self) -> None:
        self.stack.append(self.line().decode("raw-unicode-escape"))

    def op_binstring(self) -> None:
        self.stack.append(self.take(int.from_bytes(self.take(4), "little", signed=True)).decode("latin-1"))

    def op_short_binstring(self) -> None:
        self.stack.append(self.take(self.number(1)).decode("latin-1"))

    def op_unicode1(self) -> None:
        self.stack.append(self.take(self.number(1)).decode("utf-8", "surrogatepass"))

    def op_unicode4(self) -> None:
        self.stack.append(self.take(self.number(4)).decode("utf-8", "surrogatepass"))

    def op_unicode8(self) -> None:
        self.stack.append(self.take(self.number(8)).decode("utf-8", "surrogatepass"))

    def op_bytes1(self) -> None:
        self.stack.append(self.take(self.number(1)))

    def op_bytes4(self) -> None:
        self.stack.append(self.take(self.number(4)))

    def op_bytes8(self) -> None:
        self.stack.append(self.take(self.number(8)))

    # Stack and memo

    def op_mark(self) -> None:
        if len(self.outer) >= MARKS_MAX:
            self.fail("nested too deeply")
        self.outer.append(self.stack)
        self.stack = []

    def op_pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.close_mark()

    def op_pop_mark(self) -> None:
        self.close_mark()

    def op_dup(self) -> None:
        self.stack.append(self.stack[-1])

    def op_get_text(self) -> None:
        self.stack.append(self.memo[self.digits()])

    def op_get1(self) -> None:
        self.stack.append(self.memo[self.data[self.at]])
        self.at += 1

    def op_get4(self) -> None:
        self.stack.append(self.memo[self.number(4)])

    def op_put_text(self) -> None:
        self.memo[self.digits()] = self.stack[-1]

    def op_put1(self) -> None:
        self.memo[self.data[self.at]] = self.stack[-1]
        self.at += 1

    def op_put4(self) -> None:
        self.memo[self.number(4)] = self.stack[-1]

    def op_memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    # Containers

    def op_empty_tuple(self) -> None:
        self.stack.append(())

    def op_tuple1(self) -> None:
        self.stack[-1] = (self.stack[-1],)

    def op_tuple2(self) -> None:
        last = self.stack.pop()
        self.stack[-1] = (self.stack[-1], last)

    def op_tuple3(self) -> None:
        last = self.stack.pop()
        middle = self.stack.pop()
        self.stack[-1] = (self.stack[-1], middle, last)

    def op_tuple(self) -> None:
        items = self.close_mark()
        self.stack.append(tuple(items))

    def op_empty_list(self) -> None:
        self.stack.append([])

    def op_list(self) -> None:
        items = self.close_mark()
        self.stack.append(items)

    def op_empty_dict(self) -> None:
        self.stack.append(Pairs())

    def op_dict(self) -> None:
        items = self.close_mark()
        self.stack.append(self.pair_up(items))

    def op_empty_set(self) -> None:
        self.stack.append(Members())

    def op_frozenset(self) -> None:
        items = self.close_mark()
        self.stack.append(Members(items))

    def pair_up(self, items: list[Any]) -> Pairs:
        """Keys and values in turn."""
        if len(items) % 2:
            self.fail("key without value")
        return Pairs(zip(items[::2], items[1::2], strict=True))

    def grow(self, items: list[Any]) -> None:
        """Append to the list, set or object on top."""
        target = self.stack[-1]
        kind = type(target)
        if kind is list or kind is Members:
            target.extend(items)
        elif kind is Call:
            if target.items is None:
                target.items = []
            target.items.extend(items)
        else:
            self.fail("appends to what is no list")

    def assign(self, pairs: Pairs) -> None:
        """Set items of the dict or object on top."""
        target = self.stack[-1]
        kind = type(target)
        if kind is Pairs:
            target.extend(pairs)
        elif kind is Call:
            if target.pairs is None:
                target.pairs = Pairs()
            target.pairs.extend(pairs)
        else:
            self.fail("sets an item of what is no dict")

    def op_append(self) -> None:
        self.grow([self.stack.pop()])

    def op_appends(self) -> None:
        self.grow(self.close_mark())

    def op_setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self.assign(Pairs([(key, value)]))

    def op_setitems(self) -> None:
        self.assign(self.pair_up(self.close_mark()))

    # What would import or run something

    def op_global(self) -> None:
        module = self.line().decode("utf-8")
        self.stack.append(Global(module, self.line().decode("utf-8")))

    def op_stack_global(self) -> None:
        name = self.stack.pop()
        module = self.stack.pop()
        if type(name) is not str or type(module) is not str:
            self.fail("global whose name is no text")
        self.stack.append(Global(module, name))

    def push_call(self, func: object, args: object, kwargs: object = None) -> None:
        """Note a call of something that could be called."""
        if not isinstance(func, (Global, Call)) or type(args) is not tuple:
            self.fail("calls what cannot be called")
        self.stack.append(Call(func, args, kwargs))

    def op_reduce(self) -> None:
        args = self.stack.pop()
        self.push_call(self.stack.pop(), args)

    def op_newobj_ex(self) -> None:
        kwargs = self.stack.pop()
        args = self.stack.pop()
        self.push_call(self.stack.pop(), args, kwargs)

    def op_inst(self) -> None:
        items = self.close_mark()
        self.op_global()
        self.push_call(self.stack.pop(), tuple(items))

    def op_obj(self) -> None:
        items = self.close_mark()
        self.push_call(items[0], tuple(items[1:]))

    def op_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is not Call:
            self.fail("sets the state of what is no object")
        target.state = state

    def op_persid(self) -> None:
        self.stack.append(Persistent(self.line().decode("ascii")))

    def op_binpersid(self) -> None:
        self.stack.append(Persistent(self.stack.pop()))

    # Framing

    def op_proto(self) -> None:
        if self.number(1) > PROTOCOL_MAX:
            self.fail("unknown protocol")

    def op_frame(self) -> None:
        if self.number(8) > len(self.data) - self.at:
            self.fail("frame runs past the end")


# EXT1, EXT2, EXT4 (a registry of the process) and NEXT_BUFFER, READONLY_BUFFER (bytes from elsewhere) are left out on
# purpose: no checkpoint holds them, and what they mean is not in the file.
_OPCODES: dict[int, Callable[[_Machine], None]] = {
    ord("("): _Machine.op_mark,
    ord("0"): _Machine.op_pop,
    ord("1"): _Machine.op_pop_mark,
    ord("2"): _Machine.op_dup,
    ord("F"): _Machine.op_float_text,
    ord("I"): _Machine.op_int_text,
    ord("J"): _Machine.op_binint,
    ord("K"): _Machine.op_binint1,
    ord("L"): _Machine.op_long_text,
    ord("M"): _Machine.op_binint2,
    ord("N"): _Machine.op_none,
    ord("P"): _Machine.op_persid,
    ord("Q"): _Machine.op_binpersid,
    ord("R"): _Machine.op_reduce,
    ord("S"): _Machine.op_string_text,
    ord("T"): _Machine.op_binstring,
    ord("U"): _Machine.op_short_binstring,
    ord("V"): _Machine.op_unicode_text,
    ord("X"): _Machine.op_unicode4,
    ord("a"): _Machine.op_append,
    ord("b"): _Machine.op_build,
    ord("c"): _Machine.op_global,
    ord("d"): _Machine.op_dict,
    ord("}"): _Machine.op_empty_dict,
    ord("e"): _Machine.op_appends,
    ord("g"): _Machine.op_get_text,
    ord("h"): _Machine.op_get1,
    ord("i"): _Machine.op_inst,
    ord("j"): _Machine.op_get4,
    ord("l"): _Machine.op_list,
    ord("]"): _Machine.op_empty_list,
    ord("o"): _Machine.op_obj,
    ord("p"): _Machine.op_put_text,
    ord("q"): _Machine.op_put1,
    ord("r"): _Machine.op_put4,
    ord("s"): _Machine.op_setitem,
    ord("t"): _Machine.op_tuple,
    ord(")"): _Machine.op_empty_tuple,
    ord("u"): _Machine.op_setitems,
    ord("G"): _Machine.op_binfloat,
    ord("B"): _Machine.op_bytes4,
    ord("C"): _Machine.op_bytes1,
    0x80: _Machine.op_proto,
    0x81: _Machine.op_reduce,  # NEWOBJ: the same two operands, the same inert result
    0x85: _Machine.op_tuple1,
    0x86: _Machine.op_tuple2,
    0x87: _Machine.op_tuple3,
    0x88: _Machine.op_true,
    0x89: _Machine.op_false,
    0x8A: _Machine.op_long1,
    0x8B: _Machine.op_long4,
    0x8C: _Machine.op_unicode1,
    0x8D: _Machine.op_unicode8,
    0x8E: _Machine.op_bytes8,
    0x8F: _Machine.op_empty_set,
    0x90: _Machine.op_appends,  # ADDITEMS
    0x91: _Machine.op_frozenset,
    0x92: _Machine.op_newobj_ex,
    0x93: _Machine.op_stack_global,
    0x94: _Machine.op_memoize,
    0x95: _Machine.op_frame,
    0x96: _Machine.op_bytes8,  # BYTEARRAY8
}
_HANDLERS: list[Callable[[_Machine], None] | None] = [_OPCODES.get(opcode) for opcode in range(256)]
