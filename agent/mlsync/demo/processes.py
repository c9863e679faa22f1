"""The demo's processes: each has its own session, and none outlives the demo, however that ends."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlsync.errors import Error

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.05
# Many times what any step takes on a slow machine.
_PATIENCE_S = 120.0
_TAIL_LINES = 12
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
# Loaded here, not between fork and exec, where few calls are safe.
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block the signals that end the demo, so that they do not interrupt its cleanup."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class DemoProcess:
    """A process that writes to files and does not outlive the demo."""

    def __init__(self, name: str, command: Sequence[str], output: Path, log: Path, temporary: Path) -> None:
        self.name = name
        self.log = log
        with output.open("wb") as out, log.open("ab") as err:
            self._process = subprocess.Popen(  # noqa: S603 - our own programs, by our own interpreter
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                # Libraries such as torch leave directories in the place for temporary files.
                env=environment() | {"TMPDIR": str(temporary)},
                # Ctrl-C is for the demo alone, which then ends its processes in order.
                start_new_session=True,
                preexec_fn=_dies_with(os.getpid()),  # noqa: PLW1509 - the demo has one thread
            )

    def __enter__(self) -> Self:
        """Return the running process."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process and what it started."""
        with signals_blocked():
            if self.is_alive():
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Return whether the process still runs."""
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """Return the exit status, negative for a signal; raise an ``Error`` if the process does not end in time."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise Error(f"{self.name} did not end within {timeout_s:.0f} s", where=self.tail()) from None

    def tail(self) -> str:
        """Return the last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(["its log ends:", *lines[-_TAIL_LINES:]]) if lines else "its log is empty"


def wait_for(condition: Callable[[], bool], alive: Sequence[DemoProcess], what: str) -> None:
    """Return when *condition* holds; raise an ``Error`` if one of *alive* ends first or the time is up."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while not condition():
        for child in alive:
            if not child.is_alive():
                status = child.wait(1.0)
                raise Error(f"{child.name} ended with {status} before {what}", where=child.tail())
        if time.monotonic() > deadline_s:
            tails = "\n".join(f"{child.name}: {child.tail()}" for child in alive)
            raise Error(f"waited {_PATIENCE_S:.0f} s, but never {what}", where=tails or None)
        time.sleep(_POLL_S)


def mlsync_command(*arguments: str) -> list[str]:
    """Return a command line that runs this installation of mlsync."""
    return [sys.executable, "-P", "-m", "mlsync", *arguments]


def run_mlsync(*arguments: str, state: Path | None = None) -> dict[str, Any]:
    """Run a command of mlsync and return its JSON.

    *state* is the directory for its local state where no configuration names one, so that the demo leaves
    nothing behind.
    """
    done = subprocess.run(  # noqa: S603 - our own program, by our own interpreter
        mlsync_command(*arguments, "--json"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=environment() | ({} if state is None else {"STATE_DIRECTORY": str(state)}),
        start_new_session=True,
        preexec_fn=_dies_with(os.getpid()),
    )
    if done.returncode != 0:
        raise Error(f"mlsync {arguments[0]} ended with {done.returncode}", where=done.stderr.strip() or None)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def environment() -> dict[str, str]:
    """Return the environment without the user's own settings of mlsync, which are not for the demo."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MLSYNC_")}


def _dies_with(parent: int) -> Callable[[], None]:
    def set_up() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have died before the line above.
        if os.getppid() != parent:
            os._exit(1)

    return set_up
