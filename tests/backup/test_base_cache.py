"""The base cache: what comes out of it is what went in, and nothing that is wrong with its files harms a backup."""

import os
import threading
import time

import pytest

from mlsync.backup.bases import cache
from mlsync.backup.bases.cache import SEGMENT_BYTES, BaseCache, delete, drop_stale, limit_of
from mlsync.codec.digest import chunk_name
from mlsync.codec.keys import Keys
from mlsync.codec.write_only import WriteOnlyKeys

KEYS = Keys(bytes(range(32)), b"repository id 16")
MIB = 1 << 20
ROOM = 64 * MIB


def named(plain, keys=KEYS):
    return chunk_name(keys.of("chunk name"), plain)


def base(number, size_bytes=MIB):
    return bytes([number % 256]) * size_bytes


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "state" / "bases" / "run"


def kept(directory, *plains, limit_bytes=ROOM, keys=KEYS):
    """Keep *plains* as one process would, and return the files."""
    one = BaseCache(directory, keys, limit_bytes)
    for plain in plains:
        one.keep(named(plain, keys), memoryview(plain))
    one.close()
    return sorted(directory.iterdir())


def read(directory, plain, keys=KEYS, name=None):
    """What a new process gets of a base; ``None`` if it is not to be had."""
    one = BaseCache(directory, keys, ROOM)
    into = memoryview(bytearray(len(plain)))
    found = one.read(name or named(plain, keys), into)
    one.close()
    return bytes(into) if found else None


def test_what_was_kept_comes_back_in_this_process_and_the_next(directory):
    """Bases of several lengths are read back as they were kept."""
    plains = [base(1), base(2, 65536), base(3, 4 * MIB)]
    kept(directory, *plains)
    assert [read(directory, plain) for plain in plains] == plains
    assert read(directory, base(4)) is None


def test_files_hold_no_plain_bytes_and_are_private(directory):
    """Nobody else may read the files, and who reads the disk finds no plaintext there."""
    (segment,) = kept(directory, b"weights " * 8192)
    assert b"weights " not in segment.read_bytes()
    assert segment.stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700


def test_no_two_entries_have_one_key_and_nonce(directory):
    """The same base in two segments, or twice under two names, is sealed to other bytes."""
    sealed = set()
    for _ in range(2):
        (segment,) = kept(directory, base(1))
        sealed.add(segment.read_bytes())
        segment.unlink()
    one = BaseCache(directory, KEYS, ROOM)
    for name in (b"1" * 32, b"2" * 32):
        one.keep(name, memoryview(base(1)))
    one.close()
    body = next(directory.iterdir()).read_bytes()
    sealed |= {body[36:][:100], body[36 + MIB + 16 + 36 :][:100]}
    assert len(sealed) == 4


@pytest.mark.parametrize("at", [0, 31, 32, 36, 5000, -1])
def test_a_changed_byte_makes_it_no_base(directory, at):
    """A base whose name, length, bytes or tag were changed is not to be had; it is forgotten, and may come again."""
    plain = base(1, 65536)
    (segment,) = kept(directory, plain)
    body = bytearray(segment.read_bytes())
    body[at] ^= 1
    segment.write_bytes(body)
    one = BaseCache(directory, KEYS, ROOM)
    into = memoryview(bytearray(len(plain)))
    assert not one.read(named(plain), into)
    assert not one.has(named(plain))
    one.keep(named(plain), memoryview(plain))
    assert one.read(named(plain), into)
    one.close()


@pytest.mark.parametrize("left", [0, 1, 35, 36, 40, 65536 + 36 + 15])
def test_a_segment_that_was_cut_short_has_the_entries_before(directory, left):
    """What a process that died left unfinished costs that base alone."""
    first, second = base(1, 65536), base(2, 65536)
    (segment,) = kept(directory, first, second)
    os.truncate(segment, 65536 + 36 + 16 + left)
    assert read(directory, first) == first
    assert read(directory, second) is None


