"""Direct I/O (open(2), O_DIRECT): long transfers between a file and memory that bypass the page cache.

A backup through the page cache would evict the trainer's data set, would pay for fresh pages (on a virtual machine
several times the cost of the write itself), and would read back what it wrote from memory instead of from the disk,
which proves nothing. If a file system has no direct I/O, or memory is not aligned for it, these functions transfer
nothing and say so, and the caller uses ordinary I/O.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import secrets
from collections.abc import Callable
from typing import Final

# Offsets, lengths and addresses must be multiples of this, on any disk.
ALIGNMENT: Final = 4096
# Shorter transfers are no faster, and small objects should stay in the page cache for the next reader.
DIRECT_FROM_BYTES: Final = 1 << 20

_PAGE_BYTES: Final = mmap.PAGESIZE
# The same number on every architecture, uapi/asm-generic/unistd.h; and how many counts it returns, uapi/linux/mman.h.
_CACHESTAT: Final = 451
_CACHESTAT_COUNT: Final = 5

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

    It first finds out whether all is there, because the kernel begins to read everything that is asked for and not
    cached: those bytes would be read twice, and evict others.
    """
    try:
        if not _is_cached(descriptor, offset, view):
            return 0
        return os.preadv(descriptor, [view], offset, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno != errno.EAGAIN and error.errno not in _NOT_HERE:
            raise
        return 0


def _is_cached(descriptor: int, offset: int, view: memoryview) -> bool:
    """Return whether the page cache seems to hold what *view* is to be filled with from *offset*.

    Where the kernel cannot say so, it is asked for one byte. That byte is in a page that lies wholly in *view*, so that
    no neighbour has cached it, and in another page each time, because asking for it caches its page. On a busy machine
    that page may come from the disk before the kernel looks whether it is there; then all seems to be.
    """
    cached_count = cached_page_count(descriptor, offset, len(view))
    if cached_count is not None:
        return cached_count == -(-(offset + len(view)) // _PAGE_BYTES) - offset // _PAGE_BYTES
    pages = range(bytes_before_aligned(offset), len(view) - ALIGNMENT, ALIGNMENT)
    probe = secrets.choice(pages) if pages else 0
    return os.preadv(descriptor, [view[probe : probe + 1]], offset + probe, os.RWF_NOWAIT) > 0


def cached_page_count(descriptor: int, offset: int, length: int) -> int | None:
    """Return how many pages of a file's part are cached, or ``None`` if the kernel does not say (before 6.5)."""
    part, found = (ctypes.c_uint64 * 2)(offset, length), (ctypes.c_uint64 * _CACHESTAT_COUNT)()
    if _syscall(_CACHESTAT, descriptor, ctypes.byref(part), ctypes.byref(found), 0) != 0:
        return None
    return found[0]


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


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint)
_syscall.restype = ctypes.c_long
