"""What happens at the source between two copies: rotations, compactions, prunes, rollbacks, and what a mirror does."""

from __future__ import annotations

import threading

import pytest

from compacting import compacted, delete_buried
from doubles.memory_store import MemoryStore
from doubles.recording_monitor import RecordingMonitor
from flow_parts import FAST, PASSPHRASE, RUN, World, keys_of
from mirroring import NOW_NS, backup, copy, numbers, problems
from mlsync.errors import KeyRetired, NotFound, WriteOnly, WrongPassphrase
from mlsync.repository import names
from mlsync.repository.evaluation import Evaluation, Measure
from mlsync.repository.history.decision import Forgotten, Pin
from mlsync.repository.history.decisions import By, decide, find_decided
from mlsync.repository.history.seen_decision import half, seen_decision
from mlsync.repository.keys.keyslot import Passphrase
from mlsync.repository.later_proof import LaterProof
from mlsync.repository.repository import Repository
from mlsync.store.wrapping import WrappingStore
from mlsync.upkeep.prune import PruneOptions, carry_out, plan
from mlsync.upkeep.rotation import rotate

DAY_NS = 86_400 * 10**9
NEXT = Passphrase(b"sesame, open")


@pytest.fixture
def world(tmp_path):
    """A run with four versions."""
    world = World(tmp_path)
    for number in range(1, 5):
        backup(world, number)
    yield world
    world.close()


def choose(world, change):
    """Decide something about the run."""
    seen = seen_decision(world.repository.stored(RUN, max(world.numbers())).root.room)
    decide(world.repository, RUN, seen, change, By("host", 1))


def forget(world, *numbers):
    """Forget versions."""

    def change(_decided, draft):
        for number in numbers:
            draft.forgotten[number] = Forgotten(number, half(world.repository.stored(RUN, number).digest), "rule", 0)

    choose(world, change)


def pin(world, number):
    """Pin a version."""

    def change(_decided, draft):
        draft.pins[number] = Pin(number, half(world.repository.stored(RUN, number).digest), "paper", "", 1)

    choose(world, change)


def prune(store, repository, now_ns):
    """Prune what has waited for a week."""
    opened = Repository(store, repository.keys)
    options = PruneOptions(now_ns, "host")
    return carry_out(opened, plan(opened, RecordingMonitor(), options), RecordingMonitor(), options)


def prove(world, number, broken=0):
    """Add a later proof."""
    stored = world.repository.stored(RUN, number)
    world.repository.add_later_proof(LaterProof(RUN, number, stored.digest, 1, "mlsync", "host", 0, "", broken, []))


def evaluate(world, number):
    """Add an evaluation."""
    stored = world.repository.stored(RUN, number)
    measured = Evaluation(
        RUN, number, stored.digest, 1, "mlsync", "host", "label", bytes(32), b"", "cpu", 1.0, [Measure("loss", 0.5)]
    )
    world.repository.add_evaluation(measured)


def test_what_is_said_of_versions_comes_along(world):
    """Pins, later proofs and evaluations are in the mirror, those of versions that it has already too."""
    target = MemoryStore()
    prove(world, 2)
    copy(world, target)
    assert keys_of(target) == keys_of(world.store)
    pin(world, 3)
    prove(world, 1)
    evaluate(world, 1)
    evaluate(world, 4)
    backup(world, 5)
    copy(world, target)
    assert problems(target) == []
    assert keys_of(target) == keys_of(world.store)


def test_a_mirror_of_few_versions_knows_what_was_decided_of_all(world):
    """A pin of a version that is not in the mirror is nothing that its store hides."""
    target = MemoryStore()
    pin(world, 1)
    forget(world, 2)
    backup(world, 5)
    copy(world, target, versions={RUN: {5}})
    assert problems(target) == []
    assert find_decided(Repository.open(target, PASSPHRASE), RUN).named("paper").version == 1


def test_a_mirror_of_a_mirror_misses_what_the_first_one_misses(world):
    """What was not copied to a mirror is said in a copy of the mirror too."""
    first, second = MemoryStore(), MemoryStore()
    copy(world, first, versions={RUN: {2, 4}})
    copy(world, second, Repository.open(first, PASSPHRASE))
    assert numbers(second) == [2, 4]
    assert problems(second) == []


def test_forgotten_versions_stay_away_until_they_are_back(world):
    """A version that is forgotten is not copied; once it is no more, it is."""
    target = MemoryStore()
    forget(world, 2)
    copy(world, target)
    assert numbers(target) == [1, 3, 4]
    assert problems(target) == []
    choose(world, lambda _decided, draft: draft.forgotten.clear())
    copy(world, target)
    assert numbers(target) == [1, 2, 3, 4]
    assert problems(target) == []


