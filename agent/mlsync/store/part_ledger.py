"""Which parts an upload has: every store's upload keeps this ledger, so that no object with a hole is created."""

from __future__ import annotations

import threading


class PartLedger:
    """Checks that a part has a valid offset and length, and that the parts make up the whole.

    A wrong part is a bug in the caller, and a ``ValueError``.
    """

    def __init__(self, part_bytes: int) -> None:
        self._part_bytes = part_bytes
        self._length_at: dict[int, int] = {}
        self._lock = threading.Lock()

    def check(self, offset: int, length: int) -> None:
        """Raise unless a part of *length* may begin at *offset*."""
        if offset < 0 or offset % self._part_bytes or not 0 < length <= self._part_bytes:
            msg = f"a part of {length} bytes at {offset} does not fit parts of {self._part_bytes} bytes"
            raise ValueError(msg)

    def add(self, offset: int, length: int) -> None:
        """Note that the store has the part; the same part may come again."""
        with self._lock:
            self._length_at[offset] = length

    def check_whole(self, size_bytes: int) -> None:
        """Raise unless the parts are exactly the bytes from 0 to *size_bytes*."""
        with self._lock:
            parts = sorted(self._length_at.items())
        end = 0
        for offset, length in parts:
            if offset != end:
                break
            end += length
        if end != size_bytes or sum(length for _, length in parts) != size_bytes:
            msg = f"the parts do not make up {size_bytes} bytes: {len(parts)} parts, whole up to {end}"
            raise ValueError(msg)
