"""Level 5: a command of the user's, or one of the built-in ones, loads a checkpoint the way its framework does.

A checkpoint is a file, or a directory with all that is in it. The command runs code out of it, so the user configures
it for checkpoints that they trust. It runs in a session of its own, without credentials in its environment, and is
killed at a deadline. A load that failed refuses the checkpoint; a load that could not be tried does not.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from mlsync.errors import CommandUnavailable, ProofOutOfMemory
from mlsync.proof.running import As, Program, Running, run
from mlsync.proof.user import User
from mlsync.values import Fact

PATH: Final = "{path}"
#: Exit statuses: the command could not try (EX_TEMPFAIL of sysexits.h), or does not load such files (as tests exit that
#: are skipped).
CANNOT_TELL, NOT_MEANT = 75, 77
_ULTRALYTICS: Final = Path(__file__).with_name("programs") / "load_ultralytics.py"
_STATE_DICT: Final = Path(__file__).with_name("programs") / "load_state_dict.py"
_TRANSFORMERS: Final = Path(__file__).with_name("programs") / "load_transformers.py"
#: What is a checkpoint in several files, by its kind (see ``formats.sharded``), and what is one by a ``config.json``.
HUGGING_FACE: Final = frozenset({"huggingface-weights", "huggingface-trainer"})
SEVERAL_FILES: Final = HUGGING_FACE | {"dcp", "deepspeed", "megatron"}
DESCRIBED: Final = "huggingface-model"
_CONTAINERS: Final = frozenset({"torch-zip", "safetensors"})
# The exit statuses of a shell for a command that it cannot execute, or does not find.
_NOT_STARTED: Final = (126, 127)
_SIGNAL_BASE: Final = 128
# Signals that a process causes itself; all others are sent to it.
_CRASHES: Final = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})
_OUT_OF_MEMORY: Final = re.compile(
    "out of memory|OutOfMemoryError|MemoryError|can(no|')t allocate memory", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Framework:
    """How a checkpoint is loaded: *name* is what the proof records of it.

    *patterns* say what the command loads: directories if they end in a slash, else files. Without patterns it loads
    directories of the *kinds*, and all files of torch and safetensors if it *takes files*; with a *framework*, only
    files whose facts name it. *environment* adds to the variables that the command sees.

    If mlsync is root the command runs as *user*. It runs as root only if it *may be root* and that user cannot start
    it, or if no other user is available, for the reason *as_root*.
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
        """Return whether the command loads a file, by its path in the run's directory."""
        if not self.patterns:
            is_known = container in _CONTAINERS and self.framework in (None, facts.get("framework"))
            return self.takes_files and is_known
        return any(_fits(path, one) for one in self.patterns if not one.endswith("/"))

    def is_meant_for_directory(self, path: bytes, kinds: Collection[str]) -> bool:
        """Return whether the command loads a directory as one; *kinds* names the checkpoints of several files in it.

        The run's own directory, whose *path* is empty, matches the pattern ``./``.
        """
        if not self.patterns:
            return any(kind in self.kinds for kind in kinds)
        return any(_fits(path or b".", one[:-1]) for one in self.patterns if one.endswith("/"))

    @property
    def takes_directories(self) -> bool:
        """Whether the command can load directories."""
        return any(one.endswith("/") for one in self.patterns) if self.patterns else bool(self.kinds)

    def fingerprint(self) -> str:
        """Return a digest of the command and its programs; if it changes, refused files are tried again."""
        parts = [self.name, self.command, self.patterns, self.framework, sorted(self.kinds), self.takes_files]
        programs = [_stamp(part) for part in self.command]
        return hashlib.sha256(repr((parts, programs)).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _fits(path: bytes, pattern: str) -> bool:
    text = os.fsdecode(path)
    return fnmatchcase(text if "/" in pattern else text.rpartition("/")[2], pattern)


def _stamp(part: str) -> tuple[int, int] | None:
    """Return the size and time of a file that *part* of a command names, or ``None``."""
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
    """The result of a load that was tried: why the checkpoint is *refused*, or whether the command *skipped* it.

    *as_root* says why it was loaded as root, if it was.
    """

    refused: str | None = None
    skipped: bool = False
    as_root: str = ""


def load(framework: Framework, path: Path, home: Path, tick: Callable[[], None]) -> Loaded:
    """Load the file or directory at *path* by the command, whose home is the directory *home*.

    Calls *tick* regularly. Raises ``CommandUnavailable``, ``ProofTimedOut`` or ``ProofOutOfMemory`` if the load could
    not be tried, and what *tick* raises. Afterwards no process of the command's session runs.
    """
    words = tuple(part.replace(PATH, str(path)) for part in framework.command)
    command = Program(framework.name, words, framework.environment, framework.device, framework.timeout_s)
    who = As(framework.user, framework.may_be_root, framework.as_root)
    running, as_root = run(command, path, home, tick, who)
    return replace(_result(framework.name, running), as_root=as_root)


def _result(name: str, running: Running) -> Loaded:
    """Return what the exit status says of the checkpoint; raises ``ProofUnavailable`` if it says nothing."""
    status, output = running.status, running.last_lines()
    last_words = f": {output}" if output else ""
    if status in (0, NOT_MEANT):
        return Loaded(skipped=status == NOT_MEANT)
    if status in _NOT_STARTED:
        raise CommandUnavailable(f"{name} does not start{last_words}")
    if status == CANNOT_TELL:
        raise CommandUnavailable(f"{name} could not tell{last_words}")
    # A shell reports the signal that ended its command in this way.
    number = -status if status < 0 else status - _SIGNAL_BASE
    if number == signal.SIGKILL or _OUT_OF_MEMORY.search(output):
        how = "was killed, for want of memory it seems" if number == signal.SIGKILL else "ran out of memory"
        raise ProofOutOfMemory(f"{name} {how}{last_words}")
    if number > 0 and number not in _CRASHES:
        raise CommandUnavailable(f"{name} was ended by signal {number}{last_words}")
    how = f"crashed with signal {number}" if number > 0 else f"ended with {status}"
    return Loaded(refused=f"{name} {how}{last_words}")
