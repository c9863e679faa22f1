import errno
import os
import threading

import pytest
from msgspec.structs import replace
from source_parts import watched

from mlsync.errors import ChangedWhileReading, SourceUnreadable
from mlsync.source import reading
from mlsync.source.chunker import read_pieces
from mlsync.source.racy import COARSE_NS, FINE_NS, is_racy, newest_ns, window_ns
from mlsync.source.reading import SourceFile, _translated
from mlsync.source.scan import FileStat, scan


def test_a_file_at_rest_is_confirmed(root, opened):
    """Size, stat and bytes are the file's, and confirm returns."""
    (root / "a").write_bytes(b"0123456789")
    with opened("a") as file:
        assert file.size_bytes == 10
        assert file.read_at(3, 4) == b"3456"
        assert file.stat == FileStat.of(os.lstat(root / "a"))
        file.confirm()


def test_a_file_just_written_is_opened_past_its_clock_tick(root, opened):
    """However fresh the last write is, the stat that was taken at opening could not stay the same in the next one."""
    for number in range(5):
        (root / "a").write_bytes(b"x" * number)
        with opened("a") as file:
            assert not is_racy(file.stat, file.opened_ns)
            file.confirm()


def test_a_read_past_the_end_raises(root, opened):
    """A file never gives fewer bytes than were asked for."""
    (root / "a").write_bytes(b"0123456789")
    with opened("a") as file, pytest.raises(ChangedWhileReading, match="shorter"):
        file.read_at(8, 3)


def test_a_file_that_is_written_during_the_wait_is_not_confirmed(monkeypatch, root, opened):
    """A file whose last write is too fresh even after the wait could change unseen, and is refused."""
    (root / "a").write_bytes(b"x" * 100)
    monkeypatch.setattr(reading.time, "sleep", lambda _: write(root / "a"))
    with opened("a") as file, pytest.raises(ChangedWhileReading, match="being written"):
        file.confirm()


def write(path):
    with open(path, "r+b") as file:
        file.write(b"y")


def write_and_restore_mtime(path):
    before = os.stat(path)
    write(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_file(path):
    with open(f"{path}.new", "wb") as file:
        file.write(b"x" * 100)
    os.rename(f"{path}.new", path)


def append(path):
    with open(path, "ab") as file:
        file.write(b"z")


def replace_by_symlink(path):
    os.rename(path, f"{path}.moved")
    os.symlink(f"{path}.moved", path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (write, "written"),
        (write_and_restore_mtime, "written"),
        (append, "written"),
        (lambda path: os.truncate(path, 5), "written"),
        (replace_file, "w"),
        (os.unlink, "w"),
        (replace_by_symlink, "w"),
    ],
)
def test_every_change_after_opening_is_found(root, opened, change, words):
    """Confirm raises after a write in place of the same length, even with its mtime put back, and after any swap."""
    (root / "a").write_bytes(b"x" * 100)
    with opened("a") as file:
        change(os.fspath(root / "a"))
        with pytest.raises(ChangedWhileReading, match=words):
            file.confirm()


@pytest.mark.parametrize("change", [replace_file, os.unlink, replace_by_symlink])
def test_a_file_swapped_before_opening_is_not_opened(root, change):
    """What has the name now, and is not what the scan found, is not read."""
    (root / "a").write_bytes(b"x" * 100)
    [found] = scan(watched(root)).found
    change(os.fspath(root / "a"))
    with pytest.raises(ChangedWhileReading):
        SourceFile.open(watched(root), found)


def test_a_pipe_in_the_place_of_a_file_does_not_hang(root):
    """Opening what became a pipe returns at once, with an error."""
    (root / "a").write_bytes(b"x")
    [found] = scan(watched(root)).found
    os.unlink(root / "a")
    os.mkfifo(root / "a")
    with pytest.raises(ChangedWhileReading):
        SourceFile.open(watched(root), found)


def test_a_write_between_scan_and_opening_is_no_change(root):
    """The stat that counts is the one at opening."""
    (root / "a").write_bytes(b"x")
    [found] = scan(watched(root)).found
    append(root / "a")
    with SourceFile.open(watched(root), found) as file:
        assert file.read_at(0, file.size_bytes) == b"xz"
        file.confirm()


