"""What can go wrong only in a directory store: leftovers, full disks, missing roots, file systems without links."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlsync import errors
from mlsync.store.directory import create_only, pending_file
from mlsync.store.directory.store import DirectoryStore


@pytest.fixture
def root(tmp_path):
    """Where the store of this test lies."""
    return tmp_path / "repository"


@pytest.fixture
def store(root):
    """An open store in an empty directory."""
    store = DirectoryStore(root, create=True)
    yield store
    store.close()


def leftovers(root):
    """The names in the store's directory of temporary files."""
    return sorted(path.name for path in (root / "tmp").iterdir())


def test_missing_root_is_no_repository(root):
    """Opening creates the directory only if asked to."""
    with pytest.raises(errors.RepositoryMissing):
        DirectoryStore(root)
    assert not root.exists()


def test_file_as_root_is_refused(root):
    """A file is refused as the location of a repository."""
    root.write_bytes(b"")
    with pytest.raises(errors.StoreLocationInvalid):
        DirectoryStore(root)


def test_modes_keep_other_users_out(store, root):
    """Files are 0600 and directories 0700, the root and its new parents included."""
    store.put("packs/ab/x", b"x")
    deep = DirectoryStore(root / "new" / "deep", create=True)
    deep.close()
    assert (root / "packs/ab/x").stat().st_mode & 0o777 == 0o600
    for path in (root, root / "packs", root / "packs/ab", root / "tmp", root / "new", root / "new/deep"):
        assert path.stat().st_mode & 0o777 == 0o700


def test_put_leaves_no_temporary_file(store, root):
    """After a put, accepted or refused, tmp is empty."""
    store.put("a", b"x")
    with pytest.raises(errors.AlreadyExists):
        store.put("a", b"x")
    assert leftovers(root) == []


CRASHING = """
import os, signal, sys
from pathlib import Path
from mlsync.store.directory.store import DirectoryStore
store = DirectoryStore(Path(sys.argv[1]), create=True)
store.put("repository", b"")
upload = store.upload("packs/ab/crashed")
upload.write(0, bytes(1000))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_writer_leaves_only_a_temporary_file(root):
    """SIGKILL during an upload leaves no object; the temporary file is removed after an hour, not before."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run([sys.executable, "-c", CRASHING, str(root)], env=environment, check=False)
    assert process.returncode == -9
    store = DirectoryStore(root)
    assert list(store.list("packs/")) == []
    assert len(leftovers(root)) == 1
    assert pending_file.remove_stale_files(store._root.beneath, now_s=time.time() + 3500) == 0
    assert pending_file.remove_stale_files(store._root.beneath, now_s=time.time() + 3700) == 1
    assert leftovers(root) == []
    store.close()


def test_opening_removes_old_leftovers_that_nobody_holds(store, root):
    """Opening the store removes old temporary files; new, foreign and locked ones stay."""
    store.put("repository", b"")
    upload = store.upload("packs/ab/slow")
    (held,) = leftovers(root)
    old, young, strange = "0" * 32, "1" * 32, "thesis.odt"
    long_ago_s = time.time() - 2 * 3600
    for name in (old, young, strange):
        (root / "tmp" / name).write_bytes(b"x")
    for name in (old, strange, held):
        os.utime(root / "tmp" / name, (long_ago_s, long_ago_s))
    DirectoryStore(root).close()
    assert leftovers(root) == sorted([held, young, strange])
    upload.write(0, b"done")
    upload.finish(4)
    assert store.get("packs/ab/slow", limit_bytes=4) == b"done"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"only root can mount a small disk here: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


def test_full_disk_is_told_and_leaves_nothing(small_disk):
    """A put and an upload that do not fit raise StoreFull and free their space at once; smaller ones succeed."""
    store = DirectoryStore(small_disk / "repository", create=True)
    with pytest.raises(errors.StoreFull) as caught:
        store.put("packs/ab/large", bytes(2 << 20))
    assert not store.is_transient(caught.value)
    upload = store.upload("packs/ab/larger")
    with pytest.raises(errors.StoreFull):
        upload.write(0, bytes(2 << 20))
    assert leftovers(small_disk / "repository") == []
    with pytest.raises(errors.StoreUnavailable):
        upload.finish(0)
    store.put("packs/ab/small", bytes(500 << 10))
    assert [info.key for info in store.list("")] == ["packs/ab/small"]
    store.close()


