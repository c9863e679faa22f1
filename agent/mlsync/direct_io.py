"""Direct I/O (open(2), O_DIRECT): long transfers between a file and memory that bypass the page cache.

A backup through the page cache would evict the trainer's data set, would pay for fresh pages (on a virtual machine
several times the cost of the write itself), and would read back what it wrote from memory instead of from the disk,
which proves nothing. If a file system has no direct I/O, or memory is not aligned for it, these functions transfer
nothing and say so, and the caller uses ordinary I/O.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from collections.abc import Callable
from typing import Final

# Offsets, lengths and addresses must be multiples of this, on any disk.
ALIGNMENT: Final = 4096
# Shorter transfers are no faster, and small objects should stay in the page cache for the next reader.
DIRECT_FROM_BYTES: Final = 1 << 20

_NOT_HERE: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY})

# Opens the same file again, with these additional flags.
OpenAgain = Callable[[int], int]


def write_direct(open_again: OpenAgain, offset: int, view: memoryview) -> int:
    """Write the front of *view* at *offset*, bypassing the page cache; return how many bytes, 0 if that is impossible.

    As after any write, only ``fsync`` makes the bytes durable.
    """
    if len(view) < DIRECT_FROM_BYTES or offset % ALIGNMENT:
        return 0
    return _transfer(open_again, os.O_WRONLY, os.pwrite, offset, view)


def read_direct(open_again: OpenAgain, offset: int, view: memoryview) -> int:
    """Fill the front of *view* from *offset*, bypassing the page cache; return how many bytes.

    That is less than all at the file's end, and 0 if direct I/O is impossible.
    """
    if len(view) < DIRECT_FROM_BYTES or offset % ALIGNMENT or _address(view) % ALIGNMENT:
        return 0
    return _transfer(open_again, os.O_RDONLY, _read_at, offset, view)


def read_cached(descriptor: int, offset: int, view: memoryview) -> int:
    """Fill the front of *view* with what the page cache has from *offset*; return how many bytes.

    It first asks for one byte, because the kernel begins to read everything that is asked for and not cached: those
    bytes would be read twice, and evict others. That byte is in a page that lies wholly in *view*, so that no neighbour
    has cached it, and in another page each time, because asking for it caches its page.
    """
    pages = range(bytes_before_aligned(offset), len(view) - ALIGNMENT, ALIGNMENT)
    probe = secrets.choice(pages) if pages else 0
    try:
        if os.preadv(descriptor, [view[probe : probe + 1]], offset + probe, os.RWF_NOWAIT) == 0:
            return 0
        return os.preadv(descriptor, [view], offset, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno != errno.EAGAIN and error.errno not in _NOT_HERE:
            raise
        return 0


def slack_bytes(offset: int) -> int:
    """Return at which offset in aligned memory the bytes from *offset* must begin to suit ``read_direct``."""
    return offset % ALIGNMENT


def bytes_before_aligned(offset: int) -> int:
    """Return how many bytes from *offset* come before the next offset at which direct I/O can begin."""
    return -offset % ALIGNMENT


def _transfer(
    open_again: OpenAgain, flags: int, move: Callable[[int, memoryview, int], int], offset: int, view: memoryview
) -> int:
    whole_bytes = len(view) - len(view) % ALIGNMENT
    done = 0
    try:
        descriptor = open_again(flags | os.O_DIRECT)
        try:
            while done < whole_bytes and done % ALIGNMENT == 0:
                count = move(descriptor, view[done:whole_bytes], offset + done)
                if count == 0:
                    break
                done += count
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
    return done


def _read_at(descriptor: int, view: memoryview, offset: int) -> int:
    return os.preadv(descriptor, [view], offset)


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))
