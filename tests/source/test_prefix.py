import os

import pytest

from mlsync.codec.digest import FileDigester, FileDigestKind
from mlsync.errors import ChangedWhileReading
from mlsync.source.chunker import read_pieces
from mlsync.source.prefix import prefix_unchanged


@pytest.fixture
def log(root):
    """A log of three MiB, so that it is read in several windows."""
    path = root / "results.csv"
    path.write_bytes(os.urandom(3 << 20))
    return path


def digester():
    """A digester of the data alone."""
    return FileDigester(FileDigestKind.DATA)


def read_whole(file, pool):
    extents = file.data_extents()
    whole = digester()
    for piece in read_pieces(file, None, extents, pool, 0, whole):
        piece.release()
    return whole.digest(), extents


def test_a_log_that_grew_keeps_its_prefix(log, opened, pool):
    """A log appended to while it was read is not confirmed, but the part that was there is accepted."""
    with opened("results.csv") as file:
        digest, extents = read_whole(file, pool)
        with log.open("ab") as writer:
            writer.write(b"one more line\n")
        with pytest.raises(ChangedWhileReading):
            file.confirm()
        assert file.size_bytes == 3 << 20
        assert prefix_unchanged(file, file.size_bytes, digest, digester())
        assert prefix_unchanged(file, file.size_bytes, digest, digester(), extents)


@pytest.mark.parametrize("offset", [0, 1 << 20, (3 << 20) - 1])
def test_a_byte_changed_in_the_prefix_is_found(log, opened, pool, offset):
    """A log that grew and also changed in what was there before is not accepted."""
    with opened("results.csv") as file:
        digest, _ = read_whole(file, pool)
        with log.open("r+b") as writer:
            writer.seek(offset)
            old = writer.read(1)
            writer.seek(offset)
            writer.write(bytes([old[0] ^ 1]))
            writer.seek(0, os.SEEK_END)
            writer.write(b"one more line\n")
        assert not prefix_unchanged(file, file.size_bytes, digest, digester())


def test_a_log_cut_short_is_not_accepted(log, opened, pool):
    """A file that became shorter has lost its prefix."""
    with opened("results.csv") as file:
        digest, _ = read_whole(file, pool)
        os.truncate(log, (3 << 20) - 1)
        assert not prefix_unchanged(file, file.size_bytes, digest, digester())


@pytest.mark.parametrize("successor", [True, False])
def test_a_rotated_log_is_not_accepted(log, opened, pool, successor):
    """The prefix is one of the file that has the name now, or of none."""
    with opened("results.csv") as file:
        digest, _ = read_whole(file, pool)
        log.rename(log.with_suffix(".1"))
        if successor:
            log.write_bytes(b"new")
        assert not prefix_unchanged(file, file.size_bytes, digest, digester())


def test_a_hole_that_was_filled_is_a_change(root, opened, pool):
    """A part that was a hole at the first reading and has data at the second is not the prefix that was read."""
    path = root / "sparse.log"
    with path.open("wb") as writer:
        writer.write(b"a" * 4096)
        writer.seek(1 << 20)
        writer.write(b"b" * 4096)
    with opened("sparse.log") as file:
        digest, extents = read_whole(file, pool)
        if extents == [(0, file.size_bytes)]:
            pytest.skip("this file system keeps no holes")
        assert prefix_unchanged(file, file.size_bytes, digest, digester(), extents)
        with path.open("r+b") as writer:
            writer.seek(1 << 19)
            writer.write(b"c")
        assert not prefix_unchanged(file, file.size_bytes, digest, digester(), extents)
