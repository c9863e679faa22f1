"""The directory that a restore writes to: nothing outside of it is touched, nothing in it is half-written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from mlsync.codec.digest import Buffer, file_digester
from mlsync.errors import Error, ObjectDamaged, TargetBlocked, TargetError, TargetFull
from mlsync.flows.restored_file import Part, parts_of
from mlsync.flows.staging import Staging, write_at
from mlsync.repository.manifest import Entry
from mlsync.repository.tokens import EntryKind
from mlsync.source.paths import display

TEMPORARY_PREFIX: Final = b".mlsync-restore-"
_COPY_BYTES: Final = 4 << 20
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

IsNamed = Callable[[Buffer, bytes], bool]


@dataclass(slots=True)
class Plan:
    """How a file comes to be: the parts that are *local* (in the file at that place by now) and those *missing*."""

    entry: Entry
    local: list[tuple[Part, bytes]]
    missing: list[Part]

    @property
    def needed_bytes(self) -> int:
        """The room that the file takes while it is made: what its temporary file does not hold yet."""
        copied = sum(part.length for part, source in self.local if not _is_temporary(source))
        return copied + sum(part.length for part in self.missing)


class Target:
    """A restore's directory; *is_named* says whether bytes are the chunk of a name."""

    def __init__(self, directory: bytes, is_named: IsNamed) -> None:
        self.where = display(directory)
        self._directory = directory
        self._is_named = is_named
        self._is_root = os.geteuid() == 0
        self._staging = Staging()
        with _translated(directory):
            os.makedirs(directory, exist_ok=True)

    def free_bytes(self) -> int:
        """Return the room that is left for this user."""
        with _translated(self._directory):
            room = os.statvfs(self._directory)
        return room.f_bavail * room.f_frsize

    # ------------------------------------------------------------ directories

    def make_directories(self, entries: Iterable[Entry]) -> None:
        """Make what directories are missing, open for us alone until ``finish_directories``."""
        for entry in entries:
            if entry.kind is EntryKind.DIRECTORY:
                path = self._place(entry.path)
                with _translated(path):
                    self._make_directory(path)

    def _make_directory(self, path: bytes) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            mode = os.lstat(path).st_mode
            if not stat.S_ISDIR(mode):
                raise _blocked(path, "a directory is to be made and something else stands there") from None
            if mode & stat.S_IRWXU != stat.S_IRWXU:
                os.chmod(path, stat.S_IMODE(mode) | stat.S_IRWXU)

    def finish_directories(self, entries: Iterable[Entry]) -> None:
        """Give the directories their modes and times, the deepest first: writing into one changes its time."""
        for entry in reversed([entry for entry in entries if entry.kind is EntryKind.DIRECTORY]):
            path = self._place(entry.path)
            with _translated(path):
                # Opened before its mode may forbid that.
                descriptor = os.open(path, _OPEN_DIRECTORY | os.O_NOFOLLOW)
                try:
                    self._finish_metadata(descriptor, entry)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        with _translated(self._directory):
            _sync_directory(self._directory)

    # ------------------------------------------------------------ files

    def plan(self, entry: Entry) -> Plan | None:
        """Compare what is there with the version; ``None`` if the file is right already, its mode and time mended."""
        path = self._place(entry.path)
        parts = [part for part in parts_of(entry) if part.ref is not None]
        with _translated(path):
            found = _lstat(path)
            if found is not None and stat.S_ISDIR(found.st_mode):
                raise _blocked(path, "a file is to be restored and a directory stands there")
            is_file = found is not None and stat.S_ISREG(found.st_mode)
            in_place = self._matching(path, parts) if is_file else set()
            if (
                found is not None
                and is_file
                and found.st_size == entry.size_bytes
                and self._is_right(path, entry, in_place)
            ):
                self._finish_metadata(path, entry)
                return None
            # What a killed restore wrote counts as much as what is in place.
            _make_writable(_temporary(path))
            left = self._matching(_temporary(path), parts)
        local = [(part, path) for part in parts if part.offset in in_place and part.offset not in left]
        local += [(part, _temporary(path)) for part in parts if part.offset in left]
        have = in_place | left
        return Plan(entry, local, [part for part in parts if part.offset not in have])

    def write(self, plan: Plan, contents: Iterable[tuple[Part, Buffer]]) -> None:
        """Make the file whole under a temporary name, check it, and give it its name."""
        entry = plan.entry
        path = self._place(entry.path)
        temporary = _temporary(path)
        with _translated(path, temporary):
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                for part, source in plan.local:
                    if source != temporary:
                        _copy(source, descriptor, part)
                self._staging.begin(descriptor, partial(_open_again, temporary))
                digester = file_digester()
                for part, content in contents:
                    digester.update(content)
                    self._staging.put(part.offset, content)
                self._staging.flush()
                os.ftruncate(descriptor, entry.size_bytes)
                self._dig_holes(descriptor, entry)
                # What was there already is read again; what was all written now was seen on its way, in order.
                digest = _digest(descriptor, entry) if plan.local else digester.digest()
                if digest != entry.digest:
                    raise ObjectDamaged("a restored file is not what was backed up", where=display(path))
                self._finish_metadata(descriptor, entry)
                os.fsync(descriptor)
            finally:
                self._staging.stop()
                os.close(descriptor)
            os.rename(temporary, path)

    # ------------------------------------------------------------ links and leftovers

    def make_links(self, entries: Iterable[Entry]) -> None:
        """Make symbolic and hard links, each in one step."""
        for entry in entries:
            if entry.kind is EntryKind.SYMLINK:
                self._link(entry, partial(os.symlink, entry.target))
            elif entry.kind is EntryKind.HARD_LINK:
                self._link(entry, partial(os.link, self._place(entry.target), follow_symlinks=False))

    def _link(self, entry: Entry, make: Callable[[bytes], None]) -> None:
        path = self._place(entry.path)
        temporary = _temporary(path)
        with _translated(path, temporary):
            found = _lstat(path)
            if found is not None and stat.S_ISDIR(found.st_mode):
                raise _blocked(path, "a link is to be restored and a directory stands there")
            if found is not None and self._links_already(path, found, entry):
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            make(temporary)
            if entry.kind is EntryKind.SYMLINK:
                self._own(temporary, entry)
                os.utime(temporary, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
            os.rename(temporary, path)

    def _links_already(self, path: bytes, found: os.stat_result, entry: Entry) -> bool:
        if entry.kind is EntryKind.HARD_LINK:
            return os.path.samestat(os.lstat(self._place(entry.target)), found)
        if not stat.S_ISLNK(found.st_mode) or os.readlink(path) != entry.target:
            return False
        if self._is_root and (found.st_uid, found.st_gid) != (entry.uid, entry.gid):
            return False
        return found.st_mtime_ns == entry.mtime_ns

    def delete_others(self, entries: Iterable[Entry]) -> int:
        """Delete what the version does not hold; return how many files and links that were."""
        kept = {entry.path for entry in entries}
        deleted_count = 0
        for folder, directories, files in os.walk(self._directory, topdown=False):
            relative = os.path.relpath(folder, self._directory)
            for name in files + directories:
                path = name if relative == b"." else os.path.join(relative, name)
                if path in kept:
                    continue
                full = os.path.join(folder, name)
                with _translated(full):
                    if os.path.isdir(full) and not os.path.islink(full):
                        os.rmdir(full)
                    else:
                        os.unlink(full)
                        deleted_count += 1
        return deleted_count

    # ------------------------------------------------------------ inside

    def _place(self, path: bytes) -> bytes:
        """Return where *path* lies, after looking that no symbolic link on the way leads out of the target."""
        *above, _ = path.split(b"/")
        place = self._directory
        for part in above:
            place = os.path.join(place, part)
            with _translated(place):
                found = _lstat(place)
                if found is None:
                    self._make_directory(place)
                elif not stat.S_ISDIR(found.st_mode):
                    raise _blocked(place, "a directory is needed there, and it is none")
        return os.path.join(self._directory, path)

    def _matching(self, path: bytes, parts: list[Part]) -> set[int]:
        """Return the offsets of the parts that the file at *path* holds already."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return set()
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return set()
            size_bytes = os.fstat(descriptor).st_size
            buffer = memoryview(bytearray(max((part.length for part in parts), default=0)))
            return {
                part.offset
                for part in parts
                if part.offset + part.length <= size_bytes and self._holds(descriptor, part, buffer[: part.length])
            }
        finally:
            os.close(descriptor)

    def _holds(self, descriptor: int, part: Part, buffer: memoryview) -> bool:
        assert part.ref is not None
        return os.preadv(descriptor, [buffer], part.offset) == len(buffer) and self._is_named(buffer, part.ref.name)

    def _is_right(self, path: bytes, entry: Entry, in_place: set[int]) -> bool:
        if len(in_place) != len(entry.chunks):
            return False
        if not entry.holes:
            return True
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return all(_is_zero(descriptor, offset, length) for offset, length in entry.holes)
        finally:
            os.close(descriptor)

    def _dig_holes(self, descriptor: int, entry: Entry) -> None:
        """Make sure that holes read as zeros: a leftover of another version may have had bytes there."""
        for offset, length in entry.holes:
            if not _is_zero(descriptor, offset, length):
                for start in range(offset, offset + length, _COPY_BYTES):
                    write_at(descriptor, start, bytes(min(_COPY_BYTES, offset + length - start)))

    def _finish_metadata(self, place: bytes | int, entry: Entry) -> None:
        """Give a file or directory its owner, mode and time; what is right is not set again, which would show."""
        found = os.stat(place)
        is_owned = not self._is_root or (found.st_uid, found.st_gid) == (entry.uid, entry.gid)
        if not is_owned:
            self._own(place, entry)
        # A change of owner takes some bits of the mode away.
        if not is_owned or stat.S_IMODE(found.st_mode) != entry.mode:
            os.chmod(place, entry.mode)
        if found.st_mtime_ns != entry.mtime_ns:
            os.utime(place, ns=(entry.mtime_ns, entry.mtime_ns))

    def _own(self, place: bytes | int, entry: Entry) -> None:
        """Give the owner back where we may: only root can, for anybody else the files are simply their own."""
        if self._is_root:
            if isinstance(place, int):
                os.fchown(place, entry.uid, entry.gid)
            else:
                os.chown(place, entry.uid, entry.gid, follow_symlinks=False)


def _temporary(path: bytes) -> bytes:
    """Return the temporary name for *path*: always the same, so that a rerun finds what a killed restore left."""
    folder, name = os.path.split(path)
    return os.path.join(folder, TEMPORARY_PREFIX + hashlib.sha256(name).hexdigest()[:24].encode())


def _make_writable(temporary: bytes) -> None:
    """Open up what a killed restore left with its last mode, so that it can be gone on with."""
    try:
        os.close(os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        try:
            os.chmod(temporary, 0o600)
        except PermissionError:
            # Somebody else's: it can only be made anew.
            os.unlink(temporary)
    except OSError:
        # None, or something that is no file: what it is shows when it is to be written.
        return


def _is_temporary(path: bytes) -> bool:
    return os.path.basename(path).startswith(TEMPORARY_PREFIX)


def _open_again(path: bytes, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def _copy(source: bytes, descriptor: int, part: Part) -> None:
    from_descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        write_at(descriptor, part.offset, os.pread(from_descriptor, part.length, part.offset))
    finally:
        os.close(from_descriptor)


def _data(descriptor: int, offset: int, length: int, buffer: memoryview) -> Iterator[memoryview]:
    end = offset + length
    while offset < end:
        count = os.preadv(descriptor, [buffer[: min(len(buffer), end - offset)]], offset)
        if count == 0:
            return
        yield buffer[:count]
        offset += count


def _digest(descriptor: int, entry: Entry) -> bytes:
    """Return the digest of the file as it stands, its holes left out: what counts is what is there."""
    digester = file_digester()
    buffer = memoryview(bytearray(min(_COPY_BYTES, max(entry.size_bytes, 1))))
    offset = 0
    for hole_offset, hole_length in (*entry.holes, (entry.size_bytes, 0)):
        for view in _data(descriptor, offset, hole_offset - offset, buffer):
            digester.update(view)
        offset = hole_offset + hole_length
    return digester.digest()


def _is_zero(descriptor: int, offset: int, length: int) -> bool:
    buffer = memoryview(bytearray(min(_COPY_BYTES, length)))
    zeros = bytes(len(buffer))
    return all(view == zeros[: len(view)] for view in _data(descriptor, offset, length, buffer))


def _lstat(path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _sync_directory(path: bytes) -> None:
    descriptor = os.open(path, _OPEN_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _blocked(path: bytes, what: str) -> TargetBlocked:
    return TargetBlocked(what, where=display(path), advice="move it away, or restore with --to another place")


@contextlib.contextmanager
def _translated(path: bytes, temporary: bytes | None = None) -> Iterator[None]:
    """Turn the system's errors into ours; a temporary file that has no room left is taken away."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            what = f"no room to restore: {os.strerror(error.errno)}"
            raise TargetFull(what, where=display(path), advice="make room and run it again to go on") from error
        raise _blocked_by(error, path) from error


def _blocked_by(error: OSError, path: bytes) -> Error:
    what = f"cannot be written: {error.strerror}"
    if error.errno in (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ELOOP,
        errno.ENOTEMPTY,
    ):
        return TargetBlocked(what, where=display(path))
    return TargetError(what, where=display(path))
