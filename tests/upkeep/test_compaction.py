"""Compaction: what is needed of mostly dead packs moves, every version stays whole, whatever dies or lies."""

from __future__ import annotations

import os
import random

import msgspec
import pytest

from compacting import (
    compacted,
    delete_buried,
    delete_unused,
    drop,
    planned,
    versions_of,
)
from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from flow_parts import World, keys_of, noise
from mlsync.errors import CompactionRefused, ObjectMissing, Stopped, StoreUnavailable
from mlsync.monitor import SilentMonitor
from mlsync.repository import features, names
from mlsync.repository.encoding.segments import segment_refs
from mlsync.repository.features import MOVES
from mlsync.repository.history import move
from mlsync.repository.history.move import Moves
from mlsync.repository.repository import Repository
from mlsync.store.counting import CountingStore
from mlsync.upkeep.compaction import CompactionPlan, PackUse, burial, refuse_above, releasable

PIECE = 40_000


@pytest.fixture
def world(tmp_path):
    """A run of three versions: the first pack has six files, of which the last two versions need two."""
    world = World(tmp_path)
    for number in range(6):
        world.write(f"file{number}", noise(PIECE, number))
    world.backup()
    trees = {}
    for turn in (2, 3):
        for number in range(4):
            world.write(f"file{number}", noise(PIECE, 100 * turn + number))
        world.backup()
        trees[turn] = world.tree()
    drop(world, 1)
    world.trees = trees
    yield world
    world.close()


def bury(world, pack_id):
    """Give a pack a tombstone."""
    burial(world.repository, 0)(pack_id)


def packs(world):
    """The packs of the store."""
    return {pack for pack, _ in world.repository.packs()}


def first_pack(world):
    """The pack of the first version's files."""
    return world.entry(b"file5", 2).chunks[0].pack


def is_whole(world):
    """Every version restores bit for bit, and a check of all bytes has no problem with a pack or version."""
    for number, tree in world.trees.items():
        assert world.restored(number) == tree
    problems = world.check().problems
    assert [one for one in problems if one.key.startswith(("packs/", "moves/"))] == []


def test_what_is_needed_of_a_mostly_dead_pack_moves(world):
    """The first pack, a third of which is needed, is moved; versions restore before and after it is deleted."""
    old = first_pack(world)
    plan = planned(world.repository)
    assert [use.pack_id for use in plan.packs] == [old]
    assert plan.written_bytes == 2 * (PIECE + 16)
    assert plan.read_bytes == 2 * plan.written_bytes
    assert plan.freed_bytes > 4 * PIECE
    result = compacted(world.repository)
    assert (result.moved, result.left, result.new_pack_count) == ([old], {}, 1)
    assert result.freed_bytes == plan.freed_bytes
    assert world.repository.tombstones() == {old}
    is_whole(world)
    assert delete_buried(world.repository) == {old}
    world.repository = Repository(world.store, world.repository.keys)
    is_whole(world)
    assert old not in packs(world)


def test_a_plan_writes_nothing(world):
    """To plan changes no object."""
    before = keys_of(world.store)
    planned(world.repository)
    assert keys_of(world.store) == before


def test_the_costs_are_what_was_told(world):
    """Bytes read and written are those of the plan, up to headers and footers."""
    plan = planned(world.repository)
    result = compacted(world.repository, only=plan)
    assert plan.written_bytes <= result.written_bytes <= plan.written_bytes + 1000
    assert plan.read_bytes <= result.read_bytes <= plan.read_bytes + 1000


def test_after_a_compaction_there_is_nothing_to_do(world):
    """What is moved is not moved again, before and after the old pack is gone."""
    compacted(world.repository)
    assert planned(world.repository) == CompactionPlan()
    delete_buried(world.repository)
    assert planned(world.repository) == CompactionPlan()


