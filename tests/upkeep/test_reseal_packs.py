"""Resealing after a rotation: what versions need leaves the old key, whatever dies, lies or was planted."""

from __future__ import annotations

import os
import struct
from contextlib import suppress

import pytest

from compacting import WHEN_NS, delete_buried, delete_unused
from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from flow_parts import FAST, PASSPHRASE, World, keys_of, noise
from mlsync.codec.keys import Keys
from mlsync.errors import CompactionRefused, KeyRetired
from mlsync.monitor import SilentMonitor
from mlsync.repository import names
from mlsync.repository.history.move import STEPS_MAX
from mlsync.repository.repository import Repository
from mlsync.store.counting import CountingStore
from mlsync.upkeep import prune as prune_module
from mlsync.upkeep.compaction import CompactionPlan, burial, compact, plan_all
from mlsync.upkeep.resealing import plan_resealing, reseal
from mlsync.upkeep.rotation import rotate

QUIET = SilentMonitor()


def turned(world):
    """Rotate the key, and go on with the new one."""
    rotate(world.repository, PASSPHRASE, QUIET, host="node-1", now_ns=1, stretching=FAST)
    world.reopen()


@pytest.fixture
def world(tmp_path):
    """Two versions under the first key, and one under the second that uses packs of both."""
    world = World(tmp_path)
    trees = {}
    for turn in (1, 2):
        world.write("same", noise(30_000, 99))
        world.write("last", noise(20_000, turn))
        world.backup()
        trees[turn] = world.tree()
    turned(world)
    world.write("last", noise(20_000, 3))
    world.backup()
    trees[3] = world.tree()
    world.trees = trees
    yield world
    world.close()


def epochs_of_packs(world):
    """The epoch that each pack of the store states, by its header."""
    found = {}
    for pack, _ in world.repository.packs():
        body = world.store.get(names.pack(pack), limit_bytes=1 << 24)
        found[pack] = struct.unpack_from("<B", body, 11)[0]
    return found


def resealed(repository, **options):
    """Plan and carry out."""
    return reseal(repository, plan_resealing(repository, QUIET), QUIET, now_ns=WHEN_NS, **options)


def again(world):
    """The same repository as a new process sees it."""
    return Repository(world.store, world.repository.keys)


def is_whole(world):
    """Every version restores bit for bit."""
    for number, tree in world.trees.items():
        assert world.restored(number) == tree


def test_only_packs_under_older_keys_move_and_nothing_of_them_is_left(world):
    """All needed old packs move; once they are deleted no pack in the store is under the old key."""
    before = epochs_of_packs(world)
    old = {pack for pack, epoch in before.items() if epoch == 0}
    assert old < before.keys()
    planned = plan_resealing(world.repository, QUIET)
    assert {use.pack_id for use in planned.packs.packs} == old
    done = resealed(world.repository)
    assert (set(done.moved), done.left) == (old, {})
    after = plan_resealing(again(world), QUIET)
    assert (after.packs, after.waiting.keys(), after.stuck) == (CompactionPlan(), old, {})
    assert delete_buried(again(world)) == old
    world.repository = again(world)
    assert set(epochs_of_packs(world).values()) == {1}
    assert plan_resealing(world.repository, QUIET).waiting == {}
    is_whole(world)


def test_a_plan_before_the_rotation_tells_the_cost_after_it(tmp_path):
    """With *below* the next epoch, all that versions need is counted; without, nothing is older and nothing read."""
    world = World(tmp_path)
    world.write("a", noise(30_000, 1))
    world.backup()
    counted = CountingStore(world.store)
    assert plan_resealing(Repository(counted, world.repository.keys), QUIET).packs == CompactionPlan()
    assert sum(counted.calls.values()) == 1
    told = plan_resealing(world.repository, QUIET, below=1)
    turned(world)
    assert plan_resealing(world.repository, QUIET).packs == told.packs
    world.close()


def test_a_second_rotation_moves_what_was_moved(world):
    """Packs of every older epoch go, those of an earlier resealing too."""
    resealed(world.repository)
    delete_buried(world.repository)
    turned(world)
    resealed(world.repository)
    delete_buried(world.repository)
    world.repository = again(world)
    assert set(epochs_of_packs(world).values()) == {2}
    is_whole(world)


def test_killed_at_each_call_and_run_again(world):
    """Whoever dies at any call of the store leaves all versions whole, and the next resealing ends it."""
    objects = dict(world.store._objects)
    for kind in ("die-before", "die-after"):
        # Until it ends before the call at which it would die: ids differ, and so does what is read with one call.
        nth, is_over = 0, False
        while not is_over:
            nth += 1
            world.store._objects = dict(objects)
            dying = FaultyStore(world.store, Fault(kind, nth))
            with suppress(ProcessDied):
                resealed(Repository(dying, world.repository.keys))
            is_over = len(dying.calls) < nth
            delete_buried(again(world))
            assert resealed(again(world)).left == {}
            delete_buried(again(world))
            delete_unused(again(world))
            assert set(epochs_of_packs(world).values()) == {1}
        assert nth > 20
    world.repository = again(world)
    is_whole(world)


