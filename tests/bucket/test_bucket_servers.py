"""Setting buckets up at real servers: one that holds people to their rights, and one that lacks some settings."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path

import boto3
import pytest

from mlsync.bucket.setup import BucketSetup
from mlsync.bucket.wanted import DefaultLock, Second, Wanted
from mlsync.errors import StoreDenied
from mlsync.store.options import StoreOptions

pytestmark = pytest.mark.slow
REGION, SECOND = "eu-central-1", "eu-west-1"
DOCUMENT = (Path(__file__).parents[2] / "docs" / "bucket.md").read_text()


def documented_rights():
    """The rights that docs/bucket.md lists for ``apply``, and those to read what they set."""
    text = DOCUMENT.partition("the rights that `apply` needs")[2].partition("No backup needs")[0]
    rights = set(re.findall(r"`((?:s3|iam):\w+)`", text))
    return rights | {right.replace(":Put", ":Get") for right in rights}


@pytest.fixture
def person(strict_aws_process, monkeypatch):
    """A person of the account whose rights a test says, and whose keys are in the environment."""
    server = strict_aws_process
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    iam = boto3.client("iam", endpoint_url=server.endpoint_url, region_name=REGION)
    name = f"u{secrets.token_hex(6)}"
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]

    def allow(rights):
        statement = {"Effect": "Allow", "Action": sorted(rights), "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    return allow, StoreOptions(endpoint_url=server.endpoint_url, region=REGION, addressing="path")


def test_the_documented_rights_are_enough_and_each_one_is_named(person):
    """With them both buckets and the role are set up; without one the rest is done, and the message names it."""
    allow, options = person
    rights = documented_rights()
    assert len(rights) > 15
    tag = secrets.token_hex(6)
    wanted = Wanted(f"a{tag}", "runs", second=Second(f"b{tag}", SECOND), lock=DefaultLock(30))
    allow(rights - {"s3:PutEncryptionConfiguration"})
    setup = BucketSetup(wanted, options)
    try:
        done = setup.carry_out(setup.plan())
        assert {"s3:PutEncryptionConfiguration" in why for _, why in done.failed} <= {True}
        allow(rights)
        done = setup.carry_out(setup.plan())
        assert done.failed == []
        assert setup.plan().open == []
        # What may not be read is not known, and is left alone.
        allow(rights - {"s3:GetLifecycleConfiguration", "iam:GetRole"})
        left = setup.plan().open
        assert {step.name for step in left} == {"lifecycle", "role"}
        said = " ".join(line.text for step in left for line in step.lines)
        assert "s3:GetLifecycleConfiguration" in said
        assert "iam:GetRole" in said
        assert setup.plan().changes == []
        allow({"iam:GetRole"})
        with pytest.raises(StoreDenied, match="may not see the bucket"):
            setup.plan()
    finally:
        setup.close()


def test_what_a_server_has_is_set_and_the_rest_is_left_out(s3_server):
    """Of a server that is no AWS the settings that it has are made and read back; a second time nothing changes."""
    options = StoreOptions(endpoint_url=s3_server.endpoint_url, region=s3_server.region, addressing="path")
    setup = BucketSetup(Wanted(f"c{secrets.token_hex(6)}", "runs"), options)
    try:
        found = setup.plan()
        done = setup.carry_out(found)
        assert done.failed == []
        assert {step.name for step in done.done} >= {"bucket", "versioning", "lifecycle"}
        again = setup.plan()
        assert again.open == []
        assert again.changes == []
    finally:
        setup.close()
