"""Prune and compaction together: a history of which a tenth stays, bit for bit, in little more than it needs."""

from __future__ import annotations

import random

import pytest

from compacting import compacted, delete_buried, versions_of
from flow_parts import RUN, World, keys_of, noise
from mlsync.repository import names
from mlsync.repository.history.decision import Forgotten
from mlsync.repository.history.decisions import By, decide
from mlsync.repository.history.seen_decision import half, seen_decision
from mlsync.repository.history.tombstone import Tombstone, make_tombstone
from mlsync.repository.manifest import refs_of
from mlsync.repository.repository import Repository
from mlsync.upkeep.prune import PruneOptions, carry_out, plan

GRACE_NS = 8 * 86_400 * 10**9
BEGIN_NS = 4 * 10**18


def test_a_tenth_of_a_history_restores_bit_exact(tmp_path):
    """Thirty versions, three of which stay: prune, compaction and the next prunes leave them whole, and little else."""
    world, chance, trees = World(tmp_path), random.Random(7), {}
    for number in range(1, 31):
        for file in range(12):
            if number == 1 or file == number % 12 or chance.random() < 0.15:
                world.write(f"d{file % 3}/f{file}", noise(chance.randrange(5_000, 30_000), 1000 * number + file))
        assert world.backup().version == number
        trees[number] = world.tree()
    kept = (7, 16, 30)
    _forget(world, [number for number in trees if number not in kept])
    for turn in range(5):
        repository = Repository(world.store, world.repository.keys)
        options = PruneOptions(BEGIN_NS + turn * GRACE_NS, "host")
        carry_out(repository, plan(repository, world.monitor, options), world.monitor, options)
        if turn < 2:
            compacted(Repository(world.store, world.repository.keys), choose=lambda use: use.share < 0.95)
    world.use(world.store)
    assert world.numbers() == list(kept)
    for number in kept:
        assert world.restored(number) == trees[number]
    result = world.check()
    assert (result.problems, result.unused_packs) == ([], 0)
    stored_bytes = sum(info.size_bytes for info in world.store.list(names.PACKS))
    versions = versions_of(world.repository)
    needed = {ref.name: ref.stored_bytes for one in versions for ref in refs_of(world.repository.entries(one))}
    assert stored_bytes < 1.1 * sum(needed.values())
    assert list(world.store.list(names.TOMBSTONES)) == []
    # What was moved is used by the next version, and nothing is sent again.
    world.write("more", b"x")
    assert world.backup().new_bytes == 1
    assert world.restored()[b"more"][3] == b"x"
    world.close()


def _forget(world, numbers):
    seen = seen_decision(world.repository.stored(RUN, world.numbers()[-1]).root.room)

    def change(_decided, draft):
        for number in numbers:
            manifest = half(world.repository.stored(RUN, number).digest)
            draft.forgotten[number] = Forgotten(number, manifest, "keep last 1", 0)

    decide(world.repository, RUN, seen, change, By("host", 1))


def _pruned(world, now_ns):
    """Plan a prune and carry it out."""
    repository = Repository(world.store, world.repository.keys)
    options = PruneOptions(now_ns, "host")
    found = plan(repository, world.monitor, options)
    return found, carry_out(repository, found, world.monitor, options)


@pytest.fixture
def moved(tmp_path):
    """Two versions; the pack of the first was moved twice, and only the last pack is there."""
    world = World(tmp_path)
    world.write("file", noise(20_000))
    world.backup()
    world.write("file", b"other")
    world.backup()
    world.tree_1 = world.restored(1)
    for _ in range(2):
        compacted(Repository(world.store, world.repository.keys), choose=lambda _: True)
        delete_buried(Repository(world.store, world.repository.keys))
    world.records = keys_of(world.store, names.MOVES)
    yield world
    world.close()


def test_records_go_with_the_last_version_that_needs_them(moved):
    """While a version names a moved pack its records stay; with the version all of them go, and the other one stays."""
    found, _ = _pruned(moved, BEGIN_NS)
    assert (found.spent, keys_of(moved.store, names.MOVES)) == (set(), moved.records)
    moved.use(moved.store)
    assert moved.restored(1) == moved.tree_1
    old = {ref.pack for entry in moved.manifest(1).entries for ref in entry.chunks}
    new = {ref.pack for entry in moved.manifest(2).entries for ref in entry.chunks}
    _forget(moved, [1])
    _pruned(moved, BEGIN_NS + GRACE_NS)
    left = {names.parse_move(key) for key in keys_of(moved.store, names.MOVES)}
    assert old.isdisjoint(left)
    assert new <= left
    assert len(left) < len(moved.records)
    _pruned(moved, BEGIN_NS + 2 * GRACE_NS)
    moved.use(moved.store)
    assert moved.restored(2)[b"file"][3] == b"other"
    assert moved.check().problems == []


def test_records_of_a_version_that_was_brought_back_meanwhile_stay(moved):
    """Between the plan and the deletion somebody takes the forgetting back: the version restores afterwards."""
    _forget(moved, [1])
    repository = Repository(moved.store, moved.repository.keys)
    options = PruneOptions(BEGIN_NS, "host")
    found = plan(repository, moved.monitor, options)
    assert found.spent
    seen = seen_decision(moved.repository.stored(RUN, 2).root.room)
    decide(moved.repository, RUN, seen, lambda _decided, draft: draft.forgotten.clear(), By("host", 2))
    carry_out(repository, found, moved.monitor, options)
    assert keys_of(moved.store, names.MOVES) == moved.records
    moved.use(moved.store)
    assert moved.restored(1) == moved.tree_1


def test_what_is_no_record_is_left_alone(moved):
    """Somebody plants an object under the name of a record: it is not read as one, and nothing is to be done."""
    moved.store.put(names.move(b"planted" + bytes(9)), b"planted")
    found, _ = _pruned(moved, BEGIN_NS)
    assert found.spent == set()
    assert names.move(b"planted" + bytes(9)) in keys_of(moved.store, names.MOVES)


def test_the_record_of_a_pack_with_a_tombstone_waits(moved):
    """A prune died between a pack and its tombstone: the tombstone goes first, and the record with the next prune."""
    _forget(moved, [1])
    repository = Repository(moved.store, moved.repository.keys)
    moved_pack = min(plan(repository, moved.monitor, PruneOptions(BEGIN_NS, "host")).spent)
    key = names.move(moved_pack)
    said = Tombstone(BEGIN_NS, "mlsync")
    stone = names.tombstone(moved_pack)
    moved.store.put(stone, make_tombstone(moved.repository.keys, stone, said))
    found, _ = _pruned(moved, BEGIN_NS)
    assert moved_pack not in found.spent
    assert key in keys_of(moved.store, names.MOVES)
    assert stone not in keys_of(moved.store, names.TOMBSTONES)