def test_foreign_files_are_not_objects(store, root):
    """Names that are not keys, entries that are not files, and tmp itself are not listed."""
    store.put("packs/ab/x", b"x")
    (root / "lost+found").mkdir()
    (root / "lost+found/#123").write_bytes(b"")
    (root / "packs/README.txt").write_bytes(b"")
    os.mkfifo(root / "packs/fifo")
    (root / "tmp/unfinished").write_bytes(b"")
    assert [info.key for info in store.list("")] == ["packs/ab/x"]


@pytest.mark.parametrize("leads_to", ["/nowhere/at/all", "elsewhere"])
def test_symbolic_link_makes_a_listing_fail_instead_of_short(store, root, leads_to):
    """A listing neither follows nor skips a symbolic link, which may lead to a directory full of packs: it raises."""
    store.put("packs/ab/x", b"x")
    (root.parent / "elsewhere").mkdir()
    (root / "packs/cd").symlink_to(root.parent / leads_to)
    with pytest.raises(errors.StoreBroken, match="packs/cd"):
        list(store.list(""))


def test_nothing_goes_through_a_symbolic_link(store, root, tmp_path):
    """The store does not write, read, list or delete through a directory that was swapped for a link."""
    store.put("packs/ab/x", b"x")
    outside = tmp_path / "outside"
    (root / "packs").rename(outside)
    (root / "packs").symlink_to(outside)
    before = sorted(outside.rglob("*"))
    upload = store.upload("packs/ab/z")
    upload.write(0, b"z")
    for call in (
        lambda: store.put("packs/ab/y", b"y"),
        lambda: store.put("packs/cd/y", b"y"),
        lambda: upload.finish(1),
        lambda: store.get("packs/ab/x", limit_bytes=1),
        lambda: store.read("packs/ab/x", 0, memoryview(bytearray(1))),
        lambda: store.stat("packs/ab/x"),
        lambda: list(store.list("packs/")),
        lambda: store.delete("packs/ab/x"),
    ):
        with pytest.raises(errors.StoreBroken):
            call()
    upload.abort()
    assert sorted(outside.rglob("*")) == before


def test_directory_of_temporary_files_is_not_a_link(root, tmp_path):
    """If tmp is a symbolic link, nothing is written or removed where it leads."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ("0" * 32)).write_bytes(b"x")
    os.utime(outside / ("0" * 32), (0, 0))
    root.mkdir()
    (root / "repository").write_bytes(b"")
    (root / "tmp").symlink_to(outside)
    store = DirectoryStore(root)
    with pytest.raises(errors.StoreBroken):
        store.put("packs/ab/x", b"x")
    store.close()
    assert [path.name for path in outside.iterdir()] == ["0" * 32]


def make_socket(path):
    """A socket with this name."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


def make_device(path):
    """A device that never ends, as root can make it."""
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    except PermissionError as error:
        pytest.skip(f"only root can make a device: {error}")


@pytest.mark.parametrize("make", [os.mkfifo, make_socket, make_device, os.mkdir])
def test_what_is_no_file_is_no_object_and_hangs_nobody(store, root, tmp_path, monkeypatch, make):
    """A pipe, a socket, a device or a directory in an object's place is refused at once."""
    monkeypatch.chdir(tmp_path)
    store.put("packs/ab/x", b"x")
    make(root / "packs/ab/odd")
    for call in (
        lambda: store.get("packs/ab/odd", limit_bytes=100),
        lambda: store.read("packs/ab/odd", 0, memoryview(bytearray(1))),
        lambda: store.stat("packs/ab/odd"),
    ):
        with pytest.raises(errors.StoreBroken, match="packs/ab/odd"):
            call()
    with pytest.raises(errors.AlreadyExists):
        store.put("packs/ab/odd", b"x")
    assert [info.key for info in store.list("")] == ["packs/ab/x"]


def test_object_that_is_deleted_during_a_listing_is_left_out(store):
    """A listing leaves out an object that was deleted before its turn, and continues."""
    for key in ("a/1", "a/2", "b/1", "c"):
        store.put(key, b"")
    listing = store.list("")
    assert next(listing).key == "a/1"
    store.delete("a/2")
    store.delete("b/1")
    assert [info.key for info in listing] == ["c"]


