"""The holes of a file: the file system tells where data is, so that nobody reads zeros."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from typing import Final

from mlsync.target.staging import write_at

_STEP_BYTES: Final = 4 << 20
_ZEROS: Final = bytes(_STEP_BYTES)
# FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
_PUNCH: Final = 0x01 | 0x02


def is_zero(descriptor: int, offset: int, length: int, tick: Callable[[], None]) -> bool:
    """Return whether a range reads as zeros; calls *tick* between pieces, which may raise to end it."""
    buffer = bytearray(min(_STEP_BYTES, length))
    return all(
        _reads_as_zero(descriptor, at, min(_STEP_BYTES, start + data_bytes - at), buffer, tick)
        for start, data_bytes in data_within(descriptor, offset, length)
        for at in range(start, start + data_bytes, _STEP_BYTES)
    )


def _reads_as_zero(descriptor: int, offset: int, length: int, buffer: bytearray, tick: Callable[[], None]) -> bool:
    tick()
    view = memoryview(buffer)[:length]
    count = os.preadv(descriptor, [view], offset)
    # As bytes: memoryviews compare item by item, which takes twenty times as long.
    return count == length and view.tobytes() == _ZEROS[:length]


def make_hole(descriptor: int, offset: int, length: int, tick: Callable[[], None]) -> None:
    """Make a range read as zeros, and free its space where the file system can do that."""
    for start, data_bytes in list(data_within(descriptor, offset, length)):
        if _punch(descriptor, start, data_bytes):
            continue
        for at in range(start, start + data_bytes, _STEP_BYTES):
            tick()
            write_at(descriptor, at, _ZEROS[: min(_STEP_BYTES, start + data_bytes - at)])


def data_within(descriptor: int, offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length of each range that is no hole; the whole where the file system cannot tell."""
    end = offset + length
    while offset < end:
        try:
            start = os.lseek(descriptor, offset, os.SEEK_DATA)
            if start >= end:
                return
            stop = min(os.lseek(descriptor, start, os.SEEK_HOLE), end)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole up to the end
                return
            if error.errno != errno.EINVAL:
                raise
            start, stop = offset, end
        yield start, stop - start
        offset = stop


def _punch(descriptor: int, offset: int, length: int) -> bool:
    return int(_fallocate(descriptor, _PUNCH, offset, length)) == 0


_libc = ctypes.CDLL(None)
# On 32-bit machines glibc's fallocate takes short offsets; other libraries have long ones only, under that name.
_fallocate = getattr(_libc, "fallocate64", _libc.fallocate)
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
