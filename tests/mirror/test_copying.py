"""Copies to a mirror: what is there afterwards, in which order, and what a reader of the mirror finds."""

from __future__ import annotations

from contextlib import suppress

import pytest

from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from doubles.memory_store import MemoryStore
from doubles.recording_monitor import RecordingMonitor
from flow_parts import FAST, PASSPHRASE, RUN, World, keys_of
from mirroring import backup, copy, numbers, problems
from mlsync.errors import MirrorConflict, MirrorForeign, RepositoryMissing, RunMissing, Stopped
from mlsync.repository import names
from mlsync.repository.repository import Repository
from mlsync.upkeep.check import check


@pytest.fixture
def world(tmp_path):
    """A run with four versions, each with a file that changed and one that did not."""
    world = World(tmp_path)
    for number in range(1, 5):
        backup(world, number)
    yield world
    world.close()


def test_a_complete_copy_has_what_the_source_has(world):
    """A mirror has the same objects byte for byte, and a check of it finds nothing."""
    target = MemoryStore()
    result = copy(world, target)
    assert result.is_complete
    assert [number for _, number in result.versions] == [1, 2, 3, 4]
    assert problems(target) == []
    assert keys_of(target) == keys_of(world.store)
    for key in keys_of(target):
        assert target.get(key, limit_bytes=1 << 30) == world.store.get(key, limit_bytes=1 << 30)


def test_a_second_copy_sends_nothing(world):
    """What is in the mirror is not sent again."""
    target = MemoryStore()
    copy(world, target)
    faulty = FaultyStore(target)
    result = copy(world, faulty)
    assert (result.versions, result.there_count, result.size_bytes, result.object_count) == ([], 4, 0, 0)
    assert not {method for method, _ in faulty.calls} & {"put", "upload", "upload.write", "replace", "delete"}


@pytest.mark.parametrize("chosen", [{2}, {4}, {1, 3}, {3, 4}])
def test_some_versions_are_sound_and_the_others_not_missed(world, chosen):
    """A mirror of some versions passes a check, which says which ones nobody copied."""
    target = MemoryStore()
    copy(world, target, versions={RUN: chosen})
    assert problems(target) == []
    assert set(numbers(target)) == chosen
    repository = Repository.open(target, PASSPHRASE)
    omitted = check(repository, RecordingMonitor()).omitted[RUN]
    assert {n for first, last in omitted for n in range(first, last + 1)} == {1, 2, 3, 4} - chosen


def test_a_version_that_a_mirror_loses_is_missed(world):
    """An omission speaks only of what was left out: a copied version that the store hides is found out."""
    target = MemoryStore()
    copy(world, target, versions={RUN: {2, 3, 4}})
    key = Repository.open(target, PASSPHRASE).version_key(RUN, 3)
    target.delete(key)
    target.delete(names.copy_of(key))
    assert [problem.key for problem in problems(target)] == [key]


def test_what_was_left_out_can_be_copied_later(world):
    """A version that was omitted is one like any other once it is copied."""
    target = MemoryStore()
    copy(world, target, versions={RUN: {4}})
    copy(world, target)
    assert numbers(target) == [1, 2, 3, 4]
    assert problems(target) == []


def test_runs_are_chosen_by_name(world):
    """A run that is not there is an error, and writes no version."""
    with pytest.raises(RunMissing):
        copy(world, MemoryStore(), runs=["other"])
    target = MemoryStore()
    copy(world, target, runs=[RUN])
    assert numbers(target) == [1, 2, 3, 4]


def test_a_copy_that_is_asked_to_stop_lists_what_is_whole(world):
    """Versions of which all packs were copied by then are in the mirror, and the next copy goes on."""

    class OneByOne(MemoryStore):
        # Otherwise all packs may be under way before the second one is there.
        writes_at_once = 1

    target = OneByOne()
    with pytest.raises(Stopped):
        copy(world, target, stop=lambda: len(keys_of(target, names.PACKS)) >= 2)
    listed = numbers(target)
    assert listed == [1, 2, 3, 4][: len(listed)]
    assert 0 < len(listed) < 4
    assert problems(target) == []
    copy(world, target)
    assert numbers(target) == [1, 2, 3, 4]


def test_nothing_to_copy_lists_no_packs(world):
    """A copy that finds nothing new asks few things of either store: agents copy all day long."""
    target = MemoryStore()
    copy(world, target)
    faulty = FaultyStore(target)
    source = FaultyStore(world.store)
    world.use(source)
    copy(world, faulty)
    for store in (faulty, source):
        assert ("list", names.PACKS) not in store.calls
        assert len(store.calls) <= 20


def test_another_repository_is_refused_before_a_byte(world):
    """A place with another repository stays as it is."""
    target = MemoryStore()
    Repository.create(target, PASSPHRASE, stretching=FAST)
    before = keys_of(target)
    with pytest.raises(MirrorForeign):
        copy(world, target)
    assert keys_of(target) == before


def test_no_mirror_is_made_unless_asked(world):
    """Without the word for it nothing is written to an empty place: its disk may be missing."""
    target = MemoryStore()
    with pytest.raises(RepositoryMissing):
        copy(world, target, create=False)
    assert keys_of(target) == []


def test_a_dry_run_writes_nothing(world):
    """A dry run says what a copy would do."""
    target = MemoryStore()
    result = copy(world, target, dry_run=True)
    assert keys_of(target) == []
    done = copy(world, target)
    assert (result.versions, result.pack_count, result.size_bytes) == (done.versions, done.pack_count, done.size_bytes)


def test_whatever_is_listed_restores_wherever_the_copier_is_killed(world):
    """After each call of the mirror's store all that it lists restores, and the next copy ends what was begun."""
    whole = FaultyStore(MemoryStore())
    copy(world, whole)
    for nth in range(1, len(whole.calls) + 1):
        for kind in ("die-before", "die-after"):
            target = MemoryStore()
            # A listing that is not read to its end does not die after it.
            with suppress(ProcessDied):
                copy(world, FaultyStore(target, Fault(kind, nth)))
            if not Repository.exists(target):
                assert keys_of(target, names.VERSIONS) == []
                continue
            repository = Repository.open(target, PASSPHRASE)
            for number in repository.numbers(RUN):
                stored = repository.stored(RUN, number)
                with repository.reader() as reader:
                    for entry in repository.entries(stored):
                        for _ in reader.stream(entry.chunks):
                            pass
            copy(world, target)
            assert problems(target) == []
            assert numbers(target) == [1, 2, 3, 4]


def test_a_mirror_that_loses_small_objects_is_found_out(world):
    """What a store takes and does not have is no copy: each small object is read back before a version relies on it."""

    class Loses(FaultyStore):
        lost = ""

        def put(self, key, body):
            if not key.startswith(self.lost):
                super().put(key, body)

    for lost in (names.KEY_SLOTS, names.OMISSIONS, names.VERSIONS):
        target = MemoryStore()
        losing = Loses(target)
        losing.lost = lost
        try:
            result = copy(world, losing, versions={RUN: {3, 4}})
        except MirrorConflict:
            assert lost != names.VERSIONS
        else:
            assert len(result.conflicts) == 2
        assert keys_of(target, names.VERSIONS) == []
