"""What a policy is told of a version, and of all versions of a run at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from mlsync.errors import PolicyRefused


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """A version as a policy sees it.

    *level* is the lowest that its checkpoints reached, 0 if it has none; whether it *is_as_required* says if that was
    far enough for whoever made it. *metrics* has each number that is known of it
    by name: several checkpoints of a version may each have one. *sources* are the older versions whose content of a
    file it holds, because that file could not be taken when it was made. Whether it *is_registered* may be unknown.
    """

    number: int
    made_ns: int
    level: int = 0
    is_as_required: bool = False
    is_broken: bool = False
    is_resumable: bool = False
    is_best: bool = False
    is_pinned: bool = False
    is_registered: bool | None = None
    is_forgotten: bool = False
    epoch: float | None = None
    step: float | None = None
    metrics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    sources: frozenset[int] = frozenset()


class History:
    """The versions of a run that are not forgotten, by rising number, as they stand at *now_ns*."""

    def __init__(self, run: str, versions: Iterable[VersionFacts], *, floor: int, now_ns: int) -> None:
        self.run = run
        self.floor = floor
        self.now_ns = now_ns
        by_number: dict[int, VersionFacts] = {}
        for one in versions:
            # A listing may show an object twice. Two objects under one number would be two histories.
            if by_number.setdefault(one.number, one) != one:
                raise PolicyRefused(f"version {one.number} of run {run!r} was listed twice, and differs")
        self.versions = [by_number[number] for number in sorted(by_number) if not by_number[number].is_forgotten]

    @cached_property
    def proved(self) -> list[VersionFacts]:
        """The versions that are at the floor or above it, and not broken."""
        return [one for one in self.versions if self.is_proved(one)]

    @cached_property
    def dated(self) -> list[VersionFacts]:
        """The versions whose date can be believed: a date in the future is of a wrong clock, and says nothing."""
        return [one for one in self.versions if not self.is_of_future(one)]

    @cached_property
    def newest_proved(self) -> VersionFacts | None:
        """The newest proved version; if there is none, the newest that is not broken; else the newest."""
        sound = [one for one in self.versions if not one.is_broken]
        return next((found[-1] for found in (self.proved, sound, self.versions) if found), None)

    def is_proved(self, one: VersionFacts) -> bool:
        """Return whether a version is at the floor or above it, and not broken."""
        return one.level >= self.floor and not one.is_broken

    def is_of_future(self, one: VersionFacts) -> bool:
        """Return whether a version has a date that has not come yet."""
        return one.made_ns > self.now_ns