def test_versions_that_the_source_removed_go_from_the_mirror_with_its_own_prune(world):
    """What is gone in the source is not copied again; the mirror's bytes stay until the mirror is pruned."""
    target = MemoryStore()
    copy(world, target)
    forget(world, 1, 2)
    for days in (10, 20):
        prune(world.store, world.repository, NOW_NS + days * DAY_NS)
    backup(world, 5)
    copy(world, target)
    assert problems(target) == []
    before = len(keys_of(target, names.PACKS))
    for days in (10, 20, 30):
        prune(target, world.repository, NOW_NS + days * DAY_NS)
    assert numbers(target) == world.numbers() == [3, 4, 6]
    assert len(keys_of(target, names.PACKS)) < before
    assert problems(target) == []
    # Its prune fenced the next number, for a writer of its own; the source's version of that number comes all the same.
    fences = keys_of(target, names.VERSIONS)
    backup(world, 6)
    assert world.repository.version_key(RUN, 7) in fences
    result = copy(world, target)
    assert [number for _, number in result.versions] == [7]
    assert numbers(target) == world.numbers() == [3, 4, 6, 7]
    assert problems(target) == []


def test_a_version_that_only_the_mirror_removed_stays_removed(world):
    """A mirror's own retention: what its prune replaced by a fence is not copied again, and is named."""
    target = MemoryStore()
    copy(world, target)
    mirror = Repository.open(target, PASSPHRASE)

    def change(_decided, draft):
        draft.forgotten[1] = Forgotten(1, half(mirror.stored(RUN, 1).digest), "rule", 0)

    decide(mirror, RUN, None, change, By("host", 1))
    for days in (10, 20):
        prune(target, world.repository, NOW_NS + days * DAY_NS)
    result = copy(world, target)
    assert result.removed == {RUN: (1,)}
    assert numbers(target) == [2, 3, 4]
    assert result.lag[RUN].version_count == 0
    # Who decides in both places is told: the mirror may lack what the source decided.
    pin(world, 3)
    backup(world, 5)
    result = copy(world, target)
    assert (result.conflicts, result.decided_apart) == ([], [RUN])
    assert numbers(target) == [2, 3, 4, 5]
    assert problems(target) == []


def test_a_damaged_decision_in_the_mirror_is_a_conflict(world):
    """What nobody with the key decided is not taken for the mirror's own word."""
    target = MemoryStore()
    pin(world, 3)
    copy(world, target)
    (key,) = [info.key for info in target.list(names.DECISIONS)]
    target.replace(key, bytes(target.stat(key).size_bytes))
    result = copy(world, target)
    assert ([one.key for one in result.conflicts], result.decided_apart) == ([key], [])


def test_a_pack_that_was_moved_comes_with_its_record(world):
    """After a compaction a new mirror has the new packs and the record, and an old one keeps its packs."""
    old, new = MemoryStore(), MemoryStore()
    copy(world, old, versions={RUN: {1, 2}})
    done = compacted(world.repository, choose=lambda _use: True)
    assert done.moved
    assert delete_buried(world.repository)
    for target in (old, new):
        copy(world, target)
        assert numbers(target) == [1, 2, 3, 4]
        assert problems(target) == []
    assert keys_of(new, names.MOVES)


def test_a_version_waits_whose_move_record_is_another_one_in_the_mirror(world):
    """Of a pack that was moved in both places the records differ: the version is named, and not listed there."""
    target = MemoryStore()
    compacted(world.repository, choose=lambda _use: True)
    moved = keys_of(world.store, names.MOVES)
    delete_buried(world.repository)
    for key in moved:
        target.put(key, b"another")
    result = copy(world, target)
    assert [one.number for one in result.left_out] == [1, 2, 3, 4]
    assert "moves/" in result.left_out[0].why
    assert keys_of(target, names.VERSIONS) == []


class Interfering(WrappingStore):
    """Calls *act* once, before the first read of a pack by the copier."""

    def __init__(self, store, act):
        super().__init__(store)
        self._act = act
        self._lock = threading.Lock()

    def call(self, method, key, work):
        """Act first."""
        if method == "read" and key.startswith(names.PACKS):
            with self._lock:
                act, self._act = self._act, None
                if act is not None:
                    act()
        return work()


def test_a_compaction_while_packs_are_copied_loses_nothing(world):
    """Packs that go between the plan and the copy are found where their records say."""
    target = MemoryStore()

    def compact_all():
        compacted(world.repository, choose=lambda _use: True)
        delete_buried(world.repository)

    source = Repository(Interfering(world.store, compact_all), world.repository.keys)
    result = copy(world, target, source)
    assert result.is_complete
    assert numbers(target) == [1, 2, 3, 4]
    assert problems(target) == []


