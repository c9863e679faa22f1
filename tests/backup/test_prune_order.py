"""What a backup does about a prune beside it: fenced numbers, tombstones on its own packs, removed versions."""

from __future__ import annotations

import pytest

from flow_parts import RUN, World, keys_of, noise
from mlsync.errors import HistoryRolledBack
from mlsync.repository import names
from mlsync.repository.history import fence
from mlsync.repository.history.fence import FENCE_BYTES, Fence
from mlsync.store.wrapping import WrappingStore


@pytest.fixture
def world(tmp_path):
    """A machine with a run."""
    world = World(tmp_path)
    yield world
    world.close()


def fence_at(world, number):
    """Put a fence under a number of the run."""
    key = world.repository.version_key(RUN, number)
    world.store.replace(key, fence.make(world.repository.keys, key, Fence(1)))


class Between(WrappingStore):
    """Does something right before the first call of a method on keys with a prefix."""

    def __init__(self, store, method, prefix, act):
        super().__init__(store)
        self._awaited, self._act, self.calls = (method, prefix), act, []

    def call(self, method, key, work):
        """Make the call, after what was to come before it."""
        if self._awaited is not None and method == self._awaited[0] and key.startswith(self._awaited[1]):
            self._awaited = None
            self._act()
        self.calls.append((method, key.partition("/")[0]))
        return super().call(method, key, work)


def packs_of(world, number):
    """The packs that a version names."""
    return {ref.pack for entry in world.manifest(number).entries for ref in entry.chunks}


def test_a_backup_takes_the_number_above_the_fences_and_says_nothing(world):
    """Fences of prunes above the last version are no news to anybody."""
    world.write("a.bin", noise(9000))
    world.backup()
    for number in (2, 3):
        fence_at(world, number)
    world.write("a.bin", noise(9000, 1))
    assert world.backup().version == 4
    world.lose_state()
    world.write("a.bin", noise(9000, 2))
    fence_at(world, 5)
    assert world.backup().version == 6
    assert world.monitor.notices == []
    assert world.restored() == world.tree()


def test_a_number_that_is_fenced_at_the_last_moment_is_left_and_all_is_looked_at_anew(world):
    """The creation fails, the next number is taken, and before it tombstones and packs are looked at again."""
    world.write("a.bin", noise(9000))
    world.backup()
    world.write("a.bin", noise(9000, 1))
    store = Between(world.store, "put", names.VERSIONS, lambda: fence_at(world, 2))
    world.use(store)
    assert world.backup().version == 3
    at = store.calls.index(("put", "versions"))
    again = store.calls[at:]
    assert again.index(("list", "tombstones")) < again.index(("stat", "packs"))
    assert again.index(("stat", "packs")) < again[1:].index(("put", "versions")) + 1
    assert world.manifest(3).root.previous.number == 1
    assert world.monitor.notices == []


def test_an_own_pack_that_got_a_tombstone_is_stored_again(world):
    """A backup that stood still between its upload and its commit does not rely on what a prune chose meanwhile."""
    world.write("a.bin", noise(9000))

    def mark():
        for key in keys_of(world.store, names.PACKS):
            world.store.put(names.tombstone(names.parse_pack(key)), b"x")

    world.use(Between(world.store, "get", names.HEADER, mark))
    assert world.backup().version == 1
    marked = {names.parse_tombstone(key) for key in keys_of(world.store, names.TOMBSTONES)}
    assert marked
    assert packs_of(world, 1).isdisjoint(marked)


def test_an_own_pack_that_is_gone_is_stored_again(world):
    """The same for a pack that is deleted already, with its tombstone."""
    world.write("a.bin", noise(9000))

    def lose():
        for key in keys_of(world.store, names.PACKS):
            world.store.delete(key)

    world.use(Between(world.store, "get", names.HEADER, lose))
    assert world.backup().version == 1
    assert world.restored() == world.tree()


def test_the_version_that_was_seen_last_may_be_removed(world):
    """Another machine went on and a policy removed what this one saw last: that is no older history."""
    world.write("a.bin", noise(9000))
    world.backup()
    world.save_state("old")
    world.write("a.bin", noise(9000, 1))
    world.backup()
    world.write("a.bin", noise(9000, 2))
    world.backup()
    world.load_state("old")
    for number in (1, 2):
        fence_at(world, number)
    world.write("a.bin", noise(9000, 3))
    assert world.backup().version == 4
    assert world.restored() == world.tree()


def test_other_bytes_in_the_place_of_the_version_that_was_seen_last_are_noticed(world):
    """Only a fence that opens tells that a version was removed, and the newest version never is."""
    world.write("a.bin", noise(9000))
    world.backup()
    key = world.repository.version_key(RUN, 1)
    body = world.store.get(key, limit_bytes=1 << 20)
    world.write("a.bin", noise(9000, 1))
    fence_at(world, 1)
    with pytest.raises(HistoryRolledBack):
        world.backup()
    world.store.replace(key, body)
    world.backup()
    world.store.replace(world.repository.version_key(RUN, 2), bytes(FENCE_BYTES))
    world.write("a.bin", noise(9000, 2))
    with pytest.raises(HistoryRolledBack):
        world.backup()
