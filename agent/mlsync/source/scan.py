"""Walk the watched directory and say what is there, by stats alone: no file is opened."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from typing import Final, Literal

from mlsync.errors import SourceError, SourceMissing, SourceUnreadable
from mlsync.source.exclude import Excludes
from mlsync.source.paths import display, joined
from mlsync.source.settle import is_temporary

# What the kernel says of an entry that was there a moment ago: gone, or something else now stands in its place.
VANISHED: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class FileStat:
    """What of a stat tells one content, owner or place from another."""

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
        """Take over what a stat call gave."""
        return cls(
            result.st_dev,
            result.st_ino,
            result.st_mode,
            result.st_uid,
            result.st_gid,
            result.st_nlink,
            result.st_size,
            result.st_mtime_ns,
            result.st_ctime_ns,
        )

    def same_content(self, other: FileStat) -> bool:
        """Say whether it is the same file with, as far as a stat can tell, the same bytes."""
        return (
            self.ctime_ns == other.ctime_ns
            and self.mtime_ns == other.mtime_ns
            and self.size_bytes == other.size_bytes
            and self.inode == other.inode
            and self.device == other.device
        )


@dataclass(frozen=True, slots=True)
class Found:
    """An entry of the tree; *path* is relative to the root and never empty.

    *target* is a symlink's text; *link_to* is, for a file with several names, the first of those found.
    """

    path: bytes
    kind: Literal["file", "directory", "symlink"]
    stat: FileStat
    target: bytes = b""
    link_to: bytes | None = None


@dataclass
class Scan:
    """What was found, in the order of path bytes.

    Where *problems* names a directory, what is below it is unknown: that it was not found does not mean that it is
    gone. The problem of the path ``b""`` would be the root's and is raised instead.
    """

    found: list[Found]
    problems: list[tuple[bytes, SourceError]]
    skipped_special: int = 0


def scan(root: bytes, exclude: Sequence[str] = ()) -> Scan:
    r"""Find everything below *root*, a directory or a symlink to one; no other symlink is followed.

    *exclude* holds patterns in the manner of ``.gitignore``, for paths relative to the root: ``*`` and ``?`` match
    anything but ``/``, ``[abc]`` and ``[!a-c]`` one character, ``**/`` and ``/**`` any number of directories, ``\``
    takes the next character as it is. A pattern with a ``/`` before its end is for the path from the root on, any
    other for the base name at any depth; one that ends in ``/`` is for directories only. What is below an excluded
    directory is excluded too. There is no negation.

    Left out besides: names that writers use before they are done (see ``settle``); sockets, pipes and devices
    (counted in ``skipped_special``); entries that vanish during the scan.
    """
    walk = _Walk(root, Excludes(exclude))
    walk.enter_root()
    while walk.pending:
        walk.enter(walk.pending.pop())
    walk.found.sort(key=attrgetter("path"))
    _name_first_links(walk.found)
    return Scan(walk.found, sorted(walk.problems, key=itemgetter(0)), walk.skipped_special)


@dataclass
class _Walk:
    root: bytes
    excludes: Excludes
    pending: list[Found] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    problems: list[tuple[bytes, SourceError]] = field(default_factory=list)
    skipped_special: int = 0

    def enter_root(self) -> None:
        try:
            descriptor = os.open(self.root, _OPEN_DIRECTORY)
        except OSError as error:
            if error.errno in VANISHED:
                what = "the watched directory is not there"
                raise SourceMissing(what, where=display(self.root)) from error
            raise self._unreadable(b"", error) from error
        try:
            self._list(b"", descriptor)
        except OSError as error:
            raise self._unreadable(b"", error) from error
        finally:
            os.close(descriptor)

    def enter(self, directory: Found) -> None:
        """Look at one directory; it is left out if it is gone or is not the one any more that its parent showed."""
        with self._noting(directory.path):
            try:
                descriptor = os.open(joined(self.root, directory.path), _OPEN_DIRECTORY | os.O_NOFOLLOW)
            except PermissionError:
                self.found.append(directory)
                raise
            try:
                now = os.fstat(descriptor)
                # Somebody may have put a symlink into the path meanwhile, to have us read elsewhere.
                if (now.st_dev, now.st_ino) != (directory.stat.device, directory.stat.inode):
                    return
                self.found.append(directory)
                self._list(directory.path + b"/", descriptor)
            finally:
                os.close(descriptor)

    def _list(self, prefix: bytes, descriptor: int) -> None:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                path = prefix + os.fsencode(entry.name)
                with self._noting(path):
                    self._take(path, entry, descriptor)

    def _take(self, path: bytes, entry: os.DirEntry[str], descriptor: int) -> None:
        is_directory = entry.is_dir(follow_symlinks=False)
        if is_temporary(os.fsencode(entry.name)) or self.excludes.match(path, is_directory=is_directory):
            return
        found_stat = FileStat.of(entry.stat(follow_symlinks=False))
        if stat.S_ISREG(found_stat.mode):
            self.found.append(Found(path, "file", found_stat))
        elif stat.S_ISDIR(found_stat.mode):
            self.pending.append(Found(path, "directory", found_stat))
        elif stat.S_ISLNK(found_stat.mode):
            target = os.fsencode(os.readlink(entry.name, dir_fd=descriptor))
            self.found.append(Found(path, "symlink", found_stat, target))
        else:
            self.skipped_special += 1

    @contextmanager
    def _noting(self, path: bytes) -> Iterator[None]:
        """Turn what the system says against one entry into a problem; an entry that vanished is none."""
        try:
            yield
        except OSError as error:
            if error.errno not in VANISHED:
                self.problems.append((path, self._unreadable(path, error)))

    def _unreadable(self, path: bytes, error: OSError) -> SourceUnreadable:
        where = display(joined(self.root, path) if path else self.root)
        return SourceUnreadable(f"cannot be read: {os.strerror(error.errno or errno.EIO)}", where=where)


def _name_first_links(found: list[Found]) -> None:
    """Name, in each further name of a file, the first one."""
    first: dict[tuple[int, int], bytes] = {}
    for index, entry in enumerate(found):
        if entry.kind != "file" or entry.stat.link_count < 2:  # noqa: PLR2004 - a file has one name at least
            continue
        name = first.setdefault((entry.stat.device, entry.stat.inode), entry.path)
        if name != entry.path:
            found[index] = dataclasses.replace(entry, link_to=name)
