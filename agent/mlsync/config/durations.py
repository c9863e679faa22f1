"""Lengths of time as people write them in a configuration: ``90s``, ``1.5h``, ``1d``."""

from __future__ import annotations

import re

_SECONDS_PER = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PIECE = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")
ALLOWED = 'a length of time like "500ms", "2s", "30m", "1h30m" or "1d"'


def parse_duration(text: str) -> float:
    """The seconds that *text* says; ``ValueError`` if it is no length of time."""
    rest, total_s = text.strip(), 0.0
    if not rest:
        raise ValueError(ALLOWED)
    while rest:
        piece = _PIECE.match(rest)
        if piece is None:
            raise ValueError(ALLOWED)
        total_s += float(piece[1]) * _SECONDS_PER[piece[2]]
        rest = rest[piece.end() :]
    return total_s


def format_age(age_s: float) -> str:
    """How long ago something was, in the largest fitting unit, never more exact than a glance needs."""
    for unit, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if age_s >= unit:
            return f"{int(age_s // unit)} {name} ago"
    return "less than a minute ago"
