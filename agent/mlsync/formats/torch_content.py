"""What a ``torch.save`` file holds: its pickle's graph read for storages, tensors and facts, with torch nowhere near.

The graph is hostile: it may share, repeat and contain itself. It is walked by identity, each node once, with no
recursion.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from isal.isal_zlib import crc32

from mlsync.formats.answers import Answers
from mlsync.formats.facts import torch_facts
from mlsync.formats.faults import NotChecked, RecordDamaged, read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Extent, Fact, Tensor
from mlsync.formats.pickle_machine import PICKLE_BYTES_MAX, Call, Members, Pairs, Persistent, read_pickle
from mlsync.formats.torch_tensors import StorageTable, is_parameter_call, is_tensor_call, rebuilt_call, tensor_view
from mlsync.formats.zipfile_layout import ZipLayout

DEPTH_MAX = 300
_NAME_CHARS_MAX = 1024
_BYTEORDER_BYTES_MAX = 16
_KEY_CHARS_MAX = 200
_PARAMETER_ARGUMENTS_MAX = 4  # tensor, whether it learns, hooks, state
_STATE_PARTS_MAX = 2  # dict, slots
# What torch.nn.Module keeps its children under: not part of any name that a user knows
_TRANSPARENT = frozenset({"", "_parameters", "_buffers", "_modules"})
_MARSHAL_VERSION = 2  # equal values have equal bytes; later versions note which of them are one object
_ANSWERS = Answers()

# What can lead to a tensor
_WALKED = frozenset({Pairs, Members, list, tuple, Call, Persistent})

# A path is a linked list from the leaf up, so that a deep and wide graph costs nothing per level.
_Path = tuple["_Path", object, int] | None


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


def _read_question(source: ByteSource, layout: ZipLayout) -> _Question:
    """Read the pickle and hold it against its checksum, whether or not it is known already."""
    extent = _pickle_extent(layout)
    pickle = _read_record(source, layout, extent)
    prefix = extent.name.removesuffix("data.pkl")
    return _Question(pickle, layout, prefix, _byteorder(source, layout, prefix))


def _answer(question: _Question) -> Content:
    root, _ = read_pickle(question.pickle)
    table = StorageTable(question.layout, question.prefix)
    tensors = _walk(root, table)
    facts: dict[str, Fact] = torch_facts(root)
    if question.byteorder == b"big":
        facts["byteorder"] = "big"
    return Content(table.storages(), tuple(tensors), facts)


def _as_bytes(layout: ZipLayout) -> bytes:
    """All of a layout that a content depends on; two layouts that differ in it have other bytes."""
    places = [(extent.name, extent.offset, extent.length) for extent in layout.extents]
    return marshal.dumps((places, sorted(layout.packed)), _MARSHAL_VERSION)


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


def _read_record(source: ByteSource, layout: ZipLayout, extent: Extent) -> bytes:
    """A record's bytes, held against its checksum so that damage is called damage and not a bad pickle."""
    if extent.name in layout.packed or extent.length > PICKLE_BYTES_MAX:
        msg = "pickle is compressed or larger than is checked"
        raise NotChecked(msg, record=extent.name, offset=extent.offset)
    data = read_bounded(source, extent.offset, extent.length, "pickle")
    if extent.crc32 is not None and crc32(data) != extent.crc32:
        msg = "CRC-32 differs"
        raise RecordDamaged(msg, record=extent.name, offset=extent.offset)
    return data


def _byteorder(source: ByteSource, layout: ZipLayout, prefix: str) -> bytes:
    for extent in layout.extents:
        if extent.name == f"{prefix}byteorder" and extent.length <= _BYTEORDER_BYTES_MAX:
            return read_bounded(source, extent.offset, extent.length, "byteorder")
    return b""


def _walk(root: object, table: StorageTable) -> list[Tensor]:
    """Every tensor once, under the first name that leads to it, in the order of the file."""
    tensors: list[Tensor] = []
    seen: set[int] = set()
    waiting: list[tuple[object, _Path]] = [(root, None)]
    while waiting:
        node, path = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if type(node) is Persistent:
            table.add(node)
            continue
        if type(node) is Call:
            node = rebuilt_call(node)
            if is_tensor_call(node):
                tensors.append(tensor_view(_name(path), node, table))
                continue
        depth = path[2] + 1 if path else 1
        if depth > DEPTH_MAX:
            msg = "objects nested more deeply than is checked"
            raise NotChecked(msg)
        if isinstance(node, Call):
            below = _parts(node, path, depth)
        else:
            # Most parts are numbers, texts and calls without arguments, below which nothing can lie
            below = [
                (child, (path, key, depth))
                for key, child in _children(node)
                if type(child) in _WALKED and (not isinstance(child, Call) or child.args or child.then)
            ]
        below.reverse()
        waiting += below
    return tensors


def _children(node: object) -> Iterable[tuple[object, object]]:
    """A container's parts with the keys under which they are known."""
    if isinstance(node, Pairs):
        return node.pairs()
    return enumerate(node) if isinstance(node, (list, tuple)) else ()


def _parts(call: Call, path: _Path, depth: int) -> list[tuple[object, _Path]]:
    """What a call was given and what was done to the object, each as a node of its own.

    A container among them has the call's own name, so that its parts are known as the call's. They are not looked up
    here: a million calls may share one state of a million parts, which must be walked once.
    """
    then = call.then
    unnamed: _Path = (path, "", depth)
    parts: list[tuple[object, _Path]] = [(call.args, path)]
    if is_parameter_call(call) and len(call.args) <= _PARAMETER_ARGUMENTS_MAX:
        parts = [(arg, unnamed) for arg in call.args]  # what a Parameter wraps is the parameter
    if then is not None:
        parts += [(then.kwargs, unnamed), (then.items, path), (then.pairs, path)]
        # (dict, slots): the state of an object that has both; else the state's own keys are the attributes
        states = then.state if type(then.state) is tuple and len(then.state) <= _STATE_PARTS_MAX else (then.state,)
        parts += [(state, path if isinstance(state, Pairs) else unnamed) for state in states]
    return [part for part in parts if type(part[0]) in _WALKED]


def _name(path: _Path) -> str:
    """The dotted name of what lies at *path*."""
    keys: list[str] = []
    chars = 0
    while path is not None and chars < _NAME_CHARS_MAX:
        path, key, _ = path
        if key in _TRANSPARENT if type(key) is str else type(key) is not int:
            continue
        text = key[:_KEY_CHARS_MAX] if isinstance(key, str) else str(key)
        keys.append(text)
        chars += len(text) + 1
    return ".".join(reversed(keys))
