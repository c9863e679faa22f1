"""Direct I/O transfers the same bytes as ordinary I/O, and ordinary I/O replaces it where it is missing."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
from functools import partial
from itertools import pairwise

import pytest

from mlsync import direct_io
from mlsync.buffers import aligned_memory
from mlsync.direct_io import (
    ALIGNMENT,
    DIRECT_FROM_BYTES,
    bytes_before_aligned,
    read_cached,
    read_direct,
    slack_bytes,
    write_direct,
)
from mlsync.store.directory.store import DirectoryStore

pytestmark = pytest.mark.disk
SIZE_BYTES = 3 * DIRECT_FROM_BYTES + 1234
CONTENT = random.Random(1).randbytes(SIZE_BYTES)


@pytest.fixture
def path(tmp_path):
    """A file of CONTENT on a file system that has direct I/O."""
    place = tmp_path / "file"
    place.write_bytes(CONTENT)
    try:
        os.close(os.open(place, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("the temporary directory's file system has no direct I/O")
    return place


def opened(path):
    """What opens *path* once more."""
    return lambda flags: os.open(path, flags)


def aligned(content):
    """*content* in memory that lies right."""
    view = memoryview(aligned_memory(len(content)))
    view[:] = content
    return view


def test_whole_blocks_are_read(path):
    """Direct I/O reads all of a file but its last, incomplete block."""
    view = memoryview(aligned_memory(SIZE_BYTES))
    done = read_direct(opened(path), 0, view)
    assert done == SIZE_BYTES - SIZE_BYTES % ALIGNMENT
    assert view[:done] == CONTENT[:done]


def test_a_read_ends_where_the_file_does(path):
    """A read past the file's end fills nothing there, and its count says so."""
    view = memoryview(aligned_memory(2 * SIZE_BYTES + ALIGNMENT))
    done = read_direct(opened(path), 0, view)
    assert done == SIZE_BYTES
    assert view[:done] == CONTENT


@pytest.mark.parametrize(("offset", "slack"), [(1, 0), (0, 1), (ALIGNMENT - 1, 0)])
def test_what_does_not_lie_right_is_not_tried(path, offset, slack):
    """An unaligned offset or address is left to the caller."""

    def never(flags):
        raise AssertionError("opened")

    assert read_direct(never, offset, memoryview(aligned_memory(SIZE_BYTES + slack))[slack:]) == 0
    assert write_direct(never, 1, aligned(CONTENT)) == 0


def test_what_is_short_is_not_tried():
    """Transfers below one MiB do not use direct I/O."""

    def never(flags):
        raise AssertionError("opened")

    view = memoryview(aligned_memory(DIRECT_FROM_BYTES))[:-1]
    assert read_direct(never, 0, view) == write_direct(never, 0, view) == 0


def test_whole_blocks_are_written(path):
    """A direct write changes exactly its bytes of the file."""
    other = random.Random(2).randbytes(DIRECT_FROM_BYTES + 77)
    done = write_direct(opened(path), ALIGNMENT, aligned(other))
    assert done == DIRECT_FROM_BYTES
    assert path.read_bytes() == CONTENT[:ALIGNMENT] + other[:done] + CONTENT[ALIGNMENT + done :]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_direct_io_is_told_by_a_count_of_nothing(path, number):
    """If the file system refuses O_DIRECT, the count is 0 and the caller uses ordinary I/O."""

    def refuse(flags):
        raise OSError(number, os.strerror(number))

    view = memoryview(aligned_memory(SIZE_BYTES))
    assert read_direct(refuse, 0, view) == write_direct(refuse, 0, view) == 0


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.ENOENT])
def test_any_other_error_comes_out(path, number):
    """The error of a failing disk is raised, and not taken for a missing O_DIRECT."""

    def fail(flags):
        raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=os.strerror(number)):
        write_direct(fail, 0, memoryview(aligned_memory(SIZE_BYTES)))


def test_slack_and_the_way_to_the_next_block_make_up_a_block():
    """Bytes from any offset, placed after their slack, are aligned from the next block on."""
    for offset in (0, 1, ALIGNMENT - 1, ALIGNMENT, 3 * ALIGNMENT + 5):
        assert (slack_bytes(offset) + bytes_before_aligned(offset)) % ALIGNMENT == 0


@pytest.mark.parametrize("offset", [0, 1, ALIGNMENT, ALIGNMENT + 48])
@pytest.mark.parametrize("length", [1, DIRECT_FROM_BYTES, DIRECT_FROM_BYTES + 4097])
def test_a_directory_reads_the_same_bytes_from_anywhere(tmp_path, offset, length):
    """For any offset, length and alignment of the buffer, a read gives the object's bytes."""
    store = DirectoryStore(tmp_path, create=True)
    store.put("packs/a", CONTENT)
    memory = memoryview(aligned_memory(SIZE_BYTES + ALIGNMENT))
    for slack in (slack_bytes(offset), slack_bytes(offset) + 1):
        into = memory[slack : slack + length]
        store.read("packs/a", offset, into)
        assert into == CONTENT[offset : offset + length]


