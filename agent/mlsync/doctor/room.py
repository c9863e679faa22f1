"""Whether there is room where mlsync writes: the local state, and a repository in a directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from mlsync.app.wording import size
from mlsync.config.model import Config
from mlsync.doctor.findings import Diagnosis, Grade
from mlsync.source.paths import display

# Less than this much, and the next pass or version may not fit.
_GRAVE_BYTES, _WARNING_BYTES, _STATE_WARNING_BYTES = 64 << 20, 5 << 30, 1 << 30
_INODES_MIN: Final = 10_000


def diagnose_room(config: Config) -> Iterator[Diagnosis]:
    """Yield how much room is left for the local state, and in a repository's directory."""
    yield room_at(config.state_directory, "room for the local state", _STATE_WARNING_BYTES)
    if config.repository_directory is not None:
        yield room_at(config.repository_directory, "room for the repository", _WARNING_BYTES)


def room_at(
    directory: Path,
    subject: str,
    warning_bytes: int,
    *,
    look: Callable[[Path], os.statvfs_result] = os.statvfs,
) -> Diagnosis:
    """Return how much room there is at *directory*, or the nearest one above it that exists."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    found = look(directory)
    free_bytes = found.f_bavail * found.f_frsize
    where = f"{size(free_bytes)} are free at {display(bytes(directory))}"
    # Some file systems count no inodes.
    if found.f_files and found.f_favail < _INODES_MIN:
        what = f"{found.f_favail} more files fit at {display(bytes(directory))}, whatever their size"
        return Diagnosis(subject, Grade.WARNING, what, "each pack and version is a file", "remove small files there")
    if free_bytes < _GRAVE_BYTES:
        return Diagnosis(subject, Grade.GRAVE, where, "the next backup does not fit", "free some room")
    if free_bytes < warning_bytes:
        advice = "free some room, or remove old versions: mlsync forget, then mlsync prune"
        return Diagnosis(subject, Grade.WARNING, where, "backups will fail when it is used up", advice)
    return Diagnosis(subject, Grade.FINE, where)
