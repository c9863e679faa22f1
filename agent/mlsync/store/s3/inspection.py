"""What a bucket is set to, for whoever examines it: who may read it, versions, object lock, lifecycle, the clock.

Nothing here writes. Each question is one or two requests, which need rights that no backup needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

from botocore import UNSIGNED
from botocore.exceptions import ClientError

from mlsync import errors
from mlsync.store.base import MARKER
from mlsync.store.location import bucket_and_prefix
from mlsync.store.options import StoreOptions
from mlsync.store.s3.client import Client, make_client
from mlsync.store.s3.errors import code_of, status_of, translating

_NOT_SET: Final = {
    "NoSuchLifecycleConfiguration",
    "ObjectLockConfigurationNotFoundError",
    "NoSuchObjectLockConfiguration",
    "NoSuchBucketPolicy",
}
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


class BucketInspection:
    """Asks a bucket what it is set to; every method raises a ``StoreError`` if the answer cannot be had."""

    def __init__(self, url: str, options: StoreOptions) -> None:
        self._bucket, self.prefix = bucket_and_prefix(url)
        self._location = url
        self._client = Client(options, url)

    def ahead_s(self, wall: Callable[[], float] = time.time) -> float:
        """Return how far the server's clock is ahead of this machine's, to a second or two."""
        before_s = wall()
        answer = self._ask("list_objects_v2", Prefix=self.prefix, MaxKeys=1)
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
            self._ask("list_objects_v2", Prefix=self.prefix, MaxKeys=1)
        client = make_client(self._client.options, self._location)
        client.meta.events.register_first("choose-signer.s3", lambda **_more: UNSIGNED)
        key = f"{self.prefix}/{MARKER}".lstrip("/")
        asked: Mapping[str, tuple[str, dict[str, object]]] = {
            "list": ("list_objects_v2", {"Prefix": self.prefix, "MaxKeys": 1}),
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
        return self._ask("get_bucket_versioning").get("Status") == "Enabled"

    def lock(self) -> str | None:
        """Return how long new objects are locked, in words, or ``None``; empty where a lock is on without a rule."""
        found = self._setting("get_object_lock_configuration").get("ObjectLockConfiguration", {})
        if found.get("ObjectLockEnabled") != "Enabled":
            return None
        rule = found.get("Rule", {}).get("DefaultRetention", {})
        if not rule:
            return ""
        span = f"{rule['Days']} days" if rule.get("Days") else f"{rule.get('Years')} years"
        return f"{span}, mode {rule.get('Mode')}"

    def lifecycle(self) -> list[LifecycleRule]:
        """Return the enabled rules of the bucket's lifecycle that delete or move current objects."""
        rules = self._setting("get_bucket_lifecycle_configuration").get("Rules", [])
        found = [_rule(rule) for rule in rules if rule.get("Status") == "Enabled"]
        return [rule for rule in found if rule.expires or rule.moves]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _setting(self, operation: str) -> Mapping[str, Any]:
        """Return what is set, empty if nothing is."""
        with translating(self._location):
            try:
                answer: Mapping[str, Any] = self._client.call(operation, {"Bucket": self._bucket})
            except ClientError as error:
                if code_of(error) in _NOT_SET:
                    return {}
                raise
        return answer

    def _ask(self, operation: str, **more: object) -> Mapping[str, Any]:
        with translating(self._location):
            answer: Mapping[str, Any] = self._client.call(operation, {"Bucket": self._bucket, **more})
        return answer


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


def _when(rule: Mapping[str, Any]) -> str:
    return f"on {rule['Date']}" if rule.get("Date") else f"after {rule.get('Days', 0)} days"
