"""Sizes and counts in words for people: in the log, in results and in tables."""

from __future__ import annotations

from collections.abc import Sequence

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP = 1024


def size(count_bytes: float) -> str:
    """Return a size in binary units."""
    unit = 0
    while abs(count_bytes) >= _STEP and unit < len(_UNITS) - 1:
        count_bytes /= _STEP
        unit += 1
    return f"{count_bytes:.0f} B" if unit == 0 else f"{count_bytes:.1f} {_UNITS[unit]}"


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural if it takes one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(parts: Sequence[str]) -> str:
    """Return *parts* as one enumeration."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
