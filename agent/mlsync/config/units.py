"""Lengths of time and amounts of memory as people write them in a configuration: ``90s``, ``1h30m``, ``512MiB``."""

from __future__ import annotations

import re

_SECONDS_PER = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PIECE = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")
_BYTES_PER = {"MiB": 1 << 20, "GiB": 1 << 30, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(MiB|GiB|MB|GB)")
DURATION = 'a length of time like "500ms", "2s", "30m", "1h30m" or "1d"'
SIZE = 'an amount of memory like "512MiB" or "1.5GiB"'


def parse_duration(text: str) -> float:
    """Return the seconds that *text* says; raise ``ValueError`` if it is no length of time."""
    rest, total_s = text.strip(), 0.0
    if not rest:
        raise ValueError(DURATION)
    while rest:
        piece = _PIECE.match(rest)
        if piece is None:
            raise ValueError(DURATION)
        total_s += float(piece[1]) * _SECONDS_PER[piece[2]]
        rest = rest[piece.end() :]
    return total_s


def parse_size(value: object) -> int:
    """Return the bytes that *value* says; raise ``ValueError`` if it is no amount of memory."""
    size = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if size is None:
        raise ValueError(SIZE)
    return int(float(size[1]) * _BYTES_PER[size[2]])


def format_age(age_s: float) -> str:
    """Return how long ago something was, in the largest unit that fits."""
    for unit, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if age_s >= unit:
            return f"{int(age_s // unit)} {name} ago"
    return "less than a minute ago"
