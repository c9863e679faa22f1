"""Shares of what is to be proved: together all of it, none of it twice, whoever looks when."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow_parts import RUN, World, noise, small_checkpoint
from mlsync.backup.backup import backup
from mlsync.backup.request import BackupOptions, Source
from mlsync.errors import ObjectMissing
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proving.prove_later import LaterProver
from mlsync.proving.shares import Division, Share
from mlsync.repository.encoding.segments import segment_refs
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry
from mlsync.repository.names import pack as pack_key
from mlsync.values import Proof
from mlsync.versions.proof_status import proof_statuses

UNPROVED = Proof(0, "", "", "", 0, 0.0, 0, 0, {}, [])


def file(content, size_bytes):
    """A checkpoint's entry; files of the same *content* have it in common."""
    digest = content.to_bytes(16)
    return Entry(b"%d.pt" % content, EntryKind.FILE, 0o644, 0, 0, 0, size_bytes, digest=digest, proof=UNPROVED)


def sizes(division, files, count):
    """How many bytes of *files* each share has."""
    found = Counter()
    for one in {one.digest: one for one in files}.values():
        found[division.number_of(one)] += one.size_bytes
    assert set(found) <= set(range(1, count + 1))
    return [found[number] for number in range(1, count + 1)]


# What each of some versions brings, by the sizes of its files.
VERSIONS = st.lists(st.lists(st.integers(0, 9), max_size=9), min_size=1, max_size=6)


@given(versions=VERSIONS, count=st.integers(1, 5), seen=st.integers(0, 6))
@settings(max_examples=150, deadline=None)
def test_who_looks_earlier_comes_to_the_same(versions, count, seen):
    """Of versions that both saw, one that saw fewer of the later ones deals every content to the same share."""
    dealt = [
        [file(10 * number + place, size) for place, size in enumerate(found)] for number, found in enumerate(versions)
    ]
    whole, part = Division(count), Division(count)
    for files in dealt:
        whole.deal(files)
    for files in dealt[:seen]:
        part.deal(reversed(files))
    for one in (one for files in dealt[:seen] for one in files):
        assert part.number_of(one) == whole.number_of(one) is not None


