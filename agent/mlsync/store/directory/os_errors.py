"""Turns errors of the operating system into store errors, by one table; for the directory store alone."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlsync import errors
from mlsync.store.directory.denied import advice_on

_FULL = {
    errno.ENOSPC: "free some room on that disk; what is stored already is not sent again",
    errno.EDQUOT: "the quota is used up; have it raised, or free some room",
    errno.EFBIG: "the file system or a limit of this process does not allow files of that size",
}
_DENIED = {
    errno.EPERM: "check who owns the directory, and whether its files were made immutable",
    errno.EROFS: "the file system is mounted read-only",
}
_IMPOSSIBLE = {
    errno.ENOTDIR: "a file is where the repository has a directory",
    errno.EISDIR: "a directory is where the repository has an object",
    errno.ELOOP: "a symbolic link is in the repository, and mlsync follows none; replace it by what it leads to",
    errno.ENAMETOOLONG: "the file system does not allow names as long as the repository's",
    errno.ENXIO: "something that is not a file is where the repository has an object",
    errno.EXDEV: "the repository lies on several file systems; its tmp directory must be on the same as the rest",
}

_TRANSIENT = {
    errno.ENOENT: "somebody removed a temporary file or an empty directory during a write",
    errno.EIO: "a network or USB disk that comes back reports it once; a broken one each time",
    errno.ESTALE: "the NFS server restarted; the next look-up finds the file again",
    errno.ETIMEDOUT: "a soft-mounted network file system gave up waiting",
    errno.EHOSTDOWN: "the server restarts",
    errno.EHOSTUNREACH: "the network is down",
    errno.ENETUNREACH: "the network is down",
    errno.ECONNRESET: "the server restarts",
    errno.ENOTCONN: "a FUSE file system is being remounted",
    errno.EREMOTEIO: "the server had a fault",
    errno.EAGAIN: "temporarily out of a resource",
    errno.EBUSY: "another process temporarily holds it",
    errno.EINTR: "a signal interrupted the call",
    errno.ENOMEM: "temporarily out of memory",
    errno.EMFILE: "this process temporarily has too many open files",
    errno.ENFILE: "the machine temporarily has too many open files",
    errno.ENOLCK: "the NFS lock service restarts",
}


def translated(error: OSError, where: str, root: Path) -> errors.StoreError:
    """Return our error for *error*; raise it ``from`` the original, because :func:`is_transient` looks at that."""
    number = error.errno or 0
    text = (error.strerror or str(error)).lower()
    if number == errno.ENOENT:
        return errors.NotFound("no such object", where=where)
    if number == errno.EEXIST:
        return errors.AlreadyExists("the object exists already", where=where)
    if number in _FULL:
        return errors.StoreFull(f"the store is full: {text}", where=where, advice=_FULL[number])
    if number == errno.EACCES or number in _DENIED:
        advice = advice_on(root) if number == errno.EACCES else _DENIED[number]
        return errors.StoreDenied(f"the store refuses: {text}", where=where, advice=advice)
    if number in _IMPOSSIBLE:
        return errors.StoreBroken(f"the store was changed: {text}", where=where, advice=_IMPOSSIBLE[number])
    advice = "check that the disk or the network file system is there and works"
    return errors.StoreUnavailable(f"the store does not work: {text}", where=where, advice=advice)


def is_transient(error: Exception) -> bool:
    """Return whether the error of the operating system behind *error* may pass."""
    cause = error.__cause__
    return isinstance(error, errors.StoreUnavailable) and isinstance(cause, OSError) and cause.errno in _TRANSIENT


@contextmanager
def translating(where: str, root: Path) -> Iterator[None]:
    """Raise our errors instead of ``OSError``: the border of the directory store."""
    try:
        yield
    except OSError as error:
        raise translated(error, where, root) from error
