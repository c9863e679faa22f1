"""Rotating the key: all stays, what the old key writes afterwards counts for nothing, and no crash locks out."""

from __future__ import annotations

import os
from contextlib import suppress

import msgspec
import pytest

from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from doubles.memory_store import MemoryStore
from mlsync.errors import (
    AlreadyExists,
    ConfigInvalid,
    EpochUnknown,
    KeyRetired,
    KeySlotKept,
    ManifestDamaged,
    StoreDenied,
    StoreUnavailable,
    WrongPassphrase,
)
from mlsync.monitor import SilentMonitor
from mlsync.repository import names, sealed_object
from mlsync.repository.commit import commit
from mlsync.repository.evaluation import Evaluation, Measure
from mlsync.repository.history.decisions import By, decide, find_decided
from mlsync.repository.keys import epochs
from mlsync.repository.keys.keyslot import KeyFile, Passphrase, Stretching
from mlsync.repository.later_proof import LaterProof
from mlsync.repository.manifest import Manifest, ManifestRoot, Origin, Previous, Summary
from mlsync.repository.readable import newest_readable
from mlsync.repository.repository import Repository
from mlsync.upkeep import rotation
from mlsync.upkeep.check import check
from mlsync.upkeep.key_slots import add_slot, list_slots, remove_slot
from mlsync.upkeep.repair import carry_out, plan
from mlsync.upkeep.rotation import rotate

FAST = Stretching(memory_kib=64, iterations=1, lanes=1)
SECRET, OTHER = KeyFile(bytes(range(32))), KeyFile(bytes(range(1, 33)))
BY = By("node-1", 1_700_000_000_000_000_000)


def no_chunk(_name):
    """Know no chunk."""
    return


def manifest(number, previous=None, run="run"):
    """A version without files."""
    root = ManifestRoot(
        run, number, 1_700_000_000_000_000_000 + number, previous, "mlsync 0.1.0", "node-1", b"/data", 0,
        Summary(0, 0, 0, 0, 0, 0, ""), (), [], [], Origin(bytes(16)), None, (),
    )  # fmt: skip
    return Manifest(root, ())


def made(store=None):
    """A repository with two versions of a run, a decision and a later proof."""
    repository = Repository.create(store or MemoryStore(), SECRET, stretching=FAST)
    digest = commit(repository, manifest(1), no_chunk).digest
    second = commit(repository, manifest(2, Previous(1, digest)), no_chunk).digest
    repository.add_later_proof(proof(1, digest))
    decide(repository, "run", None, pin(1, digest), BY)
    return repository, second


def pin(number, digest):
    """A change that pins a version."""
    from mlsync.repository.history.decision import Pin

    def change(_decided, draft):
        draft.pins[number] = Pin(number, digest[:16], "", "", 1)

    return change


def proof(number, digest, device="cpu"):
    """A later proof without files."""
    return LaterProof("run", number, digest, 1, "mlsync 0.1.0", "node-1", 0, device, 0, [])


def turn(repository, unlock=SECRET):
    """Rotate the key."""
    return rotate(repository, unlock, SilentMonitor(), host="node-1", now_ns=1, stretching=FAST)


def reopened(store, unlock=SECRET):
    """The repository as a new process opens it."""
    return Repository.open(store, unlock)


def test_all_that_was_there_is_read_after_it():
    """Versions, decisions and later proofs of before count, what is written is of the new epoch, names stay."""
    old, second = made()
    rotated = turn(old)
    new = reopened(old.store)
    assert (rotated.epoch, new.keys.epoch, new.slot) == (1, 1, names.key_slot(bytes.fromhex(rotated.slot_id)))
    assert new.keys.master == old.keys.master
    assert [one.is_used for one in list_slots(new)] == [True]
    stored = newest_readable(new, "run")
    assert (stored.root.number, stored.digest) == (2, second)
    assert len(new.later_proofs(new.stored("run", 1)).proofs) == 1
    assert find_decided(new, "run").number == 1
    commit(new, manifest(3, Previous(2, second)), no_chunk)
    assert sealed_object.epoch_of(new.store.get(new.version_key("run", 3), limit_bytes=1 << 20)) == 1
    assert newest_readable(reopened(old.store), "run").root.number == 3
    assert new.skipped == {}