def test_swapped_entries_and_segments_are_no_bases(directory):
    """An entry in another place, or a segment under another name, does not open."""
    first, second = base(1, 65536), base(2, 65536)
    (segment,) = kept(directory, first, second)
    half = segment.stat().st_size // 2
    body = segment.read_bytes()
    segment.write_bytes(body[half:] + body[:half])
    assert read(directory, first) is None
    assert read(directory, second) is None
    segment.write_bytes(body)
    segment.rename(directory / ("0" * 32))
    assert read(directory, first) is None


def test_a_base_of_another_name_is_refused_though_its_seal_opens(directory):
    """Whoever can seal, as an older mlsync with a fault, cannot pass off one tensor as another."""
    plain, other = base(1, 65536), base(2, 65536)
    one = BaseCache(directory, KEYS, ROOM)
    one.keep(named(other), memoryview(plain))
    assert not one.read(named(other), memoryview(bytearray(65536)))
    one.close()


@pytest.mark.parametrize("planted", ["fifo", "directory", "link", "empty"])
def test_what_somebody_planted_is_passed_over(directory, tmp_path, planted):
    """A pipe, a directory, a link and an empty file under the name of a segment neither stop a backup nor are read."""
    plain = base(1, 65536)
    kept(directory, plain)
    at, elsewhere = directory / ("f" * 32), tmp_path / "elsewhere"
    elsewhere.write_bytes(b"somebody's file")
    if planted == "fifo":
        os.mkfifo(at)
    elif planted == "directory":
        at.mkdir()
    elif planted == "link":
        at.symlink_to(elsewhere)
    else:
        at.touch()
    assert read(directory, plain) == plain
    delete(directory)
    assert elsewhere.read_bytes() == b"somebody's file"


@pytest.mark.parametrize("planted", ["link", "file"])
def test_a_directory_that_is_none_is_no_cache(directory, tmp_path, planted):
    """Where a link or a file stands in the directory's place, nothing is kept, written or deleted."""
    directory.parent.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if planted == "link":
        directory.symlink_to(elsewhere)
    else:
        directory.touch()
    one = BaseCache(directory, KEYS, ROOM)
    one.keep(named(base(1)), memoryview(base(1)))
    assert not one.has(named(base(1)))
    one.close()
    delete(directory)
    assert list(elsewhere.iterdir()) == []
    assert os.path.lexists(directory)


def test_keys_of_another_repository_open_nothing(directory):
    """A state directory that was copied to another repository's holds no bases for it."""
    plain = base(1, 65536)
    kept(directory, plain)
    other = Keys(bytes(32), b"repository id 16")
    assert read(directory, plain, other, named(plain)) is None


def test_a_node_that_cannot_read_has_a_key_for_its_own_cache(directory):
    """A write-only key seals and opens the cache, and is not the master key's."""
    plain, node = base(1, 65536), WriteOnlyKeys.make(KEYS, b"header")
    kept(directory, plain, keys=node)
    assert read(directory, plain, node) == plain
    assert read(directory, plain) is None


def test_the_cache_takes_no_more_than_its_limit(directory):
    """What does not fit is not kept; what is there stays."""
    first, second = base(1), base(2)
    kept(directory, first, second, limit_bytes=2 * MIB)
    assert (read(directory, first), read(directory, second)) == (first, None)


def test_a_smaller_limit_deletes_the_oldest_segments(directory):
    """A limit that was set lower holds from the next backup on."""
    for number in range(3):
        (*_, segment) = sorted(kept(directory, base(number)), key=lambda path: path.stat().st_mtime_ns)
        os.utime(segment, ns=(number, number))
    BaseCache(directory, KEYS, 2 * MIB + 4096).close()
    assert [read(directory, base(number)) is None for number in range(3)] == [True, False, False]


