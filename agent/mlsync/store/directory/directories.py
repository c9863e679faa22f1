"""Makes the directories of a repository: its root, ``tmp/``, and those that objects lie in."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import Final

from mlsync import errors
from mlsync.beneath import Beneath
from mlsync.store.directory.access import ALONE, PARENT_MODE, ROOT_MODE, Access, is_groups
from mlsync.store.directory.create_only import create_only

TMP: Final = b"tmp"
LOCK_FILE: Final = TMP + b"/create-lock"

_NO_DIRECTORY_SYNC: Final = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def temporary_path() -> bytes:
    """Return a path in ``tmp/`` that nobody else has."""
    return TMP + b"/" + secrets.token_hex(16).encode()


def make_directory(path: bytes, root: Beneath, access: Access) -> None:
    """Make a directory; do nothing if something has its name.

    A group's gets its name only when it has its mode. Under a umask of 077 a member who came a moment later, or after
    this process was killed, would find it closed. ``tmp`` itself is there from the first object on.
    """
    if access.group is None or path == TMP:
        with contextlib.suppress(FileExistsError):
            _make_in_place(path, root, access)
    elif not _exists(path, root):
        make_directory(TMP, root, access)
        temporary = temporary_path()
        _make_in_place(temporary, root, access)
        try:
            create_only(temporary, path, root, LOCK_FILE, access)
        except OSError as error:
            with contextlib.suppress(OSError), root.beside(temporary) as (tmp, name):
                os.rmdir(name, dir_fd=tmp)
            if not isinstance(error, FileExistsError):  # another member was faster
                raise


def make_root(root: Path, group: int | None) -> None:
    """Make *root* and its missing parents, durably; give it to *group*, whose members can reach what was made here."""
    missing = [path for path in (root, *root.parents) if not path.exists()]
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, ALONE.directory_mode)
            if group is not None and path != root:
                _open_to_group(path, group, PARENT_MODE)
        sync(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    if group is not None and not _is_of(os.stat(root), group):
        with contextlib.suppress(PermissionError):
            _open_to_group(root, group, ROOT_MODE)
        if not _is_of(os.stat(root), group):
            what = "the file system does not keep a directory's group and set-group-ID bit"
            raise errors.StoreDenied(what, where=str(root), advice="make the repository without --group")


def refuse_unshareable(root: Path, group: int, name: str) -> None:
    """Raise ``StoreDenied`` if *root* exists and this user cannot give it to the group; change nothing."""
    try:
        found = os.stat(root)
    except OSError:
        return  # it is made, or is missed, later
    if os.geteuid() not in (0, found.st_uid) and not _is_of(found, group):
        advice = f"its owner or root can: chgrp {name} {root} && chmod 2770 {root}; then run this again"
        raise errors.StoreDenied("only its owner can give this directory to a group", where=str(root), advice=advice)


def sync(fd: int) -> None:
    """Sync an open directory, and close it."""
    try:
        os.fsync(fd)
    except OSError as error:
        # CIFS and some FUSE file systems do not have this call; names are as durable there as they get without it.
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(fd)


def _make_in_place(path: bytes, root: Beneath, access: Access) -> None:
    with root.beside(path) as (above, name):
        # Filters forbid the set-group-ID bit here; where the directory above has it, it comes by itself.
        os.mkdir(name, access.directory_mode & 0o777, dir_fd=above)
    if access.group is not None:
        fd = root.open_directory(path)
        try:
            access.give(fd, access.directory_mode)
        finally:
            os.close(fd)


def _exists(path: bytes, root: Beneath) -> bool:
    try:
        root.stat(path)
    except FileNotFoundError:
        return False
    return True


def _is_of(found: os.stat_result, group: int) -> bool:
    return found.st_gid == group and is_groups(found)


def _open_to_group(directory: Path, group: int, mode: int) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchown(fd, -1, group)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)
