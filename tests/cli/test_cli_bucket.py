"""``mlsync bucket`` against a server that plays AWS: from an empty account to two buckets, and what goes wrong."""

from __future__ import annotations

import secrets

import boto3
import pytest
from machine import write_training

pytestmark = pytest.mark.slow
FIRST, SECOND = "eu-central-1", "eu-west-1"


@pytest.fixture
def names():
    """Two buckets that nobody has."""
    tag = secrets.token_hex(6)
    return f"first-{tag}", f"second-{tag}"


class Cloud:
    """Commands of a machine, and clients of its account."""

    def __init__(self, machine, server) -> None:
        self.machine = machine
        self.endpoint = server.endpoint_url
        self.keys = server.environment()

    def run(self, *arguments, region=FIRST, **environment):
        """What ``mlsync bucket`` did."""
        options = ("--endpoint-url", self.endpoint, "--region", region)
        return self.machine.run("bucket", *arguments, *options, **{**self.keys, **environment})

    def good(self, *arguments, **more):
        """What it did that had to succeed."""
        done = self.run(*arguments, **more)
        assert done.status == 0, done
        return done

    def client(self, service, region=FIRST):
        """A client of the account's root."""
        return boto3.client(service, endpoint_url=self.endpoint, region_name=region)


@pytest.fixture
def cloud(fresh, aws_server):
    """An empty machine and an account."""
    return Cloud(fresh, aws_server)


def rules(cloud, bucket, region=FIRST):
    """The rules of a bucket's lifecycle by name."""
    found = cloud.client("s3", region).get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    return {rule["ID"]: rule for rule in found}


def test_two_commands_lead_from_an_empty_account_to_a_replicated_repository(cloud, names):
    """``bucket apply`` and ``init``: both buckets closed, versioned, encrypted, with rules; a backup is in both."""
    first, second = names
    url, machine = f"s3://{first}/runs", cloud.machine
    write_training(machine.training)
    planned = cloud.good("plan", url, "--replicate-to", f"s3://{second}", "--second-region", SECOND)
    assert "Nothing was changed" in planned.out
    done = cloud.good("apply", url, "--replicate-to", f"s3://{second}", "--second-region", SECOND, "--yes")
    assert "All of it was read back, and holds" in done.out
    options = ("--endpoint-url", cloud.endpoint, "--region", FIRST)
    machine.good("init", url, *options, "--watch", machine.training, **cloud.keys)
    machine.good("backup", STATE_DIRECTORY=str(machine.state), **cloud.keys)

    for bucket, region in ((first, FIRST), (second, SECOND)):
        s3 = cloud.client("s3", region)
        blocked = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
        assert set(blocked.values()) == {True}
        assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
        assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] == region
        assert len(rules(cloud, bucket, region)) == 3
    listed = [_keys(cloud, bucket, region) for bucket, region in ((first, FIRST), (second, SECOND))]
    assert listed[0] == listed[1]
    assert {key.split("/")[1] for key in listed[0]} >= {"packs", "versions", "keys", "repository"}
    # And it is a repository: the version comes back from there, without the first bucket.
    far = ("--repo", f"s3://{second}/runs", "--endpoint-url", cloud.endpoint, "--region", SECOND)
    machine.good("restore", *far, "--to", "back", MLSYNC_CONFIG="", **cloud.keys)
    assert (machine.base / "back" / "results.csv").read_bytes() == (machine.training / "results.csv").read_bytes()


def _keys(cloud, bucket, region):
    found = cloud.client("s3", region).list_objects_v2(Bucket=bucket)
    return sorted(one["Key"] for one in found["Contents"])


def test_a_second_apply_changes_nothing_and_rules_of_others_stay(cloud, names):
    """With the same options, and with none; a rule that somebody else made before or between stays as it is."""
    first, _ = names
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket=first, CreateBucketConfiguration={"LocationConstraint": FIRST})
    theirs = {"ID": "theirs", "Filter": {"Prefix": "logs/"}, "Status": "Enabled", "Expiration": {"Days": 3}}
    s3.put_bucket_lifecycle_configuration(Bucket=first, LifecycleConfiguration={"Rules": [theirs]})
    options = ("--tier", "GLACIER_IR:45", "--noncurrent-days", "60", "--lock-days", "20", "--yes")
    cloud.good("apply", f"s3://{first}/runs", *options)
    made = rules(cloud, first)
    assert made["theirs"] == theirs
    assert "deletes objects" not in cloud.good("plan", f"s3://{first}/runs").out
    assert "rule 'theirs' deletes objects after 3 days" in cloud.good("plan", f"s3://{first}/logs").out
    assert made["mlsync-packs-1f64fff0"]["Transitions"] == [{"Days": 45, "StorageClass": "GLACIER_IR"}]
    for more in (options, ("--yes",)):
        assert "Nothing to change." in cloud.good("apply", f"s3://{first}/runs", *more).out
    assert cloud.good("plan", f"s3://{first}/runs", "--check").status == 0
    # Another repository in the same bucket has rules of its own.
    cloud.good("apply", f"s3://{first}/other", "--yes")
    assert rules(cloud, first).items() > made.items()
    assert cloud.good("plan", f"s3://{first}/runs", "--check").status == 0
    s3.put_bucket_versioning(Bucket=first, VersioningConfiguration={"Status": "Suspended"})
    assert cloud.run("plan", f"s3://{first}/runs", "--check").status == 104


