"""A pickle interpreter that runs nothing: names stay names, calls stay calls, and the result is a graph of them.

Nothing is imported, looked up, called or compared; no key is hashed (a hostile tuple's hash can take any time). Time is
bounded by the number of opcodes, and memory by what each of them may create: both are counted while it runs.

The loop in ``run`` is written for speed, because every checkpoint passes through it. Rare opcodes have a method each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ContainerBroken
from mlsync.formats.pickles.nodes import Call, Global, Members, Pairs, Persistent

PICKLE_BYTES_MAX = 32 << 20
TURNS_MAX = 4_000_000  # each does one opcode, or one with the one or two that follow it as a rule
# What the graph of one pickle may take, with what a walk over it notes of each object: in checkpoints a tensor is
# charged 1.8 KB, and a chunk of distributed metadata 4.5 KB.
GRAPH_BYTES_MAX = 224 << 20
# What is charged for an object, for what is done to one, for one that is kept by a number that is not the next, and for
# each turn: a place on the stack, and in what is made of that. It is what CPython takes at its worst.
_OBJECT_BYTES = 160
_MARK_BYTES = 64
_DEED_BYTES = 96
_NUMBER_BYTES = 40
_ODD_MEMO_BYTES = 160
_TURN_BYTES = 16
_TEXT_CREDIT_BYTES = 96  # a text has no parts and is never walked
_WIDE = 4  # bytes of a character of a text that is not ASCII, at most
# Who begins to number out of order has not numbered more than this in order.
_ORDERED_MAX = 100_000
MARKS_MAX = 10_000
INTEGER_BYTES_MAX = 1024
LINE_BYTES_MAX = 64 << 10
DIGITS_MAX = 1000
PROTOCOL_MAX = 5

_REDUCE = 0x52
_NEWOBJ = 0x81
_CONSTANTS = {0x4E: None, 0x88: True, 0x89: False}
_F64 = struct.Struct(">d").unpack_from
_U32 = struct.Struct("<I").unpack_from


_CALLABLE = (Global, Call, Persistent)


class Unpickled(NamedTuple):
    """One pickle of a stream: its object graph, where it ends, and all persistent ids in the order of their mention."""

    root: object
    end: int
    persistents: list[Persistent]


class PickleCutShort(ContainerBroken):
    """The bytes end before the pickle does: what there is of it may be sound."""


def read_pickle(data: bytes, start: int = 0) -> tuple[object, int]:
    """Return the object graph of the pickle at *start* and the offset behind its STOP, or ``ContainerBroken``."""
    return unpickle(data, start)[:2]


def unpickle(data: bytes, start: int = 0, room_bytes: int | None = None) -> Unpickled:
    """Return the pickle at *start*; raise ``PickleCutShort`` if more bytes might complete it.

    Its graph may take *room_bytes*, ``GRAPH_BYTES_MAX`` if not told otherwise.
    """
    if len(data) - start > PICKLE_BYTES_MAX:
        msg = f"pickle of {len(data) - start} bytes is larger than is checked"
        raise NotChecked(msg, offset=start)
    machine = _Machine(data, start, GRAPH_BYTES_MAX if room_bytes is None else room_bytes)
    root, end = machine.finish()
    return Unpickled(root, end, machine.persistents)


class _Refused(Exception):
    """The pickle does something that no pickler writes; the message says what."""


def _too_large(at: int) -> NotChecked:
    return NotChecked("pickle of more objects than are checked", offset=at)


class _CutShort(_Refused):
    """An operand extends past the last byte."""


def _is_cut_short(error: Exception, machine: _Machine) -> bool:
    if isinstance(error, (_CutShort, struct.error)):
        return True
    return isinstance(error, IndexError) and machine.at >= len(machine.data)


def _reason(error: Exception) -> str:
    if isinstance(error, _Refused):
        return str(error)
    if isinstance(error, IndexError):
        return "stack underflow or memo entry missing"
    return "memo entry missing" if isinstance(error, KeyError) else "malformed operand"


class _Machine:
    """The pickle machine's registers; rare opcodes have a method each."""

    __slots__ = ("at", "data", "memo", "outer", "persistents", "room_bytes", "stack")

    def __init__(self, data: bytes, start: int, room_bytes: int) -> None:
        self.data = data
        self.room_bytes = room_bytes
        self.at = start
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each open mark
        # Picklers count from zero on, which a list holds in a tenth of a dict's memory. Where one does not, it is a
        # dict: a huge index costs no more than a small one.
        self.memo: list[Any] | dict[int, Any] = []
        self.persistents: list[Persistent] = []

    def finish(self) -> tuple[object, int]:
        """Return the object graph and the offset behind its STOP; ``ContainerBroken`` if the bytes are no pickle."""
        try:
            return self.run()
        except (_Refused, IndexError, KeyError, ValueError, OverflowError, struct.error) as error:
            if _is_cut_short(error, self):
                raise PickleCutShort("pickle: cut short", offset=self.at) from None
            msg = f"pickle: {_reason(error)}"
            raise ContainerBroken(msg, offset=self.at) from None

    def run(self) -> tuple[object, int]:  # noqa: C901, PLR0912, PLR0915 - one loop, for the reason below
        """Execute up to STOP.

        The opcodes that make up nine tenths of every checkpoint are handled here, on local names, the most frequent
        first, together with the opcode that usually follows: a method and a turn for each would take twice the time.
        """
        data, size, memo, outer = self.data, len(self.data), self.memo, self.outer
        at, stack, left_bytes = self.at, self.stack, self.room_bytes
        made: Any
        turn = 0
        try:
            for turn in range(TURNS_MAX):
                opcode = data[at]
                at += 1
                match opcode:
                    case 0x68:  # BINGET
                        stack.append(memo[data[at]])
                        at += 1
                        continue
                    case 0x4B:  # BININT1
                        stack.append(data[at])
                        at += 1
                        continue
                    case 0x29:  # EMPTY_TUPLE
                        if data[at] != _REDUCE and data[at] != _NEWOBJ:
                            stack.append(())
                            continue
                        at += 1
                        made = stack[-1]
                        if type(made) not in _CALLABLE:
                            raise _Refused("calls what cannot be called")
                        stack[-1] = made = Call(made, ())
                    case 0x28:  # MARK
                        if len(outer) >= MARKS_MAX:
                            raise _Refused("nested too deeply")
                        outer.append(stack)
                        stack = []
                        left_bytes -= _MARK_BYTES
                        continue
                    case 0x52 | 0x81:  # REDUCE; NEWOBJ has the same two operands and the same inert result
                        args, made = stack.pop(), stack[-1]
                        if type(args) is not tuple or type(made) not in _CALLABLE:
                            raise _Refused("calls what cannot be called")
                        stack[-1] = made = Call(made, args)
                    case 0x74:  # TUPLE
                        made = tuple(stack)
                        stack = outer.pop()
                        stack.append(made)
                    case 0x58:  # BINUNICODE
                        ends = at + 4 + _U32(data, at)[0]
                        if ends > size:
                            raise _CutShort
                        made = data[at + 4 : ends].decode("utf-8", "surrogatepass")
                        stack.append(made)
                        left_bytes += _TEXT_CREDIT_BYTES - (ends - at if made.isascii() else _WIDE * (ends - at))
                        at = ends
                    case 0x51:  # BINPERSID
                        stack[-1] = made = Persistent(stack[-1])
                        self.persistents.append(made)
                        left_bytes -= _OBJECT_BYTES
                        continue
                    case 0x85:  # TUPLE1
                        stack[-1] = made = (stack[-1],)
                    case 0x89 | 0x88 | 0x4E:  # NEWFALSE, NEWTRUE, NONE
                        stack.append(_CONSTANTS[opcode])
                        continue
                    case 0x7D:  # EMPTY_DICT
                        made = Pairs()
                        stack.append(made)
                    case 0x6A:  # LONG_BINGET
                        stack.append(memo[_U32(data, at)[0]])
                        at += 4
                        continue
                    case 0x47:  # BINFLOAT
                        stack.append(_F64(data, at)[0])
                        at += 8
                        continue
                    case 0x71:  # BINPUT
                        if data[at] == len(memo) and type(memo) is list:
                            memo.append(stack[-1])
                        else:
                            memo = self.put(data[at], stack[-1])
                            left_bytes -= _ODD_MEMO_BYTES
                        at += 1
                        continue
                    case 0x94:  # MEMOIZE
                        if type(memo) is list:
                            memo.append(stack[-1])
                        else:
                            memo = self.put(len(memo), stack[-1])
                            left_bytes -= _ODD_MEMO_BYTES
                        continue
                    case 0x8C:  # SHORT_BINUNICODE
                        ends = at + 1 + data[at]
                        if ends > size:
                            raise _CutShort
                        made = data[at + 1 : ends].decode("utf-8", "surrogatepass")
                        stack.append(made)
                        left_bytes += _TEXT_CREDIT_BYTES - (ends - at if made.isascii() else _WIDE * (ends - at))
                        at = ends
                    case 0x2E:  # STOP
                        break
                    case _:
                        self.at, self.stack = at, stack
                        _RARE[opcode](self)
                        left_bytes -= _RARE_BYTES[opcode] + _WIDE * (self.at - at)
                        at, stack, memo = self.at, self.stack, self.memo
                        if left_bytes < turn * _TURN_BYTES:
                            raise _too_large(at)
                        continue
                left_bytes -= _OBJECT_BYTES
                if left_bytes < turn * _TURN_BYTES:
                    raise _too_large(at)
                match data[at]:
                    case 0x72:  # LONG_BINPUT
                        index = _U32(data, at + 1)[0]
                        if index == len(memo) and type(memo) is list:
                            memo.append(made)
                        else:
                            memo = self.put(index, made)
                            left_bytes -= _ODD_MEMO_BYTES
                        at += 5
                    case 0x94:  # MEMOIZE
                        if type(memo) is list:
                            memo.append(made)
                        else:
                            memo = self.put(len(memo), made)
                            left_bytes -= _ODD_MEMO_BYTES
                        at += 1
            else:
                msg = f"pickle of more than {TURNS_MAX} operations is larger than is checked"
                raise NotChecked(msg, offset=at)
        finally:
            self.at, self.stack = at, stack
            self.room_bytes = left_bytes - turn * _TURN_BYTES
        return self.stop()

    def put(self, index: int, value: object) -> list[Any] | dict[int, Any]:
        """Store a memo entry that is not the next in order; return the memo."""
        memo = self.memo
        if type(memo) is list:
            if index < len(memo):
                memo[index] = value
                return memo
            if len(memo) > _ORDERED_MAX:
                raise _too_large(self.at)
            memo = self.memo = dict(enumerate(memo))
        memo[index] = value
        return memo

    def stop(self) -> tuple[object, int]:
        """Return the result, which must be the only object on the stack."""
        value = self.stack.pop()
        if self.stack or self.outer:
            raise _Refused("objects left over at the end")
        return value, self.at

    # Operands

    def take(self, length: int) -> bytes:
        """Return the next *length* bytes of the pickle."""
        begins = self.at
        ends = begins + length
        if length < 0:
            raise _Refused("length below zero")
        if ends > len(self.data):
            raise _CutShort
        self.at = ends
        return self.data[begins:ends]

    def number(self, length: int) -> int:
        """Return an unsigned little-endian operand."""
        return int.from_bytes(self.take(length), "little")

    def line(self) -> bytes:
        """Return a text operand up to its newline."""
        ends = self.data.find(b"\n", self.at, self.at + LINE_BYTES_MAX)
        if ends < 0:
            raise _CutShort if self.at + LINE_BYTES_MAX > len(self.data) else _Refused("line without end")
        text = self.data[self.at : ends]
        self.at = ends + 1
        return text

    def digits(self) -> int:
        """Return a decimal operand, no longer than any honest one."""
        text = self.line().removesuffix(b"L")
        if len(text) > DIGITS_MAX:
            raise _Refused("number too long")
        return int(text)

    def index(self) -> int:
        """Return a decimal number of a memo entry."""
        index = self.digits()
        if index < 0:
            raise _Refused("memo entry below zero")
        return index

    def close_mark(self) -> list[Any]:
        """Return everything above the newest mark; the stack is what was below it."""
        items = self.stack
        self.stack = self.outer.pop()
        return items

    # Constants

    def op_int_text(self) -> None:
        text = self.data[self.at : self.at + 3]
        value: int = self.digits()
        self.stack.append({b"00\n": False, b"01\n": True}.get(text, value))

    def op_long_text(self) -> None:
        self.stack.append(self.digits())

    def op_binint(self) -> None:
        self.stack.append(int.from_bytes(self.take(4), "little", signed=True))

    def op_binint2(self) -> None:
        self.stack.append(self.number(2))

    def op_long1(self) -> None:
        self.stack.append(int.from_bytes(self.take(self.number(1)), "little", signed=True))

    def op_long4(self) -> None:
        length = self.number(4)
        if length > INTEGER_BYTES_MAX:
            raise _Refused(f"integer of {length} bytes")
        self.stack.append(int.from_bytes(self.take(length), "little", signed=True))

    def op_float_text(self) -> None:
        self.stack.append(float(self.line()))

    def op_binfloat(self) -> None:
        self.stack.append(struct.unpack(">d", self.take(8))[0])

    # Strings and bytes; the 8-bit strings of Python 2 are text here, with their escapes left as written

    def op_string_text(self) -> None:
        text = self.line()
        if len(text) < len("''") or text[:1] != text[-1:] or text[:1] not in b"'\"":
            raise _Refused("string without quotes")
        self.stack.append(text[1:-1].decode("latin-1"))

    def op_unicode_text(self) -> None:
        self.stack.append(self.line().decode("raw-unicode-escape"))

    def op_binstring(self) -> None:
        self.stack.append(self.take(int.from_bytes(self.take(4), "little", signed=True)).decode("latin-1"))

    def op_short_binstring(self) -> None:
        self.stack.append(self.take(self.number(1)).decode("latin-1"))

    def op_unicode8(self) -> None:
        self.stack.append(self.take(self.number(8)).decode("utf-8", "surrogatepass"))

    def push_bytes(self, length: int) -> None:
        """Put the next *length* bytes on the stack."""
        self.stack.append(self.take(length))

    def op_bytes1(self) -> None:
        self.stack.append(self.take(self.number(1)))

    def op_bytes4(self) -> None:
        self.push_bytes(self.number(4))

    def op_bytes8(self) -> None:
        self.push_bytes(self.number(8))

    # Stack and memo

    def op_put4(self) -> None:
        self.put(self.number(4), self.stack[-1])

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
        self.stack.append(self.memo[self.index()])

    def op_put_text(self) -> None:
        self.put(self.index(), self.stack[-1])

    # Containers

    def op_tuple2(self) -> None:
        last = self.stack.pop()
        self.stack[-1] = (self.stack[-1], last)

    def op_tuple3(self) -> None:
        last = self.stack.pop()
        middle = self.stack.pop()
        self.stack[-1] = (self.stack[-1], middle, last)

    def op_empty_list(self) -> None:
        self.stack.append([])

    def op_list(self) -> None:
        items = self.close_mark()
        self.stack.append(items)

    def op_dict(self) -> None:
        items = self.close_mark()
        self.stack.append(Pairs())
        self.assign(items)

    def op_empty_set(self) -> None:
        self.stack.append(Members())

    def op_frozenset(self) -> None:
        items = self.close_mark()
        self.stack.append(Members(items))

    def grow(self, items: list[Any]) -> None:
        """Append to the list, set or object on top."""
        target = self.stack[-1]
        kind = type(target)
        if kind is list or kind is Members:
            target.extend(items)
        elif kind is Call:
            then = target.touch()
            then.items = then.items or []
            then.items.extend(items)
        else:
            raise _Refused("appends to what is no list")

    def assign(self, items: list[Any]) -> None:
        """Set items of the dict or object on top: keys and values in turn."""
        if len(items) % 2:
            raise _Refused("key without value")
        target = self.stack[-1]
        kind = type(target)
        if kind is Pairs:
            target.extend(items)
        elif kind is Call:
            then = target.touch()
            then.pairs = then.pairs or Pairs()
            then.pairs.extend(items)
        else:
            raise _Refused("sets an item of what is no dict")

    def op_append(self) -> None:
        self.grow([self.stack.pop()])

    def op_appends(self) -> None:
        self.grow(self.close_mark())

    def op_setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self.assign([key, value])

    def op_setitems(self) -> None:
        self.assign(self.close_mark())

    # What would import or run something

    def op_global(self) -> None:
        module = self.line().decode("utf-8")
        self.stack.append(Global(module, self.line().decode("utf-8")))

    def op_stack_global(self) -> None:
        name = self.stack.pop()
        module = self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise _Refused("global whose name is no text")
        self.stack.append(Global(module, name))

    def push_call(self, func: object, args: object) -> None:
        """Note a call of something that could be called."""
        if type(args) is not tuple or type(func) not in _CALLABLE:
            raise _Refused("calls what cannot be called")
        self.stack.append(Call(func, args))

    def op_newobj_ex(self) -> None:
        kwargs = self.stack.pop()
        args = self.stack.pop()
        self.push_call(self.stack.pop(), args)
        self.stack[-1].touch().kwargs = kwargs

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
            raise _Refused("sets the state of what is no object")
        target.touch().state = state
        self.built(target)

    def built(self, made: Call) -> None:
        """Called when an object got its state; a subclass stops here if raw bytes follow."""

    def op_persid(self) -> None:
        self.persistents.append(Persistent(self.line().decode("ascii")))
        self.stack.append(self.persistents[-1])

    # Framing, and what is left

    def op_proto(self) -> None:
        if self.number(1) > PROTOCOL_MAX:
            raise _Refused("unknown protocol")

    def op_frame(self) -> None:
        if self.number(8) > self.rest_bytes():
            raise _CutShort

    def rest_bytes(self) -> int:
        """Return how many bytes there are from here on."""
        return len(self.data) - self.at

    def op_unknown(self) -> None:
        raise _Refused(f"opcode 0x{self.data[self.at - 1]:02x} is not allowed")


