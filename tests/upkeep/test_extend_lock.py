"""Locks of what versions use are extended before they end: which objects, when, at what price, and what keeps it."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from compacting import compacted, delete_buried
from flow_parts import World, keys_of, noise
from mlsync import errors
from mlsync.repository import names
from mlsync.repository.repository import Repository
from mlsync.store.wrapping import WrappingStore
from mlsync.upkeep import extend_lock
from mlsync.upkeep.extend_lock import extend_locks

DAY_S = 86400.0
PERIOD_S = 30 * DAY_S


class LockingStore(WrappingStore):
    """Locks objects in memory by a clock of its own, and refuses what the test says."""

    def __init__(self, store):
        super().__init__(store)
        self.now_s = 0.0
        self.until_s = {}
        self.asked = Counter()
        self.refuses = lambda _key: None
        self._lock = threading.Lock()

    def keep_for(self, key, period_s, left_s):
        """As the contract says."""
        self.stat(key)
        with self._lock:
            self.asked[key] += 1
            fault = self.refuses(key)
            if fault is not None:
                raise fault
            if self.until_s.get(key, 0.0) - self.now_s > left_s:
                return False
            self.until_s[key] = self.now_s + period_s
            return True


@pytest.fixture
def world(tmp_path):
    """A run with two versions: a file that changed, and one that did not."""
    world = World(tmp_path)
    for number in (1, 2):
        world.write("frozen.bin", noise(30_000, 99))
        world.write("last.bin", noise(20_000, number))
        world.backup()
    yield world
    world.close()


@pytest.fixture
def locking(world):
    """The world's store, which locks."""
    return LockingStore(world.store)


def extend(world, store, **options):
    """Extend what is due, with a repository that was just opened."""
    return extend_locks(Repository(store, world.repository.keys), world.monitor, PERIOD_S, **options)


def test_all_that_versions_use_is_locked_once_and_again_when_half_is_over(world, locking):
    """Every object is locked for the period; before half of it is over nothing changes, and afterwards all again."""
    done = extend(world, locking)
    assert set(locking.until_s) == set(keys_of(world.store))
    assert {names.HEADER, *keys_of(world.store, names.KEY_SLOTS)} < set(locking.until_s)
    assert (done.used_count, done.extended_count) == (len(locking.until_s),) * 2
    locking.now_s = PERIOD_S / 2 - 1
    done = extend(world, locking)
    assert (done.asked_count, done.extended_count, done.request_count) == (done.used_count, 0, done.used_count)
    locking.now_s = PERIOD_S / 2
    assert extend(world, locking).extended_count == done.used_count
    assert set(locking.until_s.values()) == {PERIOD_S * 1.5}


def test_a_pack_that_no_version_names_is_left_to_its_end(world, locking):
    """What an interrupted backup left, and what prune marked, is not locked again; nor is a stranger's object."""
    unused = names.pack(bytes(16))
    world.store.put(unused, b"left over")
    world.store.put(names.tombstone(bytes(16)), b"marked")
    world.store.put("packs/notes", b"a stranger's")
    extend(world, locking)
    assert set(keys_of(world.store)) - set(locking.until_s) == {unused, names.tombstone(bytes(16)), "packs/notes"}


def test_a_marked_pack_that_a_version_names_is_locked(world, locking):
    """A tombstone does not count: whoever takes over a node can make one for each pack."""
    (pack, *_) = keys_of(world.store, names.PACKS)
    world.store.put(names.tombstone(names.parse_pack(pack)), b"marked")
    extend(world, locking)
    assert pack in locking.until_s


def test_what_a_removed_manifest_named_is_locked_while_its_copy_is_there(world, locking):
    """Somebody who deletes a manifest does not thereby let its packs go."""
    (_, second) = keys_of(world.store, names.VERSIONS)
    packs = set(keys_of(world.store, names.PACKS))
    assert len(packs) > 1  # the first version needs only one of them
    world.store.delete(second)
    extend(world, locking)
    assert packs <= set(locking.until_s)


