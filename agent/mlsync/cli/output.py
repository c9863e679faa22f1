"""How results are printed: sizes, times, tables for people; one JSON value for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime

import click

from mlsync.source.paths import display

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP = 1024


def size(count_bytes: float) -> str:
    """Return a size as people read it."""
    unit = 0
    while abs(count_bytes) >= _STEP and unit < len(_UNITS) - 1:
        count_bytes /= _STEP
        unit += 1
    return f"{count_bytes:.0f} B" if unit == 0 else f"{count_bytes:.1f} {_UNITS[unit]}"


def moment(time_ns: int) -> str:
    """Return a moment in local time, to the second."""
    return datetime.fromtimestamp(time_ns // 10**9).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def iso(time_ns: int) -> str:
    """Return a moment as programs read it."""
    return datetime.fromtimestamp(time_ns / 1e9).astimezone().isoformat(timespec="milliseconds")


def path(raw: bytes) -> str:
    """Return a path so that it can be printed, whatever bytes it has."""
    return display(raw)


def level(number: int, required: int, device: str) -> str:
    """Return how far a version or file was proved, and whether that is what is required."""
    text = f"L{number}" + (f" {device}" if device else "")
    return text if number >= required else f"{text} (pending L{required})"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print aligned columns; the numbers of *right* name the columns of figures."""
    if not rows:
        return
    widths = [max(len(line[column]) for line in (headers, *rows)) for column in range(len(headers))]
    for line in (headers, *rows):
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def emit(value: object) -> None:
    """Print one JSON value."""
    json.dump(value, sys.stdout, ensure_ascii=True)
    sys.stdout.write("\n")
    sys.stdout.flush()
