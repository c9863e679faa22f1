"""How work reports its progress: a leaf that every layer may call and no layer prints from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

NoticeLevel = Literal["info", "warning", "error"]


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, amount: int) -> None:
        """Say that *amount* more units (bytes, unless the task says else) are done."""


class Monitor(Protocol):
    """Where progress and notices go; called from several threads at once."""

    def task(self, name: str, total: int | None, unit: str = "B") -> AbstractContextManager[Task, bool | None]:
        """Open a task of *total* units, or of unknown length; closed when the context ends."""

    def notice(self, level: NoticeLevel, text: str) -> None:
        """Tell something that a person should know, in one line without trailing period."""


class _SilentTask:
    def advance(self, amount: int) -> None:
        """Drop it."""


class SilentMonitor:
    """Drops everything: the monitor of library callers and of pipes."""

    @contextmanager
    def task(self, name: str, total: int | None, unit: str = "B") -> Iterator[Task]:  # noqa: ARG002 - the protocol's
        """Open a task that nobody watches."""
        yield _SilentTask()

    def notice(self, level: NoticeLevel, text: str) -> None:
        """Drop it."""
