"""The directories of a restore: made or found, reached only by descriptors, and finished last."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from types import TracebackType
from typing import Final, NamedTuple, Self

from mlsync.beneath import Beneath
from mlsync.errors import TargetError
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry, Top
from mlsync.source.paths import display, joined
from mlsync.target.lock import LOCK_NAME
from mlsync.target.metadata import MetadataWriter, Notice
from mlsync.target.os_errors import blocked, translated

_MARK: Final = b"user.mlsync.restored"


class _Directory(NamedTuple):
    """A directory as it was found or made: its identity, and its mode before the restore got access to it."""

    device: int
    inode: int
    is_new: bool
    mode_before: int | None


class TargetDirectories:
    """A restore's directory with those below it; makes it if it is missing.

    Long work calls *tick* again and again, which may raise to end it.
    """

    def __init__(self, directory: bytes, *, notice: Notice, tick: Callable[[], None]) -> None:
        self.where = display(directory)
        self._directory = directory
        self._tick = tick
        self._directories: dict[bytes, _Directory] = {}
        with translated(directory):
            self._created = _make_directories(directory)
            self.root = Beneath.open(directory)
        self._metadata = MetadataWriter(self.root, notice)

    def __enter__(self) -> Self:
        """Be used in a ``with``."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the directory."""
        self.root.close()

    @cached_property
    def is_fresh(self) -> bool:
        """Whether the directory was empty at the first call, which must come while the restore holds the lock."""
        with contextlib.suppress(PermissionError), self._top() as descriptor:
            return set(os.listdir(descriptor)) <= {os.fsdecode(LOCK_NAME)}
        return False

    def free_bytes(self) -> int:
        """Return the free space for this user."""
        with translated(self._directory):
            space = os.fstatvfs(self.root.descriptor)
        return space.f_bavail * space.f_frsize

    # ------------------------------------------------------------ the directory itself

    def mark(self, run: bytes) -> None:
        """Note at the directory that a restore of *run* made its whole content, where the file system can hold that."""
        with contextlib.suppress(OSError), self._top() as descriptor:
            os.setxattr(descriptor, _MARK, run)

    def is_marked(self, run: bytes) -> bool:
        """Return whether the directory has the mark of the same run."""
        with contextlib.suppress(OSError), self._top() as descriptor:
            return os.getxattr(descriptor, _MARK) == run
        return False

    def finish(self, top: Top | None, *, is_ours: bool) -> None:
        """Make the names in the directory durable, and set its time; set owner and mode too if it *is_ours*.

        A directory that somebody else made, such as a home or /tmp, keeps its owner and mode.
        """
        with translated(self._directory), self._top() as descriptor:
            if top is not None and is_ours:
                entry = Entry(b".", EntryKind.DIRECTORY, top.mode, top.uid, top.gid, top.mtime_ns)
                self._metadata.apply(descriptor, entry, is_all=False)
            elif top is not None:
                with contextlib.suppress(PermissionError):
                    os.utime(descriptor, ns=(top.mtime_ns, top.mtime_ns))
            os.fsync(descriptor)

    @contextlib.contextmanager
    def _top(self) -> Iterator[int]:
        descriptor = self.root.open_directory(b"")
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    # ------------------------------------------------------------ directories below it

    def make_directory(self, entry: Entry) -> None:
        """Make a directory if it is missing, writable for us until ``finish_directory``."""
        with self._os_errors(entry.path):
            self._directories[entry.path] = self._make_directory(entry.path)

    def finish_directory(self, entry: Entry) -> None:
        """Set a directory's owner, mode and time; those in it come first, since writing into it changes its time."""
        with self._os_errors(entry.path), self._same_directory(entry.path) as descriptor:
            self._metadata.apply(descriptor, entry)
            os.fsync(descriptor)

    def abandon(self, entries: Iterable[Entry]) -> None:
        """Leave only what was restored: remove new directories that are empty, and restore the modes of others.

        Errors are ignored: the restore already has one to report.
        """
        known = [entry for entry in entries if entry.path in self._directories]
        for entry in reversed(known):
            with contextlib.suppress(OSError, TargetError):
                self._abandon_directory(entry)
        with contextlib.suppress(OSError), self._top() as descriptor:
            if self.is_fresh and not os.listdir(descriptor):
                os.removexattr(descriptor, _MARK)
        for directory in reversed(self._created):
            with contextlib.suppress(OSError):
                os.rmdir(directory)

    def _make_directory(self, path: bytes) -> _Directory:
        with self._beside(path) as (parent, name):
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
                is_new = True
            except FileExistsError:
                is_new = False
        descriptor = self.root.open_file(path, os.O_PATH)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISDIR(found.st_mode):
                raise blocked("a directory is to be made and something else stands there", self._full(path))
            mode = stat.S_IMODE(found.st_mode)
            is_closed = found.st_uid == os.geteuid() and mode & stat.S_IRWXU != stat.S_IRWXU
            if is_closed:
                # Through /proc: fchmod takes no such descriptor, and a name may lead elsewhere by now.
                os.chmod(f"/proc/self/fd/{descriptor}", mode | stat.S_IRWXU)
        finally:
            os.close(descriptor)
        return _Directory(found.st_dev, found.st_ino, is_new, mode if is_closed else None)

    @contextlib.contextmanager
    def _same_directory(self, path: bytes) -> Iterator[int]:
        """Open the directory that the restore made or found at *path*; raise if another one is there now."""
        known = self._directories[path]
        descriptor = self.root.open_directory(path)
        try:
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) != (known.device, known.inode):
                raise blocked("another directory was put in its place meanwhile", self._full(path))
            yield descriptor
        finally:
            os.close(descriptor)

    def _abandon_directory(self, entry: Entry) -> None:
        before = self._directories[entry.path]
        if before.is_new:
            with contextlib.suppress(OSError), self.root.beside(entry.path) as (parent, name):
                os.rmdir(name, dir_fd=parent)
                return
            self.finish_directory(entry)
        elif before.mode_before is not None:
            with self._same_directory(entry.path) as descriptor:
                os.fchmod(descriptor, before.mode_before)

    # ------------------------------------------------------------ for what is in them

    def _is_in_new_directory(self, path: bytes) -> bool:
        """Return whether the restore made the directory of *path*, so that no earlier file can be there."""
        above = path.rpartition(b"/")[0]
        return self._directories[above].is_new if above in self._directories else not above and self.is_fresh

    @contextlib.contextmanager
    def _beside(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the directory of *path*, made if it is missing, and the name in it."""
        with contextlib.ExitStack() as stack:
            try:
                beside = stack.enter_context(self.root.beside(path))
            except FileNotFoundError:
                parts = path.split(b"/")
                for count in range(1, len(parts)):
                    self._make_directory(b"/".join(parts[:count]))
                beside = stack.enter_context(self.root.beside(path))
            yield beside

    def _full(self, path: bytes) -> bytes:
        return joined(self._directory, path)

    def _os_errors(self, path: bytes) -> contextlib.AbstractContextManager[None]:
        return translated(self._full(path))


def _make_directories(directory: bytes) -> list[bytes]:
    """Make *directory* and what is missing above it; return those that this made, the topmost first."""
    missing = []
    path = os.path.abspath(directory)
    while not os.path.isdir(path) and os.path.dirname(path) != path:
        missing.append(path)
        path = os.path.dirname(path)
    created = []
    for path in reversed(missing):
        try:
            os.mkdir(path)
        except FileExistsError:
            if not os.path.isdir(path):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
        else:
            created.append(path)
    return created
