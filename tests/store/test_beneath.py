"""Access to files below a directory goes through descriptors, and no path leads out."""

import contextlib
import errno
import os
import stat
import subprocess
import threading

import pytest

from mlsync import beneath
from mlsync.beneath import Beneath, reopen

# What the kernel says of a symbolic link where none may be.
REFUSED = "Too many levels of symbolic links|Not a directory"


@pytest.fixture(params=["openat2", "step by step"])
def way(request, monkeypatch):
    """Both ways of walking: with the kernel's help, and as on kernels and in containers without it."""
    if request.param == "step by step":
        monkeypatch.setattr(beneath, "_openat2_works", lambda directory: False)
    return request.param


@pytest.fixture
def tree(tmp_path, way):
    """A directory with a file, one in a directory, links that lead out, and a secret outside."""
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "top").write_bytes(b"top")
    (root / "a" / "b" / "file").write_bytes(b"inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"secret")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "a" / "link").symlink_to(tmp_path / "outside" / "file")
    with Beneath.open(os.fsencode(root)) as opened:
        yield opened


def read(descriptor):
    """All that a file holds; the descriptor is closed."""
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def test_a_file_is_opened_by_its_path(tree):
    """A path of several parts gives the file of that name."""
    assert read(tree.open_file(b"a/b/file", os.O_RDONLY)) == b"inside"
    assert read(tree.open_file(b"top", os.O_RDONLY)) == b"top"


@pytest.mark.parametrize("path", [b"out/file", b"a/link"])
def test_no_symbolic_link_is_followed(tree, path):
    """A link as a step on the way, or in the place of the file, is an error and not a way out."""
    with pytest.raises(OSError, match=REFUSED):
        tree.open_file(path, os.O_RDONLY)


@pytest.mark.parametrize(
    "path", [b"", b"..", b"a/../../outside/file", b"/etc/passwd", b"a//b", b"a/./b", b"a/b/", b"a\0b"]
)
def test_what_is_no_path_below_is_refused(tree, path):
    """A path that leads up, is absolute or contains a zero byte never reaches the kernel."""
    with pytest.raises(ValueError, match="not a path below a directory"):
        tree.open_file(path, os.O_RDONLY)


def test_a_directory_is_opened_for_listing_and_syncing(tree):
    """The descriptor of a directory, the root's too, can be listed and synced."""
    for path, names in ((b"", {"a", "out", "top"}), (b"a/b", {"file"})):
        descriptor = tree.open_directory(path)
        assert set(os.listdir(descriptor)) == names
        os.fsync(descriptor)
        os.close(descriptor)


def test_a_file_is_no_directory(tree):
    """Opening a file as a directory fails."""
    with pytest.raises(NotADirectoryError):
        tree.open_directory(b"top")


def test_a_new_file_gets_its_mode(tree):
    """A file that is created has the mode that was asked for, and is not there twice."""
    descriptor = tree.open_file(b"a/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o640
    os.close(descriptor)
    with pytest.raises(FileExistsError):
        tree.open_file(b"a/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def test_a_file_without_a_name_can_be_made(tree):
    """``O_TMPFILE`` gives a file that has no name yet."""
    try:
        descriptor = tree.open_file(b"a", os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("this file system has no files without names")
        raise
    assert os.fstat(descriptor).st_nlink == 0
    os.close(descriptor)


def test_names_are_changed_beside_each_other(tree):
    """Renames and deletions happen in the directory that was opened."""
    with tree.beside(b"a/b/file") as (here, name), tree.beside(b"top") as (there, other):
        os.rename(name, other, src_dir_fd=here, dst_dir_fd=there)
    assert read(tree.open_file(b"top", os.O_RDONLY)) == b"inside"


def test_the_directory_of_a_name_is_not_reached_through_a_link(tree):
    """A link as a step on the way to a name is refused as it is on the way to a file."""
    with pytest.raises(OSError, match=REFUSED), tree.beside(b"out/file"):
        pass


def test_a_stat_is_of_the_link_itself(tree):
    """The stat of a symbolic link says that it is one."""
    assert stat.S_ISLNK(tree.stat(b"out").st_mode)
    assert tree.stat(b"a/b/file").st_size == 6
    with pytest.raises(FileNotFoundError):
        tree.stat(b"a/none")


def test_a_directory_that_was_moved_away_is_still_the_one_that_was_opened(tree, tmp_path):
    """Paths are relative to the opened directory, even if another one has its name by now."""
    (tmp_path / "root").rename(tmp_path / "moved")
    (tmp_path / "root").symlink_to(tmp_path / "outside")
    assert read(tree.open_file(b"a/b/file", os.O_RDONLY)) == b"inside"


def test_a_path_that_is_too_long_for_one_call_is_walked(tree):
    """A path longer than the kernel accepts in one call still works."""
    directory = os.dup(tree.descriptor)
    parts = []
    for _ in range(20):
        name = b"d" * 250
        parts.append(name)
        os.mkdir(name, dir_fd=directory)
        below = os.open(name, os.O_PATH | os.O_DIRECTORY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(os.open(b"deep", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=directory))
    os.close(directory)
    assert tree.stat(b"/".join([*parts, b"deep"])).st_size == 0


def test_no_descriptor_is_left_open(tree):
    """After each call, successful or not, only the directory itself is open."""
    before = set(os.listdir("/proc/self/fd"))
    for path in (b"out/file", b"a/link", b"a/none/x", b"none", b"a/b/file/x"):
        with pytest.raises(OSError, match=f"{REFUSED}|No such file"):
            tree.open_file(path, os.O_RDONLY)
    tree.stat(b"a/b/file")
    with tree.beside(b"a/b/file"):
        pass
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_directory_that_is_swapped_all_the_time_never_leads_out(tree, tmp_path):
    """While another process swaps a directory and a link, nobody ever reads the secret outside."""
    root, over = tmp_path / "root", threading.Event()
    (root / "spare").symlink_to(tmp_path / "outside")

    def swap():
        while not over.is_set():
            for here, there in (("a", "kept"), ("spare", "a"), ("a", "spare"), ("kept", "a")):
                (root / here).rename(root / there)

    (root / "a" / "file").write_bytes(b"mine")
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        contents, rounds = set(), 0
        # A busy machine may give the neighbour all the time for a while.
        while rounds < 2000 or (not contents and rounds < 200_000):
            rounds += 1
            with contextlib.suppress(OSError):
                contents.add(read(tree.open_file(b"a/file", os.O_RDONLY)))
    finally:
        over.set()
        thread.join()
    assert contents == {b"mine"}


def test_another_file_system_is_not_entered_where_that_is_forbidden(tmp_path, way):
    """With one_file_system a mount below the directory is refused; without it, it is read."""
    root = tmp_path / "root"
    (root / "mount").mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "none", root / "mount"], capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        (root / "mount" / "file").write_bytes(b"there")
        with Beneath.open(os.fsencode(root)) as all_of_it:
            assert read(all_of_it.open_file(b"mount/file", os.O_RDONLY)) == b"there"
        with Beneath.open(os.fsencode(root), one_file_system=True) as one, pytest.raises(OSError, match="cross-device"):
            one.open_file(b"mount/file", os.O_RDONLY)
    finally:
        subprocess.run(["umount", root / "mount"], check=True)


def test_an_open_file_is_opened_again_whatever_its_name(tmp_path):
    """Reopening gives the same file, even if its name leads to another one by now."""
    (tmp_path / "file").write_bytes(b"first")
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    (tmp_path / "file").unlink()
    (tmp_path / "file").write_bytes(b"second")
    assert read(reopen(descriptor, os.O_RDONLY)) == b"first"
    os.close(descriptor)
