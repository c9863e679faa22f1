"""The content of a ``torch.save`` file, read from its pickle without torch: storages, tensors and facts."""

from __future__ import annotations

import re
from typing import NamedTuple

from mlsync.formats.content_cache import CONTENT_CACHE, key_of
from mlsync.formats.faults import read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Extent
from mlsync.formats.pickles.machine import GRAPH_BYTES_MAX, PICKLE_BYTES_MAX, Unpickled, unpickle
from mlsync.formats.torch.facts import torch_facts, torch_numbers
from mlsync.formats.torch.graph import FoundTensors, tensors_in
from mlsync.formats.torch.tensors import StorageTable
from mlsync.formats.zips.inflate import inflate_head
from mlsync.formats.zips.record import read_record
from mlsync.formats.zips.zip_layout import ZipLayout, as_bytes, read_zip_layout
from mlsync.values import Fact

_SMALL_RECORD_BYTES_MAX = 64
# What torch accepts in each of them; its reader stops at the first byte that is no digit
_SMALL_RECORDS = {
    "version": re.compile(rb"\s*\+?0*([1-9]|10)(?![0-9]).*", re.DOTALL),
    ".data/version": re.compile(rb"\s*\+?0*([1-9]|10)(?![0-9]).*", re.DOTALL),
    "byteorder": re.compile(rb"little|big"),
}
_CONSTANTS_ROOM_BYTES = GRAPH_BYTES_MAX // 4
_CACHE = CONTENT_CACHE


class _Question(NamedTuple):
    """Everything that the content depends on: the pickle, the layout, the records' prefix, the byte order.

    TorchScript has a second pickle, of *constants*: a frozen module has its weights there.
    """

    pickle: bytes
    layout: ZipLayout
    prefix: str
    byteorder: bytes
    constants: bytes | None


def read_torch_layout(source: ByteSource) -> ZipLayout:
    """Return level 1 of a file of torch: a zip that contains its pickle.

    A ``torch.save`` that fails or is interrupted completes the zip without the pickle.
    """
    layout = read_zip_layout(source, "torch-zip")
    _pickle_extent(layout)
    return layout


def read_torch_content(source: ByteSource, layout: ZipLayout) -> Content:
    """Return level 2: every storage has its record and fills it, every tensor lies inside its storage."""
    question = _read_question(source, layout)
    key = key_of(b"torch", as_bytes(layout), question.byteorder, question.pickle, *filter(None, [question.constants]))
    return _CACHE.of(key, lambda: _answer(question))


def read_torch_content_anew(source: ByteSource, layout: ZipLayout) -> Content:
    """Return the same without the cache, for one of thousands of small zips."""
    return _answer(_read_question(source, layout))


def read_torch_object(source: ByteSource, layout: ZipLayout) -> tuple[object, Content]:
    """Return the same, with the graph of the object."""
    question = _read_question(source, layout)
    constants = _constants(question)
    pickled = _unpickled(question)
    return pickled.root, _content(pickled, constants, question)


def _read_question(source: ByteSource, layout: ZipLayout) -> _Question:
    """Read the pickle and hold it against its checksum, whether or not it is known already."""
    extent = _pickle_extent(layout)
    pickle = read_record(source, layout, extent, PICKLE_BYTES_MAX, "pickle")
    prefix = extent.name.removesuffix("data.pkl")
    small = _small_records(source, layout, prefix)
    return _Question(pickle, layout, prefix, small.get("byteorder", b""), _constants_pickle(source, layout, prefix))


def _answer(question: _Question) -> Content:
    constants = _constants(question)
    return _content(_unpickled(question), constants, question)


def _unpickled(question: _Question) -> Unpickled:
    """Return the object's graph; with that of the constants it stays within the bound of one graph."""
    room_bytes = GRAPH_BYTES_MAX - (_CONSTANTS_ROOM_BYTES if question.constants is not None else 0)
    return unpickle(question.pickle, 0, room_bytes)


def _constants(question: _Question) -> tuple[StorageTable, FoundTensors] | None:
    """Return the tensors of the second pickle, whose storages lie beside it."""
    if question.constants is None:
        return None
    pickled = unpickle(question.constants, 0, _CONSTANTS_ROOM_BYTES)
    table = StorageTable(question.layout.extents, f"{question.prefix}constants/", question.layout.packed)
    found = tensors_in(pickled.root, table)
    table.add_all(pickled.persistents)
    named = [tensor._replace(name=f"constants.{tensor.name}".rstrip(".")) for tensor in found.tensors]
    return table, found._replace(tensors=named)


def _content(pickled: Unpickled, constants: tuple[StorageTable, FoundTensors] | None, question: _Question) -> Content:
    table = StorageTable(question.layout.extents, f"{question.prefix}data/", question.layout.packed)
    found = tensors_in(pickled.root, table)
    table.add_all(pickled.persistents)
    facts: dict[str, Fact] = torch_facts(pickled.root)
    if question.byteorder == b"big":
        facts["byteorder"] = "big"
    numbers = torch_numbers(pickled.root, table) if question.byteorder != b"big" else ()
    both = [(table, found)] if constants is None else [(table, found), constants]
    storages = [storage for one, _ in both for storage in one.storages()]
    storages.sort(key=lambda storage: storage.offset)
    return Content(
        tuple(storages),
        tuple(tensor for _, one in both for tensor in one.tensors),
        facts,
        packed_count=sum(one.packed_count() for one, _ in both),
        numbers=numbers,
        aside_count=sum(one.aside_count for _, one in both),
    )


def _pickle_extent(layout: ZipLayout) -> Extent:
    """Return the record of the object itself: the ``data.pkl`` in the folder in which torch looks for all records.

    That is the folder of the record that the directory names first.
    """
    folder, slash, _ = layout.first_name.partition("/")
    wanted = f"{folder}{slash}data.pkl"
    for extent in layout.extents:
        if extent.name == wanted:
            return extent
    if any(extent.name.endswith("/data.pkl") for extent in layout.extents):
        msg = f"no {wanted[:256]}: torch looks for it beside the first record, and it lies elsewhere"
    else:
        msg = "no data.pkl: what wrote it raised, or was interrupted, before it was done"
    raise ContainerBroken(msg)


def _constants_pickle(source: ByteSource, layout: ZipLayout, prefix: str) -> bytes | None:
    for extent in layout.extents:
        if extent.name == f"{prefix}constants.pkl":
            return read_record(source, layout, extent, PICKLE_BYTES_MAX, "pickle")
    return None


def _small_records(source: ByteSource, layout: ZipLayout, prefix: str) -> dict[str, bytes]:
    """Return the small records that torch reads before any tensor, and without which it does not load the file."""
    found: dict[str, bytes] = {}
    for extent in layout.extents:
        name = extent.name.removeprefix(prefix)
        if name in _SMALL_RECORDS and extent.name != name:
            found[name] = _head(source, layout, extent)
            if _SMALL_RECORDS[name].fullmatch(found[name]) is None:
                raise ContainerBroken(f"{name} is none that torch knows", record=extent.name, offset=extent.offset)
    if "version" not in found and ".data/version" not in found:
        raise ContainerBroken("no record tells the version of the format", record=f"{prefix}version"[:256])
    return found


def _head(source: ByteSource, layout: ZipLayout, extent: Extent) -> bytes:
    if extent.name in layout.packed:
        return inflate_head(source, extent, _SMALL_RECORD_BYTES_MAX)
    return read_bounded(source, extent.offset, min(extent.length, _SMALL_RECORD_BYTES_MAX), "small record")
