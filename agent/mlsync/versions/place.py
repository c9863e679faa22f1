"""Read ``VERSION:PATH``, as commands take a path of a version."""

from __future__ import annotations

import os
from typing import NamedTuple

from mlsync.errors import ConfigInvalid
from mlsync.versions.select import ADVICE, is_version

_ADVICE = f"{ADVICE}; or VERSION:PATH on both sides, such as latest:checkpoint-500"


class Place(NamedTuple):
    """A version as it was written, and a path in it; ``None`` for all of it."""

    version: str
    path: bytes | None


def parse_place(text: str) -> Place:
    """Return what *text* names: a version if it is one, else the longest version before a colon, and the path behind.

    So a path may have colons, and ``./`` before it keeps one that looks like a part of a time apart from the version.
    Raises ``ConfigInvalid`` if there is no version, or no path behind the colon.
    """
    if is_version(text):
        return Place(text, None)
    at = text.rfind(":")
    while at != -1:
        version, path = text[:at], text[at + 1 :]
        if is_version(version):
            if not path:
                raise ConfigInvalid(f"no path behind {text!r}", advice=f"{version}:. is the whole directory")
            return Place(version, os.fsencode(path))
        at = text.rfind(":", 0, at)
    raise ConfigInvalid(f"not a version: {text!r}", advice=_ADVICE)
