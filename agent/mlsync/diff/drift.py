"""How far the numbers of a tensor moved between two versions, computed window by window and summed in float64.

A difference of norms would miss numbers that changed sign or place, so both sides are compared number by number. Pairs
that are not finite on both sides are counted and left out of every sum, so that one NaN does not hide all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeAlias

import numpy as np

from mlsync.formats.layout import Tensor
from mlsync.formats.strides import span_count
from mlsync.formats.torch.tensors import ITEM_BYTES
from mlsync.proof.programs.cpu import NARROW, eight_bit_numbers

NumpyArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]
#: Returns the numbers of a block as float64, in the given array or in memory of its own.
Decode: TypeAlias = Callable[[NumpyArray, NumpyArray], NumpyArray]

# Four blocks of float64 stay in the second-level cache.
_BLOCK_NUMBERS: Final = 1 << 15
# Within these bounds the squares of as many numbers as there can be neither overflow nor vanish.
_LARGE: Final = 1e140
_SMALL: Final = 1e-140

_FLOAT_CODES: Final = {"float64": "f8", "float32": "f4", "float16": "f2"}
# Torch takes a pair of them for an element.
_TWO_IN_A_BYTE: Final = "float4_e2m1fn_x2"
_COMPLEX_CODES: Final = {"complex128": "f8", "complex64": "f4", "complex32": "f2"}


@dataclass(frozen=True, slots=True)
class Drift:
    """The change of a tensor's numbers; a complex number counts as two.

    *changed_count* have other bits. The norms, the *mean* and the *largest* absolute change are of the numbers that are
    finite on both sides, and ``None`` for types that are counted only; *left_out_count* says how many are not.
    """

    number_count: int
    changed_count: int
    before_nonfinite_count: int = 0
    after_nonfinite_count: int = 0
    left_out_count: int = 0
    before_norm: float | None = None
    moved_norm: float | None = None
    mean: float | None = None
    largest: float | None = None

    @property
    def relative(self) -> float | None:
        """``||B-A|| / ||A||``, or ``None`` if that is not finite."""
        if self.moved_norm is None or not self.before_norm:
            return None
        return _finite(self.moved_norm / self.before_norm)


def item_bytes(dtype: str) -> int | None:
    """Return the width of an element of *dtype*, or ``None`` for unknown types and those without whole bytes.

    ``Meter`` compares tensors of such types byte by byte.
    """
    return None if dtype == _TWO_IN_A_BYTE else ITEM_BYTES.get(dtype)


def gathered(window: memoryview, tensor: Tensor) -> memoryview:
    """Return the tensor's elements contiguously, in the order of its dimensions; *window* is its whole span."""
    width = item_bytes(tensor.dtype)
    assert len(window) == span_count(tensor) * (width or 0)  # as_strided would read past a shorter one
    steps = tuple(step * (width or 0) for step in tensor.stride)
    items = np.frombuffer(window, dtype=f"V{width}")
    return memoryview(np.lib.stride_tricks.as_strided(items, tensor.shape, steps, writeable=False).tobytes())


