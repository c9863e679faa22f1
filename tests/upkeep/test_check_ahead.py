"""Check and repair read versions ahead: several at once, each once, and they tell what they find as if one by one."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from doubles.meeting_store import MeetingStore
from doubles.recording_monitor import RecordingMonitor
from flow_parts import RUN, World, noise
from mlsync.repository import ahead, names
from mlsync.repository.commit import commit
from mlsync.repository.manifest import Manifest, Previous
from mlsync.repository.repository import Repository
from mlsync.upkeep.check import check
from mlsync.upkeep.repair import plan

VERSIONS = 24


class Long:
    """A run of many versions, opened through a store that shows what is read at once."""

    def __init__(self, world: World) -> None:
        world.write("a.bin", noise(300, 1))
        world.backup()
        self.repository = world.repository
        self.store = world.store
        first = world.manifest(1)
        for number in range(2, VERSIONS + 1):
            previous = Previous(number - 1, self.repository.stored(RUN, number - 1).digest)
            root = msgspec.structs.replace(first.root, number=number, previous=previous)
            commit(self.repository, Manifest(root, first.entries), lambda _: None)

    def key(self, number: int) -> str:
        """The name of a version's manifest."""
        return self.repository.version_key(RUN, number)

    def damage(self, number: int) -> None:
        """Change a byte of a manifest."""
        body = bytearray(self.store.get(self.key(number), limit_bytes=1 << 20))
        body[-1] ^= 1
        self.store.replace(self.key(number), bytes(body))

    def seen(self, prefix: str = names.VERSIONS, count: int = 8) -> tuple[Repository, MeetingStore]:
        """The repository through a store where reads of a kind wait until so many are under way."""
        store = MeetingStore(self.store, prefix, count)
        return Repository(store, self.repository.keys), store


@pytest.fixture
def long(world):
    """A run of many versions."""
    return Long(world)


def test_a_check_reads_several_manifests_at_once_and_each_once(long):
    """Manifests are read ahead, and none is read twice."""
    repository, store = long.seen()
    assert check(repository, RecordingMonitor()).problems == []
    assert store.most == 8
    assert store.calls == Counter(long.key(number) for number in range(1, VERSIONS + 1))


def test_a_repair_compares_several_manifests_with_their_copies_at_once(long):
    """A plan reads copies ahead, each once."""
    repository, store = long.seen(names.COPIES)
    assert list(plan(repository, RecordingMonitor(), header_fault=None, rebuild=False)) == []
    assert store.most == 8
    assert sorted(store.calls.values()) == [1] * VERSIONS


def test_what_is_wrong_is_told_in_the_order_of_versions(long):
    """Versions that do not open, are gone or follow another one come in one order, however fast their reads were."""
    found = []
    long.damage(3)
    long.damage(17)
    long.store.delete(long.key(20))
    long.store.delete(long.key(23))
    for at_once in (1, ahead.AT_ONCE):
        repository, _ = long.seen(count=at_once)
        result = check(repository, RecordingMonitor())
        found.append([(problem.key, problem.text, problem.versions) for problem in result.problems])
    assert found[0] == found[1]
    assert [key for key, _, _ in found[0]] == [long.key(number) for number in (3, 17, 20, 23)]


def test_a_second_pass_over_all_versions_reads_ahead_too(long):
    """Which versions a lost pack affects is found with several reads at once."""
    manifest = long.repository.manifest(long.repository.stored(RUN, 9))
    (lost,) = {ref.pack for entry in manifest.entries for ref in entry.chunks}
    long.store.delete(names.pack(lost))
    repository, store = long.seen(count=2)
    result = check(repository, RecordingMonitor())
    assert [problem.versions for problem in result.problems] == [tuple((RUN, one) for one in range(1, VERSIONS + 1))]
    assert set(store.calls.values()) == {2}
