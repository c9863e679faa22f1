"""A node that cannot read dies at each call that it makes: nothing is half-done, and the next one goes on."""

from __future__ import annotations

import dataclasses
from contextlib import suppress

import pytest

from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from doubles.memory_store import MemoryStore
from flow_parts import RUN, World, noise, small_checkpoint
from mlsync.repository.keys.write_only_file import new_keys
from mlsync.repository.repository import Repository

pytestmark = pytest.mark.slow


class Story:
    """A node made version 1, the tree has changed, and version 2 is about to be made: again and again."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.reader = world.repository
        self.keys = new_keys(world.repository.keys, conditional_create=True)
        self.restart(world.store)
        world.write("last.pt", small_checkpoint(1))
        world.write("log.csv", noise(6_000))
        world.backup(uploads=None)
        world.write("last.pt", small_checkpoint(2))
        world.append("log.csv", noise(4_000, 2))
        self.second = world.tree()
        self.objects = dict(world.store._objects)
        world.save_state("before")

    def restart(self, store) -> None:
        """Be another process of the node, which opens nothing that an earlier one wrote."""
        self.world.repository = Repository(store, dataclasses.replace(self.keys, _made={}))

    def reader_of(self, store) -> Repository:
        """What opens everything."""
        return Repository(store, self.reader.keys)

    def again(self, *faults: Fault) -> FaultyStore:
        """Go back to the moment before version 2."""
        self.world.store = MemoryStore()
        self.world.store._objects = dict(self.objects)
        self.world.load_state("before")
        faulty = FaultyStore(self.world.store, *faults)
        self.restart(faulty)
        return faulty

    def hold(self, where: object) -> None:
        """The next process makes version 2, or goes on after the one that is there; who reads finds nothing wrong.

        If its local state is of the time before, it makes the same once more: it cannot see what the version holds.
        """
        world = self.world
        before = self.reader_of(world.store).numbers(RUN)
        self.restart(world.store)
        assert world.backup(uploads=None).version in ((2,) if before == [1] else (3, 0)), where
        self.restart(world.store)
        assert world.backup(uploads=None).version == 0, where
        world.repository = self.reader_of(world.store)
        assert world.numbers() in ([1, 2], [1, 2, 3]), where
        for number in world.numbers()[1:]:
            assert world.restored(number) == self.second, where
        assert world.check().problems == [], where


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("story"))
    yield Story(world)
    world.close()


@pytest.mark.parametrize("kind", ["die-before", "die-after"])
def test_a_node_may_die_at_any_call_of_the_store(story, kind):
    """Whichever call is the last: no version is made twice, and none that another process made stops the next one."""
    count = len(calls_of(story))
    assert count > 10
    died_count = 0
    for nth in range(1, count + 1):
        faulty = story.again(Fault(kind, nth))
        with suppress(ProcessDied):
            story.world.backup(uploads=None)
        died_count += faulty.is_dead
        story.hold((kind, nth))
    # How many parts of files are read in one call may differ by one.
    assert died_count >= count - 2


def calls_of(story):
    """The calls of a backup that nothing disturbs."""
    faulty = story.again()
    story.world.backup(uploads=None)
    return faulty.calls
