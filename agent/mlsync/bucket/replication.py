"""Replication to the second bucket: one rule of ours, and the role by which S3 reads here and writes there.

A deletion is not replicated: whoever empties the first bucket leaves the second one as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from mlsync.bucket.facts import BucketFacts, RoleFacts
from mlsync.bucket.steps import ROLE, BucketStep, StepLine, StepMark, canonical, left, prefix_of, same_rule, unknown
from mlsync.bucket.wanted import Wanted
from mlsync.kms.names import region_of
from mlsync.store.s3.settings import Setting

_KIND: Final = "replication"
_ROLE_CHARS: Final = 64
_MULTI_REGION: Final = "key/mrk-"


def arn_of(bucket: str, region: str | None) -> str:
    """Return the ARN of a bucket."""
    return f"arn:{partition_of(region)}:s3:::{bucket}"


def partition_of(region: str | None) -> str:
    """Return the part of AWS in which a region is."""
    begins = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
    return next((name for begin, name in begins.items() if (region or "").startswith(begin)), "aws")


def role_name(wanted: Wanted) -> str:
    """Return the name of the role: one for each bucket and prefix."""
    tag = f"-{hashlib.sha256(wanted.prefix.encode()).hexdigest()[:8]}" if wanted.prefix else ""
    name = f"mlsync-{_KIND}-{wanted.bucket}{tag}"
    if len(name) <= _ROLE_CHARS:
        return name
    return f"{name[: _ROLE_CHARS - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def second_bucket(wanted: Wanted, document: Mapping[str, Any]) -> str | None:
    """Return the second bucket: as the options say, else as our rule in the bucket has it."""
    if wanted.second is not None:
        return wanted.second.bucket
    rule = _by_name(document).get(wanted.rule_name(_KIND))
    target = str(((rule or {}).get("Destination") or {}).get("Bucket") or "")
    return target.rpartition(":::")[2] or None


def second_key(wanted: Wanted, document: Mapping[str, Any], key: str, region: str | None) -> str | None:
    """Return the key of KMS of the second bucket, ``None`` if nobody named one.

    Copies of a multi-Region key have one id in all Regions.
    """
    if not key:
        return ""
    if not key.startswith("arn:"):
        return None
    if wanted.second is not None and wanted.second.kms_key is not None:
        return wanted.second.kms_key
    rule = _by_name(document).get(wanted.rule_name(_KIND)) or {}
    encryption = (rule.get("Destination") or {}).get("EncryptionConfiguration") or {}
    if encryption.get("ReplicaKmsKeyID"):
        return str(encryption["ReplicaKmsKeyID"])
    if _MULTI_REGION in key and region:
        return key.replace(f":{region_of(key)}:", f":{region}:", 1)
    return None


def trust() -> dict[str, Any]:
    """Return whom the role trusts: S3, to which only this account can hand the role."""
    allows = {"Effect": "Allow", "Principal": {"Service": "s3.amazonaws.com"}, "Action": "sts:AssumeRole"}
    return {"Version": "2012-10-17", "Statement": [allows]}


def policy_of(
    wanted: Wanted, first: tuple[str, str | None, str], second: tuple[str, str | None, str]
) -> dict[str, Any]:
    """Return what the role may do; *first* and *second* are bucket, region and key of KMS (empty without one)."""
    (bucket, region, key), (copy, copy_region, copy_key) = first, second
    here, there = arn_of(bucket, region), arn_of(copy, copy_region)
    reads = ["s3:GetObjectVersionForReplication", "s3:GetObjectVersionAcl", "s3:GetObjectVersionTagging"]
    # Where objects are locked, the lock is copied with them.
    reads += ["s3:GetObjectRetention", "s3:GetObjectLegalHold"]
    statements: list[dict[str, Any]] = [
        {"Effect": "Allow", "Action": ["s3:GetReplicationConfiguration", "s3:ListBucket"], "Resource": here},
        {"Effect": "Allow", "Action": reads, "Resource": f"{here}/{_literal(wanted.below)}*"},
        {
            "Effect": "Allow",
            "Action": ["s3:ReplicateObject", "s3:ReplicateTags"],
            "Resource": f"{there}/{_literal(wanted.below)}*",
        },
    ]
    for one, place, actions in (
        (key, region, ["kms:Decrypt"]),
        (copy_key, copy_region, ["kms:Encrypt", "kms:GenerateDataKey"]),
    ):
        if one:
            domain = "amazonaws.com.cn" if partition_of(place) == "aws-cn" else "amazonaws.com"
            via = {"StringLike": {"kms:ViaService": f"s3.{place}.{domain}"}}
            statements.append({"Effect": "Allow", "Action": actions, "Resource": one, "Condition": via})
    return {"Version": "2012-10-17", "Statement": statements}


def rule_of(wanted: Wanted, arn: str, copy_key: str, priority: int) -> dict[str, Any]:
    """Return our rule."""
    rule: dict[str, Any] = {
        "ID": wanted.rule_name(_KIND),
        "Priority": priority,
        "Filter": {"Prefix": wanted.below},
        "Status": "Enabled",
    }
    target: dict[str, Any] = {"Bucket": arn}
    if copy_key:
        rule["SourceSelectionCriteria"] = {"SseKmsEncryptedObjects": {"Status": "Enabled"}}
        target["EncryptionConfiguration"] = {"ReplicaKmsKeyID": copy_key}
    return {**rule, "Destination": target, "DeleteMarkerReplication": {"Status": "Disabled"}}


def role_step(name: str, role: RoleFacts, policy: Mapping[str, Any]) -> BucketStep:
    """Return the step that makes the role, or sets it right."""
    if role.why:
        return unknown("", ROLE, role.why)
    document = {"RoleName": name, "AssumeRolePolicyDocument": trust(), "PolicyDocument": policy}
    if role.trust is None:
        line = StepLine(StepMark.ADDED, f"{name}: S3 reads the first bucket and writes to the second")
        return BucketStep("", ROLE, (line,), document)
    if canonical(role.trust) == canonical(trust()) and canonical(role.policy) == canonical(policy):
        return BucketStep("", ROLE, (StepLine(StepMark.SAME, name),))
    return BucketStep("", ROLE, (StepLine(StepMark.CHANGED, f"{name}: its rights are set right"),), document)


def replication_step(facts: BucketFacts, rule: Mapping[str, Any], role: str) -> BucketStep:
    """Return the step that makes our rule as it is wanted, beside others of the same role."""
    answer = facts.answer(Setting.REPLICATION)
    if not answer.is_known:
        return unknown(facts.bucket, Setting.REPLICATION, answer.why)
    have = _by_name(answer.document)
    others = {name: one for name, one in have.items() if name != rule["ID"]}
    theirs = str(answer.document.get("Role") or role)
    if others and theirs != role:
        what = (
            f"the bucket replicates by another role than mlsync's ({theirs}), and it can have one alone: left as it is"
        )
        return left(facts.bucket, Setting.REPLICATION, what, is_refused=True)
    taken = [int(one.get("Priority") or 0) for one in others.values()]
    mine = have.get(str(rule["ID"]))
    before = int((mine or {}).get("Priority") or 0)
    priority = before if mine is not None and before not in taken else max(taken, default=0) + 1
    ours = {**rule, "Priority": priority}
    lines = [_compared(mine, ours, is_role_ours=theirs == role)]
    lines += [StepLine(StepMark.SAME, f"{described(one)} (not mlsync's here: it stays)") for one in others.values()]
    document = {"Role": role, "Rules": [ours]}
    return BucketStep(facts.bucket, Setting.REPLICATION, tuple(lines), document, {str(rule["ID"]): ours})


def described(rule: Mapping[str, Any]) -> str:
    """Return what a rule does, in words."""
    target = str((rule.get("Destination") or {}).get("Bucket") or "").rpartition(":::")[2]
    off = "" if rule.get("Status") == "Enabled" else " (disabled)"
    return f"{rule.get('ID') or 'a rule without a name'}{off}: {prefix_of(rule) or 'the whole bucket'} to {target}"


def _compared(have: Mapping[str, Any] | None, rule: Mapping[str, Any], *, is_role_ours: bool) -> StepLine:
    if have is None:
        return StepLine(StepMark.ADDED, described(rule))
    if same_rule(have, rule) and is_role_ours:
        return StepLine(StepMark.SAME, described(rule))
    return StepLine(StepMark.CHANGED, f"{described(have)} -> {described(rule)}")


def _literal(prefix: str) -> str:
    """Return a prefix as a policy has it in which nothing is a pattern or a variable."""
    return prefix.replace("$", "${$}").replace("*", "${*}")


def _by_name(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(rule.get("ID") or f"#{number}"): rule for number, rule in enumerate(document.get("Rules") or ())}
