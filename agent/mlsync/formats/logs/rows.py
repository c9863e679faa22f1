"""What every log of a training is read into: rows of numbers by name, each at a point of the training."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

#: What is longer is not read, or only its end.
LOG_BYTES_MAX: Final = 8 << 20
NAMES_MAX: Final = 1000
NAME_CHARS_MAX: Final = 200
LINE_BYTES_MAX: Final = 64 << 10
#: Of more lines the last are read.
LINES_MAX: Final = 100_000
# A number in a row takes a hundred bytes of memory.
_NUMBERS_MAX: Final = 300_000
# How far a training is, in the words of the trainers; lower case.
_EPOCHS: Final = ("epoch", "train/epoch")
_STEPS: Final = (
    "step",
    "global_step",
    "_step",
    "iteration",
    "iter",
    "current_steps",
    "training_iteration",
    "time/total_timesteps",
)


PlaceNames: TypeAlias = tuple[str | None, str | None]


class LogRow(NamedTuple):
    """What was logged at one point of a training. Numbers that are not finite are there as such."""

    epoch: float | None
    step: float | None
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """The rows of a log, in its order; the *notes* say what of it is not there.

    *names* are those of the numbers, in the order in which they came first.
    """

    kind: str
    rows: tuple[LogRow, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def last(self) -> dict[str, float]:
        """Return the last number of each name, finite or not."""
        found: dict[str, float] = {}
        for row in self.rows:
            found |= row.values
        return {name: found[name] for name in self.names if name in found}


class Rows:
    """Gathers the rows of a log within bounds: of too many numbers the last are kept.

    Numbers at one point of the training make one row, in whatever order they come; of two under one name the later one
    counts, as in a training that went on from an earlier checkpoint.
    """

    def __init__(self) -> None:
        # Takes the first one out at once, for which a dict looks through all that were taken before
        self._rows: OrderedDict[tuple[float | None, float | None, int], LogRow] = OrderedDict()
        self._names: dict[str, None] = {}
        self._number_count = 0
        self._row_count = 0
        self._notes: dict[str, None] = {}

    def note(self, text: str) -> None:
        """Keep what is to be said of the log, once."""
        self._notes[text] = None

    def add(self, numbers: Mapping[str, float], places: PlaceNames | None = None) -> None:
        """Take the numbers of a line, and from them how far the training was: under the names of *places*, if known."""
        epoch, step = places or places_in(numbers)
        values = {name: number for name, number in numbers.items() if name not in (epoch, step)}
        self.add_at(_place(numbers, epoch), _place(numbers, step), values)

    def add_at(self, epoch: float | None, step: float | None, values: Mapping[str, float]) -> None:
        """Take numbers that were logged at a point of the training; at an unknown one they are a row of their own."""
        self._row_count += 1
        kept = {name: number for name, number in values.items() if self._takes(name)}
        if not kept:
            return
        key = (epoch, step, self._row_count if epoch is None and step is None else 0)
        row = self._rows.setdefault(key, LogRow(epoch, step, {}))
        self._number_count -= len(row.values)
        row.values.update(kept)
        self._number_count += len(row.values)
        while self._number_count > _NUMBERS_MAX:
            _, oldest = self._rows.popitem(last=False)
            self._number_count -= len(oldest.values)
            self.note(f"only the last {_NUMBERS_MAX:,} numbers are read")

    def log(self, kind: str) -> TrainingLog | None:
        """Return the log, ``None`` if it has no number."""
        if not self._rows:
            return None
        return TrainingLog(kind, tuple(self._rows.values()), tuple(self._names), tuple(self._notes))

    def _takes(self, name: str) -> bool:
        if name in self._names:
            return True
        if not name or len(name) > NAME_CHARS_MAX:
            self.note(f"names of more than {NAME_CHARS_MAX} characters, and empty ones, are left out")
            return False
        if len(self._names) >= NAMES_MAX:
            self.note(f"only the first {NAMES_MAX} names are read")
            return False
        self._names[name] = None
        return True


def last_lines(text: bytes, rows: Rows, count: int = LINES_MAX) -> list[bytes]:
    """Return the last lines of a text, without those that are too long; what is behind the last end is one too."""
    lines = text.rsplit(b"\n", count)
    if len(lines) > count:
        rows.note(f"only the last {count:,} lines are read")
        del lines[0]
    short = [line for line in lines if len(line) <= LINE_BYTES_MAX]
    if len(short) < len(lines):
        rows.note("lines that are too long are left out")
    return short


def is_place(name: str) -> bool:
    """Return whether a name says how far the training is."""
    return name.lower() in _EPOCHS or name.lower() in _STEPS


def number_in(text: str) -> float | None:
    """Return the number that a text is, also one that is not finite; ``None`` if it is none."""
    try:
        return float(text) if len(text) <= LINE_BYTES_MAX else None
    except ValueError:
        return None


def real(value: object) -> float | None:
    """Return a number in JSON as a float, ``None`` for what is none; one beyond all floats is infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def places_in(names: Iterable[str]) -> PlaceNames:
    """Return the names that say how far the training is: its epoch and its step."""
    lower = {name.lower(): name for name in names}
    epoch, step = (next((lower[word] for word in words if word in lower), None) for words in (_EPOCHS, _STEPS))
    return epoch, step


def _place(numbers: Mapping[str, float], name: str | None) -> float | None:
    number = None if name is None else numbers.get(name)
    return number if number is not None and math.isfinite(number) else None
