"""Why a finished save is in no version: what happened between its end and the version that could have had it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from soaking.record import Save

AGENT, STORE, PASS = "agent dead or stopped", "store away", "pass killed or stopped"
UNSEEN, THINNED, UNEXPLAINED = "deleted before it could be seen", "thinned: the store is slower", "unexplained"
CAUSES = (AGENT, STORE, PASS, UNSEEN, THINNED, UNEXPLAINED)
_OF_PERIOD = {"agent": AGENT, "store": STORE, "pass": PASS}
# What lives no longer than this: events come in milliseconds, and a busy machine makes that a second.
UNSEEN_S = 1.0
# After a pass that took longer the agent keeps the newest of the deleted saves alone.
SLOW_S = 20.0
# After a failure the next try comes that late at most.
RETRY_S = 60.0

Period = tuple[float, float, str]


def cause_of(save: Save, made_s: Sequence[float], periods: Sequence[Period]) -> str:
    """The cause for a save that no version has; versions were made at *made_s*, in order."""
    next_s = next((at_s for at_s in made_s if at_s > save.ended_s), float("inf"))
    until_s = next_s if next_s < float("inf") else save.gone_s
    found = {
        _OF_PERIOD[what]
        for begin_s, end_s, what in periods
        if what in _OF_PERIOD and begin_s <= until_s and recovered_s(end_s, made_s) >= save.ended_s
    }
    for cause in (AGENT, STORE, PASS):
        if cause in found:
            return cause
    if save.gone_s - save.ended_s < UNSEEN_S:
        return UNSEEN
    return THINNED if next_s - save.ended_s > SLOW_S else UNEXPLAINED


def recovered_s(end_s: float, made_s: Sequence[float]) -> float:
    """When the agent was over a disturbance that ended at *end_s*: with its next version, or when it surely tries."""
    return min(end_s + RETRY_S, next((at_s for at_s in made_s if at_s > end_s), float("inf")))


def in_order(counts: Counter[str]) -> dict[str, int]:
    """All causes with their counts, also those that did not occur."""
    return {cause: counts[cause] for cause in CAUSES}
