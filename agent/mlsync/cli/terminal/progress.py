"""Progress for a person: one line that changes on a terminal, a few that stay in a pipe; notices on stderr in both."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from mlsync.app.forecast import ForecastTask, Speed
from mlsync.cli.terminal.live_line import LiveLine, may_draw
from mlsync.cli.terminal.output import message, printable
from mlsync.cli.terminal.progress_line import FINE, PLAIN, View, progress_line
from mlsync.monitor import NoticeLevel, SilentTask, Task

# Long enough not to jump, and short enough to follow a network that gets slower.
_SPEED_S: Final = 10.0
_TURNS_PER_S: Final = 10


class TerminalMonitor:
    """Shows progress in a line if *stream*, stderr, is a terminal, and the notices that the options ask for.

    Elsewhere a task that takes long says how long, in a line now and then. Of several tasks the newest is shown.
    """

    def __init__(
        self, *, quiet: bool = False, verbose: bool = False, bars: bool = True, stream: TextIO | None = None
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._verbose = verbose
        self._forecasts = bars and not quiet
        self._line = LiveLine(self._shown, self._stream) if self._forecasts and may_draw(self._stream) else None
        self._signs = FINE if (self._stream.encoding or "").lower().startswith("utf") else PLAIN
        self._lock = threading.Lock()
        self._open: list[_ShownTask] = []

    @contextmanager
    def task(self, name: str, total: int | None, unit: str = "B") -> Iterator[Task]:
        """Show a task while it is open."""
        if self._line is None:
            yield ForecastTask(self, name, total, unit) if self._forecasts else SilentTask()
            return
        task = _ShownTask(printable(name), total, unit)
        with self._lock:
            self._open.append(task)
        self._line.show()
        try:
            yield task
        finally:
            with self._lock:
                self._open.remove(task)
                is_last = not self._open
            if is_last:
                self._line.hide()

    def notice(self, level: NoticeLevel, text: str) -> None:
        """Print it on stderr, above the line that changes."""
        if (level == "info" and not self._verbose) or (self._quiet and level != "error"):
            return
        line = message(text if level in ("info", "status") else f"{level}: {text}", self._stream)
        if self._line is not None:
            self._line.print_above(line)
        else:
            print(line, file=self._stream, flush=True)

    def _shown(self, columns: int) -> str:
        with self._lock:
            task = self._open[-1] if self._open else None
        return "" if task is None else progress_line(task.view(time.monotonic()), columns, self._signs)


class _ShownTask:
    def __init__(self, name: str, total: int | None, unit: str) -> None:
        self._name = name
        self._total = total
        self._unit = unit
        self._done = 0
        self._what = ""
        self._speed = Speed(_SPEED_S)

    def advance(self, amount: int) -> None:
        """Move the bar."""
        self._done += amount

    def say(self, what: str) -> None:
        """Show what is being done."""
        self._what = what

    def view(self, now_s: float) -> View:
        """Return the task as it is now; the rate is measured between the calls."""
        done = self._done
        if done:
            self._speed.sample(done, now_s)
        rate = self._speed.rate(done, now_s)
        turn = int(now_s * _TURNS_PER_S)
        return View(self._name, printable(self._what), done, self._total, self._unit, rate, turn)