def test_the_ciphertext_is_not_the_old_one(world):
    """A chunk is sealed anew: nothing of the old pack's bytes stands in the new one."""
    old_ref = world.entry(b"file5", 2).chunks[0]
    body = world.store.get(names.pack(old_ref.pack), limit_bytes=1 << 20)
    sealed = body[old_ref.offset : old_ref.offset + old_ref.stored_bytes]
    before = packs(world)
    compacted(world.repository)
    (new,) = packs(world) - before
    assert sealed[:64] not in world.store.get(names.pack(new), limit_bytes=1 << 20)


def test_coded_chunks_stay_coded(tmp_path):
    """What was compressed in byte planes is moved as it is: a new pack is no larger than what it took."""
    import numpy as np

    world = World(tmp_path)
    for number in range(4):
        values = np.random.default_rng(number).normal(size=20_000).astype("<f4")
        file = world.path(f"w{number}.npy")
        np.save(os.fsdecode(file), values)
    world.backup()
    for number in range(3):
        world.write(f"w{number}.npy", noise(100, number))
    world.backup()
    refs = world.entry(b"w3.npy").chunks
    assert {int(ref.coding) for ref in refs} - {0}
    drop(world, 1)
    compacted(world.repository)
    found = world.repository.moves.of(refs[0].pack)
    for ref in refs:
        place = found.find(ref.name)
        assert (place.coding, place.stored_bytes) == (ref.coding, ref.stored_bytes)
    world.close()


def test_the_feature_is_set_before_the_first_record(world):
    """A reader that does not know moves must be kept out before a pack can go."""
    counted = FaultyStore(world.store)
    compacted(Repository(counted, world.repository.keys))
    puts = [key for method, key in counted.calls if method in ("put", "upload.finish")]
    kinds = [key.partition("/")[0] for key in puts]
    assert kinds == ["features", "packs", "moves", "tombstones"]
    assert features.is_feature(world.repository.keys, puts[0])
    assert names.parse_feature(puts[0]) == MOVES


def test_without_anything_to_move_nothing_is_set(world):
    """A repository whose packs are all needed gets neither feature nor record."""
    before = keys_of(world.store)
    compacted(world.repository, choose=lambda _: False)
    assert keys_of(world.store) == before


def test_small_new_packs_are_filled_and_records_wait_for_them(world):
    """A pack's chunks may go to several new packs; its record comes when all are durable."""
    result = compacted(world.repository, choose=lambda _: True, pack_bytes=PIECE)
    assert result.new_pack_count > 4
    assert not result.left
    assert delete_buried(world.repository) == set(result.moved)
    is_whole(world)


def test_what_versions_need_is_counted_once(world):
    """A chunk that both versions need counts once in the share of its pack."""
    (use,) = planned(world.repository).packs
    assert use.live_bytes == 2 * (PIECE + 16)
    assert use.ordinals.bit_count() == 2
    assert 0.3 < use.share < 0.35


def test_packs_that_may_be_moved_are_chosen(world):
    """The caller may choose by anything, as for a new key: then every pack that is needed moves."""
    result = compacted(world.repository, choose=lambda _: True)
    assert len(result.moved) > 2
    delete_buried(world.repository)
    is_whole(world)
    assert not packs(world) & set(result.moved)


def test_a_bound_cuts_the_plan_and_refuses_it(world):
    """Within a bound the packs that free most are moved; above it the plan is refused with its own status."""
    plan = planned(world.repository, choose=lambda _: True)
    assert [use.share for use in plan.packs] == sorted(use.share for use in plan.packs)
    assert plan.within(1 << 30) == plan
    cut = plan.within(3 * plan.packs[0].live_bytes)
    assert cut.packs == plan.packs[:1]
    assert plan.within(0).packs == ()
    refuse_above(cut, cut.read_bytes + cut.written_bytes)
    with pytest.raises(CompactionRefused, match="bytes would be read and written"):
        refuse_above(cut, cut.read_bytes + cut.written_bytes - 1)


def test_a_pack_with_a_tombstone_is_not_moved(world):
    """What is to be deleted is left to whoever deletes it."""
    bury(world, first_pack(world))
    assert planned(world.repository).packs == ()


