"""A sign of life to a service that raises the alarm when none comes: after each proved version, and never otherwise."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from mlsync.app.secrets import read_secret_line
from mlsync.errors import Error
from mlsync.monitor import Monitor
from mlsync.tell.letter import HEARTBEAT, Letter, send

# Above what the request may take, with the start of a process on a busy machine.
_TIMEOUT_S: Final = 30.0


class HeartbeatUrl:
    """Requests the URL in *file* in the background; a failure is a notice when it begins, and costs no backup."""

    def __init__(self, file: Path | None, monitor: Monitor) -> None:
        self._file = file
        self._monitor = monitor
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._has_failed = False

    def proved(self) -> None:
        """Tell the service that a version was proved just now; one request at a time says so of all that came."""
        if self._file is None:
            return
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._tell, args=(self._file,), name="heartbeat", daemon=True)
                self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Wait for the request under way."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _tell(self, file: Path) -> None:
        why = _failure(file)
        if why and not self._has_failed:
            self._monitor.notice("warning", f"the heartbeat URL was not reached: {why}; backups go on")
        elif self._has_failed and not why:
            self._monitor.notice("info", "the heartbeat URL is reached again")
        self._has_failed = bool(why)


def _failure(file: Path) -> str:
    """Request the URL; return why that failed, empty if it did not."""
    try:
        url = read_secret_line(file).decode()
    except Error as error:
        return str(error)
    except UnicodeDecodeError:
        return "it is no URL with http or https"
    answer = send(Letter(HEARTBEAT, url.strip(), "", "en", ()), timeout_s=_TIMEOUT_S)
    return "" if answer.is_taken else answer.said
