"""Copies into another repository with another key: what comes along, what is named anew, and what is refused."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest

from compacting import compacted, delete_buried
from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from doubles.memory_store import MemoryStore
from doubles.recording_monitor import RecordingMonitor
from flow_parts import FAST, RUN, World, keys_of, noise
from mlsync.errors import RekeyRefused
from mlsync.mirror.account import CopyOptions
from mlsync.mirror.rekey import COPIED_FROM, copy_rekeyed
from mlsync.repository import names
from mlsync.repository.evaluation import Evaluation, Measure
from mlsync.repository.history.seen_decision import half
from mlsync.repository.keys.keyslot import KeyFile
from mlsync.repository.later_proof import LaterProof
from mlsync.repository.repository import Repository
from mlsync.upkeep.check import check
from mlsync.versions.proof_status import run_versions

NOW_NS = 4 * 10**18
THEIRS = KeyFile(bytes(range(32)))


@pytest.fixture
def world(tmp_path):
    """A run with three versions."""
    world = World(tmp_path)
    for number in (1, 2, 3):
        backup(world, number)
    yield world
    world.close()


def backup(world, number):
    """Make one more version, of which half is as before."""
    world.write("frozen.bin", noise(60_000, 99))
    world.write("log.txt", b"the same line\n" * 5_000)
    world.write("last.bin", noise(20_000, number))
    world.backup()


@pytest.fixture
def theirs():
    """Another team's repository."""
    return Repository.create(MemoryStore(), THEIRS, stretching=FAST)


def copy(world, target, **options):
    """Copy to another key."""
    chosen = CopyOptions(now_ns=NOW_NS, host="host", **options)
    return copy_rekeyed(world.repository, target, chosen, RecordingMonitor())


def problems(repository):
    """What a check of all data says."""
    found = check(Repository.open(repository.store, THEIRS), RecordingMonitor(), read_data=True)
    return [*found.problems, *found.unchecked, *found.oddities]


def files(repository, number):
    """What a version holds, without where it lies."""
    entries = repository.entries(repository.stored(RUN, number))
    with repository.reader() as reader:
        return [
            (msgspec.structs.replace(one, chunks=()), b"".join(map(bytes, reader.stream(one.chunks))))
            for one in entries
        ]


def test_versions_are_the_same_under_another_key(world, theirs):
    """Numbers, files and digests are those of the source; no name of a chunk or of the run is."""
    result = copy(world, theirs, verify=True)
    assert result.is_complete
    assert theirs.numbers(RUN) == [1, 2, 3]
    assert result.verified_bytes > 0
    assert problems(theirs) == []
    chunks = [set(), set()]
    for number in (1, 2, 3):
        assert files(theirs, number) == files(world.repository, number)
        for index, repository in enumerate((world.repository, theirs)):
            for entry in repository.entries(repository.stored(RUN, number)):
                chunks[index] |= {ref.name for ref in entry.chunks}
    assert len(chunks[0]) == len(chunks[1])
    assert not chunks[0] & chunks[1]
    assert not set(keys_of(world.store, names.VERSIONS)) & set(keys_of(theirs.store, names.VERSIONS))


def test_a_chunk_is_stored_once_and_no_longer_than_it_was(world, theirs):
    """What versions share is shared there too, also by a later copy, and compressed chunks stay as they were coded."""
    copy(world, theirs, versions={RUN: {1, 2}})
    before = len(keys_of(theirs.store, names.PACKS))
    copy(world, theirs)
    assert len(keys_of(theirs.store, names.PACKS)) > before
    own = sum(info.size_bytes for _, info in world.repository.packs())
    other = sum(info.size_bytes for _, info in theirs.packs())
    assert other <= own * 1.05
    assert problems(theirs) == []


def test_the_manifest_says_of_what_it_is_a_copy(world, theirs):
    """Repository and digest stand in it, and a note for people."""
    copy(world, theirs)
    root = theirs.stored(RUN, 2).root
    assert root.room[COPIED_FROM] == [
        world.repository.repository_id,
        half(world.repository.stored(RUN, 2).digest),
    ]
    assert any("copied from another repository" in note for note in root.notes)
    assert root.previous.digest == theirs.stored(RUN, 1).digest


