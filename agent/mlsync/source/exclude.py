"""The user's exclude patterns, as in ``.gitignore`` without negation."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from mlsync.errors import ConfigInvalid
from mlsync.source.glob import expression


class Excludes:
    """Patterns, compiled once. The scan excludes everything below an excluded directory."""

    def __init__(self, patterns: Sequence[str]) -> None:
        anything = [_translated(pattern) for pattern in patterns if not pattern.endswith("/")]
        directories = [_translated(pattern) for pattern in patterns]
        self._file = re.compile("|".join(anything)) if anything else None
        self._directory = re.compile("|".join(directories)) if directories else None

    def match(self, path: bytes, *, is_directory: bool) -> bool:
        """Return whether a pattern matches the relative *path*."""
        pattern = self._directory if is_directory else self._file
        # As text, so that "?" matches a character and not a byte; names that are no UTF-8 match too.
        return pattern is not None and pattern.fullmatch(os.fsdecode(path)) is not None


def _translated(pattern: str) -> str:
    glob = pattern.removesuffix("/")
    if not glob.strip("/"):
        raise ConfigInvalid(f"exclude pattern {pattern!r} is empty")
    if glob.startswith("!"):
        advice = "write '\\!' for a name that begins with '!'"
        raise ConfigInvalid(f"exclude pattern {pattern!r} negates", advice=advice)
    anywhere = "" if "/" in glob else "(?:.*/)?"
    return f"(?s:{anywhere}{expression(glob.removeprefix('/'))})"
