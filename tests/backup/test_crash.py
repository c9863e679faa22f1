"""A backup and a restore die at each call that they make: nothing half-done shows, and the next one goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from doubles.memory_store import MemoryStore
from flow_parts import RUN, Killed, World, contents, killed_at, noise, small_checkpoint, tree_of
from mlsync import errors
from mlsync.repository.listing import runs
from mlsync.repository.repository import Repository
from mlsync.store.directory.store import DirectoryStore
from mlsync.target.temporary import TEMPORARY_PREFIX

pytestmark = pytest.mark.slow

# Small parts, so that a pack of some kilobytes is an upload of several calls.
PART_BYTES = 24 << 10


class Story:
    """Version 1 is there, the tree has changed, and version 2 is about to be made: again and again, from one copy."""

    def __init__(self, base: Path) -> None:
        self.world = world = World(base, MemoryStore(PART_BYTES))
        world.write("last.pt", small_checkpoint(1))
        world.write("log.csv", noise(60_000))
        world.write("gone.bin", noise(5_000, 5))
        os.symlink("last.pt", world.path("latest"))
        world.backup()
        self.first = world.tree()
        world.write("last.pt", small_checkpoint(2))
        world.append("log.csv", noise(40_000, 2))
        world.write("best.pt", small_checkpoint(2))
        for number in range(4):
            world.write(f"epoch{number}.bin", noise(30_000, 10 + number))
        os.unlink(world.path("gone.bin"))
        self.second = world.tree()
        self.objects = dict(world.store._objects)
        world.save_state("before")

    def again(self, *faults: Fault) -> FaultyStore:
        """Go back to the moment before version 2."""
        self.world.store = MemoryStore(PART_BYTES)
        self.world.store._objects = dict(self.objects)
        self.world.load_state("before")
        faulty = FaultyStore(self.world.store, *faults)
        self.world.use(faulty)
        return faulty

    def recover(self) -> None:
        """Be a new process, with a store that works."""
        keys = self.world.repository.keys
        self.world.repository = Repository(self.world.store, keys)

    def hold(self, where: object) -> None:
        """Nothing half-done is there, and the next backup makes version 2 if it is not there yet."""
        world = self.world
        before = world.numbers()
        assert before in ([1], [1, 2]), where
        assert world.restored(1) == self.first, where
        assert world.check().problems == [], where
        result = world.backup()
        assert result.version == (2 if before == [1] else 0), where
        assert world.restored(2) == self.second, where
        assert world.check().problems == [], where
        assert world.backup().read_bytes == 0, where
        assert world.numbers() == [1, 2], where


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    story = Story(tmp_path_factory.mktemp("story"))
    yield story
    story.world.close()


def lose(world: World, how: str) -> None:
    if how == "deleted":
        world.lose_state()
    elif how == "rolled back":
        world.load_state("before")
    elif how == "damaged":
        world.damage_state()


@pytest.mark.parametrize(
    ("kind", "state"),
    [("die-before", "kept"), *(("die-after", state) for state in ("kept", "deleted", "rolled back", "damaged"))],
)
def test_a_backup_may_die_at_any_call_of_the_store(story, kind, state):
    """Whichever call is the last, whether it took effect or not: version 1 is whole, version 2 is whole or is not."""
    story.again()
    story.world.backup()
    count = len(story.world.repository.store.calls)
    assert count > 15
    died = 0
    # What becomes of the state changes little in what a call leaves: a third of the calls, each time another third.
    calls = range(1, count + 1) if state == "kept" else range(random.randint(1, 3), count + 1, 3)
    for nth in calls:
        story.again(Fault(kind, nth))
        try:
            story.world.backup()
        except ProcessDied:
            died += 1
        story.recover()
        lose(story.world, state)
        story.hold((kind, nth, state))
    # Two threads call the store, so that the count differs from run to run, on a busy machine by more than some calls.
    assert died > len(calls) * 2 // 3


@pytest.mark.parametrize("kind", ["before", "after"])
@pytest.mark.parametrize("lasts", [False, True])
def test_a_backup_may_lose_its_store_at_any_call(story, kind, lasts):
    """A call that fails, once or from then on, done or not, ends the backup with that error or does not matter."""
    story.again()
    story.world.backup()
    count = len(story.world.repository.store.calls)
    # Of the calls that fail for good every other one, each time the others: the calls behind it fail as well.
    for nth in range(random.randint(1, 2), count + 1, 2) if lasts else range(1, count + 1):
        story.again(Fault(kind, nth, lasts=lasts))
        with suppress(errors.StoreUnavailable):
            assert story.world.backup().version == 2
        story.recover()
        story.hold((kind, nth, lasts))


def test_a_backup_after_a_crash_sends_nothing_again(story, monkeypatch):
    """What was durable when a backup failed at its manifest is not stored a second time."""
    story.again()
    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr("mlsync.backup.new_version.commit", _die)
        story.world.backup()
    story.recover()
    assert story.world.numbers() == [1]
    result = story.world.backup()
    assert (result.version, result.new_bytes) == (2, 0)


def _die(*_arguments, **_options):
    raise Killed


# What a restore asks of the operating system, one after the other.
FILE_CALLS = ("open", "pread", "preadv", "pwrite", "fsync", "ftruncate", "rename", "link", "symlink", "unlink")
OTHER_CALLS = ("chmod", "chown", "fchmod", "fchown", "fstat", "fstatvfs", "mkdir", "readlink", "rmdir", "stat", "utime")
CALLS = (*FILE_CALLS, *OTHER_CALLS)


def test_a_restore_may_die_at_any_call_of_the_system(story):
    """Whichever call is the last, each name holds what was there before or the whole file, and a rerun completes."""
    story.again()
    world = story.world
    world.backup()
    world.restored(1)
    with killed_at(1 << 30, *CALLS) as calls:
        world.restore(2, delete=True)
    assert tree_of(world.base / "out") == story.second
    assert calls[0] > 60
    for nth in range(1, calls[0] + 1):
        world.restored(1)
        with killed_at(nth, *CALLS):
            world.restore(2, delete=True)
        for path, content in contents(tree_of(world.base / "out")).items():
            if not path.startswith(TEMPORARY_PREFIX):
                assert content in {contents(story.first).get(path), contents(story.second).get(path)}, (nth, path)
        world.restore(2, delete=True)
        assert tree_of(world.base / "out") == story.second, nth


@pytest.mark.parametrize("kind", ["die-before", "before", "flip", "truncate"])
def test_a_restore_may_lose_its_store_at_any_call(story, kind):
    """A read that fails or lies leaves no wrong byte under a final name, and a rerun fetches only what is missing."""
    story.again()
    world = story.world
    world.backup()
    plain = dict(world.store._objects)
    shutil.rmtree(world.base / "out", ignore_errors=True)
    world.restore(2)
    count = len(world.repository.store.calls)
    for nth in range(1, count + 1):
        story.again(Fault(kind, nth))
        world.store._objects = dict(plain)
        shutil.rmtree(world.base / "out", ignore_errors=True)
        with suppress(errors.Error, ProcessDied):
            world.restore(2)
        if (world.base / "out").exists():
            for path, content in contents(tree_of(world.base / "out")).items():
                assert path.startswith(TEMPORARY_PREFIX) or content == contents(story.second)[path], (nth, path)
        story.recover()
        world.restore(2)
        assert tree_of(world.base / "out") == story.second, nth


def test_dying_is_no_error_of_ours():
    """The tests' own death cannot be caught by what catches errors."""
    assert not issubclass(Killed, Exception)
    assert not issubclass(ProcessDied, Exception)


