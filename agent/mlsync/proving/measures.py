"""Read the numbers in what a command printed or wrote: JSON lines, one JSON object, ``name value`` lines, or a table.

The text comes from a stranger's program: it is bounded, and whatever is odd in it is named. On its standard output a
command may say other things too, which are passed over; a file that it wrote for mlsync is to have numbers alone.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from mlsync.repository.evaluation import NAME_BYTES_MAX, NUMBERS_MAX, is_measure_name

#: How much of an output is read.
BYTES_MAX: Final = 1 << 20
_DEPTH_MAX: Final = 4
_SHOWN_CHARS: Final = 40
_DROPPED_MAX: Final = 3
_NUMBER: Final = re.compile(
    r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE
)
_COLUMNS_MIN: Final = 2


class MeasuresUnreadable(Exception):
    """What a command said has no numbers that can be kept; the text says why."""


@dataclass(slots=True)
class Measures:
    """Numbers by name, and *notes* on what was not taken as it was said."""

    numbers: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_measures(data: bytes, *, is_cut: bool = False, may_say_more: bool = False) -> Measures:
    """Return the numbers in *data*; raise ``MeasuresUnreadable``.

    If it *is_cut* it goes on where it was not read. With *may_say_more* what is no number is passed over.
    """
    if is_cut or len(data) > BYTES_MAX:
        raise MeasuresUnreadable(f"it is longer than {BYTES_MAX >> 20} MiB")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MeasuresUnreadable(f"it is not UTF-8 at byte {error.start}") from None
    if "\0" in text:
        raise MeasuresUnreadable("it is not text: there is a zero byte in it")
    if not text.strip():
        raise MeasuresUnreadable("it is empty")
    found = _Found()
    lines = [line for line in text.removeprefix("\ufeff").splitlines() if line.strip()]
    if not (_as_json(text, found) or _as_json_lines(lines, found) or _as_table(lines, found)):
        _as_pairs(lines, found, may_say_more=may_say_more)
    return found.measures()


class _Found:
    """The numbers so far, and what was odd."""

    def __init__(self) -> None:
        self._numbers: dict[str, float] = {}
        self._dropped: dict[str, list[str]] = {}

    def add(self, name: str, value: float, *, is_again: bool = True) -> None:
        """Take a number; one that *is_again* may come once more, as in a log, and then the last one counts."""
        name = name.strip()
        if not is_measure_name(name) or not name.isprintable():
            raise MeasuresUnreadable(f"a number has a name that is empty, unprintable or above {NAME_BYTES_MAX} bytes")
        if not math.isfinite(value):
            self._numbers.pop(name, None)
            self._drop("no finite number", name)
            return
        if name in self._numbers:
            if not is_again:
                raise MeasuresUnreadable(f"{shown(name)} is there twice")
            if self._numbers[name] != value:
                self._drop("said more than once, the last counts", name)
        self._numbers[name] = value
        if len(self._numbers) > NUMBERS_MAX:
            raise MeasuresUnreadable(f"it has more than {NUMBERS_MAX} numbers")

    def measures(self) -> Measures:
        """Return what was found; raise ``MeasuresUnreadable`` if that is nothing."""
        notes = [f"{_some(names)}: {what}" for what, names in self._dropped.items()]
        if not self._numbers:
            raise MeasuresUnreadable("; ".join(notes) or "there is no number in it")
        numbers = sorted(self._numbers.items(), key=lambda item: item[0].encode())
        return Measures(dict(numbers), notes)

    def _drop(self, what: str, name: str) -> None:
        names = self._dropped.setdefault(what, [])
        if name not in names:
            names.append(name)


def shown(text: str) -> str:
    """Return a name as a message has it: short, and printable."""
    clean = "".join(char if char.isprintable() else "?" for char in text)
    return clean if len(clean) <= _SHOWN_CHARS else clean[:_SHOWN_CHARS] + "…"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _DROPPED_MAX} more" if len(names) > _DROPPED_MAX else ""
    return ", ".join(map(shown, names[:_DROPPED_MAX])) + more


# ---------------------------------------------------------------- JSON


def _as_json(text: str, found: _Found) -> bool:
    """Take the numbers of one JSON object that is the whole text."""
    if not text.lstrip("\ufeff \t\r\n").startswith("{"):
        return False
    try:
        value = _decoded(text.removeprefix("\ufeff"))
    except ValueError:
        return False
    if not isinstance(value, dict):
        return False
    _take_object(value, found, is_again=False)
    return True


def _as_json_lines(lines: list[str], found: _Found) -> bool:
    """Take the numbers of all lines that are JSON objects; where lines have one name, the last one counts."""
    objects = [line for line in lines if line.lstrip().startswith("{")]
    is_one = False
    for line in objects:
        try:
            value = _decoded(line)
        except ValueError:
            if line is lines[-1]:
                # What was cut: the numbers before it may be of another moment.
                raise MeasuresUnreadable("its last line is no whole JSON object") from None
            continue
        if isinstance(value, dict):
            is_one = True
            _take_object(value, found, is_again=True)
    return is_one


def _decoded(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once, parse_int=_number)
    except RecursionError:
        raise MeasuresUnreadable("values are nested too deep in it") from None


def _number(digits: str) -> float:
    # Python refuses to convert integers of thousands of digits, and a float of these is infinite.
    return float(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise MeasuresUnreadable(f"{shown(name)} is there twice")
        found[name] = value
    return found


def _take_object(value: dict[str, Any], found: _Found, *, is_again: bool, above: str = "", depth: int = 1) -> None:
    """Take the numbers in an object, those of an object in it by both names; texts, lists and truths are none."""
    for name, inner in value.items():
        called = f"{above}.{name}" if above else name
        if isinstance(inner, dict):
            if depth == _DEPTH_MAX:
                raise MeasuresUnreadable("values are nested too deep in it")
            _take_object(inner, found, is_again=is_again, above=called, depth=depth + 1)
        elif isinstance(inner, float):
            found.add(called, inner, is_again=is_again)


# ---------------------------------------------------------------- tables


def _as_table(lines: list[str], found: _Found) -> bool:
    """Take the last row of a table with a heading, separated by commas or tabs."""
    for mark in (",", "\t"):
        if len(lines) > 1 and lines[0].count(mark) >= _COLUMNS_MIN - 1:
            break
    else:
        return False
    rows = _rows(lines, mark)
    if rows is None:
        return False
    heading, last = [name.strip() for name in rows[0]], rows[-1]
    if any(_parsed(name) is not None for name in heading):
        return False  # numbers alone: nobody knows what they are
    if len(last) != len(heading):
        if len(rows) > 1 and all(len(row) == len(heading) for row in rows[:-1]):
            raise MeasuresUnreadable("its last row has another number of columns than its heading: it is cut")
        return False
    for name, cell in zip(heading, last, strict=True):
        value = _parsed(cell)
        if value is not None and name:
            found.add(name, value, is_again=False)
    return True


def _rows(lines: Iterable[str], mark: str) -> list[list[str]] | None:
    try:
        return list(csv.reader(lines, delimiter=mark, strict=True))
    except csv.Error:
        return None


def _parsed(cell: str) -> float | None:
    return float(cell) if _NUMBER.fullmatch(cell.strip()) else None


# ---------------------------------------------------------------- lines


def _as_pairs(lines: list[str], found: _Found, *, may_say_more: bool) -> None:
    """Take lines like ``name value``, ``name = value`` and ``name: value``."""
    for line in lines:
        name, value = _pair(line)
        if value is not None and any(map(str.isalpha, name)):
            found.add(name, value)
        elif not may_say_more:
            raise MeasuresUnreadable(f"a line is no number with a name: {shown(line.strip())}")


def _pair(line: str) -> tuple[str, float | None]:
    """Return the name and the number of a line; without a sign between them the last blank is it."""
    for mark in ("=", ":"):
        name, found, cell = line.rpartition(mark)
        if found:
            # More of them, as in a time of day, make it a line of a log.
            return name.strip(), _parsed(cell) if mark not in name else None
    words = line.rsplit(None, 1)
    return (words[0].strip(), _parsed(words[1])) if len(words) == _COLUMNS_MIN else ("", None)