def test_a_stop_leaves_all_that_was_moved_complete(world):
    """A stop ends it between two packs; what was moved until then has its record and tombstone."""
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(Stopped):
        compacted(world.repository, choose=lambda _: True, stop=stop)
    assert len(keys_of(world.store, names.MOVES)) == len(world.repository.tombstones()) == 2
    delete_buried(world.repository)
    is_whole(world)


# ---------------------------------------------------------------- again and again


def test_chunks_are_moved_on_and_on(world):
    """Moved seventeen times each chunk is found still: the last move is not made, as no reader would follow it."""
    for turn in range(move.STEPS_MAX + 2):
        result = compacted(world.repository, choose=lambda _: True)
        assert bool(result.moved) == (turn < move.STEPS_MAX)
        delete_buried(world.repository)
        world.repository = Repository(world.store, world.repository.keys)
    is_whole(world)


def test_a_new_version_shortens_the_chain(world):
    """The next version names the last places, and no record leads from it any more."""
    for _ in range(3):
        compacted(world.repository, choose=lambda _: True)
        delete_buried(world.repository)
    world.write("more", b"x")
    assert world.backup().version == 4
    named = {ref.pack for entry in world.manifest(4).entries for ref in entry.chunks}
    assert named <= packs(world)
    world.trees[4] = world.tree()
    is_whole(world)


# ---------------------------------------------------------------- death at each call


def test_killed_at_each_call_and_run_again(world, tmp_path):
    """Whoever dies at any call of the store leaves all versions whole, and the next compaction ends it."""
    objects = dict(world.store._objects)
    counted = CountingStore(world.store)
    compacted(Repository(counted, world.repository.keys), choose=lambda _: True, pack_bytes=2 * PIECE)
    call_count = sum(counted.calls.values())
    assert call_count > 20
    old = {pack for pack in packs(world) if names.pack(pack) in objects}
    for kind in ("die-before", "die-after"):
        for nth in range(1, call_count + 1):
            world.store._objects = dict(objects)
            dying = FaultyStore(world.store, Fault(kind, nth))
            with pytest.raises(ProcessDied):
                compacted(Repository(dying, world.repository.keys), choose=lambda _: True, pack_bytes=2 * PIECE)
            again = Repository(world.store, world.repository.keys)
            delete_buried(again)
            _reads_all(world, again)
            compacted(again, choose=lambda use: use.pack_id in old)
            delete_buried(again)
            delete_unused(again)
            _reads_all(world, again)
            assert not packs(world) & old
    is_whole(world)


def _reads_all(world, repository):
    """Every chunk of every version can be read."""
    with repository.reader() as reader:
        for stored in versions_of(repository):
            for entry in repository.entries(stored):
                for _ in reader.stream(entry.chunks):
                    pass


@pytest.mark.parametrize("method", ["put", "get", "read"])
def test_an_error_of_the_store_ends_it(world, method):
    """A store that fails ends the compaction with its error, and no version is harmed."""
    failing = FaultyStore(world.store, Fault("before", method=method, lasts=True))
    plan = planned(world.repository)
    with pytest.raises(StoreUnavailable):
        compacted(Repository(failing, world.repository.keys), only=plan)
    is_whole(world)


# ---------------------------------------------------------------- two at once, writers, liars


def test_two_compactions_at_once(world):
    """Both plan the same; one record counts, the other's packs are named by nobody, and all versions are whole."""
    plans = [planned(world.repository, choose=lambda _: True) for _ in range(2)]
    for plan in plans:
        assert compacted(world.repository, only=plan).left == {}
    before = packs(world)
    delete_buried(world.repository)
    unused = delete_unused(world.repository)
    assert unused
    assert unused < before
    is_whole(world)


