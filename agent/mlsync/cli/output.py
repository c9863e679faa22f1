"""How results are printed: sizes, times, tables for people; one JSON value for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import datetime

import click

from mlsync.app.wording import count, size
from mlsync.source.paths import display

__all__ = [
    "ReaderGone",
    "count",
    "iso",
    "level",
    "moment",
    "not_loading",
    "path",
    "printable",
    "say",
    "size",
    "table",
]


class ReaderGone(Exception):
    """Nobody reads stdout any more, as with ``| head``."""


def moment(time_ns: int) -> str:
    """Return a moment in local time, to the second."""
    return datetime.fromtimestamp(time_ns // 10**9).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def iso(time_ns: int) -> str:
    """Return a moment in ISO 8601, to the millisecond."""
    whole = datetime.fromtimestamp(time_ns // 10**9).astimezone()
    return whole.replace(microsecond=time_ns % 10**9 // 1000).isoformat(timespec="milliseconds")


def path(raw: bytes) -> str:
    """Return a path in a form that can be printed, whatever bytes it has."""
    return display(raw)


def level(number: int, device: str, pending: int | None) -> str:
    """Return the level that a version or file was proved to, and the level that is still *pending*, if one is."""
    text = f"L{number}" + (f" {device}" if device else "")
    return text if pending is None else f"{text} (pending L{pending})"


def printable(text: str) -> str:
    """Return *text* without control characters: names and findings come from hostile checkpoints."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)


def say(text: str = "") -> None:
    """Print a line of the result."""
    try:
        click.echo(printable(text))
    except BrokenPipeError:
        raise _reader_gone() from None


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print aligned columns, without empty ones; *right* lists the numbers of those that are right-aligned."""
    from rich.cells import cell_len  # late: only tables need it; some letters are two columns wide

    shown = [column for column in range(len(headers)) if any(row[column] for row in rows)]
    widths = {column: max(cell_len(line[column]) for line in (headers, *rows)) for column in shown}
    for line in (headers, *rows):
        cells = []
        for column in shown:
            blanks = " " * (widths[column] - cell_len(line[column]))
            cells.append(blanks + line[column] if column in right else line[column] + blanks)
        say("  ".join(cells).rstrip())


def not_loading(number: int) -> str:
    """Return how many checkpoints do not load, as an error says it."""
    return "1 checkpoint does not load" if number == 1 else f"{number} checkpoints do not load"


def _reader_gone() -> ReaderGone:
    # Python flushes stdout once more at exit, which would fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ReaderGone()
