"""Tables as LevelDB has them: blocks of sorted keys, each with a CRC-32C, and a footer that leads to them."""

from __future__ import annotations

from collections.abc import Iterator

from mlsync.formats.faults import NotChecked, RecordDamaged
from mlsync.formats.layout import ContainerBroken, Extent
from mlsync.formats.libraries.crc32c import crc32c

TABLE_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5
_MASK_DELTA = 0xA282EAD8
_WORD = 0xFFFFFFFF
_NOT_PACKED, _SNAPPY = 0, 1
_VARINT_BITS_MAX, _VARINT_STEP = 63, 7
_MORE = 0x80  # the bit that says that a number goes on


class Table:
    """A table in memory. ``ContainerBroken`` where its footer or the block that leads to the others does not hold."""

    def __init__(self, data: bytes) -> None:
        if len(data) < _FOOTER_BYTES or data[-8:] != TABLE_MAGIC:
            raise ContainerBroken("no table: the magic number at the end is missing", offset=max(len(data) - 8, 0))
        self._data = data
        self._footer = len(data) - _FOOTER_BYTES
        meta_at, meta_bytes, at = _handle(data, self._footer)
        root_at, root_bytes, at = _handle(data, at)
        if data[at : -len(TABLE_MAGIC)].strip(b"\0"):
            raise ContainerBroken("footer with more in it than two handles", offset=at)
        # Beside its keys a table may hold a filter, for example
        others = [_handle(value, 0)[:2] for _, value in _pairs(data, meta_at, meta_bytes)]
        self._others = [(meta_at, meta_bytes), (root_at, root_bytes), *others]
        self._blocks = [_handle(value, 0)[:2] for _, value in _pairs(data, root_at, root_bytes)]

    def entries(self) -> Iterator[tuple[bytes, bytes, int]]:
        """Yield each key with its value and the offset of its block; ``ContainerBroken`` if keys are out of order."""
        last = None
        for begin, length in self._blocks:
            for key, value in _pairs(self._data, begin, length):
                if last is not None and key <= last:
                    raise ContainerBroken("keys are not in order", offset=begin)
                last = key
                yield key, value, begin

    def extents(self) -> Iterator[Extent]:
        """Yield the blocks in the order of the file; ``ContainerBroken`` if they do not fill it up to the footer."""
        reached = 0
        for begin, length in sorted([*self._others, *self._blocks]):
            if begin < reached:
                raise ContainerBroken("blocks overlap", offset=begin)
            reached = begin + length + _TRAILER_BYTES
            yield Extent(f"block/{begin}", begin, length + _TRAILER_BYTES)
        if reached != self._footer:
            msg = f"{self._footer - reached} bytes between the last block and the footer"
            raise ContainerBroken(msg, offset=reached)


def _handle(data: bytes, at: int) -> tuple[int, int, int]:
    """Return where a block lies and how long it is, and where the next handle begins."""
    begin, at = varint(data, at)
    length, at = varint(data, at)
    return begin, length, at


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number of variable length at *at*, and the offset behind it."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > _VARINT_BITS_MAX:
            raise ContainerBroken("number without end", offset=at)
        part = data[at]
        value |= (part & 0x7F) << shift
        at, shift = at + 1, shift + _VARINT_STEP
        if part < _MORE:
            if not part and shift > _VARINT_STEP:
                raise ContainerBroken("number that is longer than it needs to be", offset=at)
            return value, at


def _pairs(data: bytes, begin: int, length: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block whose sum is right."""
    end = begin + length
    if end + _TRAILER_BYTES > len(data) - _FOOTER_BYTES or length < 4:  # noqa: PLR2004 - the count at its end
        raise ContainerBroken("block lies outside of the file", offset=min(begin, len(data)))
    stored = int.from_bytes(data[end + 1 : end + _TRAILER_BYTES], "little")
    if unmasked(stored) != crc32c(memoryview(data)[begin : end + 1]):
        raise RecordDamaged("CRC-32C differs", record=f"block/{begin}", offset=begin)
    if data[end] != _NOT_PACKED:
        kind = "packed with snappy" if data[end] == _SNAPPY else "packed in an unknown way"
        raise NotChecked(f"block is {kind}", offset=begin)
    restarts = 4 * int.from_bytes(data[end - 4 : end], "little") + 4
    if restarts > length:
        raise ContainerBroken("block has no room for its restarts", offset=begin)
    yield from _pairs_before(data, begin, end - restarts)


def _pairs_before(data: bytes, at: int, stop: int) -> Iterator[tuple[bytes, bytes]]:
    key = b""
    while at < stop:
        shared, at = varint(data, at)
        own, at = varint(data, at)
        value_bytes, at = varint(data, at)
        if shared > len(key) or at + own + value_bytes > stop:
            raise ContainerBroken("entry leaves its block", offset=at)
        key = key[:shared] + data[at : at + own]
        at += own
        yield key, data[at : at + value_bytes]
        at += value_bytes


def unmasked(stored: int) -> int:
    """Return the CRC-32C that was masked: turned by 15 bits, with a constant added."""
    turned = (stored - _MASK_DELTA) & _WORD
    return ((turned >> 17) | (turned << 15)) & _WORD
