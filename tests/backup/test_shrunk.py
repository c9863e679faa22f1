"""Most checkpoints gone at once: waited for, then told, in the version and by a restore of the newest one."""

from __future__ import annotations

import os
import time

import pytest
import torch

from flow_parts import RUN, checkpoint, contents, small_checkpoint
from mlsync.backup.backup import look
from mlsync.backup.parents.parent import Parent
from mlsync.backup.request import Source
from mlsync.backup.shrunk import SETTLE_NS, Loss, earlier_loss, loss_of
from mlsync.errors import SourceShrunk, SourceUnreadable
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry
from mlsync.source.scan import Scan
from mlsync.values import Proof

PROOF = Proof(2, "torch-zip", "", "", 0, 0.0, 0, 0, {}, [])
MINUTE_NS = 60 * 10**9


@pytest.fixture
def clock(world):
    """The time of the world's backups, which a test moves; the files are of now."""
    now_ns = [time.time_ns() + MINUTE_NS]

    def backup(after_ns=0, **options):
        now_ns[0] += after_ns
        return world.backup(now_ns=lambda: now_ns[0], **options)

    return backup


@pytest.fixture
def away(world, clock):
    """A version with weights below a mount that is away by now; a log goes on."""
    for number in range(3):
        world.write(f"weights/{number}.pt", small_checkpoint(number))
    world.write("log.csv", b"1\n")
    assert clock().version == 1
    os.rename(world.path("weights"), world.base / "disk")
    os.mkdir(world.path("weights"))
    world.append("log.csv", b"2\n")
    return world.base / "disk"


def test_no_version_is_made_while_they_may_come_back(world, clock, away):
    """A bare mount point with a log that goes on makes no version for ten minutes, and says why."""
    for _ in range(9):
        with pytest.raises(SourceShrunk, match="3 of the 3 checkpoints of version 1 are gone") as caught:
            clock(MINUTE_NS)
        assert "--accept-loss" in caught.value.advice
    assert world.numbers() == [1]
    os.rmdir(world.path("weights"))
    os.rename(away, world.path("weights"))
    assert clock(MINUTE_NS).version == 2
    assert contents(world.restored()) == contents(world.tree())
    # Gone once more, they are waited for from the beginning.
    os.rename(world.path("weights"), away)
    with pytest.raises(SourceShrunk):
        clock(SETTLE_NS)


def test_what_stayed_away_is_told(world, clock, away):
    """After ten minutes the version is made; it says what is lost, and so does the newest one for a while."""
    with pytest.raises(SourceShrunk):
        clock()
    assert clock(SETTLE_NS).version == 2
    [note] = world.manifest(2).root.notes
    assert note == "most checkpoints are gone since version 1: 3 of 3; that version still has them"
    assert ("warning", f"{RUN}: {note}") in world.monitor.notices
    world.append("log.csv", b"3\n")
    result = clock()
    assert (result.version, result.notes) == (3, ())
    told = earlier_loss(world.repository, world.repository.stored(RUN, 3))
    assert told == f"version 2: {note}"
    assert earlier_loss(world.repository, world.repository.stored(RUN, 1)) is None


def test_they_are_not_waited_for_where_that_is_said(world, clock, away):
    """Who says that the loss is meant gets the version at once."""
    assert clock(accept_loss=True).version == 2
    assert contents(world.restored()) == {b"log.csv": b"1\n2\n"}


def test_an_untouched_tree_ends_the_wait(world, clock, away):
    """A look by the agent that finds all as it was begins the wait anew, should they vanish again."""
    with pytest.raises(SourceShrunk):
        clock()
    os.rmdir(world.path("weights"))
    os.rename(away, world.path("weights"))
    world.write("log.csv", b"1\n")
    clock()
    assert look(world.state, Source(RUN, os.fsencode(world.directory))) is not None
    os.rename(world.path("weights"), away)
    with pytest.raises(SourceShrunk):
        clock(SETTLE_NS)


def test_rotation_is_no_loss(world, clock):
    """Checkpoints that give way to new ones, and fewer than half of them, are no loss."""
    for number in range(4):
        world.write(f"epoch{number}.pt", small_checkpoint(number))
    clock()
    for number in range(4):
        os.unlink(world.path(f"epoch{number}.pt"))
        world.write(f"epoch{number + 4}.pt", small_checkpoint(number + 4))
    assert clock().version == 2
    os.unlink(world.path("epoch4.pt"))
    assert clock().version == 3


def test_the_one_with_most_bytes_counts_by_them(world, clock):
    """A large checkpoint that vanished is most of what there was, however many small ones stayed."""
    world.write("large.pt", checkpoint(torch.zeros(100_000)))
    for number in range(3):
        world.write(f"small{number}.pt", small_checkpoint(number))
    clock()
    os.unlink(world.path("large.pt"))
    with pytest.raises(SourceShrunk, match="1 of the 4"):
        clock()


def test_what_cannot_be_read_is_not_lost(world):
    """Checkpoints below a directory that cannot be listed are there as far as anybody knows."""
    entries = {b"weights/a.pt": Entry(b"weights/a.pt", EntryKind.FILE, 0o644, 0, 0, 0, 5, proof=PROOF)}
    parent = Parent(1, b"", is_remembered=True, entries=entries)
    assert loss_of(Scan([], []), parent) == Loss(1, 1, b"weights/a.pt")
    assert loss_of(Scan([], [(b"weights", SourceUnreadable("x"))]), parent) is None
