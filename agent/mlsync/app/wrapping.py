"""Break text into lines at blanks, and never inside a word: a word that is longer than a line sticks out.

How wide a terminal is, and what can be printed on it, is known here too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import Final, TextIO

#: A blank at which no line is broken if what it joins fits on a line. No text that is printed has one of its own:
#: ``printable`` and ``source.paths.display`` escape it.
GLUE: Final = "\u00a0"
#: What lines after a message's first one begin with.
HANG: Final = "  "
#: Of a pipe or a file, whose lines should not depend on where they are made.
COLUMNS: Final = 100
# A line has room for a size and a time, however narrow the terminal says that it is.
_COLUMNS_MIN: Final = 40
_COLUMNS_MAX: Final = 1000
_WORD: Final = re.compile("( *)([^ ]+)")


def cells(text: str) -> int:
    """Return how many columns of a terminal *text* takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # late: most text is ASCII

    return cell_len(text)


def printable(text: str) -> str:
    """Return *text* without control characters: names and findings come from hostile checkpoints."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)


def glued(text: str) -> str:
    """Return *text* as one word."""
    return text.replace(" ", GLUE)


def joined(items: Iterable[str], separator: str = ", ") -> str:
    """Return a list in words, whose items are not broken if they fit on a line."""
    return separator.join(map(glued, items))


def wrap(text: str, width: int, *, first: str = "", rest: str = "") -> list[str]:
    """Return *text* in lines of at most *width* columns, except where a word is longer than that.

    The first line begins with *first*, the others with *rest*. Blanks stay, except where a line is broken.
    """
    lines: list[str] = []
    line, is_empty = first, True
    for blanks, word in _words(text, width - cells(rest)):
        if is_empty or cells(line) + len(blanks) + cells(word) <= width:
            line += blanks + word
        else:
            lines.append(line)
            line = rest + word
        is_empty = False
    return [one.replace(GLUE, " ").rstrip(" ") for one in (*lines, line)]


def _words(text: str, room: int) -> Iterator[tuple[str, str]]:
    """Yield each word with the blanks before it; what is glued is one word if it fits into *room* columns."""
    for blanks, word in _WORD.findall(text):
        if GLUE in word and cells(word) > room:
            parts = _WORD.findall(word.replace(GLUE, " "))
            yield from ((blanks + gap if number == 0 else gap, part) for number, (gap, part) in enumerate(parts))
        else:
            yield blanks, word


def message(text: str, stream: TextIO) -> str:
    """Return a message as it is printed on *stream*: broken at blanks if that is a terminal, else on one line."""
    line = encodable(printable(text), stream)
    return "\n".join(wrap(line, terminal_width(stream), rest=HANG)) if stream.isatty() else line


def terminal_width(stream: TextIO) -> int:
    """Return the columns that ``COLUMNS`` or else the terminal has."""
    given = os.environ.get("COLUMNS", "")
    columns = int(given) if given.isdecimal() and len(given) <= len(str(_COLUMNS_MAX)) else 0
    if not columns:
        try:
            columns = os.get_terminal_size(stream.fileno()).columns
        except OSError:
            columns = 0
    # A terminal that knows no size says 0.
    return min(max(columns or COLUMNS, _COLUMNS_MIN), _COLUMNS_MAX)


def encodable(text: str, stream: TextIO) -> str:
    """Return *text* with escapes for letters that the stream's encoding lacks, as where ``LC_ALL`` is not UTF-8."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
