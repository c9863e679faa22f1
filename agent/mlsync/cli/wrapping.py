"""Break text into lines at blanks, and never inside a word: a word that is longer than a line sticks out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

#: A blank at which no line is broken if what it joins fits on a line. No text that is printed has one of its own:
#: ``printable`` and ``source.paths.display`` escape it.
GLUE: Final = "\u00a0"


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

    The first line begins with *first*, the others with *rest*. Blanks at the beginning of *text* stay, all others count
    as one.
    """
    indent = text[: len(text) - len(text.lstrip(" "))]
    lines: list[str] = []
    line, is_empty = first + indent, True
    for word in _words(text, width - cells(rest)):
        if not is_empty and cells(line) + 1 + cells(word) > width:
            lines.append(line)
            line, is_empty = rest, True
        line += word if is_empty else f" {word}"
        is_empty = False
    return [one.replace(GLUE, " ").rstrip(" ") for one in (*lines, line)]


def _words(text: str, room: int) -> Iterable[str]:
    for word in text.split(" "):
        if cells(word) > room:
            yield from filter(None, word.split(GLUE))
        elif word:
            yield word
