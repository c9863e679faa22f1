"""Byte planes of a tensor's elements: what compresses is coded apart from what is noise. See docs/format.md, "Planes".

Of a float, sign and exponent are few and alike, the mantissa is noise. Side by side they hide each other from any
compressor; taken apart (ZipNN, arXiv 2411.05239) the exponents' bytes come to a third and the rest is stored as it is,
without being looked at. Which planes are worth it is read off a sample.

Memory: for each thread, three buffers as long as its longest chunk, used again and again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeAlias

import numpy as np

from mlsync.buffers import Buffer, aligned_memory
from mlsync.codec.frames import CodingBroken, Manner, best_manner, decode_frame_into, frame

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

WIDTHS: Final = (2, 4, 8)
_HEAD: Final = struct.Struct("<BBHI")  # element width, number of planes, 0, 0
_PLANE: Final = struct.Struct("<BBHI")  # width, coding, 0, coded length
_UNSIGNED: Final[dict[int, np.dtype[Any]]] = {
    1: np.dtype("u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
    8: np.dtype("<u8"),
}


class PlaneCoding(IntEnum):
    """How a plane's bytes stand in a chunk. Part of the format, as ``compression.Coding`` is."""

    RAW = 0
    ZSTD = 1


@dataclass(frozen=True, slots=True)
class Plane:
    """Bytes *position* to *position* + *width* of each element, counted from the least significant."""

    position: int
    width: int
    manner: Manner


@dataclass(frozen=True, slots=True)
class Plan:
    """How a chunk is to be taken apart, and to how much of itself (0 to 1) its sample came by that."""

    planes: tuple[Plane, ...]
    ratio: float


def plan(sample: Buffer, width: int) -> Plan:
    """Return the best way to take elements of *width* bytes apart, judged by *sample*, the bytes of whole ones."""
    rows = np.frombuffer(sample, np.uint8).reshape(-1, width)
    manners, coded_bytes = [], 0
    for position in range(width):
        manner, size_bytes = best_manner(rows[:, position].tobytes())
        manners.append(manner)
        coded_bytes += size_bytes
    return Plan(tuple(_joined(manners)), coded_bytes / len(sample))


def _joined(manners: Sequence[Manner]) -> Iterator[Plane]:
    """Join neighbours that are stored raw: two bytes at a time are taken out as quickly as one."""
    position = 0
    while position < len(manners):
        width = 1
        while _may_grow(manners, position, 2 * width):
            width *= 2
        yield Plane(position, width, manners[position])
        position += width


def _may_grow(manners: Sequence[Manner], position: int, width: int) -> bool:
    stretch = manners[position : position + width]
    return (
        position % width == 0
        and len(stretch) == width < len(manners)
        and all(manner is Manner.RAW for manner in stretch)
    )


