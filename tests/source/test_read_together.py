"""Small files of one directory, read together: what is returned is what held still, and all else is left alone."""

import errno
import os

import pytest
from source_parts import watched

from mlsync.source import small_files
from mlsync.source.racy import FINE_NS
from mlsync.source.scan import scan
from mlsync.source.small_files import SMALL_FILE_BYTES_MAX, TOGETHER_MAX, read_together, together


@pytest.fixture(autouse=True)
def _later(monkeypatch):
    """Each file was written long ago."""
    later_ns = small_files.time.time_ns() + 3600 * 10**9
    monkeypatch.setattr(small_files.time, "time_ns", lambda: later_ns)


def files_of(root):
    """The files of a directory as a scan finds them."""
    return [found for found in scan(root).found if found.kind == "file"]


def write_files(root, count=3, size_bytes=10):
    for number in range(count):
        (root / f"{number:03}").write_bytes(bytes([number % 256]) * size_bytes)


def read(directory):
    """The contents of a directory's files, which are read together."""
    root = watched(directory)
    return read_together(root, files_of(root))[1]


def test_small_files_are_read_whole_and_in_order(root):
    """Each content is at its file's place; an empty file has one too, and so has the longest that is small."""
    (root / "a").write_bytes(b"one")
    (root / "b").write_bytes(b"")
    (root / "c").write_bytes(b"x" * SMALL_FILE_BYTES_MAX)
    assert read(root) == [b"one", b"", b"x" * SMALL_FILE_BYTES_MAX]


def test_the_time_is_not_later_than_the_first_opening(root, monkeypatch):
    """The time that the files cache keeps was taken before anything was opened: a later one would hide a write."""
    write_files(root)
    steps = []
    opened, now_ns = os.open, small_files.time.time_ns
    monkeypatch.setattr(small_files.time, "time_ns", lambda: steps.append("time") or now_ns())
    directory = watched(root)
    found = files_of(directory)
    monkeypatch.setattr(os, "open", lambda *args, **options: steps.append("open") or opened(*args, **options))
    assert read_together(directory, found)[0] == now_ns()
    assert steps[0] == "time"


def test_a_small_file_costs_six_calls(root, monkeypatch):
    """One each to open, look, ask for attributes, read, look by name and close; the directory is opened once."""
    write_files(root, 50)
    directory = watched(root)
    found = files_of(directory)
    counts = dict.fromkeys(("open", "fstat", "listxattr", "read", "stat", "close"), 0)

    def counted(name):
        real = getattr(os, name)

        def call(*args, **options):
            counts[name] += 1
            return real(*args, **options)

        return call

    for name in counts:
        monkeypatch.setattr(os, name, counted(name))
    assert None not in read_together(directory, found)[1]
    assert counts == {"open": 50, "fstat": 50, "listxattr": 50, "read": 50, "stat": 50, "close": 51}