class Meter:
    """Compares a tensor of two versions, window by window, both in the same order; ``drift`` returns the result."""

    def __init__(self, dtype: str, *, big_endian: bool = False) -> None:
        order = ">" if big_endian else "<"
        self._bits = np.dtype(f"{order}u{_number_bytes(dtype)}")
        self._decode = _decoder(dtype, order)
        self._before, self._after, self._moved = (np.empty(_BLOCK_NUMBERS) for _ in range(3))
        self._number_count = self._changed_count = self._left_out_count = 0
        self._before_nonfinite_count = self._after_nonfinite_count = 0
        self._before_norm, self._moved_norm = _Norm(), _Norm()
        self._sum = self._largest = 0.0

    def add(self, before: memoryview, after: memoryview) -> None:
        """Compare the next numbers, as many of one side as of the other."""
        old, new = np.frombuffer(before, self._bits), np.frombuffer(after, self._bits)
        with np.errstate(all="ignore"):
            for at in range(0, len(old), _BLOCK_NUMBERS):
                self._add_block(old[at : at + _BLOCK_NUMBERS], new[at : at + _BLOCK_NUMBERS])

    def add_same(self, window: memoryview) -> None:
        """Count the next numbers, which are equal on both sides: they add to the norm of the earlier version."""
        old = np.frombuffer(window, self._bits)
        with np.errstate(all="ignore"):
            for at in range(0, len(old), _BLOCK_NUMBERS):
                self._add_same_block(old[at : at + _BLOCK_NUMBERS])

    def drift(self) -> Drift:
        """Return the result of all that was added."""
        counts = (
            self._number_count,
            self._changed_count,
            self._before_nonfinite_count,
            self._after_nonfinite_count,
            self._left_out_count,
        )
        finite_count = self._number_count - self._left_out_count
        if self._decode is None or not finite_count:
            return Drift(*counts)
        mean, largest = _finite(self._sum / finite_count), _finite(self._largest)
        return Drift(*counts, _finite(self._before_norm.value), _finite(self._moved_norm.value), mean, largest)

    def _add_block(self, old: NumpyArray, new: NumpyArray) -> None:
        changed_count = int(np.count_nonzero(old != new))
        if not changed_count:
            self._add_same_block(old)
            return
        self._number_count += len(old)
        self._changed_count += changed_count
        if self._decode is None:
            return
        before, after = self._decode(old, self._before), self._decode(new, self._after)
        moved = np.subtract(after, before, out=self._moved[: len(old)])
        finite = np.isfinite(moved)
        if not finite.all():
            self._left_out_count += len(old) - int(np.count_nonzero(finite))
            self._before_nonfinite_count += _nonfinite_count(before)
            self._after_nonfinite_count += _nonfinite_count(after)
            before, moved = before[finite], moved[finite]
        self._before_norm.add(before)
        self._moved_norm.add(moved)
        np.abs(moved, out=moved)
        self._sum += float(moved.sum())
        self._largest = max(self._largest, float(moved.max(initial=0.0)))

    def _add_same_block(self, old: NumpyArray) -> None:
        self._number_count += len(old)
        if self._decode is None:
            return
        before = self._decode(old, self._before)
        finite = np.isfinite(before)
        if not finite.all():
            nonfinite_count = len(old) - int(np.count_nonzero(finite))
            self._left_out_count += nonfinite_count
            self._before_nonfinite_count += nonfinite_count
            self._after_nonfinite_count += nonfinite_count
            before = before[finite]
        self._before_norm.add(before)


class _Norm:
    """The root of a sum of squares, even if the squares overflow or underflow float64."""

    def __init__(self) -> None:
        self._squares = 0.0
        self._extremes = 0.0

    def add(self, numbers: NumpyArray) -> None:
        largest = max(float(numbers.max(initial=0.0)), -float(numbers.min(initial=0.0)))
        if _SMALL < largest < _LARGE:
            self._squares += float(np.dot(numbers, numbers))
        elif largest:
            scaled = numbers / largest
            self._extremes = math.hypot(self._extremes, largest * math.sqrt(float(np.dot(scaled, scaled))))

    @property
    def value(self) -> float:
        return math.hypot(math.sqrt(self._squares), self._extremes)


# ---------------------------------------------------------------- types


def _number_bytes(dtype: str) -> int:
    """Return the bytes of a number: a part of a complex number, one byte of an unknown type."""
    part = _COMPLEX_CODES.get(dtype)
    return np.dtype(part).itemsize if part is not None else ITEM_BYTES.get(dtype, 1)


def _decoder(dtype: str, order: str) -> Decode | None:
    """Return what converts the bits of *dtype* to float64, or ``None`` for types that are only counted."""
    code = _FLOAT_CODES.get(dtype) or _COMPLEX_CODES.get(dtype)
    if code is not None:
        return lambda bits, into: _copied(bits.view(order + code), into)
    if dtype == "bfloat16":
        # The upper half of a float32.
        return lambda bits, into: _copied((bits.astype(np.uint32) << 16).view(np.float32), into)
    if dtype in NARROW:
        table = _eight_bit_table(dtype)
        return lambda bits, into: np.take(table, bits, out=into[: len(bits)], mode="clip")
    return None


def _copied(numbers: NumpyArray, into: NumpyArray) -> NumpyArray:
    into = into[: len(numbers)]
    np.copyto(into, numbers)
    return into


@cache
def _eight_bit_table(dtype: str) -> NumpyArray:
    numbers: NumpyArray = eight_bit_numbers(np, dtype)
    return numbers


def _nonfinite_count(numbers: NumpyArray) -> int:
    return len(numbers) - int(np.count_nonzero(np.isfinite(numbers)))


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
