"""Print metrics as CSV, for programs that draw them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Final

from mlsync.cli.reports.metrics_report import places_of, spans
from mlsync.cli.terminal import output
from mlsync.versions.logs.run_metrics import RunMetrics

_WHOLE_MAX: Final = 1e15


def print_csv(metrics: RunMetrics, asked: Sequence[str], last: int) -> None:
    """Print a line of names and one for each row; an empty cell is a number that was not logged there."""
    places = places_of(metrics.said, metrics.marks)
    names = list(asked) or metrics.said.names
    versions = places.versions_at()
    _print_line(["epoch", "step", "versions", *names])
    for at, row in places.rows[-last:]:
        numbers = [row.epoch, row.step, spans(versions.get(at, ())), *(row.values.get(name) for name in names)]
        _print_line([_written(one) for one in numbers])


def _written(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return repr(int(value)) if value.is_integer() and abs(value) < _WHOLE_MAX else repr(value)


def _print_line(written: Sequence[str]) -> None:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(map(output.printable, written))
    output.say_line(line.getvalue())
