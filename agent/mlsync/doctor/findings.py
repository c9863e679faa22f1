"""What a check found, how grave it is, and how checks run: all at once, each under a time bound of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from mlsync.errors import Error

BOUND_S: Final = 5.0
#: How a finding begins that says why there is none.
UNKNOWN: Final = "could not be looked at: "


class Grade(Enum):
    """How a finding stands, the gravest first."""

    GRAVE = "grave"
    WARNING = "warning"
    UNKNOWN = "unknown"
    FINE = "fine"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was looked at: *what* was seen, what that *means*, and what to do (*advice*)."""

    subject: str
    grade: Grade
    what: str
    means: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """*look* finds out about *subject*; what it has not found after *bound_s* seconds is *late*, mostly unknown."""

    subject: str
    look: Callable[[], Iterable[Diagnosis]]
    bound_s: float = BOUND_S
    late: Diagnosis | None = None


@dataclass(slots=True)
class _Running:
    check: Check
    found: list[Diagnosis] = field(default_factory=list)
    thread: threading.Thread | None = None

    def run(self) -> None:
        try:
            self.found.extend(self.check.look())
        except (Error, OSError) as error:
            self.found.append(unknown(self.check.subject, str(error)))
        except Exception as bug:  # noqa: BLE001  a fault of one check must not hide what the others found
            self.found.append(unknown(self.check.subject, f"the check itself failed: {type(bug).__name__}: {bug}"))


def unknown(subject: str, why: str, advice: str = "") -> Diagnosis:
    """Return the finding about what could not be looked at."""
    return Diagnosis(subject, Grade.UNKNOWN, f"{UNKNOWN}{why}", advice=advice)


def examine(checks: Sequence[Check], *, clock: Callable[[], float] = time.monotonic) -> list[Diagnosis]:
    """Run all checks at once and return what they found, in their order.

    A check that hangs, as on a disk of a server that is gone, is left behind in a thread of its own. What it had found
    by then counts.
    """
    running = [_Running(check) for check in checks]
    began_s = clock()
    for one in running:
        # A daemon: a thread that hangs in the kernel does not keep the process.
        one.thread = threading.Thread(target=one.run, name=f"doctor {one.check.subject}", daemon=True)
        one.thread.start()
    found: list[Diagnosis] = []
    for one in running:
        assert one.thread is not None
        one.thread.join(max(0.0, began_s + one.check.bound_s - clock()))
        is_late = one.thread.is_alive()
        found += tuple(one.found)
        if is_late:
            found.append(one.check.late or unknown(one.check.subject, f"no answer within {one.check.bound_s:g} s"))
    return found
