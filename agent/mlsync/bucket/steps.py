"""A plan is made of steps: each is one setting of one bucket, what changes in it, and the document that sets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from mlsync.bucket.facts import SettingAnswer
from mlsync.store.s3.settings import Setting

#: The steps that are not about a setting.
BUCKET, ROLE = "bucket", "role"


class StepMark(Enum):
    """What becomes of it."""

    ADDED = "+"
    CHANGED = "~"
    REMOVED = "-"
    SAME = "="
    # The server has nothing like it, or it is not mlsync's to change.
    LEFT = "!"
    UNKNOWN = "?"


CHANGES: Final = (StepMark.ADDED, StepMark.CHANGED, StepMark.REMOVED)


@dataclass(frozen=True, slots=True)
class StepLine:
    """One line of what is shown."""

    mark: StepMark
    text: str


@dataclass(frozen=True, slots=True)
class BucketStep:
    """A *setting* of a *bucket* (or its making, or the role): *lines* say what changes, *document* is what is sent.

    A list of rules is sent with those that are not ours: *rules* are ours, by name, in the form of AWS's API, and
    *removed* the names of ours that go. A step that *is_refused* was asked for and cannot be.
    """

    bucket: str
    setting: Setting | str
    lines: tuple[StepLine, ...]
    document: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    is_refused: bool = False

    @property
    def name(self) -> str:
        """What people call the setting."""
        return self.setting.value if isinstance(self.setting, Setting) else self.setting

    @property
    def is_change(self) -> bool:
        """Whether there is something to do."""
        return any(line.mark in CHANGES for line in self.lines)

    @property
    def is_open(self) -> bool:
        """Whether it is not as it is wanted, or nobody knows."""
        return self.is_change or self.is_refused or any(line.mark is StepMark.UNKNOWN for line in self.lines)


@dataclass(frozen=True, slots=True)
class BucketPlan:
    """What is to be done, in this order, and what somebody should know before (*notes*)."""

    steps: tuple[BucketStep, ...]
    notes: tuple[str, ...] = ()

    @property
    def changes(self) -> list[BucketStep]:
        """The steps that change something."""
        return [step for step in self.steps if step.is_change]

    @property
    def open(self) -> list[BucketStep]:
        """The steps after which the bucket is not as it was asked for, if nothing is done."""
        return [step for step in self.steps if step.is_open]


def step_of(
    bucket: str,
    setting: Setting,
    answer: SettingAnswer,
    wanted: Mapping[str, Any],
    words: tuple[str, str],
    *,
    fits: bool,
) -> BucketStep:
    """Return the step of a setting that is one document: *words* are what is set and what is wanted."""
    is_now, will_be = words
    if fits:
        return BucketStep(bucket, setting, (StepLine(StepMark.SAME, is_now),))
    if not answer.document:
        return BucketStep(bucket, setting, (StepLine(StepMark.ADDED, will_be),), wanted)
    return BucketStep(bucket, setting, (StepLine(StepMark.CHANGED, f"{is_now} -> {will_be}"),), wanted)


def left(bucket: str, setting: Setting | str, why: str, *, is_refused: bool = False) -> BucketStep:
    """Return the step of what stays as it is, and why; *is_refused* if somebody asked for it by name."""
    return BucketStep(bucket, setting, (StepLine(StepMark.LEFT, why),), is_refused=is_refused)


def unknown(bucket: str, setting: Setting | str, why: str) -> BucketStep:
    """Return the step of what cannot be looked at, and so is not touched."""
    return BucketStep(bucket, setting, (StepLine(StepMark.UNKNOWN, f"not known, and left as it is: {why}"),))


def canonical(value: object) -> object:
    """Return a document of AWS's API without what servers add or write in another way."""
    if isinstance(value, Mapping):
        kept = {name: canonical(one) for name, one in value.items()}
        return {name: one for name, one in sorted(kept.items()) if one not in (None, "", {}, [])}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [canonical(one) for one in value]
    return value


def same_rule(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two rules say the same; the prefix may be inside of a filter, or outside as once."""
    return _flat(one) == _flat(other)


def prefix_of(rule: Mapping[str, Any]) -> str:
    """Return the begin of the keys that a rule is about."""
    chosen = rule.get("Filter") or {}
    both = chosen.get("And") or {}
    return str(rule.get("Prefix") or chosen.get("Prefix") or both.get("Prefix") or "")


def _flat(rule: Mapping[str, Any]) -> object:
    chosen = dict(rule.get("Filter") or {})
    both = {**chosen, **(chosen.pop("And", None) or {})}
    both.pop("And", None)
    both.pop("Prefix", None)
    if both.get("ObjectSizeGreaterThan") == 0:
        del both["ObjectSizeGreaterThan"]
    rest = {name: one for name, one in rule.items() if name not in ("Filter", "Prefix")}
    return canonical({**rest, "Filter": both, "Prefix": prefix_of(rule)})
