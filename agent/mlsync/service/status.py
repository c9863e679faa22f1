"""The agent's status: a file for people and programs, and a line for systemd with the last version's age."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlsync.config.units import format_age
from mlsync.service.worker import RunState

FILE_NAME = "status.json"
FORMAT = 1
# What a restarted agent takes over, so that it can show its last version before it has made a new one.
_KEPT = ("last_version", "last_version_s", "last_proved_version", "last_proved_s", "last_pass_s")


# Which field behind the program's name says when a process began (the 22nd of all, see proc(5)).
_BEGAN_FIELD = 19
# The kernel tells the time of the boot in whole seconds, and clocks are set.
_CLOCK_S = 5.0


@dataclass(frozen=True, slots=True)
class RunStatus:
    """One run's part of the status; *next_try_s* is on the wall clock, ``None`` if no pass is planned."""

    run: str
    directory: Path
    watched: bool
    state: RunState
    next_try_s: float | None


def as_line(runs: Sequence[RunStatus], now_s: float) -> str:
    """Return the line that ``systemctl status`` shows."""
    parts = [f"{len(runs)} run" + ("" if len(runs) == 1 else "s")]
    newest = max(runs, key=lambda run: run.state.last_version_s or 0.0, default=None)
    if newest is None or newest.state.last_version_s is None:
        parts.append("no version yet")
    else:
        state = newest.state
        how = "proved" if state.last_proved_version == state.last_version else "not proved, made"
        age = format_age(now_s - newest.state.last_version_s)
        parts.append(f"last version {newest.run}/{state.last_version} {how} {age}")
    failing = [run.run for run in runs if run.state.last_error is not None]
    if failing:
        parts.append("failing: " + ", ".join(failing))
    return ", ".join(parts)


def as_json(runs: Sequence[RunStatus], repository: str, started_s: float) -> dict[str, Any]:
    """Return the content of the status file; times are seconds since 1970."""
    return {
        "format": FORMAT,
        "repository": repository,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started_s": started_s,
        "runs": [_run_as_json(run) for run in runs],
    }


def write_status(file: Path, content: Mapping[str, Any]) -> None:
    """Replace the file, readable by its owner alone, in one step; raise ``OSError`` if it cannot be written."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".status-", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=1)
            stream.write("\n")
        # Not fsynced: after a power cut the agent writes it again, and until then it is only a hint.
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise


def read_states(file: Path, repository: str) -> dict[str, RunState]:
    """Return each run's state as the last agent on the same repository wrote it; empty if the file is no such file."""
    try:
        content = _content(file, repository)
        return {str(run["run"]): RunState(**{name: _number(run[name]) for name in _KEPT}) for run in content["runs"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


@dataclass(frozen=True, slots=True)
class RunSeen:
    """What the status file says of a run; times are seconds since 1970."""

    run: str
    last_version: int | None
    last_version_s: float | None
    last_proved_version: int | None
    last_error: str | None
    troubles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AgentSeen:
    """What the status file says of the agent that wrote it."""

    pid: int
    host: str
    started_s: float
    runs: tuple[RunSeen, ...]

    def is_running(self) -> bool | None:
        """Whether the agent still runs; ``None`` if it ran on another machine that shares the file."""
        if self.host != socket.gethostname():
            return None
        began_s = _process_began_s(self.pid)
        # A process that began later only has the number of the agent.
        return began_s is not None and began_s <= self.started_s + _CLOCK_S


def read_agent(file: Path, repository: str) -> AgentSeen | None:
    """Return what the last agent on this repository wrote; ``None`` if the file is no such file."""
    try:
        content = _content(file, repository)
        runs = tuple(_run_seen(run) for run in content["runs"])
        return AgentSeen(int(content["pid"]), str(content["host"]), float(content["started_s"]), runs)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _content(file: Path, repository: str) -> Any:
    """Return what the file holds; raise ``OSError``, ``ValueError``, ``KeyError`` or ``TypeError`` if it is none."""
    content = json.loads(file.read_bytes())
    if content["format"] != FORMAT or content["repository"] != repository:
        raise ValueError("another format, or another repository's")
    return content


def _run_seen(run: Mapping[str, Any]) -> RunSeen:
    return RunSeen(
        run=str(run["run"]),
        last_version=_number(run["last_version"]),
        last_version_s=_number(run["last_version_s"]),
        last_proved_version=_number(run["last_proved_version"]),
        last_error=None if run["last_error"] is None else str(run["last_error"]),
        troubles=tuple(map(str, run["troubles"])),
    )


def _process_began_s(pid: int) -> float | None:
    """Return when a process began, in seconds since 1970; ``None`` if there is none."""
    try:
        # The program's name, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        boot = next(line for line in Path("/proc/stat").read_text("ascii").splitlines() if line.startswith("btime "))
        return int(boot.split()[1]) + int(fields[_BEGAN_FIELD]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _number(value: object) -> Any:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise TypeError(value)
    return value


def _run_as_json(run: RunStatus) -> dict[str, Any]:
    state = run.state
    return {
        "run": run.run,
        # A path may hold bytes that are no text; the status only shows it.
        "directory": os.fsencode(run.directory).decode("utf-8", "replace"),
        "watched": run.watched,
        "phase": state.phase,
        **{name: getattr(state, name) for name in _KEPT},
        "last_error": state.last_error,
        "troubles": list(state.troubles),
        "failures": state.failures,
        "next_try_s": None if run.next_try_s is None else round(run.next_try_s),
    }
