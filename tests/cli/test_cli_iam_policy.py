"""``mlsync iam-policy``: each role's commands run under exactly its policy, on a server that holds everybody to his.

The server plays what AWS documents of the rights of S3, conditions included; see ``enforcing_aws.py``.
"""

from __future__ import annotations

import json
import os
import re
import uuid

import botocore.exceptions
import pytest
from machine import Machine, write_training

pytestmark = pytest.mark.slow
ROLES = ("writer", "prover", "restorer", "copier", "pruner", "admin")
LOOK = ("versions",)
BACKUP = ("backup", "-v")
EVALUATE = ("evaluate", "latest", "--quickly", "--command", "sh -c 'echo loss 0.5'")
PRUNE = ("prune", "--yes", "--grace", "0s")


class Account:
    """An account of AWS with a bucket: who holds a role there has exactly the policy that mlsync printed."""

    def __init__(self, server, commands, base) -> None:
        import boto3

        self.server = server
        self.bucket = server.make_bucket()
        self.prefix = "some prefix/日本/"
        self.url = f"s3://{self.bucket}/{self.prefix.rstrip('/')}"
        self.machine = Machine(base, commands)
        keys = {"aws_access_key_id": server.access_key, "aws_secret_access_key": server.secret_key}
        place = {"endpoint_url": server.endpoint_url, "region_name": server.region}
        self.iam, self.kms = (boto3.client(name, **place, **keys) for name in ("iam", "kms"))
        self.options = ("--endpoint-url", server.endpoint_url)
        write_training(self.machine.training)
        self.watch()

    def watch(self, run: str = "yolo", more: str = "") -> None:
        """The configuration is about that run."""
        self.machine.configuration.write_text(
            f'repository = "{self.url}"\nstate_directory = "{self.machine.state}"\n'
            f'[s3]\nendpoint_url = "{self.server.endpoint_url}"\n'
            f'[[watch]]\ndirectory = "{self.machine.training}"\nrun = "{run}"\n[proof]\ndevice = "none"\n{more}'
        )
        self.machine.configuration.chmod(0o600)

    def policy(self, role: str, *more: str, **settings: str) -> dict:
        """The document of a role."""
        return self.machine.good("iam-policy", "--role", role, *more, **self.server.environment(), **settings).json()

    def holder(self, policy: dict, without: str = "") -> dict[str, str]:
        """The environment of somebody who has that policy, but for one right."""
        name = f"user-{uuid.uuid4().hex[:12]}"
        self.iam.create_user(UserName=name)
        self.iam.put_user_policy(UserName=name, PolicyName="role", PolicyDocument=json.dumps(lacking(policy, without)))
        key = self.iam.create_access_key(UserName=name)["AccessKey"]
        secrets = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        return self.server.environment() | secrets

    def client(self, environment):
        """What the holder of these keys can call without mlsync."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.server.endpoint_url,
            region_name=self.server.region,
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        )

    def train(self, size_bytes: int = 1000) -> None:
        """There is something new to store."""
        (self.machine.training / "new.bin").write_bytes(os.urandom(size_bytes))


def lacking(policy: dict, right: str) -> dict:
    """The policy without a right, wherever it grants it."""
    statements = [{**one, "Action": [name for name in one["Action"] if name != right]} for one in policy["Statement"]]
    return {**policy, "Statement": [one for one in statements if one["Action"]]}


def rights_in(policy: dict) -> set[str]:
    """All rights that a policy grants."""
    return {right for one in policy["Statement"] for right in one["Action"]}


def allow(right: str) -> str:
    """The end of a refusal for want of that right."""
    return f"(check that the credentials allow {right} there)"


@pytest.fixture(scope="module")
def account(strict_aws_process, server, tmp_path_factory):
    """An account with a repository that an admin made, and a version in it that a writer made."""
    account = Account(strict_aws_process, server, tmp_path_factory.mktemp("account") / "machine")
    account.policies = {role: account.policy(role) for role in ROLES}
    account.roles = {role: account.holder(policy) for role, policy in account.policies.items()}
    elsewhere = ("--config", "made.toml", *account.options)
    account.machine.good("init", account.url, *elsewhere, **account.roles["admin"])
    for size_bytes in (9 << 20, 1000, 1000):  # the first one is sent in parts
        account.train(size_bytes)
        account.machine.good("backup", **account.roles["writer"])
    return account


@pytest.mark.parametrize(
    ("role", "commands"),
    {
        "writer": (("backup",), ("status",), ("versions",), ("doctor",), EVALUATE),
        "prover": (EVALUATE, ("verify",), ("check", "--read-data")),
        "restorer": (("restore", "--to", "back"), ("versions",), ("show",), ("diff", "1", "2"), ("verify",)),
        "pruner": (
            *(("pin", "2"), ("unpin", "2"), ("forget", "1", "--yes"), PRUNE, ("repair", "--yes")),
            ("key", "add", "--new-key-file", "another.key"),
        ),
    }.items(),
)
def test_a_role_can_do_what_it_is_for(account, role, commands):
    """Each command that a role is for succeeds with its policy."""
    account.train()
    if role == "restorer":
        account.machine.good("backup", **account.roles["writer"])
    if role == "pruner":
        (account.machine.base / "another.key").write_bytes(os.urandom(32))
        (account.machine.base / "another.key").chmod(0o600)
    for command in commands:
        account.machine.good(*command, **account.roles[role])


@pytest.mark.parametrize(
    ("role", "command"),
    [
        ("writer", ("forget", "2", "--yes")),
        ("writer", ("pin", "latest")),
        ("prover", ("backup",)),
        ("prover", ("pin", "latest")),
        ("restorer", ("backup",)),
        ("restorer", EVALUATE),
        ("restorer", ("pin", "latest")),
    ],
)
def test_a_role_cannot_do_what_it_is_not_for(account, role, command):
    """Another command is refused, and the message names the right that is missing."""
    account.train()
    done = account.machine.run(*command, **account.roles[role])
    assert done.status == 72
    assert allow("s3:PutObject") in done.err


def test_a_writer_makes_no_repository(account):
    """A writer cannot plant key slots, so he makes no repository either, and leaves none behind that is half made."""
    place = f"s3://{account.bucket}/another"
    policy = account.policy("writer", place)
    done = account.machine.run("init", place, "--config", "half.toml", *account.options, **account.holder(policy))
    assert done.status == 72
    assert "s3:PutObject" in done.err
    assert "/another/keys/" in done.err
    listed = account.server.client().list_objects_v2(Bucket=account.bucket, Prefix="another/")
    assert [one["Key"] for one in listed["Contents"]] == ["another/probe"]
    account.machine.good(
        "init", place, "--config", "whole.toml", *account.options, **account.holder(account.policy("admin", place))
    )


# What happens without a right: the role, the right, a command, how it ends, and what it says beside the right's name.
# Nothing is said where nothing is missing at once: these rights are for uploads that were cut off.
UNNOTICED = ("s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")
REFUSED = {
    **{
        (role, right): (LOOK, 72)
        for role in ("writer", "restorer", "pruner")
        for right in ("s3:ListBucket", "s3:GetObject")
    },
    ("writer", "s3:PutObject"): (BACKUP, 72),
    ("prover", "s3:PutObject"): (EVALUATE, 72),
    ("copier", "s3:PutObject"): (("pin", "latest"), 72),
    ("pruner", "s3:PutObject"): (("pin", "latest"), 72),
    ("pruner", "s3:DeleteObject"): (PRUNE, 72),
    ("admin", "s3:PutObject"): (("pin", "latest", "--name", "a"), 72),
}
SEEN = (
    *("s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration", "s3:GetBucketPublicAccessBlock"),
    *("s3:GetEncryptionConfiguration", "s3:GetBucketPolicy", "s3:GetReplicationConfiguration"),
    "s3:GetLifecycleConfiguration",
)
# What sets up a bucket, and by which options that is asked for.
SET_BY = {
    "s3:CreateBucket": (),
    "s3:PutBucketVersioning": (),
    "s3:PutBucketPublicAccessBlock": (),
    "s3:PutEncryptionConfiguration": (),
    "s3:PutLifecycleConfiguration": (),
    "s3:PutBucketObjectLockConfiguration": ("--lock-days", "30"),
    "s3:PutReplicationConfiguration": ("--replicate-to",),
}
WITHOUT = {
    ("writer", "s3:ListBucketMultipartUploads"): (BACKUP, "uploads that were cut off long ago could not be looked for"),
    **{("admin", right): (("bucket", "show"), "not known") for right in SEEN},
}


@pytest.mark.parametrize(("role", "right"), REFUSED)
def test_a_right_that_is_missing_is_named(account, role, right):
    """With all rights of a role but one, the command that needs it is refused, and says which one it is."""
    command, status = REFUSED[role, right]
    account.train()
    if command == PRUNE:
        something_to_delete(account)
    done = account.machine.run(*command, **account.holder(account.policies[role], right))
    assert done.status == status
    # A prune goes on at first, and sums up.
    assert (f"{right} in a bucket: mlsync iam-policy" if command == PRUNE else allow(right)) in done.err


def something_to_delete(account) -> None:
    """A pack that no version needs is marked, and its grace is over."""
    for _ in range(2):
        account.train()
        account.machine.good("backup", **account.roles["writer"])
    listed = account.machine.good("versions", "--json", **account.roles["writer"]).json()["versions"]
    account.machine.good("forget", str(listed[-2]["version"]), "--yes", **account.roles["pruner"])
    assert account.machine.good(*PRUNE, "--json", **account.roles["pruner"]).json()["marked"]["packs"]


@pytest.mark.parametrize(("role", "right"), WITHOUT)
def test_without_a_right_that_is_not_essential_the_rest_is_done(account, role, right):
    """The command succeeds, and says what it left out and which right is missing."""
    command, said = WITHOUT[role, right]
    account.train()
    for mark in account.machine.state.glob("**/swept"):
        mark.unlink()
    done = account.machine.good(*command, **account.holder(account.policies[role], right))
    assert said in done.out + done.err
    assert right in done.out + done.err


def test_a_right_to_set_a_bucket_up_is_named(account):
    """An admin sets up a bucket; without one of the rights the rest is set, and that one is named."""
    for right, wish in SET_BY.items():
        url, options = f"s3://{account.bucket}-{right[3:].lower()[:16]}/x", wish
        policy = account.policy("admin", url)
        if wish == ("--replicate-to",):  # the role for that takes rights of IAM, and its bucket those of an admin
            options = (*wish, f"s3://{account.bucket}-second/x", "--second-region", "eu-west-1")
            more = {"Effect": "Allow", "Action": ["iam:*", "sts:*", *rights_in(policy)], "Resource": ["*"]}
            policy = {**policy, "Statement": [*policy["Statement"], more]}
        apply = ("bucket", "apply", url, "--yes", *options, *account.options)
        done = account.machine.run(*apply, **account.holder(policy, right))
        assert done.status == 104, (right, done)
        assert allow(right) in done.out, (right, done)
    account.machine.good(*apply, **account.holder(policy))


def test_an_upload_goes_on_as_the_rights_allow(account, monkeypatch):
    """Who may not see parts of uploads cannot resume one, and is told what that takes; removing them likewise."""
    from mlsync.errors import NotFound, StoreDenied
    from mlsync.store.location import open_store
    from mlsync.store.options import StoreOptions

    def opened(without: str):
        for name, value in account.holder(account.policies["writer"], without).items():
            monkeypatch.setenv(name, value)
        return open_store(account.url, StoreOptions(endpoint_url=account.server.endpoint_url))

    whole = opened("")
    upload = whole.upload("packs/ab/cut")
    upload.write(0, bytes(whole.part_bytes))
    token = upload.resume_token()
    no_abort = opened("s3:AbortMultipartUpload")
    no_abort.resume("packs/ab/cut", token).abort()
    with pytest.raises(StoreDenied, match=re.escape(allow("s3:AbortMultipartUpload"))):
        no_abort.remove_stale_uploads(-1)
    whole.resume("packs/ab/cut", token)
    with pytest.raises(NotFound, match=re.escape(allow("s3:ListMultipartUploadParts"))):
        opened("s3:ListMultipartUploadParts").resume("packs/ab/cut", token)
    for store in (whole, no_abort):
        store.close()


def test_who_may_not_thaw_is_told_so(account):
    """A version in cold storage is thawed by who may, and who may not is told which right that takes."""
    s3 = account.server.client()
    keys = [
        one["Key"] for one in s3.list_objects_v2(Bucket=account.bucket, Prefix=f"{account.prefix}packs/")["Contents"]
    ]

    def move(key: str, where: str) -> None:
        source = {"Bucket": account.bucket, "Key": key}
        s3.copy_object(Bucket=account.bucket, Key=key, CopySource=source, StorageClass=where)

    for key in keys:
        move(key, "GLACIER")
    thaw = ("restore", "--to", "thawed", "--thaw", "bulk", "--no-wait")
    without = account.machine.run(*thaw, **account.holder(account.policies["restorer"], "s3:RestoreObject"))
    allowed = account.machine.run(*thaw, **account.roles["restorer"])
    for key in keys:
        move(key, "STANDARD")
    assert (without.status, allow("s3:RestoreObject") in without.err) == (72, True)
    assert allowed.status == 119


def test_every_right_of_every_role_was_taken_away(account):
    """The tables above have each right of each role; what is no role's own is tried with another role that has it."""
    granted = {(role, right) for role in ROLES for right in rights_in(account.policies[role])}
    tried = {*REFUSED, *WITHOUT}
    by_another = {right for _, right in tried} | {"s3:RestoreObject", *UNNOTICED, *SET_BY}
    # mlsync writes a bucket's policy only where the server is reached by https, which this one is not.
    by_another.add("s3:PutBucketPolicy")
    assert {(role, right) for role, right in granted - tried if right not in by_another} == set()
    assert tried <= granted


