"""What every platform has in common: what it is asked, how often, and how it describes itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from mlsync.preemption.metadata import MetadataFault
from mlsync.preemption.notice import PlatformNotice

#: No backup is planned for less: a machine that is due may live some seconds more.
LEAD_S_MIN: Final = 5.0


class Platform(Protocol):
    """Where an agent may run; one thread at a time asks it."""

    @property
    def name(self) -> str:
        """What the configuration calls it."""

    @property
    def grace_s(self) -> float:
        """The seconds between SIGTERM and SIGKILL here, as far as the platform promises any."""

    @property
    def lead_s(self) -> float:
        """The seconds from a notice without a date to the end."""

    @property
    def poll_s(self) -> float | None:
        """How long to wait between two questions; ``None`` if nothing can be asked, and a signal is all."""

    @property
    def patience_s(self) -> float:
        """How long after the first question the service may be silent without a fault."""

    def notices(self, now_s: float) -> Sequence[PlatformNotice]:
        """Return all events that the platform tells of at *now_s*, in seconds since 1970.

        Raises ``MetadataFault`` if it does not answer, or answers what means nothing.
        """

    def describe(self, now_s: float) -> Description:
        """Return how notices come here, and what stands in their way; this asks the platform once."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a platform is like here: *told_by* says how notices come, *problem* and *advice* what is wrong.

    *is_reachable* is ``None`` where there is nothing to reach.
    """

    platform: str
    told_by: str
    lead_s: float
    grace_s: float
    endpoint: str | None = None
    is_reachable: bool | None = None
    problem: str | None = None
    advice: str | None = None


def described_service(platform: Platform, told_by: str, endpoint: object, now_s: float, advice: str) -> Description:
    """Return the description of a platform with a metadata service, after asking that once."""
    problem = None
    try:
        platform.notices(now_s)
    except MetadataFault as fault:
        problem = str(fault)
    return Description(
        platform=platform.name,
        told_by=told_by,
        lead_s=platform.lead_s,
        grace_s=platform.grace_s,
        endpoint=str(endpoint),
        is_reachable=problem is None,
        problem=problem,
        advice=None if problem is None else advice,
    )
