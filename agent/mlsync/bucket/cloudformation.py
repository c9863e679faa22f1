"""The same plan as a template of CloudFormation: one for both regions, of which each makes what belongs there.

A stack is in one region, and replication needs the second bucket first: so the template is deployed in the second
region, and then in the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from mlsync.bucket.plan import Seen, plan
from mlsync.bucket.steps import BUCKET, ROLE, BucketStep
from mlsync.bucket.wanted import Wanted
from mlsync.store.s3.settings import Setting

_FIRST, _SECOND, _ROLE = "Bucket", "SecondBucket", "ReplicationRole"
_IN_FIRST, _IN_SECOND = "InFirstRegion", "InSecondRegion"


def document(wanted: Wanted, seen: Seen) -> str:
    """Return the template, as JSON."""
    steps = plan(wanted, seen).steps
    made = {_FIRST: _bucket(steps, seen.first.bucket, seen)}
    if policy := _policy(steps, seen.first.bucket, _FIRST):
        made["BucketPolicy"] = policy
    template: dict[str, Any] = {"AWSTemplateFormatVersion": "2010-09-09", "Description": "Buckets for mlsync"}
    if seen.second is not None:
        made[_SECOND] = _bucket(steps, seen.second.bucket, seen)
        if policy := _policy(steps, seen.second.bucket, _SECOND):
            made["SecondBucketPolicy"] = policy
        made |= _role(steps)
        if seen.region == seen.second_region:
            if _ROLE in made:
                made[_FIRST]["DependsOn"] = [_SECOND]
        else:
            order = f"deploy it in {seen.second_region} first, then in {seen.region}"
            template["Description"] = f"Buckets for mlsync: {order}"
            template["Conditions"] = {
                _IN_FIRST: {"Fn::Equals": [{"Ref": "AWS::Region"}, seen.region]},
                _IN_SECOND: {"Fn::Equals": [{"Ref": "AWS::Region"}, seen.second_region]},
            }
            for name, resource in made.items():
                resource["Condition"] = _IN_SECOND if name.startswith("Second") else _IN_FIRST
    return json.dumps({**template, "Resources": made}, indent=2)


def _bucket(steps: tuple[BucketStep, ...], bucket: str, seen: Seen) -> dict[str, Any]:
    properties: dict[str, Any] = {"BucketName": bucket}
    for step in steps:
        if step.bucket != bucket or not step.is_change:
            continue
        if step.setting == BUCKET:
            if step.document["ObjectLockEnabledForBucket"]:
                properties["ObjectLockEnabled"] = True
        elif step.setting in _PROPERTIES:
            name, convert = _PROPERTIES[step.setting]
            properties[name] = convert(step)
    if bucket != seen.first.bucket:
        properties.pop("ReplicationConfiguration", None)
    # What holds versions is not thrown away with a stack.
    keep = {"DeletionPolicy": "Retain", "UpdateReplacePolicy": "Retain"}
    return {"Type": "AWS::S3::Bucket", **keep, "Properties": properties}


def _encryption(step: BucketStep) -> dict[str, Any]:
    rule = step.document["Rules"][0]
    default = {"ServerSideEncryptionByDefault": rule["ApplyServerSideEncryptionByDefault"]}
    return {"ServerSideEncryptionConfiguration": [{**default, "BucketKeyEnabled": rule["BucketKeyEnabled"]}]}


def _lifecycle(step: BucketStep) -> dict[str, Any]:
    return {"Rules": [_rule(one) for one in step.rules.values()]}


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"Id": rule["ID"], "Status": rule["Status"]}
    if prefix := rule["Filter"]["Prefix"]:
        found["Prefix"] = prefix
    if "Transitions" in rule:
        found["Transitions"] = [
            {"StorageClass": one["StorageClass"], "TransitionInDays": one["Days"]} for one in rule["Transitions"]
        ]
    if "Expiration" in rule:
        found["ExpiredObjectDeleteMarker"] = True
    for name in ("NoncurrentVersionExpiration", "AbortIncompleteMultipartUpload"):
        if name in rule:
            found[name] = dict(rule[name])
    return found


def _replication(step: BucketStep) -> dict[str, Any]:
    (rule,) = step.rules.values()
    target = dict(rule["Destination"])
    if "EncryptionConfiguration" in target:
        target["EncryptionConfiguration"] = {"ReplicaKmsKeyID": target["EncryptionConfiguration"]["ReplicaKmsKeyID"]}
    ours = {name: one for name, one in rule.items() if name != "ID"}
    return {
        "Role": {"Fn::GetAtt": [_ROLE, "Arn"]},
        "Rules": [{"Id": rule["ID"], **ours, "Destination": target}],
    }


_PROPERTIES: Final[Mapping[Setting | str, tuple[str, Callable[[BucketStep], dict[str, Any]]]]] = {
    Setting.PUBLIC: ("PublicAccessBlockConfiguration", lambda step: dict(step.document)),
    Setting.VERSIONS: ("VersioningConfiguration", lambda step: dict(step.document)),
    Setting.ENCRYPTION: ("BucketEncryption", _encryption),
    Setting.LIFECYCLE: ("LifecycleConfiguration", _lifecycle),
    Setting.LOCK: ("ObjectLockConfiguration", lambda step: dict(step.document)),
    Setting.REPLICATION: ("ReplicationConfiguration", _replication),
}


def _policy(steps: tuple[BucketStep, ...], bucket: str, name: str) -> dict[str, Any] | None:
    for step in steps:
        if step.bucket == bucket and step.setting is Setting.POLICY and step.is_change:
            text = {"Version": "2012-10-17", **step.document}
            return {"Type": "AWS::S3::BucketPolicy", "Properties": {"Bucket": {"Ref": name}, "PolicyDocument": text}}
    return None


def _role(steps: tuple[BucketStep, ...]) -> dict[str, Any]:
    for step in steps:
        if step.setting == ROLE:
            rights = {"PolicyName": "mlsync-replication", "PolicyDocument": step.document["PolicyDocument"]}
            properties = {
                "RoleName": step.document["RoleName"],
                "AssumeRolePolicyDocument": step.document["AssumeRolePolicyDocument"],
                "Policies": [rights],
            }
            return {_ROLE: {"Type": "AWS::IAM::Role", "Properties": properties}}
    return {}
