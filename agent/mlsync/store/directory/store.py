"""A store in a directory: each object is a file that was written elsewhere, synced, and linked into its place."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlsync import errors
from mlsync.beneath import Beneath
from mlsync.buffers import Buffer
from mlsync.courtesy.pressure import PACE
from mlsync.direct_io import DIRECT_FROM_BYTES, bytes_before_aligned, read_cached, read_direct
from mlsync.store.base import MARKER, ObjectInfo, Store, Upload, check_key, check_prefix, is_key, view_of
from mlsync.store.directory.os_errors import is_transient, translated, translating
from mlsync.store.directory.unfinished import DIRECTORY_MODE, ORPHAN_AGE_S, UnfinishedFile, remove_orphans
from mlsync.store.directory.upload import DirectoryUpload

PART_BYTES = 8 << 20
# More than there are processors: while one waits for the disk another codes, or opens what was read.
WRITES_AT_ONCE = 4
READS_AT_ONCE = min(6, (os.cpu_count() or 1) + 1)

# What can stand where an object belongs, as a person calls it.
_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_NO_DIRECTORY_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


# Opening a pipe must not wait for whoever writes to it; for files it means nothing.
_READING = os.O_RDONLY | os.O_NONBLOCK
_ADVICE = "check whether its disk is mounted; nothing was written there"


class DirectoryStore(Store):
    """Objects as files below *root*; other files and the ``tmp`` directory there are not objects and not shown.

    The root is held open, and everything is reached from its descriptor without following a symbolic link. If the disk
    is unmounted or the root replaced while the store is open, nothing is ever read from or written to what is then
    found under the root's name: ``RepositoryMissing`` says so, before the next object is made, looked up or listed.

    What is written to has to be a repository: without the object ``repository`` the place may be the bare mount point
    of a disk that is away, and not even a directory is made in it. Who begins a repository there says *create*.
    """

    def __init__(self, root: Path, *, create: bool = False) -> None:
        self._root = root
        self._creates = create
        with translating(str(root)):
            if create:
                _make_root(root)
            self._beneath = _open_root(root)
            self._pinned = os.fstat(self._beneath.descriptor)
        self._durable_directories: set[str] = set()
        self._tidy(time.time())

    @property
    def url(self) -> str:
        """The place as a URL."""
        return self._root.as_uri()

    @property
    def part_bytes(self) -> int:
        """The length of an upload's parts."""
        return PART_BYTES

    @property
    def writes_at_once(self) -> int:
        """How many uploads at a time keep the store busy."""
        return WRITES_AT_ONCE

    @property
    def reads_at_once(self) -> int:
        """How many reads at a time keep the store busy."""
        return READS_AT_ONCE

    def put(self, key: str, body: Buffer) -> None:
        """Create the object *key*: written, synced, linked, its directory synced."""
        check_key(key)
        with self._creating(key):
            self._refuse_elsewhere()
            file = UnfinishedFile(self._beneath)
            try:
                file.write(0, body)
                file.sync()
                self._publish(file, key)
            finally:
                file.discard()

    def upload(self, key: str) -> Upload:
        """Begin an object in parts, in a file of its own."""
        check_key(key)
        with self._creating(key):
            self._refuse_elsewhere()
            file = UnfinishedFile(self._beneath)
        return DirectoryUpload(
            file,
            part_bytes=PART_BYTES,
            where=self._where(key),
            translating=lambda: self._creating(key),
            publish=lambda: self._publish(file, key),
        )

    def resume(self, key: str, token: str) -> Upload:  # noqa: ARG002 - the contract's signature
        """Raise ``NotFound``: a directory's uploads have no tokens, as sending their parts again crosses no network."""
        raise errors.NotFound("the uploaded parts are gone", where=self._where(key))

    def remove_stale_uploads(self, age_s: float) -> int:
        """Remove what crashed writers left; a file that someone still writes is locked, and stays."""
        return self._tidy(time.time() + ORPHAN_AGE_S - age_s)

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill *into* with the object's bytes from *offset*."""
        rest = view_of(into)
        with self._opened(key) as fd, PACE.moving(len(rest)):
            count = self._read_long(key, fd, offset, rest)
            while rest := rest[count:]:
                offset += count
                count = os.preadv(fd, [rest], offset)
                if count == 0:
                    raise _not_as_written("the object ends before what was to be read", self._where(key))

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """The whole of a small object."""
        self._check_root()
        with self._opened(key) as fd:
            size_bytes = os.fstat(fd).st_size
            if size_bytes > limit_bytes:
                raise _not_as_written(f"the object is longer than {limit_bytes} bytes", self._where(key))
            content = bytearray(size_bytes)
            got_bytes = os.preadv(fd, [content], 0)
            while 0 < got_bytes < size_bytes:
                more_bytes = os.preadv(fd, [memoryview(content)[got_bytes:]], got_bytes)
                if more_bytes == 0:
                    break
                got_bytes += more_bytes
        if got_bytes != size_bytes:
            raise _not_as_written("the object ends before its size", self._where(key))
        return bytes(content)

    def stat(self, key: str) -> ObjectInfo:
        """The object's size and time."""
        check_key(key)
        self._check_root()
        with self._looking(key):
            found = self._beneath.stat(key.encode())
        self._refuse_no_file(found, key)
        return ObjectInfo(key, found.st_size, found.st_mtime)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Every object under *prefix* after *after*; memory holds the names of one directory per level."""
        check_prefix(prefix)
        self._check_root()
        start = prefix[: prefix.rfind("/") + 1]
        yield from self._walk(start, prefix, after)
        # A root that was removed under our feet looks like an empty one.
        self._check_root()

    def strays(self, prefix: str) -> Iterator[tuple[str, str]]:
        """What lies under *prefix* and is no object, without looking into any of it."""
        with self._opened_directory(prefix) as fd:
            if fd is None:
                return
            with translating(self._where(prefix)), os.scandir(fd) as entries:
                # Only what is no file costs a call: of packs there may be many.
                found = sorted(
                    (entry.name, stat.S_IFREG if entry.is_file(follow_symlinks=False) else _kind_of(entry))
                    for entry in entries
                    if not entry.is_file(follow_symlinks=False) or not is_key(prefix + entry.name)
                )
        for name, kind in found:
            path = prefix + name
            yield path, _KINDS.get(kind, "something that is no file")
            if kind == stat.S_IFDIR and is_key(path):
                yield from self.strays(f"{path}/")

    def delete(self, key: str) -> None:
        """The object is gone; after a power cut it may be back, which prune expects of any store."""
        check_key(key)
        self._check_root()
        with (
            translating(self._where(key)),
            contextlib.suppress(FileNotFoundError),
            self._beneath.beside(key.encode()) as (directory, name),
        ):
            os.unlink(name, dir_fd=directory)

    def is_transient(self, error: Exception) -> bool:
        """Whether the operating system's error behind *error* may pass."""
        return is_transient(error)

    def close(self) -> None:
        """Give the root back, so that its disk can be unmounted."""
        self._beneath.close()

    def _read_long(self, key: str, fd: int, offset: int, view: memoryview) -> int:
        """Fill the front of *view*, and say how much of it: all but a few bytes if it is long and lies right.

        What the page cache holds is taken from there, and the rest past it, so that nothing else is pushed out.
        """
        if len(view) < DIRECT_FROM_BYTES:
            return 0
        # The few bytes at the edges come through the cache, and nothing around them need come with them.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        done = read_cached(fd, offset, view)
        head_bytes = min(bytes_before_aligned(offset + done), len(view) - done)
        if head_bytes and os.preadv(fd, [view[done : done + head_bytes]], offset + done) < head_bytes:
            return done
        done += head_bytes
        return done + read_direct(lambda flags: self._open(key, flags), offset + done, view[done:])

    def _walk(self, directory: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """The objects below *directory* (empty, or ending in ``/``) in key order."""
        with self._opened_directory(directory) as fd:
            if fd is None:
                return
            for sort_name in self._names(fd, directory):
                path = directory + sort_name
                if not path.endswith("/"):
                    if path.startswith(prefix) and path > after:
                        yield from self._info_unless_deleted(fd, path)
                    continue
                # Everything below sorts before *after* unless it begins with the same path.
                is_done = path < after and not after.startswith(path)
                if not is_done and (path.startswith(prefix) or prefix.startswith(path)):
                    yield from self._walk(path, prefix, after)

    @contextmanager
    def _opened_directory(self, directory: str) -> Iterator[int | None]:
        """Give a directory's descriptor; ``None`` if nothing at all stands there."""
        with translating(self._where(directory)):
            try:
                fd = self._beneath.open_directory(directory.rstrip("/").encode())
            except FileNotFoundError:
                fd = None
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    def _names(self, fd: int, directory: str) -> Sequence[str]:
        """The names in *directory*, directories with a ``/`` at the end: so ``a-b`` < ``a/x`` < ``a0``, as in S3."""
        with translating(self._where(directory)), os.scandir(fd) as entries:
            names = (f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in entries)
            return sorted(name for name in names if is_key(directory + name.rstrip("/")))

    def _info_unless_deleted(self, fd: int, path: str) -> Iterator[ObjectInfo]:
        with translating(self._where(path)):
            try:
                found = os.stat(os.path.basename(path), dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                return
        if stat.S_ISLNK(found.st_mode):
            # What it leads to may be a directory full of objects: left out, the listing would be a short one.
            what = "a symbolic link is in the repository, and mlsync follows none"
            where, advice = self._where(path), "replace it by what it leads to, or remove it"
            raise errors.StoreBroken(what, where=where, advice=advice, is_of_object=True)
        if stat.S_ISREG(found.st_mode):
            yield ObjectInfo(path, found.st_size, found.st_mtime)

    def _publish(self, file: UnfinishedFile, key: str) -> None:
        """*file* is the object *key*, and stays it after a power cut."""
        directory = os.path.dirname(key)
        self._refuse_elsewhere()
        self._make_directories(directory)
        try:
            file.become(key.encode())
        except FileNotFoundError:  # somebody removed the empty directory
            self._durable_directories.clear()
            self._make_directories(directory)
            file.become(key.encode())
        finally:
            # Even if the object was there: whoever is told so may rely on it, and the one who made it may be dead.
            self._sync_directory(directory)

    def _make_directories(self, directory: str) -> None:
        """*directory* is there and stays there after a power cut; synced once per store, whoever made it."""
        if not directory or directory in self._durable_directories:
            return
        parent = os.path.dirname(directory)
        self._make_directories(parent)
        with contextlib.suppress(FileExistsError), self._beneath.beside(directory.encode()) as (above, name):
            os.mkdir(name, DIRECTORY_MODE, dir_fd=above)
        self._sync_directory(parent)
        self._durable_directories.add(directory)

    def _sync_directory(self, directory: str) -> None:
        _sync(self._beneath.open_directory(directory.encode()))

    def _tidy(self, now_s: float) -> int:
        """What crashed writers left is gone, and how many that was; what is no repository has nothing of ours."""
        return remove_orphans(self._beneath, now_s=now_s) if self._is_repository() else 0

    def _is_repository(self) -> bool:
        try:
            return stat.S_ISREG(self._beneath.stat(MARKER.encode()).st_mode)
        except OSError:
            return False

    def _refuse_elsewhere(self) -> None:
        """Raise unless this still is the place that was opened, and a repository: before anything is made in it."""
        self._check_root()
        if not self._creates and not self._is_repository():
            raise errors.RepositoryMissing("the repository is gone", where=str(self._root), advice=_ADVICE)

    def _check_root(self) -> None:
        """Raise unless the root's name leads to the directory that was opened: a disk may be gone from under it."""
        with translating(str(self._root)):
            try:
                is_pinned = os.path.samestat(os.stat(self._root), self._pinned)
            except (FileNotFoundError, NotADirectoryError):
                is_pinned = False
        if not is_pinned:
            what = "the repository's directory is gone, or another one replaced it"
            raise errors.RepositoryMissing(what, where=str(self._root), advice=_ADVICE)

    def _open(self, key: str, flags: int) -> int:
        return self._beneath.open_file(key.encode(), flags | _READING)

    def _refuse_no_file(self, found: os.stat_result, key: str) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise _not_as_written("something that is not a file is where an object should be", self._where(key))

    @contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        check_key(key)
        with self._looking(key):
            fd = self._open(key, 0)
            try:
                self._refuse_no_file(os.fstat(fd), key)
                yield fd
            finally:
                os.close(fd)

    @contextmanager
    def _looking(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            self._check_root()
            raise errors.NotFound("no such object", where=self._where(key)) from error
        except OSError as error:
            raise translated(error, self._where(key)) from error

    @contextmanager
    def _creating(self, key: str) -> Iterator[None]:
        """Translate; that something of our own is not there is no ``NotFound`` while an object is made."""
        try:
            yield
        except FileNotFoundError as error:
            self._check_root()
            what = "a file or directory of the repository disappeared during a write"
            raise errors.StoreUnavailable(what, where=self._where(key)) from error
        except OSError as error:
            raise translated(error, self._where(key)) from error

    def _where(self, key: str) -> str:
        return str(self._root / key)


def _kind_of(entry: os.DirEntry[str]) -> int:
    """What an entry of a directory is, or 0 if it is gone since."""
    try:
        return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return 0


def _open_root(root: Path) -> Beneath:
    try:
        return Beneath.open(os.fsencode(root))
    except FileNotFoundError as error:
        advice = "check the path and whether its disk is mounted, or make a repository with: mlsync init"
        raise errors.RepositoryMissing("no such directory", where=str(root), advice=advice) from error
    except NotADirectoryError as error:
        raise errors.StoreLocationInvalid("not a directory", where=str(root)) from error


def _make_root(root: Path) -> None:
    """*root* and its missing parents are there and stay there after a power cut."""
    missing = [path for path in (root, *root.parents) if not path.exists()]
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, DIRECTORY_MODE)
        _sync(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _sync(fd: int) -> None:
    """Sync an open directory, and close it."""
    try:
        os.fsync(fd)
    except OSError as error:
        # CIFS and some FUSE file systems have no such call; what they promise of names they promise without it.
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(fd)


def _not_as_written(what: str, where: str) -> errors.StoreBroken:
    """What stands in an object's place is not what was put there."""
    return errors.StoreBroken(what, where=where, is_of_object=True)
