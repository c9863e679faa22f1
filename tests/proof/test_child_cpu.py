"""What numpy says of numbers on the CPU, held against torch: all types, and values that are easily got wrong."""

from __future__ import annotations

import itertools
import math
import struct
import tracemalloc

import numpy as np
import pytest
import torch

from mlsync.proof.programs.cpu import BLOCK, COUNTED_AS, ROW, SQUARE_MIN, Numbers

NUMBERS = Numbers(np)
TYPES = sorted(set(COUNTED_AS.values()))  # complex numbers are pairs of these
FLOAT = {"complex128": "float64", "complex64": "float32", "complex32": "float16"}
# Lengths at the edges of rows and blocks, odd ones too, for two numbers of two bytes or one are taken at a time.
LENGTHS = (1, 2, 3, ROW - 1, ROW, ROW + 1, 2 * ROW + 7, BLOCK, BLOCK + 1)


def by_torch(values):
    """What torch says of numbers, written down as it is defined; norms in float64."""
    wide = values.to(torch.float64)
    magnitudes = wide.abs()
    finite = bool(torch.isfinite(wide).all())
    is_half = values.dtype == torch.float16
    alike = finite and bool((magnitudes == magnitudes[0]).all())
    norm = float(torch.linalg.vector_norm(wide)) if finite else math.inf
    return [
        int(torch.isnan(wide).sum()),
        int(torch.isinf(wide).sum()),
        int((wide == 0).sum()),
        int((magnitudes == 65504).sum()) if is_half else 0,
        float(wide.min()) if alike else None,
        float(wide.max()) if alike else None,
        norm if math.isfinite(norm) else None,
    ]


def agree(dtype, data):
    """Whether both say the same of *data*, norms to seven digits."""
    values = torch.frombuffer(bytearray(data), dtype=getattr(torch, FLOAT.get(dtype, dtype)))
    said, expected = NUMBERS.of(dtype, memoryview(data)), by_torch(values)
    assert [type(one) for one in said[:4]] == [int] * 4
    assert said[:6] == expected[:6]
    assert said[6] is None if expected[6] is None else math.isclose(said[6], expected[6], rel_tol=2e-7)


def bytes_of(values, dtype):
    return values.to(getattr(torch, FLOAT.get(dtype, dtype))).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", sorted(COUNTED_AS))
def test_sound_numbers(dtype):
    """Norm and zeros of ordinary tensors, at every length where a row, a pair or a block ends."""
    generator = torch.Generator().manual_seed(5)
    for length in LENGTHS:
        values = torch.randn(length, generator=generator, dtype=torch.float64)
        values[length // 2] = 0
        agree(dtype, bytes_of(values, dtype))


@pytest.mark.parametrize("dtype", TYPES)
def test_every_pattern_of_bits(dtype):
    """All codes of types of a byte or two, random ones of others: every NaN, denormals, both zeros, infinities."""
    size = torch.empty(0, dtype=getattr(torch, FLOAT.get(dtype, dtype))).element_size()
    if size <= 2:
        codes = [code.to_bytes(size, "little") for code in range(1 << 8 * size)]
        agree(dtype, b"".join(codes))
        for code in codes[:: 1 if size == 1 else 97]:
            agree(dtype, code)
    agree(dtype, np.random.default_rng(3).bytes(8 * 5000))


@pytest.mark.parametrize("dtype", TYPES)
def test_awkward_numbers_beside_sound_ones(dtype):
    """One NaN, infinity, zero or largest number of either sign is counted in every place of a block."""
    awkward = [math.nan, math.inf, -math.inf, 0.0, -0.0, 65504.0, -65504.0]
    for value, length in itertools.product(awkward, (1, 5, ROW + 1)):
        for place in {0, length // 2, length - 1}:
            values = torch.linspace(1, 2, length, dtype=torch.float64)
            values[place] = value
            agree(dtype, bytes_of(values, dtype))


@pytest.mark.parametrize("dtype", TYPES)
def test_numbers_that_are_all_alike(dtype):
    """Both bounds are told where all numbers have one magnitude, with their signs, and of no others."""
    for value, other in itertools.product((0.0, 0.5, 1.0), (0.0, -0.0, 0.5, -0.5, 1.0, -1.0)):
        for length in (1, 3, 65, ROW + 1):
            values = torch.full((length,), value, dtype=torch.float64)
            values[length // 2] = other
            agree(dtype, bytes_of(values, dtype))
    for place in (BLOCK // 2, BLOCK + 5):
        values = torch.ones(2 * BLOCK, dtype=torch.float64)
        values[place] = 0.5
        agree(dtype, bytes_of(values, dtype))


def test_numbers_whose_squares_float32_does_not_hold():
    """Norms of very small and very large numbers are right, where float32 alone would say zero or infinity."""
    for value in (1e-45, 1e-38, 3e-30, 1e-19, 1e18, 1e19, 3e38):
        for dtype in ("float32", "bfloat16", "complex64"):
            for length in (3, ROW + 5):
                values = torch.linspace(1, 2, length, dtype=torch.float64) * value
                agree(dtype, bytes_of(values, dtype))
    assert SQUARE_MIN > 1e-38
    assert NUMBERS.of("float64", memoryview(struct.pack("<2d", 1e200, 1e200)))[6] is None


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float8_e5m2", "float64"])
def test_numbers_at_any_address(dtype):
    """Where a segment lies in a window does not matter."""
    data = bytes_of(torch.linspace(-3, 3, ROW + 9, dtype=torch.float64), dtype)
    for offset in (1, 2, 3, 4, 7):
        moved = memoryview(bytes(offset) + data)[offset:]
        assert NUMBERS.of(dtype, moved)[:6] == NUMBERS.of(dtype, memoryview(data))[:6]
        assert math.isclose(NUMBERS.of(dtype, moved)[6], NUMBERS.of(dtype, memoryview(data))[6], rel_tol=1e-7)


def test_what_is_not_counted():
    """Whole numbers, truth values, unknown types and empty tensors have no numbers to count."""
    for dtype in ("int64", "uint8", "bool", "float4_e2m1fn_x2", "big-endian float32", "q4_0"):
        assert NUMBERS.of(dtype, memoryview(bytes(16))) is None
    assert [NUMBERS.of(dtype, memoryview(b"")) for dtype in TYPES] == [None] * len(TYPES)


def test_no_memory_grows_with_a_tensor():
    """A window of a MiB is counted in less than twice its size of new memory, whatever is in it."""
    for dtype in TYPES:
        for data in (bytes(1 << 20), b"\x3c" * (1 << 20), b"\xff" * (1 << 20)):
            NUMBERS.of(dtype, memoryview(data))
            tracemalloc.start()
            NUMBERS.of(dtype, memoryview(data))
            peak_bytes = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak_bytes < 2 << 20
