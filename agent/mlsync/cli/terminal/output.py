"""How results are printed: sizes, times, tables for people; one JSON value for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

import click

from mlsync.app.wording import count, size
from mlsync.app.wrapping import COLUMNS, GLUE, HANG, encodable, message, printable, terminal_width, wrap
from mlsync.source.paths import display

if TYPE_CHECKING:
    from mlsync.cli.terminal.table import TextTable

__all__ = [
    "ReaderGone",
    "count",
    "iso",
    "level",
    "message",
    "moment",
    "not_loading",
    "number_name",
    "path",
    "print_table",
    "printable",
    "say",
    "say_line",
    "say_wrapped",
    "size",
    "table",
    "tell",
    "width",
    "zone",
    "zoned",
]

_HEADING_CHARS: Final = 18
_NAME_CHARS: Final = 40
_ENDLESS: Final = sys.maxsize


class ReaderGone(Exception):
    """Nobody reads stdout any more, as with ``| head``."""


def moment(time_ns: int) -> str:
    """Return a moment in local time, to the second."""
    return _local(time_ns).strftime("%Y-%m-%d %H:%M:%S")


def zone(times_ns: Iterable[int]) -> str:
    """Return the name of the local time zone at these moments: two names where clocks were changed between them."""
    return "/".join(dict.fromkeys(_local(time_ns).tzname() or "local" for time_ns in times_ns)) or "local"


def zoned(time_ns: int) -> str:
    """Return a moment in local time, to the second, with its time zone, as one word to ``say_wrapped``."""
    return f"{moment(time_ns)} {zone((time_ns,))}".replace(" ", GLUE)


def _local(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns // 10**9).astimezone()


def iso(time_ns: int) -> str:
    """Return a moment in ISO 8601, to the millisecond."""
    whole = datetime.fromtimestamp(time_ns // 10**9).astimezone()
    return whole.replace(microsecond=time_ns % 10**9 // 1000).isoformat(timespec="milliseconds")


def path(raw: bytes) -> str:
    """Return a path in a form that can be printed, whatever bytes it has."""
    return display(raw)


def number_name(name: str, *, is_heading: bool = False) -> str:
    """Return what a number is called in a table: cut short, and in the heading of a column the last part of it."""
    shown = printable((is_heading and name.rpartition("/")[2]) or name)
    most = _HEADING_CHARS if is_heading else _NAME_CHARS
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def level(number: int, device: str, pending: int | None) -> str:
    """Return the level that a version or file was proved to, and the level that is still *pending*, if one is."""
    text = f"L{number}" + (f" {device}" if device else "")
    return text if pending is None else f"{text} (pending L{pending})"


def say(text: str = "") -> None:
    """Print a line of the result."""
    try:
        click.echo(encodable(printable(text), sys.stdout))
    except BrokenPipeError:
        raise _reader_gone() from None


def say_line(text: str) -> None:
    """Print a line that a program reads: exactly, in UTF-8; on a terminal as ``say`` does."""
    if sys.stdout.isatty():
        say(text)
        return
    try:
        click.echo(text.encode())
    except BrokenPipeError:
        raise _reader_gone() from None


def say_wrapped(text: str, *, first: str = "", rest: str = HANG) -> None:
    """Print a sentence of the result: broken at blanks if stdout is a terminal, else on one line."""
    columns = terminal_width(sys.stdout) if sys.stdout.isatty() else _ENDLESS
    # GLUE stays until the lines are broken.
    for line in wrap(GLUE.join(map(printable, text.split(GLUE))), columns, first=first, rest=rest):
        say(line)


def tell(text: str) -> None:
    """Print a message on stderr, in the lines of ``message``."""
    click.echo(message(text, sys.stderr), err=True)


def width() -> int:
    """Return how many columns tables have: those of the terminal, or 100 where stdout is none.

    ``COLUMNS`` in the environment overrides both.
    """
    if os.environ.get("COLUMNS", "").isdecimal() or sys.stdout.isatty():
        return terminal_width(sys.stdout)
    return COLUMNS


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print aligned columns, without empty ones; *right* lists the numbers of those that are right-aligned."""
    from mlsync.cli.terminal.table import TextTable  # late: most commands print none

    made = TextTable(headers, right)
    for row in rows:
        made.row(*row)
    print_table(made)


def print_table(made: TextTable) -> None:
    """Print a table, its remarks beside its rows if there is room for them."""
    for line in made.lines(width()):
        say(line)


def not_loading(number: int) -> str:
    """Return how many checkpoints do not load, as an error says it."""
    return "1 checkpoint does not load" if number == 1 else f"{number} checkpoints do not load"


def _reader_gone() -> ReaderGone:
    # Python flushes stdout once more at exit, which would fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ReaderGone()
