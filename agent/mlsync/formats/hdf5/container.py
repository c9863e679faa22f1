"""HDF5 files (Keras' ``.h5`` and ``.weights.h5``, h5py): from the root group to every dataset and its bytes.

Datasets in other files, virtual ones, and chunks behind some of the newer indexes are counted and not checked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Final, NamedTuple

from mlsync.formats.faults import NotChecked
from mlsync.formats.hdf5.blocks import Blocks, Chunk, Message, refuse
from mlsync.formats.hdf5.messages import (
    DataType,
    check_fill_value,
    data_type_in,
    filters_in,
    shape_in,
    stored_form,
    unpack,
)
from mlsync.formats.hdf5.newer import FIXED, IMPLICIT, SINGLE, chunks_in_a_row, dense_links, listed_chunks
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Extent, Layout, Packed, Storage, Tensor
from mlsync.formats.strides import TENSORS_BYTES_MAX, dense_stride, held_bytes
from mlsync.values import Fact

_LINK_NAME_BYTES_MAX: Final = 4096
_PATH_CHARS_MAX: Final = 8192
_SPACE, _LINK_INFO, _TYPE, _OUTSIDE, _LINK, _LAYOUT, _FILTERS, _ATTRIBUTE, _NAMES = 1, 2, 3, 7, 6, 8, 11, 12, 17
_COMPACT, _CONTIGUOUS, _CHUNKED = 0, 1, 2
_NEW_LAYOUTS: Final = (b"\x03", b"\x04", b"\x05")  # the last one is HDF5 2's
_SINGLE_FILTERED, _EDGES_PLAIN = 0x02, 0x01  # flags of the newer layout
_KERAS: Final = (b"keras_version", b"model_config", b"layer_names", b"_layer_checkpoint_dependencies")
_ANNDATA: Final = b"encoding-type"
_KERAS_GROUPS: Final = frozenset({"layers", "optimizer", "model_weights", "_layer_checkpoint_dependencies", "vars"})

_FILL: Final = 5


class ArrayPart(NamedTuple):
    """Plain bytes of a dataset: all of it, or one chunk; *dtype* is empty where they are no numbers that are known."""

    name: str
    offset: int
    length: int
    dtype: str
    item_bytes: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    packed: Packed | None = None

    @property
    def data_bytes(self) -> int:
        """How many of its bytes are the numbers."""
        return self.length if self.packed is None else self.packed.plain_bytes


@dataclass(frozen=True, slots=True)
class Hdf5Layout(Layout):
    """An HDF5 file's layout, what lies in its extents, how many things were not looked at, and what it is."""

    parts: tuple[ArrayPart, ...] = ()
    packed_count: int = 0
    aside_count: int = 0
    facts: tuple[tuple[str, Fact], ...] = ()


def read_hdf5_layout(source: ByteSource) -> Hdf5Layout:
    """Return levels 1 and 2: all objects are there, and datasets lie inside of the file, on no byte twice."""
    walk = _Walk(Blocks(source))
    walk.all()
    parts = sorted(walk.parts, key=lambda part: (part.offset, part.length))
    reached = 0
    for part in parts:
        if part.offset < reached:
            raise ContainerBroken("datasets overlap", record=part.name, offset=part.offset)
        reached = part.offset + part.length
    extents = tuple(Extent(part.name, part.offset, part.length) for part in parts)
    return Hdf5Layout(
        "hdf5",
        source.size_bytes,
        extents,
        tuple(parts),
        walk.packed_count,
        walk.aside_count,
        tuple(walk.facts.items()),
        packed={part.name: part.packed for part in parts if part.packed is not None},
    )


