"""What the calls return."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from html import escape
from pathlib import Path

from mlsync.errors import Error


@dataclass(frozen=True, slots=True)
class SavedRun:
    """What became of a save in one run, as far as it was waited for.

    *version* holds it. *level* is what all checkpoints of this version reached that are not broken; ``None`` before one
    was proved. *kept_out* says why files of the save are not in the version, if they are not.
    """

    run: str
    version: int | None = None
    level: int | None = None
    is_proved: bool = False
    summary: str | None = None
    kept_out: tuple[str, ...] = ()
    error: Error | None = None


@dataclass(frozen=True, slots=True)
class ToldSave:
    """What ``mlsync.now`` came to; true if all went as it was asked for.

    *problem* says what did not, and *skipped* why nothing was to do here. *runs* has more than one run where several
    agents watch the directory.
    """

    runs: tuple[SavedRun, ...] = ()
    problem: str | None = None
    skipped: str | None = None

    def __bool__(self) -> bool:
        """Return whether all went as it was asked for."""
        return self.problem is None

    @property
    def told(self) -> bool:
        """Whether an agent knows of the save."""
        return bool(self.runs)

    @property
    def version(self) -> int | None:
        """The version that holds the save, if it was waited for: of the first run."""
        return self.runs[0].version if self.runs else None

    @property
    def level(self) -> int | None:
        """The level that the version reached, of several runs the least."""
        levels = [one.level for one in self.runs]
        return min((level for level in levels if level is not None), default=None) if None not in levels else None


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version of a run; sizes are in bytes, *made* has a time zone.

    *level* is what all checkpoints reached that are not broken, ``None`` without a checkpoint; *pending* says that the
    proof is still to come.
    """

    run: str
    version: int
    made: datetime
    host: str
    directory: str
    file_count: int
    size_bytes: int
    new_bytes: int
    stored_bytes: int
    checkpoint_count: int
    broken_count: int
    level: int | None
    pending: bool
    device: str | None
    notes: tuple[str, ...] = ()
    is_pinned: bool = False
    is_forgotten: bool = False


class VersionTable(tuple[VersionRow, ...]):
    """Versions, oldest first; a table in notebooks."""

    __slots__ = ()

    @property
    def latest(self) -> VersionRow | None:
        """The newest one, if there is any."""
        return self[-1] if self else None

    def _repr_html_(self) -> str:
        columns = ("run", "version", "made", "file_count", "size_bytes", "checkpoint_count", "level", "pending")
        head = "".join(f"<th>{name}</th>" for name in columns)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(_shown(getattr(one, name)))}</td>" for name in columns) + "</tr>"
            for one in self
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


@dataclass(frozen=True, slots=True)
class ResumeLine:
    """How a training goes on: from which checkpoint, and with which line of Python or of a shell."""

    kind: str
    path: Path
    line: str


@dataclass(frozen=True, slots=True)
class RestoredVersion:
    """What ``mlsync.restore`` brought back."""

    run: str
    version: int
    directory: Path
    file_count: int
    size_bytes: int
    written_count: int
    written_bytes: int
    read_bytes: int
    unchanged_count: int
    seconds: float
    resume: tuple[ResumeLine, ...] = ()

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint to go on from, if the version has one."""
        return self.resume[0].path if self.resume else None

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{one.name}</th><td>{escape(_shown(getattr(self, one.name)))}</td></tr>"
            for one in fields(self)
            if one.name != "resume"
        )
        lines = "".join(f"<tr><th>resume</th><td><code>{escape(one.line)}</code></td></tr>" for one in self.resume)
        return f"<table><tbody>{rows}{lines}</tbody></table>"


def _shown(value: object) -> str:
    if value is None:
        return ""
    return value.isoformat(" ", "seconds") if isinstance(value, datetime) else str(value)
