"""What an S3 server can do of what mlsync asks of one: ``python tests/server_probe.py`` prints a line for each thing.

It asks the server that ``MLSYNC_TEST_S3_ENDPOINT`` names, with the keys of ``AWS_*``, by plain requests of boto3: so it
shows the server and not mlsync. It makes buckets of its own, and removes what the server lets go.

``yes`` is what AWS does. ``ignored`` is taken without a word and not done. Anything else is what the server answered.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

YES, IGNORED = "yes", "ignored"
_PART_BYTES: Final = 5 << 20
_KMS_KEY: Final = "1234abcd-12ab-34cd-56ef-1234567890ab"
_TAGS: Final = "team=vision&stage="
_STRANGER: Final = "999988887777"
_WRONG_CRC32: Final = "AAAAAA=="
_WRONG_MD5: Final = "AAAAAAAAAAAAAAAAAAAAAA=="


class Probe:
    """Asks one server; each method is one thing that it can do or cannot, and returns what it does."""

    def __init__(self, endpoint_url: str, region: str = "us-east-1") -> None:
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=region,
            config=Config(
                retries={"total_max_attempts": 1},
                read_timeout=20,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"},
            ),
        )
        self._bucket = self._made()

    def row(self) -> dict[str, str]:
        """Return what the server does, by the names of the things."""
        return {name: _answered(lambda ask=ask: ask(self)) for name, ask in THINGS.items()}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # ------------------------------------------------------------ creating

    def create_on_put(self) -> str:
        """Whether a second put of a key is refused when asked (``If-None-Match: *``)."""
        return self._second(lambda key: self._put(key, IfNoneMatch="*"))

    def create_on_put_with_versions(self) -> str:
        """The same in a bucket that keeps versions."""
        bucket = self._made()
        self._client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        return self._second(lambda key: self._put(key, IfNoneMatch="*", Bucket=bucket))

    def create_on_complete(self) -> str:
        """Whether the completion of an upload in parts is refused if the key exists."""
        return self._second(lambda key: self._in_parts(key, {"IfNoneMatch": "*"}))

    def md5(self) -> str:
        """Whether a body that does not fit its Content-MD5 is refused."""
        return self._refused(lambda: self._put(_key(), ContentMD5=_WRONG_MD5), "BadDigest", "InvalidDigest")

    def part_sums(self) -> str:
        """Whether a part that does not fit its CRC-32 is refused."""
        key = _key()
        upload_id = self._client.create_multipart_upload(Bucket=self._bucket, Key=key, ChecksumAlgorithm="CRC32")
        names = {"Bucket": self._bucket, "Key": key, "UploadId": upload_id["UploadId"], "PartNumber": 1}
        found = self._refused(
            lambda: self._client.upload_part(**names, Body=b"x", ChecksumCRC32=_WRONG_CRC32),
            "BadDigest",
            "InvalidRequest",
            "XAmzContentChecksumMismatch",
        )
        self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id["UploadId"])
        return found

    # ------------------------------------------------------------ reading

    def ranges(self) -> str:
        """Whether a part of an object can be read."""
        key = self._put(_key(), Body=b"0123456789")
        answer = self._client.get_object(Bucket=self._bucket, Key=key, Range="bytes=2-4")
        return YES if answer["Body"].read() == b"234" else IGNORED

    def listing(self) -> str:
        """Whether listings are in the order of keys and go on where they are told to."""
        base = _key()
        names = [f"{base}/{name}" for name in ("a/1", "a/2", "a0", "b")]
        for name in reversed(names):
            self._put(name)
        found: list[str] = []
        while True:
            after = {"StartAfter": found[-1]} if found else {}
            page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=f"{base}/", MaxKeys=1, **after)
            found += [entry["Key"] for entry in page.get("Contents", ())]
            if not page.get("Contents"):
                return YES if found == names else f"another order: {[name.removeprefix(base) for name in found]}"

    def unfinished(self) -> str:
        """Whether unfinished uploads and their parts are listed, to remove stale ones and resume others."""
        key = _key()
        upload_id = self._client.create_multipart_upload(Bucket=self._bucket, Key=key)["UploadId"]
        names = {"Bucket": self._bucket, "Key": key, "UploadId": upload_id}
        self._client.upload_part(**names, PartNumber=1, Body=b"x")
        uploads = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=key).get("Uploads", ())
        parts = self._client.list_parts(**names).get("Parts", ())
        self._client.abort_multipart_upload(**names)
        return YES if [one["Key"] for one in uploads] == [key] and len(parts) == 1 else IGNORED

    # ------------------------------------------------------------ what new objects get

    def sse(self) -> str:
        """Whether objects are encrypted by SSE-S3, put and in parts."""
        return self._shown(
            {"ServerSideEncryption": "AES256"}, lambda head: head.get("ServerSideEncryption") == "AES256"
        )

    def kms(self) -> str:
        """Whether objects are encrypted by a key of KMS."""
        wanted = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": _KMS_KEY}
        return self._shown(wanted, lambda head: head.get("ServerSideEncryption") == "aws:kms")

    def classes(self) -> str:
        """Whether objects have the storage class that was asked for, and one that does not exist is refused."""
        found = self._shown({"StorageClass": "STANDARD_IA"}, lambda head: head.get("StorageClass") == "STANDARD_IA")
        if found != YES:
            return found
        refused = self._refused(lambda: self._put(_key(), StorageClass="NO_SUCH"), "InvalidStorageClass")
        return YES if refused == YES else "yes, and any other name"

    def tags(self) -> str:
        """Whether objects get tags, put and in parts."""
        return self._shown({"Tagging": _TAGS}, lambda _head: True, self._has_tags)

    def lists(self) -> str:
        """Whether an access control list may come with an object."""
        self._put(_key(), ACL="bucket-owner-full-control")
        return "taken"

    def owner(self) -> str:
        """Whether requests are refused in a bucket of another account than they name."""
        return self._refused(lambda: self._put(_key(), ExpectedBucketOwner=_STRANGER), "AccessDenied")

    # ------------------------------------------------------------ the bucket

    def versions(self) -> str:
        """Whether a bucket keeps versions: a deleted object is there again when its marker is removed."""
        bucket, key = self._made(), _key()
        self._client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        self._put(key, Bucket=bucket, Body=b"kept")
        marker = self._client.delete_object(Bucket=bucket, Key=key)
        if "VersionId" not in marker:
            return IGNORED
        self._client.delete_object(Bucket=bucket, Key=key, VersionId=marker["VersionId"])
        return YES if self._client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"kept" else IGNORED

    def lock(self) -> str:
        """Whether locked objects, put and in parts, cannot be deleted, and their lock can be extended."""
        bucket = self._made(ObjectLockEnabledForBucket=True)
        until = dt.datetime.now(dt.UTC) + dt.timedelta(days=3)
        wanted = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}
        later = {"Mode": "GOVERNANCE", "RetainUntilDate": until + dt.timedelta(days=3)}

        def is_locked(key: str) -> bool:
            version = self._client.head_object(Bucket=bucket, Key=key).get("VersionId", "null")
            self._client.put_object_retention(Bucket=bucket, Key=key, Retention=later)
            refusal = self._refused(
                lambda: self._client.delete_object(Bucket=bucket, Key=key, VersionId=version), "AccessDenied"
            )
            shown = self._client.head_object(Bucket=bucket, Key=key).get("ObjectLockRetainUntilDate", until)
            return refusal == YES and shown > until

        return self._shown(wanted, lambda head: head.get("ObjectLockMode") == "GOVERNANCE", is_locked, bucket)

    def lifecycle(self) -> str:
        """Whether rules that remove incomplete uploads and move objects are taken, and shown again."""
        moves = {"Transitions": [{"Days": 30, "StorageClass": "STANDARD_IA"}]}
        uploads = {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}
        lost = []
        for name, rule in (("moves", moves), ("incomplete uploads", uploads)):
            rules = {"Rules": [{"ID": "mlsync", "Status": "Enabled", "Filter": {"Prefix": "packs/"}, **rule}]}
            try:
                self._client.put_bucket_lifecycle_configuration(Bucket=self._bucket, LifecycleConfiguration=rules)
                (shown,) = self._client.get_bucket_lifecycle_configuration(Bucket=self._bucket)["Rules"]
            except (ClientError, KeyError, ValueError):
                lost.append(name)
            else:
                lost += [] if rule.keys() <= shown.keys() else [name]
        return ("no " if len(lost) == 2 else "without ") + " and ".join(lost) if lost else YES

    def thaw(self) -> str:
        """Whether archived objects cannot be read, and are restored when asked."""
        key = self._put(_key(), StorageClass="GLACIER")
        try:
            self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except ClientError as error:
            if _code(error) != "InvalidObjectState":
                raise
        else:
            return "archives nothing"
        self._client.restore_object(Bucket=self._bucket, Key=key, RestoreRequest={"Days": 1})
        return YES if "Restore" in self._client.head_object(Bucket=self._bucket, Key=key) else IGNORED

    # ------------------------------------------------------------ how

    def _made(self, **more: bool) -> str:
        name = f"mlsync-probe-{uuid.uuid4().hex[:20]}"
        self._client.create_bucket(Bucket=name, **more)
        return name

    def _put(self, key: str, **more: Any) -> str:
        self._client.put_object(**{"Bucket": self._bucket, "Key": key, "Body": b"x", **more})
        return key

    def _in_parts(self, key: str, at_end: Mapping[str, Any], bucket: str = "", **more: Any) -> str:
        names = {"Bucket": bucket or self._bucket, "Key": key}
        names["UploadId"] = self._client.create_multipart_upload(**names, **more)["UploadId"]
        sent = self._client.upload_part(**names, PartNumber=1, Body=b"x", ContentMD5="ndTkYSaMgDT1yFZOFVxnpg==")
        parts = {"Parts": [{"PartNumber": 1, "ETag": sent["ETag"]}]}
        self._client.complete_multipart_upload(**names, MultipartUpload=parts, **at_end)
        return key

    def _second(self, create: Callable[[str], str]) -> str:
        key = _key()
        create(key)
        return self._refused(lambda: create(key), "PreconditionFailed", "ConditionalRequestConflict")

    def _refused(self, call: Callable[[], object], *codes: str) -> str:
        try:
            call()
        except ClientError as error:
            if _code(error) in codes:
                return YES
            raise
        return IGNORED

    def _shown(
        self,
        wanted: Mapping[str, Any],
        is_so: Callable[[Mapping[str, Any]], bool],
        also: Callable[[str], bool] = lambda _key: True,
        bucket: str = "",
    ) -> str:
        """Return whether objects that are put, and in parts, get what is *wanted*."""
        found = {}
        for how in ("put", "parts"):
            key = _key()
            if how == "put":
                md5 = "ndTkYSaMgDT1yFZOFVxnpg=="
                self._put(key, Bucket=bucket or self._bucket, ContentMD5=md5, **wanted)
            else:
                self._in_parts(key, {}, bucket, **wanted)
            found[how] = is_so(self._client.head_object(Bucket=bucket or self._bucket, Key=key)) and also(key)
        if found["put"] != found["parts"]:
            return "put only" if found["put"] else "parts only"
        return YES if found["put"] else IGNORED

    def _has_tags(self, key: str) -> bool:
        shown = self._client.get_object_tagging(Bucket=self._bucket, Key=key)["TagSet"]
        return {tag["Key"]: tag["Value"] for tag in shown} == {"team": "vision", "stage": ""}


THINGS: Final[Mapping[str, Callable[[Probe], str]]] = {
    "conditional create on put": Probe.create_on_put,
    "… in a bucket with versions": Probe.create_on_put_with_versions,
    "… on the completion of an upload": Probe.create_on_complete,
    "MD5 of small objects compared": Probe.md5,
    "CRC-32 of parts compared": Probe.part_sums,
    "ranges": Probe.ranges,
    "listings in order": Probe.listing,
    "unfinished uploads listed": Probe.unfinished,
    "SSE-S3": Probe.sse,
    "SSE-KMS": Probe.kms,
    "storage classes": Probe.classes,
    "tags": Probe.tags,
    "`acl`": Probe.lists,
    "`expected_bucket_owner`": Probe.owner,
    "versions": Probe.versions,
    "object lock, and its extension": Probe.lock,
    "lifecycle": Probe.lifecycle,
    "archive classes, and thawing": Probe.thaw,
}


def _key() -> str:
    return f"probe/{uuid.uuid4().hex}"


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code"))


def _answered(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except ClientError as error:
        return _code(error)
    except (BotoCoreError, KeyError, ValueError) as error:
        return type(error).__name__


def main() -> None:
    """Print a line for each thing."""
    endpoint_url = os.environ.get("MLSYNC_TEST_S3_ENDPOINT")
    if not endpoint_url:
        sys.exit("name a server in MLSYNC_TEST_S3_ENDPOINT, and its keys in AWS_*")
    probe = Probe(endpoint_url, os.environ.get("AWS_REGION", "us-east-1"))
    try:
        for name, found in probe.row().items():
            sys.stdout.write(f"| {name} | {found} |\n")
    finally:
        probe.close()


if __name__ == "__main__":
    main()
