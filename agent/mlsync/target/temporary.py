"""The temporary names under which a restore makes files.

A file's temporary name is the same each time, so that the next restore finds what a killed one left. Anybody who may
write in the directory can predict it too. So a restore continues such a file only if it is ours: a regular file of this
user, with one name and access for nobody else. It removes anything else; if that comes back, it uses a random name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

TEMPORARY_PREFIX: Final = b".mlsync-restore-"
_MODE: Final = 0o600
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TRIES: Final = 8


@dataclass(slots=True)
class TemporaryFile:
    """A file under a temporary *name* in *parent*, open for reading and writing; *is_new* unless it is a leftover."""

    parent: int
    name: bytes
    descriptor: int
    is_new: bool
    is_resumable: bool

    def rename(self, name: bytes) -> bool:
        """Rename it to its final name; return whether that name now leads to it."""
        os.rename(self.name, name, src_dir_fd=self.parent, dst_dir_fd=self.parent)
        found = os.stat(name, dir_fd=self.parent, follow_symlinks=False)
        return os.path.samestat(found, os.fstat(self.descriptor))

    def remove(self) -> None:
        """Remove the temporary name."""
        with contextlib.suppress(OSError):
            os.unlink(self.name, dir_fd=self.parent)


def resumable_name(name: bytes) -> bytes:
    """Return the temporary name of a file *name*, the same each time."""
    return TEMPORARY_PREFIX + hashlib.sha256(name).hexdigest()[:24].encode()


def random_name() -> bytes:
    """Return a temporary name that nobody can predict."""
    return TEMPORARY_PREFIX + secrets.token_hex(16).encode()


def open_leftover(parent: int, name: bytes) -> int | None:
    """Open what a killed restore left of the file *name*, for reading; return ``None`` if nothing of ours is there."""
    return _open_ours(parent, resumable_name(name), os.O_RDONLY)


def open_temporary(parent: int, name: bytes) -> TemporaryFile:
    """Open what a killed restore left of the file *name*, or a new file for it."""
    usual = resumable_name(name)
    left = _open_ours(parent, usual, os.O_RDWR)
    if left is not None:
        return TemporaryFile(parent, usual, left, is_new=False, is_resumable=True)
    descriptors: list[int] = []

    def make(temporary: bytes) -> None:
        descriptors.append(os.open(temporary, _NEW, _MODE, dir_fd=parent))

    made = make_named(parent, name, make)
    return TemporaryFile(parent, made, descriptors[0], is_new=True, is_resumable=made == usual)


def make_named(parent: int, name: bytes, make: Callable[[bytes], None]) -> bytes:
    """Return the temporary name that *make* succeeded with; it raises ``FileExistsError`` for a name that is taken."""
    usual = resumable_name(name)
    for temporary in (usual, usual, *(random_name() for _ in range(_TRIES))):
        try:
            make(temporary)
        except FileExistsError:
            # Not ours, or a killed restore's with its final owner and mode. A directory stays; another name follows.
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=parent)
        else:
            return temporary
    make(temporary := random_name())
    return temporary


def _open_ours(parent: int, temporary: bytes, flags: int) -> int | None:
    try:
        descriptor = os.open(temporary, flags | _OLD, dir_fd=parent)
    except OSError:
        return None
    if _is_ours(os.fstat(descriptor)):
        return descriptor
    os.close(descriptor)
    return None


def _is_ours(found: os.stat_result) -> bool:
    """Return whether nobody else can have access: we made it for ourselves, and never gave it away."""
    is_file = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
    return is_file and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == _MODE
