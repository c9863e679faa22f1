"""Checkpoints that a trainer deletes while a backup is under way."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from flow_parts import small_checkpoint
from mlsync.source import holding
from mlsync.source.holding import hold
from mlsync.source.reading import SourceFile
from mlsync.source.root import Root
from mlsync.source.scan import scan


@pytest.fixture
def saved(world):
    """A trainer's directory with one whole checkpoint."""
    world.write("checkpoint-7/pytorch_model.bin", small_checkpoint(1))
    world.write("checkpoint-7/optimizer.pt", small_checkpoint(2))
    world.write("checkpoint-7/trainer_state.json", json.dumps({"global_step": 7}).encode())
    return world


def paths(world):
    """What the last version holds."""
    return {entry.path for entry in world.manifest().entries}


@pytest.fixture
def root(world):
    with Root.open_watched(bytes(world.directory)) as root:
        yield root


def test_a_checkpoint_that_was_seen_whole_is_in_the_version(saved):
    """A rotation after the scan loses nothing: all files of the checkpoint are read and proved as they were."""
    rotated = lambda _files, _bytes: shutil.rmtree(saved.directory / "checkpoint-7")  # noqa: E731 - a hook
    result = saved.backup(announce=rotated)
    assert (result.version, result.troubles) == (1, ())
    assert {b"checkpoint-7/pytorch_model.bin", b"checkpoint-7/trainer_state.json"} <= paths(saved)
    # The next version has the directory as it is.
    saved.write("train.log", b"1")
    saved.backup(accept_loss=True)
    assert paths(saved) == {b"train.log"}


def test_another_file_under_the_name_counts(saved):
    """What took the place of a held file is what the directory has."""

    def replaced(_files, _bytes):
        os.unlink(saved.path("checkpoint-7/optimizer.pt"))
        saved.write("checkpoint-7/optimizer.pt", small_checkpoint(9))

    saved.backup(announce=replaced)
    entry = next(one for one in saved.manifest().entries if one.path == b"checkpoint-7/optimizer.pt")
    assert entry.size_bytes == len(small_checkpoint(9))


def test_a_held_file_that_is_written_and_deleted_is_found_out(saved, root):
    """Only a deletion is let pass: a write before it shows in the stat, as with any other file."""
    (found,) = [one for one in scan(root).found if one.path.endswith(b"optimizer.pt")]
    assert root.hold(found.path)
    with SourceFile.open(root, found) as file:
        os.unlink(saved.path("checkpoint-7/optimizer.pt"))
        file.confirm()
        descriptor = root.open_file(found.path, os.O_RDONLY)
        writer = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY)
        os.write(writer, b"x")
        os.close(writer)
        os.close(descriptor)
        with pytest.raises(Exception, match="was written while it was read"):
            file.confirm()


def test_what_is_held_is_bounded(saved, root, monkeypatch):
    """The newest files come first, and neither descriptors nor space are taken without end; all are let go."""
    files = [one for one in scan(root).found if one.kind == "file"]
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(holding, "HELD_MAX", 2)
    assert hold(root, files) == 2
    assert len(os.listdir("/proc/self/fd")) == before + 2
    monkeypatch.setattr(holding, "_free_bytes", lambda _root: 4 * 30)
    os.utime(saved.path("checkpoint-7/trainer_state.json"))
    files = [one for one in scan(root).found if one.kind == "file"]
    assert hold(root, files) == 1
    root.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1