class PlaneCoder:
    """Takes chunks apart and puts them together again; for one thread."""

    def __init__(self) -> None:
        self._coded = np.empty(0, np.uint8)
        self._shifted = np.empty(0, np.uint8)
        self._plane = np.empty(0, np.uint8)

    def encode(self, plain: memoryview, width: int, planes: Sequence[Plane]) -> memoryview | None:
        """Return *plain* taken apart, valid until the next call; ``None`` where that is not shorter."""
        count = len(plain) // width
        elements = np.frombuffer(plain, _UNSIGNED[width], count)
        at = _HEAD.size + _PLANE.size * len(planes)
        self._make_room(len(plain) + at)
        coded = self._coded.data[: len(plain)]
        head = [_HEAD.pack(width, len(planes), 0, 0)]
        for plane in planes:
            body = self._take_out(elements, plane, at)
            size_bytes = len(body)
            if at + size_bytes > len(coded):
                return None
            if plane.manner is not Manner.RAW:
                coded[at : at + size_bytes] = body
            coding = PlaneCoding.RAW if plane.manner is Manner.RAW else PlaneCoding.ZSTD
            head.append(_PLANE.pack(plane.width, coding, 0, size_bytes))
            at += size_bytes
        rest = plain[count * width :]
        if at + len(rest) >= len(plain):
            return None
        coded[at : at + len(rest)] = rest
        coded[: _HEAD.size + _PLANE.size * len(planes)] = b"".join(head)
        return coded[: at + len(rest)]

    def _take_out(self, elements: Array, plane: Plane, at: int) -> Buffer:
        """Return the plane's body; a raw one is written to where it belongs in the first place."""
        size_bytes = len(elements) * plane.width
        room = self._coded[at:] if plane.manner is Manner.RAW else self._plane
        if size_bytes > len(room):
            # Longer than the whole: the caller sees that.
            return bytes(size_bytes)
        column = room[:size_bytes].view(_UNSIGNED[plane.width])
        source = elements
        if plane.position:
            source = self._shifted[: elements.nbytes].view(elements.dtype)
            np.right_shift(elements, 8 * plane.position, out=source)
        # The cast drops what lies above the plane, and is several times as quick as picking every n-th byte.
        np.copyto(column, source, casting="unsafe")
        plain = column.data.cast("B")
        if plane.manner is Manner.RAW:
            return plain
        return frame(plane.manner, plain)

    def decode_into(self, coded: memoryview, into: memoryview) -> None:
        """Fill the whole of *into*, or raise ``CodingBroken``; needs no more room than three times that."""
        width, records, at = _parse_head(coded, len(into))
        count = len(into) // width
        self._make_room(len(into))
        elements = np.frombuffer(into, _UNSIGNED[width], count)
        position = 0
        for plane_width, coding, size_bytes in records:
            body = coded[at : at + size_bytes]
            column = self._column(body, coding, plane_width, count)
            self._put_in(elements, column, position)
            position += plane_width
            at += size_bytes
        into[count * width :] = coded[at:]

    def _column(self, body: memoryview, coding: int, width: int, count: int) -> Array:
        if coding == PlaneCoding.RAW:
            return np.frombuffer(body, _UNSIGNED[width], count)
        plane = self._plane[: count * width]
        decode_frame_into(body, plane.data)
        return plane.view(_UNSIGNED[width])

    def _put_in(self, elements: Array, column: Array, position: int) -> None:
        if position == 0:
            np.copyto(elements, column)
            return
        shifted = self._shifted[: elements.nbytes].view(elements.dtype)
        np.copyto(shifted, column)
        # Whole bytes further on, which takes one pass over memory where a shift takes one more.
        room = elements.view(np.uint8)[position:]
        np.bitwise_or(room, shifted.view(np.uint8)[:-position], out=room)

    def _make_room(self, size_bytes: int) -> None:
        if len(self._coded) < size_bytes:
            self._coded = np.frombuffer(aligned_memory(size_bytes), np.uint8)
            self._shifted = np.frombuffer(aligned_memory(size_bytes), np.uint8)
            self._plane = np.frombuffer(aligned_memory(size_bytes), np.uint8)


def _parse_head(coded: memoryview, plain_bytes: int) -> tuple[int, list[tuple[int, int, int]], int]:
    """Return element width, (width, coding, coded length) of each plane, and where the first body begins."""
    if len(coded) < _HEAD.size:
        raise CodingBroken("ends in the head of its planes")
    width, plane_count, zero, zeros = _HEAD.unpack_from(coded)
    if width not in WIDTHS or zero or zeros or not 0 < plane_count <= width <= plain_bytes:
        raise CodingBroken(f"tells of {plane_count} planes of elements of {width} bytes")
    at = _HEAD.size + _PLANE.size * plane_count
    if len(coded) < at:
        raise CodingBroken("ends in the head of its planes")
    records = [_PLANE.unpack_from(coded, _HEAD.size + _PLANE.size * index) for index in range(plane_count)]
    count = plain_bytes // width
    position, body_bytes = 0, 0
    for plane_width, coding, zero, size_bytes in records:
        is_sound = plane_width in _UNSIGNED and position % plane_width == 0 and not zero
        is_raw = coding == PlaneCoding.RAW and size_bytes == plane_width * count
        if not is_sound or not (is_raw or coding == PlaneCoding.ZSTD):
            raise CodingBroken(f"tells of a plane of {plane_width} bytes at {position} with coding {coding}")
        position += plane_width
        body_bytes += size_bytes
    if position != width or at + body_bytes + plain_bytes % width != len(coded):
        raise CodingBroken("its planes do not make up its elements")
    return width, [(plane_width, coding, size_bytes) for plane_width, coding, _, size_bytes in records], at
