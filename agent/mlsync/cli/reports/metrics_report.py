"""Show metrics to a person: small plots one under another, the versions on their axis, and a table of the last rows."""

from __future__ import annotations

import math
import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from mlsync.app.wrapping import cells, encodable
from mlsync.cli.reports.metric_names import in_order, is_better_low, is_judged, of_the_model, one_of_each
from mlsync.cli.terminal import output
from mlsync.cli.terminal.plot import BRAILLE, PLAIN, NumberRange, Style, axis, curve
from mlsync.cli.terminal.table import TextTable
from mlsync.formats.logs.rows import LogRow, TrainingLog
from mlsync.versions.logs.marks import VersionMark
from mlsync.versions.logs.run_metrics import RunMetrics, listed

Along: TypeAlias = Literal["step", "epoch", "row"]
_COLUMNS_MAX: Final = 8
PLOTS_MAX: Final = 12
_PLOTS_BY_DEFAULT: Final = 2
_HEIGHT: Final = 5
_WIDTH_MAX: Final = 100
_NAMED_MAX: Final = 12
_HEADER_CELLS: Final = 11
_HEADER_CELLS_MAX: Final = 24
_DIGITS: Final = 4
# Numbers within these are written without an exponent.
_WHOLE_MAX, _PLAIN_MIN, _PLAIN_MAX = 1e9, 1e-4, 1e6
# In a column, the least part of the largest that still has digits enough beside it, also where that is small itself.
_PART, _SMALL, _PART_OF_SMALL = 1e-3, 1e-2, 0.1
_PIECES: Final = re.compile(r"[^/_\- (]*[/_\- (]?")
_KINDS: Final = {
    "ultralytics": "Ultralytics",
    "huggingface-trainer": "Hugging Face's Trainer",
    "lightning": "Lightning",
    "tensorboard": "TensorBoard",
    "mlflow": "MLflow",
    "json-lines": "JSON lines",
    "csv": "CSV",
}


@dataclass(frozen=True, slots=True)
class Places:
    """Where rows and versions are along a training: by step, by epoch, or by the number of the row."""

    along: Along
    rows: tuple[tuple[float, LogRow], ...]
    marks: tuple[tuple[int, float], ...]

    def points(self, name: str) -> list[tuple[float, float]]:
        """Return the numbers of that name, with their places."""
        return [(at, row.values[name]) for at, row in self.rows if name in row.values]

    def versions_at(self) -> dict[float, list[int]]:
        """Return for the place of a row the versions that end there."""
        places = sorted({at for at, _ in self.rows})
        found: dict[float, list[int]] = {}
        for version, at in self.marks:
            before = bisect_right(places, at)
            if before:
                found.setdefault(places[before - 1], []).append(version)
        return found


def places_of(said: TrainingLog, marks: Iterable[VersionMark]) -> Places:
    """Return where the rows of a log are, by step if it has steps, in order."""
    along: Along = "row"
    if any(row.step is not None for row in said.rows):
        along = "step"
    elif any(row.epoch is not None for row in said.rows):
        along = "epoch"
    places = [_place(row, along, number) for number, row in enumerate(said.rows, 1)]
    # A row that does not say where it is belongs to the one before
    at = next(place for place in places if place is not None)
    rows = []
    for row, place in zip(said.rows, places, strict=True):
        at = at if place is None else place
        rows.append((at, row))
    marked = [(mark.version, mark.step if along == "step" else mark.epoch) for mark in marks]
    return Places(
        along,
        tuple(sorted(rows, key=lambda one: one[0])),
        tuple((version, at) for version, at in marked if at is not None and along != "row"),
    )


def _place(row: LogRow, along: Along, number: int) -> float | None:
    return {"step": row.step, "epoch": row.epoch, "row": float(number)}[along]