def test_a_copier_fills_a_mirror_and_changes_nothing_there(account):
    """With a restorer's rights here and a copier's there all is copied, and nothing there is deleted."""
    mirror = f"s3://{account.bucket}/mirror"
    copier = account.policy("copier", mirror)
    statements = [*account.policies["restorer"]["Statement"], *copier["Statement"]]
    named = [{**one, "Sid": f"S{number}"} for number, one in enumerate(statements)]
    both = account.holder({**copier, "Statement": named})
    account.train(9 << 20)
    account.machine.good("backup", **account.roles["writer"])
    copy = ("copy", "--quickly", "--to", mirror)
    account.machine.good(*copy, "--create", **both)
    account.machine.good("pin", "latest", **account.roles["pruner"])
    account.machine.good(*copy, **both)
    reader = account.holder(account.policy("restorer", mirror))
    account.machine.good("check", "--repo", mirror, *account.options, **reader)
    s3 = account.client(both)
    for call, more in ((s3.put_object, {"Body": b"x"}), (s3.delete_object, {})):
        with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
            call(Bucket=account.bucket, Key="mirror/repository", **more)
    s3.close()


def test_a_writer_cannot_change_what_is_there(account):
    """Whoever has a writer's keys overwrites nothing, deletes nothing, and makes no decision and no key slot."""
    s3 = account.client(account.roles["writer"])
    listed = s3.list_objects_v2(Bucket=account.bucket, Prefix=f"{account.prefix}versions/")["Contents"]
    there, free = listed[0]["Key"], f"{account.prefix}packs/ab/free"
    place = {"Bucket": account.bucket}

    def refused(call, **arguments) -> None:
        with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
            call(**place, **arguments)

    refused(s3.put_object, Key=there, Body=b"x")
    refused(s3.put_object, Key=free, Body=b"x")
    with pytest.raises(botocore.exceptions.ClientError, match="PreconditionFailed"):
        s3.put_object(**place, Key=there, Body=b"x", IfNoneMatch="*")
    upload = {"Key": free, "UploadId": s3.create_multipart_upload(**place, Key=free)["UploadId"]}
    part = s3.upload_part(**place, **upload, PartNumber=1, Body=b"x")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    refused(s3.complete_multipart_upload, **upload, MultipartUpload=parts)
    refused(s3.create_multipart_upload, Key=there)
    refused(s3.delete_object, Key=there)
    for begin in ("keys/", "decisions/", "tombstones/", "moves/", "epochs/", "features/", ""):
        refused(s3.put_object, Key=f"{account.prefix}{begin}planted", Body=b"x", IfNoneMatch="*")
    refused(s3.list_objects_v2, Prefix="some prefix/")
    refused(s3.get_object, Key="some prefix/another")
    s3.close()


