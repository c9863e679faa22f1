"""The policies of roles as documents: resources, conditions, lengths; and the table of rights in docs/s3.md."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mlsync.access.key_names import KeyName
from mlsync.access.place import PolicyForm, PolicyPlace
from mlsync.access.policy import PolicyRequest, chars_of, make_policy, refuse_long
from mlsync.access.ram import make_ram_policy
from mlsync.access.rights import CREATES, PROBES, RIGHTS, ROLES_DO, BucketRole, created_by
from mlsync.access.words import remarks
from mlsync.config.model import S3Settings
from mlsync.doctor.store import PROBE
from mlsync.errors import PolicyTooLong
from mlsync.repository import names
from mlsync.store.options import StoreOptions
from mlsync.store.s3.error_table import RIGHTS as RIGHTS_OF_OPERATIONS
from mlsync.store.s3.partition import partition_and_region
from mlsync.store.s3.store import PROBE_KEY

DOCUMENT = (Path(__file__).parents[2] / "docs" / "s3.md").read_text()
PLACE = PolicyPlace("bucket", "runs")
ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
EVERYTHING = frozenset(right.setting for right in RIGHTS if right.setting)


def statements(role, place=PLACE, **more):
    """The statements of a role's policy, by their names."""
    return {one["Sid"]: one for one in make_policy(PolicyRequest(role, place, **more))["Statement"]}


def test_the_document_has_the_table_of_rights():
    """docs/s3.md says of each right, and each role, what the code does."""
    rows = []
    for right in RIGHTS:
        roles = [role.value for role in BucketRole if role in right.roles]
        shown = "all" if len(roles) == len(BucketRole) else ", ".join(roles)
        rows.append(f"| `{right.name}` on {right.scope.value} | {shown} | {right.purpose} | {right.without} |")
    assert "\n".join(rows) in DOCUMENT
    assert "\n".join(f"| {role.value} | {does} |" for role, does in ROLES_DO.items()) in DOCUMENT
    assert len(re.findall(r"^\| `(?:s3|kms):", DOCUMENT, flags=re.MULTILINE)) == len(rows)


def test_every_right_that_a_refusal_names_is_in_the_table():
    """What a message tells to allow is a right of some role."""
    named = {one for text in RIGHTS_OF_OPERATIONS.values() for one in re.findall(r"s3:\w+", text)}
    assert named <= {right.name for right in RIGHTS}


def test_names_that_others_choose_are_theirs():
    """Probes of the store and of doctor, kinds of objects and keys of ``[s3]`` are called as where they are used."""
    assert PROBES == (PROBE_KEY, PROBE)
    assert {begin for begins in CREATES.values() for begin in begins} <= {*names.PREFIXES, *PROBES, ""}
    assert all(hasattr(S3Settings(), setting) for setting in EVERYTHING)


def test_a_repository_is_all_that_a_policy_names():
    """All objects and listings are below the prefix, and of the bucket itself only its settings and uploads."""
    for role in BucketRole:
        for one in statements(role, settings=EVERYTHING).values():
            bucket = [resource for resource in one["Resource"] if resource == "arn:aws:s3:::bucket"]
            below = [resource for resource in one["Resource"] if resource.startswith("arn:aws:s3:::bucket/runs/")]
            assert bucket or below
            assert len(bucket) + len(below) == len(one["Resource"])
        if role is not BucketRole.ADMIN:  # who asks about the bucket itself
            assert statements(role)["List"]["Condition"] == {"StringLike": {"s3:prefix": "runs/*"}}
    assert "Condition" not in statements(BucketRole.WRITER, PolicyPlace("bucket", ""))["List"]
    assert statements(BucketRole.RESTORER, PolicyPlace("b.with.dots", ""))["Objects"]["Resource"] == [
        "arn:aws:s3:::b.with.dots/*"
    ]


