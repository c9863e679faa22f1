"""A process for the passes over a run: when it ends, so does all that they load and leave in memory.

An agent that waits should be small, and most passes find no change. So what makes versions (numpy, the S3 client, the
buffers) stays out of the agent. A pass that runs out of memory or crashes does not take the agent with it either.

The agent writes pickles to the process's stdin, a ``Request``, ``ReadyRequest``, ``LEAVE_GPU`` or ``STOP``; the
process ends when that is closed. It answers on its stdout in lines of JSON: ``beat`` with a ``Doing`` any number of
times, then ``done`` or ``error``. Its log goes to the agent's stderr.
"""

from __future__ import annotations

import json
import logging
import math
import pickle
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from mlsync import errors
from mlsync.codec.keys import Keys
from mlsync.config.model import Config, WatchSettings
from mlsync.courtesy.priority import stands_back
from mlsync.courtesy.share import processor_s
from mlsync.errors import Error, ProcessKilled
from mlsync.repository.keys.keyslot import Unlock
from mlsync.service.job import Heartbeat, Interruption
from mlsync.service.log import JSON_LOG, is_json_log, log_level
from mlsync.service.passes.doing import Doing
from mlsync.source.held import HeldSave

# One process serves a trainer that writes all the time; without a pass for this long it ends.
IDLE_S: Final = 30.0
STOP: Final = "stop"
#: The argument with the number of the socket for descriptors, and how many come in a message: the kernel takes 253.
HANDOVER: Final = "handover="
HANDED_AT_ONCE: Final = 64
# The same, but a version whose content is stored is committed first, and proved later.
HURRY: Final = "hurry"
# A child that waits on a GPU is to leave it now.
LEAVE_GPU: Final = "leave-gpu"
_LOG: Final = logging.getLogger(__name__)
_POLL_S: Final = 0.25
_READ_BYTES: Final = 64 << 10
# -P: Python takes no file in the current directory for a module.
_COMMAND: Final = (sys.executable, "-P", "-m", "mlsync.service.passes.pass_start")


@dataclass(frozen=True, slots=True)
class Opened:
    """A repository that was found and unlocked: all that it takes to go on with it."""

    keys: Keys
    conditional_create: bool
    slot: str


@dataclass(frozen=True, slots=True)
class LookRequest:
    """Find the repository, without a secret; ``done`` is empty."""

    config: Config


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """Find the repository and unlock it; ``done`` is an ``Opened`` in JSON."""

    config: Config
    unlock: Unlock = field(repr=False)


@dataclass(frozen=True, slots=True)
class PassRequest:
    """Back up one run, whose lock the agent holds; ``done`` is a ``PassResult`` in JSON.

    With *deadline_s*, on the monotonic clock, it is the last pass, or one of the last ones if it *goes_on*.
    *tells_history*: ``done`` has the newest versions of the run too, which an agent that starts does not know.
    *is_unslowed*: no limit and nobody else's need slows it. *gently*: the process gives way to all others from now on,
    although the agent may not. *is_late*: it no longer waits for others, limits count as ever. *held* are saves whose
    files the agent holds open; their descriptors come by a socket of their own, ahead of the request.
    *keeps_warm_s*: so long the process waits for the next pass, if not longer, and a child of it on a GPU.
    """

    config: Config
    opened: Opened
    watch: WatchSettings
    deadline_s: float | None = None
    goes_on: bool = False
    tells_history: bool = False
    is_unslowed: bool = False
    gently: bool = False
    is_late: bool = False
    held: tuple[HeldSave, ...] = ()
    keeps_warm_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ReadyRequest:
    """Load what passes need, the store's client too, since one is about to come; there is no answer."""

    config: Config
    opened: Opened


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """Prune the repository at the lowest priority, or end with ``STOP``; ``done`` is what ``DailyPrune`` tells."""

    config: Config
    opened: Opened
    now_ns: int


@dataclass(frozen=True, slots=True)
class RegisterRequest:
    """Register versions in MLflow, by run and number, 0 for the best; ``done`` is what ``Registrations`` looks at."""

    config: Config
    opened: Opened
    wanted: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """Copy what the mirror of that name lacks of *runs*; ``done`` is what ``AgentMirrors`` looks at.

    It has the lowest priority, unless it *hurries*: then limits do not count either, and of a run in *newest_only* only
    that version is copied.
    """

    config: Config
    opened: Opened
    mirror: str
    runs: tuple[str, ...]
    hurries: bool = False
    newest_only: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EvaluateRequest:
    """Evaluate a version at the lowest priority, if it is chosen; ``done`` is what ``AgentEvaluations`` looks at.

    *previous* is the last version with a checkpoint before it, and *fitness_before* the highest fitness before it.
    """

    config: Config
    opened: Opened
    watch: WatchSettings
    number: int
    previous: int | None = None
    fitness_before: float | None = None


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """Bring the directory back to the version *wanted* if it lacks it; ``done`` says what was found and done."""

    config: Config
    opened: Opened
    watch: WatchSettings
    wanted: str


