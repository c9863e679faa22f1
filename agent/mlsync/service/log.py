"""Log lines: one form for the agent, for the processes of its passes, and for ``-vv`` of every command."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, TextIO

from mlsync.app.forecast import ForecastTask
from mlsync.app.wrapping import message
from mlsync.log_context import labelled
from mlsync.monitor import NoticeLevel, SilentMonitor, Task

_LOG: Final = logging.getLogger(__name__)
#: The argument by which a process of passes logs JSON.
JSON_LOG: Final = "json-log"
_OURS: Final = logging.getLogger("mlsync")
_LEVELS: Mapping[NoticeLevel, int] = {
    "info": logging.INFO,
    "status": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# syslog(3): 7 debug, 6 info, 4 warning, 3 error, 2 critical
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


class JournalFormatter(logging.Formatter):
    """Puts the journal's ``<priority>`` before each line; the journal adds time and host itself."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines, each with its priority: a traceback stays an error to its last line."""
        prefix = f"<{_priority(record.levelno)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class JsonFormatter(logging.Formatter):
    """One JSON object a record, in ASCII on one line, for programs that collect logs; *prefixed* for the journal."""

    def __init__(self, *, prefixed: bool) -> None:
        super().__init__()
        self._prefixed = prefixed

    def format(self, record: logging.LogRecord) -> str:
        """Return the record with its moment, level and text, and with the traceback if there is one."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        value = {
            "time": moment,
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "pid": record.process,
        }
        if record.exc_info:
            value["traceback"] = self.formatException(record.exc_info)
        prefix = f"<{_priority(record.levelno)}>" if self._prefixed else ""
        return prefix + json.dumps(value)


class TerminalFormatter(logging.Formatter):
    """Lines for a person at a terminal: without fractions of seconds, a level only where it is more than news.

    Lines are broken between words.
    """

    def __init__(self, terminal: TextIO) -> None:
        super().__init__("%(asctime)s %(mark)s%(message)s", "%Y-%m-%d %H:%M:%S")
        self._terminal = terminal

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines, in as many lines of the terminal as it takes."""
        record.mark = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return "\n".join(message(line, self._terminal) for line in super().format(record).splitlines())


class LogMonitor(SilentMonitor):
    """Logs notices, when tasks begin and end, and how long the long ones take.

    It is the monitor of a service, and of commands with ``-vv``.
    """

    @contextmanager
    def task(self, name: str, total: int | None, unit: str = "B") -> Iterator[Task]:
        """Open a task, of which the log shows beginning and end."""
        began_s = time.monotonic()
        _LOG.debug("%s: begins%s", name, "" if total is None else f", {total} {unit}")
        try:
            yield ForecastTask(self, name, total, unit)
        except BaseException as error:
            _LOG.debug("%s: fails after %.1f s: %s", name, time.monotonic() - began_s, error)
            raise
        _LOG.debug("%s: ends after %.1f s", name, time.monotonic() - began_s)

    def notice(self, level: NoticeLevel, text: str) -> None:
        """Log *text* on one line, whatever is in it."""
        _LOG.log(_LEVELS[level], "%s", text.replace("\n", "\\n"))


def log_to(
    stream: TextIO,
    level: int = logging.INFO,
    *,
    as_json: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Send all log records to *stream*: with priorities if it is the journal, with times otherwise, or *as_json*.

    A terminal gets lines for a person. From the level ``DEBUG`` down, lines are whole everywhere, and each names the
    run and version that this process works on.
    """
    handler = logging.StreamHandler(stream)
    if as_json:
        handler.setFormatter(JsonFormatter(prefixed=is_journal(stream, environ)))
    elif is_journal(stream, environ):
        handler.setFormatter(JournalFormatter("%(message)s"))
    elif level > logging.DEBUG and stream.isatty():
        handler.setFormatter(TerminalFormatter(stream))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    if level <= logging.DEBUG:
        handler.addFilter(_label)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Only mlsync's own records: a library's at this level could hold credentials.
    root.setLevel(logging.WARNING)
    _OURS.setLevel(level)


def is_json_log() -> bool:
    """Return whether this process logs JSON, for a process that it starts."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def log_level() -> int:
    """Return the level that this process logs from, for a process that it starts."""
    return _OURS.getEffectiveLevel()


def is_journal(stream: TextIO = sys.stderr, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether systemd connected *stream* to the journal, and it was not redirected since."""
    try:
        info = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"


def _label(record: logging.LogRecord) -> bool:
    record.msg, record.args = labelled(record.getMessage()), ()
    return True


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)
