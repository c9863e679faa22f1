"""Who kept a retired key, and may overwrite: a fence over a version, or a move record, has nothing lost or kept."""

from __future__ import annotations

import pytest

from compacting import WHEN_NS, compacted
from flow_parts import FAST, PASSPHRASE, RUN, World, keys_of, noise
from mlsync.errors import HistoryRolledBack, ObjectArchived, PruneBlocked, StoreUnavailable
from mlsync.monitor import SilentMonitor
from mlsync.repository import names
from mlsync.repository.history import fence, fences
from mlsync.repository.history.decision import Forgotten
from mlsync.repository.history.decisions import By, decide
from mlsync.repository.history.fence import Fence
from mlsync.repository.history.move import Moves
from mlsync.repository.history.seen_decision import half, seen_decision
from mlsync.repository.manifest import refs_of
from mlsync.repository.repository import Repository
from mlsync.store.wrapping import WrappingStore
from mlsync.upkeep import repair
from mlsync.upkeep.prune import PruneOptions, carry_out, plan
from mlsync.upkeep.resealing import plan_resealing, reseal
from mlsync.upkeep.rotation import rotate

QUIET = SilentMonitor()
NOW_NS = 4 * 10**18
GRACE_NS = 8 * 86_400 * 10**9


@pytest.fixture
def world(tmp_path):
    """Three versions, a rotation of the key, and a fourth; ``old_keys`` are those of the thief."""
    world = World(tmp_path)
    for number in (1, 2, 3):
        world.write("same", noise(30_000, 99))
        world.write("last", noise(20_000, number))
        world.backup()
    world.old_keys = world.repository.keys
    rotate(world.repository, PASSPHRASE, QUIET, host="node-1", now_ns=1, stretching=FAST)
    world.reopen()
    world.write("last", noise(20_000, 4))
    world.backup()
    yield world
    world.close()


def fence_by(keys, world, number):
    """Put a fence in the place of a version's manifest."""
    key = world.repository.version_key(RUN, number)
    world.store.replace(key, fence.make(keys, key, Fence(1, half(world.repository.stored(RUN, number).digest))))
    return key


def pruned(world, now_ns=NOW_NS, store=None):
    """Plan a prune and carry it out."""
    repository = Repository(store or world.store, world.repository.keys)
    options = PruneOptions(now_ns, "host", young_s=-1e11)
    found = plan(repository, world.monitor, options)
    return carry_out(repository, found, world.monitor, options)


def repaired(world):
    """Plan a repair and carry it out."""
    steps = repair.plan(world.repository, QUIET, header_fault=None, rebuild=False)
    return steps, repair.carry_out(world.repository, steps, QUIET, read_data=True)


def let_go(world, number):
    """Have a version forgotten, and long ago."""
    newest = world.repository.stored(RUN, world.numbers()[-1])

    def change(_decided, draft):
        digest = half(world.repository.stored(RUN, number).digest)
        draft.forgotten[number] = Forgotten(number, digest, "by hand", 0)

    decide(world.repository, RUN, seen_decision(newest.root.room), change, By("host", 1))


def test_a_fence_by_a_retired_key_has_no_pack_and_no_copy_deleted(world):
    """The prune says which version is missing, and deletes nothing, not even the copy."""
    key = fence_by(world.old_keys, world, 2)
    before = keys_of(world.store)
    with pytest.raises(PruneBlocked, match="mlsync repair brings it back") as caught:
        pruned(world)
    assert key in caught.value.what
    assert keys_of(world.store) == before


def test_repair_puts_the_version_back_in_one_step_and_it_restores(world):
    """The fence is overwritten by the manifest, which is the one that was there, and check has nothing to say."""
    tree = world.restored(2)
    key = fence_by(world.old_keys, world, 2)
    assert [problem.key for problem in world.check().problems] == [key]
    steps, done = repaired(world)
    assert [(step.key, step.heal, step.fault) for step in steps] == [
        (key, repair.Heal.FROM_COPY, "a fence that does not count is in its place")
    ]
    assert (done.failed, done.left) == ([], [])
    assert world.restored(2) == tree
    pruned(world)
    assert world.restored(2) == tree


def test_a_fence_by_the_newest_key_is_believed_without_a_decision(world):
    """As before: whoever has the newest key may say what is gone."""
    fence_by(world.repository.keys, world, 2)
    assert world.check().problems == []
    assert repaired(world)[0] == []
    pruned(world)
    assert names.copy_of(world.repository.version_key(RUN, 2)) not in keys_of(world.store)


def test_a_fence_that_a_prune_made_before_the_rotation_counts_for_good(tmp_path):
    """A decision that the new epoch lists says that the version is gone, with its copy left by a prune that died."""
    world = World(tmp_path)
    for number in (1, 2, 3):
        world.write("last", noise(20_000, number))
        world.backup()
    key = world.repository.version_key(RUN, 2)
    copy = world.store.get(names.copy_of(key), limit_bytes=1 << 20)
    let_go(world, 2)
    pruned(world)
    world.store.put(names.copy_of(key), copy)
    rotate(world.repository, PASSPHRASE, QUIET, host="node-1", now_ns=1, stretching=FAST)
    world.reopen()
    assert fences.counts(world.repository, key)
    assert world.check().problems == []
    assert repaired(world)[0] == []
    pruned(world)
    assert names.copy_of(key) not in keys_of(world.store)
    world.close()


