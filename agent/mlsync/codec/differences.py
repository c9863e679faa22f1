"""Differences of numbers: how far each number of a chunk is from the one in the same place of a base of its length.

Two versions of a tensor differ by little in each number, and XOR of two floats hides that: it carries from one exponent
to the next. So each number is read as the integer that sorts as it does (negative floats have all bits but the sign
flipped), and what is stored is the integers' distance, small whichever way it goes: 0, -1, 1, -2, … become 0, 1, 2, 3,
… That is exact for every pattern of bits, NaNs and integers too. See docs/format.md, "Differences".

Everything works on blocks that stay in the processor's cache, so that the many cheap steps cost one pass over memory.
"""

from __future__ import annotations

import threading
from typing import Any, Final

import numpy as np

from mlsync.buffers import Buffer, aligned_memory
from mlsync.codec.planes import UNSIGNED, Array

# Three blocks, two of them scratch, fit in a processor's second cache together.
_BLOCK_BYTES: Final = 128 << 10
_SIGNED: Final[dict[int, np.dtype[Any]]] = {2: np.dtype("<i2"), 4: np.dtype("<i4"), 8: np.dtype("<i8")}


class _Scratch(threading.local):
    """Memory of a thread: two blocks, and room for the distances of its longest chunk."""

    def __init__(self) -> None:
        self.one = np.empty(_BLOCK_BYTES, np.uint8)
        self.other = np.empty(_BLOCK_BYTES, np.uint8)
        self.distances = np.empty(0, np.uint8)


_scratch = _Scratch()


def distances(plain: Buffer, base: Buffer, width: int) -> memoryview:
    """Return how far numbers of *width* bytes are from those of *base*, valid until this thread's next call.

    Both have the same length; bytes after the last whole number come out as they are in *plain*.
    """
    size_bytes = len(plain)
    if len(_scratch.distances) < size_bytes:
        _scratch.distances = np.frombuffer(aligned_memory(size_bytes), np.uint8)
    into = _scratch.distances[:size_bytes].data
    count = size_bytes // width
    numbers, others = (np.frombuffer(one, _SIGNED[width], count) for one in (plain, base))
    found = np.frombuffer(into, _SIGNED[width], count)
    step = _BLOCK_BYTES // width
    for start in range(0, count, step):
        _distances(numbers[start : start + step], others[start : start + step], found[start : start + step])
    into[count * width :] = plain[count * width :]
    return into


def add_base(distances: memoryview, base: Buffer, width: int) -> None:
    """Turn *distances* into the numbers that are so far from those of *base*, which has the same length."""
    count = len(distances) // width
    found, others = np.frombuffer(distances, _SIGNED[width], count), np.frombuffer(base, _SIGNED[width], count)
    step = _BLOCK_BYTES // width
    for start in range(0, count, step):
        _add(found[start : start + step], others[start : start + step])


def _distances(numbers: Array, others: Array, into: Array) -> None:
    bits = 8 * numbers.itemsize
    one, other = (block[: numbers.nbytes].view(numbers.dtype) for block in (_scratch.one, _scratch.other))
    _ordered(numbers, one, into)
    _ordered(others, other, into)
    np.subtract(one, other, out=one)
    np.right_shift(one, bits - 1, out=other)
    np.left_shift(one, 1, out=one)
    np.bitwise_xor(one, other, out=into)


def _add(found: Array, others: Array) -> None:
    one, other = (block[: found.nbytes].view(found.dtype) for block in (_scratch.one, _scratch.other))
    unsigned = UNSIGNED[found.itemsize]
    np.bitwise_and(found, 1, out=one)
    np.negative(one, out=one)
    np.right_shift(found.view(unsigned), 1, out=other.view(unsigned))
    np.bitwise_xor(one, other, out=found)
    _ordered(others, one, other)
    np.add(found, one, out=one)
    _ordered(one, found, other)


def _ordered(numbers: Array, into: Array, scratch: Array) -> None:
    """Put into *into* the integers that sort as the floats do; the same turns them back."""
    np.right_shift(numbers, 8 * numbers.itemsize - 1, out=scratch)
    # All bits but the sign's, where that is set.
    np.bitwise_and(scratch, np.iinfo(numbers.dtype).max, out=scratch)
    np.bitwise_xor(numbers, scratch, out=into)