def test_a_file_that_may_not_be_read_is_named(open_to_all, unprivileged):
    """No permission is an error of the source, with the path shown safely."""
    path = f"{open_to_all}/a\nb"
    write_bytes = os.open(path, os.O_CREAT | os.O_WRONLY, 0o000)
    os.close(write_bytes)
    [found] = scan(watched(open_to_all)).found
    with unprivileged(), pytest.raises(SourceUnreadable, match=r"Permission denied: .*/a\\u000ab"):
        SourceFile.open(watched(open_to_all), found)


def test_another_owners_file_is_read(open_to_all, unprivileged):
    """The flag that spares the access time is dropped for files of others, who alone may use it."""
    path = f"{open_to_all}/a"
    with open(path, "wb") as file:
        file.write(b"abc")
    os.chmod(path, 0o644)
    [found] = scan(watched(open_to_all)).found
    with unprivileged(), SourceFile.open(watched(open_to_all), found) as file:
        assert file.read_at(0, 3) == b"abc"


def test_errors_of_the_device_are_unreadable_and_stale_handles_are_changes():
    """EIO is the source's error; a handle that an NFS server forgot means that the file was deleted."""
    assert isinstance(_translated(OSError(errno.EIO, "x"), "a"), SourceUnreadable)
    assert isinstance(_translated(OSError(errno.ESTALE, "x"), "a"), ChangedWhileReading)


def test_reading_leaves_no_descriptor_open(root, opened):
    """Close gives the descriptor back, on failure too."""
    (root / "a").write_bytes(b"x")
    with opened("a"):
        pass
    [found] = scan(watched(root)).found
    tree = watched(root)
    before = len(os.listdir("/proc/self/fd"))
    SourceFile.open(tree, found).close()
    with pytest.raises(ChangedWhileReading):
        SourceFile.open(tree, replace(found, stat=found.stat._replace(inode=1)))
    assert len(os.listdir("/proc/self/fd")) == before


def test_data_extents_leave_holes_out(root, opened):
    """Extents are in order, hold all data, and leave out the large holes, also at the end."""
    with (root / "a").open("wb") as writer:
        for offset in (1 << 20, 3 << 20):
            writer.seek(offset)
            writer.write(b"x" * 8192)
        writer.truncate(5 << 20)
    with opened("a") as file:
        extents = file.data_extents()
        if extents == [(0, 5 << 20)]:
            pytest.skip("this file system keeps no holes")
        assert sum(length for _, length in extents) < 1 << 20
        content = (root / "a").read_bytes()
        for offset, length in reversed(extents):
            content = content[:offset] + content[offset + length :]
        assert content == bytes(len(content))
        assert content != b""


def test_data_extents_of_dense_empty_and_all_hole_files(root, opened):
    """A dense file is one extent; an empty one and one that is a single hole have none."""
    (root / "dense").write_bytes(b"x" * 70_000)
    (root / "empty").write_bytes(b"")
    with (root / "hole").open("wb") as writer:
        writer.truncate(1 << 20)
    with opened("dense") as file:
        assert file.data_extents() == [(0, 70_000)]
    with opened("empty") as file:
        assert file.data_extents() == []
    with opened("hole") as file:
        assert file.data_extents() in ([], [(0, 1 << 20)])


def test_small_holes_are_read_as_data(root, opened):
    """Holes below 64 KiB do not break a file into pieces."""
    with (root / "a").open("wb") as writer:
        for offset in range(0, 1 << 20, 32 << 10):
            writer.seek(offset)
            writer.write(b"x" * 4096)
        writer.truncate(1 << 20)
    with opened("a") as file:
        assert len(file.data_extents()) == 1


def test_of_very_many_holes_the_largest_are_kept(root, opened, monkeypatch):
    """However many holes a file has, the long one behind them is not read, and the list of them stays short."""
    monkeypatch.setattr(reading, "_HOLE_COUNT_MAX", 4)
    with (root / "a").open("wb") as writer:
        for number in range(12):
            writer.seek(number * (256 << 10))
            writer.write(b"x" * 4096)
        writer.truncate(1 << 42)
    with opened("a") as file:
        extents = file.data_extents()
        if extents == [(0, 1 << 42)]:
            pytest.skip("this file system keeps no holes")
        assert len(extents) == 4
        assert sum(length for _, length in extents) < 4 << 20
        seen = b"".join(file.read_at(offset, length) for offset, length in extents)
        assert seen.count(b"x") == 12 * 4096


