"""CRC-32C, the sum of TensorFlow and of OCDBT; the library that knows the processor's instruction for it comes late."""

from __future__ import annotations

from typing import TypeAlias

Bytes: TypeAlias = bytes | memoryview


def crc32c(data: Bytes, before: int = 0) -> int:
    """The sum of *data* behind bytes whose sum is *before*."""
    from crc32c import crc32c as native

    value: int = native(data, before)
    return value
