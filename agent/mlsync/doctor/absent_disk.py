"""Whether a path that is not there belongs to a disk that is only not mounted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from mlsync.doctor.mounts import MOUNTS, mounts, plain

FSTAB: Final = Path("/etc/fstab")


def unmounted_at(path: Path, *, fstab: Path = FSTAB, mounted: Path = MOUNTS) -> str | None:
    """Return where ``fstab`` mounts what *path* would lie on, if nothing is mounted there."""
    try:
        fields = [line.split() for line in fstab.read_text("utf-8", "surrogateescape").splitlines()]
        there = {mount.place for mount in mounts(mounted.read_text("utf-8", "surrogateescape"))}
    except OSError:
        return None
    places = [plain(one[1]) for one in fields if len(one) > 1 and not one[0].startswith("#") and one[1] != "/"]
    above = {os.fspath(one) for one in (path, *path.parents)}
    wanted = [place for place in (one.rstrip("/") for one in places) if place in above and place not in there]
    return max(wanted, default=None)


def looks_unmounted(path: Path) -> bool:
    """Return whether the nearest directory that exists, at *path* or above it, is empty, as a bare mount point is.

    An empty disk that is mounted there is none.
    """
    for place in (path, *path.parents):
        try:
            with os.scandir(place) as entries:
                return next(entries, None) is None and not place.is_mount()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return False
