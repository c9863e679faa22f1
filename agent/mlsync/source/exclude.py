"""The user's exclude patterns, as in ``.gitignore`` without negation."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from mlsync.errors import ConfigInvalid


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
    return f"(?s:{anywhere}{_expression(glob.removeprefix('/'))})"


def _expression(glob: str) -> str:
    out, at = [], 0
    while at < len(glob):
        starts_part = at == 0 or glob[at - 1] == "/"
        if starts_part and glob.startswith("**/", at):
            out.append("(?:.*/)?")
            at += 3
        elif starts_part and glob[at:] == "**":
            out.append(".+")
            at += 2
        else:
            expression, at = _one(glob, at)
            out.append(expression)
    return "".join(out)


def _one(glob: str, at: int) -> tuple[str, int]:
    """Translate the pattern at *at*; return the expression and the next position."""
    character = glob[at]
    if character == "*":
        return "[^/]*", at + 1
    if character == "?":
        return "[^/]", at + 1
    if character == "\\" and at + 1 < len(glob):
        return re.escape(glob[at + 1]), at + 2
    if character == "[":
        end = glob.find("]", at + (3 if glob[at + 1 : at + 2] in ("!", "^") else 2))
        if end > 0:
            return _character_class(glob[at + 1 : end]), end + 1
    return re.escape(character), at + 1


def _character_class(inside: str) -> str:
    negated = inside[0] in "!^"
    members = inside[1:] if negated else inside
    members = re.sub(r"([\\\[\]^&~|])", r"\\\1", members)
    try:
        re.compile(f"[{members}]")
    except re.error as error:
        raise ConfigInvalid(f"exclude pattern has a bad character class [{inside}]") from error
    return f"(?!/)[{'^' if negated else ''}{members}]"
