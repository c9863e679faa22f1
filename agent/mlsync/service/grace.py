"""The time for a last backup at this place: as configured, or by what the place is known to leave."""

from __future__ import annotations

from typing import Final

from mlsync.config.model import Config
from mlsync.preemption.grace import Grace, grace_here

#: A last pass of an agent takes no longer, unless the configuration says so.
STOP_WITHIN_S: Final = 25.0


# With less, the start of a process is a good part of it: 0.3 s, and seconds beside a training on all processors.
_SHORT_S: Final = 10.0


def is_short(grace_s: float) -> bool:
    """Return whether a last backup within *grace_s* should find its process started."""
    return grace_s <= _SHORT_S


def grace_of(config: Config) -> Grace:
    """Return how long a process has from SIGTERM on."""
    settings = config.preemption
    if settings.grace_s is not None:
        return Grace(settings.grace_s, "signal_grace in the configuration")
    return grace_here(settings.notices)


def stop_within_s(config: Config) -> float:
    """Return how long the last pass of an agent may take after SIGTERM."""
    within_s = config.agent.stop_within_s
    return min(STOP_WITHIN_S, grace_of(config).plan_s) if within_s is None else within_s
