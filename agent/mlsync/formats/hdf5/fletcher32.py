"""Fletcher-32 as HDF5 computes it: over big-endian words of two bytes."""

from __future__ import annotations

import sys
from array import array
from typing import Final

_MODULUS: Final = 0xFFFF
_WORD_BYTES: Final = 2
_SLICE_BYTES: Final = 64 << 10


class Fletcher32:
    """The checksum of the bytes that it was fed."""

    def __init__(self) -> None:
        self._first = 0
        self._second = 0
        self._odd = b""

    def feed(self, piece: bytes | memoryview) -> None:
        """Feed the next bytes."""
        if self._odd:
            piece = self._odd + bytes(piece)
        whole = len(piece) - len(piece) % _WORD_BYTES
        self._odd = bytes(piece[whole:])
        for at in range(0, whole, _SLICE_BYTES):
            self._add(bytes(piece[at : min(at + _SLICE_BYTES, whole)]))

    def is_that(self, stored: bytes) -> bool:
        """Return whether *stored* is the sum, as HDF5 or its versions before 1.6.3 write it."""
        if self._odd:
            self._add(self._odd + b"\0")
            self._odd = b""
        # Each half is a remainder of which 0 and 65,535 are the same
        told = [int.from_bytes(stored[at : at + _WORD_BYTES], "little") for at in (0, _WORD_BYTES)]
        swapped = [(half >> 8) | (half & 0xFF) << 8 for half in told]
        own = [self._first % _MODULUS, self._second % _MODULUS]
        return any([half % _MODULUS for half in halves] == own for halves in (told, swapped))

    def _add(self, words: bytes) -> None:
        """Sum words up, and each of them as often as there are words from it on, as one long number modulo a square.

        With B = 65,536 and M = B - 1, B to the power of k is 1 + k * M modulo M * M: the number is the sum of its
        words, and M times each of them as often as there are words behind it.
        """
        count = len(words) // _WORD_BYTES
        numbers = array("H", words)
        if sys.byteorder == "little":
            numbers.byteswap()
        total = sum(numbers)
        behind = (int.from_bytes(words, "big") - total) % (_MODULUS * _MODULUS) // _MODULUS
        self._second = (self._second + count * self._first + total + behind) % _MODULUS
        self._first = (self._first + total) % _MODULUS
