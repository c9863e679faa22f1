"""The same plan as HCL, for whoever keeps buckets by Terraform or OpenTofu: a resource for each setting."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlsync.bucket.plan import Seen, plan
from mlsync.bucket.steps import BUCKET, ROLE, BucketStep
from mlsync.bucket.wanted import Wanted
from mlsync.store.s3.settings import Setting

_FIRST, _SECOND, _ROLE = "mlsync", "mlsync_second", "mlsync_replication"
_HEAD: Final = """\
# Written by mlsync bucket plan --terraform. Rules that others have on the bucket belong here too: Terraform replaces
# the whole lifecycle, policy and replication of a bucket. A bucket that is there already: terraform import.
terraform {
  required_providers {
    aws = { source = "hashicorp/aws", version = ">= 5.70" }
  }
}
"""


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of HCL: *body* has attributes, blocks, and lists of blocks."""

    head: str
    body: Mapping[str, Any]


class _Reference(str):
    """An expression, which stands without quotes."""

    __slots__ = ()


def document(wanted: Wanted, seen: Seen) -> str:
    """Return HCL for both buckets, the role and the replication."""
    places = {seen.first.bucket: (_FIRST, seen.region)}
    if seen.second is not None:
        places[seen.second.bucket] = (_SECOND, seen.second_region)
    blocks = [_Block('provider "aws"', {"alias": alias, "region": region}) for alias, region in places.values()]
    steps = plan(wanted, seen).steps
    for step in steps:
        blocks += _blocks_of(step, places.get(step.bucket, ("", None))[0])
    return _HEAD + "".join(f"\n{text}\n" for text in map(_text, blocks))


def _blocks_of(step: BucketStep, alias: str) -> Iterator[_Block]:
    if step.setting == ROLE:
        trust, rights = step.document["AssumeRolePolicyDocument"], step.document["PolicyDocument"]
        provider = {"provider": _Reference(f"aws.{_FIRST}")}
        role = {"name": step.document["RoleName"], "assume_role_policy": _json(trust)}
        yield _resource("aws_iam_role", _ROLE, {**provider, **role})
        inline = {"name": "mlsync-replication", "role": _Reference(f"aws_iam_role.{_ROLE}.id")}
        yield _resource("aws_iam_role_policy", _ROLE, {**provider, **inline, "policy": _json(rights)})
    elif step.is_change:
        kind, body = _BODIES[step.setting](step)
        place = {"provider": _Reference(f"aws.{alias}")}
        if step.setting != BUCKET:
            place["bucket"] = _Reference(f"aws_s3_bucket.{alias}.id")
        if step.setting in (Setting.REPLICATION, Setting.LOCK):
            body["depends_on"] = [_Reference(f"aws_s3_bucket_versioning.{one}") for one in _versioned(step, alias)]
        yield _resource(kind, alias, {**place, **body})


def _versioned(step: BucketStep, alias: str) -> Sequence[str]:
    return (_FIRST, _SECOND) if step.setting is Setting.REPLICATION else (alias,)


def _bucket(step: BucketStep) -> tuple[str, dict[str, Any]]:
    locks = {"object_lock_enabled": True} if step.document["ObjectLockEnabledForBucket"] else {}
    # What holds versions is not thrown away with a line of HCL.
    return "aws_s3_bucket", {"bucket": step.bucket, **locks, "lifecycle": {"prevent_destroy": True}}


def _public(step: BucketStep) -> tuple[str, dict[str, Any]]:
    return "aws_s3_bucket_public_access_block", {_snake(name): value for name, value in step.document.items()}


def _versions(step: BucketStep) -> tuple[str, dict[str, Any]]:
    return "aws_s3_bucket_versioning", {"versioning_configuration": {"status": step.document["Status"]}}


