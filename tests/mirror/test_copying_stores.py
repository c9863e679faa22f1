"""Copies between real stores: by the server, by the kernel, or through this process, and what if one refuses."""

from __future__ import annotations

import os

import pytest

from doubles.recording_monitor import RecordingMonitor
from flow_parts import PASSPHRASE, RUN, World, noise
from mlsync.errors import StoreBroken
from mlsync.mirror.account import CopyOptions
from mlsync.mirror.copying import copy_versions
from mlsync.repository import names
from mlsync.repository.repository import Repository
from mlsync.store.counting import CountingStore
from mlsync.store.location import open_store
from mlsync.store.options import StoreOptions
from mlsync.store.retry import RetryingStore
from mlsync.store.s3 import store as s3
from mlsync.upkeep.check import check

NOW_NS = 4 * 10**18


def filled(base, store):
    """Three versions in a store; one needs a pack of several parts."""
    world = World(base, store)
    world.write("large.bin", noise(9 << 20, 7))
    world.backup()
    for number in (1, 2):
        world.write("last.bin", noise(30_000, number))
        world.backup()
    return world


def copy(world, target, **options):
    """Copy, and return the result and the calls of the mirror's store."""
    counted = CountingStore(RetryingStore(target))
    chosen = CopyOptions(now_ns=NOW_NS, host="host", create=True, **options)
    return copy_versions(world.repository, counted, chosen, RecordingMonitor()), counted.calls


def is_sound(target):
    """Whether a mirror that is opened anew passes a check of all data."""
    repository = Repository.open(target, PASSPHRASE)
    found = check(repository, RecordingMonitor(), read_data=True)
    assert (found.problems, found.unchecked, found.oddities) == ([], [], [])
    return repository.numbers(RUN) == [1, 2, 3]


@pytest.fixture
def here(tmp_path):
    """A repository in a directory."""
    world = filled(tmp_path, open_store(str(tmp_path / "repo"), StoreOptions(), create=True))
    yield world
    world.close()


def test_directories_are_copied_by_the_kernel(here, tmp_path):
    """No pack is read or written by this process."""
    target = open_store(str(tmp_path / "mirror"), StoreOptions(), create=True)
    result, calls = copy(here, target)
    assert result.server_side_bytes == result.size_bytes > 9 << 20
    assert calls["copy_from"] == result.pack_count
    assert "upload" not in calls
    assert is_sound(target)


def test_where_the_kernel_cannot_the_bytes_are_streamed(here, tmp_path, monkeypatch):
    """Between file systems that cannot, each pack is read and written in parts."""

    def refused(*_arguments):
        raise OSError(18, os.strerror(18))

    monkeypatch.setattr(os, "copy_file_range", refused)
    target = open_store(str(tmp_path / "mirror"), StoreOptions(), create=True)
    result, calls = copy(here, target)
    assert result.server_side_bytes == 0
    assert calls["upload.write"] >= 1 + result.pack_count
    assert is_sound(target)
    assert list((tmp_path / "mirror" / "tmp").iterdir()) == []


