"""Bring a directory back that a training is to go on in: only where the version is ahead of what lies there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import PurePosixPath
from typing import Final

from mlsync.errors import DirectoryNewer, VersionMissing
from mlsync.monitor import Monitor
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Manifest
from mlsync.repository.repository import Repository
from mlsync.restore.restore import RestoreOptions, RestoreResult, restore
from mlsync.source.paths import display
from mlsync.source.state import Head
from mlsync.target.temporary import TEMPORARY_PREFIX
from mlsync.versions.rollback import refuse_rolled_back
from mlsync.versions.select import BEST, LATEST, RESUMABLE, find_version

#: The words for the version to bring back.
WANTED: Final = (RESUMABLE, LATEST, BEST)


class Standing(Enum):
    """How a directory stands to a version."""

    EMPTY = auto()  # no file in it, or no directory
    SAME = auto()
    OLDER = auto()  # nothing in it was written after the version
    AHEAD = auto()  # the training went on from the version, or from a later one
    MIXED = auto()  # files are newer, and checkpoints of the version are missing


@dataclass(frozen=True, slots=True)
class BroughtBack:
    """What was found, by which *word*, and what was done: *result* is that of a restore, if there was one."""

    number: int | None
    standing: Standing | None
    word: str = ""
    result: RestoreResult | None = None


def bring_back(
    repository: Repository,
    run: str,
    directory: bytes,
    wanted: str,
    monitor: Monitor,
    *,
    seen: Head | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> BroughtBack:
    """Restore the version *wanted* (a word) if the directory lacks it, and say how it stands.

    Raises ``DirectoryNewer``, with nothing written, if files there are newer and the version's checkpoints are not
    there; also if ``best`` was asked for over newer files. *seen* is the newest version that this machine knows.
    """
    if not repository.has_versions(run):
        return BroughtBack(None, None)
    if seen is not None:
        refuse_rolled_back(repository, run, seen, by_number=False)
    try:
        stored = find_version(repository, run, wanted)
    except VersionMissing as error:
        if wanted == BEST:
            raise
        # A trainer of one's own may go on from what mlsync does not know to be enough for that.
        monitor.notice("warning", f"{run}: {error.what}; taking the latest")
        wanted = LATEST
        stored = find_version(repository, run, wanted)
    manifest = repository.manifest(stored)
    number = manifest.root.number
    standing, example = standing_of(directory, manifest)
    if standing is Standing.MIXED or (standing is Standing.AHEAD and wanted == BEST):
        raise DirectoryNewer(
            f"{run}: {display(example)} is newer than version {number} ({wanted}), which was to be restored over it",
            where=display(directory),
        )
    if standing in (Standing.SAME, Standing.AHEAD):
        return BroughtBack(number, standing, wanted)
    result = restore(repository, manifest, directory, RestoreOptions(stop=stop), monitor)
    if result.fault is not None:
        raise result.fault
    return BroughtBack(number, standing, wanted, result)


def standing_of(directory: bytes, manifest: Manifest) -> tuple[Standing, bytes]:
    """Return how a directory stands to a version, by sizes and times alone, and a path that is newer, if one is."""
    files = {entry.path: entry for entry in manifest.entries if entry.kind is EntryKind.FILE}
    checkpoints = {path for path, entry in files.items() if entry.proof is not None}
    newer: list[bytes] = []
    older: set[bytes] = set()
    there: set[bytes] = set()
    for path, info in _files(directory):
        there.add(path)
        entry = files.get(path)
        if entry is None:
            if info.st_mtime_ns > manifest.root.created_ns:
                newer.append(path)
        elif info.st_mtime_ns > entry.mtime_ns:
            newer.append(path)
        elif (info.st_size, info.st_mtime_ns) != (entry.size_bytes, entry.mtime_ns):
            older.add(path)
    if not there:
        return Standing.EMPTY, b""
    lacks = older | (files.keys() - there)
    if not newer:
        return (Standing.OLDER if lacks else Standing.SAME), b""
    # A trainer that rotates its checkpoints deletes what the version has, and leaves newer ones of the kind.
    kinds = {PurePosixPath(os.fsdecode(path)).suffix for path in checkpoints}
    went_on = any(PurePosixPath(os.fsdecode(path)).suffix in kinds for path in newer)
    is_ahead = went_on or not checkpoints & lacks
    return (Standing.AHEAD if is_ahead else Standing.MIXED), min(newer)


def _files(directory: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield each regular file below a directory, by its path in there; what cannot be looked at is passed over.

    What a restore that was stopped left is none: the next restore goes on with it.
    """
    ahead = [b""]
    while ahead:
        below = ahead.pop()
        try:
            with os.scandir(os.path.join(directory, below)) as entries:
                for entry in entries:
                    if entry.name.startswith(TEMPORARY_PREFIX):
                        continue
                    path = os.path.join(below, entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        ahead.append(path)
                    elif entry.is_file(follow_symlinks=False):
                        yield path, entry.stat(follow_symlinks=False)
        except OSError:
            continue
