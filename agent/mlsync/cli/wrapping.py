"""Break text into lines at blanks, and never inside a word: a word that is longer than a line sticks out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

#: A blank at which no line is broken if what it joins fits on a line. No text that is printed has one of its own:
#: ``printable`` and ``source.paths.display`` escape it.
GLUE: Final = "\u00a0"
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
