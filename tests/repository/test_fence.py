"""Fences under numbers of versions, tombstones and registrations: what opens, what does not, and who sees them."""

from __future__ import annotations

import os

import msgspec
import pytest
from format_parts import digest_of, file_entry, new_repository, unknown, version

from doubles.recording_monitor import RecordingMonitor
from mlsync.codec.digest import object_digest
from mlsync.codec.keys import Keys
from mlsync.errors import FormatUnsupported, ManifestDamaged, NotFound, VersionMissing, VersionTaken
from mlsync.repository import names, sealed_object
from mlsync.repository.commit import commit
from mlsync.repository.history import fence, tombstone
from mlsync.repository.history.fence import FENCE_BYTES, Fence
from mlsync.repository.history.tombstone import Registration, Tombstone
from mlsync.repository.listing import newest_keys, run_names, runs
from mlsync.repository.manifest import Previous
from mlsync.repository.readable import newest_readable, report_skipped
from mlsync.versions.select import find_version

ENTRIES = (file_entry(b"a", digest=digest_of()),)


def fenced(repository, number, run="run"):
    """Put a fence in the place of a version, or where there is none."""
    key = repository.version_key(run, number)
    repository.store.replace(key, fence.make(repository.keys, key, Fence(number)))
    return key


@pytest.fixture
def history():
    """Versions 1 to 5 of a run, of which 2 and 4 were removed, and fences at 6 and 7."""
    repository, previous = new_repository(), None
    for number in range(1, 6):
        committed = commit(repository, version(ENTRIES, number, previous), unknown)
        previous = Previous(number, committed.digest)
    for number in (2, 4, 6, 7):
        fenced(repository, number)
    return repository


def test_every_fence_has_the_same_length():
    """Whatever a fence says it has 96 bytes: nothing in it is compressed."""
    keys = Keys(os.urandom(32), bytes(16))
    for said in (Fence(0), Fence(-(1 << 63)), Fence(1, b"\xff" * 16)):
        body = fence.make(keys, "versions/a", said)
        assert len(body) == FENCE_BYTES == 96
        assert fence.open_(keys, "versions/a", body) == said


def test_no_manifest_has_the_length_of_a_fence():
    """The smallest root that any reader takes is longer, although it compresses as well as a root can."""
    repository = new_repository()
    empty = version((), 1, run="")
    root = msgspec.structs.replace(empty.root, writer="", host="", directory=b"", notes=(), created_ns=0)
    plain = msgspec.msgpack.encode(root)
    same = plain.replace(root.origin.id, bytes(len(root.origin.id)))
    for body in (plain, same):
        assert len(sealed_object.seal(repository.keys, sealed_object.MANIFEST, "versions/x", body)) > FENCE_BYTES


@pytest.mark.parametrize("change", ["a bit", "the key", "the master key", "one byte less", "reserved", "compressed"])
def test_what_is_no_fence_does_not_open(change):
    """A changed fence, one of another place, and one that no writer makes are refused."""
    keys, key = Keys(bytes(32), bytes(16)), "versions/a"
    body = fence.make(keys, key, Fence(7))
    if change == "a bit":
        body = bytes([*body[:-1], body[-1] ^ 1])
    elif change == "the key":
        key = "versions/b"
    elif change == "the master key":
        keys = Keys(b"\1" * 32, bytes(16))
    elif change == "one byte less":
        body = sealed_object.seal(keys, sealed_object.FENCE, key, bytes(27))
    elif change == "reserved":
        body = sealed_object.seal(keys, sealed_object.FENCE, key, bytes(27) + b"\1")
    else:
        kind = sealed_object.SealedKind(sealed_object.FENCE.magic, "fence", "fence")
        body = sealed_object.seal(keys, kind, key, bytes(1000))
        assert body[11] == 1
        with pytest.raises(FormatUnsupported):
            fence.open_(keys, key, body)
        return
    with pytest.raises(ManifestDamaged):
        fence.open_(keys, key, body)


def test_readers_pass_over_fences_in_silence(history):
    """Fences are in no list of versions, cost no read, and nobody is told of them."""
    monitor = RecordingMonitor()
    assert history.numbers("run") == [1, 3, 5]
    assert [run.numbers for run in runs(history)] == [(1, 3, 5)]
    assert list(run_names(history)) == ["run"]
    assert newest_keys(history, 9) == [history.version_key("run", 5)]
    assert newest_readable(history, "run").root.number == 5
    assert find_version(history, "run", "2999-01-01").root.number == 5
    report_skipped(history, monitor)
    assert (history.skipped, monitor.notices) == ({}, [])


