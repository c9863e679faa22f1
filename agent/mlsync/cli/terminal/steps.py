"""The commands to type next, each with what it is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_WIDTH: Final = 79


@dataclass(frozen=True, slots=True)
class Step:
    """A command to type, and what it is for."""

    words: str
    purpose: str


def step_lines(steps: Sequence[Step]) -> list[str]:
    """Return a line for each step, with the purposes in a column; a long command speaks for itself."""
    room = {step: _WIDTH - len("    ") - len(step.purpose) for step in steps}
    width = 0
    for length in sorted(len(step.words) for step in steps):
        if all(length <= room[step] for step in steps if len(step.words) <= length):
            width = length
    return [
        f"  {step.words:<{width}}  {step.purpose}" if len(step.words) <= width else f"  {step.words}" for step in steps
    ]
