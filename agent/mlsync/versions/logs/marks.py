"""Which version holds which point of a training, by the end of the log that the version has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from mlsync.errors import Damage, ObjectArchived
from mlsync.formats.groups.huggingface import is_trainers_directory
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.readable import stored_or_none
from mlsync.repository.repository import Repository
from mlsync.versions.logs.found import FoundLog, find_logs
from mlsync.versions.logs.metrics import read_end

# Lists of files and ends of logs are small and may be far away.
_AT_ONCE: Final = 4
# A longer list of files is not read for this.
_FILES_MAX: Final = 20_000


class VersionMark(NamedTuple):
    """A version, and how far its log of the training goes."""

    version: int
    epoch: float | None
    step: float | None


def marks_of(repository: Repository, run: str, log: FoundLog, numbers: Sequence[int]) -> list[VersionMark]:
    """Return for each of these versions how far its copy of *log* goes, for those that have one."""
    looked: dict[tuple[tuple[ChunkRef, ...], ...], VersionMark | None] = {}

    def look(number: int) -> VersionMark | None:
        stored = stored_or_none(repository, run, number)
        if stored is None or stored.root.summary.file_count > _FILES_MAX:
            return None
        try:
            same = _same(log, find_logs(repository.entries(stored)))
            if same is None:
                return None
            key = tuple(entry.chunks for entry in same.entries)
            if key not in looked:
                looked[key] = _end_of(repository, same)
        except (Damage, ObjectArchived):
            return None  # check reports the one; the other is no reason to show nothing
        mark = looked[key]
        return None if mark is None else mark._replace(version=number)

    with ThreadPoolExecutor(_AT_ONCE) as executor:
        return [mark for mark in executor.map(look, numbers) if mark is not None]


def _same(log: FoundLog, logs: Iterable[FoundLog]) -> FoundLog | None:
    return next((one for one in logs if (one.form, one.path) == (log.form, log.path)), None)


def _end_of(repository: Repository, log: FoundLog) -> VersionMark | None:
    """Return how far a log goes; the version is not told."""
    folders = [entry.path.rpartition(b"/")[0].rpartition(b"/")[2] for entry in log.entries]
    steps = [float(folder.rpartition(b"-")[2]) for folder in folders if is_trainers_directory(folder)]
    if log.form == "state" and steps:
        return VersionMark(0, None, max(steps))  # a state has the whole history, which is not read for this
    read = read_end(repository, log)
    if read is None:
        return None
    ends = reversed(read.rows)
    epoch = next((row.epoch for row in reversed(read.rows) if row.epoch is not None), None)
    return VersionMark(0, epoch, next((row.step for row in ends if row.step is not None), None))