Request = (
    LookRequest
    | OpenRequest
    | PassRequest
    | PruneRequest
    | RegisterRequest
    | CopyRequest
    | EvaluateRequest
    | RestoreRequest
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long a process may be *stopped* (SIGSTOP) or *silent* before it is ended, while this process runs."""

    stopped_s: float = 120.0
    silent_s: float = math.inf


class PassProcess:
    """Starts the process for the first request, and ends it after *idle_s* without one, if that is not infinity.

    *does* says in errors what the process is for. It starts with this process's priority, whatever it is asked for
    later: last in line beside a training on all processors, the load of its program would take many seconds.
    """

    def __init__(
        self,
        name: str,
        heartbeat: Heartbeat,
        *,
        idle_s: float = IDLE_S,
        does: str = "backs up",
        bounds: Bounds = Bounds(),
    ) -> None:
        self._bounds = bounds
        self._gives_way = False  # the process that is there
        self._name = name
        self._does = does
        self._heartbeat = heartbeat
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._handover: socket.socket | None = None  # to the process, for descriptors
        self._timer: threading.Timer | None = None

    def start(self, request: ReadyRequest) -> None:
        """Start the process, if it is not there and nobody waits for it: it is ready by the time of the next request.

        Without one it ends as after one.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._process is not None and self._process.poll() is None:
                return
            self._cancel_timer()
            with suppress(Error, OSError):
                # Whoever asks it for something learns why it does not start.
                _send(self._running(), request)
                self._end_after_idle()
        finally:
            self._lock.release()

    def ask(self, request: Request, stop: threading.Event) -> dict[str, Any]:
        """Return what the process did; raise the error that it met, or that ended it. *stop* reaches the flow."""
        with self._lock:
            self._cancel_timer()
            gently = isinstance(request, PassRequest) and request.gently
            if self._gives_way and not gently:
                # What has a low priority does not get it back, so another one starts.
                self._kill()
            process = self._running()
            self._gives_way = gently and not stands_back()
            try:
                answer = self._answer(process, request, stop)
            except BaseException:
                self._kill()
                raise
            self._end_after_idle(request.keeps_warm_s if isinstance(request, PassRequest) else 0.0)
        if "error" in answer:
            raise _raised(answer["error"])
        done: dict[str, Any] = answer["done"]
        return done

    def leave_gpu(self) -> None:
        """Have a child of the process leave the GPU if it only waits there."""
        if not self._lock.acquire(blocking=False):
            return  # what it is asked for now decides
        try:
            if self._process is not None:
                with suppress(OSError):
                    _send(self._process, LEAVE_GPU)
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the process, whatever it does: as a crash would, which a backup survives."""
        # A thread that waits for the answer gets none then, and releases the lock.
        while not self._lock.acquire(timeout=0.1):
            process = self._process
            if process is not None:
                process.kill()
        try:
            self._cancel_timer()
            self._kill()
        finally:
            self._lock.release()

    def processor_s(self) -> float:
        """Return the processor time of the process that is there, and of its children that have ended."""
        pid = self.pid
        return 0.0 if pid is None else processor_s(pid)

    @property
    def pid(self) -> int | None:
        """The process's id, if there is one."""
        return None if self._process is None else self._process.pid

    def _end_after_idle(self, stays_s: float = 0.0) -> None:
        if self._idle_s == math.inf:
            return
        # A child of it that waits for the next version on a GPU ends with it.
        self._timer = threading.Timer(max(self._idle_s, stays_s), self._end_idle)
        self._timer.daemon = True
        self._timer.start()

    def _end_idle(self) -> None:
        with self._lock:
            self._cancel_timer()
            self._kill()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            if self._handover is not None:
                self._handover.close()
            _LOG.debug("%s: pass process %d ended", self._name, self._process.pid)
            self._process = self._handover = None
            self._gives_way = False

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and (self._process.poll() is not None or self._handover is None):
            # It died while it was idle, which costs nothing; or it can be handed no files any more.
            self._kill()
        if self._process is None:
            self._handover, theirs = socket.socketpair()
            words = [str(log_level()), f"{HANDOVER}{theirs.fileno()}"]
            try:
                # A session of its own: Ctrl-C is for the agent, which then asks the flow to stop.
                self._process = subprocess.Popen(  # noqa: S603 - our own program, by our own interpreter
                    [*_COMMAND, *words, *_log_arguments()],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    bufsize=0,
                    start_new_session=True,
                )
            except OSError as error:
                self._handover.close()
                raise Error(f"the process that {self._does} does not start: {error.strerror}") from error
            finally:
                theirs.close()
            _LOG.debug("%s: pass process %d started", self._name, self._process.pid)
        return self._process

    def _answer(self, process: subprocess.Popen[bytes], request: Request, stop: threading.Event) -> dict[str, Any]:
        try:
            if isinstance(request, PassRequest):
                self._hand_over([file.descriptor for save in request.held for file in save.files])
            _send(process, request)
            for message in _received(process, stop, _Patience(process.pid, self._bounds, self._does)):
                beat = message.get("beat")
                self._heartbeat.beat(None if beat is None else Doing.of_json(beat))
                if beat is None:
                    return message
        except BrokenPipeError:
            pass
        raise _ended(process, self._does)

    def _hand_over(self, descriptors: list[int]) -> None:
        assert self._handover is not None
        try:
            for start in range(0, len(descriptors), HANDED_AT_ONCE):
                socket.send_fds(self._handover, [b"+"], descriptors[start : start + HANDED_AT_ONCE])
        except OSError as error:
            # Without them the pass backs up what is there. The process waits for all of them until this end is closed.
            _LOG.debug("%s: held files are not handed over: %s", self._name, error)
            self._handover.close()
            self._handover = None


def _log_arguments() -> list[str]:
    return [JSON_LOG] if is_json_log() else []


def _send(process: subprocess.Popen[bytes], message: object) -> None:
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(message))