def test_if_a_version_cannot_be_read_all_packs_count_as_used(world, locking):
    """A damaged manifest without a copy lets no lock end, and is told."""
    unused = names.pack(bytes(16))
    world.store.put(unused, b"left over")
    (first, _) = keys_of(world.store, names.VERSIONS)
    world.store.replace(first, bytes(world.store.stat(first).size_bytes))
    for key in keys_of(world.store, names.COPIES):
        world.store.delete(key)
    done = extend(world, locking)
    assert done.unread == [first]
    assert unused in locking.until_s


def test_packs_to_which_chunks_were_moved_are_locked(world, locking):
    """What versions name was moved and deleted: the packs of the move records count, and nothing is missing."""
    compacted(world.repository, choose=lambda _use: True)
    before = set(keys_of(world.store, names.PACKS))
    extend(world, locking)
    assert before <= set(locking.until_s)
    delete_buried(world.repository)
    done = extend(world, locking)
    assert done.lost == set()
    assert set(keys_of(world.store, names.PACKS)) < before


def test_a_pack_that_is_gone_is_told(world, locking):
    """A version names a pack that somebody hid: there is nothing to lock, and that is no small matter."""
    (pack, *_) = keys_of(world.store, names.PACKS)
    world.store.delete(pack)
    assert extend(world, locking).lost == {names.parse_pack(pack)}


def test_young_objects_need_not_be_asked_about(world, locking):
    """What was created less than half a period ago was locked then; a clock that is far behind makes nothing young."""
    created_s = world.store.stat(names.HEADER).modified_s
    for now_s, is_asked in ((created_s + 60, False), (created_s + PERIOD_S / 2 + 60, True), (1.0, True)):
        locking.asked.clear()
        done = extend(world, locking, skips_young=True, wall=lambda now_s=now_s: now_s)
        assert (done.asked_count, sum(locking.asked.values())) == ((done.used_count,) * 2 if is_asked else (0, 0))
        assert done.used_count == len(keys_of(world.store))


def test_without_the_right_the_first_refusals_end_it(world, locking):
    """A store that refuses the first objects is not asked about millions of others."""
    for number in range(40):
        world.store.put(names.pack(bytes([9, number]) * 8), b"x")
    for key in keys_of(world.store, names.VERSIONS):
        world.store.replace(key, b"damaged")  # so that all packs count
    for key in keys_of(world.store, names.COPIES):
        world.store.delete(key)
    locking.refuses = lambda key: errors.StoreDenied("no", where=key)
    done = extend(world, locking)
    assert done.gave_up
    assert len(done.denied) == extend_lock._DENIED_MAX
    assert sum(locking.asked.values()) < extend_lock._DENIED_MAX + extend_lock._AT_ONCE


@pytest.mark.parametrize("kind", [errors.StoreDenied, errors.StoreBroken])
def test_single_refusals_keep_nothing_else_from_its_lock(world, locking, kind):
    """An object that somebody locked otherwise, or of which the store speaks nonsense, is named; the rest is locked."""
    (pack, *_) = keys_of(world.store, names.PACKS)
    locking.refuses = lambda key: kind("no", where=key) if key == pack else None
    done = extend(world, locking)
    assert (list(done.denied), done.gave_up) == ([pack], False)
    assert set(keys_of(world.store)) - set(locking.until_s) == {pack}


def test_a_stop_ends_it_between_two_batches(world, locking, monkeypatch):
    """An agent that ends does not wait for millions of objects."""
    monkeypatch.setattr(extend_lock, "_BATCH_COUNT", 2)
    asked = []

    def stop():
        asked.append(len(locking.asked))
        return bool(locking.asked)

    with pytest.raises(errors.Stopped):
        extend(world, locking, stop=stop)
    assert 0 < len(locking.asked) <= 2


def test_a_store_that_is_away_ends_it(world, locking):
    """An error that is no refusal is raised, and the next time begins anew."""
    locking.refuses = lambda key: errors.StoreUnavailable("away", where=key)
    with pytest.raises(errors.StoreUnavailable):
        extend(world, locking)


def test_a_directory_locks_nothing(world):
    """A store without locks is asked, and answers that there was nothing to do."""
    done = extend(world, world.store)
    assert (done.extended_count, done.denied) == (0, {})
