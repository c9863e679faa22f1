"""What a new version says of the newest decision about its run, so that a store cannot hide it afterwards."""

from __future__ import annotations

from mlsync.monitor import Monitor
from mlsync.repository.history.decisions import find_decided
from mlsync.repository.history.seen_decision import SeenDecision
from mlsync.repository.repository import Repository


def decided_now(
    repository: Repository, run: str, before: SeenDecision | None, monitor: Monitor
) -> tuple[SeenDecision | None, int]:
    """Return what the next manifest says of decisions, and the highest number that none may have.

    *before* is what the last manifest says; it stays if the store shows less, which is reported. A number that was
    forgotten or is gone is never used again: the version would be taken for the one that had it.
    """
    decided = find_decided(repository, run, before)
    seen = decided.seen
    if decided.hidden is not None:
        monitor.notice("warning", f"{run}: what was decided of its versions cannot be read: {decided.hidden}")
        if before is not None and (seen is None or seen.number <= before.number):
            seen = before
    return seen, decided.highest_dropped