def test_a_new_base_makes_room_for_itself(directory, monkeypatch):
    """A checkpoint that is stored as a whole again replaces its old bases as it goes, within the same limit."""
    monkeypatch.setattr(cache, "SEGMENT_BYTES", 2 * MIB)
    limit_bytes = 10 * MIB
    kept(directory, *(base(number) for number in range(8)), limit_bytes=limit_bytes)
    one = BaseCache(directory, KEYS, limit_bytes)
    for number in range(8):
        one.keep(named(base(100 + number)), memoryview(base(100 + number)), instead_of=named(base(number)))
        assert one.size_bytes <= limit_bytes
    one.close()
    assert all(read(directory, base(100 + number)) for number in range(8))
    assert sum(path.stat().st_size for path in directory.iterdir()) <= limit_bytes


def test_bases_that_nobody_asks_for_any_more_are_deleted(directory):
    """Segments without any base of the last version go."""
    first, second = base(1), base(2)
    kept(directory, first)
    kept(directory, second)
    one = BaseCache(directory, KEYS, ROOM)
    one.keep_only({named(second)})
    one.close()
    assert len(list(directory.iterdir())) == 1
    assert read(directory, second) == second


def test_many_small_segments_are_not_kept_for_ever(directory, monkeypatch):
    """Beyond their greatest number the oldest go."""
    monkeypatch.setattr(cache, "SEGMENTS_MAX", 3)
    for number in range(5):
        kept(directory, base(number, 4096))
    assert len(list(directory.iterdir())) <= 4


def test_a_full_disk_ends_keeping_and_nothing_else(directory, monkeypatch):
    """After a write that failed no more is written, and what was kept before is still read."""
    first, second = base(1), base(2)
    one = BaseCache(directory, KEYS, ROOM)
    one.keep(named(first), memoryview(first))
    calls = []

    def full(*_):
        calls.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwritev", full)
    for plain in (second, base(3)):
        one.keep(named(plain), memoryview(plain))
    assert len(calls) == 1
    assert not one.has(named(second))
    assert one.read(named(first), memoryview(bytearray(MIB)))
    one.close()


def test_threads_keep_and_read_at_once(directory):
    """Coder threads keep different bases, and replace old ones, without losing any."""
    one = BaseCache(directory, KEYS, ROOM)
    for number in range(16):
        one.keep(named(base(number, 65536)), memoryview(base(number, 65536)))
    faults = []

    def work(first):
        into = memoryview(bytearray(65536))
        for number in range(first, 16, 4):
            if not one.read(named(base(number, 65536)), into) or bytes(into) != base(number, 65536):
                faults.append(number)
            new = base(100 + number, 65536)
            one.keep(named(new), memoryview(new), instead_of=named(base(number, 65536)))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one.close()
    assert not faults
    assert all(read(directory, base(100 + number, 65536)) for number in range(16))


def test_a_deleted_cache_is_an_empty_one(directory):
    """The directory may be deleted at any time, also while a process uses it."""
    plain = base(1)
    one = BaseCache(directory, KEYS, ROOM)
    one.keep(named(plain), memoryview(plain))
    delete(directory)
    assert not directory.exists()
    assert not one.read(named(plain), memoryview(bytearray(MIB)))
    one.keep(named(base(2)), memoryview(base(2)))
    one.close()
    assert read(directory, plain) is None


def test_caches_of_runs_that_are_gone_are_deleted(directory, tmp_path):
    """A run that was not backed up for a month keeps no bases on the disk; others do, and other files stay."""
    kept(directory, base(1))
    old = directory.with_name("old")
    kept(old, base(1))
    (old / "somebody's").touch()
    os.utime(old, (1, 1))
    drop_stale(directory.parent, time.time())
    assert [path.name for path in old.iterdir()] == ["somebody's"]
    assert len(list(directory.iterdir())) == 1
    drop_stale(tmp_path / "none", time.time())


def test_the_limit_is_a_share_of_the_free_disk_unless_it_is_said(directory):
    """Without a setting a tenth of what is free is not exceeded, and a setting counts as it is."""
    disk = os.statvfs("/")
    assert limit_of(directory, 5, 1 << 60) == 5
    assert limit_of(directory, None, 7) == 7
    assert 0 < limit_of(directory, None, 1 << 60) < (disk.f_blocks * disk.f_frsize) or directory.exists()
    assert SEGMENT_BYTES == 64 * MIB
