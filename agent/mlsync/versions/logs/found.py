"""Which files of a version are logs of trainings, by the names that trainers give them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import translate
from typing import Final, Literal, TypeAlias

from mlsync.formats.groups.huggingface import is_trainers_directory
from mlsync.formats.logs.tensorboard import is_events_name
from mlsync.formats.logs.trainer_logs import RESULTS_NAME, STATE_NAME
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry

Form: TypeAlias = Literal["table", "state", "json-lines", "mlflow", "events"]
#: What is looked for, as messages and the documentation say it.
NAMES: Final[dict[Form, tuple[str, ...]]] = {
    "table": (
        os.fsdecode(RESULTS_NAME),
        "metrics.csv",
        "progress.csv",
        "summary.csv",
        "history.csv",
        "log.csv",
        "training.log",
    ),
    "state": (os.fsdecode(STATE_NAME),),
    "json-lines": (
        "*metrics*.jsonl",
        "*log*.jsonl",
        "*history*.jsonl",
        "metrics.json",
        "scalars.json",
        "*.log.json",
        "log.txt",
        "result.json",
    ),
    "mlflow": ("metrics/NAME of MLflow",),
    "events": ("*tfevents*",),
}
_TABLE, _JSON_LINES = (
    re.compile("|".join(map(translate, NAMES[form])).encode(), re.DOTALL) for form in ("table", "json-lines")
)
_METRICS: Final = b"metrics"
_META: Final = b"meta.yaml"


@dataclass(frozen=True, slots=True)
class FoundLog:
    """A log of a training: its files, and the *directory* of the training that it belongs to.

    *path* is that of its file, or of the directory where it is made of several; *changed_ns* is when it grew last.
    """

    form: Form
    path: bytes
    directory: bytes
    entries: tuple[Entry, ...]

    @property
    def changed_ns(self) -> int:
        """When it grew last."""
        return max(entry.mtime_ns for entry in self.entries)

    @property
    def shown(self) -> bytes:
        """The path that people see: that of the newest file where several files, or the run itself, would say less."""
        newest = max(self.entries, key=lambda entry: (entry.mtime_ns, entry.path))
        return newest.path if self.form == "state" or not self.path else self.path

    def is_beside(self, other: FoundLog) -> bool:
        """Return whether both are of one training: the directory of one is that of the other, or holds it."""
        return _holds(self.directory, other.directory) or _holds(other.directory, self.directory)


def find_logs(entries: Iterable[Entry]) -> list[FoundLog]:
    """Return the logs among the files of a version, that which grew last first."""
    files = {entry.path: entry for entry in entries if entry.kind is EntryKind.FILE and entry.size_bytes}
    gathered: dict[tuple[Form, bytes, bytes], list[Entry]] = {}
    for path, entry in files.items():
        for form, place, directory in _places(path, files):
            gathered.setdefault((form, place, directory), []).append(entry)
    found = [FoundLog(form, place, directory, tuple(parts)) for (form, place, directory), parts in gathered.items()]
    return sorted(found, key=lambda log: (-log.changed_ns, log.path))


def _places(path: bytes, files: dict[bytes, Entry]) -> Iterator[tuple[Form, bytes, bytes]]:
    """Yield the form of a log that a file belongs to, the log's path, and the directory of the training; or nothing."""
    directory, _, name = path.rpartition(b"/")
    if is_events_name(name):
        yield "events", directory, directory
    elif name == STATE_NAME:
        # Each checkpoint has the whole history up to it
        above, _, folder = directory.rpartition(b"/")
        training = above if is_trainers_directory(folder) else directory
        yield "state", training, training
    elif b"metrics/" in path and (run := _mlflow_run(path, files)) is not None:
        yield "mlflow", run, run
    elif _TABLE.match(name):
        yield "table", path, directory
    elif _JSON_LINES.match(name):
        yield "json-lines", path, directory


def _mlflow_run(path: bytes, files: dict[bytes, Entry]) -> bytes | None:
    """Return the directory of MLflow's run that a file is a metric of: there is a ``meta.yaml`` in it."""
    parts = path.split(b"/")
    for at in range(len(parts) - 2, 0, -1):
        run = b"/".join(parts[:at])
        if parts[at] == _METRICS and run + b"/" + _META in files:
            return run
    return None


def _holds(above: bytes, below: bytes) -> bool:
    return not above or above == below or below.startswith(above + b"/")
