"""Logs of trainings, as the trainers themselves wrote them: tables, states, lines of JSON, events, MLflow's files."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest

from mlsync.formats.logs.json_logs import read_json_lines, read_state
from mlsync.formats.logs.mlflow_files import read_mlflow
from mlsync.formats.logs.rows import LogRow
from mlsync.formats.logs.tables import read_table
from mlsync.formats.logs.tensorboard import read_events
from mlsync.formats.section import BytesSource

MADE = Path(__file__).parents[1] / "made"
EVENTS = (MADE / "logs/torch.tfevents").read_bytes()
LIGHTNING = (MADE / "logs/lightning.csv").read_bytes()


def events(*files: bytes):
    """The log in event files."""
    return read_events([BytesSource(file) for file in files])


def test_ultralytics_has_a_row_for_each_epoch():
    """A row has all columns of a results.csv under Ultralytics' own names; epochs count from 1."""
    log = read_table((MADE / "logs/ultralytics.csv").read_bytes())
    assert (log.kind, len(log.rows), log.notes) == ("ultralytics", 25, ())
    assert (log.rows[0].epoch, log.rows[0].step, log.rows[-1].epoch) == (1, None, 25)
    assert log.names[:3] == ("time", "train/box_loss", "train/cls_loss")
    assert log.last()["metrics/mAP50-95(B)"] == log.rows[-1].values["metrics/mAP50-95(B)"] > 0


def test_lightnings_rows_of_training_and_validation_are_one():
    """Lightning writes what it trained and what it validated at one step into rows of their own."""
    log = read_table(LIGHTNING)
    assert (log.kind, len(log.rows)) == ("lightning", 12)
    assert log.rows[1] == LogRow(
        0,
        15,
        {
            "train_loss_step": 0.8347642421722412,
            "val_loss": 1.00469970703125,
            "train_loss_epoch": 1.0460779666900635,
        },
    )


def test_a_trainers_history_is_its_log():
    """Hugging Face's names stay; what was trained and evaluated at one step is one row."""
    log = read_state((MADE / "huggingface-trainer/checkpoint-3/trainer_state.json").read_bytes())
    assert (log.kind, [(row.epoch, row.step) for row in log.rows]) == (
        "huggingface-trainer",
        [(0.5, 1), (1.0, 2), (1.5, 3)],
    )
    assert log.last()["eval_score"] == 0.75
    both = {"global_step": 5, "log_history": [{"step": 5, "epoch": 1, "loss": 2}, {"step": 5, "epoch": 1, "eval": 3}]}
    assert read_state(json.dumps(both).encode()).rows == (LogRow(1, 5, {"loss": 2, "eval": 3}),)


def test_lightnings_events_are_what_its_table_is():
    """TensorBoard's logger and the CSV logger have the same steps, epochs and numbers, these as single precision."""
    table, log = read_table(LIGHTNING), events((MADE / "logs/lightning.tfevents").read_bytes())
    # The table has one more row, of the last step of the training
    assert [(row.epoch, row.step) for row in log.rows] == [(row.epoch, row.step) for row in table.rows]
    for ours, theirs in zip(log.rows, table.rows, strict=True):
        assert ours.values == pytest.approx(theirs.values)


def test_scalars_are_read_in_each_form():
    """TensorFlow 1, which torch follows, has simple values, TensorFlow 2 has tensors; pictures and texts are none."""
    log = events(EVENTS)
    assert log.names == ("Loss/train", "Loss/val", "tensor", "double", "diverged")
    assert len(log.rows) == 20
    assert log.rows[4] == LogRow(None, 4, {"Loss/train": 0.2, "Loss/val": 0.24, "double": 0.1})
    assert log.rows[3].values["tensor"] == 7.5
    assert math.isnan(log.last()["diverged"])
    assert log.notes == ()


def test_events_are_read_up_to_where_they_are_whole():
    """A file that is cut anywhere gives the scalars before the cut, and says that it ends in a record."""
    whole = events(EVENTS)
    for cut in [*range(0, 3000, 7), len(EVENTS) - 1]:
        log = events(EVENTS[:cut])
        if log is not None:
            for (_, step, ours), (_, same_step, theirs) in zip(plain(log.rows), plain(whole.rows), strict=False):
                assert step == same_step
                assert ours.items() <= theirs.items()
    assert events(EVENTS[:-1]).notes == ("a file of events ends inside a record: it is still being written, or is cut",)


