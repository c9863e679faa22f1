"""Where a file is cut: decided from its layout alone, before any byte is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mlsync.errors import ChangedWhileReading
from mlsync.formats.layout import Layout

KIB: Final = 1024
MIB: Final = 1024 * KIB

PIECE_BYTES_MAX: Final = 4 * MIB
TENSOR_PIECE_BYTES: Final = 2 * MIB
# A record from this size on is a tensor that is cut at its own edges; smaller ones stay together with what is around.
TENSOR_BYTES_MIN: Final = 64 * KIB
# What lies between tensors is one piece up to this size.
REST_BYTES_MAX: Final = 256 * KIB
# Content-defined cuts are fine in the first part of a span and coarse behind. Not "fine in small files, coarse in
# large ones": a log that grows past the limit would then be cut anew, and stored again, from its first byte.
FINE_SPAN_BYTES: Final = 64 * MIB

Cut = Literal["whole", "fine", "coarse"]


@dataclass(frozen=True, slots=True)
class Chunking:
    """Sizes of content-defined pieces."""

    min_bytes: int
    average_bytes: int
    max_bytes: int


CHUNKINGS: Final[dict[Cut, Chunking]] = {
    "fine": Chunking(16 * KIB, 64 * KIB, 256 * KIB),
    "coarse": Chunking(256 * KIB, MIB, PIECE_BYTES_MAX),
}


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of data with fixed edges: one piece if *cut* is ``"whole"``, else cut where its content says."""

    offset: int
    length: int
    cut: Cut


@dataclass(frozen=True, slots=True)
class _Region:
    start: int
    end: int
    is_tensor: bool


def plan_edges(layout: Layout | None, size_bytes: int, data_extents: Sequence[tuple[int, int]]) -> Iterator[Span]:
    """Give the spans of a file of *size_bytes*, in order, that together are exactly its *data_extents*."""
    if layout is not None and layout.size_bytes != size_bytes:
        raise ChangedWhileReading(f"its size went from {layout.size_bytes} to {size_bytes} after it was parsed")
    regions = _regions(layout, size_bytes)
    for region in _without_holes(regions, data_extents):
        length = region.end - region.start
        if region.is_tensor or (layout is not None and length <= REST_BYTES_MAX):
            yield Span(region.start, length, "whole")
        else:
            fine = min(length, FINE_SPAN_BYTES)
            yield Span(region.start, fine, "fine")
            if length > fine:
                yield Span(region.start + fine, length - fine, "coarse")


def _regions(layout: Layout | None, size_bytes: int) -> Iterator[_Region]:
    """Give the pieces of large tensors, and what is between them, without gap and in order."""
    reached = 0
    for extent in layout.extents if layout is not None else ():
        if extent.length < TENSOR_BYTES_MIN:
            continue
        end = extent.offset + extent.length
        if extent.offset < reached or end > size_bytes:
            msg = f"the layout's extent {extent} overlaps or leaves the file"
            raise ValueError(msg)
        if extent.offset > reached:
            yield _Region(reached, extent.offset, is_tensor=False)
        for start in range(extent.offset, end, TENSOR_PIECE_BYTES):
            yield _Region(start, min(start + TENSOR_PIECE_BYTES, end), is_tensor=True)
        reached = end
    if reached < size_bytes:
        yield _Region(reached, size_bytes, is_tensor=False)


def _without_holes(regions: Iterable[_Region], data_extents: Sequence[tuple[int, int]]) -> Iterator[_Region]:
    """Cut the regions down to what the data extents hold of them; both are in order, so one look at each is enough."""
    index = 0
    for region in regions:
        while index < len(data_extents):
            start, length = data_extents[index]
            if start >= region.end:
                break
            low, high = max(start, region.start), min(start + length, region.end)
            if low < high:
                yield _Region(low, high, region.is_tensor)
            if start + length > region.end:
                break
            index += 1
