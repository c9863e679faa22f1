"""A prune as the configuration has it: by the command and by the agent."""

from __future__ import annotations

import platform

from mlsync.config.model import Config
from mlsync.monitor import Monitor
from mlsync.repository.repository import Repository
from mlsync.upkeep.prune import Pruned, PruneOptions, PrunePlan, carry_out, plan, refuse_blocked


def prune_options(
    config: Config, now_ns: int, grace_s: float | None = None, *, waits_for_minimum: bool = False
) -> PruneOptions:
    """Return how long things wait: *grace_s*, or else the longest grace period of the configuration.

    A pack may be of any run, so no run's own grace period may shorten that of another one.
    """
    if grace_s is None:
        grace_s = max(one.grace_s for one in (config.retention, *(watch.retention for watch in config.watches)))
    waits = waits_for_minimum or config.s3.wait_for_minimum
    return PruneOptions(now_ns, platform.node(), grace_s, waits_for_minimum=waits)


def prune(repository: Repository, options: PruneOptions, monitor: Monitor) -> tuple[PrunePlan, Pruned]:
    """Delete what no version needs, without a question; raise ``PruneBlocked`` where that cannot be seen."""
    found = plan(repository, monitor, options)
    refuse_blocked(repository, found)
    return found, Pruned() if found.is_empty else carry_out(repository, found, monitor, options)
