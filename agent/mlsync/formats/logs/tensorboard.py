"""TensorBoard's event files: records with masked CRC-32C around protocol buffers, of which only scalars are read."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from typing import Final

from mlsync.formats.layout import ByteSource, ContainerBroken
from mlsync.formats.libraries.crc32c import crc32c
from mlsync.formats.libraries.leveldb_table import unmasked
from mlsync.formats.libraries.protobuf_fields import fields_in
from mlsync.formats.logs.rows import NAME_CHARS_MAX, LogRow, Rows, TrainingLog

#: Images, graphs and histograms are passed over. Beyond this the scalars of a file are not looked for.
EVENTS_BYTES_MAX: Final = 64 << 20
_WINDOW_BYTES: Final = 1 << 20
# A record of scalars is some hundred bytes
_EVENT_BYTES_MAX: Final = 64 << 10
_HEAD_BYTES, _SUM_BYTES = 12, 4
_STEP_SIGN, _WORD = 1 << 63, (1 << 32) - 1
# Fields of Event, Summary, Summary.Value and TensorProto
_STEP, _SUMMARY = 2, 5
_VALUE = 1
_TAG, _SIMPLE, _TENSOR = 1, 2, 8
_TYPE, _SHAPE, _CONTENT, _FLOATS, _DOUBLES = 1, 2, 4, 5, 6
_DOUBLE: Final = "<d"
_TYPES: Final = {1: "<f", 2: _DOUBLE}
_EPOCH: Final = ("epoch", "train/epoch")


def read_events(files: Iterable[ByteSource]) -> TrainingLog | None:
    """Return the scalars of the event files of one directory, in the order in which the files were begun.

    A file that ends inside a record is still being written, or is cut: it is read up to there, as one with damage is.
    """
    rows = Rows()
    for file in files:
        for event in _events(file, rows):
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


def _events(file: ByteSource, rows: Rows) -> Iterator[bytes]:
    """Yield the records that are short enough for scalars, up to the end of what is whole."""
    end = min(file.size_bytes, EVENTS_BYTES_MAX)
    if end < file.size_bytes:
        rows.note(f"of events, the first {EVENTS_BYTES_MAX >> 20} MiB of a file are read")
    window, begin, at = b"", 0, 0
    while at + _HEAD_BYTES <= end:
        needed = at + _HEAD_BYTES
        if needed > begin + len(window):
            window, begin = file.read_at(at, min(_WINDOW_BYTES, end - at)), at
        head = window[at - begin : needed - begin]
        (length, summed) = struct.unpack("<QI", head)
        if crc32c(head[:8]) != unmasked(summed):
            rows.note("a file of events is damaged, and is read up to there")
            return
        after = needed + length + _SUM_BYTES
        if after > end:
            break
        if length <= _EVENT_BYTES_MAX:
            if after > begin + len(window):
                window, begin = file.read_at(at, min(_WINDOW_BYTES, end - at)), at
            event = window[needed - begin : needed - begin + length]
            stored = int.from_bytes(window[after - begin - _SUM_BYTES : after - begin], "little")
            if crc32c(event) != unmasked(stored):
                rows.note("a file of events is damaged, and is read up to there")
                return
            yield event
        at = after
    if at < file.size_bytes and end == file.size_bytes:
        rows.note("a file of events ends inside a record: it is still being written, or is cut")


def _scalars(event: bytes) -> tuple[float, list[tuple[str, float]]]:
    """Return the step of an event, and its scalars by their tags."""
    step, found = 0, []
    for field, value in fields_in(event, 0):
        if field == _STEP and isinstance(value, int):
            step = value - (value & _STEP_SIGN) * 2
        elif field == _SUMMARY and isinstance(value, bytes):
            found += [_scalar(part) for number, part in fields_in(value, 0) if number == _VALUE]
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
            data = value if isinstance(value, bytes) else value.to_bytes(8 if field == _DOUBLES else 4, "little")
    if not form or len(data) != struct.calcsize(form):
        return None
    number: float = struct.unpack(form, data)[0]
    return number if form == _DOUBLE else _single(data)


def _single(data: bytes) -> float:
    """Return a number of single precision, as short as it can be written: 0.1, and not 0.10000000149011612."""
    number: float = struct.unpack("<f", data)[0]
    short = float(f"{number:.7g}")
    try:
        return short if struct.pack("<f", short) == data else number
    except OverflowError:
        return number
