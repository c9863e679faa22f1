"""Which version a word means."""

from __future__ import annotations

import io
import shutil
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from flow_parts import RUN, World
from mlsync import errors
from mlsync.repository.later_proof import LaterProof, ProvedFile
from mlsync.values import Finding, Severity
from mlsync.versions.resumable import resumables
from mlsync.versions.select import find_version


@pytest.fixture
def world(tmp_path):
    """A run without versions."""
    world = World(tmp_path)
    yield world
    world.close()


def save(world, name, **content):
    """Write a checkpoint and make a version."""
    import torch

    file = io.BytesIO()
    torch.save({"model": {"weight": torch.ones(200)}, **content}, file)
    world.write(name, file.getvalue())
    return world.backup().version


def ultralytics(world, epoch, fitness, *, stripped=False, name="last.pt"):
    """A version of a checkpoint as Ultralytics writes it while it trains, and when it has ended."""
    import torch

    optimizer = None if stripped else {"state": {}, "param_groups": [{"lr": 0.1}]}
    return save(
        world,
        name,
        epoch=-1 if stripped else epoch,
        best_fitness=None if stripped else fitness,
        ema={"weight": torch.full((200,), float(epoch))},
        optimizer=optimizer,
        train_args={"epochs": 3},
    )


def number_of(world, word):
    """The version that a word means."""
    return find_version(world.repository, RUN, word).root.number


def test_the_last_version_before_the_strip_is_resumable(world):
    """What a trainer stripped at its end is not what training goes on from."""
    ultralytics(world, 0, 0.1)
    ultralytics(world, 1, 0.2)
    ultralytics(world, 2, 0.2, stripped=True)
    world.write("results.csv", b"epoch,loss\n")
    world.backup()
    assert (number_of(world, "latest"), number_of(world, "resumable")) == (4, 2)


def test_a_whole_checkpoint_beside_a_stripped_one_is_not_resumable(world):
    """Neither best.pt in the moment before it is stripped too nor an epoch's own file is what training goes on from."""
    ultralytics(world, 0, 0.1, name="weights/epoch0.pt")
    ultralytics(world, 1, 0.2, name="weights/best.pt")
    ultralytics(world, 1, 0.2, name="weights/last.pt")
    ultralytics(world, 1, 0.2, name="weights/last.pt", stripped=True)
    ultralytics(world, 1, 0.2, name="weights/best.pt", stripped=True)
    assert (number_of(world, "latest"), number_of(world, "resumable")) == (5, 3)


def test_a_training_that_ended_does_not_hide_another_one(world):
    """In a directory of its own, a training that goes on is resumable while the stripped one of another stands."""
    ultralytics(world, 1, 0.2, name="train/weights/last.pt", stripped=True)
    ultralytics(world, 0, 0.1, name="train2/weights/last.pt")
    assert number_of(world, "resumable") == 2


def test_best_is_the_highest_fitness_and_of_equals_the_last(world):
    """Fitness goes up and down; what was best for a while and is again is taken where it was last."""
    for epoch, fitness in enumerate([0.1, 0.5, 0.3, 0.5, 0.2]):
        ultralytics(world, epoch, fitness)
    assert number_of(world, "best") == 4


MADE = Path(__file__).parents[1] / "formats/made"


def trainer_saves(world, step, *, without=()):
    """A version with what Hugging Face's trainer wrote after that step."""
    directory = MADE / f"huggingface-trainer/checkpoint-{step}"
    for path in sorted(directory.iterdir()):
        if path.name not in without:
            world.write(f"out/checkpoint-{step}/{path.name}", path.read_bytes())
    return world.backup().version


def test_best_is_what_the_trainer_names_where_checkpoints_say_nothing(world):
    """Hugging Face's trainer names step 2 the best when it is at 3: the last version that still holds that one."""
    trainer_saves(world, 2)
    trainer_saves(world, 3)
    shutil.rmtree(world.directory / "out/checkpoint-2")
    world.write("log.txt", b"rotated")
    world.backup()
    assert (number_of(world, "latest"), number_of(world, "best")) == (3, 2)


def test_a_best_checkpoint_that_no_version_holds_is_named(world):
    """What was rotated away before it got into any version is named, and nothing is given in its place."""
    trainer_saves(world, 3)
    with pytest.raises(errors.VersionMissing, match="names out/checkpoint-2 the best, and no version holds it"):
        number_of(world, "best")


