"""Which files of a version are handed on: those at a path, or its one checkpoint with weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mlsync.errors import CheckpointBroken, ConfigInvalid, NotProvedYet, PathMissing
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry, Manifest
from mlsync.restore.selection import paths_in_run, select_entries
from mlsync.source.paths import display
from mlsync.versions.resumable import has_weights

#: Means all of a version, where a path is asked for.
WHOLE: Final = b"."
_NAMED_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is at *path*, empty for all of the version: its *files*; *single* is the one if it is a file's path."""

    path: bytes
    files: tuple[Entry, ...]
    single: Entry | None


def choose(manifest: Manifest, path: bytes | None) -> Chosen:
    """Return what a path or pattern means, of several matches the newest; without one the version's one checkpoint.

    Raises ``PathMissing`` for a path that is not there, and ``ConfigInvalid`` if nobody can tell which is meant.
    """
    if path is None:
        path = _only_checkpoint(manifest)
    asked = paths_in_run([path], (manifest.root.directory,))
    if not asked:
        return _chosen(manifest, b"")
    return _chosen(manifest, _matched(manifest, asked[0]))


def refuse_unproved(manifest: Manifest, chosen: Chosen, *, allow_unproved: bool) -> None:
    """Raise ``CheckpointBroken``, or ``NotProvedYet`` unless that is allowed, for what nobody should be given."""
    root = manifest.root
    where = f"run {root.run}, version {root.number}"
    proofs = [(entry, entry.proof) for entry in chosen.files if entry.proof is not None]
    broken = [entry for entry, proof in proofs if proof.is_broken]
    if broken:
        raise CheckpointBroken(f"{display(broken[0].path)} does not load, so nobody is given it", where=where)
    pending = [entry for entry, proof in proofs if proof.is_pending(root.required_level)]
    if allow_unproved or (proofs and not pending):
        return
    if pending:
        what = f"{display(pending[0].path)} is not proved as far as L{root.required_level} yet"
        advice = f"mlsync prove {root.number} --run {root.run} does it now; --allow-unproved goes on without"
        raise NotProvedYet(what, where=where, advice=advice)
    what = f"{display(chosen.path) or 'the version'} holds no checkpoint, so nothing of it is proved"
    raise NotProvedYet(what, where=where, advice="--allow-unproved goes on all the same")


def _only_checkpoint(manifest: Manifest) -> bytes:
    """Return the path of the one checkpoint with weights, or of the one that is called best."""
    found = [
        entry.path
        for entry in manifest.entries
        if entry.proof is not None and not entry.proof.is_broken and has_weights(entry.proof.facts)
    ]
    best = [path for path in found if path.rpartition(b"/")[2].partition(b".")[0] == b"best"]
    for some in (found, best):
        if len(some) == 1:
            return some[0]
    what = f"version {manifest.root.number} has {len(found) or 'no'} checkpoints with weights"
    if not found:
        raise ConfigInvalid(what, advice="give --path PATH, or --path . for all of the version")
    named = ", ".join(map(display, found[:_NAMED_MAX])) + (", …" if len(found) > _NAMED_MAX else "")
    raise ConfigInvalid(what, where=named, advice="give one of them, or its directory, as --path (path under [mlflow])")


def _matched(manifest: Manifest, asked: bytes) -> bytes:
    """Return the path that is meant: itself, or of what a pattern matches the newest."""
    wanted = select_entries(manifest, [asked])
    plain = asked.rstrip(b"/")
    by_path = {entry.path: entry for entry in wanted}
    if plain in by_path:
        return plain
    # A pattern: the outermost of what it matches, which directories above it have in common with nothing else.
    depth = plain.count(b"/")
    tops = {b"/".join(path.split(b"/")[: depth + 1]) for path in by_path if path.count(b"/") >= depth}
    return max(tops, key=lambda top: (_newest_ns(wanted, top), top))


def _newest_ns(entries: Sequence[Entry], top: bytes) -> int:
    return max((entry.mtime_ns for entry in entries if _is_at(entry.path, top)), default=0)


def _chosen(manifest: Manifest, path: bytes) -> Chosen:
    files = tuple(
        entry for entry in manifest.entries if entry.kind is EntryKind.FILE and (not path or _is_at(entry.path, path))
    )
    if not files:
        what = f"there is no file at {display(path) or 'the run'} in version {manifest.root.number}"
        raise PathMissing(what, where=f"run {manifest.root.run}")
    single = files[0] if len(files) == 1 and files[0].path == path else None
    return Chosen(path, files, single)


def _is_at(path: bytes, top: bytes) -> bool:
    return path == top or path.startswith(top + b"/")


def as_path(text: str | None) -> bytes | None:
    """Return a path of the command line or the configuration as versions have it."""
    return None if text is None else os.fsencode(text)
