"""Small plots in a terminal: curves of dots in Braille characters, or of stars where these cannot be written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

Point: TypeAlias = tuple[float, float]
# The bits of the dots in a Braille character, by row and column
_DOTS: Final = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BRAILLE: Final = 0x2800
# Numbers that can be subtracted and divided; and of a range that is none, the part of its numbers that it is.
_MOST, _LEAST_PART = 1e300, 1e-12


class Style(NamedTuple):
    """The characters of a plot: its left side, a labelled row of it, corner, bottom, and the mark of a version."""

    side: str
    tick: str
    corner: str
    bottom: str
    mark: str
    dots: tuple[int, int]


BRAILLE: Final = Style("│", "┤", "└", "─", "┴", (2, 4))
PLAIN: Final = Style("|", "+", "+", "-", "^", (1, 1))


@dataclass(frozen=True, slots=True)
class NumberRange:
    """The numbers from *low* to *high*, which are finite; of a single one, a bit more to both sides."""

    low: float
    high: float

    @classmethod
    def over(cls, numbers: Iterable[float]) -> NumberRange:
        """Return the range of some numbers; those beyond all measure are at its ends."""
        found = [min(max(number, -_MOST), _MOST) for number in numbers if math.isfinite(number)] or [0.0]
        low, high = min(found), max(found)
        largest = max(abs(low), abs(high))
        if high - low > largest * _LEAST_PART and largest > 1 / _MOST:
            return cls(low, high)
        pad = largest / 2 if largest > 1 / _MOST else 0.5
        return cls(low - pad, high + pad)

    def part(self, number: float) -> float:
        """Return how far a number is from *low*, as a part of the range; what is outside of it is at an end."""
        return min(max((min(max(number, -_MOST), _MOST) - self.low) / (self.high - self.low), 0.0), 1.0)

    def place(self, number: float, count: int) -> int:
        """Return which of *count* places in a row a number has."""
        return round(self.part(number) * (count - 1))


def curve(
    points: Iterable[Point], across: NumberRange, along: NumberRange, width: int, height: int, style: Style
) -> list[str]:
    """Return *height* lines of *width* characters with the points and lines between them, the highest first."""
    wide, high = style.dots
    columns, rows = width * wide, height * high
    places = [(across.place(x, columns), along.place(y, rows)) for x, y in points if math.isfinite(y)]
    places.sort(key=lambda place: place[0])  # those of one column stay in their order
    lit = [[False] * columns for _ in range(rows)]
    for column, low, top in _strokes(places):
        for row in range(low, top + 1):
            lit[rows - 1 - row][column] = True
    return ["".join(_character(lit, row, column, style) for column in range(width)) for row in range(height)]


def axis(marks: Sequence[tuple[str, float]], across: NumberRange, width: int, style: Style) -> tuple[str, str]:
    """Return the bottom of a plot with marks on it, and below it the names of those for which there is room."""
    bottom = [style.bottom] * width
    names = [" "] * width
    free = 0
    for name, at in marks:
        place = across.place(at, width)
        bottom[place] = style.mark
        begin = min(max(place - len(name) // 2, 0), width - len(name))
        if begin >= free:
            names[begin : begin + len(name)] = name
            free = begin + len(name) + 1
    return style.corner + "".join(bottom), "".join(names).rstrip()


def _strokes(places: Sequence[tuple[int, int]]) -> Iterable[tuple[int, int, int]]:
    """Yield upright strokes that join the points: a column, and from which row to which."""
    last: tuple[int, int] | None = None
    by_column: dict[int, list[int]] = {}
    for column, row in places:
        by_column.setdefault(column, []).append(row)
    for column, rows in by_column.items():
        if last is not None:
            yield from _line(last, (column, rows[0]))
        yield column, min(rows), max(rows)
        last = column, rows[-1]


def _line(begin: tuple[int, int], end: tuple[int, int]) -> Iterable[tuple[int, int, int]]:
    """Yield the strokes from one point to another, farther right; each touches the one before."""
    (x, y), (last_x, last_y) = begin, end
    before = y
    for column in range(x + 1, last_x + 1):
        row = round(y + (column - x) / (last_x - x) * (last_y - y))
        if row > before:
            yield column, min(before + 1, row), row
        else:
            yield column, row, max(before - 1, row)
        before = row


def _character(lit: list[list[bool]], row: int, column: int, style: Style) -> str:
    wide, high = style.dots
    if (wide, high) == (1, 1):
        return "*" if lit[row][column] else " "
    bits = sum(
        _DOTS[down][right]
        for down in range(high)
        for right in range(wide)
        if lit[row * high + down][column * wide + right]
    )
    return chr(_BRAILLE + bits) if bits else " "