def test_what_was_proved_and_measured_comes_along(world, theirs):
    """A version that a later proof calls broken is broken there, and an evaluation has its numbers."""
    stored = world.repository.stored(RUN, 2)
    world.repository.add_later_proof(LaterProof(RUN, 2, stored.digest, 5, "mlsync", "host", 0, "", 0, []))
    world.repository.add_evaluation(
        Evaluation(
            RUN, 2, stored.digest, 1, "mlsync", "host", "label", bytes(32), b"", "cpu", 1.0, [Measure("loss", 0.5)]
        )
    )
    copy(world, theirs)
    copied = theirs.stored(RUN, 2)
    (proof,) = theirs.later_proofs(copied).stored
    assert proof.proof.made_ns == 5
    assert [one.numbers[0].value for one in theirs.evaluations(copied)] == [0.5]
    assert len(run_versions(theirs, RUN).statuses) == 3
    assert problems(theirs) == []
    # The newest manifest names the proof: a store that drops it is found out.
    theirs.store.delete(proof.key)
    assert [problem.key for problem in problems(theirs)] == [proof.key]


def test_a_version_whose_proof_is_hidden_stays_away(world, theirs):
    """The proof may say that it is broken: it is not handed on as sound."""
    stored = world.repository.stored(RUN, 1)
    made = world.repository.add_later_proof(LaterProof(RUN, 1, stored.digest, 5, "mlsync", "host", 0, "", 0, []))
    backup(world, 4)
    world.store.delete(made.key)
    result = copy(world, theirs)
    assert [one.number for one in result.left_out] == [1]
    assert theirs.numbers(RUN) == [2, 3, 4]
    assert problems(theirs) == []


def test_it_goes_on_and_moved_chunks_are_found(world, theirs):
    """A second copy adds what is new, after a compaction at the source too."""
    copy(world, theirs)
    compacted(world.repository, choose=lambda _use: True)
    delete_buried(world.repository)
    backup(world, 4)
    result = copy(world, theirs)
    assert [number for _, number in result.versions] == [4]
    assert result.there_count == 3
    assert problems(theirs) == []
    assert files(theirs, 4) == files(world.repository, 4)


def test_the_same_repository_and_other_versions_are_refused(world, theirs):
    """Nothing is written where a run of that name has another history."""
    with pytest.raises(RekeyRefused):
        copy(world, world.repository)
    copy(world, theirs, versions={RUN: {2}})
    result = copy(world, theirs)
    assert [(one.number, "never comes between" in one.why) for one in result.left_out] == [(1, True)]
    key = theirs.version_key(RUN, 3)
    stranger = World(world.base / "stranger")
    backup(stranger, 7)
    with pytest.raises(RekeyRefused):
        copy(stranger, theirs)
    stranger.close()
    assert theirs.open_version(key)


def test_a_dry_run_and_a_kill_list_nothing_that_does_not_restore(world):
    """Killed at each call of the other store, what it lists restores, and the next copy ends it."""
    whole = FaultyStore(MemoryStore())
    target = Repository.create(whole, THEIRS, stretching=FAST)
    assert copy(world, target, dry_run=True).versions == [(RUN, 1), (RUN, 2), (RUN, 3)]
    assert keys_of(whole, names.PACKS) == []
    began = len(whole.calls)
    copy(world, target)
    for nth in range(1, len(whole.calls) - began + 1, 3):
        store = MemoryStore()
        made = Repository.create(store, THEIRS, stretching=FAST)
        dying = Repository(FaultyStore(store, Fault("die-after", nth)), made.keys)
        with suppress(ProcessDied):
            copy(world, dying)
        for number in made.numbers(RUN):
            assert files(made, number) == files(world.repository, number)
        copy(world, made)
        assert made.numbers(RUN) == [1, 2, 3]
        assert problems(made) == []
