"""Where a file is cut, as far as its layout decides it, before any byte is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mlsync.errors import ChangedWhileReading
from mlsync.formats.layout import Layout, Storage

KIB: Final = 1024
MIB: Final = 1024 * KIB

PIECE_BYTES_MAX: Final = 4 * MIB
TENSOR_PIECE_BYTES: Final = 2 * MIB
# A record of this size or more is cut at its own edges; smaller ones stay together with their neighbours.
TENSOR_BYTES_MIN: Final = 64 * KIB
# The bytes between two tensors are one piece up to this size.
REST_BYTES_MAX: Final = 256 * KIB
# Content-defined cuts are fine in the first part of a span and coarse in the rest. If large files were coarse from
# their first byte, a log that grows past the limit would be cut and stored again as a whole.
FINE_SPAN_BYTES: Final = 64 * MIB

# Containers whose records lie in a folder that has the file's name.
_NAMED_AFTER_FILE: Final = frozenset({"torch-zip", "pt2"})

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
    """A range of data with fixed edges: one piece if *cut* is ``"whole"``, else cut where its content defines it.

    *item_bytes* is the width of its numbers, which start at its first byte; 0 if unknown. *tensor* is the name of the
    tensor that it is part of, as the file has it, and *within* where in the tensor it begins.
    """

    offset: int
    length: int
    cut: Cut
    item_bytes: int = 0
    tensor: str = ""
    within: int = 0


@dataclass(frozen=True, slots=True)
class _Region:
    start: int
    end: int
    is_tensor: bool
    item_bytes: int = 0
    tensor: str = ""
    within: int = 0


def plan_spans(
    layout: Layout | None,
    size_bytes: int,
    data_extents: Sequence[tuple[int, int]],
    storages: Sequence[Storage] = (),
) -> Iterator[Span]:
    """Yield the spans of a file of *size_bytes*, in order, that together are exactly its *data_extents*.

    *storages* are the tensors in the layout's extents; an extent may hold several.
    """
    if layout is not None and layout.size_bytes != size_bytes:
        raise ChangedWhileReading(f"its size went from {layout.size_bytes} to {size_bytes} after it was parsed")
    regions = _regions(_tensors(layout, storages), size_bytes)
    for region in _without_holes(regions, data_extents):
        length = region.end - region.start
        is_short = length <= (CHUNKINGS["fine"].min_bytes if layout is None else REST_BYTES_MAX)
        if region.is_tensor or is_short:  # no longer than the smallest piece: there is no cut to search for
            yield Span(region.start, length, "whole", region.item_bytes, region.tensor, region.within)
        else:
            fine = min(length, FINE_SPAN_BYTES)
            yield Span(region.start, fine, "fine")
            if length > fine:
                yield Span(region.start + fine, length - fine, "coarse")


def _tensors(layout: Layout | None, storages: Sequence[Storage]) -> Iterator[_Region]:
    """Yield the regions that are cut at their own edges, in order: an extent's storages, or the extent itself."""
    waiting = sorted(storages, key=lambda storage: storage.offset, reverse=True)
    for extent in layout.extents if layout is not None else ():
        end = extent.offset + extent.length
        reached, is_split = extent.offset, False
        while waiting and waiting[-1].offset < end:
            storage = waiting.pop()
            if storage.offset >= reached and storage.offset + storage.length <= end:
                reached, is_split = storage.offset + storage.length, True
                yield from _tensor(storage.offset, storage.length, storage.item_bytes, _lasting(layout, storage.name))
        if not is_split:
            yield from _tensor(extent.offset, extent.length, 0)


def _lasting(layout: Layout | None, name: str) -> str:
    """Return a tensor's name without the folder that torch names after the file: ``epoch5/data/0``."""
    is_torch = layout is not None and layout.container in _NAMED_AFTER_FILE
    return name.partition("/")[2] if is_torch else name


def _tensor(offset: int, length: int, item_bytes: int, name: str = "") -> Iterator[_Region]:
    if length >= TENSOR_BYTES_MIN:
        yield _Region(offset, offset + length, is_tensor=True, item_bytes=item_bytes, tensor=name)


def _regions(tensors: Iterable[_Region], size_bytes: int) -> Iterator[_Region]:
    """Yield the pieces of large tensors, and what is between them, without gap and in order."""
    reached = 0
    for tensor in tensors:
        if tensor.start < reached or tensor.end > size_bytes:
            msg = f"the layout's {tensor} overlaps or leaves the file"
            raise ValueError(msg)
        if tensor.start > reached:
            yield _Region(reached, tensor.start, is_tensor=False)
        for start in range(tensor.start, tensor.end, TENSOR_PIECE_BYTES):
            end = min(start + TENSOR_PIECE_BYTES, tensor.end)
            within = start - tensor.start
            yield _Region(start, end, is_tensor=True, item_bytes=tensor.item_bytes, tensor=tensor.tensor, within=within)
        reached = tensor.end
    if reached < size_bytes:
        yield _Region(reached, size_bytes, is_tensor=False)


def _without_holes(regions: Iterable[_Region], data_extents: Sequence[tuple[int, int]]) -> Iterator[_Region]:
    """Intersect the regions with the data extents; both are in order, so one pass is enough."""
    index = 0
    for region in regions:
        while index < len(data_extents):
            start, length = data_extents[index]
            if start >= region.end:
                break
            low, high = max(start, region.start), min(start + length, region.end)
            if low < high:
                within = region.within + low - region.start
                yield _Region(low, high, region.is_tensor, _item_bytes_from(low, region), region.tensor, within)
            if start + length > region.end:
                break
            index += 1


def _item_bytes_from(start: int, region: _Region) -> int:
    """Return the width of the numbers from *start* on; 0 if a hole ends inside a number."""
    is_edge = region.item_bytes and (start - region.start) % region.item_bytes == 0
    return region.item_bytes if is_edge else 0
