"""How work reports progress and notices: a leaf that every layer may use, and that prints nothing itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

#: A ``status`` is about work that takes long: a person who waits for it sees it without asking for details.
NoticeLevel = Literal["info", "status", "warning", "error"]


class Task(Protocol):
    """A piece of work in progress."""

    def advance(self, amount: int) -> None:
        """Report *amount* more units (bytes, unless the task has another unit) as done."""

    def say(self, what: str) -> None:
        """Report what is being done at the moment: the file that is read, or what is waited for."""


class Monitor(Protocol):
    """Where progress and notices go; several threads call it at once."""

    def task(self, name: str, total: int | None, unit: str = "B") -> AbstractContextManager[Task, bool | None]:
        """Open a task of *total* units, or of unknown length, until the context ends."""

    def notice(self, level: NoticeLevel, text: str) -> None:
        """Report something to a person, in one line without trailing period."""


class SilentTask:
    """Drops everything: a task that nobody watches, and the base of those that report only a part."""

    def advance(self, amount: int) -> None:
        """Drop it."""

    def say(self, what: str) -> None:
        """Drop it."""


class SilentMonitor:
    """Drops everything: the monitor of library callers and of pipes."""

    @contextmanager
    def task(self, name: str, total: int | None, unit: str = "B") -> Iterator[Task]:  # noqa: ARG002 - the protocol's
        """Open a task that nobody watches."""
        yield SilentTask()

    def notice(self, level: NoticeLevel, text: str) -> None:
        """Drop it."""
