"""Objects of a directory store that are not finished: files in ``tmp/`` that become objects by one atomic step.

Every path is below the store's directory and reached from its descriptor (``mlsync.beneath``): an unmounted or moved
directory never sends bytes to another place, and no symbolic link is followed, whoever put one there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlsync.beneath import Beneath, reopen
from mlsync.buffers import Buffer
from mlsync.courtesy.pressure import PACE
from mlsync.direct_io import write_direct
from mlsync.store.base import view_of

DIRECTORY = b"tmp"
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
ORPHAN_AGE_S = 3600

_LOCK_FILE = b"create-lock"
_OURS = re.compile(rb"[0-9a-f]{32}")
_RENAME_NOREPLACE = 1

# What file systems answer that cannot make hard links: FAT and exFAT EPERM, many FUSE ones ENOTSUP or ENOSYS,
# ecryptfs and some network ones EMLINK (one link is the most), overlays of two file systems EXDEV.
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_NO_NOREPLACE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class UnfinishedFile:
    """A file in ``tmp/`` that this process writes and that nobody else may remove: it is locked while it is open."""

    def __init__(self, root: Beneath) -> None:
        self._root = root
        self.path = DIRECTORY + b"/" + secrets.token_hex(16).encode()
        self.fd = _create(self.path, root)
        try:
            _lock(self.fd)
        except OSError:
            self.discard()
            raise

    def write(self, offset: int, part: Buffer) -> None:
        """The whole of *part* is in the file at *offset*, though perhaps not on the disk yet."""
        whole = view_of(part)
        for piece in PACE.pieces(len(whole)):
            self._write_piece(offset + piece.start, whole[piece])

    def _write_piece(self, offset: int, rest: memoryview) -> None:
        written = write_direct(self._open_again, offset, rest)
        while rest := rest[written:]:
            offset += written
            written = os.pwrite(self.fd, rest, offset)
            if written == 0:
                raise OSError(errno.EIO, "a write of some bytes wrote none")

    def sync(self) -> None:
        """The bytes are on the disk, or the error that kept one of them from it is raised."""
        with PACE.moving(0):
            os.fsync(self.fd)
        # NFS and FUSE report some write errors only when a descriptor is closed. Closing a second one asks for
        # them while the object does not exist yet, and keeps the lock, which the first one holds.
        os.close(os.dup(self.fd))

    def become(self, path: bytes) -> None:
        """The file stands at *path* too or instead; ``FileExistsError`` if something else stands there."""
        try:
            create_only(self.path, path, self._root)
        except FileExistsError:
            # After a lost answer (NFS sends a LINK again whose reply was lost) the thing in the way is ourselves.
            if not self._stands_at(path):
                raise

    def discard(self) -> None:
        """The file in ``tmp/`` is gone and its descriptor closed; never raises, and may be called again."""
        if self.fd < 0:
            return
        # Gone already after a rename; else it is removed as an orphan later.
        with contextlib.suppress(OSError), self._root.beside(self.path) as (directory, name):
            os.unlink(name, dir_fd=directory)
        fd, self.fd = self.fd, -1
        with contextlib.suppress(OSError):  # write errors were asked for in sync()
            os.close(fd)

    def _open_again(self, flags: int) -> int:
        """Open this very file: what has its name in ``tmp/`` by now may be another one, where others may write."""
        try:
            return reopen(self.fd, flags)
        except FileNotFoundError:  # no /proc here: the ordinary way does as well
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from None

    def _stands_at(self, path: bytes) -> bool:
        return os.path.samestat(os.fstat(self.fd), self._root.stat(path))


def create_only(source: bytes, target: bytes, root: Beneath) -> None:
    """*source* stands at *target*, atomically; ``FileExistsError`` if *target* was taken, which is left as it was.

    A hard link is preferred: it is create-only on every file system that has it, NFS included. The renames are for
    those that have none (FAT, exFAT, many FUSE ones).
    """
    with root.beside(source) as (source_fd, source_name), root.beside(target) as (target_fd, target_name):
        try:
            os.link(source_name, target_name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            _rename_no_replace((source_fd, source_name), (target_fd, target_name), root)


# A directory's descriptor and a name in it.
_Place = tuple[int, bytes]


def _rename_no_replace(source: _Place, target: _Place, root: Beneath) -> None:
    rename = _renameat2()
    if rename is not None and rename(*source, *target, _RENAME_NOREPLACE) == 0:
        return
    number = ctypes.get_errno() if rename is not None else errno.ENOSYS
    if number not in _NO_NOREPLACE:
        raise OSError(number, os.strerror(number), target[1])
    _rename_under_lock(source, target, root)


def _rename_under_lock(source: _Place, target: _Place, root: Beneath) -> None:
    """Rename while all other writers wait, for file systems that have neither hard links nor a rename that refuses.

    An empty file made with O_EXCL as a claim would be seen by readers as an object, and would outlive a crash. A
    lock does neither. It holds among the machines that share the file system if that passes locks on; a file system
    without locks is refused by the error that locking raises.
    """
    (source_fd, source_name), (target_fd, target_name) = source, target
    fd = root.open_file(DIRECTORY + b"/" + _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, FILE_MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            os.stat(target_name, dir_fd=target_fd, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target_name)
        os.rename(source_name, target_name, src_dir_fd=source_fd, dst_dir_fd=target_fd)
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


def remove_orphans(root: Beneath, *, now_s: float | None = None) -> int:
    """What crashed writers left in ``tmp/`` is gone; the count is given.

    A file is an orphan if it has a name as only we give them, nobody has written to it for an hour and nobody holds its
    lock. The hour covers the moment between making a file and locking it. Tidying is no condition of anything else: a
    read-only repository, or one without locks, stays as it is.
    """
    now_s = time.time() if now_s is None else now_s
    removed_count = 0
    with contextlib.suppress(OSError), _opened_directory(root) as fd:
        for name in map(os.fsencode, os.listdir(fd)):
            if _OURS.fullmatch(name) and _is_orphan(fd, name, now_s):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=fd)
                    removed_count += 1
    return removed_count


@contextmanager
def _opened_directory(root: Beneath) -> Iterator[int]:
    fd = root.open_directory(DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _is_orphan(directory: int, name: bytes, now_s: float) -> bool:
    try:
        # For writing, since NFS turns the lock into a byte-range lock, which wants that.
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=directory)
    except OSError:
        return False
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or now_s - found.st_mtime < ORPHAN_AGE_S:
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _create(path: bytes, root: Beneath) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    try:
        return root.open_file(path, flags, FILE_MODE)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):  # another thread was as quick
            os.mkdir(DIRECTORY, DIRECTORY_MODE, dir_fd=root.descriptor)
        return root.open_file(path, flags, FILE_MODE)


def _lock(fd: int) -> None:
    """Nobody takes the file for an orphan; where there are no locks, nobody ever takes a file for one."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
