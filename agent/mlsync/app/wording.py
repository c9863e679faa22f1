"""Sizes and counts in words for people: in the log, in results and in tables."""

from __future__ import annotations

from collections.abc import Sequence

# How each notice begins that says that a request to the store failed and is made again.
STORE_WAITS = "store: "
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP = 1024


def size(count_bytes: float) -> str:
    """Return a size in binary units."""
    return f"{scaled(count_bytes, count_bytes)} {_UNITS[_unit_of(count_bytes)]}"


def scaled(count_bytes: float, whole_bytes: float) -> str:
    """Return the number of a size in the unit that ``size`` takes for *whole_bytes*."""
    unit = _unit_of(whole_bytes)
    return f"{count_bytes / _STEP**unit:.{1 if unit else 0}f}"


def _unit_of(count_bytes: float) -> int:
    unit = 0
    while abs(count_bytes) >= _STEP and unit < len(_UNITS) - 1:
        count_bytes /= _STEP
        unit += 1
    return unit


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural if it takes one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(parts: Sequence[str]) -> str:
    """Return *parts* as one enumeration."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
