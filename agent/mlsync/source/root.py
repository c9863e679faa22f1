"""The watched directory, opened once for a pass: everything below it is reached from the descriptor.

A process with more read permissions than others, such as root, gets the directory by *name*, and whoever can change
a part of that name decides what is read. So each part is checked, and ``SourceUntrusted`` names the one that another
user could change.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final, NoReturn, Self

from mlsync.beneath import Beneath
from mlsync.errors import SourceMissing, SourceUnreadable, SourceUntrusted
from mlsync.source.paths import display

# The kernel's errors for an entry that was just there: it is gone, or replaced by something else.
VANISHED: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})

_STEP: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS_MAX: Final = 40  # as the kernel has it
_OF_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_CAPABILITIES: Final = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
_ADVICE: Final = "let only root and the directory's owner change the way to it, or run mlsync as that owner"


class Root(Beneath):
    """The watched directory, held open; *owner* owned it when it was opened."""

    def __init__(self, descriptor: int, where: bytes) -> None:
        super().__init__(descriptor, where)
        self.owner = os.fstat(descriptor).st_uid
        self.is_guarded = reads_everything()
        self._held: dict[bytes, tuple[int, os.stat_result]] = {}

    @classmethod
    def open_watched(cls, directory: bytes) -> Self:
        """Open *directory*, whose name may lead through symbolic links.

        Raises ``SourceMissing``, ``SourceUnreadable``, or ``SourceUntrusted`` if this process has more read permissions
        than others and another user could redirect it to files that he may not read himself.
        """
        try:
            return cls._of(_walked(directory) if reads_everything() else _opened(directory), directory)
        except OSError as error:
            if error.errno in VANISHED:
                what = "the watched directory is not there"
                raise SourceMissing(what, where=display(directory)) from error
            what = f"cannot be read: {os.strerror(error.errno or errno.EIO)}"
            raise SourceUnreadable(what, where=display(directory)) from error

    @classmethod
    def _of(cls, descriptor: int, directory: bytes) -> Self:
        try:
            return cls(descriptor, directory)
        except BaseException:
            os.close(descriptor)
            raise

    def hold(self, path: bytes) -> bool:
        """Keep what has the name now open until this is closed; return whether that worked.

        If it is deleted, ``open_file`` and ``stat`` still find it under its name, as long as nothing else has that.
        """
        try:
            descriptor = super().open_file(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return False
        if path in self._held:
            os.close(self._held[path][0])
        self._held[path] = descriptor, os.fstat(descriptor)
        return True

    def adopt(self, path: bytes, descriptor: int, stat: os.stat_result) -> None:
        """Hold what another process held, from the moment of its *stat* on; *descriptor* is closed with this."""
        if path in self._held:
            os.close(self._held[path][0])
        self._held[path] = descriptor, stat

    def deleted(self, path: bytes) -> os.stat_result | None:
        """Return the stat of what is held, if it has no name any more, and nobody wrote to it since."""
        if path not in self._held:
            return None
        descriptor, held = self._held[path]
        now = os.fstat(descriptor)
        return now if now.st_nlink == 0 and _content_of(now) == _content_of(held) else None

    def as_held(self, path: bytes, now: os.stat_result) -> os.stat_result:
        """Return the stat of a file as it was when it was held, if nothing but a deletion changed it since.

        A deletion changes the time of the last change and the number of names, and says nothing about the content.
        """
        if path not in self._held:
            return now
        held = self._held[path][1]
        is_only_deleted = now.st_nlink < held.st_nlink and _content_of(now) == _content_of(held)
        return held if is_only_deleted else now

    def open_file(self, path: bytes, flags: int, mode: int = 0o600) -> int:
        """Open what has the name *path* now, or what is held and had it."""
        try:
            return super().open_file(path, flags, mode)
        except OSError as error:
            if error.errno not in VANISHED or path not in self._held or flags & os.O_ACCMODE != os.O_RDONLY:
                raise
            return os.dup(self._held[path][0])

    def stat(self, path: bytes) -> os.stat_result:
        """Return the stat of what has the name *path* now, or of what is held and had it."""
        try:
            return self.as_held(path, super().stat(path))
        except OSError as error:
            if error.errno not in VANISHED or path not in self._held:
                raise
            return self.as_held(path, os.fstat(self._held[path][0]))

    def close(self) -> None:
        """Close the directory, and let go of what is held."""
        held, self._held = self._held, {}
        for descriptor, _ in held.values():
            os.close(descriptor)
        super().close()

    def is_anothers_secret(self, file: os.stat_result) -> bool:
        """Return whether a file may be a hard link to another user's secret: making one needs no read permission.

        Such a file has several names, another owner than the directory, and is not readable by everyone.
        """
        if not self.is_guarded or file.st_nlink == 1 or file.st_mode & stat.S_IROTH:
            return False
        return file.st_uid not in (self.owner, os.geteuid() or self.owner)


def _content_of(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def second_name_of(uid: int) -> str:
    """Return why a file for which ``is_anothers_secret`` is true is not read; *uid* owns it."""
    return f"root does not read a second name of a file that user {uid} keeps from others"


def reads_everything() -> bool:
    """Return whether this process bypasses read permissions: it is root or has the capability."""
    if os.geteuid() == 0:
        return True
    try:
        with open("/proc/self/status", "rb") as status:
            effective = next(line for line in status if line.startswith(b"CapEff:"))
    except (OSError, StopIteration):
        return False
    return bool(int(effective.split()[1], 16) & _CAPABILITIES)


def _opened(directory: bytes) -> int:
    return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _walked(directory: bytes) -> int:
    """Open it part by part; a user who can change a part must not be able to redirect the read."""
    way = _Way()
    try:
        way.go(os.path.join(os.getcwdb(), directory))
        way.judge(directory)
        return os.dup(way.at)
    finally:
        os.close(way.at)


class _Way:
    """A path that is walked from the top; *swappers* are the users who could change a symbolic link on it."""

    def __init__(self) -> None:
        self.at = _opened(b"/")
        self.place = b"/"
        self.swappers: dict[int, bytes] = {}
        self._links_left = _LINKS_MAX

    def go(self, path: bytes) -> None:
        """Follow *path*, through links too; afterwards ``at`` is the directory."""
        if path.startswith(b"/"):
            self._enter(_opened(b"/"), b"/")
        for part in path.split(b"/"):
            if part not in (b"", b"."):
                self._step(part)

    def judge(self, directory: bytes) -> None:
        """Refuse links that anyone but root, this user or the directory's owner could change."""
        owner = os.fstat(self.at).st_uid
        for who, link in self.swappers.items():
            if who not in (0, os.geteuid(), owner):
                _refuse(f"user {who} could turn the symbolic link {display(link)} that leads to it", directory)

    def _step(self, part: bytes) -> None:
        above = os.fstat(self.at)
        place = os.path.join(self.place, part)
        try:
            # Opened as a directory at once, so that an automount is triggered.
            inside = os.open(part, _STEP | os.O_DIRECTORY, dir_fd=self.at)
        except NotADirectoryError:
            self._follow(part, above, place)
            return
        try:
            self._check_swap(above, place)
        except BaseException:
            os.close(inside)
            raise
        self._enter(inside, place)

    def _follow(self, part: bytes, above: os.stat_result, place: bytes) -> None:
        link = os.open(part, _STEP, dir_fd=self.at)
        try:
            found = os.fstat(link)
            if not stat.S_ISLNK(found.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            self._check_swap(above, place)
            self.swappers.setdefault(above.st_uid, place)
            if above.st_mode & stat.S_ISVTX and above.st_mode & _OF_OTHERS:
                self.swappers.setdefault(found.st_uid, place)
            target = os.readlink(b"", dir_fd=link)
        finally:
            os.close(link)
        self._links_left -= 1
        if self._links_left < 0:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        self.go(target)

    def _enter(self, inside: int, place: bytes) -> None:
        os.close(self.at)
        self.at, self.place = inside, place

    def _check_swap(self, above: os.stat_result, place: bytes) -> None:
        """Refuse a directory whose entries anyone, or a group, may replace."""
        if not above.st_mode & _OF_OTHERS or above.st_mode & stat.S_ISVTX:
            return
        if above.st_mode & stat.S_IWOTH or not self._is_own_group(above):
            _refuse(f"others than its owner may change the directory {display(self.place)}", place, "chmod +t, say: ")

    def _is_own_group(self, directory: os.stat_result) -> bool:
        """Return whether the group that may write is root's, or the private group of the directory's owner."""
        if directory.st_gid == 0:
            return True
        # Imported late: hardly any directory needs it.
        import grp
        import pwd

        try:
            os.getxattr(f"/proc/self/fd/{self.at}", "system.posix_acl_access")
        except OSError:
            pass
        else:
            return False
        try:
            user, group = pwd.getpwuid(directory.st_uid), grp.getgrgid(directory.st_gid)
        except KeyError:
            return False
        return (user.pw_gid, user.pw_name) == (group.gr_gid, group.gr_name) and set(group.gr_mem) <= {user.pw_name}


def _refuse(what: str, directory: bytes, first: str = "") -> NoReturn:
    what = f"root does not read this directory: {what}"
    raise SourceUntrusted(what, where=display(directory), advice=first + _ADVICE)
