"""What a ``torch.save`` file holds: its pickle is read for storages, tensors and facts, with torch nowhere near."""

from __future__ import annotations

import marshal
from hashlib import sha256
from typing import NamedTuple

from mlsync.formats.answers import Answers
from mlsync.formats.facts import torch_facts, torch_numbers
from mlsync.formats.faults import read_bounded
from mlsync.formats.inflate import inflate_head
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Extent, Fact
from mlsync.formats.pickle_machine import PICKLE_BYTES_MAX, read_pickle
from mlsync.formats.torch_graph import tensors_in
from mlsync.formats.torch_tensors import StorageTable
from mlsync.formats.zip_record import read_record
from mlsync.formats.zipfile_layout import ZipLayout

_BYTEORDER_BYTES_MAX = 16
_MARSHAL_VERSION = 2  # equal values have equal bytes; later versions note which of them are one object
_ANSWERS = Answers()


class _Question(NamedTuple):
    """All that an answer is made of: the pickle, the places of the records, what their names begin with, the order."""

    pickle: bytes
    layout: ZipLayout
    prefix: str
    byteorder: bytes


def read_torch_content(source: ByteSource, layout: ZipLayout) -> Content:
    """Level 2: every storage has its record and fills it, every tensor lies inside its storage."""
    question = _read_question(source, layout)
    key = _digest(_as_bytes(layout), question.byteorder, question.pickle)
    return _ANSWERS.of(key, lambda: _answer(question))


def read_torch_content_anew(source: ByteSource, layout: ZipLayout) -> Content:
    """The same, of a zip that is one of thousands, whose answer is not worth keeping."""
    return _answer(_read_question(source, layout))


def read_torch_object(source: ByteSource, layout: ZipLayout) -> tuple[object, Content]:
    """The same, with the graph of the object for who wants to know what it is."""
    question = _read_question(source, layout)
    root, _ = read_pickle(question.pickle)
    return root, _content(root, question)


def _read_question(source: ByteSource, layout: ZipLayout) -> _Question:
    """Read the pickle and hold it against its checksum, whether or not it is known already."""
    extent = _pickle_extent(layout)
    pickle = read_record(source, layout, extent, PICKLE_BYTES_MAX, "pickle")
    prefix = extent.name.removesuffix("data.pkl")
    return _Question(pickle, layout, prefix, _byteorder(source, layout, prefix))


def _answer(question: _Question) -> Content:
    root, _ = read_pickle(question.pickle)
    return _content(root, question)


def _content(root: object, question: _Question) -> Content:
    table = StorageTable(question.layout.extents, f"{question.prefix}data/", question.layout.packed)
    tensors = tensors_in(root, table)
    facts: dict[str, Fact] = torch_facts(root)
    if question.byteorder == b"big":
        facts["byteorder"] = "big"
    numbers = torch_numbers(root, table) if question.byteorder != b"big" else ()
    return Content(table.storages(), tuple(tensors), facts, table.packed_count(), numbers)


def _as_bytes(layout: ZipLayout) -> bytes:
    """All of a layout that a content depends on; two layouts that differ in it have other bytes."""
    places = [(extent.name, extent.offset, extent.length) for extent in layout.extents]
    packed = sorted((name, record.plain_bytes) for name, record in layout.packed.items())
    return marshal.dumps((places, packed), _MARSHAL_VERSION)


def _digest(*parts: bytes) -> bytes:
    digest = sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _pickle_extent(layout: ZipLayout) -> Extent:
    """The record of the object itself: the ``data.pkl`` nearest to the root."""
    named = [extent for extent in layout.extents if extent.name.endswith("/data.pkl")]
    if not named:
        msg = "no data.pkl"
        raise ContainerBroken(msg)
    return min(named, key=lambda extent: extent.name.count("/"))


def _byteorder(source: ByteSource, layout: ZipLayout, prefix: str) -> bytes:
    for extent in layout.extents:
        if extent.name == f"{prefix}byteorder" and extent.length <= _BYTEORDER_BYTES_MAX:
            if extent.name in layout.packed:
                return inflate_head(source, extent, _BYTEORDER_BYTES_MAX)
            return read_bounded(source, extent.offset, extent.length, "byteorder")
    return b""
