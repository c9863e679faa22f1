"""Byte planes of a tensor's elements: bytes that compress are coded apart from noise. See docs/format.md, "Planes".

A tensor's floats have few different signs and exponents, and their mantissas are noise. Interleaved, a compressor finds
neither; in separate planes (ZipNN, arXiv 2411.05239) the exponents' bytes shrink to a third, and the rest is stored
raw, without a search. A sample decides which planes are worth coding.

Memory: for each thread, three buffers as long as its longest chunk, reused for every chunk.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeAlias

import numpy as np

from mlsync.buffers import Buffer, aligned_memory
from mlsync.codec.frames import CodingBroken, Method, best_method, decode_frame_into, frame

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

WIDTHS: Final = (2, 4, 8)
# Planes are joined a block at a time, which stays in the processor's cache from plane to plane: twice as fast.
_JOINED_BYTES: Final = 256 << 10
_HEADER: Final = struct.Struct("<BBHI")  # element width, number of planes, 0, 0
_PLANE: Final = struct.Struct("<BBHI")  # width, coding, 0, coded length
#: How numpy calls whole numbers, by their width in bytes.
UNSIGNED: Final[dict[int, np.dtype[Any]]] = {
    1: np.dtype("u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
    8: np.dtype("<u8"),
}


class PlaneCoding(IntEnum):
    """How a chunk stores a plane's bytes. Part of the format, like ``compression.Coding``."""

    RAW = 0
    ZSTD = 1


@dataclass(frozen=True, slots=True)
class Plane:
    """Bytes *position* to *position* + *width* of each element, counted from the least significant."""

    position: int
    width: int
    method: Method


@dataclass(frozen=True, slots=True)
class PlaneChoice:
    """How to split a chunk into planes, and the sample's compressed share by that (0 to 1)."""

    planes: tuple[Plane, ...]
    ratio: float


def choose_planes(sample: Buffer, width: int) -> PlaneChoice:
    """Return the best way to split elements of *width* bytes, judged by *sample*, which has whole elements."""
    rows = np.frombuffer(sample, np.uint8).reshape(-1, width)
    methods, coded_bytes = [], 0
    for position in range(width):
        method, size_bytes = best_method(rows[:, position].tobytes())
        methods.append(method)
        coded_bytes += size_bytes
    return PlaneChoice(tuple(_joined(methods)), coded_bytes / len(sample))


def _joined(methods: Sequence[Method]) -> Iterator[Plane]:
    """Join neighbouring raw planes: extracting two bytes at a time is as fast as extracting one."""
    position = 0
    while position < len(methods):
        width = 1
        while _may_grow(methods, position, 2 * width):
            width *= 2
        yield Plane(position, width, methods[position])
        position += width


def _may_grow(methods: Sequence[Method], position: int, width: int) -> bool:
    stretch = methods[position : position + width]
    return (
        position % width == 0
        and len(stretch) == width < len(methods)
        and all(method is Method.RAW for method in stretch)
    )


