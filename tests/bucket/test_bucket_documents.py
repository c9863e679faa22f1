"""The plan as HCL and as a template: both say what ``apply`` would do; no name in them is an expression."""

from __future__ import annotations

import json
import re

import pytest
from bucket_facts import COPY, COPY_KEY, FIRST, KEY, step_for, twice, wanted

from mlsync.bucket import cloudformation, terraform
from mlsync.bucket.plan import plan
from mlsync.bucket.setup import as_asked
from mlsync.bucket.wanted import DefaultLock, Second, Wanted
from mlsync.errors import ConfigInvalid
from mlsync.store.options import StoreOptions
from mlsync.store.s3.settings import Setting

OPTIONS = StoreOptions(region="eu-central-1")
ALL = twice(kms_key=KEY, second_key=COPY_KEY, lock=DefaultLock(30))


def blocks(text):
    """The blocks of HCL as nested lists of (head, body); an attribute is a text."""
    lines = iter(text.splitlines())

    def body():
        found = []
        for line in lines:
            stripped = line.strip()
            if stripped == "}":
                return found
            if stripped.endswith("{"):
                found.append((stripped[:-1].strip(), body()))
            elif stripped and not stripped.startswith("#"):
                name, _, value = stripped.partition(" = ")
                found.append((name, value))
        return found

    return body()


def test_hcl_has_a_resource_for_each_step():
    """Each setting of each bucket, the role and its rights are a resource, in its own region."""
    seen = as_asked(ALL, OPTIONS)
    found = blocks(terraform.document(ALL, seen))
    heads = [head for head, _ in found]
    steps = plan(ALL, seen).changes
    assert len([head for head in heads if head.startswith("resource")]) == len(steps) + 1  # the role's rights
    assert len(set(heads[3:])) == len(heads[3:])
    bodies = {head: dict(body) for head, body in found}
    assert bodies['resource "aws_s3_bucket" "mlsync_second"']["provider"] == "aws.mlsync_second"
    regions = [dict(body)["region"] for head, body in found if head.startswith("provider")]
    assert regions == ['"eu-central-1"', '"eu-west-1"']
    lifecycle = next(body for head, body in found if "lifecycle" in head)
    written = [dict(rule)["id"].strip('"') for head, rule in lifecycle if head == "rule"]
    assert written == list(step_for(plan(ALL, seen), Setting.LIFECYCLE).rules)


def test_names_in_hcl_are_no_templates():
    """A prefix that looks like an expression, or has quotes and lines, stays a text."""
    wants = Wanted(FIRST, 'a${file("x")}%{if}"b')
    text = terraform.document(wants, as_asked(wants, OPTIONS))
    assert r'"a$${file(\"x\")}%%{if}\"b/packs/"' in text
    assert not re.search(r"(?<![$%])[$%]{", text)


def test_the_template_serves_both_regions():
    """Each resource belongs to the region of its bucket; in one region nothing is conditional."""
    template = json.loads(cloudformation.document(ALL, as_asked(ALL, OPTIONS)))
    conditions = {name: one["Condition"] for name, one in template["Resources"].items()}
    assert conditions == {
        "Bucket": "InFirstRegion",
        "BucketPolicy": "InFirstRegion",
        "ReplicationRole": "InFirstRegion",
        "SecondBucket": "InSecondRegion",
        "SecondBucketPolicy": "InSecondRegion",
    }
    assert template["Conditions"]["InSecondRegion"] == {"Fn::Equals": [{"Ref": "AWS::Region"}, "eu-west-1"]}
    wants = wanted(second=Second(COPY, "eu-central-1"))
    template = json.loads(cloudformation.document(wants, as_asked(wants, OPTIONS)))
    assert "Conditions" not in template
    assert template["Resources"]["Bucket"]["DependsOn"] == ["SecondBucket"]


def test_the_template_says_what_the_steps_say():
    """Its properties are the documents of the steps, under CloudFormation's names."""
    seen = as_asked(ALL, OPTIONS)
    found = plan(ALL, seen)
    template = json.loads(cloudformation.document(ALL, seen))["Resources"]
    first, second = (template[name]["Properties"] for name in ("Bucket", "SecondBucket"))
    assert first["PublicAccessBlockConfiguration"] == step_for(found, Setting.PUBLIC).document
    assert first["ObjectLockConfiguration"] == step_for(found, Setting.LOCK).document
    assert first["ObjectLockEnabled"] is second["ObjectLockEnabled"] is True
    (default,) = second["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert default["ServerSideEncryptionByDefault"]["KMSMasterKeyID"] == COPY_KEY
    (rule,) = first["ReplicationConfiguration"]["Rules"]
    assert rule["Destination"]["EncryptionConfiguration"] == {"ReplicaKmsKeyID": COPY_KEY}
    assert "ReplicationConfiguration" not in second
    packs, old, uploads = first["LifecycleConfiguration"]["Rules"]
    assert [one["TransitionInDays"] for one in packs["Transitions"]] == [30, 90]
    assert packs["Prefix"] == "runs/packs/"
    assert old["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    assert uploads["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert template["Bucket"]["DeletionPolicy"] == "Retain"


@pytest.mark.parametrize(
    ("wants", "options", "said"),
    [
        (wanted(), StoreOptions(), "--region"),
        (wanted(second=Second(COPY)), OPTIONS, "--second-region"),
        (wanted(), StoreOptions(endpoint_url="https://minio.lab", region="x"), "MinIO has no such documents"),
        (twice(kms_key=COPY_KEY), OPTIONS, "the key is in eu-west-1"),
    ],
)
def test_documents_need_to_know_where(wants, options, said):
    """Nobody is asked for a region, so it has to be given; and they are for AWS alone."""
    with pytest.raises(ConfigInvalid, match=said):
        as_asked(wants, options)