def calls_of(store):
    """Every way to ask for an object, or to make one."""
    return (
        lambda: list(store.list("")),
        lambda: store.stat("a"),
        lambda: store.get("a", limit_bytes=1),
        lambda: store.put("b", b"x"),
        lambda: store.upload("c"),
        lambda: store.delete("a"),
    )


@pytest.mark.parametrize("has_another", [False, True])
def test_removed_root_is_an_error_and_not_an_empty_store(store, root, has_another):
    """If its directory is gone, a store raises instead of listing nothing, and creates no object under the old name."""
    store.put("a", b"x")
    (root / "a").unlink()
    (root / "tmp").rmdir()
    root.rmdir()
    if has_another:
        root.mkdir()
        (root / "repository").write_bytes(b"")
    for call in calls_of(store):
        with pytest.raises(errors.RepositoryMissing):
            call()
    assert not has_another or [path.name for path in root.iterdir()] == ["repository"]


def test_place_without_a_header_is_not_written_to(root):
    """Without the repository object nothing is created or removed: the disk may not be mounted."""
    (root / "tmp").mkdir(parents=True)
    (root / "tmp" / ("0" * 32)).write_bytes(b"x")
    os.utime(root / "tmp" / ("0" * 32), (0, 0))
    store = DirectoryStore(root)
    for call in (lambda: store.put("packs/ab/x", b"x"), lambda: store.upload("packs/ab/x")):
        with pytest.raises(errors.RepositoryMissing):
            call()
    assert store.remove_stale_uploads(0) == 0
    store.close()
    assert [path.relative_to(root).as_posix() for path in sorted(root.rglob("*"))] == ["tmp", "tmp/" + "0" * 32]


def test_upload_is_not_finished_where_the_header_vanished(store, root):
    """An upload that began in a repository creates no object once the repository is gone."""
    store.put("repository", b"")
    opened = DirectoryStore(root)
    upload = opened.upload("packs/ab/x")
    upload.write(0, b"x")
    (root / "repository").unlink()
    with pytest.raises(errors.RepositoryMissing):
        upload.finish(1)
    upload.abort()
    opened.close()
    assert not (root / "packs").exists()


UNMOUNTED = """
import os, subprocess, sys
from pathlib import Path
from mlsync import errors
from mlsync.store.directory.store import DirectoryStore
place = Path(sys.argv[1])
run = lambda *command: subprocess.run(command, check=True)
run("mount", "-t", "tmpfs", "tmpfs", str(place))
store = DirectoryStore(place, create=True)
store.put("repository", b"")
store.close()
store = DirectoryStore(place)
upload = store.upload("packs/ab/x")
upload.write(0, b"x")
run("umount", "--lazy", str(place))
for call in (lambda: upload.finish(1), lambda: store.put("b", b""), lambda: store.get("repository", limit_bytes=9)):
    try:
        call()
        sys.exit("went on")
    except errors.RepositoryMissing:
        pass
assert os.listdir(place) == []
"""