def print_report(metrics: RunMetrics, asked: Sequence[str], last: int) -> None:
    """Print the log's name, plots, and a table of the last rows; of the metrics that were *asked* for, or of a few."""
    places = places_of(metrics.said, metrics.marks)
    names = list(asked) or in_order(metrics.said)
    output.say_wrapped(heading(metrics, places))
    output.say()
    plotted = asked[:PLOTS_MAX] if asked else one_of_each(names, _PLOTS_BY_DEFAULT)
    for line in plot_lines(places, plotted, min(output.width(), _WIDTH_MAX), _style()):
        output.say(line)
    shown = _print_table(places, names if asked else of_the_model(names), last)
    _print_rest(metrics, names, shown, is_asked=bool(asked))


def heading(metrics: RunMetrics, places: Places) -> str:
    """Return what was read, and how much it is."""
    root, said = metrics.stored.root, metrics.said
    at = places.rows[-1][0]
    up_to = "" if places.along == "row" else f", up to {places.along} {number(at)}"
    return (
        f"{root.run}, version {root.number}: {output.path(metrics.log.shown)} of {_KINDS[said.kind]}, "
        f"{output.count(len(places.rows), 'row')}{up_to}"
    )


def _style() -> Style:
    return BRAILLE if encodable("⣿│┤└─┴", sys.stdout) == "⣿│┤└─┴" else PLAIN


def plot_lines(places: Places, names: Sequence[str], width: int, style: Style) -> Iterator[str]:
    """Yield plots of some metrics, one under another, with one axis for all below the last."""
    across = NumberRange.over([at for at, _ in places.rows])
    spans = {name: NumberRange.over([value for _, value in places.points(name)]) for name in names}
    labels = {name: (number(span.high), number(span.low)) for name, span in spans.items()}
    gutter = max((len(label) for pair in labels.values() for label in pair), default=0)
    gutter = max(gutter, len("version") - 1)
    room = width - gutter - 2
    for name in names:
        yield _within(title(name, places), width)
        drawn = curve(places.points(name), across, spans[name], room, _HEIGHT, style)
        for row, line in enumerate(drawn):
            label = {0: labels[name][0], _HEIGHT - 1: labels[name][1]}.get(row)
            side = style.side if label is None else style.tick
            yield f"{label or '':>{gutter}} {side}{line}".rstrip()
    if names:
        yield from _axis_lines(places, across, gutter, room, style)


def _within(text: str, width: int) -> str:
    """Return a title without what is least important, if there is no room for it."""
    if cells(text) > width:
        text = text.partition(", ")[0]
    return text if cells(text) <= width else f"{text[: width // 2 - 3]}..."


def title(name: str, places: Places) -> str:
    """Return what stands above a plot: the name, the last number, and the best one."""
    points, along = places.points(name), places.along
    at, value = points[-1]
    text = f"{output.printable(name)}: {number(value)} at {along} {number(at)}"
    finite = [point for point in points if math.isfinite(point[1])]
    if is_judged(name) and finite:
        is_low = is_better_low(name)
        best_at, best = min(finite, key=lambda point: point[1] if is_low else -point[1])
        text += f", {'lowest' if is_low else 'highest'} {number(best)} at {along} {number(best_at)}"
    if len(finite) < len(points):
        text += f"; {len(points) - len(finite)} of {len(points)} not finite"
    return text


def _axis_lines(places: Places, across: NumberRange, gutter: int, room: int, style: Style) -> Iterator[str]:
    """Yield the axis with its ends, and below it the versions."""
    bottom, names = axis([(str(version), at) for version, at in places.marks], across, room, style)
    yield " " * (gutter + 1) + bottom
    first, last = number(places.rows[0][0]), number(places.rows[-1][0])
    if places.rows[0][0] == places.rows[-1][0]:
        first = ""
    yield f"{places.along:>{gutter + 1}} {first}{last:>{room - len(first)}}"
    if names:
        yield f"{'version':>{gutter + 1}} {names}"
    yield ""


