"""When a store shows less than this machine saw: which of the versions around the one that was seen count."""

from __future__ import annotations

import pytest

from flow_parts import RUN, World
from mlsync.errors import HistoryRolledBack
from mlsync.repository import names
from mlsync.source.state import Head
from mlsync.versions.rollback import refuse_older, refuse_rolled_back


def made(world: World, count: int) -> None:
    """Make that many versions."""
    for number in range(count):
        world.write("events.log", b"x" * (number + 1))
        world.backup()


def ruin(world: World, number: int) -> Head:
    """Have a version not open any more, and return it as it was seen before."""
    stored = world.repository.stored(RUN, number)
    key = names.version(world.repository._run_id(RUN), number)
    body, made_s = world.store._objects[key]
    world.store._objects[key] = (body[:-1] + bytes([body[-1] ^ 1]), made_s)
    world.reopen()
    return Head(number, stored.digest)


def test_a_newer_version_than_the_one_that_was_seen_is_no_step_back(world):
    """Where the version that was seen does not open and a newer one does, the newest is the newer one."""
    made(world, 3)
    refuse_rolled_back(world.repository, RUN, ruin(world, 2), by_number=False)


def test_where_no_version_opens_there_is_no_older_one_to_get(world):
    """Where nothing opens, the reader says so by itself, and is not told of a rollback."""
    made(world, 1)
    refuse_rolled_back(world.repository, RUN, ruin(world, 1), by_number=False)


def test_a_version_by_number_is_no_step_back(world):
    """Whoever asks for a version by its number gets that one, whatever became of the one that was seen."""
    made(world, 2)
    head = ruin(world, 2)
    refuse_rolled_back(world.repository, RUN, head, by_number=True)
    with pytest.raises(HistoryRolledBack, match="does not open any more"):
        refuse_rolled_back(world.repository, RUN, head, by_number=False)


def test_the_number_that_is_asked_for_is_enough(world):
    """``--at-least`` holds for the very number, and not for one above it."""
    made(world, 2)
    refuse_older(world.repository, RUN, 2)
    with pytest.raises(HistoryRolledBack, match="its newest version is 2"):
        refuse_older(world.repository, RUN, 3)


def test_the_version_that_was_seen_is_no_rollback(world):
    """The very version that was seen is what the store has to show, and another one under its number is not."""
    made(world, 2)
    seen = Head(2, world.repository.stored(RUN, 2).digest)
    refuse_rolled_back(world.repository, RUN, seen, by_number=False)
    with pytest.raises(HistoryRolledBack, match="no longer shows version 2"):
        refuse_rolled_back(world.repository, RUN, Head(2, bytes(32)), by_number=False)
