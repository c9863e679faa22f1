"""The digest of each file of a version: BLAKE3 of the whole file, as far as its holes may be hashed."""

from __future__ import annotations

import os

import msgspec
import pytest
from blake3 import blake3

from flow_parts import RUN, noise, small_checkpoint
from mlsync.backup.files_cache import decode_row, encode_row, pack_entry
from mlsync.backup.storing import archiver
from mlsync.codec import digest
from mlsync.errors import ObjectDamaged
from mlsync.monitor import SilentMonitor
from mlsync.repository.commit import commit
from mlsync.repository.manifest import Manifest, Previous
from mlsync.upkeep.check import check

KIB, MIB = 1 << 10, 1 << 20


class Counting:
    """BLAKE3 without a key that counts what it is fed."""

    fed_bytes = 0

    def __init__(self, *content, **options):
        self._hash = blake3(*content, **options)

    def update(self, view):
        """Count and hash."""
        Counting.fed_bytes += memoryview(view).nbytes
        self._hash.update(view)

    def digest(self, *length):
        """What BLAKE3 says."""
        return self._hash.digest(*length)


def sparse(world, name, *parts):
    """A file of parts: bytes, or the length of a hole."""
    with open(world.path(name), "wb") as file:
        for part in parts:
            if isinstance(part, int):
                file.seek(part, os.SEEK_CUR)
            else:
                file.write(part)
        file.truncate(file.tell())
    assert os.stat(world.path(name)).st_blocks * 512 < sum(p if isinstance(p, int) else len(p) for p in parts)


def said(world, name):
    """The digest of a file in the last version, and how many holes it has."""
    entry = world.entry(name)
    return entry.blake3, len(entry.holes)


def of_file(world, name):
    """BLAKE3 of what the kernel reads."""
    return blake3(content_of(world, name)).digest()


def content_of(world, name):
    """What the kernel reads."""
    with open(world.path(name), "rb") as file:
        return file.read()


def test_each_file_has_the_digest_of_its_bytes(world):
    """A checkpoint, a log, an empty file, and files with holes in front, inside and behind: BLAKE3 of what is read."""
    world.write("last.pt", small_checkpoint())
    world.write("results.csv", b"1,2,3\n" * 1000)
    world.write("empty", b"")
    sparse(world, "mixed.bin", 128 * KIB, noise(200_000), 256 * KIB, noise(70_000, 1), 100 * KIB)
    sparse(world, "nothing.bin", MIB)
    world.backup()
    for name, hole_count in (
        (b"last.pt", 0),
        (b"results.csv", 0),
        (b"empty", 0),
        (b"mixed.bin", 3),
        (b"nothing.bin", 1),
    ):
        assert said(world, name) == (of_file(world, name), hole_count)
    assert world.restored() == world.tree()
    assert world.check().problems == []


def test_a_long_hole_is_neither_hashed_nor_claimed(world, monkeypatch):
    """A tebibyte of hole costs nothing at backup, check and restore: the digest is of the data, and says so."""
    data = noise(48 * 4 * KIB)  # whole blocks: the kernel tells of holes by blocks
    sparse(world, "huge.log", data, 1 << 40)
    sparse(world, "bare.log", 1 << 40)
    monkeypatch.setattr(digest, "blake3", Counting)
    Counting.fed_bytes = 0
    world.backup()
    assert Counting.fed_bytes == 2 * len(data)  # read, and read back
    assert said(world, b"huge.log") == said(world, b"bare.log") == (None, 1)
    assert world.entry(b"huge.log").digest == b"\2" + blake3(data).digest()
    assert world.check().problems == []
    world.restore()
    assert Counting.fed_bytes < 8 * len(data)
    assert os.stat(world.base / "out" / "huge.log").st_size == len(data) + (1 << 40)


def test_an_unchanged_file_keeps_its_digest_unread(world):
    """The next version has the digest of the one before without a byte being read; a lost state reads it again."""
    world.write("last.pt", small_checkpoint())
    sparse(world, "sparse.bin", noise(100_000), 128 * KIB)
    world.backup()
    first = [world.entry(name).digest for name in (b"last.pt", b"sparse.bin")]
    world.write("new.txt", b"new")
    assert world.backup().read_bytes == 3
    assert [world.entry(name).digest for name in (b"last.pt", b"sparse.bin")] == first
    world.lose_state()
    world.write("newer.txt", b"newer")
    world.backup()
    assert [world.entry(name).digest for name in (b"last.pt", b"sparse.bin")] == first


