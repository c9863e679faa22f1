"""A process of its own for passes over a run: what they need and what they leave in memory goes with it.

An agent that waits is to be small, and most passes find nothing changed. What makes versions (numpy, the S3 client, the
buffers) stays out of the agent; so does what a pass cannot be trusted not to do: run out of memory, or crash.

The agent speaks on the process's stdin in pickles, a ``Request`` or ``STOP``; its end is the process's end. The process
answers on its stdout in lines of JSON: ``beat`` and ``notice`` any number of times, then ``done`` or ``error``.
"""

from __future__ import annotations

import json
import pickle
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from mlsync import errors
from mlsync.codec.keys import Keys
from mlsync.config.model import Config, WatchSettings
from mlsync.errors import Error
from mlsync.monitor import Monitor
from mlsync.repository.keyslot import Unlock
from mlsync.service.job import Pulse

# A trainer that writes all the time is served by one process; after this long without a pass it goes.
LINGER_S: Final = 30.0
STOP: Final = "stop"
_POLL_S: Final = 0.25
_READ_BYTES: Final = 64 << 10
# -P: nothing that lies in the current directory is taken for a module.
_COMMAND: Final = (sys.executable, "-P", "-m", "mlsync.service.pass_start")


@dataclass(frozen=True, slots=True)
class Opened:
    """A repository that was found and unlocked: all that it takes to go on with it."""

    keys: Keys
    conditional_create: bool
    slot: str


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """Find the repository and unlock it; ``done`` is an ``Opened`` in JSON."""

    config: Config
    unlock: Unlock = field(repr=False)


@dataclass(frozen=True, slots=True)
class PassRequest:
    """Back up one run, whose lock the agent holds; ``done`` is an ``Outcome`` in JSON."""

    config: Config
    opened: Opened
    watch: WatchSettings


Request = OpenRequest | PassRequest


class PassProcess:
    """Starts the process when there is something to ask, and ends it when there was nothing for a while."""

    def __init__(self, monitor: Monitor, pulse: Pulse, *, linger_s: float = LINGER_S) -> None:
        self._monitor = monitor
        self._pulse = pulse
        self._linger_s = linger_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._timer: threading.Timer | None = None

    def ask(self, request: Request, stop: threading.Event) -> dict[str, Any]:
        """Return what was done; raise the error that it met, or that it could not go on. *stop* reaches the flow."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            process = self._running()
            try:
                answer = self._answer(process, request, stop)
            except BaseException:
                self._let_go()
                raise
            self._timer = threading.Timer(self._linger_s, self._end_idle)
            self._timer.daemon = True
            self._timer.start()
        if "error" in answer:
            raise _error(answer["error"])
        done: dict[str, Any] = answer["done"]
        return done

    def close(self) -> None:
        """End the process, whatever it does: as a crash would, which a backup survives."""
        # Whoever waits for its answer, in another thread, gets none then and lets go of the lock.
        while not self._lock.acquire(timeout=0.1):
            process = self._process
            if process is not None:
                process.kill()
        try:
            self._rest()
        finally:
            self._lock.release()

    @property
    def pid(self) -> int | None:
        """The process's id, if there is one."""
        return None if self._process is None else self._process.pid

    def _end_idle(self) -> None:
        with self._lock:
            self._rest()

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._let_go()

    def _let_go(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            # It died while it had nothing to do, which costs nothing.
            self._let_go()
        if self._process is None:
            try:
                # A session of its own: Ctrl-C is for the agent, which then asks the flow to stop.
                self._process = subprocess.Popen(  # noqa: S603 - our own program, by our own interpreter
                    _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
                )
            except OSError as error:
                raise Error(f"the process that backs up does not start: {error.strerror}") from error
        return self._process

    def _answer(self, process: subprocess.Popen[bytes], request: Request, stop: threading.Event) -> dict[str, Any]:
        try:
            _tell(process, request)
            for told in _hear(process, stop):
                self._pulse.beat()
                if "notice" in told:
                    self._monitor.notice(*told["notice"])
                elif "beat" not in told:
                    return told
        except BrokenPipeError:
            pass
        raise _ended(process)


def _tell(process: subprocess.Popen[bytes], message: object) -> None:
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(message))


def _hear(process: subprocess.Popen[bytes], stop: threading.Event) -> Iterator[dict[str, Any]]:
    """Yield what the process says until it ends; hand *stop* on to it, once."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    is_told = False
    received = b""
    while True:
        if stop.is_set() and not is_told:
            _tell(process, STOP)
            is_told = True
        if not poll.poll(_POLL_S * 1000):
            continue
        block = process.stdout.read(_READ_BYTES)
        if not block:
            return
        *lines, received = (received + block).split(b"\n")
        yield from map(json.loads, lines)


def _error(told: dict[str, Any]) -> Error:
    """Return an error as it was raised on the other side."""
    kind: type[Error] = getattr(errors, told["kind"])
    return kind(told["what"], where=told["where"], advice=told["advice"])


def _ended(process: subprocess.Popen[bytes]) -> Error:
    """Return what to say of a process that ended in the middle of a pass."""
    status = process.wait()
    how = f"was killed by signal {-status}" if status < 0 else f"ended with {status}"
    advice = "out of memory? the kernel's log would say so" if status == -9 else None  # noqa: PLR2004 - SIGKILL
    return Error(f"the process that backs up {how}", advice=advice)