def in_private_mounts(script, *arguments):
    """Run a Python *script* that mounts and unmounts without anybody else seeing it."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount something")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("a mount namespace of its own is not to be had here")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = ["unshare", "--mount", sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_disk_that_is_unmounted_while_the_store_is_open_is_noticed(tmp_path):
    """After umount --lazy the store creates nothing, neither on the old disk nor in the bare mount point."""
    done = in_private_mounts(UNMOUNTED, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("number", "kind"), [(errno.EACCES, errors.StoreDenied), (errno.EIO, errors.StoreUnavailable)])
def test_unreadable_directory_fails_the_listing(store, monkeypatch, number, kind):
    """A listing raises if it cannot read a directory, instead of taking it for empty."""
    store.put("packs/ab/x", b"x")

    def unreadable(_fd):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "scandir", unreadable)
    with pytest.raises(kind):
        list(store.list("packs/"))


def test_write_to_a_removed_directory_makes_it_again(store, root):
    """A put makes a directory again that somebody removed."""
    store.put("packs/ab/x", b"x")
    store.delete("packs/ab/x")
    (root / "packs/ab").rmdir()
    store.put("packs/ab/y", b"y")
    assert [info.key for info in store.list("")] == ["packs/ab/y"]


def refuse_links(number):
    """An ``os.link`` of a file system that has none and says so with *number*."""

    def link(*_arguments, **_options):
        raise OSError(number, os.strerror(number))

    return link


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
@pytest.mark.parametrize("has_rename", [True, False])
def test_file_system_without_hard_links_is_create_only_too(store, root, monkeypatch, number, has_rename):
    """Without hard links, a rename that never overwrites creates the object."""
    monkeypatch.setattr(os, "link", refuse_links(number))
    if not has_rename:
        monkeypatch.setattr(create_only, "_renameat2", lambda: None)
    store.put("packs/ab/x", b"first")
    with pytest.raises(errors.AlreadyExists):
        store.put("packs/ab/x", b"second")
    assert store.get("packs/ab/x", limit_bytes=10) == b"first"
    assert set(leftovers(root)) <= {"create-lock"}


def test_lost_bytes_are_not_forgotten_by_a_second_finish(store, root, monkeypatch):
    """After a failed sync an upload stays lost, whatever the next sync returns."""
    upload = store.upload("packs/ab/x")
    upload.write(0, b"x")
    real_fsync = os.fsync

    def broken(fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(errors.StoreUnavailable):
        upload.finish(1)
    monkeypatch.setattr(os, "fsync", real_fsync)
    with pytest.raises(errors.StoreUnavailable, match="lost bytes") as caught:
        upload.finish(1)
    assert not store.is_transient(caught.value)
    upload.abort()
    assert list(store.list("")) == []
    assert leftovers(root) == []


def test_object_is_synced_before_its_name_and_its_name_before_put_returns(store, monkeypatch):
    """Bytes are synced, then linked, then the directory, and a new directory's parent, are synced."""
    events = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(fd):
        events.append("sync " + Path(os.readlink(f"/proc/self/fd/{fd}")).parent.name)
        real_fsync(fd)

    def link(*arguments, **options):
        events.append("link")
        real_link(*arguments, **options)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    store.put("ab/x", b"x")
    (root_parent,) = {store._root.path.parent.name}
    assert events == ["sync tmp", f"sync {root_parent}", "link", "sync repository"]


def test_temporary_file_is_locked_while_it_is_written(store, root):
    """The lock shows other processes that the file is in use."""
    upload = store.upload("a")
    (name,) = leftovers(root)
    with (root / "tmp" / name).open("r+b") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    upload.abort()


@pytest.mark.parametrize(
    ("number", "kind", "is_transient"),
    [
        (errno.ENOSPC, errors.StoreFull, False),
        (errno.EDQUOT, errors.StoreFull, False),
        (errno.EACCES, errors.StoreDenied, False),
        (errno.EPERM, errors.StoreDenied, False),
        (errno.EROFS, errors.StoreDenied, False),
        (errno.EIO, errors.StoreUnavailable, True),
        (errno.ESTALE, errors.StoreUnavailable, True),
        (errno.ENODEV, errors.StoreUnavailable, False),
        (errno.ENOTDIR, errors.StoreBroken, False),
    ],
)
def test_error_of_the_system_becomes_one_of_ours(store, root, monkeypatch, number, kind, is_transient):
    """Each errno becomes an error of its class that names the object, transient or not."""

    def broken(*_arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", broken)
    with pytest.raises(kind) as caught:
        store.put("packs/ab/x", b"x")
    assert type(caught.value) is kind
    assert "packs/ab/x" in str(caught.value)
    assert store.is_transient(caught.value) is is_transient
    assert leftovers(root) == []


def test_what_is_no_object_is_a_stray(directory_store, tmp_path):
    """Directories, links, pipes and files whose names are not keys are strays, once each; no link is followed."""
    directory_store.put("versions/aa/01", b"x")
    folder = tmp_path / "repository" / "versions"
    (folder / "aa" / "02").mkdir()
    (folder / "link").symlink_to("/etc")
    os.mkfifo(folder / "pipe")
    (folder / "UPPER").write_bytes(b"x")
    assert list(directory_store.strays("versions/")) == [
        ("versions/UPPER", "a file"),
        ("versions/aa", "a directory"),
        ("versions/aa/02", "a directory"),
        ("versions/link", "a symbolic link"),
        ("versions/pipe", "a pipe"),
    ]
