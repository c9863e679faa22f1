"""The process beside a training that backs it up, as ``mlsync run`` sees it; its end never is the training's."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from mlsync import errors
from mlsync.errors import Error
from mlsync.service.training.messages import Start, ToCompanion

# -P: Python takes no file in the current directory for a module.
_COMMAND: Final = (sys.executable, "-P", "-m", "mlsync.service.training.companion_process")
_READ_BYTES: Final = 64 << 10


class Companion:
    """Starts the process, passes messages, and notes how it ended; it may be started again."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""
        self.ended: int | None = None

    def start(self, message: Start) -> None:
        """Start it; raise ``Error`` if the system does not."""
        self.close()
        try:
            # A session of its own: Ctrl-C is for the training, and the weight of its session is for it alone.
            self._process = subprocess.Popen(  # noqa: S603 - our own program, by our own interpreter
                _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
            )
        except OSError as error:
            raise Error(f"the process that backs up does not start: {error.strerror}") from error
        self._received, self.ended = b"", None
        self.send(message)

    def send(self, message: ToCompanion) -> None:
        """Tell it; one that has ended hears nothing, and that is noticed elsewhere."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError, ValueError):
                self._process.stdin.write(pickle.dumps(message))

    @property
    def descriptor(self) -> int | None:
        """What to wait for; ``None`` once it has said all."""
        process = self._process
        return None if process is None or process.stdout is None else process.stdout.fileno()

    @property
    def pid(self) -> int | None:
        """Its id, as long as it was not noted to have ended."""
        return None if self._process is None or self.ended is not None else self._process.pid

    def note_end(self, status: int) -> None:
        """Note the status with which the process was waited for."""
        self.ended = status
        if self._process is not None:
            self._process.returncode = status

    def received(self) -> Iterator[dict[str, Any]] | None:
        """Return what it has said since, or ``None`` if it has said all: its end of the pipe is closed."""
        assert self._process is not None
        assert self._process.stdout is not None
        block = self._process.stdout.read(_READ_BYTES)
        if not block:
            self._close_pipes()
            return None
        *lines, self._received = (self._received + block).split(b"\n")
        return map(json.loads, lines)

    def kill(self) -> None:
        """End it by force, if it has not ended."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, 9)

    def close(self) -> None:
        """Let go of it: it goes on until its work is done, if it still runs."""
        self._close_pipes()
        if self._process is not None and self._process.returncode is None:
            # Nobody waits for it here any more; without this, that would be warned of.
            self._process.returncode = 0
        self._process = None

    def _close_pipes(self) -> None:
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
            self._process.stdout = None


def error_in(said: dict[str, Any]) -> Error:
    """Return the error that kept it from getting ready, as it raised it."""
    kind: type[Error] = getattr(errors, said["kind"])
    return kind(said["what"], where=said["where"], advice=said["advice"])
