"""Commands that get an event as JSON on stdin; how they end is told and changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Final

from mlsync.tell.event import NoticeEvent

#: Which event starts which command.
HOOKS: Final[Mapping[str, str]] = {
    "version": "on_version",
    "best": "on_best",
    "broken": "on_broken",
    "preemption": "on_preemption",
}
_OUTPUT_BYTES_MAX: Final = 4096
_READ_BYTES: Final = 4096
_DRAIN_S: Final = 2.0
_LOOK_S: Final = 0.25
# What may hold secrets of mlsync or of the store.
_PRIVATE: Final = ("MLSYNC_", "AWS_")
_WITHOUT: Final = frozenset(
    {
        *("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
        *("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD"),
    }
)


def run_hook(
    command: Sequence[str],
    event: NoticeEvent,
    timeout_s: float,
    environ: Mapping[str, str] = os.environ,
    *,
    without: Sequence[str] = (),
    stop: threading.Event | None = None,
) -> tuple[str, str]:
    """Run a command; return why it failed, empty if it did not, and the end of what it printed.

    It has a session of its own, which is killed at the time-out, once *stop* is set, and when the command ends: no
    child of it stays.
    """
    hidden = _WITHOUT | set(without)
    given = {name: value for name, value in environ.items() if not name.startswith(_PRIVATE) and name not in hidden}
    given["MLSYNC_EVENT"] = event.kind
    try:
        process = subprocess.Popen(  # noqa: S603 - the configuration's own command, without a shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=given,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return f"it cannot be started: {getattr(error, 'strerror', None) or type(error).__name__}", ""
    assert process.stdin is not None
    assert process.stdout is not None
    last = _Last(process.stdout)
    last.start()
    writer = threading.Thread(target=_write, args=(process.stdin, event), name="hook-input", daemon=True)
    writer.start()
    try:
        status = _status(process, time.monotonic() + timeout_s, stop)
        if status is not None:
            why = "" if status == 0 else _ending(status)
        elif stop is not None and stop.is_set():
            why = "killed, since the agent ends"
        else:
            why = f"not done after {timeout_s:g} s, and killed"
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    last.join(_DRAIN_S)
    return why, last.text()


def _status(process: subprocess.Popen[bytes], until_s: float, stop: threading.Event | None) -> int | None:
    """Return the exit status of a process; ``None`` if it runs at *until_s*, on the monotonic clock, or at *stop*."""
    while (left_s := until_s - time.monotonic()) > 0 and not (stop is not None and stop.is_set()):
        with suppress(subprocess.TimeoutExpired):
            return process.wait(min(left_s, _LOOK_S))
    return process.poll()


def _write(stream: IO[bytes], event: NoticeEvent) -> None:
    # A command need not read it.
    with suppress(OSError, ValueError), stream:
        stream.write(json.dumps(event.as_json()).encode() + b"\n")


def _ending(status: int) -> str:
    if status > 0:
        return f"it ended with status {status}"
    with suppress(ValueError):
        return f"{signal.Signals(-status).name} ended it"
    return f"signal {-status} ended it"


class _Last(threading.Thread):
    """Reads a stream to its end and keeps the last few kilobytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(name="hook-output", daemon=True)
        self._stream = stream
        self._kept = b""

    def run(self) -> None:
        """Read."""
        with suppress(OSError, ValueError), self._stream as stream:
            while read := os.read(stream.fileno(), _READ_BYTES):
                self._kept = (self._kept + read)[-_OUTPUT_BYTES_MAX:]

    def text(self) -> str:
        """Return what is kept, as one line."""
        text = self._kept.decode("utf-8", "replace")
        return " ".join("".join(one if one.isprintable() else " " for one in text).split())
