"""A prune of the mirror while a copy runs, stopped anywhere: what the mirror lists restores, or is taken back."""

from __future__ import annotations

import random
import threading

import pytest

from doubles.memory_store import MemoryStore
from doubles.recording_monitor import RecordingMonitor
from flow_parts import PASSPHRASE, RUN, World
from mirroring import NOW_NS, backup, copy, numbers, problems
from mlsync.errors import StoreDenied
from mlsync.repository import names
from mlsync.repository.history import fence
from mlsync.repository.repository import Repository
from mlsync.store.wrapping import WrappingStore
from mlsync.upkeep.prune import PruneOptions, carry_out, plan

DAY_NS = 86_400 * 10**9
WALKS = 10


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run with three versions."""
    world = World(tmp_path_factory.mktemp("mirrored"))
    for number in range(1, 4):
        backup(world, number)
    yield world
    world.close()


def broken_off(world, *, is_fenced):
    """A mirror whose copier died once: it has all packs, and the newest version is not listed.

    If it was pruned since, the next number is fenced, and a copier puts the version in the place of the fence.
    """
    target = MemoryStore()
    copy(world, target)
    key = world.repository.version_key(RUN, 3)
    for place in (key, names.copy_of(key)):
        target.delete(place)
    if is_fenced:
        target.put(key, fence.make(world.repository.keys, key, fence.Fence(NOW_NS)))
    return target


def prune(target, world, days):
    """Prune the mirror."""
    opened = Repository(target, world.repository.keys)
    options = PruneOptions(NOW_NS + days * DAY_NS, "host")
    carry_out(opened, plan(opened, RecordingMonitor(), options), RecordingMonitor(), options)


class Stopping(WrappingStore):
    """A prune's store: it stands still before the first pack that it deletes until somebody lets it go on."""

    def __init__(self, store):
        super().__init__(store)
        self.is_there = threading.Event()
        self.go_on = threading.Event()

    def call(self, method, key, work):
        """Wait."""
        if method == "delete" and key.startswith(names.PACKS):
            self.is_there.set()
            assert self.go_on.wait(30)
        return work()


class Pruner:
    """A prune in a thread of its own, which stops before it deletes."""

    def __init__(self, target, world):
        self.store = Stopping(target)
        self.thread = threading.Thread(target=self._work, args=(world,))

    def _work(self, world):
        try:
            prune(self.store, world, 20)
        finally:
            self.store.is_there.set()

    def look(self):
        """Begin, and come to the first deletion, or to the end if nothing is due."""
        self.thread.start()
        assert self.store.is_there.wait(30)

    def delete(self):
        """Go on to the end."""
        if not self.thread.ident:
            self.look()
        self.store.go_on.set()
        self.thread.join()


class Acting(WrappingStore):
    """A copier's mirror: other things happen before its calls of these numbers."""

    def __init__(self, store, acts):
        super().__init__(store)
        self.acts = dict(acts)
        self.calls: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def call(self, method, key, work):
        """Act first."""
        with self._lock:
            self.calls.append((method, key))
            for act in self.acts.pop(len(self.calls), ()):
                act()
        return work()


def is_listing(method, key):
    """Whether a call lists a version."""
    return method in ("put", "replace") and key.startswith(names.VERSIONS)


def moments_in(calls):
    """Three calls of a copier, in order: some by chance, and all around the one that lists the version."""
    looked = calls.index(("list", names.TOMBSTONES)) + 1
    listed = next(at for at, (method, key) in enumerate(calls, 1) if is_listing(method, key))
    chance = random.Random(1)
    for _ in range(WALKS):
        yield sorted(chance.choices(range(1, len(calls) + 1), k=3))
    for marked in range(looked, listed + 2):
        for seen in range(marked, listed + 2):
            yield from ([marked, seen, deleted] for deleted in range(seen, len(calls) + 1))


@pytest.mark.parametrize("is_fenced", [False, True], ids=["never pruned", "pruned before"])
def test_a_prune_of_the_mirror_at_any_moment_of_a_copy_loses_nothing(world, is_fenced):
    """Marked, looked at and deleted between any calls of the copier: the check finds nothing, and a later copy ends."""
    dry = Acting(broken_off(world, is_fenced=is_fenced), {})
    copy(world, dry)
    taken_back = 0
    for moments in moments_in(dry.calls):
        target = broken_off(world, is_fenced=is_fenced)
        pruner = Pruner(target, world)
        acts: dict[int, list[object]] = {}
        steps = (lambda target=target: prune(target, world, 10), pruner.look, pruner.delete)
        for moment, step in zip(moments, steps, strict=True):
            acts.setdefault(moment, []).append(step)
        result = copy(world, Acting(target, acts))
        pruner.delete()
        assert problems(target) == [], moments
        taken_back += numbers(target) != [1, 2, 3]
        assert result.is_complete == (numbers(target) == [1, 2, 3]), moments
        prune(target, world, 30)
        prune(target, world, 40)
        assert copy(world, target).is_complete
        assert numbers(target) == [1, 2, 3]
        assert problems(target) == []
    assert taken_back > 10


def test_what_a_copier_listed_and_died_over_is_looked_at_by_the_next_one(world):
    """A version without a second copy is no version that anybody looked back at: its pack is copied again."""
    target = MemoryStore()
    copy(world, target)
    key = world.repository.version_key(RUN, 3)
    target.delete(names.copy_of(key))
    stored = world.repository.stored(RUN, 3)
    lost = max({ref.pack for entry in world.repository.entries(stored) for ref in entry.chunks})
    target.delete(names.pack(lost))
    result = copy(world, target)
    assert (result.versions, result.pack_count) == ([(RUN, 3)], 1)
    assert problems(target) == []


class Denying(WrappingStore):
    """A mirror in which nothing may be overwritten."""

    def replace(self, key, body):
        """Refuse."""
        raise StoreDenied("no right to overwrite", where=key)


def test_a_version_that_cannot_be_taken_back_is_named_each_time(world):
    """Without the right to overwrite it stays listed, and no copy ends well until it was looked at again."""
    target = broken_off(world, is_fenced=False)
    prune(target, world, 10)
    marked = Repository(target, world.repository.keys).tombstones()
    pruner = Pruner(target, world)
    held = {names.tombstone(pack_id): target.get(names.tombstone(pack_id), limit_bytes=1 << 20) for pack_id in marked}
    for key in held:
        target.delete(key)

    def mark_again():
        for key, body in held.items():
            target.put(key, body)

    class Marking(Denying):
        def put(self, key, body):
            """Have a tombstone come right before a manifest."""
            if key.startswith(names.VERSIONS):
                mark_again()
            super().put(key, body)

    result = copy(world, Marking(target))
    assert [one.number for one in result.left_out] == [3]
    assert "nothing may be overwritten" in result.left_out[0].why
    assert numbers(target) == [1, 2, 3]
    assert [one.number for one in copy(world, Denying(target)).left_out] == [3]
    # With the right, it goes until the mirror was pruned.
    assert [one.number for one in copy(world, target).left_out] == [3]
    assert numbers(target) == [1, 2]
    pruner.delete()
    assert copy(world, target).is_complete
    assert Repository.open(target, PASSPHRASE).numbers(RUN) == [1, 2, 3]
    assert problems(target) == []
