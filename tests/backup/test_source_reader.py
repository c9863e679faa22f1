"""A node takes from the source what it cannot open any more: right bytes in the right order, or an error."""

from __future__ import annotations

import dataclasses
import os
import random

import pytest

from doubles.memory_store import MemoryStore
from mlsync.backup.storing.source_reader import SourceReader
from mlsync.codec.digest import FileDigester, FileDigestKind
from mlsync.codec.keys import Keys
from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.errors import WriteOnly
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry
from mlsync.repository.repository import Repository
from mlsync.repository.writer import PackWriter
from mlsync.source.root import Root

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
        SourceReader(Repository(store, later), later, {b"a": entry}, root) as reader,
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
