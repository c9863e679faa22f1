"""MLflow's file store: ``mlruns/EXPERIMENT/RUN/metrics/NAME``, a line for each number: when, what, at which step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from mlsync.formats.logs.rows import LINES_MAX, Rows, TrainingLog, last_lines, number_in

_PARTS: Final = (2, 3)  # the oldest had no step


def read_mlflow(metrics: Sequence[tuple[str, bytes]]) -> TrainingLog | None:
    """Return what the files of one of MLflow's runs say, given by the names of the metrics; ``None`` for nothing."""
    rows = Rows()
    for name, data in metrics:
        whole, _, _ = data.rpartition(b"\n")
        for line in last_lines(whole, rows, LINES_MAX // len(metrics) + 1):
            parts = line.decode("ascii", "replace").split(" ")
            if len(parts) not in _PARTS:
                continue
            numbers = [number_in(part) for part in parts]
            value, step = numbers[1], numbers[2] if len(parts) == _PARTS[1] else 0.0
            # A step of a thousand digits is infinite.
            if numbers[0] is not None and value is not None and step is not None and math.isfinite(step):
                rows.add_at(None, step, {name: value})
    return rows.log("mlflow")