def test_a_writer_of_one_run_writes_no_other(account):
    """With --run a writer backs up that run alone; the refusal for another run names the right."""
    holder = account.holder(account.policy("writer", "--run", "yolo"))
    account.train()
    account.machine.good("backup", **holder)
    account.watch("other")
    done = account.machine.run("backup", **holder)
    account.watch()
    assert done.status == 72
    assert "/runs/" in done.err
    assert allow("s3:PutObject") in done.err


def test_what_new_objects_get_takes_rights_of_its_own(account):
    """Tags, a list, a lock and a key of KMS for new objects: the policy has their rights, and each is needed."""
    bucket = f"{account.bucket}-locked"
    account.server.client().create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    url, elsewhere = f"s3://{bucket}/x", ("--config", "locked.toml", *account.options)
    settings = {
        "MLSYNC_S3_TAGS": "project=yolo",
        "MLSYNC_S3_ACL": "bucket-owner-full-control",
        "MLSYNC_S3_OBJECT_LOCK": "governance 30d",
        "MLSYNC_S3_SSE": "aws:kms",
        "MLSYNC_S3_KMS_KEY_ID": account.kms.create_key()["KeyMetadata"]["Arn"],
    }
    admin = account.holder(account.policy("admin", url, **settings))
    account.machine.good("init", url, "--watch", account.machine.training, *elsewhere, **settings, **admin)
    policy = account.policy("writer", url, **settings)
    account.train()
    (account.machine.training / "large.bin").write_bytes(os.urandom(9 << 20))
    at = ("backup", "--config", "locked.toml")
    of_puts = ("s3:PutObjectTagging", "s3:PutObjectAcl", "s3:PutObjectRetention", "kms:GenerateDataKey")
    for right in (*of_puts, "kms:Decrypt"):
        done = account.machine.run(*at, **settings, **account.holder(policy, right))
        assert done.status == 72
        assert allow(right) in done.err
    account.machine.good(*at, **settings, **account.holder(policy))
    s3 = account.server.client()
    key = s3.list_objects_v2(Bucket=bucket, Prefix="x/versions/")["Contents"][0]["Key"]
    (account.machine.training / "large.bin").unlink()
    tags = {one["Key"] for one in s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]}
    assert tags == {"project", "mlsync-kind", "mlsync-run"}