def test_a_version_that_came_meanwhile_keeps_the_old_pack(world):
    """A writer that used a chunk nobody needed when the pack was planned, and that saw no tombstone, loses nothing."""
    plan = planned(world.repository)
    for number in range(4):
        world.write(f"file{number}", noise(PIECE, number))
    # It begins from what its local state knows: chunks of the first version.
    assert world.backup().new_bytes == 0
    world.trees[4] = world.tree()
    result = compacted(world.repository, only=plan)
    assert result.moved == [first_pack(world)]
    assert delete_buried(world.repository) == set()
    is_whole(world)
    # Once nobody needs what was not moved, the pack goes.
    world.write("file0", b"")
    for number in range(1, 4):
        world.write(f"file{number}", noise(PIECE, 700 + number))
    world.backup()
    world.trees[5] = world.tree()
    drop(world, 4)
    del world.trees[4]
    assert delete_buried(world.repository) == set(result.moved)
    is_whole(world)


def test_a_compaction_that_comes_later_does_not_take_an_old_record_for_its_own(world):
    """A record that lacks what is needed now is no reason to bury the pack."""
    old = first_pack(world)
    plan = planned(world.repository)
    world.store.delete(names.tombstone(old))
    (use,) = plan.packs
    all_of_it = CompactionPlan((PackUse(old, use.size_bytes, use.size_bytes, (1 << 6) - 1),))
    compacted(world.repository, only=plan)
    world.store.delete(names.tombstone(old))
    result = compacted(world.repository, only=all_of_it)
    assert list(result.left) == [old]
    assert "without what versions need" in result.left[old]
    assert world.repository.tombstones() == set()


def test_a_planted_record_leaves_the_pack_alone(world):
    """Where something else lies under the record's name, the pack gets no tombstone."""
    old = first_pack(world)
    world.store.put(names.move(old), b"planted")
    result = compacted(world.repository)
    assert list(result.left) == [old]
    assert world.repository.tombstones() == set()
    is_whole(world)


@pytest.mark.parametrize("what", ["packs/", "moves/"])
def test_a_store_that_takes_and_loses_is_noticed(world, what):
    """A store that drops the new pack or the record and tells nobody gets no tombstone for the old pack."""

    class Losing(CountingStore):
        def put(self, key, body):
            if not key.startswith(what):
                super().put(key, body)

    result = compacted(Repository(Losing(world.store), world.repository.keys))
    assert list(result.left) == [first_pack(world)]
    assert world.repository.tombstones() == set()
    is_whole(world)


@pytest.mark.parametrize("how", ["dropped", "swapped"])
def test_a_record_that_is_lost_before_the_deletion_keeps_the_pack(world, how):
    """Records are read again right before a pack is deleted; one that is gone or another's keeps the pack."""
    (old,) = compacted(world.repository).moved
    world.store.delete(names.move(old))
    if how == "swapped":
        other = os.urandom(16)
        (new,) = world.entry(b"file5", 3).chunks
        Moves(world.store, world.repository.keys).add(other, [new], 0, "")
        world.store.put(names.move(old), world.store.get(names.move(other), limit_bytes=1 << 20))
    assert delete_buried(world.repository) == set()
    is_whole(world)


def test_a_new_pack_that_is_gone_or_short_keeps_the_old_one(world):
    """The new places are looked at too, before the old pack is deleted."""
    before = packs(world)
    compacted(world.repository)
    (new,) = packs(world) - before
    body = world.store.get(names.pack(new), limit_bytes=1 << 20)
    world.store.delete(names.pack(new))
    assert delete_buried(world.repository) == set()
    world.store.put(names.pack(new), body[:-60_000])
    assert delete_buried(world.repository) == set()
    is_whole_without = world.restored(3) == world.trees[3]
    assert is_whole_without


def test_a_new_pack_with_a_tombstone_keeps_the_old_one(world):
    """Two packs that lead to each other are not both deleted at once."""
    before = packs(world)
    compacted(world.repository)
    (new,) = packs(world) - before
    bury(world, new)
    assert first_pack(world) not in delete_buried(world.repository)
    is_whole(world)


