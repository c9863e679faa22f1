"""What a day came to, and the shape of its entry in ``results/first_day.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import report

from first_day.person import Person
from first_day.terminal import COLUMNS, Shown, Terminal, broken_words

STEPS_MAX = 5


@dataclass
class Outcome:
    """One situation, played to its end.

    *page* is what was followed. *seconds* and *bytes* are what was measured on the way, by names that say what it is.
    *resumed* says from where the training continued; *terminal* are the commands of mlsync and what they showed.
    *is_each* says that the limit to the steps is for each machine, and not for their sum.
    """

    page: str
    commit: str
    user: str
    person: Person
    tools: Mapping[str, str]
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    resumed: dict[str, object] = field(default_factory=dict)
    terminal: list[Shown] = field(default_factory=list)
    is_each: bool = False
    passphrases_typed: int = 0

    def add(self, window: Terminal) -> None:
        """Take in what mlsync showed in a window that is closed, or whose commands have ended."""
        self.terminal += window.shown
        self.passphrases_typed += window.asked

    @property
    def step_count(self) -> int:
        """Steps on both machines."""
        return sum(map(len, self.person.steps.values()))

    @property
    def is_met(self) -> bool:
        """Whether the day took few steps and no guess."""
        counts = [len(steps) for steps in self.person.steps.values()]
        return (max(counts) if self.is_each else sum(counts)) <= STEPS_MAX and not self.person.guesses

    def transcript(self) -> str:
        """What mlsync showed, as it came, with a line between its 80 columns and what hangs over."""
        lines = []
        for shown in self.terminal:
            lines += ["$ " + shown.command]
            lines += [row if len(row) <= COLUMNS else row[:COLUMNS] + " ┊ " + row[COLUMNS:] for row in shown.rows]
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, object]:
        """The entry of the situation."""
        rows = [row for shown in self.terminal for row in shown.rows]
        longest = max(rows, key=len, default="")
        return {
            "date": datetime.now(UTC).date().isoformat(),
            "commit": self.commit,
            "page": self.page,
            "user": self.user,
            "tools": dict(self.tools),
            "steps_max": f"{STEPS_MAX} on {'each machine' if self.is_each else 'both machines'}",
            "steps": {machine: len(steps) for machine, steps in self.person.steps.items()} | {"sum": self.step_count},
            "typed": self.person.steps,
            "passphrases_typed": self.passphrases_typed,
            "guesses": [{"what": guess.what, "why": guess.why} for guess in self.person.guesses],
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "bytes": self.bytes,
            "resumed": self.resumed,
            "terminal": {
                "columns": COLUMNS,
                "rows": len(rows),
                "longest_row": len(longest),
                "longest": longest,
                "broken_inside_words": broken_words(rows),
            },
        }


def write(outcomes: Mapping[str, Outcome], directory: Path) -> None:
    """Replace these situations in ``first_day.json``; others stay as they are."""
    place = directory / "first_day.json"
    before = json.loads(place.read_text()) if place.exists() else {"situations": {}}
    situations = before["situations"] | {name: outcome.as_json() for name, outcome in outcomes.items()}
    whole = {
        "what": "a stranger's first day: steps and guesses from a fresh clone to the resumed training",
        "machine": report.machine(),
        "situations": dict(sorted(situations.items())),
    }
    directory.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def show(outcomes: Iterable[tuple[str, Outcome]]) -> None:
    """Print the table of what was played."""
    columns = ["situation", "steps: old machine", "new machine", "sum", "guesses", "longest row", "broken words"]
    rows = []
    for name, outcome in outcomes:
        entry = outcome.as_json()
        counts = [len(steps) for steps in outcome.person.steps.values()]
        terminal = entry["terminal"]
        assert isinstance(terminal, dict)
        broken = len(terminal["broken_inside_words"])
        rows.append([name, *counts, outcome.step_count, len(outcome.person.guesses), terminal["longest_row"], broken])
    report.show("The first day", columns, rows)
