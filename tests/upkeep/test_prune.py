"""What a prune deletes and what it leaves: forgotten versions, packs in two steps, and what keeps it from deleting."""

from __future__ import annotations

import os
import time
from contextlib import suppress

import pytest

from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from flow_parts import RUN, World, keys_of, noise
from mlsync.errors import HistoryRolledBack, PruneBlocked, StoreDenied
from mlsync.repository import names
from mlsync.repository.evaluation import Evaluation, Measure
from mlsync.repository.history import fence
from mlsync.repository.history.decision import Forgotten
from mlsync.repository.history.decisions import By, decide, find_decided
from mlsync.repository.history.fence import FENCE_BYTES
from mlsync.repository.history.seen_decision import half, seen_decision
from mlsync.repository.repository import Repository
from mlsync.store.wrapping import WrappingStore
from mlsync.upkeep.prune import PruneOptions, carry_out, plan

DAY_S = 86_400.0
NOW_NS = 4 * 10**18
LATER_NS = NOW_NS + int(8 * DAY_S) * 10**9


@pytest.fixture
def world(tmp_path):
    """A run with three versions, each with a file that changed and one that did not."""
    world = World(tmp_path)
    for number in (1, 2, 3):
        world.write("frozen.bin", noise(30_000, 99))
        world.write("last.bin", noise(20_000, number))
        world.backup()
    yield world
    world.close()


def forget(world, *numbers, at_ns=0):
    """Decide that versions are forgotten."""
    seen = seen_decision(world.repository.stored(RUN, world.numbers()[-1]).root.room)

    def change(_decided, draft):
        for number in numbers:
            manifest = half(world.repository.stored(RUN, number).digest)
            draft.forgotten[number] = Forgotten(number, manifest, "keep last 1", at_ns)

    decide(world.repository, RUN, seen, change, By("host", 1))


def prune(world, now_ns=NOW_NS, store=None, **options):
    """Plan a prune and carry it out."""
    repository = Repository(store or world.store, world.repository.keys)
    chosen = PruneOptions(now_ns, "host", **options)
    found = plan(repository, world.monitor, chosen)
    return found, carry_out(repository, found, world.monitor, chosen)


def packs(world):
    """The packs in the store."""
    return {names.parse_pack(key) for key in keys_of(world.store, names.PACKS)}


def packs_of(world, number):
    """The packs that the files of a version lie in."""
    return {ref.pack for entry in world.manifest(number).entries for ref in entry.chunks}


def test_nothing_forgotten_is_nothing_to_do(world):
    """A sound repository has nothing to delete, and a prune writes nothing."""
    before = keys_of(world.store)
    found, pruned = prune(world)
    assert found.is_empty
    assert (found.version_count, pruned.versions, pruned.deleted, pruned.marked) == (3, [], {}, {})
    assert keys_of(world.store) == before


def test_the_evaluations_of_a_version_go_with_it(world):
    """A prune that removes a version deletes its evaluations, and leaves those of the others."""
    for number in (1, 2):
        digest = world.repository.stored(RUN, number).digest
        numbers = [Measure("loss", 0.5)]
        world.repository.add_evaluation(
            Evaluation(RUN, number, digest, 1, "mlsync", "host", "x", bytes(32), b"", "", 0.0, numbers)
        )
    forget(world, 1)
    found, _ = prune(world)
    assert len(found.leftovers) == 2  # and the copy
    assert list(world.repository.evaluation_keys(RUN)) == [2]


def test_a_forgotten_version_goes_and_its_packs_follow_after_the_grace(world):
    """First the manifest gives way to a fence and the packs are marked; after the grace the packs are deleted."""
    only = {number: packs_of(world, number) for number in (1, 2, 3)}
    forget(world, 1, 2)
    found, pruned = prune(world)
    assert [one.place[1] for one in found.going] == [one.place[1] for one in pruned.versions] == [1, 2]
    assert set(pruned.marked) == (only[1] | only[2]) - only[3]
    assert world.numbers() == [3]
    assert pruned.deleted == {}
    _, pruned = prune(world, NOW_NS + 1)
    assert (pruned.deleted, pruned.marked) == ({}, {})
    _, pruned = prune(world, LATER_NS)
    assert set(pruned.deleted) == (only[1] | only[2]) - only[3]
    assert packs(world) >= only[3]
    assert keys_of(world.store, names.TOMBSTONES) == []
    assert world.restored() == world.tree()
    assert world.check(read_data=True).problems == []


