"""The proof on the CPU: digests windows in shared memory, and counts their numbers with numpy.

``device.py`` loads it by path in the child process: Python 3.9 or newer with numpy. A segment's counts are those of a
GPU: [NaN, infinite, zero, at float16's limit, lowest, highest, norm].

A window stays in the second-level cache. Numbers are read in place or, if numpy does not compute with their type, block
by block as float32 in reused memory. Most tensors have no NaN, no zero and more than one magnitude: the sum of the
squares and two minima show that, and only what they point at is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

WINDOW_BYTES = 1 << 20
UNIT_BYTES = 16
LENGTH_FACTOR = 0x9E3779B97F4A7C15
MODULUS = 1 << 64
# Squares are summed in float32 over so many elements, and in float64 from there.
ROW = 1024
# As float32 so many stay in the second-level cache.
BLOCK = 1 << 17
# Below this, on average, squares of float32 lose digits.
SQUARE_MIN = 1e-37
FLOAT16_MAX, FLOAT16_MAX_SQUARE = 0x7BFF, 65504.0**2
SINGLE = 4  # parts of a segment that is of one storage: which, type, place, length
REHEARSED_BYTES = 2 * ROW * 8 + 16 * UNIT_BYTES  # rows of the widest type, and a rest
UNSIGNED = "float8_e8m0fnu"

# The type that a type's elements are looked at as; complex numbers are pairs of floats.
COUNTED_AS = {
    "float64": "float64",
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "complex128": "float64",
    "complex64": "float32",
    "complex32": "float16",
    "float8_e4m3fn": "float8_e4m3fn",
    "float8_e4m3fnuz": "float8_e4m3fnuz",
    "float8_e5m2": "float8_e5m2",
    "float8_e5m2fnuz": "float8_e5m2fnuz",
    "float8_e8m0fnu": "float8_e8m0fnu",
}
# Bytes, and the bits of infinity, above which all is NaN.
WIDE = {"float64": (8, 0x7FF << 52), "float32": (4, 0x7F800000), "float16": (2, 0x7C00), "bfloat16": (2, 0x7F80)}
# Bits of the mantissa, and the exponent's bias.
NARROW = {
    "float8_e4m3fn": (3, 7),
    "float8_e4m3fnuz": (3, 8),
    "float8_e5m2": (2, 15),
    "float8_e5m2fnuz": (2, 16),
    "float8_e8m0fnu": (0, 127),
}


class Numbers:
    """Counts the numbers of segments, one at a time."""

    def __init__(self, np: Any) -> None:
        self._np = np
        self._kinds: dict[str, Any] = {name: Wide(np, name) for name in WIDE}

    def of(self, dtype: str, data: memoryview) -> list[Any] | None:
        """Return the counts of *data*, numbers of type *dtype*; ``None`` if there is nothing to count."""
        seen_as = COUNTED_AS.get(dtype)
        if seen_as is None or not data:
            return None
        if seen_as not in self._kinds:
            self._kinds[seen_as] = Narrow(self._np, seen_as)
        kind = self._kinds[seen_as]
        with self._np.errstate(all="ignore"):
            counts: list[Any] = kind.counts(self._np.frombuffer(data, kind.bits))
        return counts


class Wide:
    """Numbers of two or more bytes: bits above those of infinity are NaN, and the first bit is the sign."""

    def __init__(self, np: Any, name: str) -> None:
        self._np = np
        size, self._infinity = WIDE[name]
        self.bits = np.dtype(f"u{size}")
        self._signed = np.dtype(f"i{size}")
        self._magnitude = self.bits.type((1 << (8 * size - 1)) - 1)
        self._least = -1 << (8 * size - 1)  # as a signed number: that of minus zero
        self._is_half = name == "float16"
        self._as_floats = {"float16": self._of_half, "bfloat16": self._of_bfloat16}.get(name)
        self._floats = np.dtype("f8" if name == "float64" else "f4")
        self._rows = getattr(np, "vecdot", None) or _dots(np)  # numpy 2 has a faster one
        self._wide = np.empty(BLOCK if self._as_floats else 0, dtype=np.uint32)
        self._block = np.empty(BLOCK, dtype=self.bits)
        self._mask = np.empty(BLOCK, dtype=np.bool_)

    def counts(self, bits: Any) -> list[Any]:
        """Return the counts of the numbers with these *bits*."""
        squares, largest = self._squares(bits)
        is_suspect = largest >= FLOAT16_MAX_SQUARE if self._is_half else not math.isfinite(squares)
        nan_count = infinite_count = zero_count = saturated_count = 0
        if is_suspect:
            nan_count = self._count(bits, self._np.greater, self._infinity)
            infinite_count = self._count(bits, self._np.equal, self._infinity)
        if is_suspect and self._is_half:
            saturated_count = self._count(bits, self._np.equal, FLOAT16_MAX)
        if int(bits.min()) == 0 or int(bits.view(self._signed).min()) == self._least:
            zero_count = self._count(bits, self._np.equal, 0)
        counts = [nan_count, infinite_count, zero_count, saturated_count]
        if zero_count == len(bits):
            return [*counts, 0.0, 0.0, 0.0]
        if nan_count or infinite_count:
            return [*counts, None, None, None]
        if not math.isfinite(squares) or squares < SQUARE_MIN * (len(bits) - zero_count):
            squares = self._exact_squares(bits)
        return [*counts, *self._bounds(bits), math.sqrt(squares) if math.isfinite(squares) else None]

    def _squares(self, bits: Any) -> tuple[float, float]:
        """Return the sum of the squares, and the largest of a row; not finite if a number is not, or is too large."""
        np = self._np
        total = largest = 0.0
        for values in self._blocks_of_floats(bits):
            whole = len(values) - len(values) % ROW
            if whole:
                rows = values[:whole].reshape(-1, ROW)
                sums = self._rows(rows, rows)
                total += float(sums.sum(dtype=np.float64))
                largest = max(largest, float(sums.max()))
            if whole < len(values):
                rest = values[whole:].astype(np.float64)
                square = float(rest.dot(rest))
                total += square
                largest = max(largest, square)
        return total, largest

    def _exact_squares(self, bits: Any) -> float:
        """Return the sum of squares that float32 cannot hold, or not precisely."""
        total = 0.0
        for at in range(0, len(bits), BLOCK):
            for values in self._blocks_of_floats(bits[at : at + BLOCK]):
                exact = values.astype(self._np.float64)
                total += float(exact.dot(exact))
        return total

    def _blocks_of_floats(self, bits: Any) -> Iterator[Any]:
        """Yield the numbers as floats that numpy computes with; halves without their signs, and in another order."""
        if self._as_floats is None:
            yield bits.view(self._floats)
            return
        for at in range(0, len(bits), BLOCK):
            block = bits[at : at + BLOCK]
            # Two halves at a time: numpy is fastest with words. An odd one follows them.
            pairs = len(block) // 2
            self._wide[len(block) - 1] = block[-1]
            even = self._wide[: len(block)]
            yield self._as_floats(block[: 2 * pairs].view(self._np.uint32), even, pairs)

    def _of_bfloat16(self, words: Any, wide: Any, pairs: int) -> Any:
        """Widen numbers that are the upper half of a float32."""
        np = self._np
        if len(wide) % 2:
            wide[-1:] <<= np.uint32(16)
        np.bitwise_and(words, np.uint32(0xFFFF0000), out=wide[:pairs])
        np.left_shift(words, np.uint32(16), out=wide[pairs : 2 * pairs])
        return wide.view(np.float32)

    def _of_half(self, words: Any, wide: Any, pairs: int) -> Any:
        """Shift exponent and mantissa to their places; infinity becomes 65536, and NaN more."""
        np = self._np
        if len(wide) % 2:
            wide[-1:] <<= np.uint32(13)
        np.right_shift(words, np.uint32(3), out=wide[:pairs])
        np.left_shift(words, np.uint32(13), out=wide[pairs : 2 * pairs])
        np.bitwise_and(wide, np.uint32(0x0FFFE000), out=wide)
        floats = wide.view(np.float32)
        return np.multiply(floats, np.float32(2.0**112), out=floats)

    def _count(self, bits: Any, compare: Any, bound: int) -> int:
        """Return how many magnitudes compare with *bound* as *compare* says."""
        found = 0
        for magnitudes in self._magnitudes(bits):
            mask = compare(magnitudes, self.bits.type(bound), out=self._mask[: len(magnitudes)])
            found += int(self._np.count_nonzero(mask))
        return found

    def _magnitudes(self, bits: Any) -> Iterator[Any]:
        for at in range(0, len(bits), BLOCK):
            block = bits[at : at + BLOCK]
            yield self._np.bitwise_and(block, self._magnitude, out=self._block[: len(block)])

    def _bounds(self, bits: Any) -> list[float | None]:
        """Return lowest and highest, if all have one magnitude."""
        first = bits[0] & self._magnitude
        if bits[-1] & self._magnitude != first or not all(
            one.min() == first == one.max() for one in self._magnitudes(bits)
        ):
            return [None, None]
        number = float(next(self._blocks_of_floats(self._np.array([first])))[0])
        return _signed(number, bits.view(self._signed))


def eight_bit_numbers(np: Any, name: str) -> Any:
    """Return the numbers of the 256 codes of an 8-bit float, as float64."""
    codes = np.arange(256)
    mantissa_bits, bias = NARROW[name]
    if name == UNSIGNED:
        return np.append(np.ldexp(1.0, codes[:-1] - bias), np.nan)
    exponent = (codes & 0x7F) >> mantissa_bits
    fraction = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    numbers = np.ldexp(np.where(exponent > 0, 1 + fraction, fraction), np.maximum(exponent, 1) - bias)
    numbers[0x80:] *= -1
    if name.endswith("fnuz"):
        numbers[0x80] = np.nan
    elif name == "float8_e5m2":
        numbers[[0x7C, 0xFC]] = np.inf, -np.inf
        numbers[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    else:
        numbers[[0x7F, 0xFF]] = np.nan
    return numbers


class Narrow:
    """Numbers of one byte, looked up two at a time."""

    bits = "u1"

    def __init__(self, np: Any, name: str) -> None:
        self._np = np
        self._numbers = eight_bit_numbers(np, name)
        self._is_nan, self._is_infinite = np.isnan(self._numbers), np.isinf(self._numbers)
        self._zeros = np.flatnonzero(self._numbers == 0).astype(np.uint8)
        self._magnitude = np.uint8(0xFF if name == UNSIGNED else 0x7F)
        squares = self._numbers**2
        wide = np.float64 if name == UNSIGNED else np.float32  # whose numbers' squares are beyond float32
        self._squares = (squares[:, None] + squares[None, :]).astype(wide).ravel()
        self._sums = np.empty(BLOCK // 2, dtype=wide)
        self._mask = np.empty(BLOCK, dtype=np.bool_)
        self._block = np.empty(BLOCK, dtype=np.uint8)

    def counts(self, bits: Any) -> list[Any]:
        """Return the counts of the numbers with these *bits*."""
        np = self._np
        squares = self._sum_of_squares(bits)
        zero_count = sum(self._count(bits, code) for code in self._zeros)
        if not math.isfinite(squares):
            codes = sum(np.bincount(bits[at : at + BLOCK], minlength=256) for at in range(0, len(bits), BLOCK))
            nan_count, infinite_count = int(codes[self._is_nan].sum()), int(codes[self._is_infinite].sum())
            return [nan_count, infinite_count, zero_count, 0, None, None, None]
        return [0, 0, zero_count, 0, *self._bounds(bits), math.sqrt(squares)]

    def _sum_of_squares(self, bits: Any) -> float:
        np = self._np
        total = float(self._numbers[bits[-1]]) ** 2 if len(bits) % 2 else 0.0
        pairs = bits[: len(bits) // 2 * 2].view(np.uint16)
        for at in range(0, len(pairs), len(self._sums)):
            block = pairs[at : at + len(self._sums)]
            total += float(np.take(self._squares, block, out=self._sums[: len(block)], mode="clip").sum())
        return total

    def _count(self, bits: Any, code: Any) -> int:
        np = self._np
        blocks = (bits[at : at + BLOCK] for at in range(0, len(bits), BLOCK))
        return sum(int(np.count_nonzero(np.equal(one, code, out=self._mask[: len(one)]))) for one in blocks)

    def _bounds(self, bits: Any) -> list[float | None]:
        """Return lowest and highest, if all have one magnitude."""
        first = bits[0] & self._magnitude
        if bits[-1] & self._magnitude != first:
            return [None, None]
        for at in range(0, len(bits), BLOCK):
            block = bits[at : at + BLOCK]
            magnitudes = self._np.bitwise_and(block, self._magnitude, out=self._block[: len(block)])
            if not magnitudes.min() == first == magnitudes.max():
                return [None, None]
        used = [float(self._numbers[code]) for code in (bits.min(), bits.max())]
        return [min(used), max(used)]


def _signed(number: float, signed: Any) -> list[float | None]:
    """Return lowest and highest of numbers that are *number* or its opposite."""
    lowest = -number if signed.min() < 0 else number
    highest = number if signed.max() >= 0 else -number
    return [lowest, highest]


def _dots(np: Any) -> Any:
    return lambda left, right: np.einsum("ij,ij->i", left, right)


def is_one_row_enough(segment: list[Any], row: list[Any] | None) -> bool:
    """Return whether one row is enough: for one storage, or for several in which nothing is wrong."""
    is_clean = row is None or not (row[0] or row[1] or row[3] or row[6] is None)
    return is_clean or len(segment) == SINGLE


def parts_of(segment: list[Any]) -> Iterator[list[Any]]:
    """Yield the segments of the single storages in a segment of several."""
    first, dtype, at, _, lengths = segment
    for place, length in enumerate(lengths):
        yield [first + place, dtype, at, length]
        at += length


class WindowXxh3:
    """XXH3-64 of a window in place, as in ``mlsync/proof/digest.py``."""

    name = "xxh3"

    def __init__(self, function: Any, seed: bytes) -> None:
        self._function = function
        self._seed = int.from_bytes(seed[:8], "big")

    def digest(self, window: memoryview, index: int) -> int:
        """Digest *window*, the *index*-th of its file."""
        digest: int = self._function(window, (self._seed + index * LENGTH_FACTOR) % MODULUS)
        return digest


class CpuProver:
    """Answers each window at once with its digest and counts.

    *digest* has a ``name``, and ``digest(window, index)`` like the parent's; *answer* sends.
    """

    def __init__(self, np: Any, digest: Any, windows: Any, answer: Callable[[dict[str, Any]], None]) -> None:
        self.digest = digest
        self._numbers = Numbers(np)
        self._windows = windows
        self._answer = answer

    def take(self, header: dict[str, Any]) -> None:
        """Answer one window."""
        used = header["length"]
        if used > WINDOW_BYTES or used % UNIT_BYTES:
            raise SystemExit(3)
        self._answer(self._digest_and_counts(self._windows.at(header["place"], used), header))

    def finish_all(self) -> None:
        """Do nothing: every window is answered at once."""

    def rehearse(self) -> None:
        """Do everything once that a window can need, so that numpy has loaded what it loads on first use.

        In the sandbox no file can be opened any more.
        """
        for pattern in (b"\0", b"\xff", b"\1", b"\x7f\0\0\x7f", b"\0\1\2\3"):
            window = memoryview((pattern * REHEARSED_BYTES)[:REHEARSED_BYTES])
            segments = [[0, dtype, 0, len(window)] for dtype in COUNTED_AS]
            self._digest_and_counts(window, {"window": 0, "segments": segments})

    def _digest_and_counts(self, window: memoryview, header: dict[str, Any]) -> dict[str, Any]:
        digest = self.digest.digest(window, header["window"])
        counts = [self._counts(window, segment) for segment in header["segments"]]
        return {"window": header["window"], "digest": digest, "counts": counts}

    def _counts(self, window: memoryview, segment: list[Any]) -> Any:
        _, dtype, at, length = segment[:4]
        row = self._numbers.of(dtype, window[at : at + length])
        if is_one_row_enough(segment, row):
            return row
        return [self._numbers.of(dtype, window[at : at + length]) for _, dtype, at, length in parts_of(segment)]