@pytest.mark.parametrize("how", ["rotten", "short", "gone"])
def test_a_pack_that_cannot_be_read_is_left_as_it_is(world, how):
    """Damage is no reason to stop: other packs move, and the damaged one is named and stays."""
    old = first_pack(world)
    plan = planned(world.repository, choose=lambda _: True)
    key = names.pack(old)
    body = bytearray(world.store.get(key, limit_bytes=1 << 20))
    ref = world.entry(b"file5", 2).chunks[0]
    body[ref.offset + 5] ^= 1
    world.store.delete(key)
    if how != "gone":
        world.store.put(key, bytes(body if how == "rotten" else body[: ref.offset]))
    result = compacted(world.repository, only=plan)
    assert list(result.left) == [old]
    assert result.moved
    assert old not in world.repository.tombstones()


def test_a_bit_that_flips_on_the_way_does_not_stop_it(world):
    """A chunk that comes damaged is read a second time."""
    flipping = FaultyStore(world.store, *(Fault("flip", nth, "read") for nth in (4, 9)))
    assert compacted(Repository(flipping, world.repository.keys)).left == {}
    is_whole(world)


def test_a_repository_pruned_to_a_tenth_restores_bit_exact(tmp_path):
    """Thirty versions of files that change by chance, three of which stay: they restore, and little else is stored."""
    world, chance, trees = World(tmp_path), random.Random(7), {}
    for number in range(1, 31):
        for file in range(12):
            if number == 1 or file == number % 12 or chance.random() < 0.15:
                world.write(f"d{file % 3}/f{file}", noise(chance.randrange(5_000, 30_000), 1000 * number + file))
        assert world.backup().version == number
        trees[number] = world.tree()
    kept = (7, 16, 30)
    drop(world, *(number for number in trees if number not in kept))
    world.trees = {number: trees[number] for number in kept}
    for _ in range(3):
        delete_unused(world.repository)
        compacted(world.repository, choose=lambda use: use.share < 0.95)
        delete_buried(world.repository)
        world.repository = Repository(world.store, world.repository.keys)
    is_whole(world)
    stored_bytes = sum(info.size_bytes for info in world.store.list(names.PACKS))
    needed = {ref.name: ref.stored_bytes for n in kept for entry in world.manifest(n).entries for ref in entry.chunks}
    assert stored_bytes < 1.1 * sum(needed.values())
    world.close()


def test_a_record_that_a_key_holder_forged_deletes_nothing(world):
    """A taken-over node that may only create objects plants a record that leads to garbage: no pack goes for it."""
    old = first_pack(world)
    refs = world.repository.pack_refs(old, world.store.stat(names.pack(old)).size_bytes)
    writer = world.repository.writer(lambda _: None)
    placed = writer.put(memoryview(noise(3 * PIECE, 5)))
    writer.finish()
    lies = [msgspec.structs.replace(placed.ref, name=ref.name, plain_bytes=ref.plain_bytes) for ref in refs]
    lies = [msgspec.structs.replace(ref, stored_bytes=min(ref.stored_bytes, ref.plain_bytes + 16)) for ref in lies]
    Moves(world.store, world.repository.keys).add(old, lies, 0, "")
    # It may plant the tombstone too.
    bury(world, old)
    assert delete_buried(world.repository) == set()
    is_whole(world)
    world.store.delete(names.tombstone(old))
    result = compacted(world.repository, only=CompactionPlan((PackUse(old, 1 << 20, 1, 1 << 5),)))
    assert old not in result.moved
    is_whole(world)


def test_a_pack_that_nobody_needs_is_released_without_reading(world):
    """Without a version that needs it, a pack goes, moved or not."""
    drop(world, 2, 3)
    sizes = {pack: info.size_bytes for pack, info in world.repository.packs()}
    counted = Repository(CountingStore(world.store), world.repository.keys)
    assert releasable(counted, set(sizes), [], sizes, SilentMonitor()) == set(sizes)
    assert counted.store.calls == {}


# ---------------------------------------------------------------- beside a backup, call by call


class Between(CountingStore):
    """Does something else right before the *nth* call."""

    def __init__(self, store, nth, action):
        super().__init__(store)
        self._nth, self._action = nth, action

    def call(self, method, key, work):
        """Make the call, after something else if it is due."""
        self._nth -= 1
        if self._nth == 0:
            self._action()
        return super().call(method, key, work)


