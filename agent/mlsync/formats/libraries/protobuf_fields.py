"""The fields of a protocol buffers message, without its schema."""

from __future__ import annotations

from collections.abc import Iterator

from mlsync.formats.layout import ContainerBroken

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BITS_MAX = 63
_WORD = (1 << 64) - 1
_MORE = 0x80


def fields_in(message: bytes, where: int) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field, in order; ``ContainerBroken`` at offset *where* if it does not parse."""
    at, end = 0, len(message)
    while at < end:
        # Almost all keys and lengths are one byte, for which a call would be most of the work
        key = message[at]
        if key < _MORE:
            at += 1
        else:
            key, at = _varint(message, at, where)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at, where)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            if at < end and message[at] < _MORE:
                length = message[at]
                at += 1
            else:
                length, at = _varint(message, at, where)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ContainerBroken("message with a field of an unknown kind", offset=where)
        if at + length > end:
            raise ContainerBroken("message ends inside of a field", offset=where)
        part = message[at : at + length]
        at += length
        yield key >> 3, part if kind == _BYTES else int.from_bytes(part, "little")


def numbers_of(message: bytes, where: int = 0) -> dict[int, int]:
    """Return the fields that are numbers; of a repeated field the last."""
    return {field: value for field, value in fields_in(message, where) if isinstance(value, int)}


def _varint(message: bytes, at: int, where: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > _VARINT_BITS_MAX:
            raise ContainerBroken("message with a number without end", offset=where)
        part = message[at]
        value |= (part & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if part < _MORE:
            return value & _WORD, at