def _encryption(step: BucketStep) -> tuple[str, dict[str, Any]]:
    rule = step.document["Rules"][0]
    default = rule["ApplyServerSideEncryptionByDefault"]
    apply = {"sse_algorithm": default["SSEAlgorithm"]}
    if "KMSMasterKeyID" in default:
        apply["kms_master_key_id"] = default["KMSMasterKeyID"]
    body = {"apply_server_side_encryption_by_default": apply, "bucket_key_enabled": rule["BucketKeyEnabled"]}
    return "aws_s3_bucket_server_side_encryption_configuration", {"rule": body}


def _lifecycle(step: BucketStep) -> tuple[str, dict[str, Any]]:
    return "aws_s3_bucket_lifecycle_configuration", {"rule": [_rule(one) for one in step.rules.values()]}


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"id": rule["ID"], "status": rule["Status"], "filter": _snaked(rule["Filter"])}
    if "Transitions" in rule:
        found["transition"] = [_snaked(one) for one in rule["Transitions"]]
    for name in ("Expiration", "NoncurrentVersionExpiration", "AbortIncompleteMultipartUpload"):
        if name in rule:
            found[_snake(name)] = _snaked(rule[name])
    return found


def _lock(step: BucketStep) -> tuple[str, dict[str, Any]]:
    retention = _snaked(step.document["Rule"]["DefaultRetention"])
    return "aws_s3_bucket_object_lock_configuration", {"rule": {"default_retention": retention}}


def _policy(step: BucketStep) -> tuple[str, dict[str, Any]]:
    return "aws_s3_bucket_policy", {"policy": _json({"Version": "2012-10-17", **step.document})}


def _replication(step: BucketStep) -> tuple[str, dict[str, Any]]:
    (rule,) = step.rules.values()
    target: dict[str, Any] = {"bucket": _Reference(f"aws_s3_bucket.{_SECOND}.arn")}
    body: dict[str, Any] = {"id": rule["ID"], "priority": rule["Priority"], "status": rule["Status"]}
    body |= {"filter": _snaked(rule["Filter"]), "delete_marker_replication": {"status": "Disabled"}}
    if "SourceSelectionCriteria" in rule:
        body["source_selection_criteria"] = {"sse_kms_encrypted_objects": {"status": "Enabled"}}
        key = rule["Destination"]["EncryptionConfiguration"]["ReplicaKmsKeyID"]
        target["encryption_configuration"] = {"replica_kms_key_id": key}
    role = _Reference(f"aws_iam_role.{_ROLE}.arn")
    return "aws_s3_bucket_replication_configuration", {"role": role, "rule": {**body, "destination": target}}


_BODIES: Final = {
    BUCKET: _bucket,
    Setting.PUBLIC: _public,
    Setting.VERSIONS: _versions,
    Setting.ENCRYPTION: _encryption,
    Setting.LIFECYCLE: _lifecycle,
    Setting.LOCK: _lock,
    Setting.POLICY: _policy,
    Setting.REPLICATION: _replication,
}


def _resource(kind: str, name: str, body: Mapping[str, Any]) -> _Block:
    return _Block(f'resource "{kind}" "{name}"', body)


def _json(value: Mapping[str, Any]) -> _Reference:
    """Return a policy as an expression: objects of JSON are objects of HCL too."""
    return _Reference(f"jsonencode({_escaped(json.dumps(value))})")


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _snaked(value: Mapping[str, Any]) -> dict[str, Any]:
    return {_snake(name): one for name, one in value.items()}


def _text(block: _Block, indent: str = "") -> str:
    lines = [f"{indent}{block.head} {{"]
    for name, value in block.body.items():
        parts = value if isinstance(value, list) and value and isinstance(value[0], Mapping) else [value]
        for part in parts:
            if isinstance(part, Mapping):
                lines.append(_text(_Block(name, part), indent + "  "))
            else:
                lines.append(f"{indent}  {name} = {_value(part)}")
    return "\n".join([*lines, f"{indent}}}"])


def _value(value: object) -> str:
    if isinstance(value, _Reference):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return _escaped(json.dumps(value))


def _escaped(text: str) -> str:
    """Return text of JSON in which HCL finds no template."""
    return text.replace("${", "$${").replace("%{", "%%{")
