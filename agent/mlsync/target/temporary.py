"""The names under which a restore makes files before they get their own.

A file's temporary name is the same each time, so that a rerun finds what a killed restore left. Whoever may write in
the directory can foretell it too, so what has that name is only used if it is ours: a regular file of this user, with
one name and for nobody else. Anything else is taken away; where it comes back, a name that nobody can foretell is used.
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
class Temporary:
    """A file under a temporary *name* in *parent*, open for reading and writing; *is_new* unless it was left over."""

    parent: int
    name: bytes
    descriptor: int
    is_new: bool
    is_foretold: bool

    def rename(self, name: bytes) -> bool:
        """Give it its own name; say whether it is what has that name now."""
        os.rename(self.name, name, src_dir_fd=self.parent, dst_dir_fd=self.parent)
        found = os.stat(name, dir_fd=self.parent, follow_symlinks=False)
        return os.path.samestat(found, os.fstat(self.descriptor))

    def remove(self) -> None:
        """Nothing has the temporary name any longer."""
        with contextlib.suppress(OSError):
            os.unlink(self.name, dir_fd=self.parent)


def foretold(name: bytes) -> bytes:
    """Return the name under which a file *name* is made, the same each time."""
    return TEMPORARY_PREFIX + hashlib.sha256(name).hexdigest()[:24].encode()


def unforeseen() -> bytes:
    """Return a name that nobody can foretell."""
    return TEMPORARY_PREFIX + secrets.token_hex(16).encode()


def open_leftover(parent: int, name: bytes) -> int | None:
    """Open what a killed restore left of the file *name*, for reading; ``None`` if there is nothing of ours."""
    return _open_ours(parent, foretold(name), os.O_RDONLY)


def open_temporary(parent: int, name: bytes) -> Temporary:
    """Open what a killed restore left of the file *name*, or a new file for it."""
    usual = foretold(name)
    left = _open_ours(parent, usual, os.O_RDWR)
    if left is not None:
        return Temporary(parent, usual, left, is_new=False, is_foretold=True)
    descriptors: list[int] = []

    def make(temporary: bytes) -> None:
        descriptors.append(os.open(temporary, _NEW, _MODE, dir_fd=parent))

    taken = make_named(parent, name, make)
    return Temporary(parent, taken, descriptors[0], is_new=True, is_foretold=taken == usual)


def make_named(parent: int, name: bytes, make: Callable[[bytes], None]) -> bytes:
    """Return the temporary name under which *make* made something that was not there; it fails where something is."""
    usual = foretold(name)
    for temporary in (usual, usual, *(unforeseen() for _ in range(_TRIES))):
        try:
            make(temporary)
        except FileExistsError:
            # Not ours, or a killed restore's with its last owner and mode. A directory stays, and another name is used.
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=parent)
        else:
            return temporary
    make(temporary := unforeseen())
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
    """Whether nobody else can have a hand on it: made by us for ourselves, and never given to anybody."""
    is_file = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
    return is_file and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == _MODE
