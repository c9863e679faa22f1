"""What is told to systemd: readiness, status, life signs; and log lines with the journal's priorities."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import TextIO

from mlsync.monitor import Severity, SilentMonitor

_LOG = logging.getLogger("mlsync")
_LEVELS: Mapping[Severity, int] = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# syslog(3): 7 debug, 6 info, 4 warning, 3 error, 2 critical
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


class Notifier:
    """Speaks ``sd_notify`` to the service manager; silent where there is none, and never an error to the caller."""

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        self._address = address
        self.watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Notifier:
        """The notifier that systemd asks for; its variables are taken away, for no child may speak for the agent."""
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds, process = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        mine = not process or process == str(os.getpid())
        watchdog_s = int(microseconds) / 1e6 if microseconds.isascii() and microseconds.isdigit() and mine else None
        return cls(address or None, watchdog_s or None)

    def ready(self) -> None:
        """The service counts as started, or as reloaded."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The service counts as reloading until it is ready again."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The service counts as on its way out."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """*text* stands in ``systemctl status``."""
        self._send("STATUS=" + text.replace("\n", " "))

    def alive(self) -> None:
        """The watchdog's time begins anew."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        # "@" stands for the zero byte of an abstract address.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaker:
                # A manager that does not listen must not hang the agent: its watchdog would then kill it.
                speaker.settimeout(1.0)
                speaker.connect(address)
                speaker.sendall(message.encode("utf-8", "replace"))
        except OSError as error:
            _LOG.debug("the service manager does not listen: %s", error)


class JournalFormatter(logging.Formatter):
    """Puts the journal's ``<priority>`` before each line; time and host are the journal's own."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines, each with its priority: a traceback stays an error to its last line."""
        prefix = f"<{_priority(record.levelno)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class LogMonitor(SilentMonitor):
    """Sends notices to the log, and shows no progress: the monitor of a service."""

    def notice(self, severity: Severity, text: str) -> None:
        """*text* stands in the log, on one line whatever is in it."""
        _LOG.log(_LEVELS[severity], "%s", text.replace("\n", "\\n"))


def log_to(stream: TextIO, *, verbose: bool = False, environ: Mapping[str, str] = os.environ) -> None:
    """From now on all log records go to *stream*: with priorities if it is the journal, with times otherwise."""
    handler = logging.StreamHandler(stream)
    if is_journal(stream, environ):
        handler.setFormatter(JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _LOG.setLevel(logging.DEBUG if verbose else logging.INFO)


def is_journal(stream: TextIO = sys.stderr, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether *stream* is the one that systemd connected to the journal, not one that it was redirected to since."""
    try:
        info = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)
