"""The directory that a restore writes to: nothing outside of it is touched, nothing in it is half-written.

Others may be able to write in it, and swap names while root works there. So everything is reached by descriptors from
the one directory that was opened first, no symbolic link is followed on any step, and owner, mode and time are given to
the very file that was compared or written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from types import TracebackType
from typing import Final, NamedTuple, Self

from mlsync.beneath import Beneath, reopen
from mlsync.buffers import Buffer
from mlsync.codec.digest import file_digester
from mlsync.errors import Damage, ObjectDamaged, TargetError
from mlsync.repository.manifest import Entry, Top
from mlsync.repository.tokens import EntryKind
from mlsync.source.paths import display, joined
from mlsync.target.faults import blocked, translated
from mlsync.target.holes import is_zero, make_hole
from mlsync.target.lock import LOCK_NAME
from mlsync.target.owners import Notice, Owners
from mlsync.target.staging import Staging, write_at
from mlsync.target.temporary import TEMPORARY_PREFIX, Temporary, make_named, open_leftover, open_temporary
from mlsync.versions.stored_file import Part, parts_of

__all__ = ["TEMPORARY_PREFIX", "IsNamed", "Plan", "Target"]

_COPY_BYTES: Final = 4 << 20
_MARK: Final = b"user.mlsync.restored"
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

IsNamed = Callable[[Buffer, bytes], bool]


@dataclass(slots=True)
class Plan:
    """How a file comes to be: the parts *in_place* in the file by now, those *left* by a killed restore, the *missing*.

    *in_place* does not name what is *left* too.
    """

    entry: Entry
    in_place: list[Part]
    left: list[Part]
    missing: list[Part]

    @property
    def needed_bytes(self) -> int:
        """The room that the file takes while it is made: what its temporary file does not hold yet."""
        return sum(part.length for part in (*self.in_place, *self.missing))


class _Directory(NamedTuple):
    """A directory as it was found or made: which one it is, and its mode if that had to be opened up for us."""

    device: int
    inode: int
    is_made: bool
    mode_before: int | None


class Target:
    """A restore's directory; *is_named* says whether bytes are the chunk of a name.

    *tick* is called again and again in work that takes long, and may raise to end it. Errors are ``TargetBlocked``
    where one entry cannot be had while others can, and other ``TargetError`` where nothing can.
    """

    def __init__(
        self,
        directory: bytes,
        is_named: IsNamed,
        *,
        notice: Notice = lambda _severity, _text: None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self.where = display(directory)
        self._directory = directory
        self._is_named = is_named
        self._tick = tick
        self._staging = Staging()
        self._directories: dict[bytes, _Directory] = {}
        with translated(directory):
            self._made = _make_directories(directory)
            self.root = Beneath.open(directory)
        self._owners = Owners(self.root, notice)
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        """Be used in a ``with``."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the directory."""
        self.root.close()

    @cached_property
    def is_fresh(self) -> bool:
        """Whether nothing was in the directory when this was asked first, which is to be while others are kept out."""
        with contextlib.suppress(PermissionError), self._top() as descriptor:
            return set(os.listdir(descriptor)) <= {os.fsdecode(LOCK_NAME)}
        return False

    def free_bytes(self) -> int:
        """Return the room that is left for this user."""
        with translated(self._directory):
            room = os.fstatvfs(self.root.descriptor)
        return room.f_bavail * room.f_frsize

    # ------------------------------------------------------------ directories

    def make_directory(self, entry: Entry) -> None:
        """Make a directory if it is missing, open for us alone until ``finish_directory``."""
        with self._faults(entry.path):
            self._directories[entry.path] = self._make_directory(entry.path)

    def _make_directory(self, path: bytes) -> _Directory:
        with self._beside(path) as (parent, name):
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
                is_made = True
            except FileExistsError:
                is_made = False
        descriptor = self.root.open_file(path, os.O_PATH)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISDIR(found.st_mode):
                raise blocked("a directory is to be made and something else stands there", self._full(path))
            mode = stat.S_IMODE(found.st_mode)
            is_closed = found.st_uid == os.geteuid() and mode & stat.S_IRWXU != stat.S_IRWXU
            if is_closed:
                # By the open directory: a mode cannot be given by this kind of descriptor, and a name may lead away.
                os.chmod(f"/proc/self/fd/{descriptor}", mode | stat.S_IRWXU)
        finally:
            os.close(descriptor)
        return _Directory(found.st_dev, found.st_ino, is_made, mode if is_closed else None)

    def finish_directory(self, entry: Entry) -> None:
        """Give a directory its owner, mode and time; those in it come first, for writing into it changes its time."""
        with self._faults(entry.path), self._same_directory(entry.path) as descriptor:
            self._owners.finish(descriptor, entry)
            os.fsync(descriptor)

    @contextlib.contextmanager
    def _same_directory(self, path: bytes) -> Iterator[int]:
        """Open the directory that was made or found at *path*, and no other that stands there now."""
        known = self._directories[path]
        descriptor = self.root.open_directory(path)
        try:
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) != (known.device, known.inode):
                raise blocked("another directory was put in its place meanwhile", self._full(path))
            yield descriptor
        finally:
            os.close(descriptor)

    # ------------------------------------------------------------ the directory itself

    def mark(self, run: bytes) -> None:
        """Note at the directory that a restore of *run* made all that is in it, where there is room for such a note."""
        with contextlib.suppress(OSError), self._top() as descriptor:
            os.setxattr(descriptor, _MARK, run)

    def is_marked(self, run: bytes) -> bool:
        """Whether the directory has such a note, of the same run."""
        with contextlib.suppress(OSError), self._top() as descriptor:
            return os.getxattr(descriptor, _MARK) == run
        return False

    def finish(self, top: Top | None, *, is_ours: bool) -> None:
        """Make the names in the directory durable and give it the time that it had; if it *is_ours*, all else too.

        A directory that somebody else made, such as a home or /tmp, keeps its owner and mode.
        """
        with translated(self._directory), self._top() as descriptor:
            if top is not None and is_ours:
                entry = Entry(b".", EntryKind.DIRECTORY, top.mode, top.uid, top.gid, top.mtime_ns)
                self._owners.finish(descriptor, entry)
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

    def abandon(self, entries: Iterable[Entry]) -> None:
        """Leave no trace but what was restored: directories that were made and are empty go, others get their modes.

        What cannot be done is passed over: there is an error to be told already.
        """
        known = [entry for entry in entries if entry.path in self._directories]
        for entry in reversed(known):
            with contextlib.suppress(OSError, TargetError):
                self._abandon_directory(entry)
        with contextlib.suppress(OSError), self._top() as descriptor:
            if self.is_fresh and not os.listdir(descriptor):
                os.removexattr(descriptor, _MARK)
        for directory in reversed(self._made):
            with contextlib.suppress(OSError):
                os.rmdir(directory)

    def _abandon_directory(self, entry: Entry) -> None:
        before = self._directories[entry.path]
        if before.is_made:
            with contextlib.suppress(OSError), self.root.beside(entry.path) as (parent, name):
                os.rmdir(name, dir_fd=parent)
                return
            self.finish_directory(entry)
        elif before.mode_before is not None:
            with self._same_directory(entry.path) as descriptor:
                os.fchmod(descriptor, before.mode_before)

    # ------------------------------------------------------------ files

    def plan(self, entry: Entry) -> Plan | None:
        """Compare what is there with the version; ``None`` if the file is right already, its mode and time mended."""
        parts = [part for part in parts_of(entry) if part.ref is not None]
        if self._is_in_new_directory(entry.path):
            return Plan(entry, in_place=[], left=[], missing=parts)
        with self._faults(entry.path), self._beside(entry.path) as (parent, name):
            in_place: set[int] = set()
            descriptor = self._open_file(parent, name, entry.path)
            if descriptor is not None:
                try:
                    in_place = self._matching(descriptor, parts)
                    if self._is_right(descriptor, entry, in_place):
                        self._owners.finish(descriptor, entry)
                        return None
                finally:
                    os.close(descriptor)
            # What a killed restore wrote counts as much as what is in place.
            left = self._left_over(parent, name, parts)
        return Plan(
            entry,
            in_place=[part for part in parts if part.offset in in_place and part.offset not in left],
            left=[part for part in parts if part.offset in left],
            missing=[part for part in parts if part.offset not in in_place and part.offset not in left],
        )

    def _is_in_new_directory(self, path: bytes) -> bool:
        """Whether nothing can be there yet that is worth a look."""
        above = path.rpartition(b"/")[0]
        return self._directories[above].is_made if above in self._directories else not above and self.is_fresh

    def _open_file(self, parent: int, name: bytes, path: bytes) -> int | None:
        """Open the file of that name, ``None`` if there is none that can be read."""
        found = _lstat(parent, name)
        if found is not None and stat.S_ISDIR(found.st_mode):
            raise blocked("a file is to be restored and a directory stands there", self._full(path))
        if found is None or not stat.S_ISREG(found.st_mode):
            return None
        try:
            descriptor = os.open(name, _READ, dir_fd=parent)
        except OSError:
            return None
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        return None

    def _left_over(self, parent: int, name: bytes, parts: list[Part]) -> set[int]:
        descriptor = open_leftover(parent, name)
        if descriptor is None:
            return set()
        try:
            return self._matching(descriptor, parts)
        finally:
            os.close(descriptor)

    def write(self, plan: Plan, contents: Iterable[tuple[Part, Buffer]]) -> None:
        """Make the file whole under a temporary name, check it, and give it its name.

        Of a file that cannot be had nothing stays behind; what was written of one that is given up halfway stays for
        a rerun.
        """
        path = plan.entry.path
        with self._faults(path), self._beside(path) as (parent, name):
            temporary = open_temporary(parent, name)
            try:
                if plan.left and temporary.is_new:
                    raise blocked("what was left of it went away meanwhile", self._full(path))
                self._fill(temporary, name, plan, contents)
                self._finish(temporary, plan.entry)
                if not temporary.rename(name):
                    raise blocked("something else was put in its place meanwhile", self._full(path))
            except BaseException as error:
                if isinstance(error, (OSError, TargetError, Damage)) or not temporary.is_foretold:
                    temporary.remove()
                raise
            finally:
                self._staging.stop()
                os.close(temporary.descriptor)

    def _fill(self, temporary: Temporary, name: bytes, plan: Plan, contents: Iterable[tuple[Part, Buffer]]) -> None:
        """The temporary file has the content of the version, or ``ObjectDamaged`` is raised."""
        entry, descriptor = plan.entry, temporary.descriptor
        if plan.in_place:
            self._copy(temporary, name, plan.in_place)
        self._staging.begin(descriptor, partial(_open_again, descriptor))
        digester = file_digester()
        for part, content in contents:
            digester.update(content)
            self._staging.put(part.offset, content)
        self._staging.flush()
        os.ftruncate(descriptor, entry.size_bytes)
        if not temporary.is_new:
            # What was left over may be another version's, with bytes there. A new file has none.
            for offset, length in entry.holes:
                make_hole(descriptor, offset, length, self._tick)
        # What was there already is read again; what was all written now was seen on its way, in order.
        is_all_new = not plan.in_place and not plan.left
        digest = digester.digest() if is_all_new else self._digest(descriptor, entry)
        if digest != entry.digest:
            raise ObjectDamaged("a restored file is not what was backed up", where=display(self._full(entry.path)))

    def _finish(self, temporary: Temporary, entry: Entry) -> None:
        """Owner, mode, time and content are durable."""
        if entry.size_bytes > _COPY_BYTES:
            # A long file takes a while to sync. Up to then it is ours alone: what a kill leaves can be gone on with.
            os.fsync(temporary.descriptor)
        self._owners.finish(temporary.descriptor, entry)
        os.fsync(temporary.descriptor)

    # ------------------------------------------------------------ links

    def make_link(self, entry: Entry) -> None:
        """Make a symbolic or hard link, in one step."""
        with self._faults(entry.path), self._beside(entry.path) as (parent, name):
            found = _lstat(parent, name)
            if found is not None and stat.S_ISDIR(found.st_mode):
                raise blocked("a link is to be restored and a directory stands there", self._full(entry.path))
            if found is not None and self._links_already(parent, name, found, entry):
                return
            if entry.kind is EntryKind.SYMLINK:
                temporary = make_named(parent, name, partial(os.symlink, entry.target, dir_fd=parent))
                self._finish_link(parent, temporary, entry)
            else:
                with self.root.beside(entry.target) as (source, first):
                    make = partial(os.link, first, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
                    temporary = make_named(parent, name, make)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            # Where both were one file already, rename does nothing and leaves both names.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)

    def _finish_link(self, parent: int, temporary: bytes, entry: Entry) -> None:
        """Give the link its owner and time, if it still is the one that was made."""
        descriptor = os.open(temporary, _LOOK, dir_fd=parent)
        try:
            if not stat.S_ISLNK(os.fstat(descriptor).st_mode) or os.readlink(b"", dir_fd=descriptor) != entry.target:
                raise blocked("something else was put in its place meanwhile", self._full(entry.path))
            self._owners.finish_link(descriptor, entry)
        finally:
            os.close(descriptor)

    def _links_already(self, parent: int, name: bytes, found: os.stat_result, entry: Entry) -> bool:
        if entry.kind is EntryKind.HARD_LINK:
            return os.path.samestat(self.root.stat(entry.target), found)
        if not stat.S_ISLNK(found.st_mode) or os.readlink(name, dir_fd=parent) != entry.target:
            return False
        return self._owners.is_right(found, entry)

    # ------------------------------------------------------------ inside

    def _full(self, path: bytes) -> bytes:
        return joined(self._directory, path)

    def _faults(self, path: bytes) -> contextlib.AbstractContextManager[None]:
        return translated(self._full(path))

    @contextlib.contextmanager
    def _beside(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Give the directory of *path*, made if it is missing, and the name in it."""
        with contextlib.ExitStack() as stack:
            try:
                beside = stack.enter_context(self.root.beside(path))
            except FileNotFoundError:
                parts = path.split(b"/")
                for count in range(1, len(parts)):
                    self._make_directory(b"/".join(parts[:count]))
                beside = stack.enter_context(self.root.beside(path))
            yield beside

    def _matching(self, descriptor: int, parts: list[Part]) -> set[int]:
        """Return the offsets of the parts that an open file holds already."""
        size_bytes = os.fstat(descriptor).st_size
        return {
            part.offset
            for part in parts
            if part.offset + part.length <= size_bytes and self._holds(descriptor, part, self._room(part.length))
        }

    def _holds(self, descriptor: int, part: Part, buffer: memoryview) -> bool:
        assert part.ref is not None
        self._tick()
        return os.preadv(descriptor, [buffer], part.offset) == len(buffer) and self._is_named(buffer, part.ref.name)

    def _is_right(self, descriptor: int, entry: Entry, in_place: set[int]) -> bool:
        """Whether the content is the version's, and owner and mode may be mended where the file is."""
        found = os.fstat(descriptor)
        if found.st_size != entry.size_bytes or len(in_place) != len(entry.chunks):
            return False
        if not self._owners.may_mend(found, entry):
            return False
        return all(is_zero(descriptor, offset, length, self._tick) for offset, length in entry.holes)

    def _copy(self, temporary: Temporary, name: bytes, parts: list[Part]) -> None:
        """Copy parts from the file *name*; whether they still are what they were shows in the digest."""
        descriptor = os.open(name, _READ, dir_fd=temporary.parent)
        try:
            for part in parts:
                self._tick()
                room = self._room(part.length)
                count = os.preadv(descriptor, [room], part.offset)
                write_at(temporary.descriptor, part.offset, room[:count])
        finally:
            os.close(descriptor)

    def _digest(self, descriptor: int, entry: Entry) -> bytes:
        """Return the digest of the file as it stands, its holes left out: what counts is what is there."""
        digester = file_digester()
        offset = 0
        for hole_offset, hole_length in (*entry.holes, (entry.size_bytes, 0)):
            for view in self._data(descriptor, offset, hole_offset - offset):
                digester.update(view)
            offset = hole_offset + hole_length
        return digester.digest()

    def _data(self, descriptor: int, offset: int, length: int) -> Iterator[memoryview]:
        end = offset + length
        while offset < end:
            self._tick()
            room = self._room(min(_COPY_BYTES, end - offset))
            count = os.preadv(descriptor, [room], offset)
            if count == 0:
                return
            yield room[:count]
            offset += count

    def _room(self, size_bytes: int) -> memoryview:
        """Return the first bytes of a buffer that is made once, and longer when it has to be."""
        if len(self._buffer) < size_bytes:
            self._buffer = bytearray(size_bytes)
        return memoryview(self._buffer)[:size_bytes]


def _make_directories(directory: bytes) -> list[bytes]:
    """Make *directory* and what is missing above it; return what was made, the topmost first."""
    missing = []
    place = os.path.abspath(directory)
    while not os.path.isdir(place) and os.path.dirname(place) != place:
        missing.append(place)
        place = os.path.dirname(place)
    made = []
    for place in reversed(missing):
        try:
            os.mkdir(place)
        except FileExistsError:
            if not os.path.isdir(place):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), place) from None
        else:
            made.append(place)
    return made


def _open_again(descriptor: int, flags: int) -> int:
    """Open a file once more, by its descriptor; where there is no /proc it is as if there were no direct I/O."""
    try:
        return reopen(descriptor, flags)
    except (FileNotFoundError, PermissionError) as error:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from error


def _lstat(parent: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
