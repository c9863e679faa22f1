"""The parent's side of the device digest: one number per window that binds what was sent to what the device holds.

Which function it is, the child says. On a GPU it is NH, which both sides can compute fast by the same few operations on
whole numbers (``mlsync/proof/programs/nh.py``). On the CPU, where the child looks at the very memory that this side
wrote, XXH3 under a random seed does, and costs a sixth; NH again where the child's Python lacks xxhash. Both depend
on the place of each byte, and on a seed that is made anew for each child. That they are the right bytes is what the
cryptographic digests of the repository say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import xxhash

UNIT_BYTES: Final = 16  # windows are multiples of this; no element of any type is larger
LENGTH_FACTOR: Final = 0x9E3779B97F4A7C15
MODULUS: Final = 1 << 64


class WindowDigest(Protocol):
    """Digests the windows of one child."""

    def start(self, window: memoryview, index: int) -> Callable[[], int]:
        """Return what computes the digest of *window*, the *index*-th of its file, which must not change before."""

    def close(self) -> None:
        """End the background threads."""


class Xxh3:
    """XXH3-64, with a seed for each window."""

    def __init__(self, seed: bytes) -> None:
        self._seed = int.from_bytes(seed[:8], "big")

    def start(self, window: memoryview, index: int) -> Callable[[], int]:
        """Digest *window* at once: a thread would take longer."""
        digest = xxhash.xxh3_64_intdigest(window, (self._seed + index * LENGTH_FACTOR) % MODULUS)
        return lambda: digest

    def close(self) -> None:
        """Do nothing: there is no background thread."""


def window_digest(kind: str, seed: bytes, window_bytes: int) -> WindowDigest | None:
    """Return the digest that the child calls *kind*, or ``None`` if there is none of that name."""
    if kind == "xxh3":
        return Xxh3(seed)
    if kind == "nh":
        # numpy comes with this import; the idle agent does without
        from mlsync.proof.programs.nh import Nh

        return Nh(seed, window_bytes)
    return None
