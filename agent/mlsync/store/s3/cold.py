"""Objects in cold storage: they are listed and have a size, and cannot be read until somebody has them thawed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# GLACIER_IR is read like any other class.
_COLD: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_THAWED: Final = 'ongoing-request="false"'


def is_cold(entry: Mapping[str, Any]) -> bool:
    """Whether an object of a listing lies in a class that is not read from; it may be thawed for a while."""
    return entry.get("StorageClass") in _COLD


def is_archived_entry(entry: Mapping[str, Any]) -> bool:
    """Whether an object of a listing cannot be read now, as far as the listing tells."""
    thawing = entry.get("RestoreStatus")
    return is_cold(entry) and (not thawing or bool(thawing.get("IsRestoreInProgress")))


def is_archived_head(answer: Mapping[str, Any]) -> bool:
    """Whether an object cannot be read now, as the answer to a HEAD tells."""
    is_deep = is_cold(answer) or "ArchiveStatus" in answer  # of INTELLIGENT_TIERING, which archives on its own
    return is_deep and _THAWED not in str(answer.get("Restore", ""))
