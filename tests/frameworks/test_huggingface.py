"""A real training with Hugging Face's Trainer beside a real agent: while it backs up, checkpoints are deleted."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
from watched import Trainer

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("huggingface_trainer.py")
# What a checkpoint is made of that a training can go on from.
WHOLE = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
    "training_args.bin",
}
VERSIONS_WANTED = 3


def tree(directory: Path):
    """Each file's mode and content."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) for path in files}


def checkpoints(version):
    """The names of the files of each ``checkpoint-N`` in a version."""
    found: dict[str, set[str]] = {}
    for entry in version["entries"]:
        directory, name = os.path.split(entry["path"])
        if directory.startswith("checkpoint-") and entry["kind"] == "file":
            found.setdefault(directory, set()).add(name)
    return found


class Story:
    """A training that saves several times a second while the agent makes version after version; then another one."""

    def __init__(self, watched, python):
        self._watched = watched
        self._python, self._environment = python

    def trainer(self, name, *arguments):
        """A trainer's process."""
        events = self._watched.base / name
        command = [self._python, "-s", str(PROGRAM), str(events), *map(str, arguments)]
        return Trainer(command, self._environment, events, self._watched.base / f"{name}.log")

    def play(self):
        """The training ends when there are some versions; what is left of it is restored elsewhere, and goes on."""
        self._watched.start()
        first = self.trainer("first", self._watched.runs, 100_000)
        try:
            self._watched.wait(lambda status: (status["last_version"] or 0) >= VERSIONS_WANTED)
            self.was_training = first.is_alive
            (self._watched.base / "first.enough").touch()
            ended_s = first.wait()
        finally:
            first.kill()
        self.ended = first.events("ended")[0]["step"]
        self._watched.caught_up(ended_s)
        self._watched.stop()
        self.left = tree(self._watched.runs)
        self.versions = self._watched.versions()
        shutil.rmtree(self._watched.runs)
        self.resume = self._watched.mlsync("restore")["resume"]
        self.restored = tree(self._watched.runs)
        self.go_on()

    def go_on(self):
        """Two steps more."""
        second = self.trainer("second", self._watched.runs, self.ended + 2, self.resume[0]["path"])
        try:
            second.wait()
        finally:
            second.kill()
        self.resumed = [event["step"] for kind in ("begins", "ended") for event in second.events(kind)]


@pytest.fixture(scope="module")
def story(watched, frameworks_python):
    """The whole story, played once."""
    story = Story(watched, frameworks_python)
    story.play()
    return story


def test_versions_are_made_while_checkpoints_come_and_go(story, watched):
    """The agent makes one version after the other, and no deleted file is an error or a trouble to it."""
    assert story.was_training
    assert len(story.versions) >= VERSIONS_WANTED
    # One that is caught while it is written, and is left out for that, may be among them on a slow machine.
    troubles = [trouble for version in story.versions for trouble in version["troubles"]]
    assert [trouble for trouble in troubles if trouble["kind"] != "torn"] == []
    assert " ERROR " not in watched.log()


def test_every_checkpoint_in_every_version_is_whole(story, watched):
    """All that a version holds comes back from the store, and was proved on the device before it was listed."""
    assert watched.mlsync("check", "--read-data")["problems"] == []
    entries = [entry for version in story.versions for entry in version["entries"]]
    weights = [entry for entry in entries if entry["path"].endswith(("model.safetensors", "optimizer.pt"))]
    assert {entry["proof"]["level"] for entry in weights} == {4}
    optimizers = [entry["proof"]["facts"] for entry in weights if entry["path"].endswith("optimizer.pt")]
    assert {facts["framework"] for facts in optimizers} == {"huggingface-optimizer"}


def test_the_last_version_is_what_the_training_left(story):
    """Bit for bit, and mode for mode: safetensors' files are for their owner alone."""
    assert story.restored == story.left
    names = checkpoints(story.versions[-1])
    assert names == {f"checkpoint-{story.ended - 1}": WHOLE, f"checkpoint-{story.ended}": WHOLE}
    mode, _ = story.restored[f"checkpoint-{story.ended}/model.safetensors"]
    assert mode == 0o600
    _, state = story.restored[f"checkpoint-{story.ended}/trainer_state.json"]
    assert json.loads(state)["global_step"] == story.ended


def test_the_restore_says_how_to_resume(story, watched):
    """The newest of the two checkpoints is the one that the line names, which the second training resumed from."""
    place = str(watched.runs / f"checkpoint-{story.ended}")
    line = f'trainer.train(resume_from_checkpoint="{place}")'
    assert story.resume == [{"kind": "huggingface-trainer", "path": place, "line": line}]


def test_training_goes_on_from_what_was_restored(story):
    """The Trainer resumes after the step that was saved last, and ends where it is told to."""
    assert story.resumed == [story.ended, story.ended + 2]
