"""Uploads that are cut off: the next backup sends what was not sent, and what nobody finishes is dropped."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest

from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from doubles.memory_store import MemoryStore
from flow_parts import World, noise
from mlsync import errors
from mlsync.backup import new_version
from mlsync.backup.storing.uploads import DROP_EVERY_S, STALE_AGE_S
from mlsync.repository.repository import Repository
from mlsync.repository.writer import PackWriter
from mlsync.store.counting import CountingStore

pytestmark = pytest.mark.slow

PART_BYTES = 1 << 20
SIZE_BYTES = 20 << 20
# Twenty megabytes keep three lanes busy; each loses the part that it was sending, and makes one footer more.
LOST_BYTES_MAX = 3 * (PART_BYTES + 20_000)
NOW_NS = 1_800_000_000_000_000_000


@pytest.fixture(autouse=True)
def the_dead_say_nothing(monkeypatch):
    """A process that is killed does not write down where it was, as one does that is stopped or meets an error."""
    keep_progress = new_version._keep_progress

    def unless_dead(job, writer, error):
        if isinstance(error, ProcessDied):
            writer.abort()  # for the threads' sake
        else:
            keep_progress(job, writer, error)

    monkeypatch.setattr(new_version, "_keep_progress", unless_dead)


@pytest.fixture
def world(tmp_path):
    """A run with one large file, and a store that takes parts of a megabyte."""
    world = World(tmp_path, MemoryStore(PART_BYTES))
    world.write("data.bin", noise(SIZE_BYTES))
    yield world
    world.close()


def backup_through(world, *faults):
    """Back up through a store with these faults, as a process of its own; return how many bytes the store took."""
    counting = CountingStore(world.store)
    world.use(FaultyStore(counting, *faults))
    with suppress(ProcessDied, errors.StoreUnavailable):
        world.backup()
    world.use(world.store)
    return counting.written_bytes


def notes_of(world):
    """The notes of uploads that there are."""
    walk = os.walk(world.state_path.parent / "uploads")
    return [name for _, _, names in walk for name in names if name != "swept"]


@pytest.mark.parametrize("kind", ["die-before", "die-after", "before", "after"])
@pytest.mark.parametrize("nth", [1, 2, 7, 12, 19])
def test_what_was_sent_is_not_sent_again(world, kind, nth):
    """A backup that died, or lost its store, costs the next one at most the parts that were under way."""
    first_bytes = backup_through(world, Fault(kind, nth, "upload.write", lasts=True, is_transient=False))
    assert world.numbers() == []
    # One that was killed before the answer to its first part came is nobody's: remove_stale_uploads takes it.
    unnoted = [parts for parts in world.store.uploads.values() if parts.key.rpartition("/")[2] not in notes_of(world)]
    assert len(unnoted) <= 3
    second_bytes = backup_through(world)
    assert world.numbers() == [1]
    assert first_bytes + second_bytes <= SIZE_BYTES + LOST_BYTES_MAX
    assert world.restored(1) == world.tree()
    assert world.check().problems == []
    assert list(world.store.uploads.values()) == unnoted
    told = [text for _, text in world.monitor.notices if "need not be sent again" in text]
    assert len(told) == 1 if nth >= 12 else len(told) <= 1
    assert notes_of(world) == []


def test_an_upload_that_may_not_be_listed_is_sent_anew_and_the_right_is_named(world):
    """Where the parts of an upload may not be listed, a backup after a kill sends it anew and says what is missing."""
    backup_through(world, Fault("die-after", 7, "upload.write", lasts=True))
    error = errors.NotFound("the upload cannot be resumed", advice="allow s3:ListMultipartUploadParts")
    world.use(FaultyStore(world.store, Fault("before", method="resume", lasts=True, error=error, is_transient=False)))
    assert world.backup().version == 1
    told = [text for severity, text in world.monitor.notices if severity == "warning"]
    assert told
    assert all("sent anew" in text and "s3:ListMultipartUploadParts" in text for text in told)
    assert notes_of(world) == []


def test_a_backup_may_die_again_and_again(world):
    """Each of many short lives brings the upload forward, and all of them together send little more than one would."""
    sent_bytes, lives = 0, 0
    while not world.numbers():
        sent_bytes += backup_through(world, Fault("die-after", 6, "upload.write"))
        lives += 1
        assert lives < 40
    assert lives > 3
    assert sent_bytes <= SIZE_BYTES + lives * LOST_BYTES_MAX
    assert world.restored(1) == world.tree()


def test_packs_that_are_durable_are_known_to_whoever_comes_after_a_kill(world, monkeypatch):
    """What is durable is remembered while the rest is still being read: without a word at the end."""
    # More than there are buffers for, so that the reading goes on until the end.
    size_bytes, pack_bytes = 60 << 20, 2 << 20
    world.write("data.bin", noise(size_bytes))

    def without_notes(self, known, **_options):
        return PackWriter(self.store, self.keys, known, pack_bytes=pack_bytes, lanes=1)

    monkeypatch.setattr(Repository, "writer", without_notes)
    first_bytes = backup_through(world, Fault("die-after", 30, "upload.write", lasts=True))
    second_bytes = backup_through(world)
    assert world.numbers() == [1]
    # Beside the pack that was under way, what came between two pieces of the file.
    assert first_bytes + second_bytes <= size_bytes + 4 * pack_bytes
    assert second_bytes < size_bytes - first_bytes // 2


def test_lost_notes_cost_bytes_and_nothing_else(world):
    """Without the local state all is sent again, and the orphan is swept away days later."""
    backup_through(world, Fault("die-after", 12, "upload.write"))
    assert world.store.uploads
    world.lose_state()
    backup_through(world)
    assert world.restored(1) == world.tree()
    assert world.store.uploads
    for upload in world.store.uploads.values():
        upload.begun_s -= STALE_AGE_S + 60
    world.write("more.bin", b"more")
    world.backup(now_ns=lambda: NOW_NS)
    assert world.store.uploads == {}
    assert any("dropped what was left" in text for _, text in world.monitor.notices)


def test_uploads_are_looked_for_once_a_day(world):
    """The listing of uploads is one call a day, and only of backups that have something to store."""
    for number, (seconds, calls) in enumerate([(0, 1), (60, 0), (DROP_EVERY_S - 1, 0), (DROP_EVERY_S, 1), (1, 1)]):
        world.write("log", noise(1000, number))
        counting = CountingStore(world.store)
        world.use(counting)
        world.backup(now_ns=lambda seconds=seconds: NOW_NS + int(seconds * 1e9))
        assert counting.calls.get("remove_stale_uploads", 0) == calls, number


def test_who_may_not_list_uploads_can_back_up(world):
    """A right that is missing for tidying up is told, and is no reason to keep nothing."""
    world.use(
        FaultyStore(
            world.store, Fault("before", 1, "remove_stale_uploads", error=errors.StoreDenied("no"), is_transient=False)
        )
    )
    assert world.backup().version == 1
    assert any("could not be looked for" in text for _, text in world.monitor.notices)
