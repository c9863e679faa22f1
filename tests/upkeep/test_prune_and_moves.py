"""Prune and compaction together: a history of which a tenth stays, bit for bit, in little more than it needs."""

from __future__ import annotations

import random

from compacting import compacted, versions_of
from flow_parts import RUN, World, noise
from mlsync.repository import names
from mlsync.repository.decision import Forgotten
from mlsync.repository.decisions import By, decide
from mlsync.repository.manifest import refs_of
from mlsync.repository.repository import Repository
from mlsync.repository.seen_decision import half, seen_decision
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
