"""Which mount a path lies on, by the kernel's list of mounts."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/proc/self/mountinfo")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
# Fields before the optional ones, and after the dash that ends those.
_FIELDS_BEFORE, _FIELDS_AFTER = 6, 2


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount: where, of which kind, from what *source*; *number* is the device's, as in ``/sys/dev/block``."""

    place: str
    kind: str
    source: str
    number: str


def mounts(text: str) -> list[Mount]:
    """Return the mounts that a ``mountinfo`` lists; a line that does not parse is left out."""
    found: list[Mount] = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        first, last = before.split(" "), after.split(" ")
        if dash and len(first) >= _FIELDS_BEFORE and len(last) >= _FIELDS_AFTER:
            found.append(Mount(plain(first[4]), last[0], plain(last[1]), first[2]))
    return found


def mount_of(path: Path, listed: list[Mount]) -> Mount | None:
    """Return the mount that *path*, or the nearest directory above it that exists, lies on."""
    # With "strict" unset a path that does not exist yet resolves as far as it can.
    words = os.path.realpath(path)
    best: Mount | None = None
    for mount in listed:
        inside = words == mount.place or words.startswith(mount.place.rstrip("/") + "/")
        # Of two mounts at one place the later one covers the earlier.
        if inside and (best is None or len(mount.place) >= len(best.place)):
            best = mount
    return best


def plain(text: str) -> str:
    """Return the words of a field in which blanks and the like are octal."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
