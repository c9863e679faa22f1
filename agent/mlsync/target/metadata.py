"""Set owner, mode and time of restored files, by descriptor: a name may lead elsewhere by then.

Only root can set owners, and not everywhere: the root of a container may be nobody outside of it, and a file server may
map root to nobody. Where root cannot, a restore continues as that of an ordinary user, and warns once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Mapping
from typing import Final

from mlsync import xattrs
from mlsync.beneath import Beneath
from mlsync.monitor import NoticeLevel
from mlsync.repository.manifest import Entry
from mlsync.target.temporary import random_name

Notice = Callable[[NoticeLevel, str], None]

_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL
# No right to do it; a user who is unknown in this container; a file system without owners.
_CANNOT: Final = frozenset({errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EOVERFLOW})
# The same, and no room for attributes: some file systems have a block for all of a file.
_NO_ATTRIBUTES: Final = _CANNOT | {errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.E2BIG, errno.ERANGE}
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class MetadataWriter:
    """Sets metadata of files below *root*; tries once for each owner whether it can."""

    def __init__(self, root: Beneath, notice: Notice) -> None:
        self._root = root
        self._notice = notice
        self._us = os.geteuid(), os.getegid()
        self._is_root = self._us[0] == 0
        self._can_chown: dict[tuple[int, int], bool] = {self._us: True}
        self._warned: set[str] = set()

    def apply(self, descriptor: int, entry: Entry, *, is_all: bool = True) -> None:
        """Set the owner, mode and time of a file or directory; leave alone what is right, since setting it shows.

        If that *is_all*, its extended attributes too.
        """
        found = os.fstat(descriptor)
        if self._needs_chown(found, entry) and self._chown(descriptor, entry):
            # A change of owner clears some bits of the mode.
            found = os.fstat(descriptor)
        if is_all:
            # Before the mode, which is also an ACL's mask, and before the time.
            self._try("extended attributes", lambda: xattrs.write(descriptor, _attributes(entry)), _NO_ATTRIBUTES)
        if stat.S_IMODE(found.st_mode) != (mode := mode_for(entry, found)):
            self._try("modes", lambda: os.fchmod(descriptor, mode))
        if found.st_mtime_ns != entry.mtime_ns:
            # Of a directory that somebody else made and lets others write to, only its owner sets the time.
            self._try("times", lambda: os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns)))

    def apply_to_link(self, descriptor: int, entry: Entry) -> None:
        """Set the owner and time of a symbolic link that was opened with ``O_PATH``."""
        # Through /proc: the calls that take no name need a descriptor of a kind that links cannot have.
        path = f"/proc/self/fd/{descriptor}"
        if self._needs_chown(os.fstat(descriptor), entry):
            self._try("owners", lambda: os.chown(path, entry.uid, entry.gid))
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))

    def is_right(self, found: os.stat_result, entry: Entry) -> bool:
        """Return whether owner, mode and time are what ``apply`` would set."""
        return (
            not self._needs_chown(found, entry)
            and (stat.S_ISLNK(found.st_mode) or stat.S_IMODE(found.st_mode) == mode_for(entry, found))
            and found.st_mtime_ns == entry.mtime_ns
        )

    def may_fix(self, found: os.stat_result, entry: Entry) -> bool:
        """Return whether a file with the right content may get its metadata in place, instead of being made again.

        Not a file with other names, which may be anywhere. And root must not give away a file that somebody else made,
        or could open for writing: he may still have it open.
        """
        if self.is_right(found, entry):
            return True
        if found.st_nlink > 1:
            return False
        is_given = self._needs_chown(found, entry) and found.st_uid not in (self._us[0], entry.uid)
        return not self._is_root or not (is_given or found.st_mode & _OTHERS_WRITE & ~entry.mode)

    def has_attributes(self, descriptor: int, entry: Entry) -> bool:
        """Return whether an open file has the extended attributes of the version."""
        return xattrs.holds(descriptor, _attributes(entry))

    # ------------------------------------------------------------ inside

    def _needs_chown(self, found: os.stat_result, entry: Entry) -> bool:
        """Return whether the owner differs, and can be changed."""
        wanted = entry.uid, entry.gid
        return self._is_root and (found.st_uid, found.st_gid) != wanted and self._can_change_to(wanted)

    def _can_change_to(self, wanted: tuple[int, int]) -> bool:
        if wanted not in self._can_chown:
            self._can_chown[wanted] = self._try_chown(wanted)
        return self._can_chown[wanted]

    def _try_chown(self, wanted: tuple[int, int]) -> bool:
        """Try it with a scratch file, before files that are right otherwise are made again for it."""
        name = random_name()
        try:
            descriptor = self._root.open_file(name, _NEW)
        except OSError:
            return True  # nothing can be written here: that error comes by itself
        try:
            return self._try("owners", lambda: os.fchown(descriptor, *wanted))
        finally:
            os.close(descriptor)
            with contextlib.suppress(OSError), self._root.beside(name) as (parent, last):
                os.unlink(last, dir_fd=parent)

    def _chown(self, descriptor: int, entry: Entry) -> bool:
        return self._try("owners", lambda: os.fchown(descriptor, entry.uid, entry.gid))

    def _try(self, what: str, call: Callable[[], None], cannot: frozenset[int] = _CANNOT) -> bool:
        """Return whether it worked; where it cannot, warn once."""
        try:
            call()
        except OSError as error:
            if error.errno not in cannot:
                raise
            if what not in self._warned:
                self._warned.add(what)
                text = f"some {what} of files cannot be restored here: {os.strerror(error.errno)}"
                self._notice("warning", f"{text}; these files keep what they were made with")
            return False
        return True


def _attributes(entry: Entry) -> Mapping[str, bytes]:
    values: Mapping[str, bytes] = (entry.room or {}).get(xattrs.ROOM_NAME, {})
    return values


def mode_for(entry: Entry, found: os.stat_result) -> int:
    """Return the mode for a file of this owner: set-user-id and set-group-id only for the owner in the version."""
    mode = entry.mode
    if found.st_uid != entry.uid:
        mode &= ~stat.S_ISUID
    if found.st_gid != entry.gid:
        mode &= ~stat.S_ISGID
    return mode
