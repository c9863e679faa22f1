"""Two paths of one version or of two, compared with each other."""

from __future__ import annotations

import os

import pytest
import torch

from flow_parts import RUN, checkpoint, noise
from mlsync.diff.diff import diff
from mlsync.diff.sides import Side
from mlsync.errors import ConfigInvalid, PathMissing


def compare(world, *places):
    """The difference between the paths of two versions."""
    sides = (Side(world.repository.stored(RUN, number), path) for number, path in places)
    return diff(world.repository, *sides, (), world.monitor)


def step(world, number, value=1.0):
    """What a trainer writes at a step, into a directory of its own."""
    world.write(f"checkpoint-{number}/model.pt", checkpoint(torch.full((9,), value)))
    world.write(f"checkpoint-{number}/config.json", b"{}")
    world.write(f"checkpoint-{number}/state-{number}.json", noise(100, number))


@pytest.fixture
def steps(world):
    """Two versions: the first has steps 40 and 50, the second step 60 too."""
    step(world, 40)
    step(world, 50, 2.0)
    world.backup()
    step(world, 60, 3.0)
    world.backup()
    return world


def test_two_directories_of_one_version(steps):
    """Files are paired by their names in the directories, and checkpoints among them down to their tensors."""
    result = compare(steps, (1, b"checkpoint-40"), (1, b"checkpoint-50"))
    assert {file.path: file.change for file in result.files} == {
        b"model.pt": "changed",
        b"state-40.json": "went",
        b"state-50.json": "came",
    }
    (changed,) = (file for file in result.files if file.change == "changed")
    assert (changed.before.path, changed.after.path) == (b"checkpoint-40/model.pt", b"checkpoint-50/model.pt")
    (tensor,) = changed.checkpoint.tensors
    assert tensor.drift.relative == 1.0
    assert (result.same_count, result.before_path, result.after_path) == (1, b"checkpoint-40", b"checkpoint-50")


def test_two_directories_of_two_versions(steps):
    """Each side is looked up in its own version, and paths are taken however they are written."""
    result = compare(steps, (1, b"./checkpoint-50/"), (2, b"checkpoint-60/."))
    assert [file.path for file in result.files] == [b"model.pt", b"state-50.json", b"state-60.json"]
    assert (result.before_path, result.after_path) == (b"checkpoint-50", b"checkpoint-60")
    with pytest.raises(PathMissing, match="version 1 holds nothing at checkpoint-60"):
        compare(steps, (1, b"checkpoint-60"), (2, b"checkpoint-60"))


def test_two_files_are_paired_whatever_they_are_called(steps):
    """Two files are one change of the later path."""
    result = compare(steps, (1, b"checkpoint-40/model.pt"), (2, b"checkpoint-60/model.pt"))
    (file,) = result.files
    assert (file.path, file.change, len(file.checkpoint.tensors)) == (b"checkpoint-60/model.pt", "changed", 1)
    same = compare(steps, (1, b"checkpoint-40/config.json"), (1, b"checkpoint-50/config.json"))
    assert (same.files, same.same_count, same.new_bytes) == ([], 1, 0)


def test_renamed_files_within_two_directories(steps):
    """Content under another name in the other directory is renamed; a directory that holds the other works too."""
    os.makedirs(steps.path("a"))
    steps.write("a/one.bin", noise(500, 7))
    steps.write("b/two.bin", noise(500, 7))
    steps.backup()
    (file,) = compare(steps, (3, b"a"), (3, b"b")).files
    assert (file.path, file.change, file.before.path) == (b"two.bin", "renamed", b"a/one.bin")
    whole = compare(steps, (1, b"."), (3, b"."))
    assert [file.path for file in whole.files][:2] == [b"a/one.bin", b"b/two.bin"]
    assert compare(steps, (3, b"a"), (3, b"a")).files == []


def test_a_directory_and_a_file_are_refused(steps):
    """What cannot be paired is named with its kinds."""
    os.symlink("checkpoint-60", steps.path("latest"))
    os.mkdir(steps.path("empty"))
    steps.backup()
    said = "checkpoint-40 of version 3 is a directory, and checkpoint-50/model.pt of version 3 is a file"
    with pytest.raises(ConfigInvalid, match=said):
        compare(steps, (3, b"checkpoint-40"), (3, b"checkpoint-50/model.pt"))
    with pytest.raises(ConfigInvalid, match="latest of version 3 is a symlink to checkpoint-60"):
        compare(steps, (3, b"checkpoint-40"), (3, b"latest"))
    assert {file.change for file in compare(steps, (3, b"checkpoint-40"), (3, b"empty")).files} == {"went"}


def test_a_hard_link_has_the_content_of_its_file(world):
    """``best.pt`` that is a link to ``last.pt`` is compared like the file."""
    world.write("last.pt", checkpoint(torch.ones(9)))
    world.write("old.pt", checkpoint(torch.zeros(9)))
    os.link(world.path("last.pt"), world.path("later.pt"))
    world.backup()
    (file,) = compare(world, (1, b"old.pt"), (1, b"later.pt")).files
    assert len(file.checkpoint.tensors) == 1


def test_paths_as_they_may_be_written(steps):
    """An absolute path in the directory that was backed up is taken, and a path as listings print it."""
    steps.write(b"odd\xff\n", b"x")
    steps.backup()
    absolute = bytes(steps.directory) + b"/checkpoint-40"
    assert compare(steps, (3, absolute), (3, b"checkpoint-50")).before_path == b"checkpoint-40"
    result = compare(steps, (3, b"odd\\xff\\u000a"), (3, b"checkpoint-40/config.json"))
    assert (result.before_path, len(result.files)) == (b"odd\xff\n", 1)


def test_a_path_that_is_missing_names_the_nearest(steps):
    """The error asks whether another path was meant."""
    with pytest.raises(PathMissing) as missing:
        compare(steps, (1, b"checkpoint-4"), (1, b"checkpoint-50"))
    assert missing.value.advice.startswith("did you mean checkpoint-40 or checkpoint-50")
    with pytest.raises(PathMissing) as missing:
        compare(steps, (1, b"nothing/like it"), (1, b"checkpoint-50"))
    assert missing.value.advice == "mlsync show 1 lists what there is"
