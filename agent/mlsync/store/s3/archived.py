"""Storage classes: what a server says of an object's, which cannot be read at once, and when rules move objects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

from mlsync.store.base import ObjectInfo

# Not GLACIER_IR, which is read like any other class.
_ARCHIVE_CLASSES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_ONGOING: Final = 'ongoing-request="true"'
_RESTORED: Final = 'ongoing-request="false"'
_EXPIRY: Final = re.compile(r'expiry-date="([^"]+)"')


def is_archive_class(entry: Mapping[str, Any]) -> bool:
    """Return whether the object's storage class is an archive; the object may be restored for a while."""
    return entry.get("StorageClass") in _ARCHIVE_CLASSES


def info_of_entry(key: str, entry: Mapping[str, Any]) -> ObjectInfo:
    """Return what an entry of a listing says, which may lack whether the object is thawed."""
    status = entry.get("RestoreStatus") or {}
    is_thawing = bool(status.get("IsRestoreInProgress"))
    expiry = status.get("RestoreExpiryDate")
    return ObjectInfo(
        key,
        entry["Size"],
        entry["LastModified"].timestamp(),
        is_archive_class(entry) and (not status or is_thawing),
        str(entry.get("StorageClass") or ""),
        is_thawing,
        None if expiry is None or is_thawing else expiry.timestamp(),
    )


def info_of_head(key: str, answer: Mapping[str, Any]) -> ObjectInfo:
    """Return what the answer to a HEAD says."""
    storage_class = str(answer.get("StorageClass") or "")
    # INTELLIGENT_TIERING archives by itself, and no listing says which objects.
    archive = str(answer.get("ArchiveStatus") or "")
    restore = str(answer.get("Restore") or "")
    is_archived = (is_archive_class(answer) or bool(archive)) and _RESTORED not in restore
    return ObjectInfo(
        key,
        answer["ContentLength"],
        answer["LastModified"].timestamp(),
        is_archived,
        f"{storage_class or 'INTELLIGENT_TIERING'}/{archive}" if archive else storage_class,
        is_archived and _ONGOING in restore,
        _expiry_s(restore),
    )


def _expiry_s(restore: str) -> float | None:
    """Return when the thawed copy goes away, as the header ``x-amz-restore`` says."""
    found = _EXPIRY.search(restore)
    if found is None or _RESTORED not in restore:
        return None
    try:
        return parsedate_to_datetime(found[1]).timestamp()
    except ValueError:
        return None


def days_to_class(rules: Iterable[Mapping[str, Any]], prefix: str) -> dict[str, int]:
    """Return after how many days lifecycle *rules* move all objects under *prefix* to which class; the latest counts.

    A rule for some of the objects alone, by their tags or sizes, counts as one for all: it moves none of them earlier.
    """
    days: dict[str, int] = {}
    for rule in rules:
        chosen = rule.get("Filter") or {}
        both = chosen.get("And") or {}
        begin = rule.get("Prefix") or chosen.get("Prefix") or both.get("Prefix") or ""
        if rule.get("Status") != "Enabled" or not prefix.startswith(begin):
            continue
        for move in rule.get("Transitions") or []:
            if "Days" in move and "StorageClass" in move:
                days[move["StorageClass"]] = max(days.get(move["StorageClass"], 0), int(move["Days"]))
    return days