def test_a_run_of_fences_alone_has_no_version():
    """A run whose only objects are fences is no run yet."""
    repository = new_repository()
    fenced(repository, 1)
    assert (list(run_names(repository)), runs(repository), repository.has_versions("run")) == ([], [], False)
    assert newest_readable(repository, "run") is None


def test_a_fenced_version_is_missing_and_not_damaged(history):
    """Who asks for its number is told that there is no such version."""
    with pytest.raises(VersionMissing):
        history.stored("run", 2)
    with pytest.raises(NotFound):
        history.open_version(history.version_key("run", 2))


def test_other_bytes_of_that_length_are_damage(history):
    """What has the length of a fence and does not open as one is damage to whoever asks for that version."""
    key = history.version_key("run", 3)
    history.store.replace(key, bytes(FENCE_BYTES))
    with pytest.raises(ManifestDamaged):
        history.stored("run", 3)
    assert not history.is_fenced(key)


def test_a_commit_under_a_fenced_number_says_so(history):
    """The creation fails, and the error tells a fence from a version and from what was planted."""
    with pytest.raises(VersionTaken) as raised:
        commit(history, version(ENTRIES, 6), unknown)
    assert (raised.value.is_fenced, raised.value.is_planted) == (True, False)
    history.store.replace(history.version_key("run", 7), bytes(FENCE_BYTES))
    with pytest.raises(VersionTaken) as raised:
        commit(history, version(ENTRIES, 7), unknown)
    assert (raised.value.is_fenced, raised.value.is_planted) == (False, True)


def test_a_commit_looks_right_before_it_creates():
    """The look comes after the registration, and what it raises leaves no manifest."""
    repository = new_repository()
    seen = []

    def look(refs, packs):
        seen.append((list(refs), list(packs), [info.key for info in repository.store.list("runs/")]))
        raise VersionMissing("not now")

    with pytest.raises(VersionMissing):
        commit(repository, version(ENTRIES), unknown, look=look)
    run_id = names.parse_version(repository.version_key("run", 1))[0]
    assert seen == [([], [], [names.registration(run_id)])]
    assert repository.numbers("run") == []


def test_only_a_first_version_registers_its_run(history):
    """A run that has a version is known by it."""
    before = [info.key for info in history.store.list("runs/")]
    digest = history.stored("run", 5).digest
    commit(history, version(ENTRIES, 8, Previous(5, digest)), unknown)
    commit(history, version(ENTRIES, 1, run="other"), unknown)
    assert len(before) == 1
    assert len(list(history.store.list("runs/"))) == 2


def test_a_tombstone_says_when_it_was_made():
    """What is sealed comes back, and is bound to the name of its pack."""
    keys, key = Keys(bytes(32), bytes(16)), names.tombstone(bytes(16))
    body = tombstone.make_tombstone(keys, key, Tombstone(5, "mlsync 1"))
    assert tombstone.open_tombstone(keys, key, body) == Tombstone(5, "mlsync 1")
    with pytest.raises(ManifestDamaged):
        tombstone.open_tombstone(keys, names.tombstone(b"x" * 16), body)


def test_a_tombstone_out_of_bounds_is_refused():
    """A time that no clock shows, and a room that no writer makes, are damage; a name with ! is a newer mlsync's."""
    keys, key = Keys(bytes(32), bytes(16)), names.tombstone(bytes(16))
    for said in (Tombstone(1 << 63, "w"), Tombstone(1, "w", {}), Tombstone(1, "w", {"": 1})):
        with pytest.raises(ManifestDamaged):
            tombstone.open_tombstone(keys, key, tombstone.make_tombstone(keys, key, said))
    said = Tombstone(1, "w", {"!x": 1})
    with pytest.raises(FormatUnsupported):
        tombstone.open_tombstone(keys, key, tombstone.make_tombstone(keys, key, said))


def test_a_registration_is_of_the_run_that_its_name_says():
    """The run's name in it has to give the id in its key."""
    keys, key = Keys(bytes(32), bytes(16)), names.registration(bytes(16))
    body = tombstone.make_registration(keys, key, Registration("run", 5, "w"))
    assert tombstone.open_registration(keys, key, body, lambda run: run == "run").run == "run"
    with pytest.raises(ManifestDamaged, match="another run"):
        tombstone.open_registration(keys, key, body, lambda run: run == "other")


def test_a_fence_tells_what_it_took_the_place_of(history):
    """The first half of the removed manifest's digest is in it."""
    key = history.version_key("run", 1)
    digest = object_digest(history.store.get(key, limit_bytes=1 << 20))
    history.store.replace(key, fence.make(history.keys, key, Fence(1, digest[:16])))
    assert fence.read(history.store, history.keys, key).removed == digest[:16]