def test_a_key_of_kms_that_opens_the_repository_takes_rights(account):
    """Who opens by a key of KMS may unwrap key slots by it, and who makes them may wrap; nothing else of that key."""
    key = account.kms.create_key()["KeyMetadata"]["Arn"]
    url = f"s3://{account.bucket}/by-kms"
    by_kms = ("--kms", key, "--kms-endpoint-url", account.server.endpoint_url, *account.options)
    made = ("init", url, "--config", "kms.toml", *by_kms)
    admin, restorer = (account.policy(role, url, *by_kms) for role in ("admin", "restorer"))
    secret = {"CREDENTIALS_DIRECTORY": ""}
    done = account.machine.run(*made, **secret, **account.holder(admin, "kms:Encrypt"))
    assert (done.status, "allow kms:Encrypt" in done.err) == (87, True)
    account.machine.good(*made, **secret, **account.holder(admin))
    look = ("versions", "--repo", url, *by_kms)
    done = account.machine.run(*look, **secret, **account.holder(restorer, "kms:Decrypt"))
    assert (done.status, "allow kms:Decrypt" in done.err) == (87, True)
    holder = account.holder(restorer)
    account.machine.good(*look, **secret, **holder)
    assert "kms:Encrypt" not in rights_in(restorer)


def test_the_form_for_minio_does_for_a_writer(account):
    """Without AWS's conditions a writer backs up too, and deletes nothing."""
    holder = account.holder(account.policy("writer", "--form", "minio"))
    account.train()
    account.machine.good("backup", **holder)
    s3 = account.client(holder)
    with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
        s3.delete_object(Bucket=account.bucket, Key=f"{account.prefix}repository")
    s3.close()
