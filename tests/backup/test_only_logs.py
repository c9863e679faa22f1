"""Whether only such files changed as may wait for the next version."""

from __future__ import annotations

import pytest

from flow_parts import RUN, small_checkpoint
from mlsync.backup.backup import look
from mlsync.backup.request import Source


@pytest.fixture
def begun(world):
    """A version with logs and checkpoints, at rest since long."""
    world.write("results.csv", b"1,2\n")
    world.write("logs/train.log", b"begin\n")
    world.write("last.pt", small_checkpoint())
    world.write("checkpoint-1/training_args.bin", b"x")
    world.write("checkpoint-1/trainer_state.json", b"{}")
    world.write("~notes", b"a")
    assert world.backup().version == 1
    return world


def waits(world):
    """Whether the run counts as one in which nothing changed but what may wait."""
    source = Source(RUN, bytes(world.directory))
    joined, untouched = look(world.state, source, logs_too=True), look(world.state, source)
    assert untouched is None or joined is not None
    return joined is not None and joined.version == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda d: (d / "results.csv").write_bytes(b"1,2\n3,4\n"),
        lambda d: (d / "results.csv").write_bytes(b""),
        lambda d: (d / "logs/train.log").unlink(),
        lambda d: (d / "last.pt").unlink(),
        lambda d: ((d / "~notes").unlink(), (d / "results.csv").write_bytes(b"12345")),
        lambda d: [file.unlink() for file in (d / "checkpoint-1").iterdir()],
    ],
    ids=["grown", "written again", "log deleted", "checkpoint deleted", "last one deleted", "rotated"],
)
def test_logs_and_deletions_may_wait(change, begun):
    """A log that grew or was written again, and whatever was deleted, is as good in the next version."""
    change(begun.directory)
    assert waits(begun)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: (d / "last.pt").write_bytes(small_checkpoint(2)),
        lambda d: (d / "checkpoint-1/training_args.bin").write_bytes(b"y"),
        lambda d: (d / "checkpoint-1/trainer_state.json").write_bytes(b"{ }"),
        lambda d: (d / "new.txt").write_bytes(b""),
        lambda d: (d / "zz.txt").write_bytes(b""),
        lambda d: (d / "results.csv").rename(d / "results-1.csv"),
    ],
    ids=["checkpoint", "part", "last file of a save", "new file", "new last file", "renamed"],
)
def test_checkpoints_and_new_files_do_not_wait(change, begun):
    """What trains on, and what nobody has seen yet, is in a version soon."""
    change(begun.directory)
    assert not waits(begun)


def test_an_untouched_run_waits_for_nothing(begun):
    """Where nothing changed there is nothing to leave to a later version either, and troubles stay known."""
    begun.write("torn.pt", small_checkpoint()[:-40])
    begun.backup()
    source = Source(RUN, bytes(begun.directory))
    joined, untouched = look(begun.state, source, logs_too=True), look(begun.state, source)
    assert joined.troubles == untouched.troubles
    assert b"torn.pt" in [one.path for one in joined.troubles]
