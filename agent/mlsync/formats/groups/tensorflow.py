"""Checkpoints of TensorFlow: shards, with the index that is written last."""

from __future__ import annotations

import os
from collections.abc import Iterator

from mlsync.formats.groups.tree import Tree, Unit, join, shown, unit_of
from mlsync.formats.layout import ContainerBroken
from mlsync.formats.libraries.leveldb_table import TABLE_MAGIC
from mlsync.formats.libraries.tensorflow_bundle import check_against_shards, index_of, parse_index

# An index of TensorFlow's whose shards are not there: other programs have files of that ending, and large ones
_BARE_INDEX_BYTES_MAX = 8 << 20


def tensorflow(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """Yield each checkpoint of TensorFlow in a directory: its shards, and the index that is written last."""
    shards: dict[bytes, set[bytes]] = {}
    for name in tree.directories[directory]:
        index = index_of(name)
        if index is not None:
            shards.setdefault(index, set()).add(name)
    for name in tree.directories[directory]:
        if name.endswith(b".index") and name not in shards and _is_table(tree, join(directory, name)):
            shards[name] = set()
    for index, members in shards.items():
        path = join(directory, index)
        if path not in tree.files:
            lacking: str | None = f"{shown(index)} is missing"
        else:
            lacking = _check_shards(tree, directory, index)
            members.add(index)
        yield unit_of("tensorflow", directory, (join(directory, name) for name in members), lacking)


def _is_table(tree: Tree, path: bytes) -> bool:
    return (tree.read(path, _BARE_INDEX_BYTES_MAX) or b"").endswith(TABLE_MAGIC)


def _check_shards(tree: Tree, directory: bytes, index: bytes) -> str | None:
    content = tree.read(join(directory, index))
    if content is None:
        return f"{shown(index)} could not be read"
    sizes = {os.fsdecode(name): size for name, size in tree.directories[directory].items()}
    try:
        check_against_shards(parse_index(content), os.fsdecode(index).removesuffix(".index"), sizes)
    except ContainerBroken as fault:
        return f"{shown(index)}: {fault}"
    return None