#: For subclasses that read raw bytes between the opcodes.
Machine = _Machine

# EXT1, EXT2, EXT4 (a registry of the process) and NEXT_BUFFER, READONLY_BUFFER (out-of-band bytes) are refused on
# purpose: no checkpoint contains them, and their meaning is not in the file.
_OPCODES: dict[int, Callable[[_Machine], None]] = {
    ord("0"): _Machine.op_pop,
    ord("1"): _Machine.op_pop_mark,
    ord("2"): _Machine.op_dup,
    ord("F"): _Machine.op_float_text,
    ord("I"): _Machine.op_int_text,
    ord("J"): _Machine.op_binint,
    ord("L"): _Machine.op_long_text,
    ord("M"): _Machine.op_binint2,
    ord("P"): _Machine.op_persid,
    ord("S"): _Machine.op_string_text,
    ord("T"): _Machine.op_binstring,
    ord("U"): _Machine.op_short_binstring,
    ord("V"): _Machine.op_unicode_text,
    ord("a"): _Machine.op_append,
    ord("b"): _Machine.op_build,
    ord("c"): _Machine.op_global,
    ord("d"): _Machine.op_dict,
    ord("e"): _Machine.op_appends,
    ord("g"): _Machine.op_get_text,
    ord("i"): _Machine.op_inst,
    ord("l"): _Machine.op_list,
    ord("]"): _Machine.op_empty_list,
    ord("o"): _Machine.op_obj,
    ord("p"): _Machine.op_put_text,
    ord("s"): _Machine.op_setitem,
    ord("u"): _Machine.op_setitems,
    ord("G"): _Machine.op_binfloat,
    ord("B"): _Machine.op_bytes4,
    ord("C"): _Machine.op_bytes1,
    ord("r"): _Machine.op_put4,
    0x80: _Machine.op_proto,
    0x86: _Machine.op_tuple2,
    0x87: _Machine.op_tuple3,
    0x8A: _Machine.op_long1,
    0x8B: _Machine.op_long4,
    0x8D: _Machine.op_unicode8,
    0x8E: _Machine.op_bytes8,
    0x8F: _Machine.op_empty_set,
    0x90: _Machine.op_appends,  # ADDITEMS
    0x91: _Machine.op_frozenset,
    0x92: _Machine.op_newobj_ex,
    0x93: _Machine.op_stack_global,
    0x95: _Machine.op_frame,
    0x96: _Machine.op_bytes8,  # BYTEARRAY8
}
# These are charged less than an object: they modify one, or create a number, or nothing.
_RARE_BYTES = [_OBJECT_BYTES] * 256
for _opcode in b"abesu\x90":
    _RARE_BYTES[_opcode] = _DEED_BYTES
for _opcode in b"IJLMFG\x8a\x8b":
    _RARE_BYTES[_opcode] = _NUMBER_BYTES
for _opcode in b"012g\x80\x95":
    _RARE_BYTES[_opcode] = 0
_RARE = [_OPCODES.get(opcode, _Machine.op_unknown) for opcode in range(256)]
