"""Platforms that say nothing beforehand: a signal is the notice. Slurm also tells when a job's time is up."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

from mlsync.preemption.notice import Effect, PlatformNotice
from mlsync.preemption.platform import Description

_SECONDS: Final = re.compile(r"[1-9][0-9]{8,10}")


class BySignal:
    """A platform that ends its processes with SIGTERM, and kills them *grace_s* later."""

    poll_s: float | None = None
    patience_s = 0.0

    def __init__(self, name: str, grace_s: float, advice: str | None = None) -> None:
        self.name = name
        self.grace_s = grace_s
        self.lead_s = grace_s
        self._advice = advice

    def notices(self, now_s: float) -> list[PlatformNotice]:  # noqa: ARG002 - the protocol's
        """Return nothing: whoever gets the signal acts on it."""
        return []

    def describe(self, now_s: float) -> Description:  # noqa: ARG002 - the protocol's
        """Return how long a signal leaves."""
        return Description(self.name, "SIGTERM", self.lead_s, self.grace_s, advice=self._advice)


class Runpod(BySignal):
    """RunPod: five seconds, and the container's disk is gone afterwards."""

    def __init__(self) -> None:
        super().__init__(
            "runpod", 5.0, "five seconds are for the rest of a checkpoint: mlsync run has the agent beside it"
        )


class Vast(BySignal):
    """Vast.ai: an instance that is outbid is paused without a word."""

    def __init__(self) -> None:
        super().__init__("vast", 0.0, "no notice comes: what is not in a version stays on that host")


class SageMaker(BySignal):
    """A training job of SageMaker: two minutes."""

    def __init__(self) -> None:
        super().__init__("sagemaker", 120.0)


class Kubernetes(BySignal):
    """A pod; a sidecar is told by its own preStop hook, long before its SIGTERM."""

    def __init__(self) -> None:
        advice = "a sidecar hears of the end at once through lifecycle.preStop: exec mlsync now --preempt"
        super().__init__("kubernetes", 30.0, advice)


class PlainSignal(BySignal):
    """Any other machine: what a container's runtime leaves."""

    def __init__(self) -> None:
        super().__init__("signal", 10.0)


class Slurm(BySignal):
    """A job of Slurm, which ends at a time that it knows; a preemption is a signal."""

    poll_s: float | None = 5.0

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        super().__init__("slurm", 30.0, "a preemption leaves the partition's GraceTime: set signal_grace to that")
        said = environ.get("SLURM_JOB_END_TIME", "")
        self._ends_s = float(said) if _SECONDS.fullmatch(said) else None

    def notices(self, now_s: float) -> list[PlatformNotice]:  # noqa: ARG002 - the protocol's
        """Return the end of the job's time."""
        if self._ends_s is None:
            return []
        ident = "slurm time limit"
        return [PlatformNotice(self.name, "time limit", Effect.ENDS, self._ends_s, certain=True, ident=ident)]

    def describe(self, now_s: float) -> Description:  # noqa: ARG002 - the protocol's
        """Return how long a signal leaves, and whether the job's end is known."""
        told_by = "SIGTERM" if self._ends_s is None else "SLURM_JOB_END_TIME, and SIGTERM"
        return Description(self.name, told_by, self.lead_s, self.grace_s, advice=self._advice)
