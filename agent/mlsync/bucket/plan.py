"""What has to change so that a bucket is as it is wanted: facts in, steps out, and nothing is asked or done.

The steps are in the order in which they work: buckets, what protects them, how they keep versions, and replication
last, which needs versions in both buckets and a role.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from mlsync.bucket import policy, replication
from mlsync.bucket.facts import BucketFacts, RoleFacts
from mlsync.bucket.lifecycle import frozen_tiers, lifecycle_step
from mlsync.bucket.providers import Provider
from mlsync.bucket.steps import BUCKET, BucketPlan, BucketStep, StepLine, StepMark, canonical, left, step_of, unknown
from mlsync.bucket.wanted import NONE, DefaultLock, Second, Wanted
from mlsync.store.s3.settings import Setting

_WAYS: Final = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
_BLOCK: Final = dict.fromkeys(_WAYS, True)
_DAY_S: Final = 86_400
# What is set for all that is in a bucket, whoever's it is.
_SHARED: Final = (Setting.PUBLIC, Setting.VERSIONS, Setting.ENCRYPTION, Setting.LOCK, Setting.POLICY)
_SSE_S3, _SSE_KMS, _SSE_KMS_TWICE = "AES256", "aws:kms", "aws:kms:dsse"


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a plan goes by: the server, the bucket, and the second bucket and the role if there are to be any.

    *region* and *second_region* are where a bucket is, or where it will be made. *refuses_http* is whether the
    bucket's policy may refuse plain http, by which mlsync itself may come.
    """

    provider: Provider
    first: BucketFacts
    region: str | None
    second: BucketFacts | None = None
    second_region: str | None = None
    role: RoleFacts | None = None
    refuses_http: bool = True


def plan(wanted: Wanted, seen: Seen) -> BucketPlan:
    """Return the steps from what was *seen* to what is *wanted*."""
    steps = list(_steps_of_bucket(wanted, seen.first, seen.region, seen))
    key = key_of(wanted, seen.first)
    if seen.second is not None:
        steps += _steps_of_second(wanted, seen, seen.second, key)
    elif Setting.REPLICATION in seen.provider.lacks and Setting.REPLICATION not in wanted.skip:
        what = f"{seen.provider.name} has none: {seen.provider.lacks[Setting.REPLICATION]}"
        steps.append(left(seen.first.bucket, Setting.REPLICATION, what, is_refused=wanted.second is not None))
    return BucketPlan(tuple(steps), tuple(_notes(wanted, seen, steps)))


def key_of(wanted: Wanted, facts: BucketFacts) -> str:
    """Return the key of KMS by which the bucket encrypts, or will: empty without one."""
    if wanted.kms_key is not None:
        return "" if wanted.kms_key == NONE else wanted.kms_key
    return str(_encryption(facts.answer(Setting.ENCRYPTION).document).get("KMSMasterKeyID") or "")


def lock_of(document: Mapping[str, Any]) -> DefaultLock | None:
    """Return the default retention of a lock, ``None`` without one."""
    found = (document.get("Rule") or {}).get("DefaultRetention") or {}
    days = int(found.get("Days") or 0) + 365 * int(found.get("Years") or 0)
    return DefaultLock(days, str(found.get("Mode"))) if days else None


def _steps_of_bucket(wanted: Wanted, facts: BucketFacts, region: str | None, seen: Seen) -> Iterator[BucketStep]:
    """Yield the steps of one bucket, replication apart."""
    if not facts.exists:
        where = f" in {region}" if region else ""
        locks = " with object lock" if wanted.lock and Setting.LOCK not in seen.provider.lacks else ""
        document = {"LocationConstraint": region, "ObjectLockEnabledForBucket": bool(locks)}
        yield BucketStep(
            facts.bucket, BUCKET, (StepLine(StepMark.ADDED, f"{facts.bucket} is made{where}{locks}"),), document
        )
    makers = {
        Setting.PUBLIC: _public,
        Setting.VERSIONS: _versions,
        Setting.ENCRYPTION: _encryption_step,
        Setting.LIFECYCLE: lambda wanted, facts, seen: lifecycle_step(wanted, facts, seen.provider),
        Setting.LOCK: _lock,
        Setting.POLICY: _policy,
    }
    for setting, make in makers.items():
        if setting not in wanted.skip and (step := make(wanted, facts, seen)) is not None:
            yield step