def test_damaged_events_are_read_up_to_the_damage():
    """A flipped bit in a length or in a record is found by its masked CRC-32C."""
    first = struct.unpack("<Q", EVENTS[:8])[0] + 16
    second = first + struct.unpack("<Q", EVENTS[first : first + 8])[0] + 16
    for at in (second + 1, second + 9, second + 14):
        damaged = bytearray(EVENTS)
        damaged[at] ^= 4
        log = events(bytes(damaged))
        assert log.rows == (LogRow(None, 0, {"Loss/train": 1}),)
        assert log.notes == ("a file of events is damaged, and is read up to there",)


def test_events_of_a_training_that_went_on_are_one_log():
    """A training that is started again begins another file; of two numbers at one step the later file's counts."""
    log = events(EVENTS, EVENTS)
    assert plain(log.rows) == plain(events(EVENTS).rows)
    assert events(b"", EVENTS, b"no events at all").rows[0] == LogRow(None, 0, {"Loss/train": 1})


def plain(rows):
    """Rows that can be compared, also where a number is none."""
    return [(row.epoch, row.step, {name: str(float(value)) for name, value in row.values.items()}) for row in rows]


@pytest.mark.parametrize(
    ("lines", "rows"),
    [
        (b'{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 1.5', (LogRow(None, 1, {"loss": 2.5}),)),
        (b'{"epoch": 3, "train": {"loss": 1}, "name": "x", "ok": true}\n', (LogRow(3, None, {"train/loss": 1}),)),
        (b'{"iter": 7, "loss": NaN}\n\nnot json\n[1]\n{"loss": 3}\n', (LogRow(None, 7, {"loss": math.nan}),)),
        (b'\xff\xfe\n{"current_steps": 4, "loss": 1e999}', (LogRow(None, 4, {"loss": math.inf}),)),
        (b'{"step": 1, "n": ' + b"1" * 400 + b"}", (LogRow(None, 1, {"n": math.inf}),)),
    ],
)
def test_lines_of_json_are_a_log(lines, rows):
    """A line with a step or an epoch counts, and no other; objects inside become names with a slash."""
    assert plain(read_json_lines(lines).rows) == plain(rows)


def test_mlflows_files_are_a_log():
    """Each file of a run's metrics has a time, a number and a step on a line; a torn last line does not count."""
    files = [
        ("loss", b"1700000000000 2.5 0\n1700000000001 1.5 1\n1700000000002 0.5 1"),
        ("val/acc", b"1700000000001 0.5 1\nx y z\n"),
    ]
    log = read_mlflow(files)
    assert log.rows == (LogRow(None, 0, {"loss": 2.5}), LogRow(None, 1, {"loss": 1.5, "val/acc": 0.5}))
    assert read_mlflow([("loss", b"no\n")]) is None


def test_an_infinite_step_of_mlflows_is_none():
    """A line whose step is beyond all floats, or no number, is no row."""
    lines = b"1 2.5 1e999\n1 2.5 nan\n1 2.5 " + b"3" * 400 + b"\n1 1.5 7\n"
    assert read_mlflow([("loss", lines)]).rows == (LogRow(None, 7, {"loss": 1.5}),)


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (b"epoch,loss\n1,0.5\n2,0.25", (LogRow(1, None, {"loss": 0.5}),)),
        (b"epoch,loss\r\n1,nan\r\n2,\r\n3,x\r\n", (LogRow(1, None, {"loss": math.nan}),)),
        (b"epoch,loss\n1,2,3\n1\n2,4\n", (LogRow(2, None, {"loss": 4}),)),
        (b"Step,\xff\n1,2\n", (LogRow(None, 1, {"\ufffd": 2}),)),
        (b'step,"a,b"\n1,2\n1,3\n', (LogRow(None, 1, {"a,b": 3}),)),
        (b"epoch,loss\nnan,2\n", (LogRow(None, None, {"loss": 2}),)),
    ],
)
def test_tables_are_read_row_by_row(table, rows):
    """A row that is torn, or of another table, does not count; nor does a cell that is no number."""
    assert plain(read_table(table).rows) == plain(rows)


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"a,b\n1,2\n", b"epoch\n1\n", b"epoch,loss\n", b"\0\0\n", b'"\0,epoch\n1,1\n']
)
def test_what_is_no_log_says_nothing(data):
    """Without an epoch or a step a table is none of a training; nor is what has no number."""
    assert read_table(data) is None
    assert read_json_lines(data) is None
    assert read_state(data) is None
    assert events(data) is None