class PlaneCoder:
    """Splits chunks into planes and joins them again; for one thread."""

    def __init__(self) -> None:
        self._coded = np.empty(0, np.uint8)
        self._shifted = np.empty(0, np.uint8)
        self._plane = np.empty(0, np.uint8)

    def encode(self, plain: memoryview, width: int, planes: Sequence[Plane]) -> memoryview | None:
        """Return *plain* in planes, valid until the next call, or ``None`` if that is not shorter."""
        count = len(plain) // width
        elements = np.frombuffer(plain, UNSIGNED[width], count)
        at = _HEADER.size + _PLANE.size * len(planes)
        self._reserve(len(plain) + at)
        coded = self._coded.data[: len(plain)]
        head = [_HEADER.pack(width, len(planes), 0, 0)]
        for plane in planes:
            body = self._extract(elements, plane, at)
            size_bytes = len(body)
            if at + size_bytes > len(coded):
                return None
            if plane.method is not Method.RAW:
                coded[at : at + size_bytes] = body
            coding = PlaneCoding.RAW if plane.method is Method.RAW else PlaneCoding.ZSTD
            head.append(_PLANE.pack(plane.width, coding, 0, size_bytes))
            at += size_bytes
        rest = plain[count * width :]
        if at + len(rest) >= len(plain):
            return None
        coded[at : at + len(rest)] = rest
        coded[: _HEADER.size + _PLANE.size * len(planes)] = b"".join(head)
        return coded[: at + len(rest)]

    def _extract(self, elements: Array, plane: Plane, at: int) -> Buffer:
        """Return the plane's body; a raw plane is extracted directly to its final position."""
        size_bytes = len(elements) * plane.width
        room = self._coded[at:] if plane.method is Method.RAW else self._plane
        if size_bytes > len(room):
            # The planes are longer than the whole: the caller notices.
            return bytes(size_bytes)
        column = room[:size_bytes].view(UNSIGNED[plane.width])
        source = elements
        if plane.position:
            source = self._shifted[: elements.nbytes].view(elements.dtype)
            np.right_shift(elements, 8 * plane.position, out=source)
        # The cast drops the bytes above the plane, and is several times as fast as selecting every n-th byte.
        np.copyto(column, source, casting="unsafe")
        plain = column.data.cast("B")
        if plane.method is Method.RAW:
            return plain
        return frame(plane.method, plain)

    def decode_into(self, coded: memoryview, into: memoryview) -> None:
        """Fill all of *into*, or raise ``CodingBroken``; needs at most three times that room."""
        width, records, at = _parse_header(coded, len(into))
        count = len(into) // width
        self._reserve(len(into))
        elements = np.frombuffer(into, UNSIGNED[width], count)
        columns: list[tuple[int, Array]] = []
        position = 0
        for plane_width, coding, size_bytes in records:
            body = coded[at : at + size_bytes]
            columns.append((position, self._column(body, coding, plane_width, count, position)))
            position += plane_width
            at += size_bytes
        step = _JOINED_BYTES // width
        for start in range(0, count, step):
            for position, column in columns:
                self._insert(elements[start : start + step], column[start : start + step], position)
        into[count * width :] = coded[at:]

    def _column(self, body: memoryview, coding: int, width: int, count: int, position: int) -> Array:
        """Return the plane's bytes, decoded into memory of its own."""
        if coding == PlaneCoding.RAW:
            return np.frombuffer(body, UNSIGNED[width], count)
        plane = self._plane[position * count : (position + width) * count]
        decode_frame_into(body, plane.data)
        return plane.view(UNSIGNED[width])

    def _insert(self, elements: Array, column: Array, position: int) -> None:
        if position == 0:
            np.copyto(elements, column)
            return
        shifted = self._shifted[: elements.nbytes].view(elements.dtype)
        np.copyto(shifted, column)
        # An offset of whole bytes needs one pass over memory; a shift would need one more.
        room = elements.view(np.uint8)[position:]
        np.bitwise_or(room, shifted.view(np.uint8)[:-position], out=room)

    def _reserve(self, size_bytes: int) -> None:
        if len(self._coded) < size_bytes:
            self._coded = np.frombuffer(aligned_memory(size_bytes), np.uint8)
            self._shifted = np.frombuffer(aligned_memory(size_bytes), np.uint8)
            self._plane = np.frombuffer(aligned_memory(size_bytes), np.uint8)


def _parse_header(coded: memoryview, plain_bytes: int) -> tuple[int, list[tuple[int, int, int]], int]:
    """Return element width, (width, coding, coded length) of each plane, and the offset of the first body."""
    if len(coded) < _HEADER.size:
        raise CodingBroken("ends in the header of its planes")
    width, plane_count, zero, zeros = _HEADER.unpack_from(coded)
    if width not in WIDTHS or zero or zeros or not 0 < plane_count <= width <= plain_bytes:
        raise CodingBroken(f"states {plane_count} planes of elements of {width} bytes")
    at = _HEADER.size + _PLANE.size * plane_count
    if len(coded) < at:
        raise CodingBroken("ends in the header of its planes")
    records = [_PLANE.unpack_from(coded, _HEADER.size + _PLANE.size * index) for index in range(plane_count)]
    count = plain_bytes // width
    position, body_bytes = 0, 0
    for plane_width, coding, zero, size_bytes in records:
        is_sound = plane_width in UNSIGNED and position % plane_width == 0 and not zero
        is_raw = coding == PlaneCoding.RAW and size_bytes == plane_width * count
        if not is_sound or not (is_raw or coding == PlaneCoding.ZSTD):
            raise CodingBroken(f"states a plane of {plane_width} bytes at {position} with coding {coding}")
        position += plane_width
        body_bytes += size_bytes
    if position != width or at + body_bytes + plain_bytes % width != len(coded):
        raise CodingBroken("its planes do not make up its elements")
    return width, [(plane_width, coding, size_bytes) for plane_width, coding, _, size_bytes in records], at
