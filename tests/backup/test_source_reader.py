"""What is taken from the source instead of the store: right bytes in the right order, or those of the store."""

from __future__ import annotations

import dataclasses
import os
import random
from contextlib import contextmanager

import pytest

from doubles.memory_store import MemoryStore
from mlsync.backup.storing.source_reader import PlacesIn, SourceReader
from mlsync.codec.digest import FileDigester, FileDigestKind
from mlsync.codec.keys import Keys
from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.errors import WriteOnly
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry
from mlsync.repository.repository import Repository
from mlsync.repository.writer import PackWriter
from mlsync.source.root import Root
from mlsync.store.counting import CountingStore

KEYS = Keys(bytes(range(32)), bytes(16))


def noise(size_bytes, seed):
    """Bytes that do not compress, the same at every run."""
    return random.Random(f"{seed}").randbytes(size_bytes)


def stored(store, keys, piece):
    """Where a chunk lies, in a pack of its own."""
    writer = PackWriter(store, keys, lambda _name: None, lanes=1)
    placed = writer.put(memoryview(piece))
    writer.finish()
    return placed.ref


def file_of(refs):
    """A file of these chunks."""
    digester = FileDigester(FileDigestKind.WHOLE)
    size_bytes = sum(ref.plain_bytes for ref in refs)
    return Entry(b"a", EntryKind.FILE, 0o644, 0, 0, 0, size_bytes, b"", digester.digest(), (), tuple(refs))


PIECES = [noise(3000, seed) for seed in range(6)]


@pytest.fixture
def node():
    """What a node holds, in a process that has written nothing yet."""
    return WriteOnlyKeys.make(KEYS, bytes(32))


@pytest.fixture
def opened(node, tmp_path):
    """A reader for a file whose odd chunks an earlier process stored, and where its chunks lie."""
    store = MemoryStore()
    refs = [stored(store, node, piece) for piece in PIECES]
    old = {("pack", ref.pack) for ref in refs[1::2]}
    later = dataclasses.replace(node, _made={at: made for at, made in node._made.items() if at not in old})
    (tmp_path / "a").write_bytes(b"".join(PIECES))
    entry = file_of(refs)
    with (
        Root.open_watched(os.fsencode(tmp_path)) as root,
        SourceReader(Repository(store, later), frozenset(), PlacesIn([entry]), root) as reader,
    ):
        yield reader, refs


def test_all_chunks_come_in_order(opened):
    """Some are from the store and some from the source, and nobody can tell; memory of the caller's is filled alike."""
    reader, refs = opened
    assert [bytes(plain) for plain in reader.stream(refs)] == PIECES
    assert [reader.one(ref) for ref in refs] == PIECES
    memory = [bytearray(3000) for _ in refs]
    for _ in reader.stream(refs, lambda at: memoryview(memory[at])):
        pass
    assert [bytes(one) for one in memory] == PIECES
    assert reader.read_bytes > 0


def test_a_source_that_changed_is_no_proof(opened, tmp_path):
    """Other bytes, a shorter file or none: the error names the pack whose content is to be stored again."""
    reader, refs = opened
    for content in (b"".join(PIECES[::-1]), b"short"):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(WriteOnly) as caught:
            list(reader.stream(refs))
        assert caught.value.where == f"packs/{refs[1].pack.hex()[:2]}/{refs[1].pack.hex()}"
    (tmp_path / "a").unlink()
    with pytest.raises(WriteOnly):
        reader.one(refs[1])
    assert reader.one(refs[0]) == PIECES[0]


def test_a_chunk_that_the_source_never_had_is_no_proof(opened):
    """What stands in no file of the version is not made up."""
    reader, _ = opened
    other = stored(MemoryStore(), WriteOnlyKeys.make(KEYS, bytes(32)), noise(10, "other"))
    with pytest.raises(WriteOnly):
        reader.one(other)


# ---------------------------------------------------------------- a node that reads


@pytest.fixture
def counted():
    """A store that counts, with six chunks in one pack each, and where they lie."""
    store = CountingStore(MemoryStore())
    refs = [stored(store, KEYS, piece) for piece in PIECES]
    store.reset()
    return store, refs