@pytest.mark.parametrize(
    ("without", "goes_on"), [((), True), (("model.safetensors",), False), (("trainer_state.json",), False)]
)
def test_the_trainers_checkpoint_is_resumable_with_all_that_it_takes(without, goes_on):
    """Weights, the optimizer's state and the trainer's own, in three files, are resumable together and not else."""
    names = ("model.safetensors", "optimizer.pt", "trainer_state.json")
    entries = [
        SimpleNamespace(
            path=b"out/checkpoint-2/" + name.encode(),
            mtime_ns=0,
            proof=SimpleNamespace(facts=facts, container="", findings=[], is_broken=False),
        )
        for name, facts in zip(
            names, ({"parameter_count": 5}, {"has_optimizer": True, "parameter_count": 0}, {}), strict=True
        )
        if name not in without
    ]
    assert bool(resumables(entries)) is goes_on


def test_weights_and_optimizer_of_accelerate_are_resumable_together(world):
    """``Accelerator.save_state`` writes two files: with both training goes on, with the optimizer alone it does not."""
    for name in ("optimizer.bin", "model.safetensors"):
        world.write(f"state/{name}", (MADE / "accelerate-save-state" / name).read_bytes())
        world.backup()
    assert number_of(world, "resumable") == 2


def lightning(world, epoch, best, *, monitor="val_loss", name=None):
    """A version of a checkpoint with the state of Lightning's ``ModelCheckpoint`` after that epoch."""
    state = {"monitor": monitor, "best_model_path": f"/home/me/runs/{best}", "best_model_score": None}
    return save(
        world,
        name or f"ckpt/epoch={epoch}.ckpt",
        epoch=epoch,
        global_step=4 * epoch,
        callbacks={
            f"ModelCheckpoint{{'monitor': '{monitor}', 'mode': 'min'}}": state,
            "EarlyStopping": {"patience": 3},
        },
        **{"pytorch-lightning_version": "2.6.6"},
    )


def test_best_is_what_lightnings_model_checkpoint_names(world):
    """The newest state names epoch 1 the best, although 2 and the last came later: the last version that holds it."""
    for epoch, best in ((0, "epoch=0.ckpt"), (1, "epoch=1.ckpt"), (2, "epoch=1.ckpt")):
        lightning(world, epoch, best)
    (world.directory / "ckpt/epoch=1.ckpt").unlink()
    lightning(world, 3, "epoch=1.ckpt", name="ckpt/last.ckpt")
    assert (number_of(world, "latest"), number_of(world, "best")) == (4, 3)


def test_a_version_in_which_the_named_best_is_broken_is_not_chosen(world):
    """A later proof calls that checkpoint broken in the newest version that holds it: an older version is the best."""
    lightning(world, 1, "epoch=1.ckpt")
    lightning(world, 2, "epoch=1.ckpt", name="ckpt/last.ckpt")
    assert number_of(world, "best") == 2
    stored = world.repository.stored(RUN, 2)
    (proof,) = (entry.proof for entry in world.repository.entries(stored) if entry.path == b"ckpt/epoch=1.ckpt")
    broken = msgspec.structs.replace(proof, findings=[Finding(3, Severity.REFUSE, "not the bytes that were written")])
    files = [ProvedFile(b"ckpt/epoch=1.ckpt", broken)]
    world.repository.add_later_proof(
        LaterProof(RUN, 2, stored.digest, 1, "mlsync", "host", proof.level, proof.device, 1, files)
    )
    assert number_of(world, "best") == 1


def test_without_a_monitored_metric_lightning_names_no_best(world):
    """The best of a ``ModelCheckpoint`` without ``monitor`` is the last one, which says nothing."""
    lightning(world, 1, "epoch=1.ckpt", monitor=None)
    with pytest.raises(errors.VersionMissing, match=r"no checkpoint in its only version \(ckpt/epoch=1.ckpt\)"):
        number_of(world, "best")


