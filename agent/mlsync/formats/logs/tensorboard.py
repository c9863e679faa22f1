"""TensorBoard's event files: records with masked CRC-32C around protocol buffers, of which only scalars are read."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from mlsync.formats.layout import ByteSource, ContainerBroken
from mlsync.formats.libraries.crc32c import crc32c
from mlsync.formats.libraries.leveldb_table import unmasked
from mlsync.formats.libraries.protobuf_fields import fields_in
from mlsync.formats.logs.rows import NAME_CHARS_MAX, NAMES_MAX, LogRow, Rows, TrainingLog

#: Images, graphs and histograms are passed over. Of longer files the scalars at their end are read.
EVENTS_BYTES_MAX: Final = 16 << 20
_WINDOW_BYTES: Final = 1 << 20
# A record of scalars is some hundred bytes
_EVENT_BYTES_MAX: Final = 64 << 10
_HEAD_BYTES, _SUM_BYTES = 12, 4
_ZEROS: Final = bytes(5)
_STEP_SIGN, _WORD = 1 << 63, (1 << 32) - 1
# Fields of Event, Summary, Summary.Value and TensorProto
_STEP, _SUMMARY = 2, 5
_VALUE = 1
_TAG, _SIMPLE, _TENSOR = 1, 2, 8
_TYPE, _SHAPE, _CONTENT, _FLOATS, _DOUBLES = 1, 2, 4, 5, 6
_DOUBLE: Final = "<d"
_TYPES: Final = {1: "<f", 2: _DOUBLE}
_EPOCH: Final = ("epoch", "train/epoch")


def read_events(files: Sequence[ByteSource], bytes_max: int = EVENTS_BYTES_MAX) -> TrainingLog | None:
    """Return the scalars of the event files of one directory, in the order in which the files were begun.

    A file that ends inside a record is still being written, or is cut: it is read up to there, as one with damage is.
    Of all together, the last *bytes_max* are read.
    """
    rows = Rows()
    for file, begin in _ends(files, bytes_max, rows):
        for event in _events(file, rows, begin):
            try:
                step, scalars = _scalars(event)
            except ContainerBroken:
                rows.note("an event that does not parse is left out")
                continue
            for tag, value in scalars:
                rows.add_at(None, step, {tag: value})
    log = rows.log("tensorboard")
    return None if log is None else _in_order(log)


def is_events_name(name: bytes) -> bool:
    """Return whether a file has the name of an event file."""
    return b"tfevents" in name


def _in_order(log: TrainingLog) -> TrainingLog | None:
    """Return the log in the order of its steps, with its epochs where they belong."""
    ordered = []
    for row in sorted(log.rows, key=lambda row: row.step or 0.0):
        epochs = [value for name, value in row.values.items() if name in _EPOCH and math.isfinite(value)]
        values = {name: value for name, value in row.values.items() if name not in _EPOCH}
        if values:
            ordered.append(LogRow(epochs[0] if epochs else None, row.step, values))
    names = tuple(name for name in log.names if name not in _EPOCH)
    return TrainingLog(log.kind, tuple(ordered), names, log.notes) if ordered else None


def _ends(files: Sequence[ByteSource], bytes_max: int, rows: Rows) -> list[tuple[ByteSource, int]]:
    """Return the files of which something is read, and from where on."""
    found: list[tuple[ByteSource, int]] = []
    for file in reversed(files):
        begin = max(file.size_bytes - bytes_max, 0)
        if bytes_max:
            found.append((file, begin))
        if begin:
            rows.note(f"of events, the last {EVENTS_BYTES_MAX >> 20} MiB are read")
        bytes_max -= file.size_bytes - begin
    return found[::-1]


def _events(file: ByteSource, rows: Rows, begin: int) -> Iterator[bytes]:
    """Yield the records that are short enough for scalars, up to the end of what is whole."""
    window = _Window(file)
    at, end = _next_record(window, begin) if begin else 0, file.size_bytes
    while at + _HEAD_BYTES <= end:
        head = window.read(at, _HEAD_BYTES)
        if not _is_head(head):
            rows.note("a file of events is damaged, and is read up to there")
            return
        length = int.from_bytes(head[:8], "little")
        after = at + _HEAD_BYTES + length + _SUM_BYTES
        if after > end:
            break
        if length <= _EVENT_BYTES_MAX:
            event = window.read(at + _HEAD_BYTES, length)
            if crc32c(event) != unmasked(int.from_bytes(window.read(after - _SUM_BYTES, _SUM_BYTES), "little")):
                rows.note("a file of events is damaged, and is read up to there")
                return
            yield event
        at = after
    if at < end:
        rows.note("a file of events ends inside a record: it is still being written, or is cut")


class _Window:
    """A file that is read forward, with few reads of its source."""

    def __init__(self, file: ByteSource) -> None:
        self._file = file
        self._begin = 0
        self._data = b""

    def read(self, at: int, length: int) -> bytes:
        """Return the *length* bytes at *at*, fewer at the end of the file."""
        if not self._begin <= at <= at + length <= self._begin + len(self._data):
            left = max(self._file.size_bytes - at, 0)
            self._begin, self._data = at, self._file.read_at(at, min(max(length, _WINDOW_BYTES), left))
        return self._data[at - self._begin : at - self._begin + length]


def _is_head(head: bytes) -> bool:
    """Return whether these are a record's length and the sum of it."""
    return crc32c(head[:8]) == unmasked(int.from_bytes(head[8:], "little"))


