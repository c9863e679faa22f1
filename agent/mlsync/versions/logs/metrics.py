"""The numbers that trainers logged, read from a version."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mlsync.errors import Damage, ObjectArchived
from mlsync.formats.layout import ByteSource
from mlsync.formats.logs.json_logs import read_json_lines, read_state
from mlsync.formats.logs.mlflow_files import read_mlflow
from mlsync.formats.logs.rows import LOG_BYTES_MAX, TrainingLog
from mlsync.formats.logs.tables import read_table
from mlsync.formats.logs.tensorboard import read_events
from mlsync.formats.section import BytesSource
from mlsync.repository.manifest import Entry
from mlsync.repository.reader import ChunkReader
from mlsync.repository.repository import Repository
from mlsync.versions.logs.content import content_of
from mlsync.versions.logs.found import FoundLog, find_logs
from mlsync.versions.stored_file import RestoredFile

# Of the logs of one training, and of the files of one log, the newest; each is read before anything is shown.
_LOGS_MAX: Final = 20
_FILES_MAX: Final = 200
_HEAD_BYTES: Final = 64 << 10
_END_BYTES: Final = 64 << 10


def logged_metrics(repository: Repository, entries: Iterable[Entry]) -> Mapping[str, float]:
    """Return the metrics of a version by the names that its trainer gives them: the last number of each.

    They are those of the training that logged last. Where several of its logs have a name, the one that grew last
    counts. TensorBoard's events, which are large, are read only if no other log says anything. A number that is not
    finite is no metric. A log that is damaged or in cold storage says nothing. A store that is away is an error: who
    compares versions must not take its silence for an answer.
    """
    found: dict[str, float] = {}
    logs = of_newest_training(find_logs(entries))
    for log in sorted(logs, key=lambda log: log.form == "events"):
        if found and log.form == "events":
            break
        try:
            read = read_log(repository, log)
        except (Damage, ObjectArchived):
            continue
        found = ({} if read is None else read.last()) | found
    return {name: number for name, number in found.items() if math.isfinite(number)}


def of_newest_training(logs: list[FoundLog]) -> list[FoundLog]:
    """Return the logs of the training that logged last, out of those of a version, the newest first."""
    return [log for log in logs if log.is_beside(logs[0])][:_LOGS_MAX]


def read_log(repository: Repository, log: FoundLog) -> TrainingLog | None:
    """Return what a log says, ``None`` if it has no number; raise what the store or a damaged object raises."""
    with repository.reader() as reader:
        read = _READERS[log.form](_Sources(repository, reader, LOG_BYTES_MAX), log)
    is_long = log.form in ("table", "json-lines") and log.entries[0].size_bytes > LOG_BYTES_MAX
    if read is None or not is_long:
        return read
    note = f"of the log, the last {LOG_BYTES_MAX >> 20} MiB are read"
    return dataclasses.replace(read, notes=(note, *read.notes))


def read_end(repository: Repository, log: FoundLog) -> TrainingLog | None:
    """Return the last rows of a log, of which few bytes are read; ``None`` if there is no number in them."""
    with repository.reader() as reader:
        return _READERS[log.form](_Sources(repository, reader, _END_BYTES), log)


@dataclass(frozen=True, slots=True)
class _Sources:
    """The files of logs, of each of which *bytes_max* are to be read; those that have no more are kept for others."""

    repository: Repository
    reader: ChunkReader
    bytes_max: int

    def of(self, entry: Entry) -> ByteSource:
        """Return a file to read from."""
        if entry.size_bytes <= self.bytes_max:
            return BytesSource(content_of(self.repository, entry))
        return RestoredFile(self.reader, entry, lambda _: None)


def _table(sources: _Sources, log: FoundLog) -> TrainingLog | None:
    return read_table(_begin_and_end(sources.of(log.entries[0]), sources.bytes_max))


def _json_lines(sources: _Sources, log: FoundLog) -> TrainingLog | None:
    file = sources.of(log.entries[0])
    # Logs of other kinds have these names too, and may be large
    if file.read_at(0, min(_HEAD_BYTES, file.size_bytes)).lstrip()[:1] != b"{":
        return None
    return read_json_lines(_begin_and_end(file, sources.bytes_max))


def _state(sources: _Sources, log: FoundLog) -> TrainingLog | None:
    """Return what the newest state says that has anything: a later one has the history of those before."""
    for entry in sorted(log.entries, key=lambda entry: entry.mtime_ns, reverse=True)[:_LOGS_MAX]:
        if entry.size_bytes <= LOG_BYTES_MAX:
            read = read_state(sources.of(entry).read_at(0, entry.size_bytes))
            if read is not None:
                return read
    return None


def _mlflow(sources: _Sources, log: FoundLog) -> TrainingLog | None:
    beginning = len(log.path) + len(b"/metrics/") if log.path else len(b"metrics/")
    files = sorted(log.entries, key=lambda entry: entry.path)[:_FILES_MAX]
    names = [entry.path[beginning:].decode("utf-8", "replace") for entry in files]
    ends = [_end(sources.of(entry), sources.bytes_max // len(files)) for entry in files]
    return read_mlflow(list(zip(names, ends, strict=True)))


def _events(sources: _Sources, log: FoundLog) -> TrainingLog | None:
    # Their names begin with the time at which they were begun
    files = sorted(log.entries, key=lambda entry: entry.path)[-_FILES_MAX:]
    if sources.bytes_max < LOG_BYTES_MAX:
        return read_events([sources.of(files[-1])], sources.bytes_max)
    return read_events([sources.of(entry) for entry in files])


_READERS: Final[Mapping[str, Callable[[_Sources, FoundLog], TrainingLog | None]]] = {
    "table": _table,
    "json-lines": _json_lines,
    "state": _state,
    "mlflow": _mlflow,
    "events": _events,
}


def _begin_and_end(file: ByteSource, bytes_max: int) -> bytes:
    """Return a text, without lines in the middle if it is very long: its first line, and its end."""
    if file.size_bytes <= bytes_max:
        return file.read_at(0, file.size_bytes)
    head, newline, _ = file.read_at(0, min(_HEAD_BYTES, file.size_bytes)).partition(b"\n")
    return head + newline + _end(file, bytes_max)


def _end(file: ByteSource, bytes_max: int) -> bytes:
    """Return the last lines of a text, all of them if it is short."""
    length = min(file.size_bytes, bytes_max)
    data = file.read_at(file.size_bytes - length, length)
    return data if length == file.size_bytes else data.partition(b"\n")[2]