def test_a_planted_tombstone_or_record_keeps_no_pack_under_the_old_key_in_silence(world):
    """A pack that versions need moves although somebody gave it a tombstone; one with a false record is named."""
    old = sorted(pack for pack, epoch in epochs_of_packs(world).items() if epoch == 0)
    world.store.put(names.tombstone(old[0]), b"planted")
    world.store.put(names.tombstone(old[1]), b"planted")
    world.store.put(names.move(old[1]), b"planted")
    done = resealed(again(world))
    assert old[0] in done.moved
    assert list(done.left) == [old[1]]
    is_whole(world)


def test_who_has_only_a_retired_key_moves_nothing(world):
    """The new packs would be under a retired key too."""
    keys = world.repository.keys
    planned = plan_resealing(world.repository, QUIET)
    turned(world)
    before = keys_of(world.store)
    with pytest.raises(KeyRetired):
        reseal(Repository(world.store, keys), planned, QUIET, now_ns=WHEN_NS)
    with pytest.raises(KeyRetired):
        plan_resealing(Repository(world.store, keys), QUIET)
    assert keys_of(world.store) == before


def test_what_was_moved_as_often_as_readers_follow_is_named(tmp_path):
    """It stays under the old key, and the plan says so."""
    world = World(tmp_path)
    world.write("a", noise(1000, 1))
    world.backup()
    for _ in range(STEPS_MAX):
        planned = plan_all(again(world), QUIET, choose=lambda _: True)
        compact(again(world), planned, QUIET, now_ns=WHEN_NS)
        delete_buried(again(world))
    turned(world)
    planned = plan_resealing(world.repository, QUIET)
    assert (planned.packs, planned.waiting) == (CompactionPlan(), {})
    assert planned.stuck.keys() == {pack for pack, _ in world.repository.packs()}
    world.close()


def test_a_backup_during_it_loses_nothing(world):
    """A version that is made while packs move names places that stay."""
    planned = plan_resealing(world.repository, QUIET)
    world.write("more", noise(5000, 7))
    world.backup()
    world.trees[4] = world.tree()
    reseal(again(world), planned, QUIET, now_ns=WHEN_NS)
    delete_buried(again(world))
    world.write("even more", os.urandom(10))
    world.backup()
    world.trees[5] = world.tree()
    world.repository = again(world)
    is_whole(world)


def prune(world, now_ns):
    """Plan a prune and carry it out."""
    options = prune_module.PruneOptions(now_ns, "host")
    found = prune_module.plan(again(world), QUIET, options)
    return prune_module.carry_out(again(world), found, QUIET, options)


def test_a_tombstone_by_a_retired_key_is_made_anew(world):
    """Who kept the old key cannot have a grace period begin in the past: the prune makes the tombstone itself."""
    retired = Repository(world.store, Keys(world.repository.keys.master, world.repository.repository_id))
    pack = os.urandom(16)
    key = names.tombstone(pack)
    world.store.put(names.pack(pack), b"what no version names")
    burial(retired, 1)(pack)
    planted = world.store.get(key, limit_bytes=1 << 20)
    done = prune(world, WHEN_NS)
    assert (done.deleted, pack in done.marked) == ({}, True)
    assert world.store.get(key, limit_bytes=1 << 20) != planted
    assert pack in prune(world, WHEN_NS + 30 * 86_400 * 10**9).deleted


def test_a_planted_tombstone_of_a_moved_pack_is_made_anew(world):
    """A pack that was moved goes after a prune's own grace, whatever was under its tombstone's name."""
    old = sorted(pack for pack, epoch in epochs_of_packs(world).items() if epoch == 0)
    world.store.put(names.tombstone(old[0]), b"planted")
    resealed(again(world))
    assert old[0] in prune(world, WHEN_NS).marked
    assert old[0] in prune(world, WHEN_NS + 30 * 86_400 * 10**9).deleted
    world.repository = again(world)
    is_whole(world)


def test_a_bound_moves_some_packs_and_the_next_call_the_others(world):
    """Each call reads and writes no more than it may, says what is left, and together they leave nothing behind."""
    all_of_it = plan_resealing(Repository(world.store, world.repository.keys), QUIET)
    waiting = {use.pack_id: 3 * use.live_bytes for use in all_of_it.packs.packs}
    limit_bytes, left = max(waiting.values()), len(waiting)
    assert left > 1
    calls = 0
    while left:
        repository = Repository(world.store, world.repository.keys)
        planned = plan_resealing(repository, QUIET).within(limit_bytes)
        assert 3 * planned.packs.written_bytes <= limit_bytes
        assert len(planned.packs.packs) + len(planned.later) == left
        done = reseal(repository, planned, QUIET, now_ns=WHEN_NS)
        assert set(planned.later).isdisjoint(done.moved)
        left, calls = len(planned.later), calls + 1
    assert calls > 1
    assert plan_resealing(Repository(world.store, world.repository.keys), QUIET).packs.packs == ()
    assert world.restored(1) == world.trees[1]


def test_a_bound_below_any_pack_is_refused(world):
    """A call that can never move anything does not look like one that has nothing to do."""
    planned = plan_resealing(world.repository, QUIET)
    with pytest.raises(CompactionRefused, match="the first pack takes"):
        planned.within(10)
    assert planned.within(1 << 40).later == {}
