"""Carries a plan out step by step; what fails is named, and the rest goes on. Then whoever asked looks again.

A list of rules is read once more right before it is written, so that a rule that came meanwhile stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from mlsync.bucket import policy
from mlsync.bucket.steps import BUCKET, ROLE, BucketPlan, BucketStep
from mlsync.errors import StoreError
from mlsync.store.s3.account import Account
from mlsync.store.s3.rule_text import text_of
from mlsync.store.s3.settings import BucketSettings, Setting, is_refused_value, lacks

# IAM tells all of its servers of a new role within seconds.
_ROLE_TRIES: Final = 5
_ROLE_WAIT_S: Final = 3.0


@dataclass(slots=True)
class BucketApplied:
    """What became of a plan: the steps that are *done*, what the server turned out to lack, and why others *failed*."""

    done: list[BucketStep] = field(default_factory=list)
    lacking: list[BucketStep] = field(default_factory=list)
    failed: list[tuple[BucketStep, str]] = field(default_factory=list)
    has_new_role: bool = False


@dataclass(frozen=True, slots=True)
class Doer:
    """Who does it: the settings of each bucket by name, and the account."""

    buckets: Mapping[str, BucketSettings]
    account: Account
    sleep: Callable[[float], None] = time.sleep


def carry_out(plan: BucketPlan, doer: Doer) -> BucketApplied:
    """Carry out all changes of *plan*; return what was done, and what failed and why."""
    applied = BucketApplied()
    missing: set[str] = set()
    for step in plan.changes:
        if step.bucket in missing:
            applied.failed.append((step, "not tried: there is no bucket"))
            continue
        try:
            _carry_out(step, doer, applied)
        except StoreError as error:
            if lacks(error) and step.setting != BUCKET:
                applied.lacking.append(step)
                continue
            applied.failed.append((step, str(error)))
            if step.setting == BUCKET:
                missing.add(step.bucket)
        else:
            applied.done.append(step)
    return applied


def _carry_out(step: BucketStep, doer: Doer, applied: BucketApplied) -> None:
    if step.setting == ROLE:
        document = step.document
        trust, rights = document["AssumeRolePolicyDocument"], document["PolicyDocument"]
        applied.has_new_role = doer.account.write_role(str(document["RoleName"]), trust, rights)
        return
    bucket = doer.buckets[step.bucket]
    if step.setting == BUCKET:
        region, locks = step.document["LocationConstraint"], bool(step.document["ObjectLockEnabledForBucket"])
        bucket.make(region, locks=locks)
        bucket.region()
        return
    assert isinstance(step.setting, Setting)
    if step.setting is Setting.LIFECYCLE:
        _write_lifecycle(step, bucket)
    elif step.setting is Setting.REPLICATION:
        _when_the_role_is_known(lambda: _write_rules(step, bucket), doer if applied.has_new_role else None)
    elif step.setting is Setting.POLICY:
        added = step.document["Statement"][0]
        bucket.write(step.setting, policy.with_statement(bucket.read(step.setting), added))
    else:
        bucket.write(step.setting, step.document)


def _write_rules(step: BucketStep, bucket: BucketSettings, rules: Mapping[str, str] | None = None) -> None:
    """Write our rules beside those of others, as these are by now."""
    assert isinstance(step.setting, Setting)
    ours = {name: text_of(rule) for name, rule in step.rules.items()} if rules is None else rules
    kept = bucket.rule_texts(step.setting)
    for name in (*step.rules, *step.removed):
        kept.pop(name, None)
    role = step.document.get("Role")
    bucket.write_rules(step.setting, [*kept.values(), *ours.values()], role=None if role is None else str(role))


def _write_lifecycle(step: BucketStep, bucket: BucketSettings) -> None:
    """Write our rules; if a server refuses them together, those that it takes, and raise what it says of the others."""
    try:
        _write_rules(step, bucket)
    except StoreError as error:
        if len(step.rules) < 2 or not is_refused_value(error):  # noqa: PLR2004  with one there is nothing to part
            raise
        taken: dict[str, str] = {}
        refusal: StoreError | None = None
        for name, rule in step.rules.items():
            try:
                _write_rules(step, bucket, {**taken, name: text_of(rule)})
                taken[name] = text_of(rule)
            except StoreError as refused:
                refusal = refused
        if refusal is not None:
            raise refusal from error


def _when_the_role_is_known(write: Callable[[], None], doer: Doer | None) -> None:
    """Write; try again for some seconds where the role was made just before (*doer* is whoever can wait)."""
    for number in range(1, _ROLE_TRIES + 1):
        try:
            write()
        except StoreError as error:
            if doer is None or number == _ROLE_TRIES or not is_refused_value(error):
                raise
            doer.sleep(_ROLE_WAIT_S)
        else:
            return
