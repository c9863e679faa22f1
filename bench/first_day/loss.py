"""The first half of a day with a trainer: the agent keeps watch beside the training, and the machine is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trees

from first_day.day import Day
from first_day.machine import Machine
from first_day.outcome import Outcome
from first_day.pages import Page
from first_day.person import TWICE_PROVED

_PASS_S = 300


@dataclass(frozen=True)
class Training:
    """What the person trains: *command* in *directory* of the home, with the programs of *python*.

    *watched* is the directory in it that mlsync watches, *repository* the page's example of one, and *bring_along* puts
    on a machine what the person has without mlsync.
    """

    command: str
    directory: str
    watched: str
    repository: str
    python: Path
    bring_along: Callable[[Machine], None]

    def instead(self, machine: Machine) -> dict[str, str]:
        """What the person writes where the page has its example of a repository."""
        return {self.repository: f"{machine.backup_disk}/{self.directory}"}


def train_and_lose(day: Day, page: Page, outcome: Outcome, training: Training, secret: str) -> float:
    """Follow the page until two versions hold a checkpoint; the machine dies. Return the moment, in seconds."""
    with day.machine("old", secret) as old:
        training.bring_along(old)
        window = old.terminal()
        day.install(outcome.person, old, window, outcome)
        command = page.step(2).command("mlsync init")
        outcome.person.follow(window, old, command, training.instead(old), until="watching")
        trainer = old.terminal(before_path=str(training.python.parent))
        trainer.run(f"cd ~/{training.directory}")
        trainer.start(training.command)
        window.until(TWICE_PROVED, _PASS_S)
        outcome.bytes["training directory"] = trees.size_bytes(old.place / training.directory / training.watched)
        died_s = time.monotonic()
        old.die()
    outcome.add(window)
    outcome.bytes["repository"] = trees.size_bytes(day.backup)
    return died_s
