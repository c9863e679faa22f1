"""What a prune knows of minimum storage durations, and a compaction of cold storage."""

from __future__ import annotations

import time

import pytest

from compacting import planned
from doubles.cold_store import DAY_S, ColdStore
from flow_parts import RUN, World, keys_of, noise
from mlsync.errors import StoreDenied
from mlsync.repository import names
from mlsync.repository.history.decision import Forgotten
from mlsync.repository.history.decisions import By, decide
from mlsync.repository.history.seen_decision import half, seen_decision
from mlsync.repository.repository import Repository
from mlsync.store.s3.archived import days_to_class
from mlsync.upkeep.early_deletion import total_of
from mlsync.upkeep.prune import PruneOptions, carry_out, plan

NS = 10**9


@pytest.fixture
def world(tmp_path):
    """Three versions with a pack each, of which the first is forgotten and its pack marked."""
    world = World(tmp_path, ColdStore())
    for number in (1, 2, 3):
        world.write("last.bin", noise(100_000, number))
        world.backup()
    seen = seen_decision(world.repository.stored(RUN, 3).root.room)

    def change(_decided, draft):
        manifest = half(world.repository.stored(RUN, 1).digest)
        draft.forgotten[1] = Forgotten(1, manifest, "by hand", 0)

    world.first = next(names.pack(ref.pack) for entry in world.manifest(1).entries for ref in entry.chunks)
    decide(world.repository, RUN, seen, change, By("host", 1))
    prune(world, 0)
    yield world
    world.close()


def prune(world, days, *, carries_out=True, **options):
    """Plan a prune as many days after now, and carry it out."""
    repository = Repository(world.store, world.repository.keys)
    chosen = PruneOptions(time.time_ns() + int(days * DAY_S * NS), "host", grace_s=0.0, **options)
    found = plan(repository, world.monitor, chosen)
    return found, carry_out(repository, found, world.monitor, chosen) if carries_out else None


@pytest.mark.parametrize(
    ("storage_class", "days", "usd_per_gb_month"),
    [("STANDARD_IA", 30, 0.0125), ("GLACIER_IR", 90, 0.004), ("GLACIER", 90, 0.0036), ("DEEP_ARCHIVE", 180, 0.00099)],
)
def test_a_prune_says_what_goes_before_its_minimum_and_deletes_it(world, storage_class, days, usd_per_gb_month):
    """The fee is the storage of the days that are left: a prune says it, and waits for nothing."""
    world.store.freeze(storage_class, world.first)
    found, pruned = prune(world, days - 15)
    (early,) = found.early.values()
    assert early.storage_class == storage_class
    assert early.left_s == pytest.approx(15 * DAY_S, abs=60)
    assert early.usd == pytest.approx(early.size_bytes / 1e9 * usd_per_gb_month * 0.5, rel=1e-3)
    assert total_of(found.early.values()).usd == early.usd
    assert names.pack(*pruned.deleted) == world.first
    assert found.held == {}


def test_told_to_wait_a_prune_leaves_packs_until_their_minimum_is_over(world):
    """Neither deleted nor marked anew before, and deleted after; what has no minimum goes at once."""
    world.store.freeze("GLACIER", world.first)
    found, pruned = prune(world, 89, waits_for_minimum=True)
    assert [names.pack(pack) for pack in found.held] == [world.first]
    assert (found.early, pruned.deleted) == ({}, {})
    assert world.first in keys_of(world.store, names.PACKS)
    found, pruned = prune(world, 91, waits_for_minimum=True)
    assert found.held == {}
    assert names.pack(*pruned.deleted) == world.first


def test_what_a_lifecycle_moved_counts_from_the_day_of_the_move(world):
    """A rule that moves packs after 60 days makes the 90 days of GLACIER end after 150."""
    world.store.freeze("GLACIER", world.first)
    world.store.days_to_class = lambda prefix: {"GLACIER": 60} if prefix == names.PACKS else {}
    for age, left in ((100, 50), (140, 10), (151, 0)):
        found, _ = prune(world, age, carries_out=False)
        assert total_of(found.early.values()).left_s == pytest.approx(left * DAY_S, abs=60)


def test_without_the_right_to_read_the_rules_a_pack_counts_from_its_first_day(world):
    """A pruner without that right prunes as well as one with it, and knows less of the fee."""

    def refuse(_prefix):
        raise StoreDenied("no")

    world.store.freeze("GLACIER", world.first)
    world.store.days_to_class = refuse
    found, _ = prune(world, 80, carries_out=False)
    assert total_of(found.early.values()).left_s == pytest.approx(10 * DAY_S, abs=60)


def test_a_server_without_a_price_list_has_days_and_no_price(world):
    """The days are those of the class's name; what a day costs there nobody knows."""
    world.store.price_list = None
    world.store.freeze("GLACIER", world.first)
    found, _ = prune(world, 80, carries_out=False)
    total = total_of(found.early.values())
    assert (total.count, total.usd) == (1, None)


def test_a_prune_of_packs_without_minimum_asks_for_no_rules(world):
    """It costs no request more than before."""
    world.store.days_to_class = None
    found, pruned = prune(world, 1)
    assert found.early == {}
    assert len(pruned.deleted) == 1


def test_lifecycle_rules_are_read_as_far_as_they_are_about_packs():
    """The latest day counts, of enabled rules whose prefix covers all packs, in both forms of a prefix."""
    move = {"Days": 90, "StorageClass": "GLACIER"}
    rules = [
        {"Status": "Enabled", "Filter": {"Prefix": "runs/packs/"}, "Transitions": [move]},
        {"Status": "Enabled", "Prefix": "", "Transitions": [{"Days": 30, "StorageClass": "STANDARD_IA"}]},
        {"Status": "Enabled", "Filter": {"And": {"Prefix": "runs/"}}, "Transitions": [{**move, "Days": 120}]},
        {"Status": "Disabled", "Filter": {}, "Transitions": [{"Days": 1, "StorageClass": "DEEP_ARCHIVE"}]},
        {"Status": "Enabled", "Filter": {"Prefix": "other/"}, "Transitions": [{**move, "Days": 400}]},
        {"Status": "Enabled", "Filter": {}, "Transitions": [{"Date": "2026-01-01", "StorageClass": "ONEZONE_IA"}]},
        {"Status": "Enabled", "Filter": {}, "Expiration": {"Days": 5}},
    ]
    assert days_to_class(rules, "runs/packs/") == {"GLACIER": 120, "STANDARD_IA": 30}
    assert days_to_class([], "runs/packs/") == {}


def test_a_compaction_reads_nothing_of_cold_storage(tmp_path):
    """Mostly dead packs that are cold stay as they are, and are counted."""
    world = World(tmp_path, ColdStore())
    world.write("frozen.bin", noise(20_000, 99))
    world.write("last.bin", noise(90_000, 1))
    world.backup()
    world.write("last.bin", b"short")
    world.backup()
    for key in (world.repository.version_key(RUN, 1), names.copy_of(world.repository.version_key(RUN, 1))):
        world.store.delete(key)
    assert len(planned(world.repository).packs) == 1
    world.store.freeze("GLACIER")
    found = planned(world.repository)
    assert (found.packs, found.cold_count, found.is_empty) == ((), 1, True)
    assert found.within(1).cold_count == 1
    world.close()
