"""Objects of a directory store that are not finished: files in ``tmp/`` that become objects by one atomic step."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlsync.direct_io import write_direct
from mlsync.store.base import Buffer, view_of

DIRECTORY = "tmp"
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
ORPHAN_AGE_S = 3600

_LOCK_FILE = "create-lock"
_RENAME_NOREPLACE = 1

# What file systems answer that cannot make hard links: FAT and exFAT EPERM, many FUSE ones ENOTSUP or ENOSYS,
# ecryptfs and some network ones EMLINK (one link is the most), overlays of two file systems EXDEV.
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_NO_NOREPLACE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class UnfinishedFile:
    """A file in ``tmp/`` that this process writes and that nobody else may remove: it is locked while it is open.

    Paths are relative to *root_fd*, so that an unmounted or moved root can never send bytes to another place.
    """

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self.path = f"{DIRECTORY}/{secrets.token_hex(16)}"
        self.fd = _create(self.path, root_fd)
        try:
            _lock(self.fd)
        except OSError:
            self.discard()
            raise

    def write(self, offset: int, part: Buffer) -> None:
        """The whole of *part* is in the file at *offset*, though perhaps not on the disk yet."""
        rest = view_of(part)
        written = write_direct(self._open_again, offset, rest)
        while rest := rest[written:]:
            offset += written
            written = os.pwrite(self.fd, rest, offset)
            if written == 0:
                raise OSError(errno.EIO, "a write of some bytes wrote none")

    def sync(self) -> None:
        """The bytes are on the disk, or the error that kept one of them from it is raised."""
        os.fsync(self.fd)
        # NFS and FUSE report some write errors only when a descriptor is closed. Closing a second one asks for
        # them while the object does not exist yet, and keeps the lock, which the first one holds.
        os.close(os.dup(self.fd))

    def become(self, path: str) -> None:
        """The file stands at *path* too or instead; ``FileExistsError`` if something else stands there."""
        try:
            create_only(self.path, path, self._root_fd)
        except FileExistsError:
            # After a lost answer (NFS sends a LINK again whose reply was lost) the thing in the way is ourselves.
            if not self._stands_at(path):
                raise

    def discard(self) -> None:
        """The file in ``tmp/`` is gone and its descriptor closed; never raises, and may be called again."""
        if self.fd < 0:
            return
        with contextlib.suppress(OSError):  # gone already after a rename; else it is removed as an orphan later
            os.unlink(self.path, dir_fd=self._root_fd)
        fd, self.fd = self.fd, -1
        with contextlib.suppress(OSError):  # write errors were asked for in sync()
            os.close(fd)

    def _open_again(self, flags: int) -> int:
        return os.open(self.path, flags | os.O_CLOEXEC, dir_fd=self._root_fd)

    def _stands_at(self, path: str) -> bool:
        ours, theirs = os.fstat(self.fd), os.stat(path, dir_fd=self._root_fd, follow_symlinks=False)
        return os.path.samestat(ours, theirs)


def create_only(source: str, target: str, root_fd: int) -> None:
    """*source* stands at *target*, atomically; ``FileExistsError`` if *target* was taken, which is left as it was.

    A hard link is preferred: it is create-only on every file system that has it, NFS included. The renames are for
    those that have none (FAT, exFAT, many FUSE ones).
    """
    try:
        os.link(source, target, src_dir_fd=root_fd, dst_dir_fd=root_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _rename_no_replace(source, target, root_fd)


def _rename_no_replace(source: str, target: str, root_fd: int) -> None:
    rename = _renameat2()
    if rename is not None and rename(root_fd, source.encode(), root_fd, target.encode(), _RENAME_NOREPLACE) == 0:
        return
    number = ctypes.get_errno() if rename is not None else errno.ENOSYS
    if number not in _NO_NOREPLACE:
        raise OSError(number, os.strerror(number), target)
    _rename_under_lock(source, target, root_fd)


def _rename_under_lock(source: str, target: str, root_fd: int) -> None:
    """Rename while all other writers wait, for file systems that have neither hard links nor a rename that refuses.

    An empty file made with O_EXCL as a claim would be seen by readers as an object, and would outlive a crash. A
    lock does neither. It holds among the machines that share the file system if that passes locks on; a file system
    without locks is refused by the error that locking raises.
    """
    fd = os.open(f"{DIRECTORY}/{_LOCK_FILE}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE, dir_fd=root_fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            os.stat(target, dir_fd=root_fd, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        os.rename(source, target, src_dir_fd=root_fd, dst_dir_fd=root_fd)
    finally:
        os.close(fd)


@functools.cache
def _renameat2() -> ctypes._NamedFuncPointer | None:
    """The C library's renameat2; None where it has none."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    function.restype = ctypes.c_int
    return function


def remove_orphans(root_fd: int, *, now_s: float | None = None) -> int:
    """What crashed writers left in ``tmp/`` is gone; the count is given.

    A file is an orphan if nobody has written to it for an hour and nobody holds its lock. The hour covers the
    moment between making a file and locking it. Tidying is no condition of anything else: a read-only repository,
    or one without locks, stays as it is.
    """
    now_s = time.time() if now_s is None else now_s
    removed_count = 0
    with contextlib.suppress(OSError), _scan(root_fd) as entries:
        for entry in entries:
            if entry.name != _LOCK_FILE and _is_orphan(root_fd, entry, now_s):
                with contextlib.suppress(OSError):
                    os.unlink(f"{DIRECTORY}/{entry.name}", dir_fd=root_fd)
                    removed_count += 1
    return removed_count


@contextmanager
def _scan(root_fd: int) -> Iterator[Iterator[os.DirEntry[str]]]:
    fd = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root_fd)
    try:
        with os.scandir(fd) as entries:
            yield entries
    finally:
        os.close(fd)


def _is_orphan(root_fd: int, entry: os.DirEntry[str], now_s: float) -> bool:
    try:
        if not entry.is_file(follow_symlinks=False):
            return False
        if now_s - entry.stat(follow_symlinks=False).st_mtime < ORPHAN_AGE_S:
            return False
        # For writing, since NFS turns the lock into a byte-range lock, which wants that.
        fd = os.open(f"{DIRECTORY}/{entry.name}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root_fd)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _create(path: str, root_fd: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, FILE_MODE, dir_fd=root_fd)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):  # another thread was as quick
            os.mkdir(DIRECTORY, DIRECTORY_MODE, dir_fd=root_fd)
        return os.open(path, flags, FILE_MODE, dir_fd=root_fd)


def _lock(fd: int) -> None:
    """Nobody takes the file for an orphan; where there are no locks, nobody ever takes a file for one."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
