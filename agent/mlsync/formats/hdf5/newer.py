"""Structures of HDF5's newer form (``libver="latest"``, ``track_order``): large groups, and indexes of chunks.

The names of a large group are link messages in a fractal heap, indexed by a version 2 B-tree; every block has a
checksum. Of the newer chunk indexes, the single chunk, the implicit and the fixed array are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from mlsync.formats.faults import NotChecked
from mlsync.formats.hdf5.blocks import Blocks, Chunk, Message, refuse

HEAP_BYTES_MAX = 8 << 20
_HEAP_HEAD_BYTES: Final = 146
_TREE_HEAD_BYTES: Final = 38
_LIST_HEAD_BYTES: Final = 28
_SUM_BYTES: Final = 4
_BY_NAME: Final = 5
_RECORD_BYTES: Final = 11  # a hash, and where in the heap the link is
_LEVELS_MAX: Final = 16
_WIDTH_MAX: Final = 1024
_ROWS_MAX: Final = 64
_SUMMED: Final = 0x02
_LINK: Final = 6
_PAGE_BITS_MAX: Final = 20


def dense_links(blocks: Blocks, heap: int, names: int) -> Iterator[Message]:
    """Yield the links of a group whose names are in a heap, as the messages that they would be in its header."""
    links = _Heap(blocks, heap)
    for record in _records(blocks, names):
        data, at = links.object(record[4:])
        yield Message(_LINK, is_shared=False, data=data, at=at)


# ---------------------------------------------------------------- tree of the second version


def _records(blocks: Blocks, address: int) -> Iterator[bytes]:
    head = blocks.checked(address, _TREE_HEAD_BYTES, b"BTHD", "tree of names")
    kind, node_bytes, record_bytes, depth, _, _, root, count = struct.unpack_from("<BIHHBBQH", head, 5)
    if kind != _BY_NAME or record_bytes != _RECORD_BYTES or depth > _LEVELS_MAX or node_bytes < _TREE_HEAD_BYTES:
        raise NotChecked("group whose names are told in a way that is not known here", offset=address)
    if not blocks.is_defined(root) or not count:
        return
    sizes = _pointer_sizes(node_bytes, depth)
    stack = [(root, count, depth)]
    while stack:
        at, count, level = stack.pop()
        pointer_bytes = sizes[level] if level else 0
        length = 6 + count * _RECORD_BYTES + (count + 1) * pointer_bytes * bool(level) + _SUM_BYTES
        node = blocks.checked(at, length, b"BTIN" if level else b"BTLF", "tree of names")
        blocks.count_parts(count)
        yield from (node[begin : begin + _RECORD_BYTES] for begin in range(6, 6 + count * _RECORD_BYTES, _RECORD_BYTES))
        for place in range(count + 1 if level else 0):
            begin = 6 + count * _RECORD_BYTES + place * pointer_bytes
            child = int.from_bytes(node[begin : begin + 8], "little")
            held = int.from_bytes(node[begin + 8 : begin + 8 + _count_bytes(node_bytes)], "little")
            stack.append((child, held, level - 1))


def _leaf_most(node_bytes: int) -> int:
    return (node_bytes - 10) // _RECORD_BYTES


def _count_bytes(node_bytes: int) -> int:
    return _width(_leaf_most(node_bytes))


def _width(most: int) -> int:
    """Return how many bytes a number up to *most* is written in."""
    return (max(most, 1).bit_length() + 7) // 8


def _pointer_sizes(node_bytes: int, depth: int) -> list[int]:
    """Return how long the pointer to a child is in the nodes of each level."""
    sizes, below, below_bytes = [0], _leaf_most(node_bytes), 0
    for _ in range(depth):
        pointer = 8 + _count_bytes(node_bytes) + below_bytes
        own = max((node_bytes - 10 - pointer) // (_RECORD_BYTES + pointer), 0)
        below = (own + 1) * below + own
        below_bytes = _width(below)
        sizes.append(pointer)
    return sizes


# ---------------------------------------------------------------- fractal heap


class _Heap:
    """A heap whose objects lie in blocks that double in size; each block is read once."""

    def __init__(self, blocks: Blocks, address: int) -> None:
        self._blocks = blocks
        head = blocks.checked(address, _HEAP_HEAD_BYTES, b"FRHP", "heap of links")
        self._id_bytes, filter_bytes, flags = struct.unpack_from("<HHB", head, 5)
        self._row, self._start, self._largest, bits, _, self._root, self._rows = struct.unpack_from(
            "<HQQHHQH", head, 110
        )
        is_known = 0 < self._row <= _WIDTH_MAX and self._rows <= _ROWS_MAX and not filter_bytes and bits <= 64  # noqa: PLR2004
        if not is_known or self._start & (self._start - 1) or self._largest & (self._largest - 1) or not self._start:
            raise NotChecked("heap of links in a form that is not known here", offset=address)
        self._offset_bytes = (bits + 7) // 8
        self._is_summed = bool(flags & _SUMMED)
        self._held: dict[int, bytes] = {}
        self._left_bytes = HEAP_BYTES_MAX

    def object(self, heap_id: bytes) -> tuple[bytes, int]:
        """Return the object of that id, and its address."""
        if heap_id[0] & 0x30:
            raise NotChecked("link that does not lie in its heap")
        offset = int.from_bytes(heap_id[1 : 1 + self._offset_bytes], "little")
        length = int.from_bytes(heap_id[1 + self._offset_bytes : self._id_bytes], "little")
        address, begin, size = self._block_of(offset)
        at = offset - begin
        if at + length > size:
            refuse("link runs out of its heap's block", address)
        return self._direct(address, size)[at : at + length], address + at

    def _block_of(self, offset: int) -> tuple[int, int, int]:
        """Return the address of the direct block at an offset, where in the heap it begins, and its length."""
        if not self._rows:
            return self._root, 0, self._start
        address, begin, rows = self._root, 0, self._rows
        for _ in range(_LEVELS_MAX):
            row, first = 0, begin
            while row < rows and offset >= first + self._row * self._size(row):
                first += self._row * self._size(row)
                row += 1
            if row >= rows or offset < first:
                break
            size = self._size(row)
            place = (offset - first) // size
            address = self._child(address, rows, row * self._row + place)
            begin = first + place * size
            if size <= self._largest:
                return address, begin, size
            rows = size.bit_length() - (self._start * self._row).bit_length() + 1
        raise NotChecked("link whose place in its heap is not known here")

    def _size(self, row: int) -> int:
        """Return how long a block in a row is."""
        return int(self._start) << max(row - 1, 0)

    def _child(self, address: int, rows: int, place: int) -> int:
        begin = 13 + self._offset_bytes
        length = begin + 8 * rows * self._row + _SUM_BYTES
        block = self._kept(address, length, b"FHIB")
        child = int.from_bytes(block[begin + 8 * place : begin + 8 * place + 8], "little")
        if not self._blocks.is_defined(child):
            refuse("link lies in a block that there is not", address)
        return child

    def _direct(self, address: int, size: int) -> bytes:
        return self._kept(address, size, b"FHDB")

    def _kept(self, address: int, length: int, mark: bytes) -> bytes:
        if address not in self._held:
            self._left_bytes -= length
            if self._left_bytes < 0:
                raise NotChecked("heap of links that is larger than is checked", offset=address)
            sum_at = length - _SUM_BYTES if mark == b"FHIB" else 13 + self._offset_bytes if self._is_summed else None
            self._held[address] = self._blocks.checked(
                address, length, mark, "heap of links", sum_at, has_sum=sum_at is not None
            )
        block = self._held[address]
        if len(block) != length:
            refuse("heap of links damaged", address)
        return block


# ---------------------------------------------------------------- indexes of chunks

SINGLE, IMPLICIT, FIXED = 1, 2, 3


def listed_chunks(
    blocks: Blocks, address: int, counts: tuple[int, ...], sizes: tuple[int, ...], full: int
) -> Iterator[Chunk]:
    """Yield the chunks that a list of fixed length tells, row by row."""
    head = blocks.checked(address, _LIST_HEAD_BYTES, b"FAHD", "list of chunks")
    kind, entry_bytes, page_bits, count, block = struct.unpack_from("<BBBQQ", head, 5)
    total = 1
    for one in counts:
        total *= one
    if kind > 1 or page_bits > _PAGE_BITS_MAX or not 8 <= entry_bytes <= 20 or count != total:  # noqa: PLR2004
        refuse("list of chunks damaged", address)
    if not blocks.is_defined(block):
        return
    places = _places(counts, sizes)
    for entries in _pages(blocks, block, count, entry_bytes, page_bits):
        for begin in range(0, len(entries), entry_bytes):
            blocks.count_parts()
            entry, place = entries[begin : begin + entry_bytes], next(places)
            at = int.from_bytes(entry[:8], "little")
            stored = int.from_bytes(entry[8:-4], "little") if kind else full
            skipped = int.from_bytes(entry[-4:], "little") if kind else 0
            if blocks.is_defined(at):
                yield Chunk(stored, skipped, place, at)


def _pages(blocks: Blocks, block: int, count: int, entry_bytes: int, page_bits: int) -> Iterator[bytes]:
    """Yield the entries of a list, a page at a time; a page that was never written has only undefined entries."""
    page = 1 << page_bits
    if count <= page:
        data = blocks.checked(block, 14 + count * entry_bytes + _SUM_BYTES, b"FADB", "list of chunks")
        yield data[14:-_SUM_BYTES]
        return
    pages = -(-count // page)
    bitmap_bytes = (pages + 7) // 8
    head = blocks.checked(block, 14 + bitmap_bytes + _SUM_BYTES, b"FADB", "list of chunks")
    at = block + len(head)
    for place in range(pages):
        held = min(page, count - place * page)
        if head[14 + place // 8] & (0x80 >> place % 8):
            data = blocks.checked(at, held * entry_bytes + _SUM_BYTES, b"", "list of chunks")
            yield data[:-_SUM_BYTES]
        else:
            yield b"\xff" * (held * entry_bytes)
        at += held * entry_bytes + _SUM_BYTES


def chunks_in_a_row(
    blocks: Blocks, address: int, counts: tuple[int, ...], sizes: tuple[int, ...], full: int
) -> Iterator[Chunk]:
    """Yield all chunks of a dataset whose chunks are contiguous."""
    for number, place in enumerate(_places(counts, sizes)):
        blocks.count_parts()
        yield Chunk(full, 0, place, address + number * full)


def _places(counts: tuple[int, ...], sizes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield where each chunk begins, the last dimension the fastest."""
    place = [0] * len(counts)
    while all(counts):
        yield tuple(one * size for one, size in zip(place, sizes, strict=True))
        for axis in reversed(range(len(counts))):
            place[axis] += 1
            if place[axis] < counts[axis]:
                break
            place[axis] = 0
        else:
            return
