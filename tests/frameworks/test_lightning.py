"""A real Lightning training beside a real agent: it is lost after two epochs, restored, and goes on with the third."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from watched import Trainer

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("lightning_trainer.py")


@pytest.fixture(scope="module")
def story(watched, frameworks_python):
    """A version of two epochs of a training that was killed, what the third one told, and what the restore said."""
    python, environment = frameworks_python

    def trainer(name, *arguments):
        events = watched.base / name
        command = [python, "-s", str(PROGRAM), str(events), str(watched.runs), "3", *map(str, arguments)]
        return Trainer(command, environment, events, watched.base / f"{name}.log")

    watched.start()
    first = trainer("first")
    try:
        first.wait_saved(0)
        first.go_on()
        watched.caught_up(first.wait_saved(1))
    finally:
        first.kill()
    watched.stop()
    version = watched.versions()[-1]
    shutil.rmtree(watched.runs)
    resume = watched.mlsync("restore", "--version", "resumable")["resume"]
    second = trainer("second", watched.runs / "last.ckpt")
    second.go_on()
    try:
        second.wait()
    finally:
        second.kill()
    return version, second.events("begins"), resume


def test_checkpoints_are_known_as_lightnings(story):
    """Each .ckpt was proved on the device, and its facts name the framework, the epoch and that it is resumable."""
    version, _, _ = story
    found = {entry["path"]: entry["proof"] for entry in version["entries"] if entry["path"].endswith(".ckpt")}
    assert set(found) == {"last.ckpt", "epoch=0-step=8.ckpt", "epoch=1-step=16.ckpt"}
    assert {(proof["level"], proof["facts"]["framework"]) for proof in found.values()} == {(4, "lightning")}
    facts = found["last.ckpt"]["facts"]
    assert (facts["epoch"], facts["step"], facts["framework_version"]) == (1, 16, "2.6.6")
    assert facts["resumable"] is True


def test_the_restore_says_how_to_resume(story, watched):
    """Of the file of the last epoch and last.ckpt, which are of one step, the line names the latter."""
    place = str(watched.runs / "last.ckpt")
    line = f'trainer.fit(model, ckpt_path="{place}")'
    assert story[2] == [{"kind": "lightning", "path": place, "line": line}]


def test_training_goes_on_with_the_next_epoch(story):
    """Lightning takes the restored last.ckpt and begins with the epoch after the one that was saved."""
    assert [event["epoch"] for event in story[1]] == [2]
