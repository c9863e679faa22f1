"""A table of text: columns as wide as their cells, headings between rows, and remarks that need more room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from mlsync.app.wrapping import cells, joined, printable, wrap

_GAP: Final = "  "


@dataclass(frozen=True, slots=True)
class _Row:
    cells: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass(slots=True)
class TextTable:
    """Aligned columns; *right* lists the numbers of those that are right-aligned. A column without text is left out.

    A header may have several lines.
    Remarks on rows are a last column if all of them fit beside their rows, else lines below these.
    """

    headers: Sequence[str]
    right: Sequence[int] = ()
    separator: str = ", "
    _lines: list[_Row | str] = field(default_factory=list)

    def head(self, text: str) -> None:
        """Add a line of its own above the rows that follow."""
        self._lines.append(printable(text))

    def row(self, *texts: str, remarks: Sequence[str] = ()) -> None:
        """Add a row, with what is to be remarked on it."""
        self._lines.append(_Row(tuple(map(printable, texts)), tuple(map(printable, filter(None, remarks)))))

    def fits(self, width: int) -> bool:
        """Return whether the rows fit into *width* columns, without their remarks."""
        return self.width() <= width

    def width(self) -> int:
        """Return how many columns the rows take, without their remarks."""
        widths = self._widths()
        return sum(widths.values()) + len(_GAP) * (len(widths) - 1)

    def lines(self, width: int) -> Iterator[str]:
        """Yield the table in lines; only cells and words that are longer make a line longer than *width*."""
        widths = self._widths()
        is_beside = self._is_beside(width)
        # Below the second column
        below = " " * next(iter(widths.values()), 0) + _GAP
        if widths:
            yield from self._heading(widths)
        for line in self._lines:
            if isinstance(line, str):
                yield from ("", *wrap(line, width, rest=_GAP))
                continue
            aligned = self._aligned(line.cells, widths, is_full=is_beside and bool(line.remarks))
            if is_beside and line.remarks:
                aligned += _GAP + self.separator.join(line.remarks)
            yield aligned
            if line.remarks and not is_beside:
                yield from wrap(joined(line.remarks, self.separator), width, first=below, rest=below + _GAP)

    def _heading(self, widths: dict[int, int]) -> Iterator[str]:
        """Yield the lines of the headers, which end together right above the rows."""
        parts = [header.split("\n") for header in self.headers]
        count = max(len(parts[column]) for column in widths)
        for line in zip(*([""] * (count - len(part)) + part[:count] for part in parts), strict=True):
            yield self._aligned(line, widths)

    def _rows(self) -> list[_Row]:
        return [line for line in self._lines if isinstance(line, _Row)]

    def _widths(self) -> dict[int, int]:
        rows = self._rows()
        shown = [column for column in range(len(self.headers)) if any(row.cells[column] for row in rows)]
        return {
            column: max(
                cells(text) for text in (*self.headers[column].split("\n"), *(row.cells[column] for row in rows))
            )
            for column in shown
        }

    def _is_beside(self, width: int) -> bool:
        remarks = [self.separator.join(row.remarks) for row in self._rows() if row.remarks]
        return self.width() + len(_GAP) + max(map(cells, remarks), default=0) <= width

    def _aligned(self, texts: Sequence[str], widths: dict[int, int], *, is_full: bool = False) -> str:
        """Return a line with its texts in columns, with the last one's blanks only if something follows."""
        parts = []
        for column, width in widths.items():
            blanks = " " * (width - cells(texts[column]))
            parts.append(blanks + texts[column] if column in self.right else texts[column] + blanks)
        line = _GAP.join(parts)
        return line if is_full else line.rstrip()
