"""The run and version that this process works on, for its log lines: a leaf that every layer may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec


class _Work(msgspec.Struct, frozen=True, eq=False):
    run: str
    version: int | None


# One list for all threads of the process, not a context variable: executors and threads would not inherit that. A
# process makes one pass at a time, since the agent starts a process for each run. Should two overlap all the same, each
# takes away what it added, so that no label outlives its work.
_WORK: list[_Work] = []


@contextmanager
def working_on(run: str, version: int | None = None) -> Iterator[None]:
    """Name *run*, and *version* once it is known, in every record that is logged until the context ends."""
    work = _Work(run, version)
    _WORK.append(work)
    try:
        yield
    finally:
        _WORK.remove(work)


def labelled(message: str) -> str:
    """Return a message that begins with the run and version that this process works on, if there is one."""
    if not _WORK:
        return message
    work = _WORK[-1]
    label = work.run if work.version is None else f"{work.run}/{work.version}"
    return f"{label}: {message.removeprefix(f'{work.run}: ')}"
