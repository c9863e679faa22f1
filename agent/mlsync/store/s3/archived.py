"""Archived objects: the server lists them, and cannot read them until somebody requests their restore."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# Not GLACIER_IR, which is read like any other class.
_ARCHIVE_CLASSES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_RESTORED: Final = 'ongoing-request="false"'


def is_archive_class(entry: Mapping[str, Any]) -> bool:
    """Return whether the object's storage class is an archive; the object may be restored for a while."""
    return entry.get("StorageClass") in _ARCHIVE_CLASSES


def is_archived_entry(entry: Mapping[str, Any]) -> bool:
    """Return whether an object of a listing cannot be read now, as far as the listing says."""
    status = entry.get("RestoreStatus")
    return is_archive_class(entry) and (not status or bool(status.get("IsRestoreInProgress")))


def is_archived_head(answer: Mapping[str, Any]) -> bool:
    """Return whether an object cannot be read now, as the answer to a HEAD says."""
    is_archived = is_archive_class(answer) or "ArchiveStatus" in answer  # INTELLIGENT_TIERING archives by itself
    return is_archived and _RESTORED not in str(answer.get("Restore", ""))
