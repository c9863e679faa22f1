"""Checkpoints of Orbax: a directory with OCDBT databases or zarr arrays in it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from mlsync.formats.faults import NotChecked
from mlsync.formats.groups.tree import Tree, Unit, join, shown, unit_of
from mlsync.formats.layout import ContainerBroken
from mlsync.formats.libraries.ocdbt import NODE_BYTES_MAX, files_told_of, is_ocdbt

ORBAX_MARK = b"_CHECKPOINT_METADATA"


def orbax(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """Yield a checkpoint of Orbax: a directory, renamed when it was complete, with OCDBT databases or zarr arrays."""
    if ORBAX_MARK not in tree.directories[directory]:
        return
    members = tree.below(directory)
    databases = [path.rpartition(b"/")[0] for path in members if path.rpartition(b"/")[2] == b"manifest.ocdbt"]
    lacking = next(filter(None, (_check_database(tree, database) for database in databases)), None)
    if lacking is None:
        items = [path.rpartition(b"/")[0] for path in members if path.rpartition(b"/")[2] == b"_METADATA"]
        is_bare = (item for item in items if item not in databases and _uses_database(tree, item))
        lacking = next((f"{shown(join(item, b'manifest.ocdbt'))} is missing" for item in is_bare), None)
    yield unit_of("orbax", directory, members, lacking)


def _uses_database(tree: Tree, item: bytes) -> bool:
    about = tree.read_json(join(item, b"_METADATA"))
    return about is not None and about.get("use_ocdbt") is True


def _check_database(tree: Tree, database: bytes) -> str | None:
    """Return the first data file that the manifest, or a node in a data file, names and that is missing."""
    waiting, seen = [join(database, b"manifest.ocdbt")], set[bytes]()
    while waiting:
        path = waiting.pop()
        content = tree.read(path, NODE_BYTES_MAX)
        if content is None or not is_ocdbt(content):
            continue  # values of arrays, or a large node
        try:
            named = {join(database, os.fsencode(name)) for name in files_told_of(content)}
        except (ContainerBroken, UnicodeEncodeError) as fault:
            if isinstance(fault, NotChecked) or not path.endswith(b"/manifest.ocdbt"):
                continue  # a node with values behind it, or of another version
            return f"{shown(path)}: {fault}"
        missing = min(named - tree.files.keys(), default=None)
        if missing is not None:
            return f"{shown(missing)} is missing"
        waiting += named - seen
        seen |= named
    return None
