"""When a directory is brought back before a training, and when it is left alone."""

from __future__ import annotations

import os

import pytest

from flow_parts import RUN, World
from flow_parts import uniform_checkpoint as checkpoint
from mlsync.errors import DirectoryNewer
from mlsync.monitor import SilentMonitor
from mlsync.restore.bring_back import Standing, bring_back

LATER_NS = 4 * 10**18


@pytest.fixture
def world(tmp_path):
    """A run of one version, with a checkpoint and a log, as they lie on the disk."""
    world = World(tmp_path)
    world.write("last.pt", checkpoint(1.0))
    world.write("log.txt", b"1\n")
    for name in ("last.pt", "log.txt"):
        os.utime(world.path(name), ns=(10**18, 10**18))
    world.backup()
    yield world
    world.close()


def brought(world, wanted="latest"):
    return bring_back(world.repository, RUN, os.fsencode(world.directory), wanted, SilentMonitor())


def later(world, name, content=b"later"):
    """A file that was written after the version."""
    world.write(name, content)
    os.utime(world.path(name), ns=(LATER_NS, LATER_NS))


def test_a_directory_as_the_version_has_it_is_left_alone(world):
    """Nothing is read or written."""
    found = brought(world)
    assert (found.number, found.standing, found.result) == (1, Standing.SAME, None)


@pytest.mark.parametrize("lost", [("last.pt", "log.txt"), ("last.pt",), ("log.txt",)])
def test_what_is_missing_comes_back(world, lost):
    """An empty directory and one that lacks files are as the version has them afterwards."""
    before = world.tree()
    for name in lost:
        os.unlink(world.path(name))
    found = brought(world)
    assert found.standing is (Standing.EMPTY if len(lost) == 2 else Standing.OLDER)
    assert found.result.written_count == len(lost)
    assert world.tree() == before


def test_an_older_file_is_replaced(world):
    """A node that comes back with what it had long ago goes on from the version."""
    before = world.tree()
    world.write("last.pt", checkpoint(0.0))
    os.utime(world.path("last.pt"), ns=(10**17, 10**17))
    assert brought(world).standing is Standing.OLDER
    assert world.tree() == before


@pytest.mark.parametrize("names", [("log.txt",), ("last.pt",), ("notes.md",), ("epoch2.pt",)])
def test_a_directory_that_is_ahead_is_left_alone(world, names):
    """The training went on from there: a log that grew, a newer checkpoint, a file that no version has."""
    for name in names:
        later(world, name)
    before = world.tree()
    found = brought(world)
    assert (found.standing, found.result) == (Standing.AHEAD, None)
    assert world.tree() == before


@pytest.mark.parametrize("lost", [("last.pt", "log.txt"), ("last.pt",)])
def test_what_a_stopped_restore_left_is_no_file_of_the_training(world, lost):
    """Half a file under its temporary name is newer than any version, and the restore goes on all the same."""
    before = world.tree()
    for name in lost:
        os.unlink(world.path(name))
    later(world, ".mlsync-restore-0123456789abcdef01234567")
    found = brought(world)
    assert found.standing is (Standing.EMPTY if len(lost) == 2 else Standing.OLDER)
    assert before.items() <= world.tree().items()


def test_a_rotated_checkpoint_is_no_loss(world):
    """A trainer deletes the checkpoint that the version has when it has saved a newer one."""
    os.unlink(world.path("last.pt"))
    later(world, "epoch2.pt", checkpoint(2.0))
    assert brought(world).standing is Standing.AHEAD


def test_newer_files_without_the_checkpoints_are_an_error(world):
    """Somebody began anew there: neither to overwrite nor to start from nothing can be right."""
    os.unlink(world.path("last.pt"))
    later(world, "log.txt")
    before = world.tree()
    with pytest.raises(DirectoryNewer, match=r"log\.txt is newer than version 1"):
        brought(world)
    assert world.tree() == before


def test_a_run_without_versions_has_nothing_to_bring_back(world):
    """The first start of a training."""
    found = bring_back(world.repository, "other", os.fsencode(world.directory), "resumable", SilentMonitor())
    assert (found.number, found.standing) == (None, None)


def test_without_a_resumable_version_the_latest_is_taken(world):
    """A trainer of one's own may go on from what mlsync does not know to be enough."""
    os.unlink(world.path("last.pt"))
    found = brought(world, "resumable")
    assert (found.number, found.word, found.standing) == (1, "latest", Standing.OLDER)
