"""The line of a key in a TOML text, which ``tomllib`` does not report."""

from __future__ import annotations

import re
from collections.abc import Iterator

KeyPath = tuple[str | int, ...]

_HEADER = re.compile(r"\s*(\[\[|\[)\s*(?P<name>[^\[\]]+?)\s*(\]\]|\])\s*(#.*)?$")
_ASSIGNMENT = re.compile(
    r"""\s*(?P<key>(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


def line_of(text: str, path: KeyPath) -> int:
    """Return the line, from 1, that sets *path*; for an inline table that of the nearest table around it."""
    best_line, best_length = 1, 0
    for line, found in _paths(text):
        length = _common_length(found, path)
        if length == len(found) and length > best_length:
            best_line, best_length = line, length
    return best_line


def _paths(text: str) -> Iterator[tuple[int, KeyPath]]:
    """Yield every table header and key of *text* with its line; array tables have their index, as ``("watch", 1)``."""
    table: KeyPath = ()
    seen: dict[str, int] = {}
    inside: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if inside is not None:
            # A line of a multi-line string may look like a header or key, but is neither.
            if inside in line:
                inside = None
            continue
        if header := _HEADER.match(line):
            table = _split(header["name"])
            if header[1] == "[[":
                name = ".".join(map(str, table))
                seen[name] = seen.get(name, -1) + 1
                table = (*table, seen[name])
            elif table and table[0] in seen:
                # A table within the last one of an array: [watch.retention] belongs to the [[watch]] above it.
                table = (table[0], seen[str(table[0])], *table[1:])
            yield number, table
        elif assignment := _ASSIGNMENT.match(line):
            yield number, table + _split(assignment["key"])
            inside = _left_open(line[assignment.end() :])


def _split(dotted: str) -> KeyPath:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _left_open(value: str) -> str | None:
    """Return the quotes of a multi-line string that begins in *value* and does not end there."""
    for quotes in ('"""', "'''"):
        if value.count(quotes) % 2:
            return quotes
    return None


def _common_length(found: KeyPath, wanted: KeyPath) -> int:
    length = 0
    for mine, theirs in zip(found, wanted, strict=False):
        if mine != theirs:
            break
        length += 1
    return length
