"""Asking for a thaw and waiting for it, against a store whose clock stands still unless somebody sleeps."""

from __future__ import annotations

import pytest

from doubles.cold_store import DAY_S, ColdStore
from doubles.memory_store import MemoryStore
from doubles.recording_monitor import RecordingMonitor
from flow_parts import World, noise
from mlsync.cold.find import ColdPack, cold_packs, packs_of, packs_of_list, refuse_cold
from mlsync.cold.thaw import ROUND, ThawOptions
from mlsync.cold.thaw import thaw as thaw_packs
from mlsync.errors import ObjectArchived, Stopped, StoreDenied, StoreUnavailable, ThawRefused, ThawUnderWay
from mlsync.repository import names
from mlsync.repository.repository import Repository
from mlsync.store.counting import CountingStore
from mlsync.store.fallback import FallbackStore
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.retry import RetryingStore

PACKS = 40


@pytest.fixture
def store():
    """A store with many cold packs."""
    store = ColdStore(takes_s=4 * 3600.0)
    for number in range(PACKS):
        store.put(names.pack(number.to_bytes(16, "big")), b"sealed")
    store.freeze()
    return store


def packs_in(store):
    """What is cold, as the store says."""
    infos = [(info.key, store.stat(info.key)) for info in store.list("packs/")]
    return [
        ColdPack(names.parse_pack(key), info.size_bytes, info.storage_class, info.is_thawing)
        for key, info in infos
        if info.is_archived
    ]


def asking(store, tier="standard", days=3, **more):
    """Ask for all that is cold and wait for it, by the store's clock."""
    options = ThawOptions(tier, days, sleep=store.sleep, **more)
    monitor = RecordingMonitor()
    return thaw_packs(store, packs_in(store), options, monitor), monitor


def test_a_thaw_asks_once_for_each_pack_and_waits_until_all_can_be_read(store):
    """Each pack is asked for once, in the tier and for the days that were given; none is cold at the end."""
    done, _ = asking(store)
    assert sorted(store.asked) == sorted((pack, 3, "standard") for pack in store.classes)
    assert done.asked == PACKS
    assert packs_in(store) == []
    assert 4 * 3600 <= done.waited_s <= 4 * 3600 + 300


def test_a_wait_of_hours_takes_few_looks(store):
    """Four hours of waiting for 40 packs cost a few hundred cheap requests: a few packs in a round, far between."""
    before = store.stats
    done, _ = asking(store)
    assert done.looks == store.stats - before - PACKS, "the rest is what this test asked itself"
    rounds = done.looks / ROUND
    assert rounds <= 4 * 12 + 12 + PACKS / ROUND


def test_a_thaw_of_minutes_is_looked_at_more_often(store):
    """Expedited packs are there after minutes, and nobody waits five more for the next look."""
    store.takes_s = 180.0
    done, _ = asking(store, "expedited")
    assert 180 <= done.waited_s <= 180 + 31


def test_packs_that_are_ready_at_different_times_are_counted_as_they_come(store):
    """One slow pack does not hide the others, and the last one ends the wait."""
    slow = min(store.classes)
    store.thaw(slow, days=3, tier="standard")
    store._ready_s[slow] = 10 * 3600.0
    done, monitor = asking(store)
    assert done.asked == PACKS - 1
    told = [text for _, text in monitor.notices if "are thawed" in text]
    assert told[-1] == f"{PACKS - 1} of {PACKS} packs are thawed"
    assert len(told) <= 10
    assert done.waited_s >= 10 * 3600


def test_without_waiting_it_ends_and_the_next_call_asks_for_nothing_twice(store):
    """119 until it is done; the second call finds out by the store what was asked for, whoever did."""
    for _ in range(2):
        with pytest.raises(ThawUnderWay, match=f"{PACKS} packs are being thawed") as caught:
            asking(store, waits=False)
        assert caught.value.exit_code == 119
        assert "3 to 5 hours" in str(caught.value)
    assert len(store.asked) == PACKS
    store.sleep(store.takes_s)
    assert packs_in(store) == []


def test_a_copy_that_went_away_is_asked_for_again(store):
    """After its days the copy is gone, and the pack is as cold as it was."""
    asking(store, days=2)
    store.sleep(2 * DAY_S)
    assert len(packs_in(store)) == PACKS


def test_what_is_being_thawed_is_asked_for_again_only_if_told_to(store):
    """A faster tier can be asked for while a slower one runs."""
    with pytest.raises(ThawUnderWay):
        asking(store, "bulk", waits=False)
    with pytest.raises(ThawUnderWay):
        asking(store, "standard", waits=False, again=True)
    assert [tier for _, _, tier in store.asked] == ["bulk"] * PACKS + ["standard"] * PACKS


def test_a_stop_leaves_the_requests_and_says_how_to_go_on(store):
    """Whoever stops waiting loses nothing."""
    stops = iter([False] * (PACKS + 20))
    with pytest.raises(Stopped, match="asks for nothing twice"):
        asking(store, stop=lambda: next(stops, True))
    assert len(store.asked) == PACKS
    assert all(pack.is_thawing for pack in packs_in(store))


