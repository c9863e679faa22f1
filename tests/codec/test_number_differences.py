"""Differences of numbers: exact for every pattern of bits, small for numbers that are close, taken where worth it."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsync.codec import compression
from mlsync.codec.compression import Coding, CodingBroken, decode_into, encode
from mlsync.codec.differences import add_base, distances

WIDTHS = (2, 4, 8)
# Both zeros, the smallest and largest denormals and normals, infinities, quiet and signalling NaNs with payloads.
ODD = {
    2: [0, 0x8000, 1, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7C01, 0xFE5A, 0xFFFF, 0x7FFF],
    4: [0, 1 << 31, 1, (1 << 31) + 1, 0x7FFFFF, 0x800000, 0x7F800000, 0xFF800000, 0x7FC00123, 0xFF812345, 0xFFFFFFFF],
    8: [0, 1 << 63, 1, (1 << 63) + 1, (1 << 52) - 1, 0x7FF << 52, 0xFFF << 52, (0x7FF << 52) + 5, (1 << 64) - 1],
}
WEIGHTS = (np.random.default_rng(1).standard_normal(600_000) * 0.02).astype(np.float32)
LATER = (WEIGHTS * (1 + np.random.default_rng(2).standard_normal(len(WEIGHTS)) * 1e-4)).astype(np.float32)


def there_and_back(plain, base, width):
    """What comes of the distances once the base is added."""
    found = bytearray(distances(plain, base, width))
    add_base(memoryview(found), base, width)
    return bytes(found)


@given(st.sampled_from(WIDTHS), st.binary(max_size=200), st.integers(0, 1 << 64))
def test_any_bytes_come_back(width, plain, seed):
    """For each width, any two chunks of one length, whole numbers or not, give the one from the other."""
    base = np.random.default_rng(seed).bytes(len(plain))
    assert there_and_back(plain, base, width) == plain


@pytest.mark.parametrize("width", WIDTHS)
def test_every_odd_number_comes_back_from_every_other(width):
    """NaNs keep their payloads and zeros their signs, whichever number of any kind is the base."""
    form = f"<{len(ODD[width]) ** 2}{ {2: 'H', 4: 'I', 8: 'Q'}[width] }"
    plain = struct.pack(form, *(one for one in ODD[width] for _ in ODD[width]))
    base = struct.pack(form, *(other for _ in ODD[width] for other in ODD[width]))
    assert there_and_back(plain, base, width) == plain


@pytest.mark.parametrize("width", WIDTHS)
def test_distances_are_those_of_the_page(width):
    """They are what docs/format.md says, in Python's own integers."""
    bits = 8 * width
    random = np.random.default_rng(width)
    plain, base = random.bytes(1000 * width), random.bytes(1000 * width)

    def ordered(number):
        return number ^ ((number >> (bits - 1)) & ((1 << (bits - 1)) - 1))

    found = []
    for at in range(0, len(plain), width):
        number, other = (int.from_bytes(of[at : at + width], "little", signed=True) for of in (plain, base))
        far = (ordered(number) - ordered(other) + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))
        found.append((far << 1 ^ far >> (bits - 1)).to_bytes(width, "little"))
    assert bytes(distances(plain, base, width)) == b"".join(found)


def test_chunks_of_several_blocks_come_back():
    """A chunk that is longer than the blocks it is worked on in, and no multiple of them, comes back with its tail."""
    plain, base = LATER.tobytes() + b"xyz", WEIGHTS.tobytes() + b"abc"
    assert len(plain) > 2 << 20
    assert there_and_back(plain, base, 4) == plain
    assert bytes(distances(plain, base, 4))[-3:] == b"xyz"


def test_close_numbers_are_stored_as_a_difference():
    """Weights some steps later take two thirds of what planes take, and come back from the base and nothing else."""
    plain, base = memoryview(LATER.tobytes()), memoryview(WEIGHTS.tobytes())
    _, planes = encode(plain, 4)
    planes_bytes = len(planes)
    coding, coded = encode(plain, 4, base)
    assert coding is Coding.DIFFERENCE
    assert len(coded) < 0.67 * planes_bytes
    kept, into = memoryview(bytes(coded)), memoryview(bytearray(len(plain)))
    decode_into(coding, kept, into, base)
    assert into == plain
    decode_into(coding, kept, into, memoryview(LATER[::-1].tobytes()))
    assert into != plain


@pytest.mark.parametrize("item_bytes", [0, 1, 3, 4])
def test_other_numbers_are_not(item_bytes):
    """A base that has nothing to do with a chunk, or a chunk of no known width, is stored as without a base."""
    plain, base = memoryview(WEIGHTS.tobytes()), memoryview(WEIGHTS[::-1].tobytes())
    if item_bytes != 4:
        base = memoryview(LATER.tobytes())
    assert encode(plain, item_bytes, base)[0] is encode(plain, item_bytes)[0]


def test_a_small_gain_is_not_worth_a_second_read(monkeypatch):
    """A difference has to save a share of the plain bytes; where more is asked for, planes are taken."""
    plain, base = memoryview(LATER.tobytes()), memoryview(WEIGHTS.tobytes())
    monkeypatch.setattr(compression, "DIFFERENCE_GAIN", 0.6)
    assert encode(plain, 4, base)[0] is Coding.PLANES


@given(st.binary(max_size=64))
def test_what_is_no_difference_is_refused(coded):
    """Whatever the seal of a difference holds: it decodes, or it is refused, and never needs more than its room."""
    into = memoryview(bytearray(32))
    try:
        decode_into(Coding.DIFFERENCE, memoryview(coded), into, memoryview(bytes(32)))
    except CodingBroken:
        return
    assert coded[0] in WIDTHS