def test_a_directory_goes_to_a_bucket_and_on_to_another(here, s3_server):
    """Streamed to a bucket; from there the server copies by itself, small packs whole and large ones in parts."""
    options = StoreOptions(endpoint_url=s3_server.endpoint_url)
    first = open_store(f"s3://{s3_server.make_bucket()}/one", options)
    result, calls = copy(here, first, verify=True)
    assert (result.server_side_bytes, result.verified_bytes) == (0, result.size_bytes)
    assert calls["upload.write"] >= 1 + result.pack_count
    assert is_sound(first)
    for index, at_once_bytes in enumerate((s3.COPIED_AT_ONCE_BYTES, 5 << 20)):
        second = open_store(f"s3://{s3_server.make_bucket()}", options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(s3, "COPIED_AT_ONCE_BYTES", at_once_bytes)
            world = World(here.base / f"other-{index}", first, is_there=True)
            result, calls = copy(world, second)
            world.close()
        assert result.server_side_bytes == result.size_bytes
        assert "upload.write" not in calls
        assert is_sound(second)
        second.close()
    first.close()


def test_a_server_that_refuses_to_copy_is_asked_once(here, s3_server, monkeypatch):
    """If the mirror's user may not read the other bucket, all packs are streamed, after few refusals."""
    options = StoreOptions(endpoint_url=s3_server.endpoint_url)
    first = open_store(f"s3://{s3_server.make_bucket()}", options)
    copy(here, first)
    key, secret = s3_server.lacking["Read"]
    refused = open_store(f"s3://{s3_server.make_bucket()}", options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        other = open_store(first.url, options)
    call, asked = refused._client.call, []

    def as_another_user(operation, arguments):
        if operation in ("copy_object", "upload_part_copy"):
            asked.append(operation)
            return other._client.call(operation, arguments)
        return call(operation, arguments)

    monkeypatch.setattr(refused._client, "call", as_another_user)
    world = World(here.base / "other", first, is_there=True)
    result, _ = copy(world, refused)
    world.close()
    assert 1 <= len(asked) <= result.pack_count
    assert (result.is_complete, result.server_side_bytes) == (True, 0)
    assert is_sound(refused)
    for store in (first, refused, other):
        store.close()


def test_a_mirror_that_lies_lists_nothing_that_it_lacks(here, tmp_path):
    """If the mirror takes a pack and does not have it, or has a part, the version that needs it stays away."""
    inner = open_store(str(tmp_path / "mirror"), StoreOptions(), create=True)

    class Liar(CountingStore):
        def copy_from(self, source, key, size_bytes):
            done = super().copy_from(source, key, size_bytes)
            if size_bytes > 9 << 20:
                (tmp_path / "mirror" / key).unlink()
            else:
                os.truncate(tmp_path / "mirror" / key, size_bytes - 1)
            return done

    chosen = CopyOptions(now_ns=NOW_NS, host="host", create=True)
    result = copy_versions(here.repository, Liar(inner), chosen, RecordingMonitor())
    assert [one.number for one in result.left_out] == [1, 2, 3]
    assert list(inner.list(names.VERSIONS)) == []
    result, _ = copy(here, inner)
    # What is there with another size is named, and not overwritten.
    assert [one.number for one in result.left_out] == [1, 2, 3]
    assert result.conflicts
    assert all("another size" in conflict.why for conflict in result.conflicts)
    for conflict in result.conflicts:
        (tmp_path / "mirror" / conflict.key).unlink()
    result, _ = copy(here, inner)
    assert result.is_complete
    assert is_sound(inner)


def test_a_damaged_pack_stays_away_from_the_mirror(here, tmp_path, monkeypatch):
    """A pack that lost its end is no pack: its versions are named, the others go on."""
    monkeypatch.setattr(os, "copy_file_range", lambda *_arguments: (_ for _ in ()).throw(OSError(18, "no")))
    stored = here.repository.stored(RUN, 3)
    (pack,) = {ref.pack for entry in here.repository.entries(stored) for ref in entry.chunks} - {
        ref.pack for entry in here.repository.entries(here.repository.stored(RUN, 2)) for ref in entry.chunks
    }
    path = tmp_path / "repo" / names.pack(pack)
    path.write_bytes(path.read_bytes()[:-10])
    target = open_store(str(tmp_path / "mirror"), StoreOptions(), create=True)
    result, _ = copy(here, target)
    assert [one.number for one in result.left_out] == [3]
    assert [number for _, number in result.versions] == [1, 2]


def test_an_error_of_the_whole_store_ends_the_copy(here, tmp_path):
    """A store that gives impossible answers is no fault of one pack."""
    target = open_store(str(tmp_path / "mirror"), StoreOptions(), create=True)

    class Broken(CountingStore):
        def copy_from(self, source, key, size_bytes):
            raise StoreBroken("nonsense", where=key)

    with pytest.raises(StoreBroken):
        copy_versions(
            here.repository, Broken(target), CopyOptions(now_ns=NOW_NS, host="h", create=True), RecordingMonitor()
        )
    assert list(target.list(names.VERSIONS)) == []