def test_what_is_a_pattern_in_a_policy_is_written_as_itself():
    """An asterisk and a dollar of a prefix are escaped at AWS; forms without escapes take one for any character."""
    place = PolicyPlace("bucket", "a*b/${aws:username}/ü 日")
    found = statements(BucketRole.RESTORER, place)
    assert found["Objects"]["Resource"] == ["arn:aws:s3:::bucket/a${*}b/${$}{aws:username}/ü 日/*"]
    assert found["List"]["Condition"] == {"StringLike": {"s3:prefix": "a${*}b/${$}{aws:username}/ü 日/*"}}
    for form, head in ((PolicyForm.MINIO, "arn:aws:s3:::"), (PolicyForm.RAM, "acs:oss:*:*:")):
        other = replace(place, form=form)
        assert other.names() == [f"{head}bucket/a?b/?{{aws:username}}/ü 日/*"]
        assert other.is_widened
        said = list(remarks(PolicyRequest(BucketRole.RESTORER, other), {}, endpoint=None))
        assert any(grade == "warning" and "character * or $" in text for grade, text in said)
    # IAM takes no letter above U+00FF as it is.
    assert json.dumps(make_policy(PolicyRequest(BucketRole.WRITER, place))).isascii()


def test_only_creates_that_say_so_are_a_writers():
    """At AWS a right to put is under one of two conditions for whoever may not overwrite, and other forms warn."""
    parts = ["Create", "SendParts"]
    for role, sids in ((BucketRole.WRITER, parts), (BucketRole.COPIER, parts), (BucketRole.PROVER, ["Create"])):
        puts = {sid: one for sid, one in statements(role).items() if "s3:PutObject" in one["Action"]}
        assert list(puts) == sids
        assert puts["Create"]["Condition"] == {"Null": {"s3:if-none-match": "false"}}
    assert statements(BucketRole.WRITER)["SendParts"]["Condition"] == {"Bool": {"s3:ObjectCreationOperation": "false"}}
    for form in (PolicyForm.MINIO, PolicyForm.RAM):
        said = list(remarks(PolicyRequest(BucketRole.WRITER, replace(PLACE, form=form)), {}, endpoint=None))
        assert any(grade == "warning" and "overwriting" in text for grade, text in said)
    assert "If" not in json.dumps(make_policy(PolicyRequest(BucketRole.WRITER, replace(PLACE, form=PolicyForm.MINIO))))


def test_a_writer_of_one_run_creates_no_object_of_another():
    """With a run each kind of object that has a run's id in its name is limited to it; packs and probes are not."""
    run = "00ff" * 8
    limited = created_by(BucketRole.WRITER, run)
    assert {begin for begin in limited if run not in begin} == {names.PACKS, *PROBES}
    assert len(limited) == len(CREATES[BucketRole.WRITER])
    assert created_by(BucketRole.PROVER, run) == (f"proofs/{run}/", f"evaluations/{run}/")
    assert f"arn:aws:s3:::bucket/runs/versions/{run}/*" in statements(BucketRole.WRITER, run=run)["Create"]["Resource"]


@pytest.mark.parametrize(
    ("region", "partition"),
    [
        ("eu-central-1", "aws"),
        ("cn-north-1", "aws-cn"),
        ("us-gov-west-1", "aws-us-gov"),
        ("oss-cn-shanghai", "aws"),
        ("nowhere", "aws"),
        ("", "aws"),
    ],
)
def test_resources_are_of_the_regions_partition(region, partition):
    """A bucket in China or in a government's Region is named as these name it; an unknown Region is AWS's own."""
    assert partition_and_region(StoreOptions(region=region or None))[0] == partition
    assert PolicyPlace("b", "", partition=partition).bucket_name == f"arn:{partition}:s3:::b"


