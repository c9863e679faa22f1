"""Compression of one chunk: a sample decides how to store it, and decoding never needs more room than its length.

Only byte planes need numpy, so it is imported with the first chunk of them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from mlsync.buffers import Buffer
from mlsync.codec.frames import WORTH_RATIO, CodingBroken, Method, best_method, decode_frame_into, frame, frames

if TYPE_CHECKING:
    from mlsync.codec.planes import PlaneChoice, PlaneCoder

__all__ = ["Coding", "CodingBroken", "add_base", "decode", "decode_into", "encode", "encode_short", "may_differ"]


class Coding(IntEnum):
    """How a pack stores a chunk's bytes. The numbers are part of the format and never get a new meaning."""

    RAW = 0
    ZSTD = 1
    PLANES = 2
    DIFFERENCE = 3


SAMPLE_FROM_BYTES: Final = 128 << 10
SAMPLE_BYTES: Final = 8 << 10
SAMPLE_COUNT: Final = 3
# Below this the planes' headers cost more than the planes save.
PLANES_FROM_BYTES: Final = 4 << 10
PLANE_WIDTHS: Final = frozenset({2, 4, 8})
# A difference is read with its base, so it must save this share of the plain bytes at least.
DIFFERENCE_GAIN: Final = 0.04


class _Coders(threading.local):
    """A plane coder per thread: it reuses its buffers, so threads cannot share it."""

    planes: PlaneCoder | None = None


_coders = _Coders()


def may_differ(plain_bytes: int, item_bytes: int) -> bool:
    """Return whether a chunk of that length and width of numbers can be stored as a difference from another."""
    return item_bytes in PLANE_WIDTHS and plain_bytes >= PLANES_FROM_BYTES


def encode(plain: memoryview, item_bytes: int = 0, base: memoryview | None = None) -> tuple[Coding, Buffer]:
    """Return the best coding for *plain*, and the coded bytes, valid until this thread's next call.

    If no coding is worth it, they are *plain* itself. *item_bytes* is the width of the numbers in *plain*, from its
    first byte on; 0 if that is unknown. ``Coding.DIFFERENCE`` is taken only if the difference from *base*, which is as
    long, saves so much that it is worth reading the base too.
    """
    is_numbers = may_differ(len(plain), item_bytes)
    method = Method.MATCHED
    # A short chunk is simply coded: its sample would be no shorter.
    if is_numbers or len(plain) >= SAMPLE_FROM_BYTES:
        sample = _sample(plain, item_bytes if is_numbers else 1)
        method, coded_bytes = best_method(sample)
        if is_numbers:
            coding, planes = _as_planes(plain, item_bytes, sample, coded_bytes, base)
            if planes is not None:
                return coding, planes
    if method is Method.RAW:
        return Coding.RAW, plain
    coded = frame(method, plain)
    if len(coded) > WORTH_RATIO * len(plain):
        return Coding.RAW, plain
    return Coding.ZSTD, coded


def encode_short(plains: Sequence[bytes]) -> list[tuple[Coding, Buffer]]:
    """Return the same for many chunks below ``SAMPLE_FROM_BYTES`` that are no numbers, in one call of the library."""
    return [
        (Coding.RAW, plain) if len(coded) > WORTH_RATIO * len(plain) else (Coding.ZSTD, coded)
        for plain, coded in zip(plains, frames(plains), strict=True)
    ]


def _as_planes(
    plain: memoryview, item_bytes: int, sample: Buffer, whole_bytes: int, base: memoryview | None
) -> tuple[Coding, memoryview | None]:
    """Return *plain*, or its difference from *base*, in byte planes.

    Return ``None`` if *sample* is shorter coded as a whole, in *whole_bytes*.
    """
    from mlsync.codec.planes import choose_planes

    chosen = choose_planes(sample, item_bytes)
    best_ratio = min(chosen.ratio, whole_bytes / len(sample), 1.0)
    if base is not None:
        difference = _as_difference(plain, item_bytes, base, best_ratio - DIFFERENCE_GAIN)
        if difference is not None:
            return Coding.DIFFERENCE, difference
    if chosen.ratio > WORTH_RATIO or whole_bytes <= chosen.ratio * len(sample):
        return Coding.PLANES, None
    return Coding.PLANES, _plane_coder().encode(plain, item_bytes, chosen.planes)


def _as_difference(plain: memoryview, item_bytes: int, base: memoryview, ratio_max: float) -> memoryview | None:
    """Return how *plain* differs from *base*, in byte planes, or ``None`` if a sample takes more than *ratio_max*."""
    from mlsync.codec.differences import distances
    from mlsync.codec.planes import choose_planes

    sample = distances(_sample(plain, item_bytes), _sample(base, item_bytes), item_bytes)
    chosen: PlaneChoice = choose_planes(sample, item_bytes)
    if chosen.ratio > ratio_max:
        return None
    return _plane_coder().encode(distances(plain, base, item_bytes), item_bytes, chosen.planes)


def decode_into(coding: Coding, coded: memoryview, into: memoryview, base: memoryview | None = None) -> None:
    """Fill all of *into* with the plain bytes, or raise ``CodingBroken``; the length of *into* bounds the memory.

    A difference needs its *base*, which is as long as *into*. Without one, what its seal holds is there afterwards, and
    ``add_base`` makes the plain bytes of it.
    """
    if coding in (Coding.PLANES, Coding.DIFFERENCE):
        _plane_coder().decode_into(coded, into)
        if coding is Coding.DIFFERENCE and base is not None:
            add_base(into, base, coded[0])
    elif coding is Coding.ZSTD:
        decode_frame_into(coded, into)
    elif len(coded) != len(into):
        raise CodingBroken(f"holds {len(coded)} bytes instead of {len(into)}")
    else:
        into[:] = coded


def add_base(into: memoryview, base: memoryview, item_bytes: int) -> None:
    """Make plain bytes of what the seal of a difference holds, whose numbers are *item_bytes* wide."""
    from mlsync.codec import differences

    differences.add_base(into, base, item_bytes)


def decode(coding: Coding, coded: Buffer, plain_bytes: int) -> bytes:
    """Return exactly *plain_bytes* plain bytes of a small chunk, or raise ``CodingBroken``."""
    plain = bytearray(plain_bytes)
    decode_into(coding, memoryview(coded), memoryview(plain))
    return bytes(plain)


def _plane_coder() -> PlaneCoder:
    if _coders.planes is None:
        from mlsync.codec.planes import PlaneCoder

        _coders.planes = PlaneCoder()
    return _coders.planes


def _sample(plain: memoryview, item_bytes: int) -> Buffer:
    """Return whole items from front, middle and end: a chunk may begin with a header and end in zeros."""
    size_bytes = len(plain) - len(plain) % item_bytes
    if size_bytes < SAMPLE_FROM_BYTES:
        return plain[:size_bytes]
    last = size_bytes - SAMPLE_BYTES
    starts = (last * index // (SAMPLE_COUNT - 1) for index in range(SAMPLE_COUNT))
    return b"".join(plain[start - start % item_bytes :][:SAMPLE_BYTES] for start in starts)
