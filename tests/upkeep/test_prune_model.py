"""Writers, prunes, compactions and copiers in every order: no listed version loses a pack, nor does one in a mirror.

Each rule of docs/format.md is needed: without it there is an order in which a version is lost.
"""

from __future__ import annotations

import sys
import threading
from contextlib import suppress

import pytest
from prune_model import PLANTED, Lost, Rules, Store, World, explore, wander
from test_prune import LATER_NS, NOW_NS, forget

from flow_parts import RUN, noise
from flow_parts import World as Machine
from mlsync.errors import Error
from mlsync.repository import names
from mlsync.repository.repository import Repository
from mlsync.store.wrapping import WrappingStore
from mlsync.upkeep import prune as prune_module
from mlsync.upkeep.prune import PruneOptions, carry_out, plan

V = frozenset
# A version that is gone has a pack that the writers would like to use again; another version stays.
HISTORY = Store(((1, V({"old"})), (2, V({"kept"}))), V({"old", "kept"}), V(), True)
MARKED = Store(HISTORY.numbers, HISTORY.packs, V({"old"}), True)
# A run without a version, whose writers know a pack of another run's that is gone.
EMPTY = Store((), V({"old"}))
GONE = ((1, "old"),)
ONE = World(HISTORY, GONE)
FIRST = World(EMPTY)
TWO_WRITERS = World(EMPTY, writers=("old", None), tries=1)
TWO_PRUNES = World(MARKED, GONE, is_gone_late=True, prunes=(2, 1), tries=1)
# The version that takes the first number is decided to be gone only after its rival's packs were deleted.
LATE = World(EMPTY, ((1, "w1-1"),), is_gone_late=True, writers=("old", None), prunes=(3,), tries=1)
# The pack of a version is moved while that is removed, or stays, and a writer would like to use its content.
TO_MOVE = Store(((1, V({"kept"})), (2, V({"x"}))), V({"kept", "x"}), V(), True)
MOVED = World(TO_MOVE, writers=("kept",), compactions=("kept",), tries=1)
MOVED_LATE = World(
    TO_MOVE, ((1, "kept"),), is_gone_late=True, writers=("kept",), prunes=(3,), compactions=("kept",), tries=1
)
# Somebody put an object in the place of the record, and a person has it deleted, or two do.
OCCUPIED = TO_MOVE.with_records(V({("kept", PLANTED)}))
DISCARDED = World(OCCUPIED, writers=(), prunes=(3,), compactions=("kept", "kept"), discards=1)
# A mirror is made meanwhile.
COPIED = World(HISTORY, GONE, tries=1, has_copier=True)
COPIED_AND_MOVED = World(TO_MOVE, writers=(), compactions=("kept",), has_copier=True)
COPIED_AND_GONE = World(
    TO_MOVE, ((1, "kept"),), is_gone_late=True, writers=(), prunes=(3,), compactions=("kept",), has_copier=True
)
# A version has differences, which are moved without their bases; then nothing needs the bases.
DIFFERENCES = Store(((1, V({"kept"})), (2, V({"diff", "whole"}))), V({"kept", "diff", "whole"}), V(), True)
BASES = (("diff", "whole"),)
FLATTENED = World(DIFFERENCES, writers=(), compactions=("diff", "whole"), bases=BASES)
FLATTENED_AND_USED = World(DIFFERENCES, writers=("diff",), prunes=(1,), compactions=("diff",), bases=BASES, tries=1)
FLATTENED_AND_COPIED = World(DIFFERENCES, writers=(), compactions=("diff", "whole"), bases=BASES, has_copier=True)
WITH_OTHERS = {
    "moved": MOVED,
    "moved, and gone later": MOVED_LATE,
    "planted and discarded": DISCARDED,
    "copied": COPIED,
    "copied and moved": COPIED_AND_MOVED,
    "copied, moved, and gone later": COPIED_AND_GONE,
    "differences": FLATTENED,
    "differences that a writer uses": FLATTENED_AND_USED,
    "differences in a mirror": FLATTENED_AND_COPIED,
}
# Too many orders for a test: `python tests/upkeep/test_prune_model.py` counts them all.
LARGE = {
    "two prunes": World(HISTORY, GONE, prunes=(2, 1), tries=1),
    "two prunes of a marked pack": TWO_PRUNES,
    "two writers": World(HISTORY, GONE, writers=("old", "old"), tries=1),
    "two writers of a first version": TWO_WRITERS,
    "a version that goes late": LATE,
}
# Too many to be counted.
ENDLESS = {
    "two compactions and a copier": World(
        TO_MOVE, writers=("kept",), compactions=("kept", "kept"), tries=1, has_copier=True
    ),
}


@pytest.mark.parametrize("lies", [0, 1, 2])
@pytest.mark.parametrize("world", [ONE, FIRST], ids=["history", "first"])
def test_every_order_of_a_writer_and_a_prune_keeps_what_is_listed(world, lies):
    """With as many listings that lack something, in every order and wherever one of them stops for ever."""
    assert explore(world, Rules(lies=lies)) > 1000


@pytest.mark.parametrize("world", WITH_OTHERS.values(), ids=WITH_OTHERS)
def test_every_order_with_a_compaction_or_a_copier_keeps_what_is_listed(world):
    """Every version restores by move records, and each that a mirror lists from the mirror; none is slandered."""
    assert explore(world) > 3000


def test_a_record_that_two_people_discard_can_be_lost():
    """The case that docs/decisions.md (238) leaves open: one of them stands still before the deletion."""
    with pytest.raises(Lost, match=r"d0-delete > p0-delete > p0-delete pack$"):
        explore(World(OCCUPIED, writers=(), prunes=(3,), compactions=("kept", "kept"), discards=2))


