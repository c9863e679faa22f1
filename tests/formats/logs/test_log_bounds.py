"""Logs from a stranger: whatever their bytes are, the parsers end soon, in bounded memory, and with what is there."""

from __future__ import annotations

import json
import math
import struct
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from byte_edits import edited, edits
from mlsync.formats.libraries.crc32c import crc32c
from mlsync.formats.logs import rows as rows_module
from mlsync.formats.logs.json_logs import read_json_lines, read_state
from mlsync.formats.logs.mlflow_files import read_mlflow
from mlsync.formats.logs.rows import LINES_MAX, LOG_BYTES_MAX, NAME_CHARS_MAX, NAMES_MAX
from mlsync.formats.logs.tables import read_table
from mlsync.formats.logs.tensorboard import read_events
from mlsync.formats.section import BytesSource

READERS = {
    "table": read_table,
    "json-lines": read_json_lines,
    "state": read_state,
    "mlflow": lambda data: read_mlflow([("loss", data), ("other", data[::-1])]),
    "events": lambda data: read_events([BytesSource(data)]),
    "end of events": lambda data: read_events([BytesSource(data)], max(len(data) // 2, 1)),
}


def record(payload: bytes, *, length: int | None = None) -> bytes:
    """A record of an event file."""

    def masked(data: bytes) -> bytes:
        value = crc32c(data)
        return (((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")

    head = struct.pack("<Q", len(payload) if length is None else length)
    return head + masked(head) + payload + masked(payload)


def scalar(tag: bytes, value: float, step: int) -> bytes:
    """An event with a scalar."""
    body = b"\x0a" + bytes([len(tag)]) + tag + b"\x15" + struct.pack("<f", value)
    summary = b"\x0a" + bytes([len(body)]) + body
    return record(b"\x10" + varint(step) + b"\x2a" + bytes([len(summary)]) + summary)


def varint(number: int) -> bytes:
    """A number of protocol buffers; a negative one has ten bytes."""
    number &= (1 << 64) - 1
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


SAMPLES = {
    "table": b"epoch,step,loss,acc\n1,10,0.5,0.1\n2,20,nan,0.2\n3,30,,inf\n",
    "json-lines": b'{"step": 1, "loss": 2.5, "a": {"b": 1}}\n{"epoch": 2, "loss": NaN}\n',
    "state": b'{"global_step": 2, "log_history": [{"step": 1, "loss": 2}, {"step": 2, "eval_loss": 1.5}]}',
    "mlflow": b"1700000000000 0.5 1\n1700000000001 0.25 2\n",
    "events": b"".join(scalar(b"loss", 0.5**step, step) for step in range(5)),
    "end of events": b"".join(scalar(b"loss", 0.5**step, step) for step in range(5)),
}


def check(log):
    """What every log promises."""
    if log is None:
        return
    assert log.rows
    assert 0 < len(log.names) == len(set(log.names)) <= NAMES_MAX
    for row in log.rows:
        assert row.values
        assert row.values.keys() <= set(log.names)
        assert all(isinstance(value, float) for value in row.values.values())
        assert all(place is None or math.isfinite(place) for place in (row.epoch, row.step))
    assert all(0 < len(name) <= NAME_CHARS_MAX for name in log.names)
    assert list(log.last()) == [name for name in log.names if any(name in row.values for row in log.rows)]


@pytest.mark.parametrize("form", READERS)
@given(changes=edits, cut=st.floats(0.3, 1))
def test_changed_logs_give_what_they_hold_or_nothing(form, changes, cut):
    """A log with other bytes here and there, also a cut one, raises nothing and keeps every promise."""
    sample = SAMPLES[form]
    check(READERS[form](edited(sample, changes)))
    check(READERS[form](edited(sample[: int(len(sample) * cut)], changes)))


@pytest.mark.parametrize("form", READERS)
@given(data=st.binary(max_size=300))
def test_any_bytes_give_nothing_or_a_log(form, data):
    """Noise raises nothing."""
    check(READERS[form](data))


@given(st.lists(st.tuples(st.integers(-(1 << 63), (1 << 63) - 1), st.floats(width=32)), min_size=1, max_size=30))
def test_scalars_come_back(points):
    """Each step has the last number that was written for it, whatever the numbers; the steps are in order."""
    log = read_events([BytesSource(b"".join(scalar(b"x", value, step) for step, value in points))])
    wanted = {float(step): value for step, value in points}
    assert [row.step for row in log.rows] == sorted(wanted)
    for row in log.rows:
        value = row.values["x"]
        assert struct.pack("<f", value) == struct.pack("<f", wanted[row.step]) or math.isnan(value)


@given(st.lists(st.dictionaries(st.text(min_size=1, max_size=9), st.floats() | st.integers(), max_size=4), max_size=9))
def test_lines_of_json_come_back(entries):
    """Each name and number of a line is there as it was written."""
    lines = [
        {"step": number, **{f"m{name}": value for name, value in one.items()}} for number, one in enumerate(entries)
    ]
    log = read_json_lines("".join(json.dumps(line) + "\n" for line in lines).encode())
    found = {} if log is None else {row.step: row.values for row in log.rows}
    for line in lines:
        step = line.pop("step")
        assert repr(found.get(step, {})) == repr({name: float(value) for name, value in line.items()})


def hostile():
    """Logs that are made to take time or memory, by what is the matter with them."""
    size = LOG_BYTES_MAX // 256  # all of it takes so much longer, and no test needs that
    wide = b"epoch," + b",".join(b"c%d" % number for number in range(20_000))
    yield "very many columns", "table", wide + b"\n" + b"1," * (size // 4) + b"1\n"
    yield "a header of many columns that is short", "table", b"epoch" + b",a" * 30_000 + b"\n" + b"1,2\n" * 1000
    yield "very many rows", "table", b"epoch,a\n" + b"1,2\n" * (size // 4)
    yield "rows without a number", "table", b"epoch,a\n" + b",\n" * (size // 2)
    yield "one line", "table", b"epoch,a\n" + b"1" * size + b"\n"
    yield "an open quote", "table", b'epoch,a\n"' + b"1,2\n" * (size // 4)
    yield "a header without an end", "table", b"epoch," * (size // 6)
    yield "deep objects", "json-lines", (b'{"step":1,"a":' * 4000 + b"\n") * (size // 60_000)
    yield "deep lists", "json-lines", (b'{"step":1,"a":' + b"[" * 60_000 + b"\n") * (size // 61_000)
    yield "many names", "json-lines", b"".join(b'{"step":%d,"n%d":1}\n' % (n, n) for n in range(size // 24))
    yield "wide objects", "json-lines", b'{"step":1,' + b",".join(b'"%d":1' % n for n in range(6000)) + b"}\n"
    yield "a line without an end", "json-lines", b'{"step":1,"a":' + b"1" * size
    yield "long numbers", "json-lines", (b'{"step":1,"a":' + b"9" * 60_000 + b"}\n") * (size // 61_000)
    yield "a long history", "state", b'{"global_step":1,"log_history":[' + b'{"a":1},' * (size // 8 - 9) + b"1]}"
    yield "a deep state", "state", b"[" * size
    yield "long lines", "mlflow", b"1 2 " + b"3" * size + b"\n"
    yield "many lines", "mlflow", b"1 2 3\n" * (size // 6)
    yield "zeros", "events", bytes(size)
    yield "zeros", "end of events", bytes(size)
    yield "a long record", "events", record(b"", length=1 << 62)
    yield "records of nothing", "events", record(b"") * (size // 16)
    yield "steps", "events", b"".join(scalar(b"a", 1.0, step) for step in range(3000))
    yield "tags", "events", b"".join(scalar(b"%d" % step, 1.0, 0) for step in range(2000))
    yield "values without a tag", "events", record(b"\x2a" + varint(60_000) + b"\x0a\x00" * 30_000) * 10
    yield (
        "many values",
        "events",
        record(b"\x2a" + varint(63_000) + b"\x0a\x07\x0a\x00\x15\x00\x00\x80\x3f" * 7000) * 10,
    )


@pytest.mark.parametrize(
    ("form", "data"), [pytest.param(form, data, id=f"{form}: {what}") for what, form, data in hostile()]
)
def test_hostile_logs_take_little(form, data):
    """No log takes more than a little time and memory, and each keeps the promises."""
    begun = time.monotonic()
    tracemalloc.start()
    try:
        log = READERS[form](data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    check(log)
    assert most < 20 << 20
    assert time.monotonic() - begun < 20


def test_of_too_many_numbers_the_last_are_kept(monkeypatch):
    """The oldest rows go first, and a note says so."""
    monkeypatch.setattr(rows_module, "_NUMBERS_MAX", 10)
    log = read_table(b"epoch,a,b\n" + b"".join(b"%d,1,2\n" % epoch for epoch in range(20)))
    assert [row.epoch for row in log.rows] == [15, 16, 17, 18, 19]
    assert log.notes == ("only the last 10 numbers are read",)


def test_of_too_many_names_the_first_are_kept():
    """A note says so, as it does of names that are too long."""
    log = read_json_lines(b"".join(b'{"step":1,"n%d":1}\n' % n for n in range(NAMES_MAX + 5)))
    assert len(log.names) == NAMES_MAX
    assert log.notes == (f"only the first {NAMES_MAX} names are read",)
    log = read_json_lines(b'{"step":1,"a":1,"' + b"x" * 201 + b'":2}\n')
    assert (log.names, len(log.notes)) == (("a",), 1)


def test_the_end_of_events_is_found_by_the_sums():
    """Of a long file the last records are read from the first whole one on, and a note says so."""
    records = [scalar(b"loss", float(step), step) for step in range(1000)]
    for bytes_max in (60, 500, 9999):
        log = read_events([BytesSource(b"".join(records))], bytes_max)
        count = len(log.rows)
        assert [row.step for row in log.rows] == list(range(1000 - count, 1000))
        read_bytes = sum(map(len, records[-count:]))
        assert read_bytes <= bytes_max < read_bytes + len(records[-1 - count])
        assert log.notes[0].startswith("of events, the last")


def test_events_of_many_files_are_read_from_the_end():
    """All files of a directory are read together: of the oldest nothing may be left."""
    files = [BytesSource(b"".join(scalar(b"loss", 1.0, at * 100 + step) for step in range(50))) for at in range(4)]
    log = read_events(files, 2 * files[0].size_bytes)
    assert min(row.step for row in log.rows) > 99
    assert max(row.step for row in log.rows) == 349


def test_of_very_many_lines_the_last_are_read():
    """A log of short lines is long before it is large."""
    log = read_table(b"epoch,a\n" + b"".join(b"%d,1\n" % epoch for epoch in range(LINES_MAX + 7)))
    assert (log.rows[0].epoch, len(log.rows)) == (7, LINES_MAX)
    assert log.notes == ("only the last 100,000 lines are read",)


def tensor(body: bytes) -> bytes:
    """An event with a tensor under the tag x."""
    value = b"\x0a\x01x\x42" + bytes([len(body)]) + body
    summary = b"\x0a" + bytes([len(value)]) + value
    return record(b"\x10\x01\x2a" + bytes([len(summary)]) + summary)


@pytest.mark.parametrize(
    ("body", "number"),
    [
        (b"\x08\x01\x12\x00\x22\x04" + struct.pack("<f", 2.5), 2.5),  # TensorFlow: an empty shape, and content
        (b"\x08\x01\x2a\x04" + struct.pack("<f", 2.5), 2.5),  # packed floats
        (b"\x08\x01\x2d" + struct.pack("<f", 2.5), 2.5),  # one float
        (b"\x08\x02\x31" + struct.pack("<d", 2.5), 2.5),  # one double
        (b"\x08\x01\x12\x04\x12\x02\x08\x01\x22\x04" + struct.pack("<f", 2.5), None),  # a list of one
        (b"\x08\x03\x22\x04" + struct.pack("<i", 2), None),  # integers
        (b"\x08\x01\x28" + b"\xff" * 8 + b"\x7f", math.nan),  # a float that is written as an integer
        (b"\x08\x01\x22\x03abc", None),
        (b"\x08\x01", None),
    ],
)
def test_a_tensor_of_one_number_is_a_scalar(body, number):
    """Others are not, whatever they hold."""
    log = read_events([BytesSource(tensor(body))])
    found = None if log is None else log.rows[0].values["x"]
    assert found == number or (math.isnan(found) and math.isnan(number))


def test_long_records_are_passed_over():
    """A picture of some MiB between scalars is not fetched."""

    class Counted(BytesSource):
        read_bytes = 0

        def read_at(self, offset, length):
            Counted.read_bytes += length
            return super().read_at(offset, length)

    data = scalar(b"a", 1.0, 1) + record(bytes(20 << 20)) + scalar(b"a", 2.0, 2)
    log = read_events([Counted(data)], len(data))
    assert [row.step for row in log.rows] == [1, 2]
    assert Counted.read_bytes < 3 << 20
