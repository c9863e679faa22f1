"""Which run a save is in that a training tells of, and who may tell: paths are compared and never looked up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mlsync.service.watching.trigger import RunPlace


def told_below(directory: Path, place: RunPlace | None, paths: Sequence[bytes]) -> bytes | None:
    """Return the first of *paths* that lies in the *directory*, relative to it; ``None`` if none does.

    Empty for the directory itself, for one above it, and without any path: then all of it is meant.
    """
    if not paths:
        return b""
    for root in {os.path.abspath(bytes(directory)), *(() if place is None else (place.path,))}:
        for path in map(os.path.normpath, paths):
            if path == root or root.startswith(path.rstrip(b"/") + b"/"):
                return b""
            if path.startswith(root.rstrip(b"/") + b"/"):
                return path[len(root.rstrip(b"/")) + 1 :]
    return None


def may_tell(place: RunPlace | None, uid: int | None) -> bool:
    """Return whether the user *uid* may speak for a run: its directory's owner, and root; ``None`` may for all."""
    return uid is None or uid == 0 or (place is not None and place.owner == uid)