def _steps_of_second(wanted: Wanted, seen: Seen, second: BucketFacts, key: str) -> Iterator[BucketStep]:
    """Yield the steps of the second bucket, of the role, and of the replication itself."""
    have = seen.first.answer(Setting.REPLICATION).document
    copy_key = replication.second_key(wanted, have, key, seen.second_region)
    # What the second bucket has of its own is not made weaker: a key, a longer lock.
    alike = replace(
        wanted, bucket=second.bucket, second=None, kms_key=copy_key or (NONE if wanted.kms_key == NONE else None)
    )
    lock = lock_of(seen.first.answer(Setting.LOCK).document)
    if wanted.lock is None and lock is not None and lock_of(second.answer(Setting.LOCK).document) is None:
        # What the first bucket locks can only be replicated to one that locks too.
        alike = replace(alike, lock=lock)
    yield from _steps_of_bucket(alike, second, seen.second_region, seen)
    if Setting.REPLICATION in wanted.skip:
        return
    if seen.first.answer(Setting.REPLICATION).is_lacking:
        what = seen.provider.lacks.get(Setting.REPLICATION, "mlsync copy --to makes a second copy")
        yield left(seen.first.bucket, Setting.REPLICATION, f"{seen.provider.name} has none: {what}", is_refused=True)
        return
    if (hindrance := _hindrance(wanted, seen.first, key, copy_key)) is not None:
        yield hindrance
        return
    assert copy_key is not None
    name = replication.role_name(wanted)
    first = (seen.first.bucket, seen.region, key)
    rights = replication.policy_of(wanted, first, (second.bucket, seen.second_region, copy_key))
    role = seen.role or RoleFacts()
    yield replication.role_step(name, role, rights)
    if role.why and not role.account:
        # The role's name has the account's number in it.
        yield unknown(seen.first.bucket, Setting.REPLICATION, role.why)
        return
    arn = f"arn:{replication.partition_of(seen.region)}:iam::{role.account}:role/{name}"
    target = replication.arn_of(second.bucket, seen.second_region)
    rule = replication.rule_of(wanted, target, copy_key, 1)
    yield replication.replication_step(seen.first, rule, arn)


def _hindrance(wanted: Wanted, first: BucketFacts, key: str, copy_key: str | None) -> BucketStep | None:
    """Return the step that says why what is in the bucket cannot be replicated, ``None`` if it can."""
    answer = first.answer(Setting.ENCRYPTION)
    if wanted.kms_key is None and answer.why:
        # A rule that knows nothing of a key would copy nothing that a key encrypts.
        return unknown(first.bucket, Setting.REPLICATION, answer.why)
    kind = str(_encryption(answer.document).get("SSEAlgorithm") or "")
    why = None
    if key and not key.startswith("arn:"):
        why = f"the role has to name the key {key} by its ARN: give --sse-kms-key"
    elif not key and wanted.kms_key is None and kind.startswith(_SSE_KMS):
        why = "no replication can use AWS's own key, by which the bucket encrypts: give --sse-kms-key"
    elif copy_key is None:
        why = f"{key} encrypts here, and the second bucket needs a key in its own region: give --second-kms-key"
    return None if why is None else left(first.bucket, Setting.REPLICATION, why, is_refused=True)


def _public(wanted: Wanted, facts: BucketFacts, seen: Seen) -> BucketStep | None:
    del wanted
    answer = facts.answer(Setting.PUBLIC)
    if answer.is_lacking:
        return _lacking(facts, Setting.PUBLIC, seen, "nothing blocks public access but the bucket's own rights")
    if not answer.is_known:
        return unknown(facts.bucket, Setting.PUBLIC, answer.why)
    words = public_words(answer.document), public_words(_BLOCK)
    return step_of(facts.bucket, Setting.PUBLIC, answer, _BLOCK, words, fits=words[0] == words[1])


