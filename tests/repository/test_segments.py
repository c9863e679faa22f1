"""How a version's list of files is kept: what stays the same from version to version is stored once."""

from __future__ import annotations

import random

import msgspec
import pytest
from format_parts import bare_entry, digest_of, file_entry, new_repository, noise, unknown, version, write_chunks

from mlsync.codec.compression import Coding
from mlsync.errors import ManifestDamaged
from mlsync.repository.commit import commit
from mlsync.repository.encoding import segments
from mlsync.repository.encoding.segments import segment_refs
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import ChunkRef, Entry, Previous, Segment
from mlsync.values import Proof

COUNT = 20_000
EMPTY = digest_of()
PROOF = Proof(3, "torch-zip", "cpu", "2.0", 4, 0.5, 6, 7, {"epoch": 8}, [], "no device")


def test_a_small_version_stands_in_its_manifest():
    """The list of a few files costs no object of its own."""
    repository = new_repository()
    committed = commit(repository, version([file_entry(b"a", digest=EMPTY)]), unknown)
    assert (committed.body_refs, committed.packs) == ((), ())
    assert segment_refs(repository.stored("run", 1).root, "key") == ()


def test_a_version_without_entries_comes_back():
    """An empty version is a version."""
    repository = new_repository()
    commit(repository, version([]), unknown)
    assert repository.manifest(repository.stored("run", 1)).entries == ()


@pytest.mark.parametrize("change", ["changed", "added", "removed", "renamed", "first", "last"])
def test_one_file_of_many_changes_one_segment(change):
    """A version of 20,000 entries that differs in one stores at most two segments anew."""
    repository, entries, known = _many()
    first = commit(repository, version(entries), known)
    known |= {ref.name: ref for ref in first.body_refs}
    assert len(first.body_refs) > 15
    entries = _with(entries, change)
    second = commit(repository, version(entries, 2, Previous(1, first.digest)), known.get)
    new_refs = set(second.body_refs) - set(first.body_refs)
    assert 1 <= len(new_refs) <= 2
    assert len(second.packs) == 1
    assert repository.manifest(repository.stored("run", 2)).entries == tuple(entries)


def test_the_same_entries_store_nothing():
    """A version whose list of files is the last one's stores its manifest alone."""
    repository, entries, known = _many()
    first = commit(repository, version(entries), known)
    refs = {ref.name: ref for ref in first.body_refs}
    second = commit(repository, version(entries, 2, Previous(1, first.digest)), refs.get)
    assert second.packs == ()
    assert second.body_refs == first.body_refs
    assert second.stored_bytes < 10_000


def test_a_segment_is_encoded_as_the_objects_that_it_is_decoded_to():
    """Each field of an entry, of a chunk and of a base stands where readers look for it."""
    base = ChunkRef(bytes([1]) * 32, b"a" * 16, 0, 80, 900, 1000, Coding.RAW, 1)
    difference = ChunkRef(bytes([2]) * 32, b"b" * 16, 7, 96, 300, 1000, Coding.DIFFERENCE, 2, 2, base)
    entries = [
        Entry(b"d", EntryKind.DIRECTORY, 0o755, 1, 2, -3, room={"x": {"user.a": b"1"}}),
        Entry(b"d/f", EntryKind.FILE, 0o644, 3, 4, 5, 2000, b"", EMPTY, ((0, 1000),), (difference,), PROOF),
        Entry(b"d/l", EntryKind.HARD_LINK, 0o644, 3, 4, 5, target=b"d/f"),
    ]
    table = segments.PackTable()
    packed = [msgspec.structs.replace(one, chunks=tuple(map(table.refer, one.chunks))) for one in entries]
    assert segments.encode_entries(entries) == msgspec.msgpack.encode(Segment(table.packs, packed))
    assert [pack[2:] for pack in table.packs] == [b"b" * 16, b"a" * 16]


def test_a_segment_of_several_chunks_is_put_together(monkeypatch):
    """An entry of so many chunks that its segment is longer than a chunk may be is read back whole."""
    monkeypatch.setattr(segments, "INLINE_BYTES_MAX", 0)
    monkeypatch.setattr(segments, "CHUNK_BYTES_MAX", 100)
    repository = new_repository()
    pieces = [noise(10, seed) for seed in range(20)]
    refs = write_chunks(repository.store, repository.keys, pieces)
    entries = (file_entry(b"a", refs, pieces), file_entry(b"b", refs[:1], pieces[:1]))
    committed = commit(repository, version(entries), unknown)
    assert len(committed.body_refs) > 5
    assert repository.manifest(repository.stored("run", 1)).entries == entries


def test_the_list_of_files_is_bounded_as_a_whole(monkeypatch):
    """What all segments sum to is bounded: a reader refuses more before it fetches any, a writer commits no more."""
    repository, entries, _ = _many()
    commit(repository, version(entries), unknown)
    stored = repository.stored("run", 1)
    length_bytes = sum(ref.plain_bytes for ref in segment_refs(stored.root, "key"))
    for limit_bytes, is_read in ((length_bytes, True), (length_bytes - 1, False)):
        monkeypatch.setattr(segments, "BODY_BYTES_MAX", limit_bytes)
        if is_read:
            assert len(repository.entries(stored)) == len(entries)
            continue
        with pytest.raises(ManifestDamaged, match="longer than 4 GiB"):
            segments.read_entries(stored.root, lambda _: pytest.fail("fetched"), "key")
        with pytest.raises(ManifestDamaged, match="longer than 4 GiB"):
            commit(repository, version(entries, 2), unknown)
    assert repository.numbers("run") == [1]


def test_segments_are_of_a_bounded_length():
    """However many entries there are, segments are near the length that is aimed at."""
    _, entries, _ = _many()
    lengths = [len(encoded) for _, _, encoded in segments._split(tuple(entries))]
    mean_bytes = sum(lengths) / len(lengths)
    assert segments.SEGMENT_BYTES / 2 < mean_bytes < 2 * segments.SEGMENT_BYTES
    assert max(lengths) < 12 * segments.SEGMENT_BYTES


def _many():
    paths = sorted(b"labels/%06d.txt" % number for number in random.Random(5).sample(range(10**6), COUNT - 1))
    entries = [bare_entry(b"labels", EntryKind.DIRECTORY), *(file_entry(path, digest=EMPTY) for path in paths)]
    known: dict[bytes, ChunkRef] = {}
    return new_repository(), entries, _Known(known)


class _Known(dict):
    """Knows chunks by name, as the writer asks."""

    def __call__(self, name):
        return self.get(name)

    def __or__(self, other):
        return _Known({**self, **other})


def _with(entries, change):
    made, middle = list(entries), COUNT // 2
    if change in ("changed", "first", "last"):
        at = {"changed": middle, "first": 1, "last": -1}[change]
        made[at] = msgspec.structs.replace(made[at], mtime_ns=5)
    elif change == "removed":
        del made[middle]
    elif change == "added":
        made.insert(middle, file_entry(made[middle - 1].path + b"~", digest=EMPTY))
    else:
        made[middle] = msgspec.structs.replace(made[middle], path=made[middle].path + b"~")
    return made
