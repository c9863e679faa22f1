"""Give a file a name that must be free, in one atomic step, on every kind of file system."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
from typing import Final

from mlsync.beneath import Beneath
from mlsync.store.directory.access import Access

_RENAME_NOREPLACE: Final = 1
# Errors of file systems without hard links: FAT and exFAT EPERM, many FUSE ones ENOTSUP or ENOSYS, ecryptfs and some
# network ones EMLINK (one link is the most), overlays of two file systems EXDEV.
_NO_HARD_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_NO_NOREPLACE: Final = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}

# A directory's descriptor and a name in it.
_Entry = tuple[int, bytes]


def create_only(source: bytes, target: bytes, root: Beneath, lock_file: bytes, access: Access) -> None:
    """Give *source* the name *target*, atomically; raise ``FileExistsError`` and change nothing if *target* exists.

    A hard link comes first: it is create-only on every file system that has it, NFS included. The renames are for
    directories and for file systems without hard links (FAT, exFAT, many FUSE ones); the last of them locks
    *lock_file*.
    """
    with root.beside(source) as (source_fd, source_name), root.beside(target) as (target_fd, target_name):
        try:
            os.link(source_name, target_name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            entries = (source_fd, source_name), (target_fd, target_name)
            if not _rename_no_replace(*entries):
                _rename_under_lock(*entries, root, lock_file, access)


def _rename_no_replace(source: _Entry, target: _Entry) -> bool:
    """Rename by renameat2; return whether the system and the file system have it."""
    rename = _renameat2()
    if rename is not None and rename(*source, *target, _RENAME_NOREPLACE) == 0:
        return True
    number = ctypes.get_errno() if rename is not None else errno.ENOSYS
    if number not in _NO_NOREPLACE:
        raise OSError(number, os.strerror(number), target[1])
    return False


def _rename_under_lock(source: _Entry, target: _Entry, root: Beneath, lock_file: bytes, access: Access) -> None:
    """Rename while all other writers wait, on file systems with neither hard links nor a rename that refuses.

    An empty file made with O_EXCL as a claim would look like an object to readers, and would survive a crash. A lock
    does neither. It works among machines that share the file system if that passes locks on; on a file system without
    locks, locking raises.
    """
    (source_fd, source_name), (target_fd, target_name) = source, target
    fd = root.open_file(lock_file, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, access.pending_mode)
    try:
        if os.fstat(fd).st_uid == os.geteuid():
            access.give(fd, access.pending_mode)
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            os.stat(target_name, dir_fd=target_fd, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target_name)
        os.rename(source_name, target_name, src_dir_fd=source_fd, dst_dir_fd=target_fd)
    finally:
        os.close(fd)


@functools.cache
def _renameat2() -> ctypes._NamedFuncPointer | None:
    """Return the C library's renameat2, or ``None`` if it has none."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    function.restype = ctypes.c_int
    return function
