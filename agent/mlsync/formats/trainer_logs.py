"""What trainers write beside their checkpoints of how the training went: read within bounds, however they end.

A file that is torn, or is something else by its content, tells less or nothing, and is no error.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

#: What is longer is not looked at. A JSON text takes some twenty times its length when it is parsed.
STATE_BYTES_MAX = 8 << 20
RESULTS_BYTES_MAX = 8 << 20
STATE_NAME = b"trainer_state.json"
RESULTS_NAME = b"results.csv"
ARGUMENTS_NAME = b"args.yaml"
_LINE_CHARS_MAX = 64 << 10
_COLUMNS_MAX = 1000
_NUMBER_MAX = 1 << 63
_STEP = re.compile(r"checkpoint-(\d{1,18})/?$")
# Boxes, masks, poses: as Ultralytics weighs them up for its own best.pt
_MEAN_PRECISION = re.compile(r"metrics/mAP50(-95)?\(\w\)")
_WEIGHTS = {None: 0.1, "-95": 0.9}
_ACCURACY = ("metrics/accuracy_top1", "metrics/accuracy_top5")


class TrainerState(NamedTuple):
    """How far a training with Hugging Face's trainer was, and the step of the best checkpoint that it names, if any."""

    step: int
    best_step: int | None


def read_trainer_state(data: bytes) -> TrainerState | None:
    """Return what a ``trainer_state.json`` says, ``None`` if it is none."""
    if len(data) > STATE_BYTES_MAX:
        return None
    try:
        state = json.loads(data)
    except (ValueError, RecursionError):
        return None
    step = _count(state.get("global_step")) if isinstance(state, dict) else None
    return None if step is None else TrainerState(step, _best_step(state))


def _best_step(state: dict[str, object]) -> int | None:
    """Return the step of the checkpoint that was best: older trainers name its directory alone."""
    path = state.get("best_model_checkpoint")
    if not isinstance(path, str):
        return None
    told = _count(state.get("best_global_step"))
    match = _STEP.search(path)
    return int(match[1]) if match else told


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < _NUMBER_MAX else None


def read_fitness(data: bytes) -> float | None:
    """Return the highest fitness in a ``results.csv`` of Ultralytics, ``None`` if it tells of none."""
    if len(data) > RESULTS_BYTES_MAX:
        return None
    whole = data[: data.rfind(b"\n") + 1]  # a row without its end is still being written
    lines = [line for line in whole.decode("utf-8", "replace").splitlines() if len(line) <= _LINE_CHARS_MAX]
    try:
        rows = csv.reader(lines)
        columns = [name.strip() for name in next(rows, [])]
        if len(columns) > _COLUMNS_MAX:
            return None
        return max(_fitnesses(columns, rows), default=None)
    except csv.Error:
        return None


def _fitnesses(columns: list[str], rows: Iterator[list[str]]) -> Iterator[float]:
    weights = {
        place: _WEIGHTS[match[1]] for place, name in enumerate(columns) if (match := _MEAN_PRECISION.fullmatch(name))
    }
    weights = weights or {place: 0.5 for place, name in enumerate(columns) if name in _ACCURACY}
    for row in rows:
        if weights and len(row) == len(columns):
            try:
                fitness = sum(float(row[place]) * weight for place, weight in weights.items())
            except ValueError:
                continue
            if math.isfinite(fitness):
                yield fitness