def _count(world, action):
    """How many calls of the store an action takes; the store is as before afterwards."""
    objects = dict(world.store._objects)
    counted = CountingStore(world.store)
    action(Repository(counted, world.repository.keys))
    world.store._objects = objects
    return sum(counted.calls.values())


def test_a_backup_at_each_call_of_a_compaction(world):
    """A whole backup that takes up chunks which nobody needs, at any moment of a compaction, makes a whole version."""
    for number in range(3):
        world.write(f"file{number}", noise(PIECE, number))
    world.trees[4] = world.tree()
    objects, count = dict(world.store._objects), _count(world, compacted)
    world.save_state("before")
    assert count > 10
    for nth in range(1, count + 1):
        world.store._objects = dict(objects)
        world.load_state("before")
        world.use(world.store)
        compacted(Repository(Between(world.store, nth, world.backup), world.repository.keys))
        delete_buried(Repository(world.store, world.repository.keys))
        world.use(world.store)
        assert world.numbers() == [2, 3, 4]
        _reads_all(world, world.repository)
    is_whole(world)


def test_a_compaction_at_each_call_of_a_backup(world):
    """A whole compaction at any moment of such a backup leaves both the old versions and the new one whole."""
    for number in range(3):
        world.write(f"file{number}", noise(PIECE, number))
    world.trees[4] = world.tree()
    objects = dict(world.store._objects)
    world.save_state("before")
    world.use(CountingStore(world.store))
    world.backup()
    count = sum(world.repository.store.calls.values())
    for nth in range(1, count + 1):
        world.store._objects = dict(objects)
        world.load_state("before")
        beside = Repository(world.store, world.repository.keys)
        world.use(Between(world.store, nth, lambda beside=beside: compacted(beside, choose=lambda _: True)))
        assert world.backup().version == 4
        delete_buried(Repository(world.store, world.repository.keys))
        world.use(world.store)
        _reads_all(world, world.repository)
    is_whole(world)


@pytest.mark.parametrize("action", ["compaction", "deletion"])
def test_another_one_at_each_call_of_a_compaction(world, action):
    """A second compaction, or a deletion of all that nobody needs yet, at any moment of one takes nothing away."""
    beside = Repository(world.store, world.repository.keys)

    def other():
        if action == "compaction":
            compacted(beside, choose=lambda use: use.share < 0.9)
        delete_unused(beside)
        delete_buried(beside)

    objects, count = dict(world.store._objects), _count(world, compacted)
    for nth in range(1, count + 1):
        world.store._objects = dict(objects)
        compacted(Repository(Between(world.store, nth, other), world.repository.keys))
        again = Repository(world.store, world.repository.keys)
        delete_buried(again)
        _reads_all(world, again)
        compacted(again)
        delete_buried(again)
        _reads_all(world, again)
    is_whole(world)


# ---------------------------------------------------------------- what a plan looks at


@pytest.mark.parametrize("what", ["planted", "damaged"])
def test_what_a_damaged_manifest_needs_counts_by_its_copy(world, what):
    """A manifest that does not open is looked at by its copy; what was planted beside versions changes nothing."""
    before = planned(world.repository)
    if what == "planted":
        world.store.put(names.version(os.urandom(16), 7), b"planted")
    else:
        key = world.repository.version_key("yolo", 2)
        world.store.delete(key)
        world.store.put(key, b"damaged")
        world.repository = Repository(world.store, world.repository.keys)
    assert planned(world.repository) == before


def test_a_list_of_files_that_cannot_be_read_ends_a_plan(tmp_path):
    """What a version needs whose list of files is lost is unknown, and must not count as dead."""
    world = World(tmp_path)
    for number in range(400):
        world.write(f"{number:03d}-{'x' * 200}", b"%d" % (number % 3))
    world.backup()
    for ref in segment_refs(world.manifest().root, "here"):
        world.store.delete(names.pack(ref.pack))
    with pytest.raises(ObjectMissing):
        planned(world.repository)
    world.close()
