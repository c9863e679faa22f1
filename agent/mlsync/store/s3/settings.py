"""The settings of a bucket, as the documents of AWS's API: each is read and written by itself.

Two of them, lifecycle and replication, are lists of rules that a write replaces as a whole. They are read and written
as the server's own text, so that a rule of somebody else stays as it is to the byte, with elements too that no library
here knows.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any, Final

import msgspec
from botocore.exceptions import ClientError

from mlsync import errors
from mlsync.store.location import bucket_and_prefix
from mlsync.store.options import StoreOptions
from mlsync.store.s3.client import Client
from mlsync.store.s3.errors import code_of, status_of, translating
from mlsync.store.s3.rule_text import document_of, texts_of

_NOT_SET: Final = {
    "NoSuchLifecycleConfiguration",
    "ObjectLockConfigurationNotFoundError",
    "NoSuchObjectLockConfiguration",
    "NoSuchBucketPolicy",
    "NoSuchPublicAccessBlockConfiguration",
    "ServerSideEncryptionConfigurationNotFoundError",
    "ReplicationConfigurationNotFoundError",
    "NoSuchConfiguration",
}
_LACKS: Final = {"NotImplemented", "MethodNotAllowed", "UnsupportedOperation", "XNotImplemented", "NotSupported"}
_NOT_FOUND, _FORBIDDEN, _REDIRECTS = 404, 403, (301, 307, 400)
_WAITS_S: Final = (0.5, 2.0)
_DEFAULT_REGION: Final = "us-east-1"
# The minimum size of what is moved is a setting of the whole lifecycle, which a write without it would reset.
_SMALLEST: Final = "TransitionDefaultMinimumObjectSize"


class Setting(Enum):
    """A setting of a bucket, by the name that people see."""

    PUBLIC = "public access"
    VERSIONS = "versioning"
    ENCRYPTION = "encryption"
    LIFECYCLE = "lifecycle"
    LOCK = "object lock"
    POLICY = "bucket policy"
    REPLICATION = "replication"


# What reads it, what writes it, and what its document is called there.
_CALLS: Final[Mapping[Setting, tuple[str, str, str]]] = {
    Setting.PUBLIC: ("get_public_access_block", "put_public_access_block", "PublicAccessBlockConfiguration"),
    Setting.VERSIONS: ("get_bucket_versioning", "put_bucket_versioning", "VersioningConfiguration"),
    Setting.ENCRYPTION: ("get_bucket_encryption", "put_bucket_encryption", "ServerSideEncryptionConfiguration"),
    Setting.LIFECYCLE: (
        "get_bucket_lifecycle_configuration",
        "put_bucket_lifecycle_configuration",
        "LifecycleConfiguration",
    ),
    Setting.LOCK: ("get_object_lock_configuration", "put_object_lock_configuration", "ObjectLockConfiguration"),
    Setting.POLICY: ("get_bucket_policy", "put_bucket_policy", "Policy"),
    Setting.REPLICATION: ("get_bucket_replication", "put_bucket_replication", "ReplicationConfiguration"),
}
_OF_RULES: Final = {
    Setting.LIFECYCLE: ("GetBucketLifecycleConfiguration", "PutBucketLifecycleConfiguration"),
    Setting.REPLICATION: ("GetBucketReplication", "PutBucketReplication"),
}
_REMOVALS: Final = {Setting.LIFECYCLE: "delete_bucket_lifecycle", Setting.REPLICATION: "delete_bucket_replication"}


class BucketSettings:
    """Reads and writes what the bucket of *url* is set to; every method raises a ``StoreError`` if that fails."""

    def __init__(self, url: str, options: StoreOptions) -> None:
        self.bucket, self.prefix = bucket_and_prefix(url)
        self._location = url
        self._options = options
        self.client = Client(options, url)
        self.server = ""

    def region(self) -> str | None:
        """Return where the bucket is, ``None`` if there is no bucket; further requests go there.

        Raise ``StoreDenied`` if these credentials may not see it, which is so too where it is another account's.
        """
        try:
            answer: Mapping[str, Any] = self._call("head_bucket", {"Bucket": self.bucket})
        except errors.StoreError as error:
            if isinstance(error.__cause__, ClientError):
                return self._region_by(error, error.__cause__)
            raise
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        self.server = str(headers.get("server") or "")
        here = str(self.client.botocore.meta.region_name)
        region = str(headers.get("x-amz-bucket-region") or "") or here
        if region != here:
            self._move_to(region)
        return region

    def _region_by(self, error: errors.StoreError, answer: ClientError) -> str | None:
        """Return the region that a refusal names, ``None`` if the refusal is that there is no bucket."""
        headers = answer.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        self.server = str(headers.get("server") or "")
        stated = str(headers.get("x-amz-bucket-region") or "")
        if status_of(answer) == _NOT_FOUND:
            return None
        if status_of(answer) in _REDIRECTS and stated:
            self._move_to(stated)
            return stated
        if status_of(answer) == _FORBIDDEN:
            self._refuse_keys()
            what = "these credentials may not see the bucket, or it is another account's"
            advice = "allow s3:ListBucket there, or choose another name"
            raise errors.StoreDenied(what, where=self._location, advice=advice) from answer
        raise error

    def _refuse_keys(self) -> None:
        """Raise what the server says of keys that it does not take: the answer to HEAD has no body to say it in."""
        try:
            self._call("get_bucket_location", {"Bucket": self.bucket})
        except errors.StoreDenied as error:
            if _code_behind(error) not in ("", "AccessDenied", "AllAccessDisabled"):
                raise
        except errors.StoreError:
            return

    def belongs_to(self, account: str) -> bool:
        """Return whether the bucket is that account's."""
        try:
            self._call("head_bucket", {"Bucket": self.bucket, "ExpectedBucketOwner": account})
        except errors.StoreDenied as error:
            if isinstance(error.__cause__, ClientError) and status_of(error.__cause__) == _FORBIDDEN:
                return False
            raise
        return True

    def make(self, region: str | None, *, locks: bool) -> None:
        """Make the bucket; if it *locks*, with object lock. One that is there already and is ours is as good."""
        arguments: dict[str, object] = {"Bucket": self.bucket}
        if region not in (None, _DEFAULT_REGION):
            arguments["CreateBucketConfiguration"] = {"LocationConstraint": region}
        if locks:
            arguments["ObjectLockEnabledForBucket"] = True
        try:
            self._call("create_bucket", arguments)
        except errors.StoreError as error:
            code = _code_behind(error)
            if code == "BucketAlreadyOwnedByYou":
                return
            if code == "BucketAlreadyExists":
                what = f"a bucket called {self.bucket} is there already, and another account's"
                raise errors.StoreDenied(what, where=self._location, advice="choose another name") from error
            raise

    def top_names(self) -> list[str]:
        """Return the first parts of the names of objects in the bucket, a thousand at most."""
        answer = self._call("list_objects_v2", {"Bucket": self.bucket, "Delimiter": "/"})
        folders = [one["Prefix"] for one in answer.get("CommonPrefixes", [])]
        return folders + [one["Key"] for one in answer.get("Contents", [])]

    def read(self, setting: Setting) -> dict[str, Any]:
        """Return what is set, empty if nothing is."""
        operation, _, name = _CALLS[setting]
        try:
            answer: Mapping[str, Any] = self._call(operation, {"Bucket": self.bucket})
        except errors.StoreError as error:
            if _code_behind(error) in _NOT_SET:
                return {}
            raise
        if setting is Setting.POLICY:
            return self._policy(answer.get("Policy"))
        if setting in (Setting.VERSIONS, Setting.LIFECYCLE):
            return {key: value for key, value in answer.items() if key != "ResponseMetadata"}
        return dict(answer.get(name) or {})

    def write(self, setting: Setting, document: Mapping[str, Any]) -> None:
        """Set it; not for a list of rules."""
        _, operation, name = _CALLS[setting]
        value = json.dumps(document) if setting is Setting.POLICY else dict(document)
        self._call(operation, {"Bucket": self.bucket, name: value})

    def rule_texts(self, setting: Setting) -> dict[str, str]:
        """Return the server's own text of each rule, by the rule's name."""
        found, text = self._read_text(setting)
        texts = texts_of(text)
        if len(texts) != len(found.get("Rules", [])) or "\ufffd" in text:
            what = f"the rules of the {setting.value} are written in a way that mlsync cannot keep"
            raise errors.StoreBroken(what, where=self._location, advice="change them by the server's own tools")
        return texts

    def write_rules(self, setting: Setting, texts: Sequence[str], *, role: str | None = None) -> None:
        """Replace all rules by these, and the setting by none if there are none."""
        if not texts:
            self._call(_REMOVALS[setting], {"Bucket": self.bucket})
            return
        _, operation, name = _CALLS[setting]
        more: dict[str, object] = {}
        if setting is Setting.LIFECYCLE and (smallest := self.read(setting).get(_SMALLEST)):
            more[_SMALLEST] = smallest
        self._send_text(setting, operation, {name: {"Rules": []}, **more}, document_of(name, texts, role=role))

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _move_to(self, region: str) -> None:
        """Send further requests to the bucket's own region."""
        options = msgspec.structs.replace(self.client.options, region=region)
        self.client.close()
        self.client = Client(options, self._location)

    def _call(self, operation: str, arguments: Mapping[str, object]) -> Any:
        """Return the answer; ask again if what went wrong may pass. No store around this one does."""
        for wait_s in (*_WAITS_S, 0.0):
            try:
                with translating(self._location):
                    return self.client.call(operation, arguments)
            except errors.StoreError as error:
                if not wait_s or not self.client.is_transient(error):
                    raise
                time.sleep(wait_s)
        raise AssertionError  # the last try returned or raised

    def _policy(self, text: object) -> dict[str, Any]:
        if not text:
            return {}
        with suppress(ValueError):
            found = json.loads(str(text))
            if isinstance(found, dict):
                return found
        raise errors.StoreBroken("the bucket's policy is no JSON object", where=self._location)

    def _read_text(self, setting: Setting) -> tuple[dict[str, Any], str]:
        """Return the document, and as the server wrote it."""
        event = f"after-call.s3.{_OF_RULES[setting][0]}"
        bodies: list[bytes] = []

        def note(http_response: Any, **_more: object) -> None:
            bodies.append(http_response.content)

        events = self.client.botocore.meta.events
        events.register(event, note)
        try:
            found = self.read(setting)
        finally:
            events.unregister(event, note)
        return found, bodies[-1].decode("utf-8", "replace") if found and bodies else ""

    def _send_text(self, setting: Setting, operation: str, more: Mapping[str, object], text: str) -> None:
        event = f"before-sign.s3.{_OF_RULES[setting][1]}"
        body = text.encode()

        def exchange(request: Any, **_more: object) -> None:
            request.data = body
            for header in [one for one in request.headers if one.lower().startswith("x-amz-checksum")]:
                del request.headers[header]
            for header in ("x-amz-sdk-checksum-algorithm", "Content-MD5"):
                del request.headers[header]
            digest = hashlib.md5(body, usedforsecurity=False).digest()
            request.headers["Content-MD5"] = base64.b64encode(digest).decode()

        events = self.client.botocore.meta.events
        events.register(event, exchange)
        try:
            self._call(operation, {"Bucket": self.bucket, **more})
        finally:
            events.unregister(event, exchange)


def _code_behind(error: errors.StoreError) -> str:
    return code_of(error.__cause__) if isinstance(error.__cause__, ClientError) else ""


def lacks(error: errors.StoreError) -> bool:
    """Return whether the server says that it has no such setting at all."""
    cause = error.__cause__
    return isinstance(cause, ClientError) and (code_of(cause) in _LACKS or status_of(cause) in (405, 501))


def is_refused_value(error: errors.StoreError) -> bool:
    """Return whether the server took the request and refuses what it asks for."""
    cause = error.__cause__
    return lacks(error) or (isinstance(cause, ClientError) and status_of(cause) in (400, 409))
