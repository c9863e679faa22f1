"""What the demo found out, as values: the tables and the JSON are made from them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ReportedTrouble:
    """A file that a version does not hold as it lay on the disk."""

    path: str
    kind: str
    text: str
    kept_version: int | None


@dataclass(frozen=True, slots=True)
class VersionMade:
    """A version; *proved_after_s* counts from its last checkpoint's save, none where that is an older version's."""

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
    troubles: tuple[ReportedTrouble, ...] = ()


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
    """The restore, and how it compares with what was there; *command_s* is all of the command, *seconds* its work."""

    version: int
    file_count: int
    size_bytes: int
    seconds: float
    command_s: float
    identical_count: int


@dataclass(frozen=True, slots=True)
class EpochLosses:
    """The loss of an epoch in the killed training, if it came to it, and in the resumed one."""

    epoch: int
    killed: float | None
    resumed: float | None


@dataclass(frozen=True, slots=True)
class Resumed:
    """The training that went on; *identical* where each loss is the killed training's to the last bit."""

    from_epoch: int
    losses: tuple[EpochLosses, ...]
    identical: bool


@dataclass(slots=True)
class Report:
    """All of it."""

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
        """Return it as docs/json.md describes it."""
        return dataclasses.asdict(self)