def stat_at(mtime_ns, ctime_ns):
    return FileStat(1, 2, 0o100644, 0, 0, 1, 10, mtime_ns, ctime_ns)


@pytest.mark.parametrize(
    ("mtime_ns", "ctime_ns", "at_ns", "racy"),
    [
        (10**18 + 1, 10**18 + 1, 10**18 + 1 + FINE_NS, False),
        (10**18 + 1, 10**18 + 1, 10**18 + FINE_NS, True),
        (5, 10**18 + 1, 10**18 + FINE_NS, True),  # an old mtime, set by hand, hides nothing
        (10**18, 10**18, 10**18 + FINE_NS, True),  # whole seconds: a file system without finer times
        (10**18, 10**18, 10**18 + COARSE_NS, False),
        (10**18 + 1, 10**18 + 1, 10**18 - 10**12, True),  # the clock was set back
    ],
)
def test_a_stat_says_too_little_within_a_clock_tick(mtime_ns, ctime_ns, at_ns, racy):
    """A stat is trusted only if it was taken clearly after the newest of its times."""
    assert is_racy(stat_at(mtime_ns, ctime_ns), at_ns) is racy


def test_a_file_from_the_future_can_be_read(root, opened):
    """An mtime in the future, as after a clock was set back, does not keep a file from being confirmed."""
    (root / "a").write_bytes(b"x")
    os.utime(root / "a", (4 * 10**9, 4 * 10**9))
    with opened("a") as file:
        assert is_racy(file.stat, file.opened_ns)
        file.confirm()
        write(root / "a")
        with pytest.raises(ChangedWhileReading):
            file.confirm()


def test_a_file_written_all_the_time_is_never_confirmed_torn(root, opened, pool):
    """No reading of a file that is overwritten in place meanwhile, again and again, is confirmed torn."""
    contents = [bytes([number]) * (1 << 20) for number in range(4)]
    path = root / "weights.bin"
    path.write_bytes(contents[0])
    stop = threading.Event()
    written = 0

    def write_on():
        nonlocal written
        number = 0
        with path.open("r+b", buffering=0) as writer:
            while not stop.is_set():
                number += 1
                writer.seek(0)
                for at in range(0, 1 << 20, 1 << 14):
                    writer.write(contents[number % 4][at : at + (1 << 14)])
                    written += 1
                if number % 64 == 0:
                    stop.wait(0.1)

    thread = threading.Thread(target=write_on)
    thread.start()
    confirmed = refused = 0
    try:
        while min(confirmed, refused) < 3:
            before = written
            with opened("weights.bin") as file:
                seen = bytearray()
                for piece in read_pieces(file, None, file.data_extents(), pool, 1):
                    seen += piece.view
                    piece.release()
                try:
                    file.confirm()
                except ChangedWhileReading:
                    refused += 1
                else:
                    confirmed += 1
                    # A busy machine may stop the writer in the middle; the file is still then, and only settling helps.
                    assert bytes(seen) in contents or written == before
    finally:
        stop.set()
        thread.join()


def test_windows_are_taken_from_the_newest_time():
    """A coarse mtime beside a fine ctime does not make a file system coarse."""
    assert window_ns(stat_at(10**18, 10**18 + 5)) == FINE_NS
    assert newest_ns(stat_at(7, 5)) == 7


def test_a_file_beside_is_read_whole_or_not_at_all(root, opened, monkeypatch):
    """A file beside that ends early while it is read counts as none, and so does one over the limit."""
    (root / "a").write_bytes(b"a")
    (root / "b").write_bytes(b"0123456789")
    with opened("a") as file:
        assert file.read_beside(b"b", limit_bytes=10) == b"0123456789"
        assert file.read_beside(b"b", limit_bytes=9) is None
        read = os.pread
        monkeypatch.setattr(os, "pread", lambda descriptor, length, offset: read(descriptor, length - 1, offset))
        assert file.read_beside(b"b", limit_bytes=10) is None