@given(versions=VERSIONS, count=st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_shares_have_the_same_bytes_but_for_one_file(versions, count):
    """Of each version, and of all together, no share has more than another by more than the largest file."""
    division, so_far = Division(count), []
    for number, found in enumerate(versions):
        files = [file(10 * number + place, size) for place, size in enumerate(found)]
        division.deal(files)
        so_far += files
        for dealt in (files, so_far):
            shared = sizes(division, dealt, count)
            assert max(shared) - min(shared) <= max((one.size_bytes for one in dealt), default=0)


def test_files_are_dealt_by_bytes():
    """One large file stands against many small ones."""
    files = [file(0, 100), *(file(number, 10) for number in range(1, 11))]
    division = Division(2)
    division.deal(files)
    assert sizes(division, files, 2) == [100, 100]


def test_a_content_is_of_one_share():
    """Files of the same content go to one share, also if a later version has them at another path."""
    division = Division(2)
    division.deal([file(1, 10), file(2, 10), file(1, 10)])
    before = division.number_of(file(1, 10))
    assert sizes(division, [file(1, 10), file(2, 10)], 2) == [10, 10]
    division.deal([file(1, 10), *(file(number, 99) for number in range(3, 9))])
    assert division.number_of(file(1, 10)) == before


def test_versions_of_one_checkpoint_each_are_dealt_in_turn():
    """Ten versions that bring one file each are five for each of two shares."""
    division = Division(2)
    files = [file(number, 10) for number in range(10)]
    for one in files:
        division.deal([one])
    assert sizes(division, files, 2) == [50, 50]


def test_runs_of_one_checkpoint_each_are_not_all_of_the_first_share():
    """Which share the first checkpoint of a run is dealt to depends on the checkpoint."""
    first = set()
    for number in range(40):
        division = Division(4)
        one = file(number * 0x1234567_89ABCDEF_01234567, 10)
        division.deal([one])
        first.add(division.number_of(one))
    assert first == {1, 2, 3, 4}


# ---------------------------------------------------------------- of a repository


class Rank:
    """A process that proves its share, a version at a time; it first looks when it is first asked to go on."""

    def __init__(self, world, share):
        self.world = world
        self.later = LaterProver(world.repository, CountingProver(), world.monitor, share=share)
        self.left = self.later.lacking(RUN)
        self.seen = None
        self.judged = set()

    def go_on(self):
        """Prove what is its own of one version more; say whether there was one."""
        if self.seen is None:
            self.seen = set(self.world.numbers())
        stored = next(self.left, None)
        if stored is not None:
            digests = {entry.path: entry.digest for entry in self.world.repository.entries(stored)}
            self.judged |= {digests[path] for path in self.later.pending(stored).verdicts}
        return stored is not None

    @property
    def proved_count(self):
        """How many files were read and proved."""
        return self.later._prover.count


class CountingProver(Prover):
    """Proves to level 2, which needs no device, and counts."""

    def __init__(self):
        super().__init__(ProofOptions(device="none"))
        self.count = 0

    def prove(self, source, path, metadata=None):
        """Count and prove."""
        self.count += 1
        return super().prove(source, path, metadata)


def commit(world, contents):
    """Make a version that has these checkpoints, none of which is proved."""
    for place, content in enumerate(contents):
        world.write(f"{place}.pt", small_checkpoint(content))
    world.write("log.txt", noise(9, len(world.numbers())))
    return world.backup(read_back="none").version


CONTENTS = st.lists(st.integers(0, 5), min_size=1, max_size=4)
# Which rank goes on, or what a new version has.
STEPS = st.lists(st.one_of(st.integers(0, 2), CONTENTS), max_size=12)


@given(before=st.lists(CONTENTS, min_size=1, max_size=3), steps=STEPS, count=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_shares_are_all_that_is_pending(before, steps, count):
    """Whenever each begins, and whatever is proved and committed meanwhile: nothing is left, nothing is read twice."""
    with tempfile.TemporaryDirectory(prefix="mlsync-test-") as name:
        world = World(Path(name))
        for contents in before:
            commit(world, contents)
        ranks = [Rank(world, Share(number, count)) for number in range(1, count + 1)]
        for step in steps:
            if isinstance(step, list):
                commit(world, step)
            else:
                ranks[step % count].go_on()
        for rank in ranks:
            while rank.go_on():
                pass
            rank.later.__exit__(None, None, None)
        owners = defaultdict(list)
        for rank in ranks:
            for digest in rank.judged:
                owners[digest].append(rank)
        assert all(len(found) == 1 for found in owners.values())
        assert sum(rank.proved_count for rank in ranks) == len(owners)
        seen_by_all = set.intersection(*(rank.seen for rank in ranks))
        pending = {status.root.number for status in proof_statuses(world.repository, RUN) if status.is_pending}
        assert not pending & seen_by_all
        world.close()


def test_a_share_that_was_killed_is_proved_by_the_next_run(world):
    """What one process did not come to stays pending; when all are started again only that is read."""
    commit(world, range(6))
    Rank(world, Share(1, 2)).go_on()
    assert proof_statuses(world.repository, RUN)[0].is_pending
    again = [Rank(world, Share(number, 2)) for number in (1, 2)]
    for rank in again:
        rank.go_on()
    assert [rank.proved_count for rank in again] == [0, 3]
    assert not proof_statuses(world.repository, RUN)[0].is_pending


def test_another_number_of_shares_takes_over(world):
    """What two of three left is proved by one of one, and by two of two."""
    commit(world, range(6))
    Rank(world, Share(2, 3)).go_on()
    counts = []
    for number in (1, 2):
        rank = Rank(world, Share(number, 2))
        rank.go_on()
        counts.append(rank.proved_count)
    assert sum(counts) == 4
    assert not proof_statuses(world.repository, RUN)[0].is_pending


def test_a_share_that_has_nothing_looks_at_no_version(world):
    """Of one checkpoint one share has all, and the others are told of no version."""
    commit(world, [1])
    ranks = [Rank(world, Share(number, 3)) for number in (1, 2, 3)]
    assert sorted(rank.go_on() for rank in ranks) == [False, False, True]


@pytest.mark.parametrize("second", range(1, 5))
def test_what_was_proved_meanwhile_moves_nothing(world, second):
    """A version that was proved before a share begins still counts for whose the checkpoints of later ones are."""
    commit(world, [0])
    commit(world, [0, second])
    ranks = [Rank(world, Share(number, 2)) for number in (1, 2)]
    # First the one that has all of the first version, which nobody has to prove then.
    ranks.sort(key=lambda rank: len(list(rank.later.lacking(RUN))), reverse=True)
    for rank in ranks:
        while rank.go_on():
            pass
    assert [rank.proved_count for rank in ranks] == [1, 1]
    assert not any(status.is_pending for status in proof_statuses(world.repository, RUN))


@pytest.mark.parametrize("read_back", ["new", "none"])
def test_a_version_is_proved_anew_in_shares(world, read_back):
    """Of a version that is named all checkpoints are proved, whatever they were proved to, each by one share."""
    for place in range(5):
        world.write(f"{place}.pt", small_checkpoint(place))
    number = world.backup(read_back=read_back).version
    stored = world.repository.stored(RUN, number)
    judged = [set(Rank(world, Share(place, 2)).later.anew(stored).verdicts) for place in (1, 2)]
    assert sorted(map(len, judged)) == [2, 3]
    assert set.union(*judged) == {b"%d.pt" % place for place in range(5)}


def test_a_run_that_comes_up_changes_nothing_of_another(world):
    """Runs are divided apart: one that two shares begin without is there when the third begins, and all are proved."""
    commit(world, range(5))
    ranks = [Rank(world, Share(number, 3)) for number in (1, 2, 3)]
    ranks[0].go_on()
    ranks[1].go_on()
    other = Source("a run before the first", bytes(world.directory))
    options = BackupOptions(required_level=2, read_back="none", uploads=world.base / "uploads")
    backup(world.repository, world.state, other, CountingProver, options, world.monitor)
    for found in ranks[2].later.lacking(other.run):
        ranks[2].later.pending(found)
    ranks[2].go_on()
    assert not proof_statuses(world.repository, RUN)[0].is_pending
    assert proof_statuses(world.repository, other.run)[0].is_pending


def test_a_list_of_files_that_is_gone_is_told_by_every_share(world):
    """It keeps no other version from being proved, and whoever proves any share runs into it."""
    names = [f"many/{number:0>150}" for number in range(600)]
    for name in names:
        world.write(name, b"x")
    damaged = commit(world, [1])
    body_pack = segment_refs(world.repository.stored(RUN, damaged).root, "")[0].pack
    shutil.rmtree(world.path("many"))
    number = commit(world, [2, 3, 4])
    world.store.delete(pack_key(body_pack))
    for place in (1, 2):
        rank = Rank(world, Share(place, 2))
        assert rank.go_on()
        with pytest.raises(ObjectMissing):
            rank.go_on()
    pending = [status.root.number for status in proof_statuses(world.repository, RUN) if status.is_pending]
    assert (pending, number) == ([damaged], damaged + 1)
