"""Read one file of the source, and detect at the end whether it was written meanwhile."""

from __future__ import annotations

import errno
import heapq
import logging
import os
import stat
import time
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Final, Self

from mlsync import xattrs
from mlsync.courtesy.pressure import PACE
from mlsync.errors import ChangedWhileReading, SourceError, SourceUnreadable
from mlsync.source.paths import display, joined
from mlsync.source.racy import is_racy, newest_ns, window_ns
from mlsync.source.root import VANISHED, Root, second_name_of
from mlsync.source.scan import FileStat, Found

# O_NONBLOCK: if a pipe has the name now, opening it must not hang.
_LOG: Final = logging.getLogger(__name__)
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK
# Smaller holes are read as zeros. Of a file with more holes than this the largest are kept: holes save work, but lists
# of them must stay short.
_HOLE_BYTES_MIN: Final = 64 * 1024
_HOLE_COUNT_MAX: Final = 65_536
_STAT_BLOCK_BYTES: Final = 512


class SourceFile:
    """An open file of the source: a ``formats.layout.ByteSource`` with the length that it had when it was opened.

    *stat* was taken when it was opened; *opened_ns* (wall clock) is not later than that.
    """

    def __init__(self, root: Root, path: bytes, descriptor: int, opened: os.stat_result, opened_ns: int) -> None:
        self._root = root
        self._descriptor = descriptor
        self._path = path
        self._blocks_bytes = opened.st_blocks * _STAT_BLOCK_BYTES
        self.stat = FileStat.of(opened)
        self.opened_ns = opened_ns
        self.where = display(joined(root.where, path))

    @classmethod
    def open(cls, root: Root, found: Found) -> Self:
        """Open the regular file that the scan found, and no other. *root* must stay open as long as the file.

        If the file was just written, this waits for the next clock tick of its file system, so that ``confirm`` can
        see the next write.
        """
        where = display(joined(root.where, found.path))
        try:
            descriptor = _open(root, found.path)
        except OSError as error:
            raise _translated(error, where) from error
        try:
            opened, opened_ns = _stat_past_tick(descriptor)
            opened = root.as_held(found.path, opened)
            if not stat.S_ISREG(opened.st_mode) or (opened.st_dev, opened.st_ino) != (
                found.stat.device,
                found.stat.inode,
            ):
                what = "another file took its place before it was read"
                raise ChangedWhileReading(what, where=where)
            if root.is_anothers_secret(opened):
                advice = "let others read it, or give it to the directory's owner"
                raise SourceUnreadable(second_name_of(opened.st_uid), where=where, advice=advice)
            return cls(root, found.path, descriptor, opened, opened_ns)
        except BaseException:
            os.close(descriptor)
            raise

    @property
    def size_bytes(self) -> int:
        """The length at the moment of opening."""
        return self.stat.size_bytes

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the *length* bytes at *offset*, all of them."""
        content = bytearray(length)
        self.read_into(offset, memoryview(content))
        return bytes(content)

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill *view* with the bytes from *offset* on; raise if the file ends before."""
        done = 0
        while done < len(view):
            try:
                with PACE.moving(len(view) - done):
                    count = os.preadv(self._descriptor, [view[done:]], offset + done)
            except OSError as error:
                raise _translated(error, self.where) from error
            if count == 0:
                what = f"became shorter while it was read: ends at {offset + done}"
                raise ChangedWhileReading(what, where=self.where)
            done += count

    def read_beside(self, name: bytes, *, limit_bytes: int) -> bytes | None:
        """Return the file *name* of the same directory; ``None`` if it is missing or cannot be read whole."""
        try:
            descriptor = _open(self._root, os.path.join(os.path.dirname(self._path), name))
        except OSError:
            return None
        try:
            found = os.fstat(descriptor)
            size_bytes = found.st_size
            if size_bytes > limit_bytes or not stat.S_ISREG(found.st_mode) or self._root.is_anothers_secret(found):
                return None
            content = os.pread(descriptor, size_bytes, 0)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return content if len(content) == size_bytes else None

    def data_extents(self) -> list[tuple[int, int]]:
        """Return (offset, length) of what is not a hole, in order; a file without holes is one extent."""
        if self.size_bytes == 0:
            return []
        if self._blocks_bytes >= self.size_bytes:
            return [(0, self.size_bytes)]
        try:
            return self._seek_extents()
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that does not know its holes
                return [(0, self.size_bytes)]
            raise _translated(error, self.where) from error

    def _seek_extents(self) -> list[tuple[int, int]]:
        holes = sorted(_largest(self._seek_holes()))
        extents = []
        start = 0
        for offset, length in [*holes, (self.size_bytes, 0)]:
            if offset > start:
                extents.append((start, offset - start))
            start = offset + length
        return extents

    def _seek_holes(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of the holes that are worth it, in order."""
        end = 0
        while end < self.size_bytes:
            start = self._seek_data(end)
            # Holes at the two ends separate no data, so even short ones cost nothing.
            is_at_an_end = end == 0 or start >= self.size_bytes
            if start - end >= _HOLE_BYTES_MIN or (is_at_an_end and start > end):
                yield end, start - end
            if start >= self.size_bytes:
                return
            end = min(os.lseek(self._descriptor, start, os.SEEK_HOLE), self.size_bytes)

    def _seek_data(self, offset: int) -> int:
        try:
            return os.lseek(self._descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return self.size_bytes
            raise

    def attributes(self) -> tuple[dict[str, bytes], bool]:
        """Return its extended attributes, and whether it has some that no version keeps: see ``xattrs``."""
        try:
            return xattrs.read(self._descriptor)
        except OSError as error:
            raise _translated(error, self.where) from error

    def current_stat(self) -> FileStat:
        """Return the open file's stat as it is now, whatever its name may be."""
        try:
            return FileStat.of(self._root.as_held(self._path, os.fstat(self._descriptor)))
        except OSError as error:
            raise _translated(error, self.where) from error

    def named_stat(self) -> FileStat:
        """Return the stat of whatever now has the name that was opened."""
        try:
            return FileStat.of(self._root.stat(self._path))
        except OSError as error:
            raise _translated(error, self.where) from error

    def confirm(self) -> None:
        """Raise ``ChangedWhileReading`` unless the stats show the file that was opened, unchanged since."""
        if newest_ns(self.stat) <= self.opened_ns and is_racy(self.stat, self.opened_ns):
            what = "was being written when it was opened"
            raise ChangedWhileReading(what, where=self.where)
        if not self.current_stat().same_content(self.stat):
            what = "was written while it was read"
            raise ChangedWhileReading(what, where=self.where)
        if not self.named_stat().same_content(self.stat):
            what = "was replaced while it was read"
            raise ChangedWhileReading(what, where=self.where)

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _open(root: Root, path: bytes) -> int:
    try:
        return root.open_file(path, _OPEN_FLAGS | os.O_NOATIME)
    except PermissionError:  # only a file's owner may ask not to touch its access time
        return root.open_file(path, _OPEN_FLAGS)


def _stat_past_tick(descriptor: int) -> tuple[os.stat_result, int]:
    """Stat the file, after a wait if its last write is so recent that another might not change its times.

    One wait is enough for a file at rest; a file that is written all the time stays racy, and ``confirm`` raises.
    """
    now_ns = time.time_ns()
    opened = os.fstat(descriptor)
    wait_ns = newest_ns(FileStat.of(opened)) + window_ns(FileStat.of(opened)) - now_ns
    # There is no wait for a time in the future (a clock set back).
    if 0 < wait_ns <= window_ns(FileStat.of(opened)):
        _LOG.debug("waiting %.1f s, until the next write shows in the file's times", wait_ns / 1e9)
        time.sleep(wait_ns / 1e9)
        now_ns = time.time_ns()
        opened = os.fstat(descriptor)
    return opened, now_ns


def _largest(holes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the largest holes, up to the bound; of equal ones the first. No more than the bound are in memory."""
    return heapq.nlargest(_HOLE_COUNT_MAX, holes, key=itemgetter(1))


def _translated(error: OSError, where: str) -> SourceError:
    if error.errno in VANISHED:
        return ChangedWhileReading("deleted while it was read", where=where)
    return SourceUnreadable(f"cannot be read: {os.strerror(error.errno or errno.EIO)}", where=where)
