"""Direct I/O (open(2), O_DIRECT): long transfers between a file and memory of ours that leave the page cache alone.

A backup that went through the page cache would push the trainer's data set out of it, would pay for fresh pages (on a
virtual machine several times what writing itself costs), and would read back what it wrote from memory instead of from
the disk, which is no proof of anything. Where a file system has no direct I/O, or memory does not lie right for it,
these functions do nothing and say so, and the caller goes on in the ordinary way.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from collections.abc import Callable
from typing import Final

# What offsets, lengths and addresses must be multiples of, on any disk.
ALIGNMENT: Final = 4096
# Shorter transfers are no quicker, and small objects are better kept where the next reader finds them.
DIRECT_FROM_BYTES: Final = 1 << 20

_NOT_HERE: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY})

# Open the same file once more, with these flags besides its own.
OpenAgain = Callable[[int], int]


def write_direct(open_again: OpenAgain, offset: int, view: memoryview) -> int:
    """Write the front of *view* at *offset* past the page cache; return how many bytes that was, 0 where it cannot be.

    As with any write, the bytes are durable after an ``fsync`` only: that covers this too.
    """
    if len(view) < DIRECT_FROM_BYTES or offset % ALIGNMENT:
        return 0
    return _transfer(open_again, os.O_WRONLY, os.pwrite, offset, view)


def read_direct(open_again: OpenAgain, offset: int, view: memoryview) -> int:
    """Fill the front of *view* from *offset* on past the page cache; return how many bytes that was.

    Less than all, down to nothing, at the file's end and where it cannot be.
    """
    if len(view) < DIRECT_FROM_BYTES or offset % ALIGNMENT or _address(view) % ALIGNMENT:
        return 0
    return _transfer(open_again, os.O_RDONLY, _read_at, offset, view)


def read_cached(descriptor: int, offset: int, view: memoryview) -> int:
    """Fill the front of *view* with what the page cache holds from *offset* on; return how many bytes that was.

    One byte is asked for first, for the kernel begins to read all that is asked for and not there: it would be read
    twice, and push other things out. The byte lies in a page of *view* alone, not in one that came with a neighbour's
    edge, and in another one each time, since the asking itself brings its page in.
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
    """Return how far into aligned memory the bytes from *offset* on are to be put, to lie right for ``read_direct``."""
    return offset % ALIGNMENT


def bytes_before_aligned(offset: int) -> int:
    """Return how many bytes from *offset* on come before the next offset that direct I/O can begin at."""
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
