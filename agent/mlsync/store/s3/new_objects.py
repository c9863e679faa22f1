"""What each new object gets besides its bytes, as ``StoreOptions`` say it: encryption, class, tags, list, lock."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from mlsync.store.options import StoreOptions

PACKS: Final = "packs"
LOCK_MODES: Final = ("GOVERNANCE", "COMPLIANCE")
# Runs have such an id in the keys of what belongs to them; a pack may be of several runs, and has none.
_RUN_ID: Final = re.compile(r"[0-9a-f]{32}")
_OF_RUNS: Final = frozenset({"versions", "copies", "proofs", "evaluations", "decisions", "runs"})


class NewObjects:
    """Says with which arguments objects are created."""

    def __init__(self, options: StoreOptions, now_s: Callable[[], float] = time.time) -> None:
        self._options = options
        # By the server's clock: nobody could shorten a lock of years.
        self._now_s = now_s

    @property
    def lock_mode(self) -> str | None:
        """The mode in which new objects are locked, in S3's words; ``None`` if they are not."""
        lock = self._options.object_lock
        return None if lock is None else lock.mode.upper()

    def arguments(self, key: str) -> dict[str, Any]:
        """Return what a put, or the begin of a multipart upload, of *key* says besides names and body."""
        options = self._options
        class_name = options.storage_class if kind_of(key) == PACKS else options.storage_class_others
        found: dict[str, Any] = {
            "ServerSideEncryption": options.sse,
            "SSEKMSKeyId": options.kms_key_id,
            "BucketKeyEnabled": options.bucket_key,
            "StorageClass": class_name,
            "ACL": options.acl,
        }
        if options.tags is not None:
            found["Tagging"] = urlencode(tags_of(key, options.tags))
        if options.object_lock is not None:
            found["ObjectLockMode"] = self.lock_mode
            until_s = self._now_s() + options.object_lock.period_s
            found["ObjectLockRetainUntilDate"] = datetime.fromtimestamp(until_s, UTC)
        return {name: value for name, value in found.items() if value is not None}


def locked_until_s(head: Mapping[str, Any]) -> float:
    """Return until when an object is locked as a HEAD shows it, in seconds since 1970; 0 if it shows no lock."""
    until = head.get("ObjectLockRetainUntilDate")
    return float(until.timestamp()) if isinstance(until, datetime) else 0.0


def kind_of(key: str) -> str:
    """Return what kind of object *key* names: its first part, as ``packs``."""
    return key.partition("/")[0]


def tags_of(key: str, tags: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Return the tags of a new object: the user's, its kind, and the run's id if the key has one.

    They tell the store nothing that the key does not tell it.
    """
    kind = kind_of(key)
    found = {**dict(tags), "mlsync-kind": kind}
    run = key.split("/")[1] if kind in _OF_RUNS and "/" in key else ""
    return found | ({"mlsync-run": run} if _RUN_ID.fullmatch(run) else {})
