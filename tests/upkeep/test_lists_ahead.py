"""Compaction reads lists of files ahead: several at once, each once, and what they say counts in order."""

from __future__ import annotations

import msgspec
import pytest

from doubles.meeting_store import MeetingStore
from doubles.recording_monitor import RecordingMonitor
from flow_parts import RUN, World, noise
from mlsync.errors import Damage
from mlsync.repository import names
from mlsync.repository.commit import commit
from mlsync.repository.encoding import segments
from mlsync.repository.manifest import Manifest, Previous
from mlsync.repository.repository import Repository
from mlsync.upkeep import lists_ahead
from mlsync.upkeep.compaction import look_at_all, releasable
from mlsync.upkeep.lists_ahead import with_entries

VERSIONS = 20
LISTS_AT_ONCE = 8


@pytest.fixture
def long(world, monkeypatch):
    """A run of many versions, each with its list of files in a pack of its own."""
    monkeypatch.setattr(segments, "INLINE_BYTES_MAX", 0)
    world.write("a.bin", noise(300, 1))
    world.backup()
    first = world.manifest(1)
    for number in range(2, VERSIONS + 1):
        previous = Previous(number - 1, world.repository.stored(RUN, number - 1).digest)
        commit(
            world.repository,
            Manifest(msgspec.structs.replace(first.root, number=number, previous=previous), first.entries),
            lambda _: None,
        )
    return world


def seen(world: World) -> tuple[Repository, MeetingStore]:
    """The repository through a store where reads of packs wait until some are under way."""
    store = MeetingStore(world.store, names.PACKS, LISTS_AT_ONCE, "read")
    return Repository(store, world.repository.keys), store


def list_packs(world: World) -> list[str]:
    """The packs of the versions' lists of files."""
    roots = [world.repository.stored(RUN, number).root for number in range(1, VERSIONS + 1)]
    return [names.pack(ref.pack) for root in roots for ref in segments.segment_refs(root, "")]


def test_a_plan_of_a_compaction_reads_several_lists_at_once_and_each_once(long):
    """What versions need is found with a list of files on its way for each lane."""
    repository, store = seen(long)
    monitor = RecordingMonitor()
    live, sizes, moved = look_at_all(repository, monitor)
    assert store.most == LISTS_AT_ONCE
    assert store.calls == dict.fromkeys(list_packs(long), 1)
    assert live.ordinals.keys() == sizes.keys()
    assert moved == set()


def test_before_packs_are_deleted_several_lists_are_read_at_once(long):
    """What the versions that are kept need is asked so too, and nothing that they need is let go."""
    repository, store = seen(long)
    versions = [repository.stored(RUN, number) for number in range(1, VERSIONS + 1)]
    sizes = {pack: info.size_bytes for pack, info in repository.packs()}
    assert releasable(repository, sizes, versions, sizes, RecordingMonitor()) == set()
    assert store.most == LISTS_AT_ONCE


def test_long_lists_are_read_one_by_one(long, monkeypatch):
    """So many files are in memory ahead and no more: the next list is begun once the last one was looked at."""
    monkeypatch.setattr(lists_ahead, "FILES_MAX", 1)
    repository = long.repository
    versions = [repository.stored(RUN, number) for number in range(1, VERSIONS + 1)]
    begun = []
    real = Repository.entries
    monkeypatch.setattr(Repository, "entries", lambda self, stored: begun.append(stored) or real(self, stored))
    for number, (stored, entries) in enumerate(with_entries(repository, versions), 1):
        assert len(begun) == number == stored.root.number
        assert len(entries) == 1


def test_a_list_that_cannot_be_read_stops_the_plan(long):
    """What it needs must not count as dead, so nothing is planned without it."""
    long.store.delete(list_packs(long)[11])
    with pytest.raises(Damage):
        look_at_all(long.repository, RecordingMonitor())
