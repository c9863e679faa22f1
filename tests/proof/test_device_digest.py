from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from mlsync.proof.digest import WindowDigest, window_digest
from mlsync.proof.programs.nh import Nh

WINDOW_BYTES = 1 << 20


@pytest.fixture(scope="module", params=["nh", "xxh3"])
def digest(request) -> Iterator[WindowDigest]:
    digest = window_digest(request.param, b"the seed", WINDOW_BYTES)
    yield digest
    digest.close()


def value(digest: WindowDigest, data: bytes, index: int = 0) -> int:
    return digest.start(memoryview(data), index)()


@pytest.mark.parametrize("length", [16, 4096, WINDOW_BYTES - 16, WINDOW_BYTES])
def test_nh_is_the_sum_that_its_description_says(length):
    """NH equals its definition, written out in whole numbers."""
    digest = Nh(b"other seed", WINDOW_BYTES)
    data = os.urandom(length)
    words = np.frombuffer(data, dtype="<i4").astype(object)
    slide = 5 * 4
    key = digest._key.astype(object)
    half = len(words) // 2

    def signed(number: int) -> int:
        return (number + (1 << 31)) % (1 << 32) - (1 << 31)

    step = max(1, half // 500)
    if step == 1:
        expected = sum(
            signed(words[i] + key[slide + i]) * signed(words[half + i] + key[slide + WINDOW_BYTES // 8 + i])
            for i in range(half)
        )
        assert value(digest, data, 5) == (expected + length * 0x9E3779B97F4A7C15) % (1 << 64)
    assert value(digest, data, 5) == value(digest, data, 5)


def test_every_bit_of_a_small_window_counts(digest):
    """No flipped bit keeps the digest."""
    data = bytearray(os.urandom(64))
    sound = value(digest, bytes(data))
    for bit in range(64 * 8):
        data[bit // 8] ^= 1 << bit % 8
        assert value(digest, bytes(data)) != sound
        data[bit // 8] ^= 1 << bit % 8


def test_place_and_length_count(digest):
    """Words, halves and windows that change places, and zeros at the end, give other digests."""
    data = os.urandom(4096)
    sound = value(digest, data)
    assert value(digest, data[4:8] + data[:4] + data[8:]) != sound
    assert value(digest, data[2048:] + data[:2048]) != sound
    assert value(digest, data, 1) != sound
    assert value(digest, bytes(4096)) != value(digest, bytes(4112))


@pytest.mark.parametrize("kind", ["nh", "xxh3"])
def test_the_key_is_the_seeds(kind):
    """Another seed gives another digest: what was made up for one session does not serve in the next."""
    data = os.urandom(4096)
    digests = [window_digest(kind, seed, WINDOW_BYTES) for seed in (b"a" * 32, b"b" * 32)]
    assert value(digests[0], data) != value(digests[1], data)


def test_windows_are_digested_beside_each_other(digest):
    """Several windows under way at a time give what each gives alone."""
    windows = [os.urandom(1 << 18) for _ in range(6)]
    alone = [value(digest, window, index) for index, window in enumerate(windows)]
    under_way = [digest.start(memoryview(window), index) for index, window in enumerate(windows)]
    assert [result() for result in under_way] == alone


def test_there_is_no_digest_of_another_name():
    """What the child calls its digest is looked up, not believed."""
    assert window_digest("md5", b"a" * 32, WINDOW_BYTES) is None
