"""Logs in JSON: an object on each line, and the history in the state of Hugging Face's trainer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlsync.formats.logs.rows import LINES_MAX, NAMES_MAX, Rows, TrainingLog, is_place, last_lines, real
from mlsync.formats.logs.trainer_logs import state_of

_DEPTH_MAX: Final = 3


def read_state(data: bytes) -> TrainingLog | None:
    """Return what a ``trainer_state.json`` has in its ``log_history``, ``None`` if it is none or has nothing."""
    state = state_of(data)
    history = None if state is None else state.get("log_history")
    rows = Rows()
    for entry in history[-LINES_MAX:] if isinstance(history, list) else ():
        if isinstance(entry, dict):
            rows.add(dict(_numbers(entry, "", 1)))
    return rows.log("huggingface-trainer")


def read_json_lines(data: bytes) -> TrainingLog | None:
    """Return what lines of JSON say, each an object with a step or an epoch; ``None`` if there is none.

    An object inside is read as names with a slash. A last line without its end may be whole, and else says nothing.
    """
    rows = Rows()
    for line in last_lines(data, rows):
        try:
            entry = json.loads(line) if line.lstrip()[:1] == b"{" else None
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            numbers = dict(_numbers(entry, "", _DEPTH_MAX))
            if any(map(is_place, numbers)):
                rows.add(numbers)
    return rows.log("json-lines")


def _numbers(entry: Mapping[str, Any], before: str, depth: int) -> Iterator[tuple[str, float]]:
    for count, (name, value) in enumerate(entry.items()):
        if count > NAMES_MAX:
            return
        if isinstance(value, dict) and depth > 1:
            yield from _numbers(value, f"{before}{name}/", depth - 1)
        elif (number := real(value)) is not None:
            yield before + name, number