def test_a_file_that_was_just_written_is_left_alone(root, monkeypatch):
    """In the clock tick of its last write a file may change without a trace: whoever can wait reads it."""
    write_files(root, 2)
    os.utime(root / "001", ns=(0, 1_700_000_000_000_000_001))
    newest_ns = max(os.stat(root / name).st_ctime_ns for name in ("000", "001"))
    monkeypatch.setattr(small_files.time, "time_ns", lambda: newest_ns + FINE_NS // 2)
    assert read(root) == [None, None]
    monkeypatch.setattr(small_files.time, "time_ns", lambda: newest_ns + FINE_NS + 10**6)
    assert read(root) == [b"\0" * 10, b"\1" * 10]


def test_a_file_with_a_hole_or_attributes_is_left_alone(root):
    """Holes and attributes are kept by the long way alone."""
    write_files(root, 3)
    with open(root / "000", "wb") as file:
        file.truncate(9000)
    try:
        os.setxattr(root / "001", "user.note", b"kept")
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip("this file system has no attributes")
    assert read(root) == [None, None, b"\2" * 10]


def write(path):
    path.write_bytes(b"y" * 10)


def append(path):
    with open(path, "ab") as file:
        file.write(b"z")


def replace(path):
    new = path.with_name("new")
    new.write_bytes(b"y" * 10)
    os.rename(new, path)


def replace_by_a_link(path):
    os.rename(path, path.with_name("moved"))
    os.symlink("moved", path)


def replace_by_a_pipe(path):
    os.unlink(path)
    os.mkfifo(path)


CHANGES = [write, append, replace, replace_by_a_link, replace_by_a_pipe, os.unlink, lambda path: os.chmod(path, 0)]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changed_since_the_scan_is_left_alone(root, change):
    """What has the name now is not what was found; its neighbours are read all the same."""
    write_files(root)
    directory = watched(root)
    found = files_of(directory)
    change(root / "001")
    assert read_together(directory, found)[1] == [b"\0" * 10, None, b"\2" * 10]


@pytest.mark.parametrize("change", CHANGES[:-1])
def test_a_file_that_changes_while_it_is_read_is_left_alone(root, change, monkeypatch):
    """A write, a replacement or a deletion between the two looks shows in the second."""
    write_files(root)
    directory = watched(root)
    found = files_of(directory)
    real = os.read

    def read_late(descriptor, length):
        content = real(descriptor, length)
        if content == b"\1" * 10:
            change(root / "001")
        return content

    monkeypatch.setattr(os, "read", read_late)
    assert read_together(directory, found)[1] == [b"\0" * 10, None, b"\2" * 10]


def test_a_directory_that_is_replaced_meanwhile_gives_nothing(root, monkeypatch):
    """The names were looked up in a directory that is elsewhere by now: none of them is what the scan found there."""
    (root / "sub").mkdir()
    write_files(root / "sub")
    directory = watched(root)
    found = files_of(directory)
    real = os.read

    def read_late(descriptor, length):
        if (root / "sub").is_dir() and not (root / "moved").exists():
            os.rename(root / "sub", root / "moved")
            (root / "sub").mkdir()
        return real(descriptor, length)

    monkeypatch.setattr(os, "read", read_late)
    assert read_together(directory, found)[1] == [None] * 3


@pytest.mark.parametrize("is_walked", [False, True])
def test_no_link_is_followed_to_a_directory(root, tmp_path, is_walked):
    """A directory that became a symbolic link leads to files of the same stat, and none of them is opened."""
    (root / "sub").mkdir()
    write_files(root / "sub")
    directory = watched(root)
    directory._has_openat2 = directory._has_openat2 and not is_walked
    found = files_of(directory)
    os.rename(root / "sub", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", root / "sub")
    assert read_together(directory, found)[1] == [None] * 3


def test_a_file_that_cannot_be_opened_is_left_alone(root, monkeypatch):
    """A refusal is the archiver's to report; one of the access time's flag alone is no refusal."""
    write_files(root, 2)
    directory = watched(root)
    found = files_of(directory)
    real = os.open

    def refusing(path, flags, *args, **options):
        if path == b"000" or flags & os.O_NOATIME:
            raise PermissionError(errno.EPERM, "no")
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refusing)
    assert read_together(directory, found)[1] == [None, b"\1" * 10]


def test_no_descriptor_stays_open(root, monkeypatch):
    """Whatever goes wrong with a file, it is closed."""
    write_files(root, 5)
    directory = watched(root)
    found = files_of(directory)
    append(root / "001")
    os.unlink(root / "002")
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "listxattr", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    assert read_together(directory, found)[1] == [None] * 5
    assert os.listdir("/proc/self/fd") == before


def test_files_of_one_directory_come_together(root):
    """Small neighbours are one list, up to its length; what is large or has two names is alone, and the order stays."""
    (root / "sub").mkdir()
    write_files(root, TOGETHER_MAX + 2)
    write_files(root / "sub", 2)
    (root / "001x").write_bytes(b"x" * (SMALL_FILE_BYTES_MAX + 1))
    (root / "twice").write_bytes(b"x")
    os.link(root / "twice", root / "twice.again")
    found = files_of(watched(root))
    groups = list(together(found))
    assert [one for group in groups for one in group] == found
    assert list(map(len, groups)) == [2, 1, TOGETHER_MAX, 2, 1, 1]
    assert list(map(len, together(found, most=1))) == [1] * len(found)


def test_a_short_read_is_no_content(root, monkeypatch):
    """Network file systems may return fewer bytes than there are; the long way asks for the rest."""
    write_files(root, 2)
    directory = watched(root)
    found = files_of(directory)
    real = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, length: real(descriptor, length)[:9])
    assert read_together(directory, found)[1] == [None, None]


def test_what_was_opened_is_what_was_found(root, monkeypatch):
    """Another file that had the name only for the moment of the opening is not read for it."""
    write_files(root, 2)
    directory = watched(root)
    found = files_of(directory)
    real = os.open

    def swapped(path, *args, **options):
        return real(b"001" if path == b"000" else path, *args, **options)

    monkeypatch.setattr(os, "open", swapped)
    assert read_together(directory, found)[1] == [None, b"\1" * 10]


def test_a_file_is_opened_without_following_or_waiting(root, monkeypatch):
    """No link is followed, no pipe is waited for, and no child process inherits the descriptor."""
    write_files(root, 1)
    directory = watched(root)
    found = files_of(directory)
    real = os.open
    flags = []
    monkeypatch.setattr(os, "open", lambda path, how, **options: flags.append(how) or real(path, how, **options))
    assert read_together(directory, found)[1] == [b"\0" * 10]
    wanted = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    assert [how & wanted for how in flags] == [wanted]