def test_a_stop_while_it_asks_asks_for_no_more(store):
    """What was asked for is said, and the rest is not asked for."""
    stops = iter([False] * 10)
    with pytest.raises(Stopped, match=f"10 of {PACKS} packs were asked for"):
        asking(store, stop=lambda: next(stops, True))
    assert len(store.asked) == 10


def test_a_store_that_is_away_for_hours_does_not_end_the_wait(store):
    """An outage is told once, and the wait goes on; the thaw does not depend on who waits."""
    outage = iter([True] * 30)
    sleep = store.sleep

    def sleep_through(seconds):
        sleep(seconds)
        store.is_away = store.now_s > 60 and next(outage, False)

    store.sleep = sleep_through
    done, monitor = asking(store)
    assert packs_in(store) == []
    assert ["the wait goes on" in text for level, text in monitor.notices if level == "warning"] == [True]
    assert done.asked == PACKS
    assert store.in_vain < 30, "one try in a round is enough to know"


def test_a_wait_that_the_store_ends_says_that_the_thaw_goes_on(store):
    """Keys that expire during the hours cost nothing of what was asked for."""
    thaw = store.thaw

    def refuse(_key):
        raise StoreDenied("expired")

    def then_refuse(key, *, days, tier):
        store.stat = refuse
        return thaw(key, days=days, tier=tier)

    cold, monitor = packs_in(store), RecordingMonitor()
    store.thaw = then_refuse
    with pytest.raises(StoreDenied):
        thaw_packs(store, cold, ThawOptions("standard", 3, sleep=store.sleep), monitor)
    assert "the requests go on in the store" in monitor.notices[-1][1]


def test_no_capacity_for_expedited_is_said_and_ends_the_asking(store):
    """The first refusal ends it: it would be the same for all, and the message offers another tier."""
    store.refusal = ThawRefused("no capacity", advice="--thaw standard")
    with pytest.raises(ThawRefused, match=f"no capacity; 0 of {PACKS} packs were asked for"):
        asking(store, "expedited")
    assert store.asked == []


def test_a_tier_that_a_class_does_not_have_is_refused_before_anything_is_asked(store):
    """One pack of the deep archive among many is enough."""
    store.freeze("DEEP_ARCHIVE", max(store.classes))
    with pytest.raises(ThawRefused, match="DEEP_ARCHIVE is never thawed expedited"):
        asking(store, "expedited")
    assert store.asked == []


def test_what_intelligent_tiering_archived_is_asked_for_without_days(store):
    """It comes back for good, and AWS refuses a request that names days."""
    store.freeze("INTELLIGENT_TIERING/ARCHIVE_ACCESS", *store.classes)
    asking(store, "standard")
    assert {days for _, days, _ in store.asked} == {None}


def test_a_store_that_takes_the_request_and_does_nothing_ends_the_wait(store):
    """A wait never goes on for ever for what nobody thaws."""
    store.thaw = lambda *_given, **_more: True
    with pytest.raises(ThawRefused, match="does not thaw this pack"):
        asking(store)


def test_wrappers_hand_a_thaw_on_and_retry_it():
    """A thaw is counted and retried like every call, and the price list and the rest come through."""

    class Shaky(ColdStore):
        tries = 0

        def thaw(self, key, *, days, tier):
            self.tries += 1
            if self.tries == 1:
                raise StoreUnavailable("no answer")
            return super().thaw(key, days=days, tier=tier)

        def is_transient(self, error):
            return isinstance(error, StoreUnavailable)

    inner = Shaky()
    counted = CountingStore(inner)
    store = RetryingStore(counted, sleep=lambda _s: None)
    inner.put("packs/ab", b"x")
    inner.freeze("GLACIER", "packs/ab")
    assert store.thaw("packs/ab", days=1, tier="bulk")
    assert counted.calls["thaw"] == 2
    assert (store.may_freeze, store.price_list) == (True, inner.price_list)


# ---------------------------------------------------------------- which packs


@pytest.fixture
def world(tmp_path):
    """A run with three versions, in a store that can freeze."""
    world = World(tmp_path, ColdStore())
    for number in range(3):
        world.write(f"data{number}.bin", noise(1000, number))
        world.backup()
    yield world
    world.close()


def test_only_what_a_version_needs_is_found_cold(world):
    """Packs of other versions are not counted, and a pack that can be read is none."""
    world.store.freeze()
    needed = packs_of(world.manifest(2))
    assert {pack.pack_id for pack in cold_packs(world.repository, needed)} == needed
    assert len(needed) == 2
    with pytest.raises(ObjectArchived, match="2 packs of version 2 of run 'yolo'"):
        refuse_cold(world.repository, world.manifest(2))
    for pack in cold_packs(world.repository, needed):
        world.store.thaw(pack.key, days=1, tier="bulk")
    world.store.sleep(3600)
    assert cold_packs(world.repository, needed) == []
    refuse_cold(world.repository, world.manifest(2))


