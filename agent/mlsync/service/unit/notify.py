"""What systemd is told: readiness, status, signs of life."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from typing import Final

from mlsync.service.log import is_journal

_LOG: Final = logging.getLogger(__name__)


class Notifier:
    """Sends ``sd_notify`` messages to the service manager, if there is one; never raises an error."""

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        self._address = address
        self.watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Notifier:
        """Return the notifier that systemd asks for; remove its variables, since no child may notify for the agent."""
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds, process = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        mine = not process or process == str(os.getpid())
        watchdog_s = int(microseconds) / 1e6 if microseconds.isascii() and microseconds.isdigit() and mine else None
        return cls(address or None, watchdog_s or None)

    def ready(self) -> None:
        """Notify that the service is started, or reloaded."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Notify that the service reloads, until ``ready``."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Notify that the service is stopping."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Show *text* in ``systemctl status``."""
        self._send("STATUS=" + text.replace("\n", " "))

    def alive(self) -> None:
        """Restart the watchdog's timeout."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        # "@" means the zero byte of an abstract address.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
                # A manager that does not read must not block the agent: its watchdog would then kill it.
                connection.settimeout(1.0)
                connection.connect(address)
                connection.sendall(message.encode("utf-8", "replace"))
        except OSError as error:
            _LOG.debug("the service manager cannot be notified: %s", error)


def is_service(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether a service manager started this process: it takes notices, or reads what the process writes."""
    return "NOTIFY_SOCKET" in environ or is_journal(environ=environ)
