"""Rooms: a chunk that is opened where it is written from stands in the file as if it had been copied."""

from __future__ import annotations

import os
import random
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsync.target import staging
from mlsync.target.staging import Staging

PART = st.tuples(st.integers(0, 5000), st.integers(1, 9000), st.booleans())
FILE = st.tuples(st.lists(PART, min_size=1, max_size=8), st.booleans())


@pytest.fixture(scope="module")
def rooms_staging():
    """One that is used for all files of all examples, as by one restore."""
    return Staging()


@settings(max_examples=80)
@given(st.lists(FILE, max_size=4), st.integers(1, 12), st.integers(0, 2**32))
def test_every_file_has_its_bytes_however_they_came(rooms_staging, tmp_path_factory, files, ahead, seed):
    """With a room or without, asked for early or late, behind gaps, in files given up halfway: each byte is right."""
    noise = random.Random(seed)
    parts = [part for number, (spans, _) in enumerate(files) for part in _placed(number, spans, noise)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "SLAB_BYTES", 8192)
        patch.setattr(staging, "SLABS_MAX", 4)
        patch.setattr("mlsync.direct_io.DIRECT_FROM_BYTES", 4096)
        _restored(rooms_staging, tmp_path_factory.mktemp("rooms"), files, parts, ahead)


def _restored(one, directory, files, parts, ahead):
    """Write the files as a restore does that has rooms for so many parts ahead."""
    asked: list[memoryview | None] = []
    one.forget_rooms()
    at = 0
    for number, (spans, is_given_up) in enumerate(files):
        path = directory / str(number)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        one.begin(descriptor, partial(os.open, path), number)
        expected = bytearray()
        for count in range(len(spans)):
            asked += [_room(one, part) for part in parts[len(asked) : at + ahead]]
            _, offset, content, _ = parts[at]
            if not (is_given_up and count >= len(spans) // 2):
                one.put(offset, content if asked[at] is None else asked[at])
                expected += bytes(offset - len(expected)) + content
            at += 1
        if is_given_up:
            one.stop()
        else:
            one.flush()
            assert path.read_bytes() == expected
        os.close(descriptor)


def _placed(number, spans, noise):
    """The parts of a file: its number, offset, content, and whether a room is asked for."""
    offset = 0
    for gap_bytes, length, has_room in spans:
        offset += gap_bytes
        yield number, offset, noise.randbytes(length), has_room
        offset += length


def _room(one, part):
    """Return a room with the part's content, if it is to have one and gets it."""
    number, offset, content, has_room = part
    room = one.room(number, offset, len(content)) if has_room else None
    if room is not None:
        room[:] = content
    return room


def test_pages_are_written_whole_and_past_the_cache(tmp_path, monkeypatch):
    """Of chunks at odd offsets, one page of the file's end alone is not written by whole pages from its room."""
    monkeypatch.setattr(staging, "SLAB_BYTES", 64 << 10)
    monkeypatch.setattr("mlsync.direct_io.DIRECT_FROM_BYTES", 4096)
    written = []
    write_direct = staging.write_direct

    def noted(open_again, offset, view):
        written.append((offset, write_direct(open_again, offset, view)))
        return written[-1][1]

    monkeypatch.setattr(staging, "write_direct", noted)
    path = tmp_path / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    one = Staging()
    one.begin(descriptor, partial(os.open, path), "file")
    content = os.urandom(400_001)
    for start in range(0, len(content), 30_011):
        piece = content[start : start + 30_011]
        room = one.room("file", start, len(piece))
        room[:] = piece
        one.put(start, room)
    one.flush()
    os.close(descriptor)
    assert path.read_bytes() == content
    if any(count for _, count in written):  # the file system has direct I/O
        spans = sorted((offset, offset + count) for offset, count in written if count)
        assert spans[0][0] == 0
        assert all(end == begin for (_, end), (begin, _) in pairwise(spans))
        assert spans[-1][1] == len(content) - len(content) % 4096


def test_memory_is_reused_and_bounded(tmp_path, monkeypatch):
    """A long file takes no more slabs than the bound; rooms that were asked for too early are refused."""
    monkeypatch.setattr(staging, "SLAB_BYTES", 8192)
    made = []
    monkeypatch.setattr(staging, "aligned_memory", lambda size: made.append(size) or staging.mmap.mmap(-1, size))
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    one = Staging()
    asked = [one.room("file", start, 8192) for start in range(0, 20 * 8192, 8192)]
    assert [room is not None for room in asked] == [True] * staging.SLABS_MAX + [False] * (20 - staging.SLABS_MAX)
    one.forget_rooms()
    one.begin(descriptor, partial(os.open, tmp_path / "file"), "file")
    made.clear()
    for start in range(0, 100 * 8192, 8192):
        room = one.room("file", start, 8192)
        room[:] = bytes([start % 251]) * 8192
        one.put(start, room)
    one.flush()
    os.close(descriptor)
    assert len(made) <= staging.SLABS_MAX


def test_memory_that_a_reader_may_still_fill_is_never_used_again(tmp_path):
    """After rooms were given up their memory is nobody's: what is written into it late reaches no file."""
    one = Staging()
    late = [one.room("file", start, 1 << 20) for start in range(0, 8 << 20, 1 << 20)]
    one.forget_rooms()
    path = tmp_path / "other"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    one.begin(descriptor, partial(os.open, path), "other")
    room = one.room("other", 0, 1 << 20)
    room[:] = bytes(1 << 20)
    one.put(0, room)
    for view in late:
        view[:] = b"x" * len(view)
    one.flush()
    os.close(descriptor)
    assert path.read_bytes() == bytes(1 << 20)


def test_a_room_is_put_where_it_was_asked_for(tmp_path):
    """Bytes of one room are never written at the place of another."""
    one = Staging()
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    one.begin(descriptor, partial(os.open, tmp_path / "file"), "file")
    first, second = one.room("file", 0, 4096), one.room("file", 4096, 4096)
    with pytest.raises(AssertionError):
        one.put(4096, first)
    del second
    one.stop()
    os.close(descriptor)
