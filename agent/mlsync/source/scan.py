"""Walk the watched directory and list what is there, by stats alone: no file is opened."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from typing import Final, Literal, NamedTuple

import msgspec

from mlsync.errors import SourceError, SourceUnreadable
from mlsync.source.exclude import Excludes
from mlsync.source.paths import display, joined
from mlsync.source.root import VANISHED, Root
from mlsync.source.temporary_names import is_own, is_temporary

# Longer paths are not entered: most programs could not use them, and there may be no end to them.
_PATH_BYTES_MAX: Final = 4095
_LEFT_OUT_MAX: Final = 100
# The range of a version's numbers; some file systems have times far outside it, or invalid owners.
TIME_NS_MAX: Final = (1 << 63) - 1
_OWNER_MAX: Final = (1 << 32) - 2
# The id that Linux itself shows for an owner that it cannot map.
_OVERFLOW_OWNER: Final = 65_534
_SIZE_MAX: Final = (1 << 63) - 1
_UNSIGNED_64: Final = (1 << 64) - 1
# As os.fsencode uses them.
_ENCODING: Final = sys.getfilesystemencoding()
_ENCODING_ERRORS: Final = sys.getfilesystemencodeerrors()


# Devices and modes are few. Each stat has numbers of its own, which of a hundred thousand files take six megabytes.
_shared: Final = dict[int, int]().setdefault


class FileStat(NamedTuple):
    """The fields of a stat that identify content, owner and place, each in the range that a version can hold."""

    device: int
    inode: int
    mode: int
    uid: int
    gid: int
    link_count: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, result: os.stat_result) -> FileStat:
        """Return the fields of a stat call, each clamped to the range that a version can hold."""
        fields = (
            _shared(dev := result.st_dev, dev),
            result.st_ino,
            _shared(mode := result.st_mode, mode),
            result.st_uid,
            result.st_gid,
            result.st_nlink,
            result.st_size,
            mtime_ns := result.st_mtime_ns,
            ctime_ns := result.st_ctime_ns,
        )
        # Faster than cls(*fields), by a third.
        stat = tuple.__new__(cls, fields)
        # One comparison is enough for ordinary stats: times after 1970, and no owner below zero.
        if 0 <= mtime_ns <= TIME_NS_MAX and 0 <= ctime_ns <= TIME_NS_MAX and fields[3] >= 0 <= fields[4]:
            return stat
        return stat.clamped()

    def clamped(self) -> FileStat:
        """Return it with each number in the range that a version and the local state can hold."""
        return FileStat(
            self.device & _UNSIGNED_64,
            self.inode & _UNSIGNED_64,
            self.mode,
            self.uid if 0 <= self.uid <= _OWNER_MAX else _OVERFLOW_OWNER,
            self.gid if 0 <= self.gid <= _OWNER_MAX else _OVERFLOW_OWNER,
            self.link_count,
            min(max(self.size_bytes, 0), _SIZE_MAX),
            min(max(self.mtime_ns, -TIME_NS_MAX), TIME_NS_MAX),
            min(max(self.ctime_ns, -TIME_NS_MAX), TIME_NS_MAX),
        )

    def same_content(self, other: FileStat) -> bool:
        """Return whether it is the same file with, as far as a stat can tell, the same bytes."""
        return (
            self.ctime_ns == other.ctime_ns
            and self.mtime_ns == other.mtime_ns
            and self.size_bytes == other.size_bytes
            and self.inode == other.inode
            and self.device == other.device
        )


# Not frozen, since *link_to* is found last; and not watched by the garbage collector, as one is made for each file.
class Found(msgspec.Struct, gc=False):
    """An entry of the watched directory; *path* is relative to the root and never empty.

    *target* is a symlink's text; *link_to* is, for a file with several names, the first of those found.
    """

    path: bytes
    kind: Literal["file", "directory", "symlink"]
    stat: FileStat
    target: bytes = b""
    link_to: bytes | None = None


@dataclass
class LeftOut:
    """Files that were left out for one reason: how many, and the first of them."""

    count: int = 0
    paths: list[bytes] = field(default_factory=list)

    def add(self, path: bytes) -> None:
        """Add one."""
        self.count += 1
        if len(self.paths) < _LEFT_OUT_MAX:
            self.paths.append(path)


@dataclass
class Scan:
    """What was found, in the order of path bytes.

    If *problems* names a directory, what is below it is unknown: it was not found, but it may still be there. A problem
    of the root is raised instead.
    """

    found: list[Found]
    problems: list[tuple[bytes, SourceError]]
    skipped_special: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)


def scan(root: Root, exclude: Sequence[str] = (), *, keep_temporary: bool = False) -> Scan:
    """Return everything below *root*, as ``Walk`` finds it."""
    walk = Walk(root, exclude, keep_temporary=keep_temporary)
    found = list(walk)
    return Scan(found, sorted(walk.problems, key=itemgetter(0)), walk.special.count, walk.left_out)


class Walk:
    r"""Yields everything below *root* in the order of path bytes; can be iterated once.

    No symlink is followed. *exclude* holds patterns in the manner of ``.gitignore``, for paths relative to the
    root: ``*`` and ``?`` match anything but ``/``, ``[abc]`` and ``[!a-c]`` one character, ``**/`` and ``/**`` any
    number of directories, ``\`` takes the next character as it is. A pattern with a ``/`` before its end is for the
    path from the root on, any other for the base name at any depth; one that ends in ``/`` is for directories only.
    What is below an excluded directory is excluded too. There is no negation.

    Also left out: names that writers use before they are done (see ``temporary_names``) unless *keep_temporary*; they
    are listed in ``left_out``. Sockets, pipes and devices, listed in ``special``. Entries that vanish.

    It holds the entries that are listed and not yielded yet, never the whole tree. ``problems`` is complete at the end.
    """

    def __init__(self, root: Root, exclude: Sequence[str] = (), *, keep_temporary: bool = False) -> None:
        self.problems: list[tuple[bytes, SourceError]] = []
        self.left_out = LeftOut()
        self._is_left_out = is_own if keep_temporary else is_temporary
        self.special = LeftOut()
        self._root = root
        self._excludes = Excludes(exclude) if exclude else None
        # Entries to yield, the last first.
        self._pending: list[Found] = []
        self._first_names: dict[tuple[int, int], bytes] = {}

    def __iter__(self) -> Iterator[Found]:
        self._enter_root()
        pending = self._pending
        while pending:
            found = pending.pop()
            if found.kind == "directory":
                if self._enter(found):
                    yield found
            else:
                if found.kind == "file" and found.stat.link_count > 1:
                    self._name_first_link(found)
                yield found

    def _enter_root(self) -> None:
        try:
            descriptor = self._root.open_directory(b"")
        except OSError as error:
            raise self._unreadable(b"", error) from error
        try:
            self._list(b"", descriptor)
        except OSError as error:
            raise self._unreadable(b"", error) from error
        finally:
            os.close(descriptor)

    def _enter(self, directory: Found) -> bool:
        """List a directory; return whether it is still there and still the one that its parent listed."""
        try:
            if len(directory.path) > _PATH_BYTES_MAX:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            descriptor = self._root.open_directory(directory.path)
        except OSError as error:
            self._note(directory.path, error)
            return error.errno not in VANISHED
        try:
            now = os.fstat(descriptor)
            # Another directory may have replaced it meanwhile.
            if (now.st_dev, now.st_ino) != (directory.stat.device, directory.stat.inode):
                return False
            self._list(directory.path + b"/", descriptor)
        except OSError as error:
            self._note(directory.path, error)
        finally:
            os.close(descriptor)
        return True

    def _list(self, prefix: bytes, descriptor: int) -> None:
        """Add a directory's entries to those to yield."""
        inside: list[Found] = []
        is_left_out = self._is_left_out
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    name = entry.name.encode(_ENCODING, _ENCODING_ERRORS)
                    if is_left_out(name):
                        self.left_out.add(prefix + name)
                    elif found := self._look(prefix + name, entry, descriptor):
                        inside.append(found)
        finally:
            self._put(prefix, inside)

    def _look(self, path: bytes, entry: os.DirEntry[str], descriptor: int) -> Found | None:
        """Return an entry of a directory, unless it is to be left out, is gone or cannot be looked at."""
        try:
            if self._excludes and self._excludes.match(path, is_directory=entry.is_dir(follow_symlinks=False)):
                return None
            found_stat = FileStat.of(entry.stat(follow_symlinks=False))
            kind = stat.S_IFMT(found_stat.mode)
            if kind == stat.S_IFREG:
                return Found(path, "file", found_stat)
            if kind == stat.S_IFDIR:
                return Found(path, "directory", found_stat)
            if kind == stat.S_IFLNK:
                target = os.fsencode(os.readlink(entry.name, dir_fd=descriptor))
                if not target:  # some FUSE file systems have empty targets, and a version cannot
                    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
                return Found(path, "symlink", found_stat, target)
        except OSError as error:
            self._note(path, error)
        else:
            self.special.add(path)
        return None

    def _put(self, prefix: bytes, inside: list[Found]) -> None:
        pending = self._pending
        # Names such as "a-b" and "a.pt" come between "a" and "a/b".
        between = []
        while pending and pending[-1].path < prefix:
            between.append(pending.pop())
        inside.sort(key=attrgetter("path"), reverse=True)
        pending += inside
        pending += reversed(between)

    def _name_first_link(self, found: Found) -> None:
        """Set ``link_to`` for every name of a file but the first."""
        name = self._first_names.setdefault((found.stat.device, found.stat.inode), found.path)
        if name != found.path:
            found.link_to = name

    def _note(self, path: bytes, error: OSError) -> None:
        """Record an error of one entry as a problem, unless the entry vanished."""
        if error.errno not in VANISHED:
            self.problems.append((path, self._unreadable(path, error)))

    def _unreadable(self, path: bytes, error: OSError) -> SourceUnreadable:
        where = display(joined(self._root.where, path) if path else self._root.where)
        return SourceUnreadable(f"cannot be read: {os.strerror(error.errno or errno.EIO)}", where=where)
