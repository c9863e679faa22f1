"""Logs in CSV, a row for each epoch or step, as Ultralytics, Lightning's CSVLogger, timm and Keras write them."""

from __future__ import annotations

import csv
from typing import Final

from mlsync.formats.logs.rows import LINE_BYTES_MAX, NAMES_MAX, Rows, TrainingLog, last_lines, number_in, places_in

_ULTRALYTICS: Final = ("lr/pg0", "train/box_loss", "metrics/accuracy_top1")


def read_table(data: bytes) -> TrainingLog | None:
    """Return what a log in CSV says, ``None`` if it is none. A row without its end is still being written."""
    head, _, rest = data.partition(b"\n")
    if len(head) > LINE_BYTES_MAX:
        return None
    columns = [name.strip() for name in _cells(head)]
    places = places_in(columns)
    if len(columns) > NAMES_MAX or not any(places):
        return None
    rows = Rows()
    whole, _, _ = rest.rpartition(b"\n")
    for line in last_lines(whole, rows):
        # A torn row, or one of another table, has fewer cells or more
        cells = _cells(line)
        if len(cells) == len(columns):
            found = zip(columns, map(number_in, cells), strict=True)
            rows.add({name: number for name, number in found if number is not None}, places)
    return rows.log(_kind(columns))


def _cells(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.rstrip(b"\r").decode("utf-8", "replace")]), [])
    except csv.Error:
        return []


def _kind(columns: list[str]) -> str:
    if any(name in columns for name in _ULTRALYTICS):
        return "ultralytics"
    return "lightning" if {"epoch", "step"} <= set(columns) else "csv"
