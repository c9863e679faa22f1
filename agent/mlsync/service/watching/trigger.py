"""What starts the next pass over a run: the watcher and the schedule pull it, the worker waits for it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from mlsync.app.pass_result import PassResult
from mlsync.service.watching.holds import Holds
from mlsync.source.finished import Saved

# A run with more saves under way at a time counts those beyond as one.
_SAVES_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class ChangeTimes:
    """When the first and the last change of a kind came since the last pass began, on the monotonic clock."""

    first_s: float
    last_s: float

    def at(self, now_s: float) -> ChangeTimes:
        """Return the times with one more change, just now."""
        return ChangeTimes(self.first_s, now_s)


@dataclass(frozen=True, slots=True)
class SaveTimes:
    """The changes of one checkpoint, and whether its name says that the writer is done, or that it is one file.

    *told_s* is when its writer itself said first that it is whole. *is_awaited*: the writer waits for its version.
    """

    times: ChangeTimes
    has_ended: bool = False
    is_alone: bool = False
    told_s: float | None = None
    is_awaited: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since the last pass began.

    *saves* are checkpoints, by place; a place may be in use for many of them. *files* are new files of any other kind.
    *logs* are files that were there and grew or were written again, and deletions: nothing is lost if these wait.
    """

    saves: dict[bytes, SaveTimes] = field(default_factory=dict)
    files: ChangeTimes | None = None
    logs: ChangeTimes | None = None

    @property
    def first_s(self) -> float | None:
        """When the first change came that does not wait for others; ``None`` if none did."""
        firsts = [save.times.first_s for save in self.saves.values()]
        return min(firsts if self.files is None else [*firsts, self.files.first_s], default=None)


@dataclass(frozen=True, slots=True)
class RunPlace:
    """The directory of a run as it was found: by its real path, and whose it is."""

    path: bytes
    owner: int