def test_neighbours_are_read_past_the_page_cache(path, tmp_path):
    """Long adjacent reads leave only the pages at their edges in the page cache."""
    if not knows_what_is_cached(path):
        pytest.skip("this kernel does not say what it has cached, and the guess in its place may err")
    store = DirectoryStore(tmp_path, create=True)
    store.put("packs/a", CONTENT)
    drop_cached(tmp_path / "packs/a")
    memory = memoryview(aligned_memory(SIZE_BYTES + ALIGNMENT))
    edges = [0, DIRECT_FROM_BYTES + 100, SIZE_BYTES]
    for _ in range(3):
        for offset, end in pairwise(edges):
            into = memory[slack_bytes(offset) :][: end - offset]
            store.read("packs/a", offset, into)
            assert into == CONTENT[offset:end]
    assert cached_pages(tmp_path / "packs/a") <= 2 * 2


@pytest.mark.parametrize(("has_it", "asked_bytes"), [(True, [1, SIZE_BYTES]), (False, [1])])
def test_a_kernel_that_cannot_say_what_it_has_is_asked_for_one_byte(path, monkeypatch, has_it, asked_bytes):
    """Before 6.5, or behind a filter, a byte that has to be waited for keeps the rest from being asked for."""
    asked = []

    def answer(_descriptor, buffers, _offset, _flags):
        asked.append(len(buffers[0]))
        if not has_it:
            raise BlockingIOError(errno.EAGAIN, "not cached")
        return len(buffers[0])

    monkeypatch.setattr(direct_io, "_syscall", lambda *_: -1)
    monkeypatch.setattr(os, "preadv", answer)
    assert read_cached(-1, 0, memoryview(bytearray(SIZE_BYTES))) == (SIZE_BYTES if has_it else 0)
    assert asked == asked_bytes


@pytest.mark.parametrize("gap", [0, DIRECT_FROM_BYTES, SIZE_BYTES - 2 * ALIGNMENT])
def test_a_file_that_is_cached_in_part_is_not_asked_for(path, gap):
    """Where a stretch of the file is not cached, nothing comes from the page cache, and nothing enters it."""
    if not knows_what_is_cached(path):
        pytest.skip("this kernel does not say what it has cached")
    drop_cached(path)
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    gap -= gap % ALIGNMENT
    os.preadv(descriptor, [bytearray(gap)], 0)
    os.preadv(descriptor, [bytearray(SIZE_BYTES)], gap + ALIGNMENT)
    before = cached_pages(path)
    assert read_cached(descriptor, 0, memoryview(bytearray(SIZE_BYTES))) == 0
    os.close(descriptor)
    assert cached_pages(path) == before


def test_what_the_page_cache_holds_is_taken_from_there(path, monkeypatch):
    """A cached file is not read from the disk again."""
    path.read_bytes()
    descriptor = os.open(path, os.O_RDONLY)
    view = memoryview(bytearray(SIZE_BYTES))
    assert read_cached(descriptor, 0, view) == SIZE_BYTES
    os.close(descriptor)
    assert view == CONTENT


def knows_what_is_cached(path):
    with path.open("rb") as file:
        return direct_io.cached_page_count(file.fileno(), 0, 1) is not None


def drop_cached(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def cached_pages(path):
    """How many of the file's pages are in the page cache (mincore(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * (-(-len(mapped) // mmap.PAGESIZE)))()
        address = ctypes.c_char.from_buffer(mapped)
        assert libc.mincore(ctypes.byref(address), ctypes.c_size_t(len(mapped)), pages) == 0
        del address
    return sum(page & 1 for page in pages)


def test_a_long_part_goes_past_the_page_cache(tmp_path, monkeypatch):
    """An upload writes whole blocks directly and its last bytes through the cache, and all of them are there."""
    direct_bytes = []

    def counted(open_again, offset, view):
        direct_bytes.append(write_direct(open_again, offset, view))
        return direct_bytes[-1]

    monkeypatch.setattr("mlsync.store.directory.pending_file.write_direct", counted)
    store = DirectoryStore(tmp_path, create=True)
    content = CONTENT * (2 + store.part_bytes // SIZE_BYTES)
    upload, view = store.upload("packs/a"), aligned(content)
    for offset in range(0, len(content), store.part_bytes):
        upload.write(offset, view[offset : offset + store.part_bytes])
    upload.finish(len(content))
    assert (tmp_path / "packs" / "a").read_bytes() == content
    if any(direct_bytes):
        assert sum(direct_bytes) == len(content) - len(content) % ALIGNMENT


def test_a_store_without_direct_io_works_the_same(tmp_path, monkeypatch):
    """On a file system without direct I/O, objects are written and read as elsewhere."""
    monkeypatch.setattr(direct_io, "_transfer", partial(_nothing))
    store = DirectoryStore(tmp_path, create=True)
    store.put("packs/a", aligned(CONTENT))
    into = memoryview(aligned_memory(SIZE_BYTES))
    store.read("packs/a", 0, into)
    assert into == CONTENT


def _nothing(*_):
    return 0