def test_the_fence_names_what_it_took_the_place_of_and_copy_and_proofs_are_gone(world):
    """What belongs to a removed version goes with it, and the fence has half of its manifest's digest."""
    digest = world.repository.stored(RUN, 1).digest
    forget(world, 1)
    prune(world)
    key = world.repository.version_key(RUN, 1)
    assert fence.read(world.store, world.repository.keys, key).removed == half(digest)
    assert names.copy_of(key) not in keys_of(world.store)


def test_within_its_grace_a_forgotten_version_stays(world):
    """What was forgotten less than the grace ago can be brought back."""
    forget(world, 1, at_ns=NOW_NS - 1)
    found, _ = prune(world)
    assert found.going == []
    assert world.numbers() == [1, 2, 3]
    found, _ = prune(world, grace_s=0)
    assert [one.place[1] for one in found.going] == [1]


def test_the_newest_version_stays_whatever_is_decided(world):
    """A decision that lets the newest version go is not carried out."""
    seen = seen_decision(world.repository.stored(RUN, 3).root.room)

    def change(_decided, draft):
        manifest = half(world.repository.stored(RUN, 3).digest)
        draft.forgotten[3] = Forgotten(3, manifest, "wrong", 0)

    decide(world.repository, RUN, seen, change, By("host", 1))
    found, _ = prune(world)
    assert found.going == []


def test_a_version_that_was_brought_back_meanwhile_stays(world):
    """Between the plan and its execution somebody unforgets: the version and its packs stay."""
    forget(world, 1)
    options = PruneOptions(NOW_NS, "host")
    found = plan(world.repository, world.monitor, options)
    seen = seen_decision(world.repository.stored(RUN, 3).root.room)
    decide(world.repository, RUN, seen, lambda _decided, draft: draft.forgotten.clear(), By("host", 1))
    pruned = carry_out(world.repository, found, world.monitor, options)
    assert (pruned.versions, pruned.marked) == ([], {})
    assert world.numbers() == [1, 2, 3]
    assert find_decided(world.repository, RUN).gone == ()


def test_a_young_pack_that_nobody_names_is_left_to_its_backup(world):
    """A pack without a version may be one of a backup that runs; after a day it is marked."""
    writer = world.repository.writer(lambda _name: None, lanes=1)
    writer.put(memoryview(os.urandom(5000)))
    (pack,) = writer.finish().packs
    assert prune(world, time.time_ns())[1].marked == {}
    assert set(prune(world, time.time_ns() + int(2 * DAY_S) * 10**9)[1].marked) == {pack}


def test_a_fence_is_made_only_where_packs_are_deleted(world):
    """A prune that deletes no pack adds nothing to runs; one that does takes the next number of each."""
    forget(world, 2)
    prune(world)
    assert world.numbers() == [1, 3]
    assert [one.number for one in world.repository.listed(RUN) if one.is_fence] == [2]
    prune(world, LATER_NS)
    assert [one.number for one in world.repository.listed(RUN) if one.is_fence] == [2, 4]
    world.write("last.bin", noise(20_000, 9))
    assert world.backup().version == 5


def test_a_manifest_that_does_not_open_counts_by_its_copy(world):
    """A damaged manifest keeps its version's packs, as its copy can bring it back."""
    key, packs_of_two = world.repository.version_key(RUN, 2), packs_of(world, 2)
    world.store.replace(key, b"damaged")
    forget(world, 1)
    _, pruned = prune(world)
    assert packs_of_two.isdisjoint(pruned.marked)
    prune(world, LATER_NS)
    world.store.replace(key, world.store.get(names.copy_of(key), limit_bytes=1 << 20))
    assert world.check(read_data=True).problems == []