def test_a_version_that_is_removed_while_it_is_copied_is_no_loss(world):
    """A prune between the plan and the copy: what it removed is left out without a word, the rest is complete."""
    target = MemoryStore()
    forget(world, 1)

    def prune_all():
        for days in (10, 20, 30):
            prune(world.store, world.repository, NOW_NS + days * DAY_NS)

    source = Repository(Interfering(world.store, prune_all), world.repository.keys)
    result = copy(world, target, source, versions={RUN: {1, 2, 3, 4}})
    assert result.is_complete
    assert set(numbers(target)) >= {2, 3, 4}
    assert problems(target) == []


def test_a_rotation_comes_along_and_the_retired_secret_opens_the_mirror_no_more(world):
    """The new key slot and the epoch are copied, old key slots leave the mirror, and omissions are said anew."""
    target = MemoryStore()
    evaluate(world, 3)
    copy(world, target, versions={RUN: {3, 4}})
    rotated = rotate(world.repository, NEXT, RecordingMonitor(), host="host", now_ns=1, stretching=FAST)
    with pytest.raises(KeyRetired):
        copy(world, target)
    world.repository = rotated.repository
    copy(world, target, versions={RUN: {3, 4}})
    assert problems(target, NEXT) == []
    with pytest.raises(WrongPassphrase):
        Repository.open(target, PASSPHRASE)
    copy(world, target)
    assert problems(target, NEXT) == []


def test_a_removed_key_slot_of_the_newest_key_is_named(world):
    """A slot that the source has no more still opens the mirror, and only a person removes it there."""
    target = MemoryStore()
    copy(world, target)
    slot = keys_of(world.store, names.KEY_SLOTS)[0]
    target.put(names.key_slot(bytes(16)), target.get(slot, limit_bytes=4096))
    assert copy(world, target).stale_slots == [names.key_slot(bytes(16))]


def test_a_mirror_that_is_ahead_of_its_source_keeps_what_the_source_lost(world, tmp_path):
    """A source that was brought back from an older state: the mirror's newer versions are named, and stay."""
    target = MemoryStore()
    copy(world, target)
    lost = {key: world.store.get(key, limit_bytes=1 << 30) for key in keys_of(world.store)}
    for number in (3, 4):
        key = world.repository.version_key(RUN, number)
        world.store.delete(key)
        world.store.delete(names.copy_of(key))
    result = copy(world, target)
    assert result.ahead == {RUN: (3, 4)}
    assert numbers(target) == [1, 2, 3, 4]
    # The run goes on differently: the same numbers, other versions. Nothing of the mirror is touched.
    world.lose_state()
    for number in (7, 8, 9):
        backup(world, number)
    before = {key: target.get(key, limit_bytes=1 << 30) for key in keys_of(target)}
    result = copy(world, target)
    assert {names.parse_version(conflict.key)[1] for conflict in result.conflicts} == {3, 4}
    assert [one.number for one in result.left_out] == [5]
    assert "another one in the mirror" in result.left_out[0].why
    assert all(target.get(key, limit_bytes=1 << 30) == body for key, body in before.items())
    assert problems(target) == []
    for key, body in lost.items():
        assert target.get(key, limit_bytes=1 << 30) == body


def test_two_copiers_at_once_make_one_mirror(world):
    """Both end well, and what they made together is sound."""
    target, results = MemoryStore(), []

    def one():
        results.append(copy(world, target))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.is_complete for result in results] == [True] * 3
    assert problems(target) == []
    assert numbers(target) == [1, 2, 3, 4]


def test_a_marked_pack_of_the_mirror_is_not_relied_on(world):
    """A version waits whose pack the mirror is about to delete, until the mirror was pruned."""
    target = MemoryStore()
    copy(world, target)
    stored = world.repository.stored(RUN, 4)
    key = world.repository.version_key(RUN, 4)
    for place in (key, names.copy_of(key)):
        target.delete(place)
    prune(target, world.repository, NOW_NS + 10 * DAY_NS)
    assert keys_of(target, names.TOMBSTONES)
    result = copy(world, target)
    assert [one.number for one in result.left_out] == [4]
    assert "prune the mirror" in result.left_out[0].why
    for days in (20, 30):
        prune(target, world.repository, NOW_NS + days * DAY_NS)
    assert copy(world, target).is_complete
    assert numbers(target) == [1, 2, 3, 4]
    assert stored.digest == Repository.open(target, PASSPHRASE).stored(RUN, 4).digest
    assert problems(target) == []


def test_a_planted_version_is_not_copied(world):
    """What does not open is no version: it stays where it is, and no word is lost of it."""
    target = MemoryStore()
    key = world.repository.version_key(RUN, 5)
    world.store.put(key, b"planted" * 40)
    copy(world, target)
    with pytest.raises(NotFound):
        target.stat(key)
    assert numbers(target) == [1, 2, 3, 4]


def test_a_node_that_can_only_write_cannot_copy(world):
    """It cannot tell what a version needs."""

    class Blind(Repository):
        is_write_only = True

    with pytest.raises(WriteOnly):
        copy(world, MemoryStore(), Blind(world.store, world.repository.keys))
