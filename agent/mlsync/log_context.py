"""The run and version that this process works on, for its log lines: a leaf that every layer may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class _Work:
    run: str = ""
    version: int | None = None


# One for all threads of the process, not a context variable: executors and threads would not inherit that. A process
# makes one pass at a time, since the agent starts a process for each run.
_WORK = _Work()


@contextmanager
def working_on(run: str, version: int | None = None) -> Iterator[None]:
    """Name *run*, and *version* once it is known, in every record that is logged until the context ends."""
    outer = _WORK.run, _WORK.version
    _WORK.run, _WORK.version = run, version
    try:
        yield
    finally:
        _WORK.run, _WORK.version = outer


def labelled(message: str) -> str:
    """Return a message that begins with the run and version that this process works on, if there is one."""
    run, version = _WORK.run, _WORK.version
    if not run:
        return message
    label = run if version is None else f"{run}/{version}"
    return f"{label}: {message.removeprefix(f'{run}: ')}"
