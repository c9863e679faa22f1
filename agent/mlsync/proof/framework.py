"""Level 5: a command of the user's, or one of the built-in ones, loads a checkpoint the way its framework does.

A checkpoint is a file, or a directory with all that is in it. The command runs code out of it and is therefore asked
for by the user, for what he trusts. It runs in a session of its own, with nothing in its environment that opens a door,
and is ended at a deadline. That it failed is told apart from that it could not be had: only the first speaks against
the checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from mlsync.courtesy.priority import waited_for_processor_s
from mlsync.errors import CommandUnavailable, ProofOutOfMemory, ProofTimedOut
from mlsync.proof.child import bare_environment
from mlsync.proof.user import User
from mlsync.values import Fact

PATH: Final = "{path}"
#: What a command exits with that could not tell (EX_TEMPFAIL of sysexits.h), and for a file that it is not meant for
#: (what test programs exit with to be skipped).
CANNOT_TELL, NOT_MEANT = 75, 77
_LOG: Final = logging.getLogger(__name__)
_LAUNCHER: Final = Path(__file__).with_name("programs") / "launch.py"
_ULTRALYTICS: Final = Path(__file__).with_name("programs") / "load_ultralytics.py"
_STATE_DICT: Final = Path(__file__).with_name("programs") / "load_state_dict.py"
_TRANSFORMERS: Final = Path(__file__).with_name("programs") / "load_transformers.py"
#: What is a checkpoint in several files, by its kind (see ``formats.sharded``), and what is one by a ``config.json``.
HUGGING_FACE: Final = frozenset({"huggingface-weights", "huggingface-trainer"})
SEVERAL_FILES: Final = HUGGING_FACE | {"dcp", "deepspeed", "megatron"}
DESCRIBED: Final = "huggingface-model"
_CONTAINERS: Final = frozenset({"torch-zip", "safetensors"})
_FILE_BYTES_MAX: Final = 1 << 30
_OUTPUT_BYTES_KEPT: Final = 4000
_LINES_TOLD, _CHARS_TOLD = 3, 600
_READ_BYTES: Final = 64 << 10
_READS_AFTER_THE_END: Final = 64
_POLL_S: Final = 0.25
# What a shell exits with for a command that it cannot execute, or does not find.
_NOT_STARTED: Final = (126, 127)
_SIGNAL_BASE: Final = 128
# Of these a process dies by its own fault; all others are sent to it.
_CRASHES: Final = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})
_OUT_OF_MEMORY: Final = re.compile(
    "out of memory|OutOfMemoryError|MemoryError|can(no|')t allocate memory", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Framework:
    """How a checkpoint is loaded: *name* is what the proof records of it.

    *patterns* say what the command is meant for: directories those that end in a slash, and files the others. Where
    there are none it is meant for directories of the *kinds*, and for all files of torch and safetensors if it *takes
    files*, of which *framework* leaves those whose facts name it. *environment* is what the command sees besides the
    bare one.

    Where mlsync is root the command runs as *user*. It runs as root only if it *may be root* and that user cannot start
    it, or if nobody else can be had, which *as_root* says why.
    """

    name: str
    command: tuple[str, ...]
    patterns: tuple[str, ...] = ()
    framework: str | None = None
    kinds: Collection[str] = ()
    takes_files: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    device: str = "auto"
    timeout_s: float = 600.0
    user: User | None = None
    may_be_root: bool = True
    as_root: str = ""

    def is_meant_for(self, path: bytes, container: str, facts: Mapping[str, Fact]) -> bool:
        """Whether the command is to load a file, by the path that it has in the run's directory."""
        if not self.patterns:
            is_known = container in _CONTAINERS and self.framework in (None, facts.get("framework"))
            return self.takes_files and is_known
        return any(_fits(path, one) for one in self.patterns if not one.endswith("/"))

    def is_meant_for_directory(self, path: bytes, kinds: Collection[str]) -> bool:
        """Whether the command is to load a directory as one; *kinds* says what of several files it is, if it is.

        The run's own directory, whose *path* is empty, goes by the pattern ``./``.
        """
        if not self.patterns:
            return any(kind in self.kinds for kind in kinds)
        return any(_fits(path or b".", one[:-1]) for one in self.patterns if one.endswith("/"))

    @property
    def takes_directories(self) -> bool:
        """Whether there is a directory that the command may be meant for."""
        return any(one.endswith("/") for one in self.patterns) if self.patterns else bool(self.kinds)

    def fingerprint(self) -> str:
        """Return what changes if a file that the command refused may fare otherwise: it, or a program that it names."""
        said = [self.name, self.command, self.patterns, self.framework, sorted(self.kinds), self.takes_files]
        programs = [_stamp(part) for part in self.command]
        return hashlib.sha256(repr((said, programs)).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _fits(path: bytes, pattern: str) -> bool:
    text = os.fsdecode(path)
    return fnmatchcase(text if "/" in pattern else text.rpartition("/")[2], pattern)


def _stamp(part: str) -> tuple[int, int] | None:
    """Return size and time of a file that a command names, nothing of any other word."""
    try:
        found = os.stat(part)
    except (OSError, ValueError):
        return None
    return (found.st_size, found.st_mtime_ns) if os.path.isabs(part) else None


def ultralytics_command(python: str, device: str) -> tuple[str, ...]:
    """Return the command that loads a checkpoint as ``YOLO(path)`` and runs it forward once."""
    return (python, "-B", str(_ULTRALYTICS), PATH, device)


def state_dict_command(python: str, device: str, model: str) -> tuple[str, ...]:
    """Return the command that builds *model* (``module:callable``), loads its state strictly, and runs it forward."""
    return (python, "-B", str(_STATE_DICT), PATH, device, model)


def transformers_command(python: str, device: str) -> tuple[str, ...]:
    """Return the command that loads a directory with ``from_pretrained`` and runs the model forward."""
    return (python, "-B", str(_TRANSFORMERS), PATH, device)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of a load that was had: why the checkpoint is *refused*, or whether the command *skipped* it.

    *as_root* says why it was loaded as root, where it was.
    """

    refused: str | None = None
    skipped: bool = False
    as_root: str = ""


def load(framework: Framework, path: Path, home: Path, tick: Callable[[], None]) -> Loaded:
    """Have the file or directory at *path* loaded; *home* is a directory of the command's own.

    *tick* is called all the while. Raises ``CommandUnavailable``, ``ProofTimedOut`` or ``ProofOutOfMemory`` where the
    load could not be had, and what *tick* raises. Nothing of the command runs any more afterwards, but for what left
    its session on purpose.
    """
    user = framework.user
    if user is None and framework.as_root and not framework.may_be_root:
        what = f"{framework.name} would run code out of the checkpoint as root: {framework.as_root}"
        advice = "give mlsync these rights, see systemd/README.md, or run it as the trainer's user"
        raise CommandUnavailable(what, advice=advice)
    if user is None or not framework.may_be_root:
        return _load(framework, path, home, tick, user, framework.as_root)
    try:
        return _load(framework, path, home, tick, user)
    except _NotStarted as error:
        return _load(framework, path, home, tick, None, f"{user.name} cannot: {error.what}")


def _load(
    framework: Framework, path: Path, home: Path, tick: Callable[[], None], user: User | None, as_root: str = ""
) -> Loaded:
    """Have it loaded by a process of *user*, or of this one's own."""
    running = _Running(framework, path, home, user)
    # Not the command: its words may hold a secret.
    _LOG.debug("a framework's process started to load %r", path.name)
    try:
        running.wait(framework.timeout_s, tick)
    finally:
        running.end()
        _LOG.debug("the framework's process ended with %d", running.status)
    return replace(_judged(framework.name, running), as_root=as_root)


class _NotStarted(CommandUnavailable):
    """The command could not even be started."""


class _Running:
    """A command under way: its output's end is kept, and its whole session is killed in the end."""

    def __init__(self, framework: Framework, path: Path, home: Path, user: User | None) -> None:
        self.name = framework.name
        self.status = 0
        self.output = bytearray()
        self.why_not_started = b""
        command = [part.replace(PATH, str(path)) for part in framework.command]
        # Twice the deadline on every processor: the deadline ends it, this what the deadline cannot reach.
        cpu_s = int(2 * framework.timeout_s * (os.cpu_count() or 1)) + 1
        self._report, report = os.pipe2(os.O_CLOEXEC)
        limits = (os.getpid(), report, cpu_s, max(_FILE_BYTES_MAX, _largest_bytes(path)))
        try:
            self._process = subprocess.Popen(  # noqa: S603 - what the user's configuration names
                [sys.executable, "-I", "-S", str(_LAUNCHER), *map(str, limits), str(path), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_environment(framework, home, user),
                cwd=home,
                bufsize=0,
                start_new_session=True,
                pass_fds=[report],
                **({} if user is None else user.as_started),
            )
        except OSError as error:
            os.close(self._report)
            raise _NotStarted(f"{self.name} does not start: {error.strerror}") from None
        finally:
            os.close(report)
        assert self._process.stdout is not None
        self._out = self._process.stdout.fileno()
        os.set_blocking(self._out, False)
        self._alive = os.pidfd_open(self._process.pid)

    def wait(self, timeout_s: float, tick: Callable[[], None]) -> None:
        """Return when the command has ended, whoever still holds its output open."""
        deadline_s = time.monotonic() + timeout_s
        poller = select.poll()
        poller.register(self._alive, select.POLLIN)
        poller.register(self._out, select.POLLIN)
        while True:
            ready = dict(poller.poll(_POLL_S * 1000))
            if self._out in ready and not self._take():
                poller.unregister(self._out)
            if self._alive in ready:
                return
            if time.monotonic() > deadline_s + waited_for_processor_s(self._process.pid):
                raise ProofTimedOut(f"{self.name} did not end within {timeout_s:.0f} s")
            tick()

    def end(self) -> None:
        """Kill what is left of the session, and collect what there is to know."""
        # Before it is waited for: until then nobody else can have its process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.status = self._process.wait()
        # Bounded, for what left the session on purpose may still write.
        for _ in range(_READS_AFTER_THE_END):
            if not self._take():
                break
        self.why_not_started = os.read(self._report, _READ_BYTES)
        assert self._process.stdout is not None
        self._process.stdout.close()
        os.close(self._report)
        os.close(self._alive)

    def _take(self) -> bool:
        """Take in what was printed; whether there may be more."""
        try:
            data = os.read(self._out, _READ_BYTES)
        except BlockingIOError:
            return False
        self.output += data
        del self.output[:-_OUTPUT_BYTES_KEPT]
        return bool(data)

    def last_lines(self) -> str:
        """Return the end of what was printed, on one line."""
        lines = [line.strip() for line in self.output.decode("utf-8", "replace").splitlines()]
        told = " | ".join([line for line in lines if line][-_LINES_TOLD:])
        return "".join(char if char.isprintable() else "?" for char in told)[-_CHARS_TOLD:]


def _largest_bytes(path: Path) -> int:
    """Return the size of a file, or of the largest in a directory: what is loaded may be written anew as large."""
    found = [path, *path.rglob("*")]
    return max(one.lstat().st_size for one in found)


def _judged(name: str, running: _Running) -> Loaded:
    """Return what an exit status says of the file, or raise that it says nothing."""
    status, said = running.status, running.last_lines()
    last_words = f": {said}" if said else ""
    if running.why_not_started:
        raise _NotStarted(f"{name} does not start: {running.why_not_started.decode('utf-8', 'replace')}")
    if status in (0, NOT_MEANT):
        return Loaded(skipped=status == NOT_MEANT)
    if status in _NOT_STARTED:
        raise CommandUnavailable(f"{name} does not start{last_words}")
    if status == CANNOT_TELL:
        raise CommandUnavailable(f"{name} could not tell{last_words}")
    # A shell that waited for the command tells its signal in this way.
    number = -status if status < 0 else status - _SIGNAL_BASE
    if number == signal.SIGKILL or _OUT_OF_MEMORY.search(said):
        how = "was killed, for want of memory it seems" if number == signal.SIGKILL else "ran out of memory"
        raise ProofOutOfMemory(f"{name} {how}{last_words}")
    if number > 0 and number not in _CRASHES:
        raise CommandUnavailable(f"{name} was ended by signal {number}{last_words}")
    how = f"crashed with signal {number}" if number > 0 else f"ended with {status}"
    return Loaded(refused=f"{name} {how}{last_words}")


def _environment(framework: Framework, home: Path, user: User | None) -> dict[str, str]:
    """Return all that the command sees: no credentials, no keys, and a home that goes away with the file."""
    bare = bare_environment(os.environ, framework.device)
    # Where "pip install --user" puts a framework; a home of its own would hide it.
    user_base = os.path.join(os.path.expanduser("~") if user is None else user.home, ".local")
    own = {"HOME": str(home), "TMPDIR": str(home), "PYTHONUSERBASE": user_base, "PYTHONDONTWRITEBYTECODE": "1"}
    return {**bare, **own, **framework.environment}
