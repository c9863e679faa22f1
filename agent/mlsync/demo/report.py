"""The demo's results, from which ``mlsync demo`` makes its tables and its JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class FileTrouble:
    """A file that a version does not hold as it was on disk."""

    path: str
    kind: str
    text: str
    kept_version: int | None


@dataclass(frozen=True, slots=True)
class VersionMade:
    """A version; *proved_after_s* counts from the save of its last checkpoint, ``None`` if an older version has it."""

    number: int
    made_by: str
    epoch: int | None
    file_count: int
    size_bytes: int
    read_bytes: int | None
    new_bytes: int
    stored_bytes: int
    checkpoint_count: int
    proved_after_s: float | None
    level: int
    device: str
    troubles: tuple[FileTrouble, ...] = ()


@dataclass(frozen=True, slots=True)
class Torn:
    """The checkpoint that the killed trainer left half-written, and what the version holds in its place."""

    path: str
    epoch: int
    bytes_on_disk: int
    whole_bytes: int
    kind: str
    text: str
    version: int
    kept_version: int
    kept_epoch: int


@dataclass(frozen=True, slots=True)
class Restored:
    """The restore, compared with what was there; *command_s* is the whole command's time, *seconds* the restore's."""

    version: int
    file_count: int
    size_bytes: int
    seconds: float
    command_s: float
    identical_count: int


@dataclass(frozen=True, slots=True)
class EpochLosses:
    """The loss of an epoch in the killed training and in the resumed one; ``None`` where one did not reach it."""

    epoch: int
    killed: float | None
    resumed: float | None


@dataclass(frozen=True, slots=True)
class Resumed:
    """The resumed training; *identical* if each loss is bit for bit the killed training's."""

    from_epoch: int
    losses: tuple[EpochLosses, ...]
    identical: bool


@dataclass(slots=True)
class Report:
    """The whole demo."""

    directory: str
    kept: bool
    trainer: str
    parameter_count: int = 0
    versions: list[VersionMade] = field(default_factory=list)
    torn: Torn | None = None
    agent_exit_status: int | None = None
    restored: Restored | None = None
    resumed: Resumed | None = None
    problem_count: int | None = None
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the value that docs/json.md describes."""
        return dataclasses.asdict(self)
