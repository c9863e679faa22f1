"""Read many small files with few calls each: those of one directory together, from its descriptor.

A file that is opened by its whole path, looked at three times, and read through buffers that many readers share costs
150 µs, of which the kernel needs five. What is not as simple as most small files are is left to ``SourceFile``: it
waits, reads again and says what is wrong.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from mlsync import xattrs
from mlsync.courtesy.pressure import PACE
from mlsync.source.racy import COARSE_NS, is_racy
from mlsync.source.root import Root
from mlsync.source.scan import FileStat, Found
from mlsync.source.spans import CHUNKINGS

#: Without a structure such a file is one piece: see ``plan_spans``.
SMALL_FILE_BYTES_MAX: Final = CHUNKINGS["fine"].min_bytes
#: So many are read before any is used: a stop waits for them, and they are in memory together.
TOGETHER_MAX: Final = 128
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_STAT_BLOCK_BYTES: Final = 512


def is_small(found: Found) -> bool:
    """Return whether ``read_together`` takes a file."""
    # A second name may be that of another user's secret, which takes a look at its owner.
    return found.stat.size_bytes <= SMALL_FILE_BYTES_MAX and found.stat.link_count == 1


def together(files: Iterable[Found], most: int = TOGETHER_MAX) -> Iterator[list[Found]]:
    """Yield *files* in their order: small ones of one directory in lists for ``read_together``, others alone."""
    group: list[Found] = []
    beside = b""
    for found in files:
        directory = found.path.rpartition(b"/")[0]
        takes = is_small(found)
        if group and not (takes and directory == beside and len(group) < most):
            yield group
            group = []
        if takes:
            group.append(found)
            beside = directory
        else:
            yield [found]
    if group:
        yield group


def read_together(root: Root, files: Sequence[Found]) -> tuple[int, list[bytes | None]]:
    """Return the contents of small *files* of one directory, and a time (wall clock) before the first was opened.

    A file with a content held still from the scan until after it was read, had its name then, has no holes and no
    attributes that a version keeps. ``None`` says nothing of a file, not even that it is still there.
    """
    opened_ns = time.time_ns()
    directory = files[0].path.rpartition(b"/")[0]
    skip = len(directory) + 1 if directory else 0
    nothing: list[bytes | None] = [None] * len(files)
    try:
        descriptor = root.open_directory(directory)
    except OSError:
        return opened_ns, nothing
    try:
        with PACE.moving(sum([found.stat.size_bytes for found in files])):
            contents = [_content(descriptor, found.path[skip:], found.stat, opened_ns) for found in files]
        # Their names were looked up in this directory: another one may have its name by now.
        return opened_ns, contents if _is_named(root, directory, descriptor) else nothing
    finally:
        os.close(descriptor)


def _is_named(root: Root, directory: bytes, descriptor: int) -> bool:
    if not directory:
        return True
    try:
        now = root.stat(directory)
    except OSError:
        return False
    return os.path.samestat(now, os.fstat(descriptor))


def _content(directory: int, name: bytes, stat: FileStat, opened_ns: int) -> bytes | None:
    # Most files rest for seconds, whatever the clock of their file system is.
    if max(stat.mtime_ns, stat.ctime_ns) + COARSE_NS > opened_ns and is_racy(stat, opened_ns):
        return None
    try:
        descriptor = _open(directory, name)
    except OSError:
        return None
    try:
        opened = os.fstat(descriptor)
        has_holes = opened.st_blocks * _STAT_BLOCK_BYTES < stat.size_bytes
        if FileStat.of(opened) != stat or has_holes or xattrs.has_some(descriptor):
            return None
        content = os.read(descriptor, stat.size_bytes + 1)
        # By its name: the same file, unchanged, says both that nobody wrote to it and that it is still there.
        now = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return content if len(content) == stat.size_bytes and _is_same(now, stat) else None


def _is_same(now: os.stat_result, stat: FileStat) -> bool:
    return (
        now.st_ctime_ns == stat.ctime_ns
        and now.st_mtime_ns == stat.mtime_ns
        and now.st_size == stat.size_bytes
        and now.st_ino == stat.inode
        and now.st_dev == stat.device
    )


def _open(directory: int, name: bytes) -> int:
    try:
        return os.open(name, _OPEN_FLAGS | os.O_NOATIME, dir_fd=directory)
    except PermissionError:  # only a file's owner may ask not to touch its access time
        return os.open(name, _OPEN_FLAGS, dir_fd=directory)
