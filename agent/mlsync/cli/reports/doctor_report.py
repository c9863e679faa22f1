"""How findings look: the gravest first, each with what it means and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mlsync.cli.terminal import output
from mlsync.doctor.findings import UNKNOWN, Diagnosis, Grade

_HEADINGS: Final = {
    Grade.GRAVE: "Grave",
    Grade.WARNING: "Worth a thought",
    Grade.UNKNOWN: "Could not be looked at",
    Grade.FINE: "Fine",
}


def print_findings(found: Sequence[Diagnosis], *, quiet: bool) -> None:
    """Print the findings by their grade, the gravest first; *quiet* leaves out what is fine."""
    is_first = True
    for grade, heading in _HEADINGS.items():
        of_grade = [one for one in found if one.grade is grade]
        if not of_grade or (quiet and grade is Grade.FINE):
            continue
        if not is_first:
            output.say()
        is_first = False
        output.say(f"{heading}:")
        for one in of_grade:
            output.say_wrapped(f"{one.subject}: {one.what.removeprefix(UNKNOWN)}", first="  ", rest="    ")
            if one.means:
                output.say_wrapped(f"means: {one.means}", first="    ", rest="      ")
            if one.advice:
                output.say_wrapped(f"do: {one.advice}", first="    ", rest="      ")
