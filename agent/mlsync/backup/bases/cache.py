"""The base cache: the content of bases on this machine's disk, where reading them from the store would cost egress.

It is a hint. What is missing, damaged or somebody else's is as if it had never been kept, and the tensor is stored as
a whole again. A base comes out of it only if its seal opens and its name is that of its bytes.

Layout: a directory for each run, and in it segments, files with random names of 16 bytes. A segment is written by one
process and never continued by another. It has a key of its own, derived for its name, so no pair of key and nonce comes
twice, whatever crashes. An entry is: name, 32 bytes ‖ length of the plain bytes, u32 ‖ ciphertext ‖ tag. Its nonce is
its ordinal in the segment, and the two fields before are bound as associated data. Entries follow each other without
gaps; what a process that died left behind a gap is lost.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import threading
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mlsync.buffers import ThreadMemory
from mlsync.codec.digest import NAME_BYTES, is_named
from mlsync.codec.keys import Keys
from mlsync.codec.sealing import NONCE_BYTES, TAG_BYTES, Seal, SealBroken
from mlsync.source.spans import PIECE_BYTES_MAX

#: A segment is deleted as a whole, once nothing in it is a base any more.
SEGMENT_BYTES: Final = 64 << 20
#: Small backups leave small segments: beyond this number the oldest go.
SEGMENTS_MAX: Final = 256
#: The cache of a run that has not been backed up for so long is deleted.
STALE_AGE_S: Final = 30 * 24 * 3600.0
SEGMENT_ID_BYTES: Final = 16
_HEAD: Final = struct.Struct(f"<{NAME_BYTES}sI")
_SEGMENT_NAME: Final = re.compile(rf"[0-9a-f]{{{2 * SEGMENT_ID_BYTES}}}")
_OPEN: Final = os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a base lies: *offset* is of its entry."""

    segment: _Segment
    ordinal: int
    offset: int
    plain_bytes: int

    @property
    def stored_bytes(self) -> int:
        return _HEAD.size + self.plain_bytes + TAG_BYTES


@dataclass(slots=True, eq=False)
class _Segment:
    name: str
    seal: Seal
    modified_ns: int = 0
    size_bytes: int = 0
    count: int = 0
    bases: set[bytes] = field(default_factory=set)
    writers: int = 0


class BaseCache:
    """The cache of one run; safe to use from several threads, one process at a time (the run's lock).

    No method raises for what is wrong with disk or files: a backup does not depend on the cache. *limit_bytes* is the
    most that all segments together take.
    """

    def __init__(self, directory: Path, keys: Keys, limit_bytes: int) -> None:
        self._directory = directory
        self._keys = keys
        self._name_key = keys.of("chunk name")
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._memory = ThreadMemory()
        self._places: dict[bytes, _Place] = {}
        self._segments: dict[str, _Segment] = {}
        self._current: _Segment | None = None
        self._is_full = False
        self._at = _open_directory(directory)
        if self._at >= 0:
            self._load()

    def close(self) -> None:
        """Close the directory, once no thread uses the cache; what was kept stays. A second call does nothing."""
        descriptor, self._at = self._at, -1
        self._places.clear()
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def size_bytes(self) -> int:
        """The length of all segments together."""
        return sum(one.size_bytes for one in self._segments.values())

    def has(self, name: bytes) -> bool:
        """Return whether the cache has a base of that name, as far as is known without reading it."""
        return name in self._places

    def read(self, name: bytes, into: memoryview) -> bool:
        """Fill *into* with the base *name*; return ``False`` if it is not to be had, with *into* undefined."""
        with self._lock:
            place = self._places.get(name)
        if place is None or place.plain_bytes != len(into):
            return False
        if self._read_into(place, name, into) and is_named(self._name_key, into, name):
            return True
        with self._lock:
            self._drop(name)
        return False

    def keep(self, name: bytes, plain: memoryview, instead_of: bytes = b"") -> None:
        """Keep a base, in place of one that nobody needs any more; do nothing if there is no room for it."""
        if not 0 < len(plain) <= PIECE_BYTES_MAX:
            return
        with self._lock:
            if name in self._places or self._is_full or self._at < 0:
                return
            self._drop(instead_of)
            place = self._allocate(len(plain))
        if place is None:
            return
        is_written = self._write(place, name, plain)
        with self._lock:
            place.segment.writers -= 1
            if not is_written:
                # The rest of the disk is the trainer's: this process keeps nothing more.
                self._is_full = True
            elif name not in self._places:
                self._places[name] = place
                place.segment.bases.add(name)

    def keep_only(self, names: AbstractSet[bytes]) -> None:
        """Forget all bases but these; what only held others is deleted."""
        with self._lock:
            for name in self._places.keys() - names:
                self._drop(name)
            for segment in list(self._segments.values()):
                self._remove_if_empty(segment)

    # ------------------------------------------------------------ segments

    def _load(self) -> None:
        """Take in what earlier processes kept."""
        with suppress(OSError):
            # Its time says that the run is still backed up.
            os.utime(self._at)
            for name in os.listdir(self._at):
                if _SEGMENT_NAME.fullmatch(name):
                    self._load_segment(name)
        oldest_first = sorted(self._segments.values(), key=lambda one: one.modified_ns)
        while oldest_first and (self.size_bytes > self._limit_bytes or len(oldest_first) > SEGMENTS_MAX):
            self._remove(oldest_first.pop(0))

    def _load_segment(self, name: str) -> None:
        # A pipe would make this wait for ever.
        with suppress(OSError), _opened(self._at, name, os.O_RDONLY | os.O_NONBLOCK) as descriptor:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                return
            segment = _Segment(name, self._seal_of(name), found.st_mtime_ns, found.st_size)
            self._segments[name] = segment
            for base, place in _entries(descriptor, segment, found.st_size):
                if base not in self._places:
                    self._places[base] = place
                    segment.bases.add(base)

    def _seal_of(self, name: str) -> Seal:
        return Seal(self._keys.of("base cache", bytes.fromhex(name)))

    def _allocate(self, plain_bytes: int) -> _Place | None:
        """Return room for a base in the current segment, or in a new one; ``None`` if the cache is full."""
        stored_bytes = _HEAD.size + plain_bytes + TAG_BYTES
        if self.size_bytes + stored_bytes > self._limit_bytes:
            return None
        segment = self._current
        if segment is None or segment.size_bytes + stored_bytes > SEGMENT_BYTES:
            name = os.urandom(SEGMENT_ID_BYTES).hex()
            before, self._current = segment, _Segment(name, self._seal_of(name))
            segment = self._segments[name] = self._current
            if before is not None:
                self._remove_if_empty(before)
        place = _Place(segment, segment.count, segment.size_bytes, plain_bytes)
        segment.count += 1
        segment.writers += 1
        segment.size_bytes += stored_bytes
        return place

    def _drop(self, name: bytes) -> None:
        place = self._places.pop(name, None)
        if place is None:
            return
        place.segment.bases.discard(name)
        self._remove_if_empty(place.segment)

    def _remove_if_empty(self, segment: _Segment) -> None:
        # A thread that still writes would make the file anew, under a name that nobody knows.
        if not segment.bases and not segment.writers and segment is not self._current:
            self._remove(segment)

    def _remove(self, segment: _Segment) -> None:
        for name in segment.bases:
            self._places.pop(name, None)
        segment.bases.clear()
        self._segments.pop(segment.name, None)
        if self._current is segment:
            self._current = None
        with suppress(OSError):
            os.unlink(segment.name, dir_fd=self._at)

    # ------------------------------------------------------------ bytes

    def _read_into(self, place: _Place, name: bytes, into: memoryview) -> bool:
        entry = self._memory.room(place.stored_bytes)
        try:
            with _opened(self._at, place.segment.name, os.O_RDONLY | os.O_NONBLOCK) as descriptor:
                count = os.preadv(descriptor, [entry], place.offset)
                # Nobody reads it again before the next version: the memory is the trainer's.
                os.posix_fadvise(descriptor, place.offset, len(entry), os.POSIX_FADV_DONTNEED)
        except OSError:
            return False
        head = _HEAD.pack(name, place.plain_bytes)
        if count != len(entry) or entry[: _HEAD.size] != head:
            return False
        try:
            place.segment.seal.open_into(_nonce(place), entry[_HEAD.size :], head, into)
        except SealBroken:
            return False
        return True

    def _write(self, place: _Place, name: bytes, plain: memoryview) -> bool:
        entry, head = self._memory.room(place.stored_bytes), _HEAD.pack(name, place.plain_bytes)
        entry[: _HEAD.size] = head
        place.segment.seal.seal_into(_nonce(place), plain, head, entry[_HEAD.size :])
        try:
            with _opened(self._at, place.segment.name, os.O_WRONLY | os.O_CREAT) as descriptor:
                return os.pwritev(descriptor, [entry], place.offset) == len(entry)
        except OSError:
            return False


