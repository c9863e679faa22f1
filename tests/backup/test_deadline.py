"""A last backup before the machine goes away: the newest first, committed in time, proved later."""

from __future__ import annotations

import os

import pytest

from doubles.ending_clock import EndsAfter
from flow_parts import World
from flow_parts import uniform_checkpoint as checkpoint
from mlsync.backup.deadline import Deadline, OutOfTime
from mlsync.backup.request import BackupOptions, Job


class Clock:
    """Stands until it is set."""

    now_s = 1000.0

    def __call__(self):
        """The time."""
        return self.now_s


@pytest.fixture
def world(tmp_path):
    """A run of one version: an old checkpoint, and one that was just written."""
    world = World(tmp_path)
    for number, name in enumerate(("old.pt", "new.pt")):
        world.write(name, checkpoint(float(number)))
        os.utime(world.path(name), ns=((number + 1) * 10**18, (number + 1) * 10**18))
    yield world
    world.close()


def planned(clock):
    return Deadline(1.0, 1.0, clock)


@pytest.mark.parametrize(
    ("left_s", "waits_s", "reads_s"), [(2.0, 1.0, 1.5), (20.0, 10.0, 15.0), (100.0, 50.0, 92.0), (0.0, 0.0, -0.5)]
)
def test_some_of_the_time_is_kept_for_the_commit(left_s, waits_s, reads_s):
    """A quarter, at least half a second and at most eight, and half of all is for waits."""
    plan = Deadline.at(1000.0 + left_s, Clock())
    assert (plan.wait_until_s, plan.read_until_s) == (1000.0 + waits_s, 1000.0 + reads_s)


def test_reading_ends_in_the_middle_of_a_file():
    """A single file may take minutes."""
    clock, amounts = Clock(), []
    advance = Deadline.at(1020.0, clock).checked(amounts.append)
    advance(1)
    clock.now_s = 1015.0
    with pytest.raises(OutOfTime):
        advance(2)
    assert amounts == [1, 2]


def test_the_newest_file_is_in_the_version_when_time_is_up(world):
    """The file that was written last is read first, and the other one is named as left to the next backup."""
    # Asked before the first file, after its piece, and before the second file.
    result = world.backup(deadline=planned(EndsAfter(2)))
    assert result.version == 1
    assert [entry.path for entry in world.manifest().entries] == [b"new.pt"]
    assert [(trouble.path, trouble.text) for trouble in result.troubles] == [(b"old.pt", "no time was left to read it")]


def test_what_had_no_time_keeps_its_last_content_and_comes_next(world):
    """A version never holds half of a file: the last content stays, and the next backup reads the file."""
    world.backup()
    before = world.tree()
    world.write("old.pt", checkpoint(7.0))
    world.write("new.pt", checkpoint(8.0))
    assert world.backup(deadline=planned(EndsAfter(0))).version == 0
    assert world.restored(1) == before
    assert world.backup().version == 2
    assert world.restored(2) == world.tree()


def test_a_file_that_is_cut_in_the_middle_is_not_in_the_version(world):
    """Time that ends after the first piece of a file leaves the whole file out."""
    result = world.backup(deadline=planned(EndsAfter(1)))
    assert result.version == 0
    assert [trouble.path for trouble in result.troubles] == [b"new.pt", b"old.pt"]
    assert world.backup().version == 1


def test_the_proof_comes_after_the_commit(world):
    """Checkpoints are committed as pending, and nothing is read back before."""
    result = world.backup(deadline=Deadline.at(1e9, Clock()))
    assert (result.version, result.read_back_bytes) == (1, 0)
    assert result.pending == ("new.pt", "old.pt")
    assert world.entry(b"new.pt").proof.shortfall == "not read back yet: the machine was to end"


def test_a_version_that_must_wait_for_its_proof_is_proved_first(world):
    """Whoever wants no version without a proof gets none, not even at the end."""
    result = world.backup(deadline=Deadline.at(1e9, Clock()), wait_for_proof=True)
    assert (result.version, result.pending) == (1, ())
    assert result.read_back_bytes


def test_a_wait_for_a_writer_does_not_cost_the_version(world):
    """The pause that a writer of several files may make is waited for as long as there is time."""
    clock = Clock()
    plan = Deadline.at(1020.0, clock)
    world.on_sleep = lambda: setattr(clock, "now_s", clock.now_s + 1.0)
    options = BackupOptions(deadline=plan, sleep=world._sleep)
    Job(None, None, None, None, options, None, None).sleep(60.0)
    assert len(world.slept) == 10
