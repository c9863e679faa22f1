"""How this machine is told that it goes away, whether that reaches it, and how long it then has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from mlsync.doctor.findings import Diagnosis, Grade
from mlsync.preemption.find import FoundPlatform
from mlsync.preemption.grace import Grace
from mlsync.preemption.platform import Description

SUBJECT: Final = "notice of an end"
GRACE: Final = "time after SIGTERM"
_TOO_SHORT: Final = (
    "what is in no version by then is lost: checkpoints have to be in the store before the notice, as the agent does"
)
# As long as a checkpoint of some size takes to a bucket.
_SHORT_S: Final = 30.0


def diagnose_notices(found: Sequence[FoundPlatform], wall: Callable[[], float] = time.time) -> Iterator[Diagnosis]:
    """Yield how each platform tells, after asking it once."""
    for one in found:
        yield told(one.platform.describe(wall()), one.why)


def told(platform: Description, why: str) -> Diagnosis:
    """Return what a platform's description means; *why* says how the platform was known."""
    shown = f"{platform.platform} ({why}): {platform.told_by}"
    if platform.problem is not None:
        at = f" at {platform.endpoint}" if platform.endpoint else ""
        what = f"{shown}; but nothing comes{at}: {platform.problem}"
        means = "the machine ends without a last backup"
        return Diagnosis(SUBJECT, Grade.WARNING, what, means, platform.advice or "")
    times = f"{platform.lead_s:g} s before the end, and {platform.grace_s:g} s from SIGTERM to SIGKILL"
    means = _TOO_SHORT if min(platform.lead_s, platform.grace_s) < _SHORT_S else ""
    return Diagnosis(SUBJECT, Grade.FINE, f"{shown}: {times}", means, platform.advice or "")


def diagnose_grace(configured_s: float | None, here: Grace) -> Diagnosis:
    """Return how long a last backup may take after SIGTERM, by the configuration or else by the place."""
    grace = here if configured_s is None else Grace(configured_s, "signal_grace in the configuration")
    what = f"SIGKILL comes after {grace.kill_s:g} s ({grace.why}); mlsync run plans with {grace.plan_s:g} s"
    means = _TOO_SHORT if grace.kill_s < _SHORT_S else ""
    advice = "if it is another time here: signal_grace under [preemption], or mlsync run --grace"
    return Diagnosis(GRACE, Grade.FINE, what, means, advice)