@pytest.mark.parametrize("what", ["damaged", "planted", "lost manifest", "other fence", "newer"])
def test_what_cannot_be_read_keeps_all_packs(world, what):
    """With a manifest that opens nowhere, or one of which only the copy is left, nothing is deleted and it is named."""
    forget(world, 1)
    prune(world)
    key = world.repository.version_key(RUN, 2)
    if what == "planted":
        key = world.repository.version_key("other run", 7)
        world.store.put(key, os.urandom(300))
    elif what == "newer":
        body = bytearray(world.store.get(key, limit_bytes=1 << 20))
        body[8] = 9
        world.store.replace(key, bytes(body))
        world.store.delete(names.copy_of(key))
    else:
        world.store.delete(key)
        if what == "damaged":
            world.store.delete(names.copy_of(key))
            world.store.put(key, b"damaged")
        elif what == "other fence":
            world.store.put(key, bytes(FENCE_BYTES))
    before = keys_of(world.store)
    with pytest.raises(PruneBlocked, match=key):
        prune(world, LATER_NS)
    assert keys_of(world.store) == before


def test_hidden_decisions_keep_the_versions_of_their_run(world):
    """If a decision is missing that a version names, nothing that was forgotten goes, and the run is named."""
    forget(world, 1)
    world.write("last.bin", noise(20_000, 7))
    world.backup()
    for key in keys_of(world.store, names.DECISIONS):
        world.store.delete(key)
    found, _ = prune(world)
    assert (found.going, len(found.kept_back)) == ([], 1)
    assert RUN in found.kept_back[0].why


def test_a_store_that_overwrites_keeps_all(world):
    """Without conditional creation there are no fences, and a prune changes nothing."""
    repository = Repository(world.store, world.repository.keys, conditional_create=False)
    forget(world, 1)
    options = PruneOptions(NOW_NS, "host")
    found = plan(repository, world.monitor, options)
    with pytest.raises(PruneBlocked, match="overwrites"):
        carry_out(repository, found, world.monitor, options)


class Lying(WrappingStore):
    """Leaves some objects out of the nth listing of versions."""

    def __init__(self, store, nth, left_out):
        super().__init__(store)
        self._nth, self._left_out, self.count = nth, left_out, 0

    def list(self, prefix, *, after=""):
        """List, and lie once."""
        infos = list(super().list(prefix, after=after))
        if prefix == names.VERSIONS:
            self.count += 1
            if self.count == self._nth:
                infos = [info for info in infos if not info.key.endswith(self._left_out)]
        return iter(infos)


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("left_out", [("1",), ("3",), ("3", "4"), ("1", "2", "3", "4", "5")])
def test_a_listing_that_lacks_versions_deletes_nothing_of_theirs(world, nth, left_out):
    """Whichever listing lacks whichever versions, all that are there restore afterwards."""
    world.write("last.bin", noise(20_000, 8))
    world.backup()
    forget(world, 2)
    prune(world)
    for now_ns in (LATER_NS, 2 * LATER_NS - NOW_NS):
        with suppress(PruneBlocked):
            prune(world, now_ns, Lying(world.store, nth, left_out))
        assert world.check(read_data=True).problems == []


def test_a_doubled_listing_is_as_good_as_any(world):
    """An object that a listing has twice counts once."""

    class Doubled(WrappingStore):
        def list(self, prefix, *, after=""):
            for info in super().list(prefix, after=after):
                yield info
                yield info

    forget(world, 2)
    prune(world, store=Doubled(world.store))
    _, pruned = prune(world, LATER_NS, Doubled(world.store))
    assert pruned.deleted
    assert world.check(read_data=True).problems == []


def test_a_planted_tombstone_is_overwritten_and_never_missing(world):
    """What somebody put under a tombstone's name is no tombstone for a prune; at no moment is there none."""
    forget(world, 2)
    (pack,) = packs_of(world, 2) - packs_of(world, 3)
    key = names.tombstone(pack)
    world.store.put(key, b"planted")
    calls = FaultyStore(world.store)
    _, pruned = prune(world, store=calls)
    assert set(pruned.marked) == {pack}
    assert [(method, one) for method, one in calls.calls if one == key and method != "get"] == [("replace", key)]
    assert prune(world, LATER_NS)[1].deleted.keys() == {pack}


