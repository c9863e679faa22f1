"""Temporary files of a directory store, in ``tmp/``: each becomes an object in one atomic step.

Every path is below the store's directory and is reached from its descriptor (``mlsync.beneath``): an unmounted or moved
directory never sends bytes to another place, and nobody's symbolic link is followed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mlsync.beneath import Beneath, reopen
from mlsync.buffers import Buffer
from mlsync.courtesy.limit import UPLOAD
from mlsync.courtesy.pressure import PACE
from mlsync.direct_io import write_direct
from mlsync.store.base import view_of
from mlsync.store.directory.access import Access
from mlsync.store.directory.create_only import create_only
from mlsync.store.directory.directories import LOCK_FILE, TMP, make_directory, temporary_path

STALE_AGE_S: Final = 3600

_OURS: Final = re.compile(rb"[0-9a-f]{32}")
# What one call of the kernel copies: a limit, a pause and a signal wait for no longer.
_COPY_BYTES: Final = 64 << 20
_NO_COPY: Final = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY}
_NO_LOCKS: Final = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class PendingFile:
    """A file in ``tmp/`` that this process writes; its lock keeps other processes from removing it."""

    def __init__(self, root: Beneath, access: Access) -> None:
        self._root = root
        self._access = access
        self.path = temporary_path()
        self.fd = _create(self.path, root, access)
        try:
            access.give(self.fd, access.pending_mode)
            _lock(self.fd)
        except OSError:
            self.discard()
            raise

    def write(self, offset: int, part: Buffer) -> None:
        """Write all of *part* at *offset*; ``sync`` makes it durable."""
        whole = view_of(part)
        for may_go in UPLOAD.pieces(len(whole)):
            for piece in PACE.pieces(may_go.stop - may_go.start):
                start = may_go.start + piece.start
                self._write_piece(offset + start, whole[start : may_go.start + piece.stop])

    def _write_piece(self, offset: int, rest: memoryview) -> None:
        written = write_direct(self._open_again, offset, rest)
        while rest := rest[written:]:
            offset += written
            written = os.pwrite(self.fd, rest, offset)
            if written == 0:
                raise OSError(errno.EIO, "a write of some bytes wrote none")

    def copy_from(self, source: int, size_bytes: int) -> bool:
        """Have the kernel copy the file open as *source*; return ``False`` if it cannot, between these file systems.

        Where both are one file system that shares blocks, none are written.
        """
        at = 0
        for may_go in UPLOAD.pieces(size_bytes):
            while at < may_go.stop:
                count = min(may_go.stop - at, _COPY_BYTES)
                try:
                    with PACE.moving(count):
                        copied = os.copy_file_range(source, self.fd, count, at, at)
                except OSError as error:
                    if at == 0 and error.errno in _NO_COPY:
                        return False
                    raise
                if copied == 0:
                    raise OSError(errno.EIO, "a file ended while it was copied")
                at += copied
        return True

    def sync(self) -> None:
        """Make the bytes durable, or raise the error that one of the writes met."""
        with PACE.moving(0):
            os.fsync(self.fd)
        # NFS and FUSE report some write errors only when a descriptor is closed. Closing a second one asks for them
        # before the object exists, and keeps the lock, which belongs to the first one.
        os.close(os.dup(self.fd))

    def become(self, path: bytes) -> None:
        """Give the file the name *path*, also or instead; raise ``FileExistsError`` if another file has it."""
        self._access.give(self.fd, self._access.object_mode)
        try:
            create_only(self.path, path, self._root, LOCK_FILE, self._access)
        except FileExistsError:
            # NFS sends a LINK again whose answer was lost, and then this file is in its own way.
            if not self._has_name(path):
                raise

    def replace(self, path: bytes) -> None:
        """Give the file the name *path*, in one step, whatever file had it before."""
        self._access.give(self.fd, self._access.object_mode)
        with self._root.beside(self.path) as (from_fd, from_name), self._root.beside(path) as (to_fd, to_name):
            os.rename(from_name, to_name, src_dir_fd=from_fd, dst_dir_fd=to_fd)

    def discard(self) -> None:
        """Remove the file from ``tmp/`` and close it; never raises, and does nothing the second time."""
        if self.fd < 0:
            return
        # After a rename the name is gone; if unlink fails, the file is removed as stale later.
        with contextlib.suppress(OSError), self._root.beside(self.path) as (directory, name):
            os.unlink(name, dir_fd=directory)
        fd, self.fd = self.fd, -1
        with contextlib.suppress(OSError):  # sync() asked for write errors
            os.close(fd)

    def _open_again(self, flags: int) -> int:
        """Open this very file: its name in ``tmp/`` may belong to another file by now, if others may write there."""
        try:
            return reopen(self.fd, flags)
        except FileNotFoundError:  # without /proc the caller writes through the page cache
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from None

    def _has_name(self, path: bytes) -> bool:
        return os.path.samestat(os.fstat(self.fd), self._root.stat(path))


def remove_stale_files(root: Beneath, *, now_s: float | None = None) -> int:
    """Remove what crashed writers left in ``tmp/``; return how many files that were.

    A file is stale if it has a name as only mlsync makes them, nobody wrote to it for an hour, and nobody holds its
    lock. The hour covers the moment between creating a file and locking it. Errors are ignored: a repository that is
    read-only, or without locks, keeps its files.
    """
    now_s = time.time() if now_s is None else now_s
    removed_count = 0
    with contextlib.suppress(OSError), _opened_directory(root) as fd:
        for name in map(os.fsencode, os.listdir(fd)):
            if _OURS.fullmatch(name) and _is_stale(fd, name, now_s):
                with contextlib.suppress(OSError):
                    _remove(fd, name)
                    removed_count += 1
    return removed_count


@contextmanager
def _opened_directory(root: Beneath) -> Iterator[int]:
    fd = root.open_directory(TMP)
    try:
        yield fd
    finally:
        os.close(fd)


def _is_stale(directory: int, name: bytes, now_s: float) -> bool:
    try:
        fd = _open_to_lock(directory, name)
    except OSError:
        return False
    try:
        found = os.fstat(fd)
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)) or now_s - found.st_mtime < STALE_AGE_S:
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _remove(directory: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:  # it is empty, or not ours
        os.rmdir(name, dir_fd=directory)


def _open_to_lock(directory: int, name: bytes) -> int:
    """Open a file for writing, because NFS turns the lock into a byte-range lock, which needs that.

    What cannot be written is locked as it is: a file that was about to become a group's object, or a directory.
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(name, flags | os.O_RDWR, dir_fd=directory)
    except (PermissionError, IsADirectoryError):
        return os.open(name, flags | os.O_RDONLY, dir_fd=directory)


def _create(path: bytes, root: Beneath, access: Access) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    try:
        return root.open_file(path, flags, access.pending_mode)
    except FileNotFoundError:
        make_directory(TMP, root, access)
        return root.open_file(path, flags, access.pending_mode)


def _lock(fd: int) -> None:
    """Lock the file so that nobody takes it for stale; without locks, nobody ever takes a file for stale."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