def public_words(document: Mapping[str, Any]) -> str:
    """Return how public access is blocked."""
    count = sum(1 for name in _BLOCK if document.get(name))
    if not count:
        return "not blocked"
    return "blocked in every way" if count == len(_BLOCK) else f"blocked in {count} of {len(_BLOCK)} ways"


def _versions(wanted: Wanted, facts: BucketFacts, seen: Seen) -> BucketStep | None:
    asked = wanted.second is not None or wanted.lock is not None or wanted.noncurrent_days is not None
    answer = facts.answer(Setting.VERSIONS)
    if answer.is_lacking:
        return _lacking(facts, Setting.VERSIONS, seen, "a deleted object is gone", is_refused=asked)
    if not answer.is_known:
        return unknown(facts.bucket, Setting.VERSIONS, answer.why)
    wants = {"Status": "Enabled"}
    words = versions_words(answer.document), versions_words(wants)
    return step_of(facts.bucket, Setting.VERSIONS, answer, wants, words, fits=words[0] == words[1])


def versions_words(document: Mapping[str, Any]) -> str:
    """Return whether the bucket keeps versions."""
    if document.get("Status") == "Enabled":
        return "on: what is deleted stays as a noncurrent version"
    return "suspended" if document.get("Status") else "off"


def _encryption_step(wanted: Wanted, facts: BucketFacts, seen: Seen) -> BucketStep | None:
    asked = wanted.kms_key not in (None, NONE)
    answer = facts.answer(Setting.ENCRYPTION)
    if answer.is_lacking:
        return _lacking(facts, Setting.ENCRYPTION, seen, "objects are sealed by mlsync in any case", is_refused=asked)
    if not answer.is_known:
        return unknown(facts.bucket, Setting.ENCRYPTION, answer.why)
    have = _encryption(answer.document)
    key, kind = key_of(wanted, facts), str(have.get("SSEAlgorithm") or "")
    default: dict[str, Any] = {"SSEAlgorithm": _SSE_S3}
    if key or (wanted.kms_key is None and kind.startswith(_SSE_KMS)):
        default = {"SSEAlgorithm": kind if kind == _SSE_KMS_TWICE and wanted.kms_key is None else _SSE_KMS}
        default |= {"KMSMasterKeyID": key} if key else {}
    rule = dict((answer.document.get("Rules") or [{}])[0])
    # Keys for a bucket ask KMS less often; with two layers S3 has none.
    bucket_key = default["SSEAlgorithm"] == _SSE_KMS
    will = {**rule, "ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": bucket_key}
    fits = canonical(have) == canonical(default) and (not (asked and bucket_key) or bool(rule.get("BucketKeyEnabled")))
    words = encryption_words(answer.document), encryption_words({"Rules": [will]})
    return step_of(facts.bucket, Setting.ENCRYPTION, answer, {"Rules": [will]}, words, fits=fits)


def _encryption(document: Mapping[str, Any]) -> dict[str, Any]:
    rules = document.get("Rules") or [{}]
    return dict(rules[0].get("ApplyServerSideEncryptionByDefault") or {})


def encryption_words(document: Mapping[str, Any]) -> str:
    """Return how the server encrypts new objects."""
    default = _encryption(document)
    kind, key = str(default.get("SSEAlgorithm") or ""), str(default.get("KMSMasterKeyID") or "")
    if not kind:
        return "none"
    if kind == _SSE_S3:
        return "SSE-S3"
    is_shared = (document.get("Rules") or [{}])[0].get("BucketKeyEnabled")
    return f"{kind} by {key or 'the key of AWS for S3'}, {'with' if is_shared else 'without'} a bucket key"


