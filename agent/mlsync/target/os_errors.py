"""Translate operating system errors at a restore's target."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Final

from mlsync.errors import TargetBlocked, TargetError, TargetFull
from mlsync.source.paths import display

# Errors of this one name or file; others beside it may work.
_BLOCKED: Final = frozenset(
    {
        errno.EACCES,
        errno.EBUSY,
        errno.EEXIST,
        errno.EFBIG,
        errno.EILSEQ,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMLINK,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.EPERM,
        errno.EROFS,
        errno.EXDEV,
    }
)
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_WORDS: Final = {
    errno.ENAMETOOLONG: "the name is too long for the file system there",
    errno.EFBIG: "the file is longer than the file system there, or a limit, allows",
    errno.EISDIR: "a directory stands in its place",
    errno.ELOOP: "a symbolic link stands in the place of a directory",
    errno.ENOTDIR: "something else stands in the place of a directory",
    errno.ENOENT: "its directory, or the file itself, went away meanwhile",
}


def blocked(what: str, where: bytes) -> TargetBlocked:
    """Return the error for something that blocks *where*."""
    return TargetBlocked(what, where=display(where), advice="move it away, or restore with --to another place")


@contextlib.contextmanager
def translated(where: bytes) -> Iterator[None]:
    """Raise an ``OSError`` as ``TargetFull``, ``TargetBlocked``, or ``TargetError`` if it is none of these."""
    try:
        yield
    except OSError as error:
        raise _translation(error, where) from error


def _translation(error: OSError, where: bytes) -> TargetError:
    number = error.errno or errno.EIO
    if number in _FULL:
        what = f"no room to restore: {os.strerror(number)}"
        return TargetFull(what, where=display(where), advice="make room and run it again to go on")
    what = f"cannot be written: {_WORDS.get(number, os.strerror(number))}"
    return (TargetBlocked if number in _BLOCKED else TargetError)(what, where=display(where))