def test_evaluations_that_were_there_count_after_it():
    """A rotation seals evaluations anew, and those made with the retired key afterwards do not count."""
    old, _ = made()
    stored = old.stored("run", 1)

    def measured(value):
        return Evaluation(
            "run", 1, stored.digest, 1, "w", "node", "x", bytes(32), b"", "cpu", 0.0, [Measure("loss", value)]
        )

    old.add_evaluation(measured(1.0))
    turn(old)
    new = reopened(old.store)
    assert [one.by_name for one in new.evaluations(new.stored("run", 1))] == [{"loss": 1.0}]
    with pytest.raises(KeyRetired):
        old.add_evaluation(measured(9.0))
    assert [one.by_name for one in new.evaluations(new.stored("run", 1))] == [{"loss": 1.0}]
    turn(new)
    again = reopened(old.store)
    assert [one.by_name for one in again.evaluations(again.stored("run", 1))] == [{"loss": 1.0}]


def test_it_can_be_rotated_again_and_again():
    """Each epoch has the keys of all before it, and its own account of what was there."""
    repository, digest = made()
    for number in range(1, 5):
        turn(repository)
        repository = reopened(repository.store)
        assert repository.keys.epoch == number
        digest = commit(repository, manifest(2 + number, Previous(1 + number, digest)), no_chunk).digest
    assert [repository.stored("run", number).root.number for number in range(1, 7)] == list(range(1, 7))
    for number in (3, 2, 1):
        # Any one of them may be lost: the newest has all keys.
        repository.store.delete(names.epoch(number))
        repository.store.delete(names.epoch_copy(number))
        again = reopened(repository.store)
        assert [again.stored("run", number).root.number for number in range(1, 7)] == list(range(1, 7))


# ---------------------------------------------------------------- the retired key


def forged(old, key, plain, kind=sealed_object.MANIFEST):
    """Put an object that the old key seals, as whoever kept it can."""
    old.store.put(key, sealed_object.seal(old.keys, kind, key, plain))


def test_a_version_that_the_retired_key_makes_afterwards_is_none():
    """Who kept the old key and may create objects puts versions that nobody takes for one."""
    old, second = made()
    stored = old.stored("run", 2)
    turn(old)
    key = old.version_key("run", 3)
    root = msgspec.structs.replace(stored.root, number=3, previous=Previous(2, second))
    forged(old, key, msgspec.msgpack.encode(root))
    elsewhere = old.version_key("other", 1)
    forged(old, elsewhere, msgspec.msgpack.encode(msgspec.structs.replace(root, run="other", number=1, previous=None)))
    new = reopened(old.store)
    assert newest_readable(new, "run").root.number == 2
    assert "retired key of epoch 0" in new.skipped[key].what
    with pytest.raises(ManifestDamaged, match="after the key was rotated"):
        new.stored("other", 1)


def test_the_newest_version_that_the_retired_key_made_cannot_be_made_anew():
    """Not even with the store's help: its digest stands in the new epoch."""
    old, _ = made()
    stored = old.stored("run", 2)
    turn(old)
    key = old.version_key("run", 2)
    for place in (key, names.copy_of(key)):
        old.store.delete(place)
    forged(old, key, msgspec.msgpack.encode(msgspec.structs.replace(stored.root, notes=("forged",))))
    with pytest.raises(ManifestDamaged, match="retired key"):
        reopened(old.store).stored("run", 2)