@pytest.mark.parametrize("world", (LARGE | ENDLESS).values(), ids=LARGE | ENDLESS)
def test_many_orders_of_more_writers_and_prunes_keep_what_is_listed(world):
    """By chance, with a fixed seed, since these have too many orders."""
    assert wander(world, 7, 1500) > 10_000


@pytest.mark.parametrize(
    ("rule", "world", "lies"),
    [
        ("fences", ONE, 0),
        ("fences_until_all_hold", ONE, 1),
        ("tombstones_at_commit", ONE, 0),
        ("own_packs", TWO_WRITERS, 0),
        ("old_packs", ONE, 0),
        ("replaces", LATE, 0),
        ("keeps_tombstones", TWO_PRUNES, 0),
        ("tombstones_first", TWO_PRUNES, 0),
        ("looks_again", ONE, 0),
        ("compares_listings", ONE, 1),
        ("registers", FIRST, 0),
        ("pack_before_tombstone", ONE, 0),
        ("follows_records", MOVED, 0),
        ("reads_before_release", MOVED_LATE, 0),
        ("keeps_needed_records", MOVED, 0),
        ("never_overwrites_records", World(OCCUPIED, writers=(), prunes=(3,), compactions=("kept", "kept")), 0),
        ("copies_by_manifest", COPIED, 0),
        ("copies_manifest_last", COPIED, 0),
        ("copies_what_it_saw", COPIED, 0),
        ("copies_records", COPIED_AND_MOVED, 0),
        ("holds_bases", FLATTENED, 0),
        ("copies_bases", FLATTENED_AND_COPIED, 0),
    ],
)
def test_each_rule_is_needed(rule, world, lies):
    """Without one of the rules there is an order in which a listed version, here or in a mirror, loses a pack."""
    with pytest.raises(Lost):
        explore(world, Rules(lies=lies, **{rule: False}))


# ---------------------------------------------------------------- the same with the real code


class Gate(WrappingStore):
    """Runs something before the nth call of a writer, while it stands still."""

    def __init__(self, store, nth, act):
        super().__init__(store)
        self._nth, self._act, self._lock, self.count = nth, act, threading.Lock(), 0

    def call(self, method, key, work):
        """Make the call, after what was to come before it."""
        with self._lock:
            self.count += 1
            is_now = self.count == self._nth
        if is_now:
            self._act()
        return super().call(method, key, work)


@pytest.fixture
def machine(tmp_path):
    """A run of three versions, the second of which was forgotten long ago."""
    machine = Machine(tmp_path)
    for number in (1, 2, 3):
        machine.write("frozen.bin", noise(30_000, 99))
        machine.write("last.bin", noise(20_000, number))
        machine.backup()
    forget(machine, 2)
    yield machine
    machine.close()


def prune(machine, now_ns):
    """Prune as another machine would, which takes every pack for old enough."""
    repository = Repository(machine.store, machine.repository.keys)
    options = PruneOptions(now_ns, "host", young_s=-1e11)
    found = plan(repository, machine.monitor, options)
    return carry_out(repository, found, machine.monitor, options)


def prunes(machine):
    """Two prunes, with more than the grace between them."""
    prune(machine, NOW_NS)
    prune(machine, LATER_NS)


def write_old(machine):
    """Bring back the content of the second version, whose pack this machine remembers."""
    machine.write("last.bin", noise(20_000, 2))


def outcome(machine, nth):
    """Back up while two prunes come before the nth call; return how many calls there were."""
    objects = dict(machine.store._objects)
    machine.save_state(f"before {nth}")
    gate = Gate(machine.store, nth, lambda: prunes(machine))
    machine.use(gate)
    write_old(machine)
    with suppress(Error):
        machine.backup()
    machine.use(machine.store)
    problems = machine.check(read_data=True).problems
    machine.store._objects.clear()
    machine.store._objects.update(objects)
    machine.load_state(f"before {nth}")
    return gate.count, problems


def outcomes(machine):
    """The problems that there are afterwards, for each call before which a backup can stand still."""
    nth, count = 0, 1
    while nth < count:
        nth += 1
        count, problems = outcome(machine, nth)
        yield problems


def test_a_backup_that_stands_still_at_any_call_loses_nothing(machine):
    """Two prunes pass while it stands before each of its calls: every version that is listed then restores."""
    nth = 0
    for nth, problems in enumerate(outcomes(machine), start=1):
        assert problems == [], nth
    assert nth > 15


def test_without_fences_it_would_lose_a_version(machine, monkeypatch):
    """The real code without its fences fails the same test: stopped right before it creates its manifest."""
    monkeypatch.setattr(prune_module, "_fence", lambda *_: None)
    found = [problem for problems in outcomes(machine) for problem in problems]
    assert any("pack is missing" in problem.text for problem in found)


def test_without_a_look_at_own_packs_it_would_lose_a_version(machine, monkeypatch):
    """The same for a backup that does not look at what it stored itself."""
    monkeypatch.setattr("mlsync.backup.new_version.refuse_lost", lambda *_: None)
    found = [problem for problems in outcomes(machine) for problem in problems]
    assert any("pack is missing" in problem.text for problem in found)
    assert machine.repository.version_key(RUN, 3).startswith(names.VERSIONS)


if __name__ == "__main__":
    for title, world in {"a history": ONE, "a first version": FIRST, **LARGE, **WITH_OTHERS}.items():
        sys.stdout.write(f"{title}: {explore(world):,} states\n")
    for lies in (1, 2):
        count = explore(ONE, Rules(lies=lies))
        sys.stdout.write(f"a history, {lies} listings that lack something: {count:,} states\n")