def test_nothing_is_changed_unless_somebody_says_yes(cloud, names):
    """Without a terminal and without --yes the end is 105, with JSON too, and no bucket is made."""
    for more in ((), ("--json",)):
        done = cloud.run("apply", f"s3://{names[0]}", *more)
        assert done.status == 105
    assert names[0] not in {one["Name"] for one in cloud.client("s3").list_buckets()["Buckets"]}


def test_a_key_of_kms_encrypts_both_buckets_and_is_looked_at(cloud, names):
    """Each bucket by the key of its region, the role may use both; ``show`` says that a disabled key works no more."""
    first, second = names
    keys = [cloud.client("kms", region).create_key()["KeyMetadata"]["Arn"] for region in (FIRST, SECOND)]
    options = ("--sse-kms-key", keys[0], "--second-kms-key", keys[1], "--replicate-to", f"s3://{second}")
    cloud.good("apply", f"s3://{first}", *options, "--second-region", SECOND, "--yes")
    for bucket, region, key in ((first, FIRST, keys[0]), (second, SECOND, keys[1])):
        found = cloud.client("s3", region).get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]
        (rule,) = found["Rules"]
        assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}
        assert rule["BucketKeyEnabled"] is True
    policy = cloud.client("iam").get_role_policy(
        RoleName=f"mlsync-replication-{first}", PolicyName="mlsync-replication"
    )["PolicyDocument"]
    assert set(keys) <= {one["Resource"] for one in policy["Statement"]}
    assert "Nothing to change." in cloud.good("apply", f"s3://{first}", "--yes").out
    cloud.client("kms").disable_key(KeyId=keys[0])
    done = cloud.run("show", f"s3://{first}")
    assert done.status == 103
    assert "cannot be used: its state is Disabled" in " ".join(done.out.split())


def test_what_cannot_be_is_said_before_anything_is_done(cloud, names):
    """A copy onto itself, another region than the bucket's, a new bucket without a region: each is refused."""
    first, second = names
    cloud.good("apply", f"s3://{first}", "--skip", "lifecycle", "--yes")
    assert cloud.run("plan", f"s3://{first}", "--replicate-to", f"s3://{first}").status == 2
    done = cloud.run("plan", f"s3://{first}", region="us-west-2")
    assert done.status == 75
    assert f"the bucket is in {FIRST}, and us-west-2 was asked for" in done.err
    done = cloud.run("plan", f"s3://{first}", "--replicate-to", f"s3://{second}")
    assert done.status == 2
    assert "--second-region" in done.err
    done = cloud.good("plan", f"s3://{first}", "--replicate-to", f"s3://{second}", "--second-region", FIRST)
    assert "both buckets are in eu-central-1" in done.out
    assert cloud.run("show", f"s3://{second}").status == 75
    assert cloud.run("show", "/mnt/backup").status == 2
    assert cloud.run("plan", f"s3://{first}", "--repo", f"s3://{second}").status == 2


def test_findings_name_what_would_hurt(cloud, names):
    """A rule that deletes versions, replication without versioning, a lock shorter than the grace: ``show`` says so."""
    first, second = names
    cloud.good("apply", f"s3://{first}", "--replicate-to", f"s3://{second}", "--second-region", SECOND, "--yes")
    s3 = cloud.client("s3")
    theirs = {"ID": "old", "Filter": {"Prefix": ""}, "Status": "Enabled", "Expiration": {"Days": 90}}
    s3.put_bucket_lifecycle_configuration(Bucket=first, LifecycleConfiguration={"Rules": [theirs]})
    lock = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}}
    s3.put_object_lock_configuration(Bucket=first, ObjectLockConfiguration=lock)
    cloud.client("s3", SECOND).put_bucket_versioning(Bucket=second, VersioningConfiguration={"Status": "Suspended"})
    done = cloud.run("show", f"s3://{first}")
    assert done.status == 103
    said = " ".join(done.out.split())
    for words in (
        "rule 'old' deletes objects after 90 days",
        f"copies to {second}, which keeps no versions",
        "1 days, mode GOVERNANCE, and forgotten versions wait for 7 days",
    ):
        assert words in said, words


def test_the_template_makes_what_apply_would_make(cloud, names):
    """CloudFormation makes buckets and role from the template, region by region, as ``apply`` would."""
    first, second = names
    options = ("--replicate-to", f"s3://{second}", "--second-region", SECOND, "--skip", "policy")
    done = cloud.machine.good("bucket", "plan", f"s3://{first}/runs", *options, "--region", FIRST, "--cloudformation")
    for region in (SECOND, FIRST):
        stacks = cloud.client("cloudformation", region)
        # The server does not know its region in conditions, as CloudFormation does.
        template = done.out.replace('"Ref": "AWS::Region"', f'"Fn::Select": [0, ["{region}"]]')
        stacks.create_stack(StackName=first, TemplateBody=template, Capabilities=["CAPABILITY_NAMED_IAM"])
        stacks.get_waiter("stack_create_complete").wait(StackName=first, WaiterConfig={"Delay": 1})
    planned = cloud.good("plan", f"s3://{first}/runs", *options, "--json").json()
    changes = {step["setting"] for step in planned["steps"] if step["changes"]}
    # The server makes these from no template; cfn-lint has read them.
    assert changes == {"lifecycle", "replication"}