def test_best_is_read_from_the_results_where_nothing_else_says_it(world):
    """Checkpoints that name no fitness: the version whose results.csv, with args.yaml beside, tells of the highest."""
    rows = b"epoch,metrics/mAP50(B),metrics/mAP50-95(B)\n"
    world.write("train/args.yaml", b"task: detect\nepochs: 4\n")
    for row in (b"1,0.5,0.1\n", b"2,0.9,0.8\n", b"3,0.6,0.2\n"):
        rows += row
        world.write("train/results.csv", rows)
        ultralytics(world, int(row[:1]), None, name="train/weights/last.pt")
    world.write("train/results.csv", rows[: len(rows) // 2])
    world.write("other/results.csv", b"epoch,metrics/mAP50-95(B)\n1,99\n")
    world.backup()
    assert number_of(world, "best") == 3


def test_a_run_without_a_checkpoint_to_resume_from_says_so(world):
    """No version is given in place of one that there is not."""
    save(world, "last.pt", epoch=1)
    with pytest.raises(errors.VersionMissing, match="no version of run 'yolo'") as caught:
        number_of(world, "resumable")
    assert "mlsync show" in str(caught.value)


def test_a_run_that_tells_no_metric_says_what_was_looked_at_and_what_would_tell(world):
    """The error names the checkpoints and logs in vain, where ``best`` reads, and what to give instead."""
    for name in ("a.pt", "b.pt", "c.pt", "d.pt"):
        save(world, f"weights/{name}", epoch=1)
    world.write("results.csv", b"epoch,loss\n1,0.5\n")
    world.backup()
    with pytest.raises(errors.VersionMissing) as caught:
        number_of(world, "best")
    looked = "no checkpoint in its 5 versions (weights/a.pt, weights/b.pt, weights/c.pt and others) has a best_fitness"
    assert f"run 'yolo' is best: {looked}, and results.csv has no mAP or accuracy" in caught.value.what
    for word in ("best_fitness", "trainer_state.json", "results.csv", "mlsync versions", "--version N", "resumable"):
        assert word in caught.value.advice


def test_a_trainers_state_without_a_best_is_named(world):
    """Where Hugging Face's trainer was not told what is best, the error says so."""
    trainer_saves(world, 2, without=("trainer_state.json",))
    world.write("out/checkpoint-2/trainer_state.json", b'{"global_step": 2, "best_model_checkpoint": null}')
    world.backup()
    with pytest.raises(errors.VersionMissing, match=r"and trainer_state\.json names no best checkpoint"):
        number_of(world, "best")


def test_best_of_a_run_without_checkpoints(world):
    """That there is no checkpoint at all is said in so many words."""
    world.write("log.txt", b"1\n")
    world.backup()
    with pytest.raises(errors.VersionMissing, match="there is no checkpoint in its only version"):
        number_of(world, "best")


@pytest.fixture
def in_berlin(monkeypatch):
    """Clocks that were put back at 03:00 on 2026-10-25, and forward at 02:00 on 2026-03-29."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def version_at(world, moment):
    """Make a version with the clock at *moment*."""
    made_ns = int(datetime.fromisoformat(moment).timestamp()) * 10**9
    world.write("log.csv", moment.encode())
    assert world.backup(now_ns=lambda: made_ns).version


def test_a_time_that_came_twice_names_both_versions(world, in_berlin):
    """Where the hour that clocks repeat could mean two versions, neither is taken: both are named, with offsets."""
    del in_berlin
    version_at(world, "2026-10-25T02:10+02:00")
    version_at(world, "2026-10-25T02:10+01:00")
    version_at(world, "2026-10-25T12:00+01:00")
    with pytest.raises(errors.VersionAmbiguous) as caught:
        number_of(world, "2026-10-25T02:30")
    assert "version 1 as 2026-10-25T02:30:00+02:00 or version 2 as 2026-10-25T02:30:00+01:00" in str(caught.value)
    assert number_of(world, "2026-10-25T02:30+02:00") == 1
    assert number_of(world, "2026-10-25T02:30+01:00") == 2
    assert number_of(world, "2026-10-25T12:30") == 3
    with pytest.raises(errors.VersionAmbiguous, match="no version as"):
        number_of(world, "2026-10-25T02:05")


def test_a_time_that_came_twice_is_fine_where_it_means_one_version(world, in_berlin):
    """The repeated hour, and the one that was left out, are no obstacle where no version was made in between."""
    del in_berlin
    version_at(world, "2026-03-01T12:00+01:00")
    assert [number_of(world, text) for text in ("2026-03-29T02:30", "2026-10-25T02:30")] == [1, 1]
    with pytest.raises(errors.VersionMissing):
        number_of(world, "2025-10-26T02:30")
