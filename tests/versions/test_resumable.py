"""Which checkpoint of a training is the one to resume from."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mlsync.versions.incomplete import INCOMPLETE
from mlsync.versions.resumable import resumables


def entry(path, *, container="torch-zip", mtime_ns=0, is_broken=False, lacking=None, **facts):
    """An entry of a manifest whose proof has these facts: of a whole checkpoint unless they say otherwise."""
    facts = {"framework": "plain", "resumable": True, "has_optimizer": True, "parameter_count": 5} | facts
    findings = [SimpleNamespace(what=INCOMPLETE + lacking)] if lacking else []
    proof = SimpleNamespace(facts=facts, container=container, findings=findings, is_broken=is_broken)
    return SimpleNamespace(path=path.encode(), mtime_ns=mtime_ns, proof=proof)


def part(path, **facts):
    """A file that is a part of a checkpoint of several files."""
    return entry(path, **{"resumable": False, "has_optimizer": False} | facts)


def paths_of(*entries):
    """The paths of what training can resume from."""
    return [one.path.decode() for one in resumables(entries)]


@pytest.mark.parametrize(
    ("entries", "path"),
    [
        # What save_period kept of an earlier training in the same directory
        (
            (
                entry("weights/epoch9.pt", framework="ultralytics", epoch=9),
                entry("weights/last.pt", framework="ultralytics", epoch=2),
            ),
            "weights/last.pt",
        ),
        ((entry("a.pt", epoch=10), entry("b.pt", epoch=9, mtime_ns=5)), "a.pt"),
        ((entry("a.ckpt", epoch=1, step=8), entry("last.ckpt", epoch=1, step=8)), "last.ckpt"),
        ((entry("old.pt", mtime_ns=1), entry("new.pt", mtime_ns=2)), "new.pt"),
        ((entry("last.pt", step=5, lacking="a file"), entry("whole.pt", step=4)), "whole.pt"),
        ((entry("last.pt", step=5, is_broken=True), entry("good.pt", step=4)), "good.pt"),
        (
            (
                entry("s/step-9/.metadata", container="dcp-metadata", framework="dcp"),
                entry("s/step-10/.metadata", container="dcp-metadata", framework="dcp"),
            ),
            "s/step-10",
        ),
    ],
    ids=["ultralytics", "epoch", "last", "time", "complete", "broken", "directories"],
)
def test_of_one_training_one_checkpoint_is_taken(entries, path):
    """The last one of Ultralytics; else the highest step or epoch, whole before incomplete, and never a broken one."""
    assert paths_of(*entries) == paths_of(*reversed(entries)) == [path]


def test_trainings_in_different_directories_are_different():
    """Each directory has a checkpoint of its own, the newest directory first."""
    assert paths_of(entry("a/x.pt", mtime_ns=1, epoch=9), entry("b/x.pt", mtime_ns=2, epoch=1)) == ["b/x.pt", "a/x.pt"]


@pytest.mark.parametrize(
    ("place", "kind", "step"),
    [("iter_0000010", "megatron", 10), ("global_step7", "deepspeed", 7), ("some/where3", "several-files", None)],
)
def test_weights_and_optimizer_in_separate_files_are_a_directory(place, kind, step):
    """A directory by its name, or because both parts are in it; alone, neither is anything to resume from."""
    weights, optimizer = part(f"out/{place}/a.pt"), part(f"out/{place}/b.pt", has_optimizer=True, parameter_count=0)
    (found,) = resumables([weights, optimizer])
    assert (found.kind, found.path.decode(), found.step) == (kind, f"out/{place}", step)
    assert paths_of(weights) == paths_of(optimizer) == []


def test_a_file_of_ones_own_in_a_directory_called_checkpoint_is_that_file():
    """Without ``trainer_state.json`` a ``checkpoint-5`` is no directory of Hugging Face's trainer."""
    assert paths_of(entry("checkpoint-5/model.pt")) == ["checkpoint-5/model.pt"]
