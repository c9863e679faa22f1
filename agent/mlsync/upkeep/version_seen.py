"""What is told of a version over time, as plain values: a module that the idle agent can afford to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class VersionSeen:
    """A version: its sizes, how far its checkpoints are proved, and how far the training was.

    *level* is what every checkpoint reached that is not broken; ``None`` without a checkpoint. *checkpoint_s* is when
    the newest checkpoint was written, and *made_s* when the version was made, in seconds since 1970. *is_hidden*: later
    proofs of it are missing. *numbers* were measured of it.
    """

    version: int
    made_s: float
    host: str = ""
    file_count: int = 0
    size_bytes: int = 0
    new_bytes: int = 0
    stored_bytes: int = 0
    checkpoint_count: int = 0
    broken_count: int = 0
    trouble_count: int = 0
    level: int | None = None
    is_pending: bool = False
    is_hidden: bool = False
    epoch: float | None = None
    step: float | None = None
    fitness: float | None = None
    checkpoint_s: float | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
