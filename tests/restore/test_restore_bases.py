"""A restore of differences reads each base once, or not at all where the target has it, and never believes that."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from difference_parts import History, put_differences, put_one, trained, weights
from doubles.memory_store import MemoryStore
from doubles.recording_monitor import RecordingMonitor
from mlsync.codec.compression import Coding
from mlsync.codec.digest import FileDigester, FileDigestKind
from mlsync.repository import names, reader
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry, Manifest
from mlsync.restore import bases
from mlsync.restore.restore import RestoreOptions, restore
from mlsync.target.target import Target

COUNT = 12
# Of windows that a reader fills before the first of them is used.
AHEAD = 3


class Noting(MemoryStore):
    """A store that counts the reads of each object."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Count the read."""
        self.reads[key] += 1
        super().read(key, offset, into)


class Tensors:
    """Bases in a pack each, and files of differences from them: each has one chunk for each base."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Each chunk is fetched by itself, so that a base which is read twice shows.
        monkeypatch.setattr(reader, "WINDOW_CHUNKS", 1)
        self.store = Noting()
        self.history = History(0, self.store)
        self.repository = self.history.repository
        self.plains = {0: [weights(seed) for seed in range(100, 100 + COUNT)]}
        self.refs = {0: [put_one(self.store, self.repository.keys, plain) for plain in self.plains[0]]}
        for number in (1, 2, 3):
            self.plains[number] = [trained(plain, number) for plain in self.plains[0]]
            self.refs[number] = [
                put_differences(self.store, self.repository.keys, base, plain, [later])[0]
                for base, plain, later in zip(self.refs[0], self.plains[0], self.plains[number], strict=True)
            ]
            assert {ref.coding for ref in self.refs[number]} == {Coding.DIFFERENCE}

    def restore(self, directory, **files: int) -> dict[str, int]:
        """Restore a version of these files, check what is there, and return how often the store read each base."""
        entries = tuple(self.entry(name, number) for name, number in sorted(files.items()))
        root = self.repository.manifest(self.repository.stored("run", 1)).root
        self.store.reads.clear()
        result = restore(
            self.repository, Manifest(root, entries), os.fsencode(directory), RestoreOptions(), RecordingMonitor()
        )
        assert not result.failures
        for name, number in files.items():
            assert (directory / name).read_bytes() == b"".join(self.plains[number])
        return [self.store.reads[names.pack(ref.pack)] for ref in self.refs[0]]

    def entry(self, name: str, number: int) -> Entry:
        """Return a file of these chunks."""
        digester = FileDigester(FileDigestKind.WHOLE)
        for plain in self.plains[number]:
            digester.update(plain)
        size_bytes = sum(map(len, self.plains[number]))
        chunks = tuple(self.refs[number])
        return Entry(name.encode(), EntryKind.FILE, 0o644, 0, 0, 1, size_bytes, digest=digester.digest(), chunks=chunks)


@pytest.fixture
def tensors(monkeypatch):
    return Tensors(monkeypatch)


def test_a_base_of_several_files_is_fetched_once(tensors, tmp_path):
    """Three files of differences from the same bases, which no file of the version has: one read of each base."""
    assert tensors.restore(tmp_path / "out", a=1, b=2, c=3) == [1] * COUNT
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b", "c"]


def test_a_base_in_the_version_is_read_from_its_restored_file(tensors, tmp_path):
    """The file with the bases comes first, whatever its name, and only what is fetched ahead of its end comes twice."""
    reads = tensors.restore(tmp_path / "out", a=1, b=2, z=0)
    assert reads[AHEAD:] == [1] * (COUNT - AHEAD)
    assert max(reads) <= 2


def test_a_base_in_the_file_that_is_replaced_is_not_fetched(tensors, tmp_path):
    """A directory that holds the bases' version is restored to a later one: the store reads differences alone."""
    tensors.restore(tmp_path / "out", a=0)
    assert tensors.restore(tmp_path / "out", a=1) == [0] * COUNT


def test_a_base_in_a_file_that_is_right_already_is_not_fetched(tensors, tmp_path):
    """A file that stays as it is serves as well."""
    tensors.restore(tmp_path / "out", kept=0)
    assert tensors.restore(tmp_path / "out", kept=0, later=2) == [0] * COUNT


def test_bases_that_went_with_their_file_are_not_read_from_what_replaced_it(tensors, tmp_path):
    """The bases were in a file that this restore has replaced meanwhile: what comes later fetches them."""
    tensors.restore(tmp_path / "out", a=0)
    assert tensors.restore(tmp_path / "out", a=1, b=2)[AHEAD:] == [1] * (COUNT - AHEAD)
    # Nor is a difference read again, as one with a wrong base is.
    assert [tensors.store.reads[names.pack(ref.pack)] for ref in tensors.refs[2]][AHEAD:] == [1] * (COUNT - AHEAD)


def test_the_target_is_never_believed(tensors, tmp_path, monkeypatch):
    """Whatever the target's file says of a base at last, what is restored is right: the base comes from the store."""
    tensors.restore(tmp_path / "out", a=0)

    def lie(_target: Target, _path: bytes, _offset: int, into: memoryview) -> bool:
        into[:] = bytes(len(into))
        return True

    monkeypatch.setattr(Target, "read_part", lie)
    assert tensors.restore(tmp_path / "out", a=1) == [1] * COUNT


def test_a_file_that_went_away_serves_nothing(tensors, tmp_path, monkeypatch):
    """A file that somebody else removed after it was compared: its bases come from the store."""
    tensors.restore(tmp_path / "out", a=0)
    made = bases.BasesAtHand.__init__

    def remove_first(self, *arguments) -> None:
        made(self, *arguments)
        (tmp_path / "out" / "a").unlink()

    monkeypatch.setattr(bases.BasesAtHand, "__init__", remove_first)
    assert tensors.restore(tmp_path / "out", a=1) == [1] * COUNT


@pytest.mark.parametrize("why", ["no room", "no files without names"])
def test_without_a_place_for_bases_they_are_fetched_again(tensors, tmp_path, monkeypatch, why):
    """What is kept takes no room from the files, and needs files without names: else each file fetches its bases."""
    if why == "no room":
        size_bytes = sum(map(len, tensors.plains[0]))
        monkeypatch.setattr(Target, "free_bytes", lambda _target: 2 * size_bytes)
    else:
        monkeypatch.setattr(bases.Spool, "make", lambda _directory: None)
    assert tensors.restore(tmp_path / "out", a=1, b=2) == [2] * COUNT


def test_nothing_is_kept_that_one_file_needs(tensors, tmp_path, monkeypatch):
    """A base of one file is not written to the disk."""
    monkeypatch.setattr(bases.Spool, "make", lambda _directory: pytest.fail("kept"))
    assert tensors.restore(tmp_path / "out", a=1) == [1] * COUNT
