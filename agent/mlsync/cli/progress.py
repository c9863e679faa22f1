"""Progress for a person: bars on a terminal, nothing in a pipe, notices on stderr in both cases."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlsync.cli.output import printable
from mlsync.monitor import NoticeLevel, Task

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class TerminalMonitor:
    """Shows progress bars if stderr is a terminal, and the notices that the options ask for."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False, bars: bool = True) -> None:
        self._quiet = quiet
        self._verbose = verbose
        self._bars = bars and sys.stderr.isatty() and not quiet
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._open_count = 0

    @contextmanager
    def task(self, name: str, total: int | None, unit: str = "B") -> Iterator[Task]:
        """Show a bar while the task is open."""
        if not self._bars or not total:
            yield _NoTask()
            return
        progress = self._begin(unit)
        task_id = progress.add_task(name, total=total)
        try:
            yield _BarTask(progress, task_id)
        finally:
            progress.remove_task(task_id)
            self._end()

    def notice(self, level: NoticeLevel, text: str) -> None:
        """Print it on stderr, above the bars."""
        if (level == "info" and not self._verbose) or (self._quiet and level != "error"):
            return
        line = printable(text if level == "info" else f"{level}: {text}")
        if self._progress is not None:
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is where printing is done

    def _begin(self, unit: str) -> Progress:
        with self._lock:
            self._open_count += 1
            if self._progress is None:
                self._progress = _bars(unit)
                self._progress.start()
            return self._progress

    def _end(self) -> None:
        with self._lock:
            self._open_count -= 1
            if self._open_count == 0 and self._progress is not None:
                self._progress.stop()
                self._progress = None


class _NoTask:
    def advance(self, amount: int) -> None:
        """Drop it."""


class _BarTask:
    def __init__(self, progress: Progress, task_id: TaskID) -> None:
        self._progress = progress
        self._task_id = task_id

    def advance(self, amount: int) -> None:
        """Move the bar."""
        self._progress.advance(self._task_id, amount)


def _bars(unit: str) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amount = [DownloadColumn(binary_units=True), TransferSpeedColumn()] if unit == "B" else [MofNCompleteColumn()]
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *amount,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
