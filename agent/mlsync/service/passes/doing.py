"""What a pass does at the moment, as its process tells the agent with each beat: a module without imports of weight."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from mlsync.app.forecast import Speed
from mlsync.app.wording import STORE_WAITS
from mlsync.courtesy.slowness import SLOWNESS

# What a person reads in a line; a file's path may be as long as the file system lets it be.
_TEXT_CHARS_MAX: Final = 300


@dataclass(frozen=True, slots=True)
class Doing:
    """A step of a pass: *done* of *total* units, and the seconds that are left by its speed, where these are known.

    *waits* says what of the store failed and is tried again, and *retry_count* how often that was, in this process.
    *slowed* says what makes it slower than it could be: a limit, or that others need the machine.
    """

    what: str = ""
    said: str = ""
    done: int = 0
    total: int | None = None
    unit: str = "B"
    left_s: float | None = None
    waits: str = ""
    retry_count: int = 0
    slowed: str = ""

    @classmethod
    def of_json(cls, value: Any) -> Self:
        """Return what ``as_json`` returned."""
        return cls(**value)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


class DoingNow:
    """Notes what goes on in a process whose threads report tasks and notices."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._steps: list[PassStep] = []
        self._waits = ""
        self._retry_count = 0

    def begin(self, what: str, total: int | None, unit: str) -> PassStep:
        """Return a step that goes on until ``end``."""
        step = PassStep(self, what, total, unit)
        with self._lock:
            self._steps.append(step)
        return step

    def end(self, step: PassStep) -> None:
        """Forget a step."""
        with self._lock:
            self._steps.remove(step)

    def notice(self, text: str) -> bool:
        """Note a notice; return whether it says that the store is waited for."""
        if not text.startswith(STORE_WAITS):
            return False
        self._waits = text[:_TEXT_CHARS_MAX]
        self._retry_count += 1
        return True

    def advanced(self) -> float:
        """Note that something was done, so that nothing is waited for; return the time."""
        self._waits = ""
        return self._clock()

    @property
    def now(self) -> Doing:
        """What goes on: the step that began last says more than those around it."""
        with self._lock:
            step = self._steps[-1] if self._steps else None
        if step is None:
            return Doing(waits=self._waits, retry_count=self._retry_count, slowed=SLOWNESS.why)
        done, now_s = step.done, self._clock()
        rate = step.speed.rate(done, now_s)
        is_known = rate and step.total is not None and step.unit == "B"
        left_s = max(0.0, (step.total or 0) - done) / rate if is_known and rate else None
        known = (step.what, step.said, done, step.total, step.unit, left_s, self._waits, self._retry_count)
        return Doing(*known, SLOWNESS.why)


class PassStep:
    """One task of a pass."""

    def __init__(self, owner: DoingNow, what: str, total: int | None, unit: str) -> None:
        self._owner = owner
        self.what = what[:_TEXT_CHARS_MAX]
        self.total = total
        self.unit = unit
        self.said = ""
        self.done = 0
        self.speed = Speed()

    def advance(self, amount: int) -> None:
        """Note progress."""
        self.done += amount
        self.speed.sample(self.done, self._owner.advanced())

    def say(self, what: str) -> None:
        """Note what is being done at the moment."""
        self.said = what[:_TEXT_CHARS_MAX]
