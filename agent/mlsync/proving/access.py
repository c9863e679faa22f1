"""POSIX access lists that show a checkpoint in root's directory to one other user.

Changing the owner would take CAP_CHOWN, which the service does not have, and opening the directories to everybody would
show a private checkpoint to anyone who learns its path. The owner of a file may always change its access list.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from mlsync.proof.user import User, cannot_change_user

_ACCESS: Final = "system.posix_acl_access"
_VERSION: Final = struct.pack("<I", 2)
_ENTRY: Final = struct.Struct("<HHI")
_OWNER, _USER, _GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
_NO_ID: Final = 0xFFFFFFFF
_READ, _WRITE, _PASS = 4, 2, 1
_REMOVAL_S: Final = 60.0


def grant_access(user: User, through: Iterable[Path], files: Path, home: Path) -> None:
    """Let *user* pass *through* directories, read what is below *files*, and write to *home*.

    Raises ``OSError`` if the file system has no access lists.
    """
    for directory in (*through, files.parent):
        if not directory.stat().st_mode & stat.S_IXOTH:
            _grant(directory, user.uid, _PASS)
    _grant(home, user.uid, _READ | _WRITE | _PASS)
    for folder, _, names in os.walk(files):
        _grant(Path(folder), user.uid, _READ | _PASS)
        for name in names:
            file = Path(folder, name)
            if not file.is_symlink():
                _grant(file, user.uid, _READ)


def remove_others_files(home: Path) -> None:
    """Remove files of other users in *home*, each as that user: without CAP_DAC_OVERRIDE root cannot."""
    try:
        left = {entry.path: entry.stat(follow_symlinks=False).st_uid for entry in os.scandir(home)}
    except OSError:
        return
    for uid in set(left.values()) - {os.geteuid()}:
        if not cannot_change_user():
            paths = [path for path, owner in left.items() if owner == uid]
            command = ["rm", "-rf", "--", *paths]
            subprocess.run(  # noqa: S603 - the names are arguments, behind --
                command,
                check=False,
                capture_output=True,
                cwd="/",
                timeout=_REMOVAL_S,
                **User.of(uid).as_started,
            )


def _grant(path: Path, uid: int, rights: int) -> None:
    """Add *rights* of a user to the access list of *path*."""
    entries = _entries(path)
    entries[_USER, uid] = entries.get((_USER, uid), 0) | rights
    named = [right for (tag, _), right in entries.items() if tag in (_USER, _GROUP)]
    mask = 0
    for right in named:
        mask |= right
    entries[_MASK, _NO_ID] = mask
    packed = b"".join(_ENTRY.pack(tag, right, number) for (tag, number), right in sorted(entries.items()))
    os.setxattr(path, _ACCESS, _VERSION + packed)


def _entries(path: Path) -> dict[tuple[int, int], int]:
    """Return the access list of *path*, or the one that its mode stands for."""
    try:
        packed = os.getxattr(path, _ACCESS)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        mode = path.stat().st_mode
        return {(_OWNER, _NO_ID): mode >> 6 & 7, (_GROUP, _NO_ID): mode >> 3 & 7, (_OTHERS, _NO_ID): mode & 7}
    return {(tag, number): right for tag, right, number in _ENTRY.iter_unpack(packed[len(_VERSION) :])}