def test_a_version_whose_copy_went_with_it_is_missed(world):
    """A fence of an older epoch, with no decision for it, does not hide that a later version names the one before."""
    key = fence_by(world.old_keys, world, 2)
    world.store.delete(names.copy_of(key))
    found = [(problem.key, problem.text) for problem in world.check().problems]
    assert found == [(key, "the manifest is missing, and version 3 follows it")]


def test_a_machine_whose_last_version_was_fenced_is_told(world):
    """A backup does not go on after another machine's version as if its own had been removed on purpose."""
    world.save_state("after 4")
    world.write("last", noise(20_000, 5))
    world.backup()
    world.load_state("after 4")
    key = world.repository.version_key(RUN, 4)
    rotate(world.repository, PASSPHRASE, QUIET, host="node-1", now_ns=2, stretching=FAST)
    keys = world.repository.keys
    world.reopen()
    world.store.replace(key, fence.make(keys, key, Fence(1)))
    with pytest.raises(HistoryRolledBack):
        world.backup()


class Answering(WrappingStore):
    """Answers the read of one object with an error."""

    def __init__(self, store, key, error):
        super().__init__(store)
        self._key, self._error = key, error

    def get(self, key, **limits):
        """Read, or fail."""
        if key == self._key:
            raise self._error
        return super().get(key, **limits)


@pytest.mark.parametrize(
    ("error", "told"),
    [(ObjectArchived("in cold storage"), PruneBlocked), (StoreUnavailable("no answer"), StoreUnavailable)],
    ids=["archived", "away"],
)
def test_a_copy_that_cannot_be_read_now_is_not_taken_for_none(world, error, told):
    """A version of which the copy alone is there keeps its packs while that copy cannot be read."""
    key = fence_by(world.old_keys, world, 2)
    before = keys_of(world.store)
    with pytest.raises(told):
        pruned(world, store=Answering(world.store, names.copy_of(key), error))
    assert keys_of(world.store) == before


# ---------------------------------------------------------------- move records


def planted_record(world, pack, other):
    """A record by the thief that has a pack's chunks in another one, where they are not."""
    sizes = {one: info.size_bytes for one, info in world.repository.packs()}
    refs = Repository(world.store, world.old_keys).pack_refs(other, sizes[other])
    Moves(world.store, world.old_keys).add(pack, refs, WHEN_NS, "thief")


def packs_of(world, number):
    """The packs that the files of a version lie in."""
    return {ref.pack for ref in refs_of(world.manifest(number).entries)}


def test_a_pack_with_a_retired_record_is_resealed_and_goes(world):
    """A record by a retired key does not keep its pack waiting: reseal moves it anew, and a prune deletes it."""
    (same,) = packs_of(world, 1) & packs_of(world, 3)
    (other,) = packs_of(world, 3) - {same}
    trees = {number: world.restored(number) for number in (1, 2, 3, 4)}
    planted_record(world, same, other)
    world.store.put(names.tombstone(same), b"planted as well")
    fresh = Repository(world.store, world.repository.keys)
    done = reseal(fresh, plan_resealing(fresh, QUIET), QUIET, now_ns=WHEN_NS)
    assert (same in done.moved, done.left) == (True, {})
    for turn in (0, 1, 2):
        pruned(world, NOW_NS + turn * GRACE_NS)
    assert names.pack(same) not in keys_of(world.store)
    assert {number: world.restored(number) for number in trees} == trees


def test_a_pack_that_a_retired_record_had_marked_is_moved_by_a_compaction(world):
    """What waits for a prune because of such a record goes with the next compaction, however much of it is needed."""
    (same,) = packs_of(world, 1) & packs_of(world, 3)
    (other,) = packs_of(world, 3) - {same}
    planted_record(world, same, other)
    world.store.put(names.tombstone(same), b"planted as well")
    for turn in (0, 1):
        pruned(world, NOW_NS + turn * GRACE_NS)
    assert names.pack(same) in keys_of(world.store)
    fresh = Repository(world.store, world.repository.keys)
    assert compacted(fresh).moved == [same]
    for turn in (2, 3):
        pruned(world, NOW_NS + turn * GRACE_NS)
    assert names.pack(same) not in keys_of(world.store)
    assert world.restored(1)


def test_a_record_is_not_overwritten_once_its_pack_is_gone(world):
    """Readers go by it then, whatever its key: a compaction that comes too late leaves it."""
    (same,) = packs_of(world, 1) & packs_of(world, 3)
    (other,) = packs_of(world, 3) - {same}
    planted_record(world, same, other)
    before = world.store.get(names.move(same), limit_bytes=1 << 20)
    sizes = {one: info.size_bytes for one, info in world.repository.packs()}
    refs = world.repository.pack_refs(other, sizes[other])
    world.store.delete(names.pack(same))
    Moves(world.store, world.repository.keys).add(same, refs, WHEN_NS, "late")
    assert world.store.get(names.move(same), limit_bytes=1 << 20) == before