def test_a_decision_or_later_proof_that_the_retired_key_makes_afterwards_is_none():
    """Nobody pins, forgets or refuses a version with a key that was rotated."""
    old, _ = made()
    digest = old.stored("run", 1).digest
    store = old.store
    turn(old)
    with pytest.raises(KeyRetired):
        decide(old, "run", None, pin(2, old.stored("run", 2).digest), BY)
    with pytest.raises(KeyRetired):
        old.add_later_proof(proof(1, digest, "gpu"))
    new = reopened(store)
    assert find_decided(new, "run").number == 1
    assert [one.device for one in new.later_proofs(new.stored("run", 1)).proofs] == ["cpu"]
    assert len(new.skipped) == 2
    assert all("retired key" in error.what for error in new.skipped.values())
    # The number that was used up is skipped.
    assert decide(new, "run", None, pin(2, new.stored("run", 2).digest), BY).number == 3


def test_who_has_only_the_retired_key_reads_what_was_there_and_writes_nothing():
    """A process that opened the repository before is told at its next commit, and what it made counts for nothing."""
    old, second = made()
    turn(old)
    with pytest.raises(KeyRetired, match="of epoch 1 now") as caught:
        commit(old, manifest(3, Previous(2, second)), no_chunk)
    assert caught.value.exit_code == 29
    new = reopened(old.store)
    assert newest_readable(new, "run").root.number == 2
    with pytest.raises(KeyRetired):
        old.refuse_retired()
    assert old.stored("run", 2).digest == second
    commit(new, manifest(4, Previous(2, second)), no_chunk)
    with pytest.raises(EpochUnknown):
        old.stored("run", 4)
    with pytest.raises(KeyRetired):
        turn(old)


def test_a_commit_in_the_middle_of_a_rotation_is_believed_only_if_it_counts():
    """At each call of a rotation a version is committed with the old key: it counts, or its writer is told."""
    calls = _calls_of_a_rotation()
    outcomes = set()
    for nth in range(1, len(calls) + 1):
        old, second = made()
        believed = None

        def interrupt(old=old, second=second):
            nonlocal believed
            try:
                commit(old, manifest(3, Previous(2, second)), no_chunk)
                believed = True
            except KeyRetired:
                believed = False

        store = _Interrupted(old.store, nth, interrupt)
        turn(Repository(store, old.keys, slot=old.slot))
        assert believed is not None
        counts = newest_readable(reopened(old.store), "run").root.number == 3
        assert counts or not believed
        outcomes.add((counts, believed))
    assert {(True, True), (False, False)} <= outcomes


class _Interrupted(FaultyStore):
    """Does something before the *nth* call."""

    def __init__(self, store, nth, interrupt):
        super().__init__(store)
        self._nth, self._interrupt = nth, interrupt

    def calling(self, method, key):
        if len(self.calls) + 1 == self._nth and self._interrupt is not None:
            interrupt, self._interrupt = self._interrupt, None
            interrupt()
        return super().calling(method, key)


def _calls_of_a_rotation():
    old, _ = made()
    store = FaultyStore(old.store)
    turn(Repository(store, old.keys, slot=old.slot))
    return store.calls


# ---------------------------------------------------------------- crashes, and two at once


@pytest.mark.parametrize("kind", ["die-before", "die-after", "before", "after"])
def test_a_crash_at_any_call_leaves_a_repository_that_opens_and_can_be_rotated(kind):
    """With the same secret, all versions are read; giving the command again ends the rotation, or makes another."""
    count = len(_calls_of_a_rotation())
    for nth in range(1, count + 1):
        old, second = made()
        fault = Fault(kind, nth, error=StoreUnavailable("away"))
        with suppress(ProcessDied, StoreUnavailable, KeySlotKept):  # the last call's answer may be lost unnoticed
            turn(Repository(FaultyStore(old.store, fault), old.keys, slot=old.slot))
        again = reopened(old.store)
        assert newest_readable(again, "run").digest == second
        assert find_decided(again, "run").number == 1
        assert again.skipped == {}
        if not again.is_retired:
            commit(again, manifest(3, Previous(2, second)), no_chunk)
        turn(again)
        new = reopened(old.store)
        assert not new.is_retired
        assert newest_readable(new, "run").root.number == (2 if again.is_retired else 3)
        assert [one.is_used for one in list_slots(new)] == [True]
        assert len(new.later_proofs(new.stored("run", 1)).proofs) == 1