@contextmanager
def _opened(directory: int, name: str, flags: int) -> Iterator[int]:
    descriptor = os.open(name, flags | _OPEN, 0o600, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def drop_stale(directory: Path, now_s: float) -> None:
    """Delete the caches of runs that were not backed up for long; *directory* has one for each run."""
    with suppress(OSError):
        for run in os.listdir(directory):
            path = directory / run
            if now_s - max(path.lstat().st_mtime, 0) > STALE_AGE_S:
                delete(path)


def delete(directory: Path) -> None:
    """Delete the cache of a run, and nothing else that lies there."""
    descriptor = _open_directory(directory, creates=False)
    if descriptor < 0:
        return
    try:
        with suppress(OSError):
            for name in os.listdir(descriptor):
                if _SEGMENT_NAME.fullmatch(name):
                    os.unlink(name, dir_fd=descriptor)
            os.rmdir(directory)
    finally:
        os.close(descriptor)


def limit_of(directory: Path, wanted_bytes: int | None, auto_bytes: int) -> int:
    """Return the most that a cache below *directory* may take.

    Unless it is said, that is *auto_bytes*, and not more than a tenth of what is free on the disk.
    """
    if wanted_bytes is not None:
        return wanted_bytes
    while not directory.is_dir() and directory != directory.parent:
        directory = directory.parent
    try:
        disk = os.statvfs(directory)
    except OSError:
        return 0
    return min(auto_bytes, disk.f_bavail * disk.f_frsize // 10)


def _open_directory(directory: Path, *, creates: bool = True) -> int:
    """Return a descriptor of the directory, -1 if there is none that may be used."""
    try:
        if creates:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | _OPEN)
    except OSError:
        return -1


def _entries(descriptor: int, segment: _Segment, size_bytes: int) -> Iterator[tuple[bytes, _Place]]:
    """Yield name and place of each entry, up to the first that cannot be one."""
    offset = 0
    while True:
        head = os.pread(descriptor, _HEAD.size, offset)
        if len(head) != _HEAD.size:
            return
        name, plain_bytes = _HEAD.unpack(head)
        place = _Place(segment, segment.count, offset, plain_bytes)
        if not 0 < plain_bytes <= PIECE_BYTES_MAX or offset + place.stored_bytes > size_bytes:
            return
        yield name, place
        segment.count += 1
        offset += place.stored_bytes


def _nonce(place: _Place) -> bytes:
    return place.ordinal.to_bytes(NONCE_BYTES, "little")
