"""The agent's status: a file for people and programs, and a line for systemd with the last version's age."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from mlsync.app.forecast import duration
from mlsync.config.units import format_age
from mlsync.service.job import Heartbeat
from mlsync.service.passes.doing import Doing
from mlsync.service.replaced_file import replace_file
from mlsync.service.run_record import LastEvaluation, PastError, RunRecord
from mlsync.service.talk.place import status_files
from mlsync.service.worker import RunState

FORMAT = 1
_Parsed = TypeVar("_Parsed")
_BYTES_MAX = 16 << 20
_WRITTEN_EVERY_S = 60.0
_PASSING = frozenset({"doing", "silent_s", "unproved_s", "unsafe_s", "no_checkpoint_s", "next_try_s", "behind_s"})
_BLOCK_BYTES, _ROOM_BYTES = 4096, 1024
# What a restarted agent takes over, so that it can show its last version before it has made a new one.
_KEPT = ("last_version", "last_version_s", "last_proved_version", "last_proved_s", "last_pass_s")


# Which field behind the program's name says when a process began (the 22nd of all, see proc(5)).
_BEGAN_FIELD = 19
# The kernel tells the time of the boot in whole seconds, and clocks are set.
_CLOCK_S = 5.0


# A pass that is alive says so each second; what is silent this long is worth a look, long before it counts as hung.
SILENT_S = 60.0
_TEXT_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class RunStatus:
    """One run's part of the status, at *now_s*; *next_try_s* is on the wall clock, ``None`` if no pass is planned.

    *silent_s*: for how long a pass that is under way made no progress. *changed_s*: when the first change came that no
    pass has looked at. *lag_s* and *proof_lag_s*: by how much the newest save that is stored, and that is proved, is
    older than the newest one that was seen. With *safe_in_mirror* only what is in a mirror is safe: everything that the
    directory held at *mirrored_until_s*.
    """

    run: str
    directory: Path
    watched: bool
    state: RunState
    next_try_s: float | None
    now_s: float = 0.0
    record: RunRecord = field(default_factory=RunRecord)
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    silent_s: float | None = None
    changed_s: float | None = None
    silence_factor: float = 0.0
    lag_s: float = 0.0
    proof_lag_s: float = 0.0
    safe_in_mirror: bool = False
    mirrored_until_s: float | None = None

    @property
    def is_silent(self) -> bool:
        """Whether the pass that is under way seems to be stopped."""
        return self.silent_s is not None and self.silent_s >= SILENT_S

    @property
    def waits(self) -> str:
        """What of the store is waited for just now; empty if nothing is."""
        return "" if self.heartbeat.doing is None else self.heartbeat.doing.waits

    @property
    def unproved_s(self) -> float | None:
        """The seconds of training that a loss of this machine would cost: what is not in a proved version yet.

        ``None`` if nothing was ever proved, as far as is known.
        """
        proved_until_s = self.record.proved_until_s
        if proved_until_s is None:
            return None
        is_whole = not self.state.failures and self.state.last_proved_version == self.state.last_version
        if not is_whole:
            return max(0.0, self.now_s - proved_until_s)
        return 0.0 if self.changed_s is None else max(0.0, self.now_s - max(self.changed_s, proved_until_s))

    @property
    def safe_until_s(self) -> float | None:
        """Everything that was in the directory then is safe; ``None`` if nothing is known to be."""
        return self.mirrored_until_s if self.safe_in_mirror else self.record.proved_until_s

    @property
    def unsafe_s(self) -> float | None:
        """The seconds of training that are not safe yet; ``None`` if nothing ever was, as far as is known."""
        if not self.safe_in_mirror:
            return self.unproved_s
        if self.mirrored_until_s is None:
            return None
        if self.mirrored_until_s >= (self.record.proved_until_s or 0.0):
            return self.unproved_s
        return max(0.0, self.now_s - self.mirrored_until_s)

    @property
    def no_checkpoint_s(self) -> float | None:
        """The seconds since the newest checkpoint, if that is far longer than usual; ``None`` if all is as usual."""
        usual_s, newest_s = self.record.usual_interval_s(), self.record.newest_checkpoint_s()
        if usual_s is None or newest_s is None or not self.silence_factor:
            return None
        silent_s = self.now_s - newest_s
        return silent_s if silent_s > max(usual_s * self.silence_factor, SILENT_S) else None

    @property
    def hidden(self) -> tuple[int, ...]:
        """The versions of which later proofs are missing."""
        return tuple(one.version for one in self.record.versions if one.is_hidden)


def silence_in_words(run: RunStatus) -> str | None:
    """Return what to say of a run whose checkpoints have not come for far longer than usual; ``None`` otherwise."""
    if run.no_checkpoint_s is None:
        return None
    since, usual = duration(run.no_checkpoint_s), duration(run.record.usual_interval_s() or 0.0)
    return f"{run.run}: no new checkpoint for {since}, and usually one comes after {usual}; does the training go on?"


def as_line(runs: Sequence[RunStatus], now_s: float) -> str:
    """Return the line that ``systemctl status`` shows: about the run that is worst."""
    parts = [f"{len(runs)} run" + ("" if len(runs) == 1 else "s")]
    if runs:
        worst = max(runs, key=lambda run: _badness(run, now_s))
        parts.append(_in_words(worst, now_s))
    failing = [run.run for run in runs if run.state.last_error is not None]
    if failing:
        parts.append("failing: " + ", ".join(failing))
    return ", ".join(parts)


def _badness(run: RunStatus, now_s: float) -> tuple[float, ...]:
    """Return a value that is greater the more a run needs somebody."""
    state = run.state
    return (
        run.is_silent,
        state.failures > 0,
        bool(run.waits),
        state.last_version is None,
        run.no_checkpoint_s is not None,
        state.last_proved_version != state.last_version,
        now_s - (state.last_proved_s or state.last_version_s or 0.0),
    )


def _in_words(run: RunStatus, now_s: float) -> str:
    state = run.state
    if run.is_silent:
        doing = "" if run.heartbeat.doing is None else run.heartbeat.doing.what
        return f"{run.run} makes no progress since {format_age(run.silent_s or 0.0)}" + (f" ({doing})" if doing else "")
    if run.waits:
        return f"{run.run} waits for the {run.waits}"[:_TEXT_CHARS_MAX]
    if state.last_version is None or state.last_version_s is None:
        return f"no version yet of {run.run}"
    how = "proved" if state.last_proved_version == state.last_version else "not proved, made"
    text = f"last version {run.run}/{state.last_version} {how} {format_age(now_s - state.last_version_s)}"
    if run.no_checkpoint_s is not None:
        text += f", its last checkpoint {format_age(run.no_checkpoint_s)}"
    return text


def as_json(
    runs: Sequence[RunStatus],
    repository: str,
    started_s: float,
    now_s: float,
    notices: Sequence[Mapping[str, Any]] = (),
    channels: Sequence[Mapping[str, Any]] = (),
    registry: Mapping[str, Any] | None = None,
    mirrors: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the content of the status file; times are seconds since 1970."""
    return {
        "format": FORMAT,
        "written_s": round(now_s, 3),
        "repository": repository,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started_s": started_s,
        "runs": [_run_as_json(run) for run in runs],
        "notices": list(notices),
        "channels": list(channels),
        "registry": None if registry is None else dict(registry),
        "mirrors": list(mirrors),
    }


