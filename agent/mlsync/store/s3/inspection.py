"""What a bucket is set to, for whoever examines it: who may read it, versions, object lock, lifecycle, the clock.

Nothing here writes. Each question is one or two requests, which need rights that no backup needs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
from botocore import UNSIGNED
from botocore.exceptions import ClientError

from mlsync import errors
from mlsync.store.base import MARKER
from mlsync.store.options import StoreOptions
from mlsync.store.s3.account import Account
from mlsync.store.s3.client import Client, make_client
from mlsync.store.s3.errors import status_of, translating
from mlsync.store.s3.settings import BucketSettings, Setting, lacks

T = TypeVar("T")
_REFUSED: Final = (401, 403)
_NOT_FOUND: Final = 404
# Classes whose objects are read as any other.
_WARM: Final = {"STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY"}


@dataclass(frozen=True, slots=True)
class LifecycleRule:
    """An enabled rule of a bucket's lifecycle, and the begin of the keys that it is about.

    *expires* is when it deletes, and *moves* when and to which class it moves what then cannot be read at once; both in
    words, and empty if it does not.
    *is_narrow* says that it is about objects with certain tags or sizes alone.
    """

    name: str
    prefix: str
    expires: str = ""
    moves: str = ""
    is_narrow: bool = False


@dataclass(frozen=True, slots=True)
class ReplicationRule:
    """An enabled rule that copies new objects to another bucket."""

    name: str
    prefix: str
    bucket: str


class BucketInspection:
    """Asks a bucket what it is set to; every method raises a ``StoreError`` if the answer cannot be had."""

    def __init__(self, url: str, options: StoreOptions) -> None:
        self._settings = BucketSettings(url, options)
        self._bucket, self.prefix = self._settings.bucket, self._settings.prefix
        # As the store lists: the rights of these credentials may end at the prefix.
        self._below = f"{self.prefix}/" if self.prefix else ""
        self._location = url
        self._asked_region = options.region
        self._endpoint_url = options.endpoint_url

    @property
    def _client(self) -> Client:
        return self._settings.client

    def ahead_s(self, wall: Callable[[], float] = time.time) -> float:
        """Return how far the server's clock is ahead of this machine's, to a second or two."""
        before_s = wall()
        answer = self._ask("list_objects_v2", Prefix=self._below, MaxKeys=1)
        after_s = wall()
        text = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        try:
            date_s = parsedate_to_datetime(text).timestamp()
        except (TypeError, ValueError):
            raise errors.StoreBroken("the store's answers have no date", where=self._location) from None
        # The date has whole seconds, and was written somewhere between the two.
        return date_s - min(max(date_s, before_s - 1), after_s)

    def open_to_all(self) -> list[str]:
        """Return what anybody may do without credentials: ``list``, ``read``."""
        # Signed and first: it finds out where the bucket's name has to be, whether it is allowed or not.
        with suppress(errors.StoreDenied):
            self._ask("list_objects_v2", Prefix=self._below, MaxKeys=1)
        client = make_client(self._client.options, self._location)
        client.meta.events.register_first("choose-signer.s3", lambda **_more: UNSIGNED)
        key = self._below + MARKER
        asked: Mapping[str, tuple[str, dict[str, object]]] = {
            "list": ("list_objects_v2", {"Prefix": self._below, "MaxKeys": 1}),
            "read": ("head_object", {"Key": key}),
        }
        try:
            return [right for right, (operation, more) in asked.items() if self._is_open(client, operation, more)]
        finally:
            client.close()

    def _is_open(self, client: Any, operation: str, more: Mapping[str, object]) -> bool:
        with translating(self._location):
            try:
                getattr(client, operation)(Bucket=self._bucket, **more)
            except ClientError as error:
                # Not found is what S3 says only to whoever may list; and a server may hide what it refuses.
                if status_of(error) in (*_REFUSED, _NOT_FOUND):
                    return False
                raise
        return True

    def keeps_versions(self) -> bool:
        """Return whether an overwritten or deleted object stays as a noncurrent version."""
        return self._read(Setting.VERSIONS).get("Status") == "Enabled"

    def lock(self) -> str | None:
        """Return how long new objects are locked, in words, or ``None``; empty where a lock is on without a rule."""
        found = self._read(Setting.LOCK)
        if found.get("ObjectLockEnabled") != "Enabled":
            return None
        rule = (found.get("Rule") or {}).get("DefaultRetention") or {}
        if not rule:
            return ""
        span = f"{rule['Days']} days" if rule.get("Days") else f"{rule.get('Years')} years"
        return f"{span}, mode {rule.get('Mode')}"

    def lifecycle(self) -> list[LifecycleRule]:
        """Return the enabled rules of the bucket's lifecycle that delete or move current objects."""
        return lifecycle_rules(self._read(Setting.LIFECYCLE))

    def encryption(self) -> tuple[str, str]:
        """Return how new objects are encrypted, and by which key of KMS; empty for none."""
        rules = self._read(Setting.ENCRYPTION).get("Rules") or [{}]
        found = rules[0].get("ApplyServerSideEncryptionByDefault") or {}
        return str(found.get("SSEAlgorithm") or ""), str(found.get("KMSMasterKeyID") or "")

    def key_fault(self, key: str) -> str | None:
        """Return why a key of KMS encrypts nothing, ``None`` if it does."""
        return self._with_account(lambda account: account.key_fault(key, self.region()))

    def replication(self) -> list[ReplicationRule]:
        """Return the enabled rules that copy objects of the repository to another bucket."""
        rules = self._read(Setting.REPLICATION).get("Rules", [])
        found = [_replication_rule(rule) for rule in rules if rule.get("Status") == "Enabled"]
        return [one for one in found if f"{self.prefix}/".lstrip("/").startswith(one.prefix)]

    def other(self, bucket: str) -> BucketInspection:
        """Return who asks another bucket of the same server."""
        options = msgspec.structs.replace(self._client.options, region=None, endpoint_url=self._endpoint_url)
        found = BucketInspection(f"s3://{bucket}/{self.prefix}".rstrip("/"), options)
        found.region()
        return found

    def region(self) -> str:
        """Return where the bucket is; further requests go there."""
        found = self._settings.region()
        if found is None:
            raise errors.StoreLocationInvalid("there is no such bucket", where=self._location)
        return found

    def wrong_region(self) -> str | None:
        """Return where the bucket is if another region was asked for, else ``None``."""
        found = self.region() if self._asked_region and self._is_aws() else None
        return found if found != self._asked_region else None

    def is_anothers(self) -> bool:
        """Return whether the bucket is another account's than these credentials."""
        if not self._is_aws():
            return False
        number = self._with_account(lambda account: account.number())
        return not self._settings.belongs_to(number)

    def close(self) -> None:
        """Close the connections."""
        self._settings.close()

    def _is_aws(self) -> bool:
        """Return whether the server is AWS, whose account numbers and regions mean something."""
        host = urlsplit(self._endpoint_url or "").hostname or "amazonaws.com"
        return re.fullmatch(r"(.*\.)?amazonaws\.com(\.cn)?", host) is not None

    def _with_account(self, ask: Callable[[Account], T]) -> T:
        account = Account(self._client.options, None if self._is_aws() else self._endpoint_url)
        try:
            return ask(account)
        finally:
            account.close()

    def _read(self, setting: Setting) -> Mapping[str, Any]:
        """Return what is set, empty if nothing is or the server has no such setting."""
        try:
            return self._settings.read(setting)
        except errors.StoreError as error:
            if lacks(error):
                return {}
            raise

    def _ask(self, operation: str, **more: object) -> Mapping[str, Any]:
        with translating(self._location):
            answer: Mapping[str, Any] = self._client.call(operation, {"Bucket": self._bucket, **more})
        return answer