def test_few_packs_are_asked_about_one_by_one_and_many_by_a_listing(world, monkeypatch):
    """A restore of few packs costs no listing of the whole repository, and one of many costs no request for each."""
    needed = packs_of(world.manifest(3))
    assert cold_packs(world.repository, needed) == []
    calls = dict(world.counted.calls)
    monkeypatch.setattr("mlsync.cold.find._STATS_MAX", 2)
    assert cold_packs(world.repository, needed) == []
    assert world.counted.calls["list"] == calls.get("list", 0) + 1
    assert world.counted.calls["stat"] == calls["stat"]


def test_no_listing_says_which_objects_intelligent_tiering_archived(world, monkeypatch):
    """Each of that class is asked about, however many there are."""
    monkeypatch.setattr("mlsync.cold.find._STATS_MAX", 0)
    world.store.freeze("INTELLIGENT_TIERING")
    (cold,) = world.store.freeze("INTELLIGENT_TIERING/ARCHIVE_ACCESS", min(world.store.classes))
    found = cold_packs(world.repository, {names.parse_pack(key) for key in world.store.classes})
    assert [(pack.key, pack.storage_class) for pack in found] == [(cold, "INTELLIGENT_TIERING/ARCHIVE_ACCESS")]


def test_a_store_that_never_freezes_is_not_asked(tmp_path):
    """A restore from a directory makes not one call more."""
    world = World(tmp_path)
    world.write("data.bin", noise(1000))
    world.backup()
    before = world.counted.calls
    assert cold_packs(world.repository, packs_of(world.manifest(1))) == []
    assert {name: number for name, number in world.counted.calls.items() if name in ("stat", "list")} == {
        name: number for name, number in before.items() if name in ("stat", "list")
    }
    world.close()


def test_the_packs_of_a_list_of_files_are_found_without_reading_it(world, monkeypatch):
    """They have to be thawed before anybody can say what else must be."""
    monkeypatch.setattr("mlsync.repository.encoding.segments.INLINE_BYTES_MAX", 0)
    for number in range(40):
        world.write(f"more{number}.bin", b"")
    world.backup()
    world.store.freeze()
    stored = world.repository.stored("yolo", 4)
    assert packs_of_list(stored)
    assert {pack.pack_id for pack in cold_packs(world.repository, packs_of_list(stored))} == packs_of_list(stored)


# ---------------------------------------------------------------- a restore that waits


def test_a_restore_asks_only_for_what_is_not_there_already(world):
    """Files that are right already cost no thaw, however cold their packs are."""
    world.restore(2)
    asked: list[set[bytes]] = []
    world.store.freeze()
    old = packs_of(world.manifest(2))

    def ready(packs):
        asked.append(set(packs))
        for pack in cold_packs(world.repository, packs):
            world.store.thaw(pack.key, days=1, tier="bulk")
        world.store.sleep(3600)
        return True

    world.restore(3, ready=ready)
    assert asked == [packs_of(world.manifest(3)) - old]
    assert len(world.store.asked) == 1


def test_what_changed_while_a_restore_waited_is_compared_again(world):
    """A file that somebody overwrites during the hours of a thaw comes out as it is in the version."""

    def ready(_packs):
        (world.base / "out" / "data0.bin").write_bytes(b"written meanwhile")
        return True

    world.restore(1)
    world.restore(3, ready=ready)
    assert (world.base / "out" / "data0.bin").read_bytes() == (world.directory / "data0.bin").read_bytes()


# ---------------------------------------------------------------- beside a mirror


def test_what_a_mirror_has_is_read_there_and_thawed_nowhere(world):
    """A pack that the mirror has, whole and warm, is not cold; one that it lacks, has cut short or cold, is."""
    mirror = ColdStore()
    keys = world.store.freeze()
    for key in keys:
        body = bytearray(world.store.stat(key).size_bytes)
        MemoryStore.read(world.store, key, 0, memoryview(body))
        mirror.put(key, body if key != keys[1] else body[:-1])
    mirror.freeze("GLACIER", keys[2])
    store = FallbackStore(world.store, lambda: (mirror,), is_lost=lambda _key, _after: False)
    repository = Repository(store, world.repository.keys)
    found = cold_packs(repository, {names.parse_pack(key) for key in keys})
    assert [pack.key for pack in found] == keys[1:]


def test_where_a_class_is_a_label_nothing_is_cold(world):
    """A server that lists GLACIER and reads it like any other is not asked to thaw; one read for the class tells."""
    keys = world.store.freeze()
    packs = {names.parse_pack(key) for key in keys}
    assert len(cold_packs(world.repository, packs)) == len(keys)
    reads = []

    def read(key, _offset, _into):
        reads.append(key)

    world.store.read = read
    assert cold_packs(world.repository, packs) == []
    assert len(reads) == 1


def test_a_directory_has_nothing_cold_to_thaw(tmp_path):
    """The default of the protocol: asking for it asks for nothing."""
    store = open_store(f"file://{tmp_path}", StoreOptions(), create=True)
    store.put("packs/ab", b"x")
    assert not store.thaw("packs/ab", days=1, tier="bulk")
    assert (store.may_freeze, store.price_list, dict(store.days_to_class("packs/"))) == (False, None, {})
    assert not store.stat("packs/ab").is_archived
    store.close()