def _lock(wanted: Wanted, facts: BucketFacts, seen: Seen) -> BucketStep | None:
    answer = facts.answer(Setting.LOCK)
    if answer.is_lacking:
        # Nobody misses what nobody asked for.
        asked = wanted.lock is not None
        none = "credentials that may delete can delete versions"
        return _lacking(facts, Setting.LOCK, seen, none, is_refused=True) if asked else None
    if not answer.is_known:
        return unknown(facts.bucket, Setting.LOCK, answer.why)
    have, want = lock_of(answer.document), wanted.lock
    if want is None:
        shown = "off (--lock-days sets it)" if have is None else lock_words(have)
        return BucketStep(facts.bucket, Setting.LOCK, (StepLine(StepMark.SAME, shown),))
    retention = {"Mode": want.mode, "Days": want.days}
    document = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": retention}}
    words = "on, without a default retention" if have is None else lock_words(have), lock_words(want)
    return step_of(facts.bucket, Setting.LOCK, answer, document, words, fits=have == want)


def lock_words(lock: DefaultLock) -> str:
    """Return what a lock does."""
    return f"new objects stay for {lock.days} days, mode {lock.mode}"


def _policy(wanted: Wanted, facts: BucketFacts, seen: Seen) -> BucketStep | None:
    del wanted
    answer = facts.answer(Setting.POLICY)
    if answer.is_lacking:
        return _lacking(facts, Setting.POLICY, seen, "plain http is not refused")
    if not seen.refuses_http:
        return left(facts.bucket, Setting.POLICY, "http is not refused: the endpoint is http itself")
    if not answer.is_known:
        return unknown(facts.bucket, Setting.POLICY, answer.why)
    arn = replication.arn_of(facts.bucket, facts.region or seen.region)
    if policy.refuses_http(answer.document, arn):
        return BucketStep(facts.bucket, Setting.POLICY, (StepLine(StepMark.SAME, "plain http is refused"),))
    line = StepLine(StepMark.ADDED, "plain http is refused; other statements stay")
    return BucketStep(facts.bucket, Setting.POLICY, (line,), {"Statement": [policy.statement(arn)]})


def _lacking(facts: BucketFacts, setting: Setting, seen: Seen, follows: str, *, is_refused: bool = False) -> BucketStep:
    follows = seen.provider.lacks.get(setting, follows)
    return left(facts.bucket, setting, f"{seen.provider.name} has none: {follows}", is_refused=is_refused)


def _notes(wanted: Wanted, seen: Seen, steps: list[BucketStep]) -> Iterator[str]:
    """Yield what somebody should know before he says yes."""
    if seen.second is not None and seen.region and seen.region == seen.second_region:
        yield f"both buckets are in {seen.region}: the copy does not survive what happens to that region"
    begins = any(step.setting is Setting.REPLICATION and step.is_change for step in steps)
    if begins and seen.first.has_objects:
        yield (
            "the bucket has objects already, and S3 replicates new ones alone: mlsync copy --to, or S3 Batch "
            "Replication, copies those that are there (docs/bucket.md)"
        )
    for step in steps:
        if step.setting is Setting.LIFECYCLE and step.bucket == seen.first.bucket:
            for one in frozen_tiers(step.rules):
                yield (
                    f"packs in {one} have to be thawed for hours before they can be read, also those that the newest "
                    "version shares with old ones; GLACIER_IR needs no thawing"
                )
    if wanted.lock is not None and wanted.lock.days * _DAY_S < wanted.grace_s:
        yield (
            f"the lock of {wanted.lock.days} days is shorter than the grace of {wanted.grace_s / _DAY_S:g} days: what "
            "somebody deletes on purpose can be gone before a prune would have removed it"
        )
    for facts in (seen.first, seen.second):
        if facts is not None and facts.others:
            of_it = [step for step in steps if step.bucket == facts.bucket and step.is_change]
            changed = [step.name for step in of_it if step.setting in _SHARED]
            if changed:
                others = ", ".join(facts.others[:3])
                yield f"{facts.bucket} also has {others}, and what changes holds for that too: {', '.join(changed)}"


def second_wanted(wanted: Wanted, facts: BucketFacts) -> Second | None:
    """Return the second bucket that there is to be, by the options, or by our rule in the bucket."""
    if Setting.REPLICATION in wanted.skip:
        return None
    name = replication.second_bucket(wanted, facts.answer(Setting.REPLICATION).document)
    return wanted.second or (None if name is None else Second(name))
