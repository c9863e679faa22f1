"""Files that trainers write beside their checkpoints about the training, read within bounds.

A file that is torn, or has other content, gives fewer facts or none, and is no error.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple

from mlsync.values import Fact

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
# What every run of Ultralytics says at the top, each on a line of its own
_ARGUMENTS: Final = frozenset({"task", "model", "epochs"})
_ARGUMENT = re.compile(rb"^(task|model|epochs): *([^\r\n]{1,1000})\r?$", re.MULTILINE)
_TEXT_CHARS_MAX = 200
_ACCURACY = ("metrics/accuracy_top1", "metrics/accuracy_top5")


class TrainerState(NamedTuple):
    """How far a training with Hugging Face's trainer was, and the step of the best checkpoint that it names, if any."""

    step: int
    best_step: int | None


def read_trainer_state(data: bytes) -> TrainerState | None:
    """Return what a ``trainer_state.json`` says, ``None`` if it is none."""
    state = state_of(data)
    return None if state is None else TrainerState(state["global_step"], _best_step(state))


def state_facts(data: bytes) -> dict[str, Fact]:
    """Return what a ``trainer_state.json`` tells of the training: how far it was, and what its best was; or nothing."""
    state = state_of(data)
    if state is None:
        return {}
    epoch, metric, best_step = _real(state.get("epoch")), _real(state.get("best_metric")), _best_step(state)
    found = {"epoch": epoch, "step": state["global_step"], "best_metric": metric, "best_step": best_step}
    facts: dict[str, Fact] = {"framework": "huggingface-trainer"}
    return facts | {name: value for name, value in found.items() if value is not None}


def state_of(data: bytes) -> dict[str, Any] | None:
    """Return the object in a ``trainer_state.json``; its ``global_step`` is a count."""
    state = _json_object(data)
    return state if state is not None and _count(state.get("global_step")) is not None else None


def _json_object(data: bytes) -> dict[str, Any] | None:
    """Return the object that a state in JSON is, ``None`` if it is none."""
    if len(data) > STATE_BYTES_MAX:
        return None
    try:
        state = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) else None


def _real(value: object) -> int | float | None:
    """Return a number that can be a fact; a whole one without a point."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _NUMBER_MAX:
        return None
    return int(value) if value == int(value) else value


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
    return max((fitness for _, fitness in _results(data)), default=None)


def last_fitness(data: bytes) -> float | None:
    """Return the fitness of the last epoch in a ``results.csv`` of Ultralytics, ``None`` if it tells of none."""
    rows = list(_results(data))
    return rows[-1][1] if rows else None


def last_in_column(data: bytes, column: str) -> float | None:
    """Return the last number in a column of a table in CSV, ``None`` if there is none."""
    if len(data) > RESULTS_BYTES_MAX:
        return None
    found: float | None = None
    try:
        columns, rows = _table(data)
        place = columns.index(column)
        for row in rows:
            with suppress(ValueError, IndexError):
                number = float(row[place])
                found = number if math.isfinite(number) else found
    except (csv.Error, ValueError):
        return found
    return found


def last_logged(data: bytes, name: str) -> float | None:
    """Return the number that a state in JSON has under a name: in the last entry of its log that has it, or at its top.

    Hugging Face's trainer keeps what it evaluated, such as ``eval_loss``, in ``log_history``.
    """
    state = _json_object(data)
    if state is None:
        return None
    history = state.get("log_history")
    entries = [one for one in history if isinstance(one, dict)] if isinstance(history, list) else []
    values = (_real(one.get(name)) for one in (*reversed(entries), state))
    return next((float(value) for value in values if value is not None), None)


def results_facts(data: bytes) -> dict[str, Fact]:
    """Return what a ``results.csv`` of Ultralytics tells of the training, or nothing."""
    rows = list(_results(data))
    if not rows:
        return {}
    best_epoch, best = max(rows, key=lambda row: row[1])
    found = {"epoch": rows[-1][0], "best_epoch": best_epoch, "best_fitness": best}
    facts: dict[str, Fact] = {"framework": "ultralytics"}
    return facts | {name: value for name, value in found.items() if value is not None}


def argument_facts(data: bytes) -> dict[str, Fact]:
    """Return what an ``args.yaml`` of Ultralytics says was to be trained, or nothing."""
    found = {match[1].decode(): match[2].strip(b" '\"") for match in _ARGUMENT.finditer(data[:RESULTS_BYTES_MAX])}
    if found.keys() != _ARGUMENTS:
        return {}
    facts: dict[str, Fact] = {"framework": "ultralytics"}
    facts |= {name: found[name].decode("utf-8", "replace")[:_TEXT_CHARS_MAX] for name in ("task", "model")}
    return facts | ({"epochs": int(found["epochs"])} if found["epochs"].isdigit() else {})


def _results(data: bytes) -> list[tuple[int | float | None, float]]:
    """Return the epoch and the fitness of each row that has one."""
    if len(data) > RESULTS_BYTES_MAX:
        return []
    try:
        return list(_fitnesses(*_table(data)))
    except csv.Error:
        return []


def _table(data: bytes) -> tuple[list[str], Iterator[list[str]]]:
    """Return the columns of a table in CSV, none if there are too many, and its rows."""
    whole = data[: data.rfind(b"\n") + 1]  # a row without its end is still being written
    lines = [line for line in whole.decode("utf-8", "replace").splitlines() if len(line) <= _LINE_CHARS_MAX]
    rows = csv.reader(lines)
    columns = [name.strip() for name in next(rows, [])]
    return (columns, rows) if len(columns) <= _COLUMNS_MAX else ([], iter(()))


def _fitnesses(columns: list[str], rows: Iterator[list[str]]) -> Iterator[tuple[int | float | None, float]]:
    epoch_at = columns.index("epoch") if "epoch" in columns else None
    weights = {
        place: _WEIGHTS[match[1]] for place, name in enumerate(columns) if (match := _MEAN_PRECISION.fullmatch(name))
    }
    weights = weights or {place: 0.5 for place, name in enumerate(columns) if name in _ACCURACY}
    for row in rows:
        if weights and len(row) == len(columns):
            try:
                fitness = sum(float(row[place]) * weight for place, weight in weights.items())
                epoch = None if epoch_at is None else _real(float(row[epoch_at]))
            except ValueError:
                continue
            if math.isfinite(fitness):
                yield epoch, fitness