@contextmanager
def reading(store, entries, came_back, directory):
    """A reader of these entries, of which these chunks came back before."""
    with (
        Root.open_watched(os.fsencode(directory)) as root,
        SourceReader(Repository(store, KEYS), came_back, PlacesIn(entries, came_back), root) as reader,
    ):
        yield reader


def test_what_came_back_before_is_not_fetched_again(counted, tmp_path):
    """Only the chunks that never came back are read from the store, and the order is that of the request."""
    store, refs = counted
    (tmp_path / "a").write_bytes(b"".join(PIECES))
    with reading(store, [file_of(refs)], set(refs[:2] + refs[3:]), tmp_path) as reader:
        assert [bytes(plain) for plain in reader.stream(refs)] == PIECES
        assert reader.read_bytes == refs[2].stored_bytes
        assert [reader.one(ref) for ref in refs] == PIECES
    assert store.calls == {"read": 2}


def test_neighbours_in_the_source_are_read_with_one_call(counted, tmp_path, monkeypatch):
    """A stretch of a file costs one open and one read, however many chunks it has."""
    store, refs = counted
    (tmp_path / "a").write_bytes(b"".join(PIECES))
    calls = []
    preadv = os.preadv

    def counting(descriptor, buffers, offset, flags=0):
        calls.append((len(buffers), offset))
        return preadv(descriptor, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", counting)
    with reading(store, [file_of(refs)], set(refs[:2] + refs[3:]), tmp_path) as reader:
        assert [bytes(plain) for plain in reader.stream(refs)] == PIECES
    assert calls == [(2, 0), (3, 9000)]


def test_a_read_that_ends_early_goes_on(counted, tmp_path, monkeypatch):
    """A kernel may give less than was asked for, in the middle of a chunk: nothing else is fetched for it."""
    store, refs = counted
    (tmp_path / "a").write_bytes(b"".join(PIECES))
    preadv = os.preadv

    def short(descriptor, buffers, offset, flags=0):
        room = memoryview(bytearray(4000 if len(buffers) > 1 else 700))
        count = min(preadv(descriptor, [room], offset, flags), sum(map(len, buffers)))
        left = room[:count]
        for buffer in buffers:
            part = min(len(buffer), len(left))
            buffer[:part], left = left[:part], left[part:]
        return count

    monkeypatch.setattr(os, "preadv", short)
    with reading(store, [file_of(refs)], set(refs), tmp_path) as reader:
        assert [bytes(plain) for plain in reader.stream(refs)] == PIECES
    assert store.calls == {}


@pytest.mark.parametrize("what", ["other", "short", "gone", "pipe", "link", "directory"])
def test_what_the_source_has_no_more_comes_from_the_store(counted, tmp_path, what):
    """A file that was written, cut, deleted or replaced since it was read is no error: the store has the chunks."""
    store, refs = counted
    place = tmp_path / "a"
    if what in ("other", "short"):
        place.write_bytes(b"".join(PIECES[::-1]) if what == "other" else b"".join(PIECES)[:7000])
    elif what == "pipe":
        os.mkfifo(place)
    elif what == "link":
        (tmp_path / "b").write_bytes(b"".join(PIECES))
        place.symlink_to("b")
    elif what == "directory":
        place.mkdir()
    with reading(store, [file_of(refs)], set(refs), tmp_path) as reader:
        memory = [memoryview(bytearray(3000)) for _ in refs]
        assert [bytes(plain) for plain in reader.stream(refs, memory.__getitem__)] == PIECES
        assert [bytes(one) for one in memory] == PIECES
    assert store.calls == {"read": 6}


def test_another_place_of_the_same_chunk_came_back_not(counted, tmp_path):
    """What came back is a chunk where it lies: the same content in another pack is read from there."""
    store, refs = counted
    again = stored(store, KEYS, PIECES[0])
    store.reset()
    (tmp_path / "a").write_bytes(b"".join(PIECES))
    with reading(store, [file_of(refs)], set(refs), tmp_path) as reader:
        assert [bytes(plain) for plain in reader.stream([again, refs[0]])] == [PIECES[0], PIECES[0]]
    assert store.calls == {"read": 1}
