"""Facts about versions as tests write them down: a number, a day, and what else matters."""

from __future__ import annotations

from typing import Any

from mlsync.retention.facts import VersionFacts
from mlsync.retention.grammar import parse_rules
from mlsync.retention.policy import KeepPolicy, PolicyOutcome, evaluate

DAY_NS = 86_400 * 10**9
HOUR_NS = 3_600 * 10**9
# A Monday.
START_NS = 1_767_571_200 * 10**9


def made(number: int, day: float, **more: Any) -> VersionFacts:
    """A proved version, made so many days after the start."""
    return VersionFacts(number, START_NS + int(day * DAY_NS), **({"level": 3} | more))


def applied(
    keep: list[str], versions: list[VersionFacts], *, floor: int = 3, grace_s: float = 0, now_day: float = 1000
) -> PolicyOutcome:
    """What a policy says of versions."""
    policy = KeepPolicy(parse_rules(keep), floor, grace_s)
    return evaluate(policy, "yolo", versions, START_NS + int(now_day * DAY_NS))


def kept(keep: list[str], versions: list[VersionFacts], **more: Any) -> list[int]:
    """The numbers of the versions that a policy keeps."""
    return [one.version.number for one in applied(keep, versions, **more).judged if one.is_kept]


def reasons(evaluation: PolicyOutcome) -> dict[int, tuple[str, ...]]:
    """Why each version is kept."""
    return {one.version.number: one.reasons for one in evaluation.judged}
