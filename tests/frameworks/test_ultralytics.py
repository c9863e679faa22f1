"""A real Ultralytics training beside a real agent: it is lost in the middle, restored, resumed, and ends."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from watched import Trainer, Watched

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
LAST, BEST = "train/weights/last.pt", "train/weights/best.pt"


def sha256(path: Path) -> str:
    """What is in a file, in short."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Story:
    """What was seen on the way."""

    def __init__(self, watched, python, data):
        self.watched = watched
        self._python, self._environment = python
        self._data = data
        self.saved: dict[int, str] = {}

    def trainer(self, name, *arguments):
        """A trainer's process."""
        events = self.watched.base / f"{name}-events"
        command = [self._python, "-s", str(HERE / "ultralytics_trainer.py"), str(events), *map(str, arguments)]
        return Trainer(command, self._environment, events, self.watched.base / f"{name}.log")

    def play(self):
        """Two epochs, each in a version; the machine is lost; the rest of the training on the next one."""
        self.watched.start()
        self.train_and_lose()
        self.restored = self.watched.mlsync("restore", "--version", "resumable")
        self.restored_last = sha256(self.watched.runs / LAST)
        self.watched.start()
        self.resume()
        self.watched.stop()

    def train_and_lose(self):
        """A training that is killed after two of three epochs, and everything that it wrote is gone."""
        trainer = self.trainer("first", "train", self._data, self.watched.runs)
        try:
            for epoch in range(2):
                saved_s = trainer.wait_saved(epoch)
                self.saved[epoch] = sha256(self.watched.runs / LAST)
                self.watched.caught_up(saved_s)
                if epoch == 0:
                    trainer.go_on()
        finally:
            trainer.kill()
        self.watched.stop()
        self.begun = trainer.events("begins")
        self.lost_versions = self.watched.versions()
        shutil.rmtree(self.watched.runs)

    def resume(self):
        """The training goes on from what was restored, to its end."""
        trainer = self.trainer("second", "resume", self.watched.runs / LAST)
        try:
            ended_s = trainer.wait()
        finally:
            trainer.kill()
        self.resumed, self.resumed_epochs = trainer.events("begins"), trainer.events("saved")
        self.watched.caught_up(ended_s)


@pytest.fixture(scope="module")
def story(watched, ultralytics_python, data):
    """The whole story, played once."""
    story = Story(watched, ultralytics_python, data)
    story.play()
    return story


def entry(version, path):
    """A file of a version."""
    return next((entry for entry in version["entries"] if entry["path"] == path), None)


def test_each_epoch_is_in_a_version_and_proved(story):
    """What Ultralytics saved while the agent watched was loaded onto the device, and is known for what it is."""
    last = story.lost_versions[-1]
    proof = entry(last, LAST)["proof"]
    assert (last["troubles"], proof["level"], proof["device"]) == ([], 4, "cpu")
    facts = proof["facts"]
    assert (facts["framework"], facts["framework_version"], facts["epoch"]) == ("ultralytics", "8.4.190", 1)
    assert isinstance(facts["best_fitness"], float | int)
    assert facts["resumable"] is True
    epochs = [entry(v, LAST)["proof"]["facts"]["epoch"] for v in story.lost_versions if entry(v, LAST)]
    assert epochs == sorted(epochs)
    assert set(epochs) == {0, 1}


def test_no_code_of_the_training_knows_of_mlsync(story):
    """The trainer's Python could not even import mlsync."""
    assert [event["sees_mlsync"] for event in story.begun + story.resumed] == [False, False]


def test_restored_is_what_was_saved(story):
    """The last.pt that came back is to the bit the one that the killed training had saved last."""
    assert story.restored["version"] == story.lost_versions[-1]["version"]
    assert story.restored_last == story.saved[1]


def test_the_restore_says_how_to_resume(story):
    """In the place where it trained, Ultralytics needs the path of its last.pt alone."""
    place = str(story.watched.runs / LAST)
    line = f"yolo train resume model={place}"
    assert story.restored["resume"] == [{"kind": "ultralytics", "path": place, "line": line}]


def test_training_resumes_at_the_next_epoch(story):
    """Ultralytics goes on from the restored last.pt with the epoch that the killed training did not have, and ends."""
    assert [event["epoch"] for event in story.resumed] == [2]
    assert [event["epoch"] for event in story.resumed_epochs] == [2]
    with (story.watched.runs / "train/results.csv").open(newline="") as stream:
        assert [row["epoch"].strip() for row in csv.DictReader(stream)] == ["1", "2", "3"]


def test_the_end_strips_the_checkpoint_and_versions_show_it(story):
    """After the training's end the newest version holds a last.pt that nobody can go on from, and says so."""
    last = story.watched.versions()[-1]
    facts = entry(last, LAST)["proof"]["facts"]
    assert (facts["epoch"], facts["has_optimizer"], facts["resumable"]) == (-1, False, False)
    assert entry(last, LAST)["proof"]["level"] == 4


