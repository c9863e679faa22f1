"""A command of the user's that gets a checkpoint: in a session of its own, bounded, and gone afterwards.

It has no credentials in its environment, a temporary home, limits, and a priority as low as mlsync's; see
``programs/launch.py``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mlsync.courtesy.priority import waited_for_processor_s
from mlsync.errors import CommandUnavailable, ProofTimedOut
from mlsync.proof.child import bare_environment
from mlsync.proof.user import User

_LOG: Final = logging.getLogger(__name__)
_LAUNCHER: Final = Path(__file__).with_name("programs") / "launch.py"
_FILE_BYTES_MAX: Final = 1 << 30
_OUTPUT_BYTES_KEPT: Final = 4000
_LINES_KEPT, _CHARS_KEPT = 3, 600
_READ_BYTES: Final = 64 << 10
_READS_AFTER_THE_END: Final = 64
_POLL_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Program:
    """What is run: *name* is for messages, as *words* may hold a secret; *environment* adds to a bare one.

    With *said_bytes_max* that much of its standard output is kept, from the start, and apart from its errors.
    """

    name: str
    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    device: str = "auto"
    timeout_s: float = 600.0
    said_bytes_max: int = 0


@dataclass(frozen=True, slots=True)
class As:
    """Whom a command runs as: *user*, or this process's own user without one.

    If mlsync is root the command runs as *user*. It runs as root only if it *may be root* and that user cannot start
    it, or if no other user is available, for the reason *as_root*.
    """

    user: User | None = None
    may_be_root: bool = True
    as_root: str = ""


class _NotStarted(CommandUnavailable):
    """The command could not be started."""


class Running:
    """A running command; keeps the end of its output, and kills its whole session at the end."""

    def __init__(self, command: Program, path: Path, home: Path, user: User | None) -> None:
        self._command = command
        self.status = 0
        self.output = bytearray()
        #: What it said on its standard output, up to its bound, and whether it said more.
        self.said = bytearray()
        self.is_cut = False
        self.why_not_started = b""
        # Twice the deadline on every processor: it ends processes that left the session.
        cpu_s = int(2 * command.timeout_s * (os.cpu_count() or 1)) + 1
        self._report, report = os.pipe2(os.O_CLOEXEC)
        limits = (os.getpid(), report, cpu_s, max(_FILE_BYTES_MAX, _largest_bytes(path)))
        try:
            self._process = subprocess.Popen(  # noqa: S603 - what the user's configuration names
                [sys.executable, "-I", "-S", str(_LAUNCHER), *map(str, limits), str(path), *command.words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if command.said_bytes_max else subprocess.STDOUT,
                env=_environment(command, home, user),
                cwd=home,
                bufsize=0,
                start_new_session=True,
                pass_fds=[report],
                **({} if user is None else user.as_started),
            )
        except OSError as error:
            os.close(self._report)
            raise _NotStarted(f"{command.name} does not start: {error.strerror}") from None
        finally:
            os.close(report)
        streams = [stream for stream in (self._process.stdout, self._process.stderr) if stream is not None]
        self._outs = [stream.fileno() for stream in streams]
        for descriptor in self._outs:
            os.set_blocking(descriptor, False)
        self._alive = os.pidfd_open(self._process.pid)

    def wait(self, tick: Callable[[], None]) -> None:
        """Wait until the command has ended, even if other processes still have its output open."""
        timeout_s = self._command.timeout_s
        deadline_s = time.monotonic() + timeout_s
        poller = select.poll()
        for descriptor in (self._alive, *self._outs):
            poller.register(descriptor, select.POLLIN)
        while True:
            ready = dict(poller.poll(_POLL_S * 1000))
            for descriptor in self._outs:
                if descriptor in ready and not self._take(descriptor):
                    poller.unregister(descriptor)
            if self._alive in ready:
                return
            if time.monotonic() > deadline_s + waited_for_processor_s(self._process.pid):
                raise ProofTimedOut(f"{self._command.name} did not end within {timeout_s:.0f} s")
            tick()

    def end(self) -> None:
        """Kill the rest of the session, and read the exit status and the last output."""
        # Before the wait: until then its process group cannot be anyone else's.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.status = self._process.wait()
        for descriptor in self._outs:
            # Bounded: a process that left the session may still write.
            for _ in range(_READS_AFTER_THE_END):
                if not self._take(descriptor):
                    break
        self.why_not_started = os.read(self._report, _READ_BYTES)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        os.close(self._report)
        os.close(self._alive)

    def _take(self, descriptor: int) -> bool:
        """Read output; return whether there may be more."""
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return False
        self.output += data
        del self.output[:-_OUTPUT_BYTES_KEPT]
        if self._command.said_bytes_max and descriptor == self._outs[0]:
            room = self._command.said_bytes_max - len(self.said)
            self.said += data[:room]
            self.is_cut = self.is_cut or len(data) > room
        return bool(data)

    def last_lines(self) -> str:
        """Return the last lines of the output, on one line."""
        lines = [line.strip() for line in self.output.decode("utf-8", "replace").splitlines()]
        text = " | ".join([line for line in lines if line][-_LINES_KEPT:])
        return "".join(char if char.isprintable() else "?" for char in text)[-_CHARS_KEPT:]


def run(command: Program, path: Path, home: Path, tick: Callable[[], None], who: As) -> tuple[Running, str]:
    """Run a command on the file or directory at *path*; return it ended, and why it ran as root, if it did.

    Raises ``CommandUnavailable`` if it could not be started, ``ProofTimedOut``, and what *tick* raises, which is called
    regularly. Afterwards no process of its session runs.
    """
    user = who.user
    if user is None and who.as_root and not who.may_be_root:
        what = f"{command.name} would run code out of the checkpoint as root: {who.as_root}"
        advice = "give mlsync these rights, see systemd/README.md, or run it as the trainer's user"
        raise CommandUnavailable(what, advice=advice)
    if user is None or not who.may_be_root:
        return _run(command, path, home, tick, user), who.as_root
    try:
        return _run(command, path, home, tick, user), who.as_root
    except _NotStarted as error:
        return _run(command, path, home, tick, None), f"{user.name} cannot: {error.what}"


def _run(command: Program, path: Path, home: Path, tick: Callable[[], None], user: User | None) -> Running:
    """Run it as *user*, or as the user of this process."""
    running = Running(command, path, home, user)
    # Not the command: its words may hold a secret.
    _LOG.debug("a command's process started on %r", path.name)
    try:
        running.wait(tick)
    finally:
        running.end()
        _LOG.debug("the command's process ended with %d", running.status)
    if running.why_not_started:
        raise _NotStarted(f"{command.name} does not start: {running.why_not_started.decode('utf-8', 'replace')}")
    return running


def _largest_bytes(path: Path) -> int:
    """Return the size of a file, or of the largest in a directory: the command may write files of that size."""
    found = [path, *path.rglob("*")]
    return max(one.lstat().st_size for one in found)


def _environment(command: Program, home: Path, user: User | None) -> dict[str, str]:
    """Return the command's environment: no credentials, no keys, and a temporary home."""
    bare = bare_environment(os.environ, command.device)
    # Where "pip install --user" puts a framework; the temporary home would hide it.
    user_base = os.path.join(os.path.expanduser("~") if user is None else user.home, ".local")
    own = {"HOME": str(home), "TMPDIR": str(home), "PYTHONUSERBASE": user_base, "PYTHONDONTWRITEBYTECODE": "1"}
    return {**bare, **own, **command.environment}