def _next_record(window: _Window, begin: int) -> int:
    """Return where the first record at or after *begin* is, out of one window; else the end of that."""
    data = window.read(begin, _WINDOW_BYTES)
    # Of a length below 16 MiB five bytes are zero
    at = data.find(_ZEROS, 3)
    while at >= 0:
        head = data[at - 3 : at - 3 + _HEAD_BYTES]
        if head[:3] != _ZEROS[:3] and len(head) == _HEAD_BYTES and _is_head(head):
            return begin + at - 3
        at = data.find(_ZEROS, at + 1)
    return begin + len(data)


def _scalars(event: bytes) -> tuple[float, list[tuple[str, float]]]:
    """Return the step of an event, and its scalars by their tags."""
    step, found = 0, []
    for field, value in fields_in(event, 0):
        if field == _STEP and isinstance(value, int):
            step = value - (value & _STEP_SIGN) * 2
        elif field == _SUMMARY and isinstance(value, bytes):
            parts = islice(fields_in(value, 0), NAMES_MAX)
            found += [_scalar(part) for number, part in parts if number == _VALUE]
    return float(step), [one for one in found if one is not None]


def _scalar(message: int | bytes) -> tuple[str, float] | None:
    """Return the tag and the number of a value in a summary, ``None`` if it is no scalar."""
    tag, number = "", None
    for field, value in fields_in(message, 0) if isinstance(message, bytes) else ():
        if field == _TAG and isinstance(value, bytes):
            tag = value[: 4 * NAME_CHARS_MAX + 4].decode("utf-8", "replace")
        elif field == _SIMPLE and isinstance(value, int):
            number = _single((value & _WORD).to_bytes(4, "little"))
        elif field == _TENSOR and isinstance(value, bytes):
            number = _number_of(value)
    return None if number is None else (tag, number)


def _number_of(tensor: bytes) -> float | None:
    """Return the number in a tensor of one, as TensorFlow 2 writes scalars; ``None`` if it is another tensor."""
    form, data = "", b""
    for field, value in fields_in(tensor, 0):
        if field == _TYPE and isinstance(value, int):
            form = _TYPES.get(value, "")
        elif field == _SHAPE and value:
            return None
        elif field in (_CONTENT, _FLOATS, _DOUBLES):
            data = value if isinstance(value, bytes) else value.to_bytes(8, "little")[: 8 if field == _DOUBLES else 4]
    if not form or len(data) != struct.calcsize(form):
        return None
    number: float = struct.unpack(form, data)[0]
    return number if form == _DOUBLE else _single(data)


def _single(data: bytes) -> float:
    """Return a number of single precision, as short as it can be written: 0.1, and not 0.10000000149011612."""
    number: float = struct.unpack("<f", data)[0]
    for digits in (6, 7, 8):
        short = float(f"{number:.{digits}g}")
        try:
            if struct.pack("<f", short) == data:
                return short
        except OverflowError:
            break
    return number
