"""How far numbers moved, against what torch and plain numpy say of the same numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsync.diff.drift import Meter, gathered, item_bytes
from mlsync.formats.layout import Tensor

COUNT = 100_003  # several blocks, and a rest
FLOATS = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
]
COMPLEX = ["complex32", "complex64", "complex128"]
INTEGERS = ["int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool", "qint8", "qint32"]


def raw(tensor):
    """The bytes of a tensor as a checkpoint holds them."""
    return memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy()).cast("B")


def measured(dtype, before, after, **options):
    """The drift between two tensors or strings of bytes, taken in at once."""
    meter = Meter(dtype, **options)
    meter.add(*(raw(one) if isinstance(one, torch.Tensor) else memoryview(one) for one in (before, after)))
    return meter.drift()


def numbers(dtype, seed):
    """Numbers of about one, as *dtype* can say them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(COUNT, generator=generator).add(1.5).abs().to(getattr(torch, dtype))


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats(dtype):
    """Norms, mean and largest change of every type of float are those that torch computes in float64."""
    before, after = numbers(dtype, 1), numbers(dtype, 2)
    drift = measured(dtype, before, after)
    was, now = before.double(), after.double()
    moved = now - was
    assert drift.before_norm == pytest.approx(was.norm().item(), rel=1e-12)
    assert drift.moved_norm == pytest.approx(moved.norm().item(), rel=1e-12)
    assert drift.relative == pytest.approx((moved.norm() / was.norm()).item(), rel=1e-12)
    assert drift.mean == pytest.approx(moved.abs().mean().item(), rel=1e-12)
    assert drift.largest == moved.abs().max().item()
    assert (drift.number_count, drift.changed_count) == (COUNT, torch.count_nonzero(was != now).item())
    assert drift.left_out_count == drift.before_nonfinite_count == drift.after_nonfinite_count == 0


@pytest.mark.parametrize("dtype", COMPLEX)
def test_complex_numbers(dtype):
    """A complex number is two numbers, and the norms are those of the complex tensors."""
    generator = torch.Generator().manual_seed(3)
    before, after = (torch.randn(COUNT, 2, generator=generator).double() for _ in range(2))
    part = {"complex32": torch.float16, "complex64": torch.float32, "complex128": torch.float64}[dtype]
    before, after = before.to(part), after.to(part)
    drift = measured(dtype, before, after)
    was, now = torch.view_as_complex(before.double()), torch.view_as_complex(after.double())
    assert drift.relative == pytest.approx(((now - was).norm() / was.norm()).item(), rel=1e-12)
    assert drift.number_count == 2 * COUNT


@pytest.mark.parametrize("dtype", INTEGERS)
def test_whole_numbers_are_counted(dtype):
    """Of integers, truth values and quantised numbers it is said how many changed, and no distance."""
    width = item_bytes(dtype)
    before = np.random.default_rng(4).bytes(1000 * width)
    after = bytearray(before)
    for place in (0, 7, 999):
        after[place * width + width - 1] ^= 1
    drift = measured(dtype, before, after)
    assert (drift.number_count, drift.changed_count) == (1000, 3)
    assert drift.before_norm is drift.moved_norm is drift.relative is drift.mean is drift.largest is None


@pytest.mark.parametrize("dtype", [name for name in FLOATS if name.startswith("float8")])
def test_every_code_of_an_eight_bit_float(dtype):
    """Each of the 256 codes stands for the number that torch takes it for."""
    codes = torch.arange(256, dtype=torch.uint8)
    values = codes.view(getattr(torch, dtype)).to(torch.float64).tolist()
    for code, value in enumerate(values):
        drift = measured(dtype, bytes([code]), bytes([code ^ 1]))
        assert drift.before_nonfinite_count == (not math.isfinite(value))
        if not drift.left_out_count:
            assert drift.before_norm == abs(value)
            assert drift.moved_norm == abs(values[code ^ 1] - value)
    # The sign, which no norm shows.
    high, low = 0xBF, 0x3F
    if dtype != "float8_e8m0fnu":
        assert measured(dtype, bytes([low]), bytes([high])).moved_norm == 2 * abs(values[low])


SIZED = {"float32": np.float32, "float16": np.float16, "int16": np.int16}


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.sampled_from(sorted(SIZED)), st.lists(st.integers(0, 40_000), min_size=1, max_size=6), st.integers(0, 2))
def test_windows_of_any_size(dtype, sizes, same_every):
    """However the numbers come in windows, and whichever windows are known to be the same, the sum is one."""
    generator = np.random.default_rng(sum(sizes))
    before, after = ((generator.standard_normal(sum(sizes)) * 100).astype(SIZED[dtype]) for _ in range(2))
    after[::5] = before[::5]
    meter, at = Meter(dtype), 0
    for place, size in enumerate(sizes):
        old, new = before[at : at + size], after[at : at + size]
        if same_every and place % same_every == 0:
            new[:] = old
            meter.add_same(memoryview(old).cast("B"))
        else:
            meter.add(memoryview(old).cast("B"), memoryview(new).cast("B"))
        at += size
    drift = meter.drift()
    assert (drift.number_count, drift.changed_count) == (len(before), np.count_nonzero(before != after))
    if dtype != "int16" and len(before):
        was, moved = before.astype(np.float64), after.astype(np.float64) - before
        assert drift.before_norm == pytest.approx(np.linalg.norm(was), rel=1e-12)
        assert drift.moved_norm == pytest.approx(np.linalg.norm(moved), rel=1e-12)
        assert drift.mean == pytest.approx(np.abs(moved).mean(), rel=1e-12)
        assert drift.largest == np.abs(moved).max()