def test_the_partition_is_found_without_the_profile(monkeypatch):
    """A profile that this machine does not have is no reason to fail: the policy may be for another one."""
    assert partition_and_region(StoreOptions(profile="absent", region="x")) == ("aws", "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "cn-northwest-1")
    assert partition_and_region(StoreOptions()) == ("aws-cn", "cn-northwest-1")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    at = StoreOptions(endpoint_url="https://s3.cn-north-1.amazonaws.com.cn")
    assert partition_and_region(at) == ("aws-cn", None)


@pytest.mark.parametrize(
    ("name", "resource", "alias"),
    [
        (ARN, ARN, None),
        ("1234abcd", "arn:aws-cn:kms:cn-north-1:*:key/1234abcd", None),
        ("alias/runs", "arn:aws-cn:kms:cn-north-1:*:key/*", "alias/runs"),
        ("arn:aws:kms:eu-west-1:111122223333:alias/a", "arn:aws:kms:eu-west-1:111122223333:key/*", "alias/a"),
    ],
)
def test_a_key_is_named_by_its_arn_or_its_alias(name, resource, alias):
    """A policy names a key by an ARN; where only an alias is known, a condition holds it to the keys of that alias."""
    key = KeyName(name, "cn-north-1", "aws-cn")
    assert key.resource == resource
    assert key.condition == ({"ForAnyValue:StringEquals": {"kms:ResourceAliases": alias}} if alias else {})
    found = statements(BucketRole.PRUNER, sse_key=key, slot_key=key)
    assert found["BucketKey"]["Action"] == ["kms:GenerateDataKey", "kms:Decrypt"]
    assert found["SlotKey"]["Action"] == ["kms:Decrypt", "kms:Encrypt"]
    assert found["SlotKey"]["Condition"]["StringEquals"] == {"kms:EncryptionContext:mlsync": "key-slot"}
    assert statements(BucketRole.RESTORER, sse_key=key)["BucketKey"]["Action"] == ["kms:Decrypt"]


def test_aliyuns_form_has_its_own_rights():
    """RAM's document has rights and resources of OSS alone, and its own version and condition."""
    asked = PolicyRequest(
        BucketRole.WRITER, replace(PLACE, form=PolicyForm.RAM), settings=EVERYTHING, slot_key=KeyName(ARN)
    )
    policy = make_ram_policy(asked)
    assert policy["Version"] == "1"
    assert policy["Statement"][0]["Condition"] == {"StringLike": {"oss:Prefix": ["runs/*"]}}
    actions = [name for one in policy["Statement"] for name in one["Action"]]
    assert all(name.startswith("oss:") for name in actions)
    assert {"oss:PutObject", "oss:PutObjectTagging", "oss:ListParts"} <= {*actions}
    assert "oss:DeleteObject" not in actions
    every = make_ram_policy(replace(asked, role=BucketRole.ADMIN))
    assert "oss:DeleteObject" in [name for one in every["Statement"] for name in one["Action"]]


def test_lengths_are_told_before_the_provider_tells_them():
    """A usual policy fits a user's own; a longer one says so, and what no place takes is refused, but at MinIO."""
    for role in BucketRole:
        assert chars_of(make_policy(PolicyRequest(role, PLACE))) < 2_048
    policy = make_policy(PolicyRequest(BucketRole.WRITER, PolicyPlace("b" * 63, "a" * 100)))
    said = list(remarks(PolicyRequest(BucketRole.WRITER, PLACE), policy, endpoint=None))
    assert any(grade == "status" and "a managed policy" in text for grade, text in said)
    refuse_long(policy, PolicyForm.AWS)
    policy = make_policy(PolicyRequest(BucketRole.WRITER, PolicyPlace("bucket", "ü" * 250)))
    with pytest.raises(PolicyTooLong, match="characters"):
        refuse_long(policy, PolicyForm.AWS)
    refuse_long(policy, PolicyForm.MINIO)


@pytest.mark.parametrize(
    ("form", "endpoint", "said"),
    [
        (PolicyForm.AWS, None, ""),
        (PolicyForm.AWS, "s3.cn-north-1.amazonaws.com.cn", ""),
        (PolicyForm.AWS, "minio.lab", "--form minio"),
        (PolicyForm.MINIO, "minio.lab", ""),
        (PolicyForm.AWS, "oss-cn-shanghai.aliyuncs.com", "--form ram"),
        (PolicyForm.RAM, "oss-cn-shanghai.aliyuncs.com", ""),
        (PolicyForm.RAM, "minio.lab", "not Aliyun's"),
    ],
)
def test_a_form_that_is_not_the_servers_is_told(form, endpoint, said):
    """Where the endpoint is another provider's, a warning names the form to take."""
    found = list(remarks(PolicyRequest(BucketRole.RESTORER, replace(PLACE, form=form)), {}, endpoint=endpoint))
    warnings = [text for grade, text in found if grade == "warning"]
    assert (len(warnings), all(said in text for text in warnings)) == (bool(said), True)
