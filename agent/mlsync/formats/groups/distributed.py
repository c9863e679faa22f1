"""Distributed checkpoints of torch: the ``.distcp`` files of a directory, and the metadata that is written last."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from mlsync.formats.dcp.metadata import (
    DcpMetadata,
    check_against_files,
    check_union,
    is_metadata,
    rank_metadata_of,
    rank_of_metadata,
    read_dcp_metadata,
)
from mlsync.formats.groups.tree import Tree, Unit, join, missing_rank, shown, unit_of
from mlsync.formats.layout import ContainerBroken


def distributed(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """Yield a directory of ``.distcp`` files, with the metadata that are written last."""
    names = tree.directories[directory]
    shards = {name for name in names if name.endswith(b".distcp")}
    if not shards and not _tells_of_shards(tree, directory):
        return
    about = [b".metadata"] if b".metadata" in names else [name for name in names if rank_of_metadata(name) is not None]
    lacking = None if about else "'.metadata' is missing"
    sizes = {os.fsdecode(name): size for name, size in names.items()}
    members = shards | set(about)
    parts: list[DcpMetadata] = []
    for name in about:
        content = tree.read(join(directory, name))
        if content is None:
            lacking = lacking or f"{shown(name)} could not be read"
            continue
        try:
            metadata = read_dcp_metadata(content, is_part=name != b".metadata")
            members |= {os.fsencode(entry.item.relative_path) for entry in metadata.entries}
            check_against_files(metadata, sizes)
            parts.append(metadata)
        except ContainerBroken as fault:
            lacking = lacking or f"{shown(name)}: {fault}"
    if lacking is None and about != [b".metadata"]:
        lacking = _check_ranks_metadata(parts, shards, about)
    yield unit_of("dcp", directory, (join(directory, name) for name in members & names.keys()), lacking)


def _tells_of_shards(tree: Tree, directory: bytes) -> bool:
    """Return whether there is torch's metadata without a shard; other programs use the file name too."""
    about = [name for name in tree.directories[directory] if name == b".metadata" or rank_of_metadata(name) is not None]
    content = tree.read(join(directory, about[0])) if about else None
    return content is not None and is_metadata(content) and b".distcp" in content


def _check_ranks_metadata(parts: Sequence[DcpMetadata], shards: Iterable[bytes], about: Iterable[bytes]) -> str | None:
    """Return what is missing: a rank's metadata, a rank in the sequence from zero, or a chunk of a tensor."""
    told = {os.fsencode(entry.item.relative_path) for part in parts for entry in part.entries}
    untold = {name for name in map(rank_metadata_of, set(shards) - told) if name is not None}
    missing = min(untold - set(about), default=None)
    if missing is not None:
        return f"{shown(missing)} is missing"
    try:
        check_union(parts)
    except ContainerBroken as fault:
        return f"metadata of {len(parts)} ranks: {fault}"
    ranks = {rank for name in about if (rank := rank_of_metadata(name)) is not None}
    return missing_rank(ranks, "__{}.metadata")