def test_of_two_rotations_at_once_one_is_made():
    """Whoever is second changes nothing, at whichever call of the first it runs in between."""
    for nth in range(1, len(_calls_of_a_rotation()) + 1):
        old, second = made()
        add_slot(old, OTHER, FAST)
        other = reopened(old.store, OTHER)
        results = []

        def run(repository, unlock, results=results):
            try:
                results.append(turn(repository, unlock))
            except (KeyRetired, KeySlotKept) as error:
                results.append(error)

        store = _Interrupted(old.store, nth, lambda other=other, run=run: run(other, OTHER))
        run(Repository(store, old.keys, slot=old.slot), SECRET)
        rotated = [one for one in results if isinstance(one, rotation.Rotated)]
        assert len(rotated) == 1, nth
        opened = []
        for unlock in (SECRET, OTHER):
            try:
                opened.append(reopened(old.store, unlock))
            except WrongPassphrase:
                continue
        (new,) = [one for one in opened if not one.is_retired]
        assert new.keys.epoch == 1
        assert newest_readable(new, "run").digest == second


def test_a_lost_answer_to_the_new_epoch_is_no_defeat():
    """A layer that tries again finds the object that it made itself; the new key slot must stay."""
    old, second = made()

    class Twice(FaultyStore):
        def put(self, key, body):
            super().put(key, body)
            if key == names.epoch(1):
                raise AlreadyExists("the answer was lost, and it was tried again")

    assert turn(Repository(Twice(old.store), old.keys, slot=old.slot)).epoch == 1
    assert newest_readable(reopened(old.store), "run").digest == second


# ---------------------------------------------------------------- who may not


def test_old_key_slots_that_stay_are_told_and_give_the_old_key_alone():
    """Credentials that may not delete rotate the key; the error names the slots, and they open what was there."""
    old, second = made()
    add_slot(old, OTHER, FAST)

    class AppendOnly(FaultyStore):
        def delete(self, key):
            raise StoreDenied("no right to delete")

    with pytest.raises(KeySlotKept, match="could not be removed"):
        turn(Repository(AppendOnly(old.store), old.keys, slot=old.slot))
    assert reopened(old.store).keys.epoch == 1
    left = reopened(old.store, OTHER)
    assert left.is_retired
    assert newest_readable(left, "run").digest == second
    with pytest.raises(KeyRetired):
        add_slot(left, Passphrase(b"another passphrase"), FAST)
    new = reopened(old.store)
    retired = [one for one in list_slots(new) if "retired" in one.trouble]
    assert len(retired) == 2
    for one in retired:
        remove_slot(new, one.id)
    with pytest.raises(WrongPassphrase):
        reopened(old.store, OTHER)
    assert add_slot(new, OTHER, FAST)
    assert reopened(old.store, OTHER).keys == new.keys


def test_whoever_may_only_create_objects_stops_nobody():
    """A planted announcement or epoch has no effect on readers and writers; a rotation names what is in its place."""
    old, second = made()
    store = old.store
    store.put(names.epoch_announced(1, os.urandom(16)), b"")
    store.put(names.epoch_copy(1), b"x")
    opened = reopened(store)
    assert not opened.is_retired
    third = commit(opened, manifest(3, Previous(2, second)), no_chunk).digest
    store.put(names.epoch(1), b"planted")
    commit(opened, manifest(4, Previous(3, third)), no_chunk)
    with pytest.raises(KeyRetired, match="no holder of the key announced") as caught:
        turn(opened)
    assert "remove this object" in caught.value.advice
    store.delete(names.epoch(1))
    turn(opened)
    # The planted copy is no copy, and nothing is lost by it.
    assert newest_readable(reopened(store), "run").root.number == 4


def test_a_store_that_overwrites_is_not_trusted_with_it():
    """Two rotations at once could overwrite each other's keys there."""
    repository = Repository.create(MemoryStore(), SECRET, stretching=FAST, conditional_create=False)
    with pytest.raises(ConfigInvalid, match="overwrites"):
        turn(repository)


