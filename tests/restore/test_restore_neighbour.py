"""A restore by root over a tree that a hostile neighbour owns: it touches nothing outside, and shows nothing."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from flow_parts import World, noise, outcome, tree_of
from mlsync.beneath import Beneath
from mlsync.target.temporary import TEMPORARY_PREFIX
from neighbour import NOBODY, Neighbour, temporary_name, world_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="plays root and another user")]

SECRET = b"the version's file that only root may read" * 1000
SECONDS = 1.5
ROUNDS_MIN = 8


@pytest.fixture
def place() -> Iterator[World]:
    """A version whose files are the neighbour's but for one, and what the neighbour wants root to touch by mistake."""
    # In memory where that is to be had: many rounds, each with a sync for every file.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="mlsync-test-", dir=memory) as name:
        os.chmod(name, 0o755)
        world = World(Path(name))
        fill(world)
        yield world
        world.close()


def fill(world: World) -> None:
    """Make the version, restore it once, and give the place to the neighbour."""
    for number in range(6):
        world.write(f"d{number}/a.bin", noise(60_000, number))
        world.write(f"d{number}/deep/b.bin", noise(3_000, 50 + number))
    world.write("big.bin", noise(4 << 20))
    world.write("empty.bin", b"")
    for place in (world.directory, *world.directory.rglob("*")):
        os.chown(place, NOBODY, NOBODY)
        place.chmod(0o777 if place.is_dir() else 0o666)
    world.write("secret.bin", SECRET)
    os.chmod(world.path("secret.bin"), 0o600)
    world.backup()
    outside = world.base / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "going").mkdir()
    for name in ("victim", "a.bin", "b.bin", "extra", "deep/b.bin", *(f"going/{number}" for number in range(50))):
        (outside / name).write_bytes(b"root's own " + name.encode())
        (outside / name).chmod(0o600)
    os.chmod(outside / "deep", 0o700)
    os.chmod(outside, 0o755)
    world.restore()
    os.chown(world.base / "out", NOBODY, NOBODY)


def play(
    world: World, *tricks: str, delete: bool = False, temporary: tuple[bytes, ...] = (), bait: bytes = b""
) -> Neighbour:
    """Restore again and again, with work to do each time, while the neighbour is at it."""
    out, outside = world.base / "out", world.base / "outside"
    before = world_of(outside)
    neighbour = Neighbour(
        out,
        outside,
        outside / "victim",
        world.base / "stash",
        tricks=tricks,
        temporary=temporary,
        bait=bait,
        seed=5,
    )
    rounds, end_s = 0, time.monotonic() + SECONDS
    with neighbour:
        while rounds < ROUNDS_MIN or time.monotonic() < end_s:
            disturb(world, rounds)
            result, error = outcome(lambda: world.restore(delete=delete))
            assert result or error
            rounds += 1
            assert world_of(outside) == before, (rounds, error)
    world.restore(delete=True)
    assert tree_of(out) == world.tree()
    return neighbour


def disturb(world: World, turn: int) -> None:
    """Something differs, so that files are compared, copied, written, mended and deleted."""
    with Beneath.open(os.fsencode(world.base / "out")) as out:
        with suppress(OSError):
            os.unlink("secret.bin", dir_fd=out.descriptor)
        for number in range(turn % 3, 6, 3):
            with suppress(OSError), out.beside(b"d%d/going" % number) as (parent, name):
                os.mkdir(name, dir_fd=parent)
            for name in (b"a.bin", b"deep/b.bin", b"extra", *(b"going/%d" % more for more in range(50))):
                with suppress(OSError):
                    path = b"d%d/%b" % (number, name)
                    descriptor = out.open_file(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o666)
                    os.write(descriptor, b"other")
                    os.close(descriptor)


def test_no_mode_or_owner_of_a_linked_file_changes(place):
    """A file that gives way to a symbolic link while it is compared or mended leaves the link's target alone."""
    assert play(place, "links").rounds["links"] >= ROUNDS_MIN


def test_nothing_is_deleted_through_a_swapped_directory(place):
    """A directory that gives way to a link to another one, just when what is below it is deleted, saves that other."""
    assert play(place, "directories", delete=True, bait=b"/going").rounds["directories"] >= ROUNDS_MIN


def test_nothing_is_written_through_a_swapped_directory(place):
    """A directory that changes places with a link to another one at any moment does not lead the restore there."""
    assert play(place, "directories", delete=True).rounds["directories"] >= ROUNDS_MIN


def test_a_name_that_the_neighbour_made_first_shows_nothing(place):
    """What only root may read is never written to a file that somebody else made or can open."""
    names = tuple(temporary_name(name, TEMPORARY_PREFIX) for name in (b"secret.bin", b"big.bin", b"d0/a.bin"))
    found = play(place, "temporaries", temporary=names)
    assert found.rounds["temporaries"] >= len(names)
    assert not [content for content in found.stolen if content.startswith(SECRET[:20])]
