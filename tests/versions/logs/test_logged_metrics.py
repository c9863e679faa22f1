"""The metrics of a version, out of what its trainer logged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from flow_parts import RUN, World
from mlsync.repository import names
from mlsync.versions.logs.content import Contents
from mlsync.versions.logs.found import find_logs
from mlsync.versions.logs.metrics import logged_metrics
from safetensors_parts import saved

MADE = Path(__file__).parents[2] / "formats/made"
RESULTS = (MADE / "logs/ultralytics.csv").read_bytes()


@pytest.fixture
def world(tmp_path):
    """A run without versions."""
    world = World(tmp_path)
    yield world
    world.close()


def put(world, name, content, *, minute=0):
    """Write a log that grew last in that minute."""
    world.write(name, content)
    os.utime(world.path(name), (minute * 60, minute * 60))


def metrics(world, number=None):
    """The metrics of a version, of the newest one unless said otherwise."""
    stored = world.repository.stored(RUN, number or world.numbers()[-1])
    return logged_metrics(world.repository, world.repository.entries(stored))


def test_the_last_row_of_a_version_counts(world):
    """Each version has the numbers of the log as far as it has the log."""
    lines = RESULTS.splitlines(keepends=True)
    for count in (3, 9):
        world.write("train/results.csv", b"".join(lines[: count + 1]))
        world.write("train/weights/last.safetensors", saved(epoch=count))
        world.backup()
    columns = [name.decode() for name in lines[0].strip().split(b",")]
    for number, count in ((1, 3), (2, 9)):
        values = dict(zip(columns, map(float, lines[count].split(b",")), strict=True))
        assert values.pop("epoch") == count
        assert metrics(world, number) == values


def test_logs_of_one_training_are_put_together(world):
    """The log that grew last counts where several have a name; events are not read beside another log."""
    state = {"global_step": 3, "log_history": [{"step": 3, "loss": 2.0, "eval_loss": 1.5}]}
    world.write("out/checkpoint-3/model.safetensors", saved(step=3))
    put(world, "out/checkpoint-3/trainer_state.json", json.dumps(state).encode(), minute=1)
    put(world, "out/metrics.jsonl", b'{"step": 3, "loss": 9, "wer": 0.5}\n', minute=2)
    put(world, "out/runs/x/events.out.tfevents.1.host.0", (MADE / "logs/torch.tfevents").read_bytes(), minute=3)
    world.backup()
    assert metrics(world) == {"loss": 9, "wer": 0.5, "eval_loss": 1.5}


def test_events_are_read_where_there_is_no_other_log(world):
    """Their last numbers are the metrics; what is not finite is none."""
    world.write("events.out.tfevents.1.host.0", (MADE / "logs/torch.tfevents").read_bytes())
    world.backup()
    found = metrics(world)
    assert found == {"Loss/train": 0.05, "Loss/val": 0.06, "tensor": 7.5, "double": 0.1}


def test_only_the_training_that_logged_last_counts(world):
    """The numbers of an earlier training beside it are not those of this version."""
    put(world, "train/results.csv", b"epoch,old\n1,1\n", minute=1)
    put(world, "train2/results.csv", b"epoch,new\n1,2\n", minute=2)
    world.backup()
    assert metrics(world) == {"new": 2}


def test_without_a_log_there_are_no_metrics(world):
    """Tables with other names are not read, nor empty logs."""
    world.write("labels.csv", b"epoch,x\n1,2\n")
    world.write("results.csv", b"")
    world.write("train/log.txt", b"it goes on\n")
    world.backup()
    assert metrics(world) == {}


def test_a_damaged_log_says_nothing(world):
    """What cannot be read from the store is left out: check reports it."""
    put(world, "a/results.csv", b"epoch,x\n1,2\n", minute=1)
    world.backup()
    assert metrics(world) == {"x": 2}
    for item in list(world.store.list(names.PACKS)):
        world.store.replace(item.key, bytes(item.size_bytes))
    world.use(world.store)  # another process, which read nothing before
    assert metrics(world) == {}


def test_of_the_states_of_checkpoints_the_newest_counts(world):
    """Each has the history up to it; one without a history gives way to the one before."""
    for step, history in ((1, [{"step": 1, "loss": 3}]), (2, [{"step": 2, "loss": 2}]), (3, [])):
        world.write(f"out/checkpoint-{step}/model.safetensors", saved(step=step))
        state = json.dumps({"global_step": step, "log_history": history}).encode()
        put(world, f"out/checkpoint-{step}/trainer_state.json", state, minute=step)
    world.backup()
    assert metrics(world) == {"loss": 2}


def test_a_file_with_holes_is_not_taken_for_another(world):
    """Two files of the same chunks and length differ if one has holes, so that neither is kept for the other."""
    entry = SimpleNamespace(chunks=(), size_bytes=3, holes=((0, 3),))
    contents = Contents()
    contents.keep(entry, bytes(3))
    assert contents.find(SimpleNamespace(chunks=(), size_bytes=3, holes=())) is None
    contents.keep(SimpleNamespace(chunks=(), size_bytes=3, holes=()), b"abc")
    assert contents.find(entry) is None


def test_mlflows_runs_are_found_by_their_meta(world):
    """Metrics with slashes in their names lie in directories; a file called metrics/x elsewhere is none."""
    world.write("mlruns/0/abc/meta.yaml", b"run_id: abc\n")
    world.write("mlruns/0/abc/metrics/loss", b"1 2.5 0\n2 1.5 1\n")
    world.write("mlruns/0/abc/metrics/val/acc", b"1 0.5 0\n")
    world.write("other/metrics/x", b"1 2 3\n")
    world.backup()
    assert metrics(world) == {"loss": 1.5, "val/acc": 0.5}


def test_logs_are_listed_with_the_training_that_they_belong_to(world):
    """Checkpoints of Hugging Face's trainer are one log of the directory above; each other log is one of its own."""
    for step in (1, 2):
        world.write(f"out/checkpoint-{step}/model.safetensors", saved(step=step))
        put(world, f"out/checkpoint-{step}/trainer_state.json", b'{"global_step": %d}' % step, minute=step)
    put(world, "lightning_logs/version_0/metrics.csv", b"x", minute=3)
    world.backup()
    found = [(log.form, log.path, log.directory, len(log.entries)) for log in find_logs(world.manifest().entries)]
    assert found == [
        ("table", b"lightning_logs/version_0/metrics.csv", b"lightning_logs/version_0", 1),
        ("state", b"out", b"out", 2),
    ]


def test_of_a_very_long_log_the_end_counts(world, monkeypatch):
    """The columns are on the first line, and the last numbers at the end."""
    monkeypatch.setattr("mlsync.versions.logs.metrics.LOG_BYTES_MAX", 1000)
    world.write("progress.csv", b"step,loss\n" + b"".join(b"%d,%d\n" % (step, step + 1) for step in range(1000)))
    world.write("events.jsonl", b"")
    world.backup()
    assert metrics(world) == {"loss": 1000}