def test_resumable_is_still_there_after_the_end(story, tmp_path):
    """From after the end, ``resumable`` is a version from before it, with a last.pt that training can go on from."""
    done = story.watched.mlsync("restore", "--version", "resumable", "--to", tmp_path)
    versions = {version["version"]: version for version in story.watched.versions()}
    assert done["version"] < max(versions)
    last = entry(versions[done["version"]], LAST)
    assert last["proof"]["facts"]["resumable"] is True
    assert (tmp_path / LAST).stat().st_size == last["size_bytes"]
    # The last epoch's checkpoint lives for milliseconds before it is stripped; only seldom is it in a version.
    epoch = last["proof"]["facts"]["epoch"]
    assert epoch == 2 or (epoch, sha256(tmp_path / LAST)) == (1, story.saved[1])


def test_best_is_the_checkpoint_of_the_highest_fitness(story, tmp_path):
    """``best`` brings a best.pt, out of a version whose fitness no other one exceeds."""
    done = story.watched.mlsync("restore", "--version", "best", "--to", tmp_path)
    fitness = {version["version"]: fitness_of(version) for version in story.watched.versions()}
    assert fitness[done["version"]] == max(fitness.values())
    assert (tmp_path / BEST).read_bytes()[:4] == b"PK\x03\x04"


def test_metrics_are_what_the_training_logged(story):
    """The rows are those of results.csv, and each version that has it ends at one of them."""
    found = story.watched.mlsync("metrics")
    assert (found["kind"], found["log"]) == ("ultralytics", "train/results.csv")
    with (story.watched.runs / "train/results.csv").open(newline="") as stream:
        losses = [float(row["train/box_loss"]) for row in csv.DictReader(stream)]
    assert [row["values"]["train/box_loss"] for row in found["rows"]] == losses
    ends = [mark["epoch"] for mark in found["marks"]]
    assert ends == sorted(ends)
    assert {1, 2, 3} >= {*ends}
    assert ends[-1] == 3


def fitness_of(version):
    """The highest fitness that a checkpoint of a version names; less than any if none does."""
    proofs = [entry["proof"] for entry in version["entries"] if entry["proof"]]
    return max((proof["facts"].get("best_fitness", -1.0) for proof in proofs), default=-1.0)


# ---------------------------------------------------------------- level 5


@pytest.fixture
def loading(story, ultralytics_python, tmp_path):
    """A machine with what the training left, whose checkpoints are loaded with Ultralytics itself."""
    _, environment = ultralytics_python
    variables = [f"{name}={environment[name]}" for name in ("PYTHONPATH", "YOLO_CONFIG_DIR")]
    more = f'framework = "ultralytics"\ncommand_environment = {json.dumps(variables)}\n'
    machine = Watched(tmp_path / "loading", more)
    shutil.copytree(story.watched.runs, machine.runs, dirs_exist_ok=True)
    return machine


def test_level_5_is_ultralytics_own_load_and_forward_pass(loading):
    """What Ultralytics loads and runs is proved to level 5; what it cannot load is refused, whole as the file is."""
    loading.mlsync("backup")
    proofs = [entry(loading.versions()[-1], path)["proof"] for path in (LAST, BEST)]
    assert [(proof["level"], proof["facts"]["loaded_by"]) for proof in proofs] == [(5, "ultralytics")] * 2
    write_unloadable(loading.runs / LAST)
    loading.mlsync("backup", status=50)
    last = loading.versions()[-1]
    assert [(trouble["path"], trouble["kind"], trouble["kept_version"]) for trouble in last["troubles"]] == [
        (LAST, "broken", 1)
    ]
    assert last["troubles"][0]["text"].startswith("level 5: ultralytics ended with 1: ")
    assert entry(last, LAST)["proof"]["level"] == 5


def write_unloadable(path: Path) -> None:
    """A file that is sound as a container and says of itself that Ultralytics wrote it, and holds no model."""
    import torch

    content = {"epoch": 1, "train_args": {}, "ema": {"weight": torch.ones(100)}, "model": None, "optimizer": {"lr": 1}}
    torch.save(content, path)


# ---------------------------------------------------------------- evaluation


def test_the_built_in_evaluation_is_ultralytics_own(story, data, ultralytics_python, tmp_path):
    """It measures on the training's own pictures, and says what is missing on a machine that has none of them."""
    python, environment = ultralytics_python
    variables = [f"{name}={environment[name]}" for name in ("PYTHONPATH", "YOLO_CONFIG_DIR")]
    more = f'[evaluate]\nbuiltin = "ultralytics"\npython = "{python}"\nenvironment = {json.dumps(variables)}\n'
    machine = Watched(tmp_path / "evaluating", more)
    shutil.copytree(story.watched.runs, machine.runs, dirs_exist_ok=True)
    machine.mlsync("backup")
    done = machine.mlsync("evaluate", "--quickly")
    assert (done["label"], done["path"]) == ("ultralytics", BEST)
    assert {"fitness", "metrics/mAP50(B)", "metrics/mAP50-95(B)"} <= done["numbers"].keys()
    data.rename(data.with_suffix(".away"))
    try:
        error = machine.mlsync("evaluate", "--quickly", status=111)["error"]
    finally:
        data.with_suffix(".away").rename(data)
    assert f"the dataset of the training is not on this machine: there is no {data}" in error["what"]