class Asked:
    """A pass that somebody asked for, and how it ended; *path* is the save that it is for, in the directory."""

    def __init__(self, path: bytes = b"") -> None:
        self.path = path
        self.result: PassResult | None = None
        self.error: Exception | None = None
        #: The version that holds what the pass found, whether or not the pass made it.
        self.version: int | None = None
        self._ended = threading.Event()

    def end(self, result: PassResult | None, error: Exception | None, version: int | None = None) -> None:
        """Record how the pass ended; neither of the first two if the agent ended first."""
        self.result, self.error, self.version = result, error, version
        self._ended.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return whether it ended within *timeout_s*."""
        return self._ended.wait(timeout_s)


class Trigger:
    """Wakes the worker of one run: for changes of its files, for requests, and to end it.

    *before_pass* is called, in the thread that notes it, when a checkpoint changes first after a pass began. *holds*
    keeps finished checkpoints open until a pass has read them.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        before_pass: Callable[[], None] = lambda: None,
        holds: Holds | None = None,
    ) -> None:
        self.holds = holds
        #: Where the run's directory was found last; ``None`` before it was.
        self.place: RunPlace | None = None
        #: The longest time between two rescans, where changes may go unreported.
        self.rescan_within_s = math.inf
        #: When the newest finished file of a checkpoint was seen, on the same clock.
        self.saved_s = -math.inf
        self._clock = clock
        self._before_pass = before_pass
        self._wakeup = threading.Condition()
        self._changes = Changes()
        self._is_requested = False
        self._asked: list[Asked] = []
        self._is_closed = False

    def note_change(self) -> None:
        """Record that a file of no known kind changed just now."""
        now_s = self._clock()
        with self._wakeup:
            self._set(replace(self._changes, files=_later(self._changes.files, now_s)))

    def note_log(self) -> None:
        """Record that a file that was there grew or was written again, or that one was deleted."""
        now_s = self._clock()
        with self._wakeup:
            self._set(replace(self._changes, logs=_later(self._changes.logs, now_s)))

    def note_save(self, place: bytes, *, has_ended: bool, is_alone: bool = False) -> None:
        """Record that a file of the checkpoint at *place* was finished just now."""
        with self._wakeup:
            is_first = self._add_save(place, has_ended=has_ended, is_alone=is_alone)
        if is_first:
            self._before_pass()

    def tell_saved(self, place: bytes, path: bytes, *, is_awaited: bool = False) -> Asked:
        """Record that a writer says that its save *path* is whole, which is at *place*; return how its pass ends.

        *is_awaited*: the writer waits for that. Unlike ``ask``, it does not bring a retry forward: a trainer that saves
        often would ask a store that is away.
        """
        asked = Asked(path)
        with self._wakeup:
            if self._is_closed:
                asked.end(None, None)
                return asked
            self._asked.append(asked)
            is_first = self._add_save(place, has_ended=True, is_told=True, is_awaited=is_awaited)
        if is_first:
            self._before_pass()
        return asked

    def hold(self, path: bytes, saved: Saved) -> None:
        """Hold a finished file open until a pass has read it."""
        if self.holds is not None:
            self.holds.add(path, saved)

    def request(self) -> None:
        """Request a pass now, whether files changed or not."""
        with self._wakeup:
            self._is_requested = True
            self._wakeup.notify_all()

    def ask(self) -> Asked:
        """Request a pass that begins from now on, and return what says how it ended."""
        asked = Asked()
        with self._wakeup:
            if self._is_closed:
                asked.end(None, None)
                return asked
            self._asked.append(asked)
            self._is_requested = True
            self._wakeup.notify_all()
        return asked

    def ask_again(self, asked: Sequence[Asked]) -> None:
        """Have these wait for the next pass."""
        with self._wakeup:
            self._asked.extend(asked)
            self._is_requested = self._is_requested or bool(asked)

    def close(self) -> None:
        """End each ``wait``, now and later."""
        with self._wakeup:
            self._is_closed = True
            self._wakeup.notify_all()

    def end_asked(self) -> None:
        """Tell all who wait for a pass that there will be none."""
        with self._wakeup:
            asked, self._asked = self._asked, []
        for one in asked:
            one.end(None, None)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._is_closed

    @property
    def is_requested(self) -> bool:
        """Whether somebody requested a pass since the last ``clear``."""
        return self._is_requested

    @property
    def changes(self) -> Changes:
        """The changes since the last ``clear``."""
        return self._changes

    def clear(self) -> list[Asked]:
        """Forget changes and requests, since a pass begins: what comes from now on is for the next one.

        Return those who wait for the pass.
        """
        with self._wakeup:
            self._changes = Changes()
            self._is_requested = False
            asked, self._asked = self._asked, []
            return asked

    def wait(self, due: Callable[[Changes, bool], float], asks_again_s: Callable[[], float] = lambda: math.inf) -> bool:
        """Sleep until the time that *due* gives; return ``False`` if closed.

        Each wakeup asks again, and so does the time that *asks_again_s* gives.
        """
        with self._wakeup:
            while not self._is_closed:
                left_s = due(self._changes, self._is_requested) - self._clock()
                if left_s <= 0:
                    return True
                self._wakeup.wait(min(left_s, asks_again_s(), threading.TIMEOUT_MAX))
            return False

    def _add_save(
        self, place: bytes, *, has_ended: bool, is_alone: bool = False, is_told: bool = False, is_awaited: bool = False
    ) -> bool:
        """Add a change of a checkpoint, just now; return whether it is the first one since a pass began."""
        now_s = self._clock()
        told_s = now_s if is_told else None
        saves = dict(self._changes.saves)
        is_first = not saves
        if place not in saves and len(saves) >= _SAVES_MAX:
            place = next(reversed(saves))
        before = saves.get(place)
        saves[place] = SaveTimes(
            _later(None if before is None else before.times, now_s),
            has_ended,
            is_alone and (before is None or before.is_alone),
            told_s if before is None or before.told_s is None else before.told_s,
            is_awaited or (before is not None and before.is_awaited),
        )
        self.saved_s = now_s
        self._set(replace(self._changes, saves=saves), is_save=True)
        return is_first

    def _set(self, changes: Changes, *, is_save: bool = False) -> None:
        """Replace the changes, and wake the worker for what may bring its pass forward.

        While other files keep changing it looks again by itself.
        """
        before, self._changes = self._changes, changes
        is_first = (before.files, before.logs).count(None) != (changes.files, changes.logs).count(None)
        if is_save or is_first:
            self._wakeup.notify_all()


def _later(times: ChangeTimes | None, now_s: float) -> ChangeTimes:
    return ChangeTimes(now_s, now_s) if times is None else times.at(now_s)