def test_a_filled_hole_changes_no_digest(world):
    """A copy that wrote its hole out as zeros is the same file to whoever compares digests."""
    sparse(world, "a.bin", noise(300_000), 256 * KIB)
    world.backup()
    before = said(world, b"a.bin")
    world.write("a.bin", content_of(world, "a.bin"))
    world.backup()
    assert said(world, b"a.bin") == (before[0], 0)


def test_a_log_that_grows_has_the_digest_of_the_part_that_is_kept(world, monkeypatch):
    """What was appended while the file was read is in neither content nor digest, whether it has a hole or not."""
    sparse(world, "log.csv", b"1,2\n" * 30_000, 128 * KIB, b"3,4\n" * 30_000)
    kept = of_file(world, "log.csv")
    real = archiver.read_pieces

    def grow(file, *given, **options):
        yield from real(file, *given, **options)
        world.append("log.csv", b"5,6\n")

    monkeypatch.setattr(archiver, "read_pieces", grow)
    world.backup()
    assert said(world, b"log.csv") == (kept, 1)


def test_an_old_local_state_is_not_believed(world):
    """Rows of the files cache with the digests of an older mlsync count as none: the file is read again."""
    content = noise(50_000)
    world.write("a.bin", content)
    world.backup()
    ((_, file),) = world.state.cached_files(RUN).items()
    row = decode_row(file.entry)
    old = msgspec.structs.replace(world.entry(b"a.bin"), digest=bytes(range(16)))
    row.packed_entry = pack_entry(old)
    with world.state._transaction() as connection:
        connection.execute("UPDATE files SET entry = ?", (encode_row(row),))
    world.write("b.txt", b"b")
    assert world.backup().read_bytes == len(content) + 1
    assert said(world, b"a.bin") == (blake3(content).digest(), 0)
    assert world.numbers() == [1, 2]


def test_a_restored_file_is_compared_with_its_holes(world):
    """A restore into what is there compares the whole file, and refuses one that a forged digest says is another."""
    sparse(world, "a.bin", noise(300_000), 256 * KIB, noise(300_000, 1))
    world.backup()
    world.restore()
    with (world.base / "out" / "a.bin").open("r+b") as file:
        file.write(b"changed")
    world.restore()
    assert (world.base / "out" / "a.bin").read_bytes() == content_of(world, "a.bin")
    _commit(world, {b"a.bin": {"digest": b"\1" + blake3(b"another").digest()}})
    for place in ("out", "elsewhere"):
        (world.base / "out" / "a.bin").write_bytes(b"")
        with pytest.raises(ObjectDamaged, match="not what was backed up"):
            world.restore(2, place)


def test_equal_data_between_other_holes_is_told_apart(world):
    """Two files of the same chunks with holes at other places have a digest each, and a check compares both."""
    data = noise(128 * KIB)
    sparse(world, "behind.bin", data, 64 * KIB)
    sparse(world, "front.bin", 64 * KIB, data)
    world.backup()
    front, behind = world.entry(b"front.bin"), world.entry(b"behind.bin")
    assert front.chunks == behind.chunks
    assert front.digest != behind.digest
    assert world.check().problems == []
    _commit(world, {b"front.bin": {"digest": behind.digest}})
    (problem,) = check(world.repository, SilentMonitor(), read_data=True).problems
    assert problem.versions == ((RUN, 2),)
    assert "front.bin" in problem.text


def _commit(world, changes):
    """Forge a version that differs from the first one's entries in these fields."""
    manifest = world.manifest(1)
    entries = tuple(msgspec.structs.replace(one, **changes.get(one.path, {})) for one in manifest.entries)
    previous = Previous(1, world.repository.stored(RUN, 1).digest)
    root = msgspec.structs.replace(manifest.root, number=2, previous=previous)
    commit(world.repository, Manifest(root, entries), lambda _: None)