def lifecycle_rules(document: Mapping[str, Any]) -> list[LifecycleRule]:
    """Return the enabled rules of a lifecycle that delete or move current objects."""
    found = [_rule(rule) for rule in document.get("Rules", []) if rule.get("Status") == "Enabled"]
    return [rule for rule in found if rule.expires or rule.moves]


def _rule(rule: Mapping[str, Any]) -> LifecycleRule:
    """Return a rule as the server told it; older servers have the prefix outside of the filter."""
    chosen = rule.get("Filter") or {}
    both = chosen.get("And") or {}
    prefix = rule.get("Prefix") or chosen.get("Prefix") or both.get("Prefix") or ""
    is_narrow = bool({"Tag", "ObjectSizeGreaterThan", "ObjectSizeLessThan"} & {*chosen} or {*both} - {"Prefix"})
    expiry = rule.get("Expiration") or {}
    # ExpiredObjectDeleteMarker removes only what nothing hides behind.
    expires = _when(expiry) if expiry.get("Days") or expiry.get("Date") else ""
    cold = [one for one in rule.get("Transitions") or () if one.get("StorageClass") not in _WARM]
    moves = ", ".join(f"to {one.get('StorageClass')} {_when(one)}" for one in cold)
    return LifecycleRule(str(rule.get("ID") or "without a name"), str(prefix), expires, moves, is_narrow)


def _replication_rule(rule: Mapping[str, Any]) -> ReplicationRule:
    chosen = rule.get("Filter") or {}
    prefix = rule.get("Prefix") or chosen.get("Prefix") or (chosen.get("And") or {}).get("Prefix") or ""
    target = str((rule.get("Destination") or {}).get("Bucket") or "").rpartition(":::")[2]
    return ReplicationRule(str(rule.get("ID") or "without a name"), str(prefix), target)


def _when(rule: Mapping[str, Any]) -> str:
    return f"on {rule['Date']}" if rule.get("Date") else f"after {rule.get('Days', 0)} days"
