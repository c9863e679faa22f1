"""What ``mlsync run`` tells the process that backs the training up, in pickles on its stdin.

It answers in lines of JSON on its stdout: ``ready`` when the training may start or ``error`` why it may not, ``stored``
for each version, and ``ended`` with what the last pass over each run came to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mlsync.config.model import Config
from mlsync.repository.keys.keyslot import Unlock


@dataclass(frozen=True, slots=True)
class Start:
    """Get ready: open the repository, restore the version *restore* where a directory lacks it, take the runs' locks.

    With *restore* ``None`` nothing is restored. *level* is that of the log. *trainer* is set if it runs already: the
    process that was here before has died. With *keeps_ready* a process waits for the last passes all the time.
    """

    config: Config
    unlock: Unlock = field(repr=False)
    restore: str | None
    gently: bool
    level: int
    trainer: int | None = None
    keeps_ready: bool = False


@dataclass(frozen=True, slots=True)
class Began:
    """The training runs, as the process *trainer*; keep watch."""

    trainer: int


@dataclass(frozen=True, slots=True)
class Hurry:
    """The machine may be gone at *deadline_s*, on the monotonic clock: store at once what is written, prove nothing."""

    deadline_s: float


@dataclass(frozen=True, slots=True)
class End:
    """The training has ended: make a last pass over each run, by *deadline_s* if there is one, and end."""

    deadline_s: float | None


ToCompanion = Start | Began | Hurry | End
