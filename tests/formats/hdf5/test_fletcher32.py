"""Fletcher's sum of HDF5 against its definition; ``test_hdf5.py`` holds it against a file that HDF5 wrote."""

from __future__ import annotations

import numpy as np
import pytest

from mlsync.formats.hdf5.fletcher32 import Fletcher32


def by_definition(data: bytes) -> bytes:
    first = second = 0
    data += bytes(len(data) % 2)
    for at in range(0, len(data), 2):
        first = (first + (data[at] << 8 | data[at + 1])) % 65535
        second = (second + first) % 65535
    return first.to_bytes(2, "little") + second.to_bytes(2, "little")


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 140_001])
def test_the_sum_is_that_of_the_definition(length):
    """However the bytes are shown, and if their number is odd; one bit makes it another."""
    data = np.random.default_rng(length).bytes(length)
    total = Fletcher32()
    total.feed(data[: length // 3])
    total.feed(memoryview(data)[length // 3 :])
    assert total.is_that(by_definition(data))
    assert not total.is_that(by_definition(data + b"x"))


def test_0_and_65535_are_the_same_remainder():
    """HDF5 writes the latter where all bytes are 255."""
    total = Fletcher32()
    total.feed(b"\xff" * 100)
    assert total.is_that(b"\xff\xff\xff\xff")
    assert total.is_that(bytes(4))
