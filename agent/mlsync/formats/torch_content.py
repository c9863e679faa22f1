"""What a ``torch.save`` file holds: its pickle's graph read for storages, tensors and facts, with torch nowhere near.

The graph is hostile: it may share, repeat and contain itself. It is walked by identity, each node once, with no
recursion.
"""

from __future__ import annotations

from isal.isal_zlib import crc32

from mlsync.formats.facts import torch_facts
from mlsync.formats.faults import NotChecked, RecordDamaged, read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Extent, Fact, Tensor
from mlsync.formats.pickle_machine import PICKLE_BYTES_MAX, Call, Pairs, Persistent, read_pickle
from mlsync.formats.torch_tensors import StorageTable, is_parameter_call, is_tensor_call, rebuilt_call, tensor_view
from mlsync.formats.zipfile_layout import ZipLayout

DEPTH_MAX = 300
_NAME_CHARS_MAX = 1024
_BYTEORDER_BYTES_MAX = 16
_KEY_CHARS_MAX = 200
# What torch.nn.Module keeps its children under: not part of any name that a user knows
_TRANSPARENT = frozenset({"_parameters", "_buffers", "_modules"})

# A path is a linked list from the leaf up, so that a deep and wide graph costs nothing per level.
_Path = tuple["_Path", object, int] | None


def read_torch_content(source: ByteSource, layout: ZipLayout) -> Content:
    """Level 2: every storage has its record and fills it, every tensor lies inside its storage."""
    pickle = _pickle_extent(layout)
    root, _ = read_pickle(_read_record(source, layout, pickle))
    prefix = pickle.name.removesuffix("data.pkl")
    table = StorageTable(layout, prefix)
    tensors = _walk(root, table)
    facts: dict[str, Fact] = torch_facts(root)
    if _byteorder(source, layout, prefix) == b"big":
        facts["byteorder"] = "big"
    return Content(table.storages(), tuple(tensors), facts)


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
        if id(node) in seen or not isinstance(node, (Pairs, list, tuple, Call, Persistent)):
            continue
        seen.add(id(node))
        if isinstance(node, Persistent):
            table.add(node)
            continue
        if isinstance(node, Call):
            node = rebuilt_call(node)
            if is_tensor_call(node):
                tensors.append(tensor_view(_name(path), node, table))
                continue
        depth = path[2] + 1 if path else 1
        if depth > DEPTH_MAX:
            msg = "objects nested more deeply than is checked"
            raise NotChecked(msg)
        waiting.extend((child, (path, key, depth)) for key, child in reversed(_children(node)))
    return tensors


def _children(node: object) -> list[tuple[object, object]]:
    """A node's parts with the keys under which they are known."""
    if isinstance(node, Pairs):
        return list(node)
    if isinstance(node, (list, tuple)):
        return list(enumerate(node))
    if not isinstance(node, Call):
        return []
    # What a Parameter wraps is the parameter; other calls number what they were given
    parts: list[tuple[object, object]] = [
        ("" if is_parameter_call(node) else i, arg) for i, arg in enumerate(node.args)
    ]
    parts += [("", node.kwargs)] if node.kwargs is not None else []
    parts += enumerate(node.items or [])
    parts += node.pairs or []
    # (dict, slots): the state of an object that has both; else the state's own keys are the attributes
    states = node.state if type(node.state) is tuple else (node.state,)
    for state in states:
        parts += state if isinstance(state, Pairs) else [("", state)]
    return parts


def _name(path: _Path) -> str:
    """The dotted name of what lies at *path*."""
    keys: list[str] = []
    chars = 0
    while path is not None and chars < _NAME_CHARS_MAX:
        path, key, _ = path
        text = key[:_KEY_CHARS_MAX] if isinstance(key, str) else str(key) if type(key) is int else ""
        if text and text not in _TRANSPARENT:
            keys.append(text)
            chars += len(text) + 1
    return ".".join(reversed(keys))
