"""The entries of a version that a restore of some paths needs."""

from __future__ import annotations

import os

import msgspec

from mlsync.errors import PathMissing
from mlsync.repository.manifest import Entry, Manifest
from mlsync.repository.tokens import EntryKind
from mlsync.source.paths import display


def select_entries(manifest: Manifest, paths: tuple[bytes, ...]) -> list[Entry]:
    """Return the entries at and below *paths*, all where empty, with the directories above them.

    Raises ``PathMissing`` if the version holds nothing at one of them.
    """
    if not paths:
        return list(manifest.entries)
    wanted = []
    above: set[bytes] = set()
    for path in (os.path.normpath(path).strip(b"/") for path in paths):
        found = [entry for entry in manifest.entries if entry.path == path or entry.path.startswith(path + b"/")]
        if not found:
            what = f"version {manifest.root.number} holds nothing at {display(path)}"
            raise PathMissing(what, where=f"run {manifest.root.run}")
        wanted += found
        parts = path.split(b"/")
        above |= {b"/".join(parts[:count]) for count in range(1, len(parts))}
    chosen = {entry.path: entry for entry in wanted}
    chosen |= {entry.path: entry for entry in manifest.entries if entry.path in above}
    by_path = {entry.path: entry for entry in manifest.entries}
    for entry in wanted:
        # Without the file that it links to, a hard link becomes a file of its own, with that file's content.
        if entry.kind is EntryKind.HARD_LINK and entry.target not in chosen:
            chosen[entry.path] = msgspec.structs.replace(by_path[entry.target], path=entry.path)
    return [chosen[path] for path in sorted(chosen)]