def test_what_the_store_does_not_let_go_is_said_and_skipped(world):
    """An object under a lock stays, and all others go; if none goes, the credentials are named."""

    class Locked(WrappingStore):
        keys: tuple = ()

        def delete(self, key):
            if key in self.keys:
                raise StoreDenied("the object is locked until 2030", where=key)
            super().delete(key)

    world.write("last.bin", noise(20_000, 8))
    world.backup()
    forget(world, 2, 3)
    prune(world)
    store = Locked(world.store)
    marked = [names.parse_tombstone(key) for key in keys_of(world.store, names.TOMBSTONES)]
    store.keys = (names.pack(marked[0]),)
    _, pruned = prune(world, LATER_NS, store)
    assert [one.key for one in pruned.denied] == [names.pack(marked[0])]
    assert pruned.deleted.keys() == set(marked[1:])
    assert keys_of(world.store, names.TOMBSTONES) == [names.tombstone(marked[0])]
    with pytest.raises(StoreDenied, match="nothing could be deleted"):
        prune(world, LATER_NS, store)


def test_a_prune_may_die_at_any_call(world):
    """Whichever call is the last one, every version that is left restores, and the next prunes end well."""
    forget(world, 1, 2)
    objects = dict(world.store._objects)
    kept = packs_of(world, 3)
    nth = 0
    while True:
        nth += 1
        world.store._objects.clear()
        world.store._objects.update(objects)
        dying = FaultyStore(world.store, Fault("die-before", nth))
        try:
            prune(world, store=dying)
            prune(world, LATER_NS, dying)
        except ProcessDied:
            assert world.restored(3) == world.tree()
            prune(world, LATER_NS)
            prune(world, 2 * LATER_NS)
            assert packs(world) >= kept
            assert (world.numbers(), keys_of(world.store, names.TOMBSTONES)) == ([3], [])
            assert world.check().problems == []
        else:
            break
    assert nth > 40


def test_a_backup_that_has_old_state_notices_nothing_but_its_number(world):
    """A machine whose newest version was removed goes on above the fences."""
    world.save_state("old")
    for number in (4, 5):
        world.write("last.bin", noise(20_000, number))
        world.backup()
    forget(world, 1, 2, 3, 4)
    prune(world)
    prune(world, LATER_NS)
    world.load_state("old")
    world.write("last.bin", noise(20_000, 10))
    assert world.backup().version == 7
    assert world.restored() == world.tree()
    world.store.delete(world.repository.version_key(RUN, 7))
    world.write("last.bin", noise(20_000, 11))
    with pytest.raises(HistoryRolledBack):
        world.backup()


def test_a_whole_history_pruned_to_a_tenth_restores(world):
    """Of twenty versions two stay, bit for bit, and nothing of the others but fences."""
    for number in range(4, 21):
        world.write("last.bin", noise(3000, number))
        world.append("log.csv", b"line %d\n" % number)
        world.backup()
    trees = {number: world.restored(number) for number in (10, 20)}
    forget(world, *(number for number in range(1, 20) if number != 10))
    prune(world)
    prune(world, LATER_NS)
    assert world.numbers() == [10, 20]
    assert {number: world.restored(number) for number in (10, 20)} == trees
    named = packs_of(world, 10) | packs_of(world, 20)
    assert packs(world) == named
    assert world.check(read_data=True).problems == []


def test_a_version_that_comes_while_manifests_are_read_is_not_missing(world):
    """A backup may commit between the listings of versions and of copies: its packs count, and the prune goes on."""

    class Beside(WrappingStore):
        def list(self, prefix, *, after=""):
            if prefix == names.COPIES and world.numbers()[-1] == 3:
                world.write("last.bin", noise(20_000, 8))
                world.backup()
            return super().list(prefix, after=after)

    forget(world, 2)
    prune(world)
    found, pruned = prune(world, LATER_NS, Beside(world.store))
    assert pruned.deleted
    assert found.version_count == 2
    assert packs_of(world, 4) <= found.sight.named
    assert world.check(read_data=True).problems == []


def test_a_listing_that_keeps_back_a_version_with_a_copy_deletes_nothing(world):
    """If no listing shows a version that is there, a prune does not take it for one that came meanwhile."""

    class Hiding(WrappingStore):
        def list(self, prefix, *, after=""):
            hidden = world.repository.version_key(RUN, 1)
            return (info for info in super().list(prefix, after=after) if info.key != hidden)

    forget(world, 2)
    prune(world)
    with pytest.raises(PruneBlocked, match="listings lack it"):
        prune(world, LATER_NS, Hiding(world.store))
