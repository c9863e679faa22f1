"""The items of torch's distributed checkpoints: where in ``.distcp`` files the tensors are, according to ``.metadata``.

A ``.distcp`` file is a sequence of items, most of them a whole torch zip of one tensor or small object, and nothing in
it states where an item ends. ``.metadata`` does, which is written last and may belong to another save than the file:
items that do not fit the file are refused, and bytes that no item covers are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple, TypeGuard

from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ByteSource, ContainerBroken, Extent, Layout, Storage
from mlsync.formats.pickles.machine import read_pickle
from mlsync.formats.pickles.nodes import Call, Pairs
from mlsync.formats.section import Section
from mlsync.formats.torch.content import read_torch_content_anew
from mlsync.formats.zips.directory import RECORDS_MAX
from mlsync.formats.zips.zip_layout import ZipLayout, read_zip_layout

ITEMS_MAX = 100_000  # of all files of a directory together
# Of one file's items together; that of a tensor has some hundred bytes
PICKLES_BYTES_MAX = 16 << 20
_COUNT_MAX = 1 << 63
_FIELDS_MAX = 32
_FILE_NAME = re.compile(r"[^/\\\0\ud800-\udfff]{1,255}")
_ZIP = b"PK\x03\x04"
#: The metadata of a directory are read again for each of its files; larger ones are not cached.
KEPT_METADATA_BYTES_MAX = 4 << 20


class Item(NamedTuple):
    """A tensor or an object of the checkpoint, as a byte range of a file beside the metadata."""

    relative_path: str
    offset: int
    length: int


def read_items(metadata: bytes) -> tuple[Item, ...]:
    """Return the items that a ``.metadata`` file describes, by file and offset, or raise ``ContainerBroken``."""
    return _kept_items(metadata) if len(metadata) <= KEPT_METADATA_BYTES_MAX else _parse_items(metadata)


def read_dcp_structure(source: ByteSource, items: Iterable[Item]) -> tuple[Layout, tuple[Storage, ...]]:
    """Return where the records of all *items* of one file lie, and which of them are storages, both in file order.

    A record's name begins with its item's offset. An item that is no zip has no records: another format, or a stream
    that was compressed. One whose pickle is damaged has no storages, and those behind the bound for all pickles have
    none. Raises ``ContainerBroken`` if the items do not fit the file, or if one begins like a zip and is none.
    """
    extents: list[Extent] = []
    storages: list[Storage] = []
    budget_bytes = PICKLES_BYTES_MAX
    for item, window, layout in item_zips(source, items):
        prefix, start = f"{item.offset}/", item.offset
        extents += [Extent(prefix + name, start + at, length, crc32) for name, at, length, crc32, _ in layout.extents]
        if len(extents) > RECORDS_MAX:
            msg = f"more than {RECORDS_MAX} records are more than is checked"
            raise NotChecked(msg, offset=item.offset)
        budget_bytes -= sum(extent.length for extent in layout.extents if extent.name.endswith("/data.pkl"))
        if budget_bytes >= 0:
            storages += _storages(item, window, layout)
    return Layout("dcp", source.size_bytes, tuple(extents)), tuple(storages)


def _storages(item: Item, window: Section, layout: ZipLayout) -> Iterator[Storage]:
    """Yield the storages of one item; nothing if it is damaged."""
    try:
        content = read_torch_content_anew(window, layout)
    except ContainerBroken:
        return
    for storage in content.storages:
        name, offset = f"{item.offset}/{storage.name}", item.offset + storage.offset
        yield Storage(name, offset, storage.length, storage.dtype, storage.item_bytes)


def item_zips(source: ByteSource, items: Iterable[Item]) -> Iterator[tuple[Item, Section, ZipLayout]]:
    """Yield each item that is a zip, in file order; ``ContainerBroken`` if one is damaged or two overlap."""
    reached = 0
    for item in sorted(set(items), key=lambda item: (item.offset, item.length)):
        end = item.offset + item.length
        if not reached <= item.offset <= end <= source.size_bytes:
            msg = "item overlaps another one, or leaves the file"
            raise ContainerBroken(msg, record=str(item.offset), offset=min(max(item.offset, 0), source.size_bytes))
        reached = end
        window = Section(source, item.offset, item.length)
        if window.read_at(0, min(len(_ZIP), item.length)) == _ZIP:
            yield item, window, _zip_layout(item, window)


def _zip_layout(item: Item, window: Section) -> ZipLayout:
    try:
        return read_zip_layout(window, "torch-zip")
    except ContainerBroken as fault:
        place = item.offset + (fault.offset or 0)
        raise type(fault)(fault.reason, record=f"{item.offset}/{fault.record or ''}", offset=place) from None


def _parse_items(metadata: bytes) -> tuple[Item, ...]:
    root, _ = read_pickle(metadata)
    entries = fields_of(root).get("storage_data")
    if not isinstance(entries, Pairs):
        msg = "no storage_data: not the metadata of a distributed checkpoint"
        raise ContainerBroken(msg)
    items = {item_of(entry) for _, entry in entries.pairs()}
    if len(items) > ITEMS_MAX:
        msg = f"metadata of {len(items)} items is larger than is checked"
        raise NotChecked(msg)
    return tuple(sorted(items))


_kept_items = lru_cache(maxsize=2)(_parse_items)


def item_of(entry: object) -> Item:
    """Return the item that an entry describes, by its fields' names: those of its class have changed."""
    fields = fields_of(entry)
    path, offset, length = (fields.get(name) for name in Item._fields)
    if not isinstance(path, str) or not _FILE_NAME.fullmatch(path) or path in (".", ".."):
        msg = "item in a file that is not beside its metadata"
        raise ContainerBroken(msg, record=path[:256] if isinstance(path, str) else None)
    if not _is_count(offset) or not _is_count(length):
        msg = "item without a place in its file"
        raise ContainerBroken(msg, record=path)
    return Item(path, offset, length)


def fields_of(node: object) -> dict[str, object]:
    """Return the attributes that an object would have; only few, because a hundred thousand objects may share them."""
    state = node.then.state if isinstance(node, Call) and node.then is not None else None
    if not isinstance(state, Pairs) or len(state) > 2 * _FIELDS_MAX:
        return {}
    return {key: value for key, value in state.pairs() if isinstance(key, str)}


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _COUNT_MAX