def test_what_is_no_finite_number_hides_nothing():
    """NaN and infinite numbers of either side are counted and left out, and the rest is measured as if alone."""
    before, after = numbers("float32", 5), numbers("float32", 6)
    before[10], before[50_000], before[COUNT - 1] = math.nan, math.inf, -math.inf
    after[10], after[11], after[12], after[60_000] = math.nan, math.nan, math.inf, math.nan
    drift = measured("float32", before, after)
    finite = torch.isfinite(before) & torch.isfinite(after)
    was, moved = before[finite].double(), after[finite].double() - before[finite].double()
    assert (drift.before_nonfinite_count, drift.after_nonfinite_count, drift.left_out_count) == (3, 4, 6)
    assert drift.number_count == COUNT
    assert drift.relative == pytest.approx((moved.norm() / was.norm()).item(), rel=1e-12)
    assert drift.mean == pytest.approx(moved.abs().mean().item(), rel=1e-12)
    assert drift.largest == moved.abs().max().item()


def test_nonfinite_numbers_that_stay():
    """A NaN that stays in its place is no change, in windows that are known to be the same and in others."""
    before = torch.tensor([1.0, math.nan, 2.0, math.inf])
    meter = Meter("float32")
    meter.add(raw(before), raw(before))
    meter.add_same(raw(before))
    drift = meter.drift()
    assert (drift.changed_count, drift.left_out_count) == (0, 4)
    assert drift.before_nonfinite_count == drift.after_nonfinite_count == 4
    assert (drift.before_norm, drift.moved_norm) == (pytest.approx(math.sqrt(10)), 0.0)


def test_nothing_but_nan():
    """Where no number is left, no distance is made up."""
    drift = measured("float16", torch.ones(9).half(), torch.full((9,), math.nan).half())
    assert (drift.changed_count, drift.left_out_count, drift.after_nonfinite_count) == (9, 9, 9)
    assert drift.relative is drift.before_norm is drift.moved_norm is drift.mean is None


@pytest.mark.parametrize("scale", [1e300, 1e-300, 1e150, 1e-150])
def test_numbers_whose_squares_are_none(scale):
    """Float64 whose squares overflow or vanish has the norms that it has at a common scale."""
    before, after = numbers("float64", 7), numbers("float64", 8)
    expected = measured("float64", before, after)
    drift = measured("float64", before * scale, after * scale)
    assert drift.relative == pytest.approx(expected.relative, rel=1e-9)
    assert drift.moved_norm == pytest.approx(expected.moved_norm * scale, rel=1e-9)
    assert drift.left_out_count == 0


def test_no_infinity_comes_out():
    """A change or a quotient that no float64 can say is none, and what is left out for it is counted."""
    drift = measured("float64", np.array([1e308, 1.0]).tobytes(), np.array([-1e308, 3.0]).tobytes())
    assert (drift.left_out_count, drift.relative, drift.largest) == (1, 2.0, 2.0)
    drift = measured("float64", np.array([5e-324]).tobytes(), np.array([1e300]).tobytes())
    assert (drift.relative, drift.moved_norm) == (None, 1e300)


def test_what_came_out_of_zero():
    """Of zeros that became something there is a distance and no quotient."""
    drift = measured("float32", torch.zeros(4), torch.full((4,), 2.0))
    assert (drift.relative, drift.before_norm, drift.moved_norm) == (None, 0.0, 4.0)


def test_a_zero_that_changed_its_sign():
    """Other bits of the same number are a change that moved nothing."""
    drift = measured("float32", torch.tensor([0.0, 3.0]), torch.tensor([-0.0, 3.0]))
    assert (drift.changed_count, drift.relative) == (1, 0.0)


def test_what_a_difference_of_norms_would_miss():
    """Numbers that changed places have the same norm, and moved."""
    before = numbers("float32", 9)
    assert measured("float32", before, before.flip(0)).relative > 0.5


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "complex64", "int32"])
def test_numbers_in_the_other_byte_order(dtype):
    """Numbers that are stored with their highest byte first come to the same."""
    width = item_bytes(dtype) // (2 if dtype.startswith("complex") else 1)
    before, after = (torch.randint(0, 9, (500,), generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    before, after = (bytes(raw(one.to(getattr(torch, dtype)))) for one in (before, after))
    turned = [np.frombuffer(one, f"V{width}").view(f"u{width}").byteswap().tobytes() for one in (before, after)]
    assert measured(dtype, *turned, big_endian=True) == measured(dtype, before, after)


@pytest.mark.parametrize("dtype", ["float4_e2m1fn_x2", "float6_e3m2", "q4_0", "unknown:X"])
def test_types_that_are_not_known(dtype):
    """Of a type whose numbers cannot be told apart, the bytes that changed are counted."""
    assert item_bytes(dtype) is None
    drift = measured(dtype, b"abcdef", b"abXdeY")
    assert (drift.number_count, drift.changed_count, drift.moved_norm) == (6, 2, None)


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (1, 12), (2, 3, 2)])
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_elements_are_gathered(shape, dtype):
    """A strided view's elements come in the order of its dimensions, as torch puts them side by side."""
    whole = torch.arange(400).to(getattr(torch, dtype))
    for view in (whole[: math.prod(shape)].view(shape).mT, whole.view(20, 20)[: shape[0], 3 :: shape[1]].t()):
        span = 1 + sum((size - 1) * step for size, step in zip(view.shape, view.stride(), strict=True))
        tensor = Tensor("t", "s", dtype, tuple(view.shape), view.stride(), 0)
        first = view.storage_offset()
        assert bytes(gathered(raw(whole[first : first + span]), tensor)) == bytes(raw(view))
