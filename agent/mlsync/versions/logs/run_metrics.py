"""What one log of a training says, as a version holds it, and which versions hold which point of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mlsync.errors import LogMissing
from mlsync.formats.logs.rows import TrainingLog
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.source.paths import display
from mlsync.versions.decided import decided_of
from mlsync.versions.logs.found import NAMES, Form, FoundLog, find_logs
from mlsync.versions.logs.marks import VersionMark, marks_of
from mlsync.versions.logs.metrics import of_newest_training, read_log

# The newest versions are marked; each costs a few small reads.
_MARKED_MAX: Final = 50
_NAMED_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """The log that was read, what it says, which versions hold which of its points, and what other logs there are."""

    stored: StoredVersion
    log: FoundLog
    said: TrainingLog
    marks: tuple[VersionMark, ...]
    others: tuple[FoundLog, ...]


def metrics_of(repository: Repository, stored: StoredVersion, path: bytes | None) -> RunMetrics:
    """Return what the log at *path* says, or else that of the training that logged last; raise ``LogMissing``.

    *path* is a log's or that of a training's directory. At the path of any other file a table in CSV or lines of JSON
    are read, whatever it is called.
    """
    entries = list(repository.entries(stored))
    logs = find_logs(entries)
    wanted = of_newest_training(logs) if path is None else _at(os.path.normpath(path), logs, entries)
    for log in sorted(wanted, key=lambda log: log.form == "events"):
        said = read_log(repository, log)
        if said is not None:
            others = tuple(one for one in logs if one.path != log.path)
            return RunMetrics(stored, log, said, tuple(_marks(repository, stored, log)), others)
    raise _missing(repository, stored, path, wanted, logs)


def _at(path: bytes, logs: Iterable[FoundLog], entries: Iterable[Entry]) -> list[FoundLog]:
    """Return the logs that a path names: a log, or one by a file of it, or those below a directory."""
    below = b"" if path == b"." else path + b"/"
    exact = [log for log in logs if path in (log.path, *(entry.path for entry in log.entries))]
    found = exact or [log for log in logs if (log.path + b"/").startswith(below)]
    if found:
        return found
    files = [entry for entry in entries if entry.path == path and entry.kind is EntryKind.FILE]
    forms: tuple[Form, ...] = ("table", "json-lines")
    return [FoundLog(form, path, path.rpartition(b"/")[0], (entry,)) for entry in files for form in forms]


def _marks(repository: Repository, stored: StoredVersion, log: FoundLog) -> list[VersionMark]:
    """Return how far the newest versions up to this one go."""
    run, number = stored.root.run, stored.root.number
    dropped = decided_of(repository, run)
    kept = [one for one in repository.numbers(run) if one < number and dropped.dropped(one) is None]
    return marks_of(repository, run, log, [*kept[1 - _MARKED_MAX :], number])


def _missing(
    repository: Repository,
    stored: StoredVersion,
    path: bytes | None,
    wanted: Sequence[FoundLog],
    logs: Sequence[FoundLog],
) -> LogMissing:
    """Return what was looked for in vain, and what there is."""
    which = f"version {stored.root.number} of run {stored.root.run!r}"
    if wanted:
        named = listed(dict.fromkeys(log.shown for log in wanted))
        what = f"{which} has no numbers in {named}"
    elif path is not None:
        what = f"{which} has no file or log at {display(path)}"
    else:
        looked = ", ".join(name for names in NAMES.values() for name in names)
        what = f"{which} holds no log of a training; looked for {looked}"
    there = [log.shown for log in logs if log not in wanted]
    advice = f"--log PATH reads one of: {listed(there)}" if there else None
    return LogMissing(what, where=repository.store.url, advice=advice)


def listed(paths: Iterable[bytes]) -> str:
    """Return some paths in words."""
    shown = list(map(display, paths))
    more = f" and {len(shown) - _NAMED_MAX} more" if len(shown) > _NAMED_MAX else ""
    return ", ".join(shown[:_NAMED_MAX]) + more
