"""A person who follows a page to the letter, on one machine after the other: what is typed, and what is guessed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from first_day.machine import Machine
from first_day.pages import Command
from first_day.terminal import Shown, Terminal

# What an agent shows once two versions have checkpoints; lines are broken at blanks.
TWICE_PROVED = r"(?:checkpoints?\s+proved\s+to\s+L\d[\s\S]*?){2}"


@dataclass(frozen=True)
class Guess:
    """What the person had to find out alone, and why no page helped."""

    what: str
    why: str


@dataclass
class Person:
    """The steps by machine, in the order of the day, and the guesses."""

    steps: dict[str, list[str]] = field(default_factory=dict)
    guesses: list[Guess] = field(default_factory=list)

    def follow(
        self,
        terminal: Terminal,
        machine: Machine,
        command: Command,
        instead: Mapping[str, str] | None = None,
        *,
        until: str | None = None,
        limit_s: float = 900,
    ) -> Shown:
        """Type a page's command, with *instead* of its placeholders; it has to end well, or to show *until*."""
        self.type(terminal, machine, self._filled(machine, command, instead or {}), until=until, limit_s=limit_s)
        return terminal.shown[-1] if until is None else terminal.so_far()

    def type(
        self, terminal: Terminal, machine: Machine, text: str, *, until: str | None = None, limit_s: float = 900
    ) -> Shown:
        """Type a command: a page's, or one that mlsync printed."""
        self.steps.setdefault(machine.name, []).append(text)
        if until is not None:
            terminal.start(text)
            terminal.until(until, limit_s)
            return terminal.so_far()
        shown = terminal.run(text, limit_s)
        if shown.status != 0:
            raise RuntimeError(f"{text!r} ended with {shown.status}:\n" + "\n".join(shown.rows))
        return shown

    def write(self, machine: Machine, name: str, text: str) -> None:
        """Write or edit a file in the home."""
        self.steps.setdefault(machine.name, []).append(f"(edit ~/{name})")
        machine.write(name, text)

    def guess(self, what: str, why: str) -> None:
        """Note what no page said."""
        self.guesses.append(Guess(what, why))

    def _filled(self, machine: Machine, command: Command, instead: Mapping[str, str]) -> str:
        """The command as the person types it: the first way that works here, with placeholders replaced."""
        ways = (command.text, *command.others)
        text = next((one for one in ways if _has_program(machine, one)), command.text)
        for placeholder, value in instead.items():
            if placeholder not in text:
                continue
            if not command.page.explains(placeholder):
                self.guess(f"{placeholder} -> {value}", f"{command.page.name} does not say what to write there")
            text = text.replace(placeholder, value)
        return text


def _has_program(machine: Machine, command: str) -> bool:
    """Whether the first word of *command* is a program of the machine; its links lead to where only it can look."""
    program = command.split(maxsplit=1)[0]
    places = [machine.place / ".local/bin", *map(Path, machine.environment()["PATH"].split(":"))]
    return any(os.path.lexists(place / program) for place in places)
