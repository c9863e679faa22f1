"""CRC-32C, the checksum of TensorFlow and of OCDBT; the accelerated library is imported late."""

from __future__ import annotations

from typing import TypeAlias

Bytes: TypeAlias = bytes | memoryview


def crc32c(data: Bytes, before: int = 0) -> int:
    """Return the sum of *data* behind bytes whose sum is *before*."""
    from crc32c import crc32c as native

    value: int = native(data, before)
    return value