def is_news(content: Mapping[str, Any], written: Mapping[str, Any]) -> bool:
    """Return whether *content* says more than what was *written*, or that was long ago: a reader sees who lives."""
    if not written or content["written_s"] - written["written_s"] >= _WRITTEN_EVERY_S:
        return True
    return _lasting(content) != _lasting(written) or content["written_s"] < written["written_s"]


def _lasting(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what does not change by itself as time goes by."""
    runs = [{name: value for name, value in run.items() if name not in _PASSING} for run in content["runs"]]
    told = [*content.get("notices", []), *content.get("channels", []), content.get("registry") or {}]
    return [*runs, *told, *map(_lasting_copy, content.get("mirrors", []))]


def _lasting_copy(mirror: Mapping[str, Any]) -> dict[str, Any]:
    runs = [{name: value for name, value in run.items() if name not in _PASSING} for run in mirror["runs"]]
    return {**mirror, "runs": runs}


def write_status(file: Path, content: Mapping[str, Any]) -> None:
    """Replace the file, readable by its owner alone, in one step; raise ``OSError`` if it cannot be written.

    On a disk that is full the file that is there gets the new content in place, if that fits into its blocks: readers
    may see half of it for a moment, and an old status would be believed for hours.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = (json.dumps(content, indent=1) + "\n").encode()
    # Blanks at the end keep room for a status that is longer by then.
    text += b" " * (-(len(text) + _ROOM_BYTES) % _BLOCK_BYTES + _ROOM_BYTES - 1) + b"\n"
    try:
        replace_file(file, text)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not file.is_file():
            raise
        with file.open("r+b") as stream:
            size_bytes = os.fstat(stream.fileno()).st_size
            if len(text.rstrip()) >= size_bytes:
                raise
            stream.write(text.rstrip().ljust(size_bytes - 1) + b"\n")


def read_states(directory: Path, repository: str) -> dict[str, RunState]:
    """Return each run's state as the last agent wrote it that kept the run of this repository."""

    def states_in(content: Mapping[str, Any]) -> dict[str, RunState]:
        return {str(one["run"]): RunState(**{name: _number(one[name]) for name in _KEPT}) for one in content["runs"]}

    return {run: state for states in _read(directory, repository, states_in) for run, state in states.items()}


def read_proved_until(directory: Path, repository: str) -> dict[str, float]:
    """Return for each run until when its last agent knew everything to be proved."""

    def known_in(content: Mapping[str, Any]) -> dict[str, float | None]:
        return {str(one["run"]): _number(one.get("proved_until_s")) for one in content["runs"]}

    known = {run: until_s for runs in _read(directory, repository, known_in) for run, until_s in runs.items()}
    return {run: float(until_s) for run, until_s in known.items() if until_s is not None}


def read_mirrors(directory: Path, repository: str) -> list[Mapping[str, Any]]:
    """Return how the mirrors stood for the last agent, which ``AgentMirrors.restore`` checks."""

    def mirrors_in(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        return [dict(one) for one in content.get("mirrors", [])]

    return [one for mirrors in _read(directory, repository, mirrors_in) for one in mirrors]


@dataclass(frozen=True, slots=True)
class RunSeen:
    """What the status file says of a run; times are seconds since 1970."""

    run: str
    last_version: int | None
    last_version_s: float | None
    last_proved_version: int | None
    last_error: str | None
    troubles: tuple[str, ...]
    proved_s: float | None = None


@dataclass(frozen=True, slots=True)
class AgentSeen:
    """What the status file says of the agent that wrote it."""

    pid: int
    host: str
    started_s: float
    runs: tuple[RunSeen, ...]
    written_s: float | None = None

    def is_running(self) -> bool | None:
        """Whether the agent still runs; ``None`` if it ran on another machine that shares the file."""
        if self.host != socket.gethostname():
            return None
        began_s = _process_began_s(self.pid)
        # A process that began later only has the number of the agent.
        return began_s is not None and began_s <= self.started_s + _CLOCK_S


def read_agents(directory: Path, repository: str) -> list[AgentSeen]:
    """Return what the agents on this repository wrote that used the state directory, the last one at the end."""
    return _read(directory, repository, agent_in)


def foremost(agents: Sequence[AgentSeen]) -> AgentSeen | None:
    """Return the last one that may run, or else the last one."""
    return max(reversed(agents), key=lambda one: one.is_running() is not False, default=None)


def merged(agents: Sequence[AgentSeen]) -> AgentSeen | None:
    """Return the foremost one, with the runs of all of them."""
    first = foremost(agents)
    if first is None:
        return None
    by_life = sorted(agents, key=lambda one: one.is_running() is not False)
    runs = {run.run: run for one in by_life for run in one.runs}
    return replace(first, runs=tuple(runs.values()))


def agent_in(content: Mapping[str, Any]) -> AgentSeen:
    """Return what a status says of its agent; raise ``ValueError``, ``KeyError`` or ``TypeError`` if it is none."""
    runs = tuple(_run_seen(run) for run in content["runs"])
    pid, host, started_s = int(content["pid"]), str(content["host"]), float(content["started_s"])
    return AgentSeen(pid, host, started_s, runs, _number(content.get("written_s")))


def _read(directory: Path, repository: str, parse: Callable[[Mapping[str, Any]], _Parsed]) -> list[_Parsed]:
    """Return what *parse* makes of each status file of this repository, the newest one last; others count as none."""
    found: list[tuple[float, _Parsed]] = []
    for file in status_files(directory):
        try:
            with file.open("rb") as stream:
                content = json.loads(stream.read(_BYTES_MAX))
            if content["format"] == FORMAT and content["repository"] == repository:
                found.append((_number(content.get("written_s")) or 0.0, parse(content)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return [value for _, value in sorted(found, key=lambda one: one[0])]


def _run_seen(run: Mapping[str, Any]) -> RunSeen:
    return RunSeen(
        run=str(run["run"]),
        last_version=_number(run["last_version"]),
        last_version_s=_number(run["last_version_s"]),
        last_proved_version=_number(run["last_proved_version"]),
        last_error=None if run["last_error"] is None else str(run["last_error"]),
        troubles=tuple(map(str, run["troubles"])),
        proved_s=safe_s(run),
    )


def safe_s(run: Mapping[str, Any]) -> float | None:
    """Return the last moment at which all of a run was safe, as a status has it."""
    names = ("safe_until_s",) if run.get("safe") == "mirror" else ("last_proved_s", "proved_until_s")
    return max(filter(None, (_number(run.get(name)) for name in names)), default=None)


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
        "missed_saves": state.missed_saves,
        "rests": state.rests,
        "next_try_s": None if run.next_try_s is None else round(run.next_try_s),
        "doing": _doing_as_json(run.heartbeat.doing),
        "silent_s": None if run.silent_s is None else round(run.silent_s),
        "waits": run.waits or None,
        "waited": _waited_as_json(run.heartbeat.waited),
        "retry_count": run.heartbeat.retry_count,
        "proved_until_s": _rounded(run.record.proved_until_s),
        "unproved_s": _rounded(run.unproved_s),
        "safe": "mirror" if run.safe_in_mirror else "repository",
        "safe_until_s": _rounded(run.safe_until_s),
        "unsafe_s": _rounded(run.unsafe_s),
        "changed_s": _rounded(run.changed_s),
        "lag_s": _rounded(run.lag_s),
        "proof_lag_s": _rounded(run.proof_lag_s),
        "usual_interval_s": _rounded(run.record.usual_interval_s()),
        "no_checkpoint_s": _rounded(run.no_checkpoint_s),
        "hidden": list(run.hidden),
        "errors": [_error_as_json(error) for error in run.record.errors],
        "evaluation": _measured_as_json(run.record.measured),
    }


def _measured_as_json(one: LastEvaluation | None) -> dict[str, Any] | None:
    if one is None:
        return None
    when_s = round(one.at_s)
    return {"version": one.version, "when_s": when_s, "numbers": dict(one.numbers), "error": one.error or None}


def _doing_as_json(doing: Doing | None) -> dict[str, Any] | None:
    if doing is None or not doing.what:
        return None
    known = {"what": doing.what, "said": doing.said or None, "done": doing.done, "total": doing.total}
    known |= {"unit": doing.unit, "left_s": None if doing.left_s is None else round(doing.left_s)}
    return known | {"slowed": doing.slowed or None}


def _waited_as_json(waited: tuple[float, str] | None) -> dict[str, Any] | None:
    return None if waited is None else {"last_s": round(waited[0]), "text": waited[1]}


def _error_as_json(error: PastError) -> dict[str, Any]:
    return {
        "first_s": round(error.first_s),
        "last_s": round(error.last_s),
        "count": error.count,
        "text": error.text,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
