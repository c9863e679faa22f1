"""A restore's target: it touches nothing outside its directory, and leaves no file half written.

Others may be able to write in it, and swap names while root works there. So every step starts from the one directory
that the restore opened first, goes by descriptors, and follows no symbolic link; owner, mode and time go to the very
file that was compared or written.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Final

from mlsync.buffers import Buffer
from mlsync.codec.digest import FileDigester
from mlsync.errors import Damage, ObjectDamaged, TargetError
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry
from mlsync.source.paths import display
from mlsync.target.directories import TargetDirectories
from mlsync.target.holes import is_zero, make_hole
from mlsync.target.metadata import Notice
from mlsync.target.os_errors import blocked
from mlsync.target.spool import read_whole
from mlsync.target.staging import SLAB_BYTES, Staging, open_again, write_at
from mlsync.target.temporary import TemporaryFile, make_named, open_leftover, open_temporary
from mlsync.versions.stored_file import FileSpan, parts_of

_COPY_BYTES: Final = 4 << 20
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

NameOf = Callable[[Buffer], bytes]


@dataclass(frozen=True, slots=True)
class FilePlan:
    """Where the parts of a file come from: *in_place* in the present file, *leftover* of a killed restore, *missing*.

    No part is in two of them. Where the present file has the base of a missing part in its place, *bases* has the
    base's name and that offset.
    """

    entry: Entry
    in_place: list[FileSpan]
    leftover: list[FileSpan]
    missing: list[FileSpan]
    bases: dict[bytes, int] = field(default_factory=dict)

    @property
    def needed_bytes(self) -> int:
        """The space that the temporary file takes beyond what it already holds."""
        return sum(part.length for part in (*self.in_place, *self.missing))

    @property
    def missing_bytes(self) -> int:
        """The bytes that must come from the repository."""
        return sum(part.length for part in self.missing)


class Target(TargetDirectories):
    """A restore's directory; *name_of* returns the name that a chunk of some bytes has.

    Raises ``TargetBlocked`` where one entry fails and others may not, other ``TargetError``s where all would.
    """

    def __init__(
        self,
        directory: bytes,
        name_of: NameOf,
        *,
        notice: Notice = lambda _severity, _text: None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(directory, notice=notice, tick=tick)
        self._name_of = name_of
        self._staging = Staging()
        self._buffer = bytearray()

    # ------------------------------------------------------------ files

    def plan(self, entry: Entry) -> FilePlan | None:
        """Compare the file with the version; if it is right already, fix its mode and time and return ``None``."""
        parts = [part for part in parts_of(entry) if part.ref is not None]
        if self._is_in_new_directory(entry.path):
            return FilePlan(entry, in_place=[], leftover=[], missing=parts)
        with self._os_errors(entry.path), self._beside(entry.path) as (parent, name):
            in_place: set[int] = set()
            bases: dict[bytes, int] = {}
            descriptor = self._open_file(parent, name, entry.path)
            if descriptor is not None:
                try:
                    in_place, bases = self._matching(descriptor, parts)
                    if self._is_right(descriptor, entry, in_place):
                        self._metadata.apply(descriptor, entry)
                        return None
                finally:
                    os.close(descriptor)
            # What a killed restore wrote counts as much as what the file holds.
            leftover = self._leftover(parent, name, parts)
        return FilePlan(
            entry,
            in_place=[part for part in parts if part.offset in in_place and part.offset not in leftover],
            leftover=[part for part in parts if part.offset in leftover],
            missing=[part for part in parts if part.offset not in in_place and part.offset not in leftover],
            bases=bases,
        )

    def _open_file(self, parent: int, name: bytes, path: bytes) -> int | None:
        """Open the file of that name; return ``None`` if there is none that can be read."""
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

    def _leftover(self, parent: int, name: bytes, parts: list[FileSpan]) -> set[int]:
        descriptor = open_leftover(parent, name)
        if descriptor is None:
            return set()
        try:
            return self._matching(descriptor, parts)[0]
        finally:
            os.close(descriptor)

    def rooms(self, plans: Iterable[FilePlan]) -> Callable[[int], memoryview | None]:
        """Return what gives memory for the n-th missing part of *plans*, before ``write`` gets them in this order.

        Parts that are filled there are written from there. What was given before is not used any more.
        """
        self._staging.forget_rooms()
        parts = ((plan, part) for plan in plans for part in plan.missing)
        next_number = 0

        def room(number: int) -> memoryview | None:
            nonlocal next_number
            plan, part = next(islice(parts, number - next_number, None))
            next_number = number + 1
            # A short file is copied into memory that the next one uses too.
            is_long = plan.entry.size_bytes >= SLAB_BYTES
            return self._staging.room(plan, part.offset, part.length) if is_long else None

        return room

    def write(self, plan: FilePlan, contents: Iterable[tuple[FileSpan, Buffer]]) -> None:
        """Make the whole file under a temporary name, check it, and rename it.

        A file that fails leaves nothing behind; one that is given up halfway stays for the next restore.
        """
        path = plan.entry.path
        with self._os_errors(path), self._beside(path) as (parent, name):
            temporary = open_temporary(parent, name)
            try:
                if plan.leftover and temporary.is_new:
                    raise blocked("what was left of it went away meanwhile", self._full(path))
                self._fill(temporary, name, plan, contents)
                self._make_durable(temporary, plan.entry)
                if not temporary.rename(name):
                    raise blocked("something else was put in its place meanwhile", self._full(path))
            except BaseException as error:
                if isinstance(error, (OSError, TargetError, Damage)) or not temporary.is_resumable:
                    temporary.remove()
                raise
            finally:
                self._staging.stop()
                os.close(temporary.descriptor)

    def _fill(
        self, temporary: TemporaryFile, name: bytes, plan: FilePlan, contents: Iterable[tuple[FileSpan, Buffer]]
    ) -> None:
        """Give the temporary file the content of the version; raise ``ObjectDamaged`` if its digest differs."""
        entry, descriptor = plan.entry, temporary.descriptor
        if plan.in_place:
            self._copy(temporary, name, plan.in_place)
        self._staging.begin(descriptor, partial(open_again, descriptor), plan)
        digester = FileDigester(entry.digest[0], entry.holes)
        for part, content in contents:
            digester.update(content)
            self._staging.put(part.offset, content)
        self._staging.flush()
        os.ftruncate(descriptor, entry.size_bytes)
        if not temporary.is_new:
            # A leftover may be another version's, with bytes there. A new file has none.
            for offset, length in entry.holes:
                make_hole(descriptor, offset, length, self._tick)
        # What was there before is read again; a file that is all new passed through the digester, in order.
        is_all_new = not plan.in_place and not plan.leftover
        digest = digester.digest() if is_all_new else self._digest(descriptor, entry)
        if digest != entry.digest:
            raise ObjectDamaged("a restored file is not what was backed up", where=display(self._full(entry.path)))

    def _make_durable(self, temporary: TemporaryFile, entry: Entry) -> None:
        """Set owner, mode and time, and sync them with the content."""
        if entry.size_bytes > _COPY_BYTES:
            # A long file takes a while to sync. Until then it is ours alone, so that the next restore can continue it.
            os.fsync(temporary.descriptor)
        self._metadata.apply(temporary.descriptor, entry)
        os.fsync(temporary.descriptor)

    def read_part(self, path: bytes, offset: int, into: memoryview) -> bool:
        """Fill *into* from a file that is there, whatever it holds; return whether it has so much. For any thread."""
        try:
            descriptor = self.root.open_file(path, _READ)
        except OSError:
            return False
        try:
            return stat.S_ISREG(os.fstat(descriptor).st_mode) and read_whole(descriptor, offset, into)
        except OSError:
            return False
        finally:
            os.close(descriptor)

    # ------------------------------------------------------------ links

    def make_link(self, entry: Entry) -> None:
        """Make a symbolic or hard link, in one step."""
        with self._os_errors(entry.path), self._beside(entry.path) as (parent, name):
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
            # Where both were the same file already, rename does nothing and leaves both names.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)

    def _finish_link(self, parent: int, temporary: bytes, entry: Entry) -> None:
        """Set the link's owner and time; raise if it is no longer the one that was made."""
        descriptor = os.open(temporary, _LOOK, dir_fd=parent)
        try:
            if not stat.S_ISLNK(os.fstat(descriptor).st_mode) or os.readlink(b"", dir_fd=descriptor) != entry.target:
                raise blocked("something else was put in its place meanwhile", self._full(entry.path))
            self._metadata.apply_to_link(descriptor, entry)
        finally:
            os.close(descriptor)

    def _links_already(self, parent: int, name: bytes, found: os.stat_result, entry: Entry) -> bool:
        if entry.kind is EntryKind.HARD_LINK:
            return os.path.samestat(self.root.stat(entry.target), found)
        if not stat.S_ISLNK(found.st_mode) or os.readlink(name, dir_fd=parent) != entry.target:
            return False
        return self._metadata.is_right(found, entry)

    # ------------------------------------------------------------ inside

    def _matching(self, descriptor: int, parts: list[FileSpan]) -> tuple[set[int], dict[bytes, int]]:
        """Return the offsets of the parts that an open file already holds, and of bases of others, by their names."""
        size_bytes = os.fstat(descriptor).st_size
        matching: set[int] = set()
        bases: dict[bytes, int] = {}
        for part in parts:
            ref = part.ref
            if ref is None or part.offset + part.length > size_bytes:
                continue
            self._tick()
            buffer = self._scratch(part.length)
            if os.preadv(descriptor, [buffer], part.offset) < len(buffer):
                continue
            name = self._name_of(buffer)
            if name == ref.name:
                matching.add(part.offset)
            elif name == ref.base_name:
                bases[name] = part.offset
        return matching, bases

    def _is_right(self, descriptor: int, entry: Entry, in_place: set[int]) -> bool:
        """Return whether the content is the version's, and owner and mode may be fixed in place."""
        found = os.fstat(descriptor)
        if found.st_size != entry.size_bytes or len(in_place) != len(entry.chunks):
            return False
        if not self._metadata.may_fix(found, entry):
            return False
        # Root must not change a file by a name that somebody else may have given it.
        if found.st_nlink > 1 and not self._metadata.has_attributes(descriptor, entry):
            return False
        return all(is_zero(descriptor, offset, length, self._tick) for offset, length in entry.holes)

    def _copy(self, temporary: TemporaryFile, name: bytes, parts: list[FileSpan]) -> None:
        """Copy parts from the file *name*; the digest shows whether they changed meanwhile."""
        descriptor = os.open(name, _READ, dir_fd=temporary.parent)
        try:
            for part in parts:
                self._tick()
                buffer = self._scratch(part.length)
                count = os.preadv(descriptor, [buffer], part.offset)
                write_at(temporary.descriptor, part.offset, buffer[:count])
        finally:
            os.close(descriptor)

    def _digest(self, descriptor: int, entry: Entry) -> bytes:
        """Return the digest of the file on disk; its holes, which were looked at or made, are not read."""
        digester = FileDigester(entry.digest[0], entry.holes)
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
            buffer = self._scratch(min(_COPY_BYTES, end - offset))
            count = os.preadv(descriptor, [buffer], offset)
            if count == 0:
                return
            yield buffer[:count]
            offset += count

    def _scratch(self, size_bytes: int) -> memoryview:
        """Return the first bytes of one buffer, which grows when it has to."""
        if len(self._buffer) < size_bytes:
            self._buffer = bytearray(size_bytes)
        return memoryview(self._buffer)[:size_bytes]


def _lstat(parent: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