def test_the_copy_stands_for_an_epoch_that_is_lost_or_damaged():
    """The object whose loss would be the loss of all older versions is there twice."""
    old, second = made()
    turn(old)
    old.store.delete(names.epoch(1))
    assert newest_readable(reopened(old.store), "run").digest == second
    old.store.put(names.epoch(1), b"damaged")
    assert newest_readable(reopened(old.store), "run").digest == second


def test_nothing_secret_is_shown():
    """The keys of an epoch do not get into a log by accident."""
    old, _ = made()
    turn(old)
    new = reopened(old.store)
    epoch = epochs.read_epoch(old.store, new.repository_id, 1, new.keys.masters[1])
    for text in (repr(epoch), repr(new.keys)):
        assert not any(master.hex() in text or repr(master) in text for master in new.keys.masters)


# ---------------------------------------------------------------- check and repair

HARMS = {
    "epoch": lambda _old: names.epoch(1),
    "copy": lambda _old: names.epoch_copy(1),
    "announcement": lambda old: epochs.announcement(old.keys, 0),
}


@pytest.mark.parametrize("how", ["gone", "damaged"])
@pytest.mark.parametrize("kind", HARMS)
def test_a_lost_object_of_an_epoch_is_a_problem_and_comes_back(kind, how):
    """Check names it and says that a repair helps; after the repair nothing is left, and it is what it was."""
    old, _ = made()
    turn(old)
    key, store = HARMS[kind](old), old.store
    body = store.get(key, limit_bytes=1 << 20)
    if kind == "announcement" and how == "damaged":
        return  # it is empty, and only its name counts
    store.delete(key)
    if how == "damaged":
        store.put(key, body[:-1] + bytes([body[-1] ^ 1]))
    found = check(reopened(store), SilentMonitor()).problems
    assert [problem.key for problem in found] == [key]
    assert "mlsync repair" in found[0].text
    new = reopened(store)
    steps = plan(new, SilentMonitor(), header_fault=None, rebuild=False)
    assert [step.key for step in steps] == [key]
    repaired = carry_out(new, steps, SilentMonitor(), read_data=False)
    assert (repaired.failed, repaired.left) == ([], [])
    assert store.get(key, limit_bytes=1 << 20) == body
    assert list(plan(reopened(store), SilentMonitor(), header_fault=None, rebuild=False)) == []


def test_an_epoch_that_is_lost_twice_is_told_and_its_keys_are_not_lost():
    """The next epoch has them; what the older key wrote before the next rotation cannot be told apart any more."""
    old, _ = made()
    turn(old)
    turn(reopened(old.store))
    for place in (names.epoch(1), names.epoch_copy(1)):
        old.store.delete(place)
    found = check(reopened(old.store), SilentMonitor()).problems
    assert [problem.key for problem in found] == [names.epoch(1), names.epoch_copy(1)]
    assert all("told apart" in problem.text for problem in found)


def test_what_a_retired_key_wrote_and_what_was_planted_is_named():
    """Check has a place for each: the forged version is a problem, a planted announcement an oddity."""
    old, second = made()
    stored = old.stored("run", 2)
    turn(old)
    key = old.version_key("run", 3)
    forged(
        old, key, msgspec.msgpack.encode(msgspec.structs.replace(stored.root, number=3, previous=Previous(2, second)))
    )
    planted = names.epoch_announced(2, bytes(16))
    old.store.put(planted, b"")
    result = check(reopened(old.store), SilentMonitor())
    assert [(problem.key, "retired key" in problem.text) for problem in result.problems] == [(key, True)]
    assert [odd.key for odd in result.oddities] == [planted]


def test_a_repository_without_header_opens_after_a_rotation():
    """The header comes back from the key slot of the new epoch, with the check of the first key."""
    old, second = made()
    turn(old)
    header = old.store.get(names.HEADER, limit_bytes=1 << 12)
    old.store.delete(names.HEADER)
    found = Repository.without_header(old.store, SECRET)
    found.conditional_create = True
    found.make_header()
    assert old.store.get(names.HEADER, limit_bytes=1 << 12) == header
    assert newest_readable(reopened(old.store), "run").digest == second