def read_hdf5_content(layout: Hdf5Layout) -> Content | None:
    """Return level 2: each dataset has the bytes that its shape and type need, which the walk has checked."""
    known = [part for part in layout.parts if part.dtype]
    if not known and not layout.packed_count and not layout.aside_count:
        return None
    storages = tuple(Storage(part.name, part.offset, part.data_bytes, part.dtype, part.item_bytes) for part in known)
    tensors = tuple(Tensor(part.name, part.name, part.dtype, part.shape, part.stride, 0) for part in known)
    facts: dict[str, Fact] = dict(layout.facts)
    unchecked = layout.packed_count + layout.aside_count
    if unchecked:
        facts["unchecked_dataset_count"] = unchecked
    return Content(storages, tensors, facts, layout.packed_count, aside_count=layout.aside_count)


class _Walk:
    """Walks from the root group to every dataset; an object with several names is looked at under the first."""

    def __init__(self, blocks: Blocks) -> None:
        self.parts: list[ArrayPart] = []
        self.packed_count = 0
        self.aside_count = 0
        self.facts: dict[str, Fact] = {"framework": "hdf5"}
        self._blocks = blocks
        self._left_bytes = TENSORS_BYTES_MAX
        self._seen: set[int] = {blocks.root}
        self._waiting: list[tuple[str, int]] = [("", blocks.root)]

    def all(self) -> None:
        """Look at every object."""
        while self._waiting:
            path, address = self._waiting.pop()
            self._object(path, list(self._blocks.messages(address)))

    def _object(self, path: str, messages: list[Message]) -> None:
        by_kind = {message.kind: message for message in messages if message.kind not in (_LINK, _ATTRIBUTE)}
        if not path:
            self._tell_framework([message.data for message in messages if message.kind == _ATTRIBUTE])
        for message in messages:
            if message.kind == _LINK:
                self._link(path, message)
        if _NAMES in by_kind:
            tree, heap = unpack("<QQ", by_kind[_NAMES])
            for name, header in self._blocks.names(tree, heap):
                self._add(path, name, header)
        if _LINK_INFO in by_kind:
            self._dense_links(path, by_kind[_LINK_INFO])
        if _LAYOUT in by_kind:
            with _named(path):
                self._dataset(path, by_kind)
        elif by_kind.keys().isdisjoint((_NAMES, _LINK_INFO, _TYPE)) or _SPACE in by_kind:
            raise ContainerBroken("neither a group nor a dataset", record=path or None)

    def _dense_links(self, path: str, info: Message) -> None:
        """Take the links of a group that has more of them than its header holds."""
        skipped = 8 if info.data[1:2] and info.data[1] & 1 else 0
        heap, names = struct.unpack_from("<QQ", info.data.ljust(26, b"\xff"), 2 + skipped)
        if self._blocks.is_defined(heap) and self._blocks.is_defined(names):
            for link in dense_links(self._blocks, heap, names):
                self._link(path, link)

    def _tell_framework(self, attributes: list[bytes]) -> None:
        """Whose file it is, by the attributes of its root."""
        if any(mark in data for data in attributes for mark in _KERAS):
            self.facts["framework"] = "keras"
        elif any(_ANNDATA in data for data in attributes):
            self.facts["framework"] = "anndata"  # which has layers too

    def _add(self, path: str, name: str, header: int) -> None:
        if not path and name in _KERAS_GROUPS and self.facts["framework"] == "hdf5":
            self.facts["framework"] = "keras"
        if header not in self._seen:
            self._seen.add(header)
            where = f"{path}/{name}" if path else name
            if len(where) > _PATH_CHARS_MAX:
                raise NotChecked("paths that are longer than is checked")
            self._spend(150 + 4 * len(where))
            self._waiting.append((where, header))

    def _spend(self, size_bytes: int) -> None:
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise NotChecked("more datasets, or of longer names or more dimensions, than are checked")

    def _link(self, path: str, message: Message) -> None:
        data = message.data
        flags = data[1] if len(data) > 1 else 0
        at = 2
        kind = 0
        if flags & 0x08:
            kind, at = data[at] if len(data) > at else 0, at + 1
        at += (8 if flags & 0x04 else 0) + (1 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        length = int.from_bytes(data[at : at + width], "little")
        at += width
        if length > min(_LINK_NAME_BYTES_MAX, len(data) - at):
            refuse("link damaged", message.at)
        if kind == 0:
            name = data[at : at + length].decode("utf-8", "replace")
            [header] = unpack("<Q", message, at + length)
            self._add(path, name, header)

    def _dataset(self, path: str, messages: dict[int, Message]) -> None:
        layout = messages[_LAYOUT]
        if _SPACE not in messages or _TYPE not in messages:
            refuse("dataset without a shape or a type", layout.at)
        if messages[_SPACE].is_shared:
            raise NotChecked("shapes that are shared are not looked at", offset=layout.at)
        if any(messages[kind].is_shared for kind in (_SPACE, _TYPE, _LAYOUT)) or _OUTSIDE in messages:
            self.aside_count += 1
            return
        shape, kind = shape_in(messages[_SPACE]), data_type_in(messages[_TYPE])
        check_fill_value(messages.get(_FILL))
        if shape is None:
            return
        self._lay_out(path, layout, shape, kind, filters_in(messages[_FILTERS]) if _FILTERS in messages else ())

    def _lay_out(
        self, path: str, layout: Message, shape: tuple[int, ...], kind: DataType, filters: tuple[int, ...]
    ) -> None:
        needed_bytes = prod(shape) * kind.item_bytes
        version, form = layout.data[:1], layout.data[1:2]
        if version in _NEW_LAYOUTS and form == bytes([_COMPACT]):
            [length] = unpack("<H", layout, 2)
            if length > len(layout.data) - 4:
                refuse("dataset runs out of its object header", layout.at)
            self._put(path, layout.at + 4, length, needed_bytes, shape, kind)
        elif version in _NEW_LAYOUTS and form == bytes([_CONTIGUOUS]):
            address, length = unpack("<QQ", layout, 2)
            self._put_at(path, address, length, needed_bytes, shape, kind)
        elif version in (b"\x01", b"\x02") and layout.data[2:3] == bytes([_CONTIGUOUS]):
            [address] = unpack("<Q", layout, 8)
            self._put_at(path, address, needed_bytes, needed_bytes, shape, kind)
        elif version == b"\x03" and form == bytes([_CHUNKED]):
            self._put_chunks(path, layout, shape, kind, filters)
        elif version in (b"\x04", b"\x05") and form == bytes([_CHUNKED]):
            self._put_newer_chunks(path, layout, shape, kind, filters)
        elif version not in _NEW_LAYOUTS:
            raise NotChecked("datasets that are laid out in a way that is not known here", offset=layout.at)
        elif needed_bytes:
            self.aside_count += 1

    def _put_at(
        self, path: str, address: int, length: int, needed_bytes: int, shape: tuple[int, ...], kind: DataType
    ) -> None:
        """Note a dataset that lies at an address, unless nothing was ever written to it."""
        if self._blocks.is_defined(address):
            at = self._blocks.place(address, length, "dataset")
            self._put(path, at, length, needed_bytes, shape, kind)

    def _put(self, path: str, at: int, length: int, needed_bytes: int, shape: tuple[int, ...], kind: DataType) -> None:
        self.aside_count += bool(kind.is_numbers and not kind.dtype and length)
        if length != needed_bytes:
            raise ContainerBroken(f"dataset needs {needed_bytes} bytes, and has {length}", record=path, offset=at)
        self._part(path, at, length, kind, shape, dense_stride(path, shape))

    def _put_chunks(
        self, path: str, layout: Message, shape: tuple[int, ...], kind: DataType, filters: tuple[int, ...]
    ) -> None:
        rank = layout.data[2] - 1 if len(layout.data) > 2 else -1  # noqa: PLR2004 - the byte that is read
        *sizes, item_bytes = unpack(f"<{max(rank, 0) + 1}I", layout, 11)
        if rank != len(shape) or 0 in sizes or item_bytes != kind.item_bytes:
            refuse("chunks of another shape or type than their dataset", layout.at)
        [tree] = unpack("<Q", layout, 3)
        if not self._blocks.is_defined(tree):
            return
        self._put_each(path, self._blocks.chunks(tree, rank), tuple(sizes), shape, kind, filters)

    def _put_newer_chunks(
        self, path: str, layout: Message, shape: tuple[int, ...], kind: DataType, filters: tuple[int, ...]
    ) -> None:
        """Note the chunks behind one of the newer indexes, or the whole dataset as aside where that is not known."""
        flags, dimensions, width = unpack("<3B", layout, 2)
        end = 5 + dimensions * width
        *sizes, item_bytes = (
            int.from_bytes(layout.data[at : at + width], "little") for at in range(5, end, width or 1)
        )
        if len(sizes) != len(shape) or 0 in sizes or item_bytes != kind.item_bytes or end >= len(layout.data):
            refuse("chunks of another shape or type than their dataset", layout.at)
        full_bytes, index = prod(sizes) * item_bytes, layout.data[end]
        counts = tuple(-(-whole // size) for whole, size in zip(shape, sizes, strict=True))
        if index not in (SINGLE, IMPLICIT, FIXED) or flags & _EDGES_PLAIN:
            self.aside_count += bool(prod(shape))
            return
        told = full_bytes, 0
        at = end + 1 + (index == FIXED)
        if index == SINGLE and flags & _SINGLE_FILTERED:
            size, skipped = unpack("<QI", layout, at)
            told, at = (size, skipped), at + 12
        [address] = unpack("<Q", layout, at)
        if not self._blocks.is_defined(address) or not all(counts):
            return
        if index == SINGLE:
            chunks = iter((Chunk(*told, (0,) * len(sizes), address),))
        else:
            read = listed_chunks if index == FIXED else chunks_in_a_row
            chunks = read(self._blocks, address, counts, tuple(sizes), full_bytes)
        self._put_each(path, chunks, tuple(sizes), shape, kind, filters)

    def _put_each(
        self,
        path: str,
        chunks: Iterator[Chunk],
        sizes: tuple[int, ...],
        shape: tuple[int, ...],
        kind: DataType,
        filters: tuple[int, ...],
    ) -> None:
        full_bytes = prod(sizes) * kind.item_bytes
        stride = dense_stride(path, sizes)
        is_plain = True
        for chunk in chunks:
            at = self._blocks.place(chunk.address, chunk.stored_bytes, "chunk")
            if any(where % size for where, size in zip(chunk.place, sizes, strict=True)):
                refuse("chunk lies where none begins", at)
            form = stored_form(filters, chunk.skipped, full_bytes)
            if form.stored_bytes not in (None, chunk.stored_bytes):
                refuse(f"chunk needs {form.stored_bytes} bytes, and has {chunk.stored_bytes}", at)
            is_plain &= form.is_plain
            # What a chunk has beyond its dataset is no number of it
            inside = tuple(
                max(min(size, whole - where), 0) for size, whole, where in zip(sizes, shape, chunk.place, strict=True)
            )
            name = f"{path}[{','.join(map(str, chunk.place))}]"
            own = kind if form.is_plain else kind._replace(dtype="")
            self._part(name, at, chunk.stored_bytes, own, inside, stride, form.packed)
        if not is_plain:
            self.packed_count += 1
        elif kind.is_numbers and not kind.dtype:
            self.aside_count += 1

    def _part(
        self,
        name: str,
        at: int,
        length: int,
        kind: DataType,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        packed: Packed | None = None,
    ) -> None:
        self._spend(3 * held_bytes(Tensor(name, name, "", shape, stride, 0)))
        self.parts.append(ArrayPart(name, at, length, kind.dtype, kind.item_bytes, shape, stride, packed))


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Add the dataset's path to a fault that has no record yet."""
    try:
        yield
    except ContainerBroken as fault:
        if fault.record is None:
            fault.record = path
        raise
