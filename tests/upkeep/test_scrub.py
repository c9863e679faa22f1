"""Reading a rolling share of the packs, and what happens to damaged ones."""

from __future__ import annotations

import hashlib
import os
from itertools import pairwise

import pytest

from flow_parts import World
from mlsync.errors import Stopped
from mlsync.repository import names
from mlsync.store.counting import CountingStore
from mlsync.upkeep.scrub import is_due, scrub

HOUR_NS = 3600 * 10**9
PERIOD_S = 10 * 3600.0


@pytest.fixture
def world(tmp_path):
    """A run of four versions, each with a pack of its own for its file."""
    world = World(tmp_path)
    for number in range(4):
        world.write(f"file{number}", os.urandom(5000))
        world.backup()
    yield world
    world.close()


def packs(world):
    """All packs of the store."""
    return [pack_id for pack_id, _ in world.repository.packs()]


def rot(world, pack_id):
    """Flip a bit of a pack where it lies."""
    key = names.pack(pack_id)
    body = bytearray(world.store.get(key, limit_bytes=1 << 20))
    body[100] ^= 1
    world.store.delete(key)
    world.store.put(key, bytes(body))


def read(world, since_ns, now_ns, **options):
    """What a scrub between two moments did."""
    return scrub(world.repository, world.monitor, since_ns=since_ns, now_ns=now_ns, period_s=PERIOD_S, **options)


@pytest.mark.parametrize("start_ns", [0, 1_795_435_200_000_000_123])
def test_each_pack_is_due_once_a_period(start_ns):
    """In a period of ten hours each pack is due in exactly one hour, wherever the count begins."""
    for number in range(500):
        pack_id = number.to_bytes(2, "big") * 8
        hours = [start_ns + hour * HOUR_NS for hour in range(11)]
        due = [is_due(pack_id, since, now, PERIOD_S) for since, now in pairwise(hours)]
        assert sum(due) == 1


def test_a_machine_that_slept_for_longer_than_a_period_reads_all():
    """After a pause of a period or more every pack is due."""
    assert all(is_due(bytes([number] * 16), 5, 5 + 10 * HOUR_NS, PERIOD_S) for number in range(256))


def test_the_shares_of_a_period_are_all_packs(world):
    """Hour by hour every pack is read once, and the bytes are counted."""
    results = [read(world, hour * HOUR_NS, (hour + 1) * HOUR_NS) for hour in range(10)]
    assert sum(result.pack_count for result in results) == len(packs(world))
    assert sum(result.read_bytes for result in results) > 4 * 5000
    assert not any(result.damaged for result in results)


@pytest.mark.parametrize("place", range(4))
def test_a_pack_that_rotted_is_named(world, place):
    """A flipped bit in any pack is found when the pack is due, and the others are still read."""
    victim = packs(world)[place]
    rot(world, victim)
    result = read(world, 0, 10 * HOUR_NS)
    assert list(result.damaged) == [victim]
    assert result.pack_count == len(packs(world))


def test_a_stop_ends_it(world):
    """A stop request ends the scrub at the next pack."""
    with pytest.raises(Stopped):
        read(world, 0, 10 * HOUR_NS, stop=lambda: True)


def test_what_rotted_is_stored_again(world):
    """The next backup of an unchanged directory makes a complete version without the damaged pack."""
    victim = world.entry(b"file2").chunks[0].pack
    rot(world, victim)
    world.state.add_damaged(read(world, 0, 10 * HOUR_NS).damaged)
    assert world.backup().version == 5
    assert victim not in {ref.pack for entry in world.manifest().entries for ref in entry.chunks}
    assert world.restored(5) == world.tree()
    assert world.backup().version == 0


def test_what_rotted_of_old_versions_makes_no_new_one(world):
    """A damaged pack that the last version does not need is reported, and no version is made."""
    victim = world.entry(b"file2").chunks[0].pack
    world.write("file2", b"something else")
    world.backup()
    rot(world, victim)
    world.state.add_damaged(read(world, 0, 10 * HOUR_NS).damaged)
    assert world.backup().version == 0
    assert world.state.damaged("yolo") == set()


def test_an_hour_lists_only_what_is_due(world):
    """Of 6,000 packs an hour of a thousand lists few: from the first that is due to the one behind the last."""
    ids = [hashlib.blake2b(str(number).encode(), digest_size=16).digest() for number in range(6_000)]
    seen = []

    class Noting(CountingStore):
        def list(self, prefix, *, after=""):
            for info in super().list(prefix, after=after):
                seen.append(info.key)
                yield info

    for pack_id in ids:
        world.store.put(names.pack(pack_id), b"no pack")
    world.use(Noting(world.store))
    all_ids = packs(world)
    read_ids = []
    for hour in (3, 4, 999, 1000):
        seen.clear()
        since_ns, now_ns = hour * HOUR_NS, (hour + 1) * HOUR_NS
        damaged = scrub(
            world.repository, world.monitor, since_ns=since_ns, now_ns=now_ns, period_s=3600.0 * 1000
        ).damaged
        due = {one for one in all_ids if is_due(one, since_ns, now_ns, 3600.0 * 1000)}
        assert due & set(ids) == damaged.keys()
        assert len(seen) <= len(due) + 2
        read_ids += due
    assert len(read_ids) > 4