PROGRAM = """
import os, sys
sys.path[:0] = {path!r}
from pathlib import Path
from flow_parts import *
from mlsync.store.directory.store import DirectoryStore
base = Path({base!r})
world = World(base, DirectoryStore(base / "repo"), is_there=True)
print("go", flush=True)
{step}
print("done", flush=True)
"""


def run_and_kill(world: World, step: str, after_s: float) -> None:
    """Let another process do a step and kill it on the way."""
    code = PROGRAM.format(path=[str(Path(__file__).parents[1]), *sys.path], base=str(world.base), step=step)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "go\n"
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)


def test_a_killed_backup_and_a_killed_restore_leave_nothing_wrong(directory_world):
    """SIGKILL at a random moment of either, some rounds: earlier versions stand and both go on."""
    world = directory_world
    dice = random.Random(seed := random.randrange(1 << 30))
    world.write("last.pt", small_checkpoint(1))
    world.write("big.bin", noise(6 << 20))
    world.backup()
    trees = {1: world.tree()}
    for turn in range(2):
        world.write("big.bin", noise(16 << 20, 100 + turn))
        world.append("log.csv", noise(2000, turn)) if turn else world.write("log.csv", b"epoch,loss\n")
        world.write("last.pt", small_checkpoint(turn + 2))
        trees[turn + 2] = world.tree()
        world.state.close()
        run_and_kill(world, "world.backup()", dice.uniform(0, 0.25))
        world.store.close()
        world.store = DirectoryStore(world.base / "repo")
        world.reopen()
        for number in world.numbers():
            assert world.restored(number) == trees[number], (seed, turn, number)
        assert world.check().problems == [], seed
        world.backup()
        assert world.numbers() == list(range(1, turn + 3)), seed
        shutil.rmtree(world.base / "out")
        for _ in range(2):
            run_and_kill(world, f"world.restore({turn + 2})", dice.uniform(0, 0.12))
            if (world.base / "out").exists():
                for path, content in contents(tree_of(world.base / "out")).items():
                    wanted = contents(trees[turn + 2]).get(path)
                    assert path.startswith(TEMPORARY_PREFIX) or content == wanted, (seed, path)
        world.restore(turn + 2)
        assert tree_of(world.base / "out") == trees[turn + 2], seed
    assert RUN in {run.name for run in runs(world.repository)}