def _print_table(places: Places, names: Sequence[str], last: int) -> list[str]:
    """Print as many columns as there is room for; return their names."""
    rows = places.rows[-last:] if last else places.rows
    there = [name for name in names if any(name in row.values for _, row in rows)][:_COLUMNS_MAX]
    for count in range(len(there), 0, -1):
        made = _table(places, rows, there[:count])
        if made.fits(output.width()) or count == 1:
            output.print_table(made)
            return there[:count]
    return []


def _table(places: Places, rows: Sequence[tuple[float, LogRow]], names: Sequence[str]) -> TextTable:
    columns = {name: column([row.values.get(name) for _, row in rows]) for name in names}
    headers = ["EPOCH", "STEP", *map(_header, names), "VERSION"]
    table = TextTable(headers, range(len(headers) - 1))
    versions = places.versions_at()
    for index, (at, row) in enumerate(rows):
        epoch, step = ("" if place is None else number(place) for place in (row.epoch, row.step))
        if places.along == "row":
            step = number(at)
        table.row(epoch, step, *(columns[name][index] for name in names), spans(versions.get(at, ())))
    return table


def _print_rest(metrics: RunMetrics, names: Sequence[str], shown: Sequence[str], *, is_asked: bool) -> None:
    """Print what else there is: metrics, logs, and what of this log was not read."""
    left = [output.printable(name) for name in names if name not in shown]
    if left:
        more = f" and {len(left) - _NAMED_MAX} more" if len(left) > _NAMED_MAX else ""
        what = "no room for" if is_asked else "also logged"
        output.say()
        output.say_wrapped(f"{what}: {', '.join(left[:_NAMED_MAX])}{more}")
    for note in metrics.said.notes:
        output.say_wrapped(f"note: {note}")
    if metrics.others:
        named = listed(log.shown for log in metrics.others)
        output.say_wrapped(f"other logs, for --log: {named}")


def _header(name: str) -> str:
    """Return a name in lines, broken behind slashes, dashes and the like."""
    lines = [""]
    for piece in filter(None, _PIECES.findall(output.printable(name))):
        if lines[-1] and len(lines[-1]) + len(piece) > _HEADER_CELLS:
            lines.append("")
        lines[-1] += piece
    return "\n".join(
        line if len(line) <= _HEADER_CELLS_MAX else f"{line[: _HEADER_CELLS_MAX - 3]}..." for line in lines
    )


def column(values: Sequence[float | None]) -> list[str]:
    """Return numbers under one another: as many places as the largest needs, unless others would be lost by that."""
    finite = [abs(value) for value in values if value is not None and math.isfinite(value)]
    largest = max(finite, default=0.0)
    part = _PART if largest >= _SMALL else _PART_OF_SMALL
    if all(value == int(value) for value in finite) and largest < _WHOLE_MAX:
        places = 0
    elif not _PLAIN_MIN <= largest < _PLAIN_MAX or min(filter(None, finite)) < largest * part:
        return ["" if value is None else number(value) for value in values]
    else:
        places = max(_DIGITS - 1 - math.floor(math.log10(largest)), 0)
        written = [f"{value:.{places}f}".partition(".")[2].rstrip("0") for value in finite]
        places = max(map(len, written))
    return ["" if value is None else f"{value:.{places}f}" for value in values]


def number(value: float) -> str:
    """Return a number by itself, with four digits that count; a whole one with all of them."""
    if math.isfinite(value) and value == int(value) and abs(value) < _WHOLE_MAX:
        return str(int(value))
    return f"{value:.{_DIGITS}g}"


def spans(numbers: Sequence[int]) -> str:
    """Return numbers of versions, with those that follow one another as one."""
    found: list[list[int]] = []
    for one in sorted(numbers):
        if found and found[-1][-1] == one - 1:
            found[-1].append(one)
        else:
            found.append([one])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in found)
