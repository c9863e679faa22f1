"""Give restored files their owner, mode and time, all by descriptor: a name may lead elsewhere by then.

Owners are root's to give, and not everywhere: the root of a container may be nobody outside of it, and a server may
make root a stranger. Where they cannot be given, a restore goes on as that of an ordinary user, and says so once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from mlsync.beneath import Beneath
from mlsync.monitor import NoticeLevel
from mlsync.repository.manifest import Entry
from mlsync.target.temporary import unforeseen

Notice = Callable[[NoticeLevel, str], None]

_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL
# No right to it; a user who is not known in this container; a file system without owners.
_CANNOT: Final = frozenset({errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EOVERFLOW})
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class Owners:
    """Knows whom files below *root* can be given to, by trying it once for each owner."""

    def __init__(self, root: Beneath, notice: Notice) -> None:
        self._root = root
        self._notice = notice
        self._us = os.geteuid(), os.getegid()
        self._is_root = self._us[0] == 0
        self._can: dict[tuple[int, int], bool] = {self._us: True}
        self._said: set[str] = set()

    def finish(self, descriptor: int, entry: Entry) -> None:
        """Give a file or directory its owner, mode and time; what is right is not set again, which would show."""
        found = os.fstat(descriptor)
        if self._is_anothers(found, entry) and self._give(descriptor, entry):
            # A change of owner takes some bits of the mode away.
            found = os.fstat(descriptor)
        if stat.S_IMODE(found.st_mode) != (mode := mode_for(entry, found)):
            self._try("modes", lambda: os.fchmod(descriptor, mode))
        if found.st_mtime_ns != entry.mtime_ns:
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))

    def finish_link(self, descriptor: int, entry: Entry) -> None:
        """Give a symbolic link, opened with ``O_PATH``, its owner and time."""
        # By the open file itself: calls that take no name want a descriptor that links cannot have.
        place = f"/proc/self/fd/{descriptor}"
        if self._is_anothers(os.fstat(descriptor), entry):
            self._try("owners", lambda: os.chown(place, entry.uid, entry.gid))
        os.utime(place, ns=(entry.mtime_ns, entry.mtime_ns))

    def is_right(self, found: os.stat_result, entry: Entry) -> bool:
        """Whether owner, mode and time are what they would be after ``finish``."""
        return (
            not self._is_anothers(found, entry)
            and (stat.S_ISLNK(found.st_mode) or stat.S_IMODE(found.st_mode) == mode_for(entry, found))
            and found.st_mtime_ns == entry.mtime_ns
        )

    def may_mend(self, found: os.stat_result, entry: Entry) -> bool:
        """Whether a file whose content is right may get owner and mode as it is, instead of being made anew.

        Not one with further names, which may be anywhere. And root gives nobody a file that somebody else made, or
        could open for writing, and may still have open.
        """
        if self.is_right(found, entry):
            return True
        if found.st_nlink > 1:
            return False
        is_given = self._is_anothers(found, entry) and found.st_uid not in (self._us[0], entry.uid)
        return not self._is_root or not (is_given or found.st_mode & _OTHERS_WRITE & ~entry.mode)

    # ------------------------------------------------------------ inside

    def _is_anothers(self, found: os.stat_result, entry: Entry) -> bool:
        """Whether the owner is not the right one, and can be changed."""
        wanted = entry.uid, entry.gid
        return self._is_root and (found.st_uid, found.st_gid) != wanted and self._can_give(wanted)

    def _can_give(self, wanted: tuple[int, int]) -> bool:
        if wanted not in self._can:
            self._can[wanted] = self._tried(wanted)
        return self._can[wanted]

    def _tried(self, wanted: tuple[int, int]) -> bool:
        """Try it with a file of no use: so it is known before files that are right otherwise are made anew."""
        name = unforeseen()
        try:
            descriptor = self._root.open_file(name, _NEW)
        except OSError:
            return True  # where nothing can be written, that is what is to be said
        try:
            return self._try("owners", lambda: os.fchown(descriptor, *wanted))
        finally:
            os.close(descriptor)
            with contextlib.suppress(OSError), self._root.beside(name) as (parent, last):
                os.unlink(last, dir_fd=parent)

    def _give(self, descriptor: int, entry: Entry) -> bool:
        return self._try("owners", lambda: os.fchown(descriptor, entry.uid, entry.gid))

    def _try(self, what: str, call: Callable[[], None]) -> bool:
        """Do it if it can be done; where it cannot, say so once."""
        try:
            call()
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            if what not in self._said:
                self._said.add(what)
                text = f"some {what} of files cannot be restored here: {os.strerror(error.errno)}"
                self._notice("warning", f"{text}; these files keep what they were made with")
            return False
        return True


def mode_for(entry: Entry, found: os.stat_result) -> int:
    """Return the mode for a file of this owner: it runs as nobody else than whom the version says."""
    mode = entry.mode
    if found.st_uid != entry.uid:
        mode &= ~stat.S_ISUID
    if found.st_gid != entry.gid:
        mode &= ~stat.S_ISGID
    return mode
