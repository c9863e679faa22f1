"""What a copier is asked for, and what it did."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

# A run and the number of one of its versions.
CopiedVersion = tuple[str, int]


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """What is copied, and how.

    *runs* are the runs to copy, all of them without it; *versions* the numbers to copy of a run, all of them for a run
    that is not in it. With *create* a mirror is made where there is none. *verify* reads each pack back that was
    copied, and opens all of it. Without *server_side* all bytes pass through this process. A *dry_run* writes nothing.
    *stop* is asked between objects.
    """

    now_ns: int
    host: str
    runs: Collection[str] | None = None
    versions: Mapping[str, Collection[int]] = field(default_factory=dict)
    create: bool = False
    verify: bool = False
    server_side: bool = True
    dry_run: bool = False
    stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class NotCopied:
    """A version that could not be copied, and why."""

    run: str
    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """An object of the mirror that is another one than that of the same name in the source."""

    key: str
    why: str


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a run's copy is behind afterwards: *version_count* versions that were to be copied are not there.

    *newest* is the source's newest version and *copied* the mirror's, 0 if it has none; *age_s* is the time between
    the moments at which the two were made, or since the source's was made where the mirror has none.
    """

    newest: int
    copied: int
    version_count: int
    age_s: float


@dataclass(slots=True)
class CopyResult:
    """What was copied, or would be by a dry run; *there_count* versions were in the mirror already.

    *server_side_bytes* are those of *size_bytes* that did not pass through this process. *omitted* are versions that
    nobody asked for, by run. *ahead* are versions that the mirror has and the source lacks, although nothing says that
    they were removed. *removed* were removed in the mirror on purpose. *decided_apart* are runs of which pins or
    forgotten versions were decided in the mirror itself, under a number that the source used as well. *stale_slots* are
    key slots of the mirror that the source has no more.
    """

    is_new: bool = False
    is_dry: bool = False
    versions: list[CopiedVersion] = field(default_factory=list)
    there_count: int = 0
    pack_count: int = 0
    size_bytes: int = 0
    server_side_bytes: int = 0
    object_count: int = 0
    verified_bytes: int = 0
    left_out: list[NotCopied] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    omitted: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ahead: dict[str, tuple[int, ...]] = field(default_factory=dict)
    removed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    decided_apart: list[str] = field(default_factory=list)
    lag: dict[str, Lag] = field(default_factory=dict)
    stale_slots: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether everything that was asked for is in the mirror now."""
        return not (self.left_out or self.conflicts)