class _Patience:
    """Counts how long a process says nothing, by the looks at it: when this process was stopped too, none came."""

    def __init__(self, pid: int, bounds: Bounds, does: str) -> None:
        self._pid = pid
        self._bounds = bounds
        self._does = does
        self._silent_s = self._stopped_s = 0.0
        self._looked_s = time.monotonic()

    def heard(self) -> None:
        """Note that the process said something."""
        self._silent_s = self._stopped_s = 0.0
        self._looked_s = time.monotonic()

    def unheard(self) -> None:
        """Note that it has said nothing since the last look; raise if that lasts for too long."""
        now_s = time.monotonic()
        passed_s, self._looked_s = min(now_s - self._looked_s, 2 * _POLL_S), now_s
        self._silent_s += passed_s
        self._stopped_s = self._stopped_s + passed_s if self._is_stopped() else 0.0
        if self._stopped_s >= self._bounds.stopped_s:
            what = f"the process that {self._does} was stopped (SIGSTOP) for {self._stopped_s:.0f} s, and was ended"
            raise ProcessKilled(what, advice="whoever stops it delays versions; another process begins anew")
        if self._silent_s >= self._bounds.silent_s:
            what = f"the process that {self._does} made no progress for {self._silent_s:.0f} s, and was ended"
            raise ProcessKilled(what)

    def _is_stopped(self) -> bool:
        try:
            with open(f"/proc/{self._pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[0] == b"T"
        except (OSError, IndexError):
            return False


def _received(process: subprocess.Popen[bytes], stop: threading.Event, patience: _Patience) -> Iterator[dict[str, Any]]:
    """Yield the process's messages until it ends; send it ``STOP`` or ``HURRY`` once *stop* is set."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    is_stop_sent = False
    received = b""
    while True:
        if stop.is_set() and not is_stop_sent:
            _send(process, HURRY if isinstance(stop, Interruption) and stop.commits else STOP)
            is_stop_sent = True
        if is_stop_sent and isinstance(stop, Interruption) and time.monotonic() >= stop.by_s:
            # It waits for a store or a disk, and looks at nothing else.
            process.kill()
        if not poll.poll(_POLL_S * 1000):
            patience.unheard()
            continue
        patience.heard()
        block = process.stdout.read(_READ_BYTES)
        if not block:
            return
        *lines, received = (received + block).split(b"\n")
        yield from map(json.loads, lines)


def _raised(error: dict[str, Any]) -> Error:
    """Return an error as the process raised it."""
    kind: type[Error] = getattr(errors, error["kind"])
    return kind(error["what"], where=error["where"], advice=error["advice"])


def _ended(process: subprocess.Popen[bytes], does: str) -> Error:
    """Return the error for a process that ended in the middle of its work."""
    status = process.wait()
    if status < 0:
        return ProcessKilled(f"the process that {does} was killed by signal {-status}")
    return Error(f"the process that {does} ended with {status}")
