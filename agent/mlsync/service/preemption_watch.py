"""What the agent does about notices of a preemption: it listens, hurries the workers, and tells people and trainer."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol, Self

from mlsync.config.model import Config
from mlsync.monitor import Monitor
from mlsync.preemption.find import FoundPlatform, find_platforms
from mlsync.preemption.listener import Listener
from mlsync.preemption.notice import Effect
from mlsync.preemption.tracker import Act, Event

# Of the time that is left; a commit that ends with the machine is none.
_MARGIN_SHARE: Final = 0.1
_MARGIN_S_MAX: Final = 2.0
# What Kubernetes leaves, where nothing is known of the place.
_GRACE_S: Final = 30.0
_SECONDS: Final = re.compile(r"\d{1,5}(\.\d{1,6})?", re.ASCII)
_HURRIED: Final = "the newest checkpoints are backed up first, and proved later"


@dataclass(frozen=True, slots=True)
class PreemptionOptions:
    """Where notices come from, and how long a signal leaves here, in seconds."""

    platforms: tuple[FoundPlatform, ...]
    grace_s: float

    @classmethod
    def of(cls, config: Config) -> Self:
        """Return what the configuration says, and where it leaves it open what this machine shows.

        Raises ``ConfigInvalid`` if the environment names a metadata service on another machine.
        """
        settings = config.preemption
        found = () if settings.notices == () else tuple(find_platforms(settings.notices))
        shortest_s = min((one.platform.grace_s for one in found), default=_GRACE_S)
        return cls(found, shortest_s if settings.grace_s is None else settings.grace_s)


class Hurried(Protocol):
    """A worker, as far as a notice concerns it."""

    def request(self) -> None:
        """Make a pass now."""

    def hurry(self, deadline_s: float) -> None:
        """Make a pass now, and each further one, so that it is committed by *deadline_s*, on the monotonic clock."""

    def relax(self) -> None:
        """Go on as before."""


class PreemptionWatch:
    """Listens while the agent runs; the main thread calls ``heed`` after *wake* was called, from any thread.

    *request_save* asks the trainer for a checkpoint that is written before a deadline on the monotonic clock.
    """

    def __init__(
        self,
        options: PreemptionOptions | None,
        workers: Sequence[Hurried],
        monitor: Monitor,
        wake: Callable[[], None],
        *,
        request_save: Callable[[float], object] = lambda _: None,
        told: Callable[[str, float | None], None] = lambda _platform, _left_s: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._found = () if options is None else options.platforms
        self._grace_s = _GRACE_S if options is None else options.grace_s
        self._workers = workers
        self._monitor = monitor
        self._wake = wake
        self._request_save = request_save
        self._told = told
        self._clock = clock
        self._wall = wall
        self._events: deque[Event] = deque()
        self._listener = Listener(self._found, self._take, monitor, clock=clock, wall=wall)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Listen."""
        asked = [one for one in self._found if one.platform.poll_s is not None]
        for one in asked:
            self._monitor.notice("info", f"listening to notices of {one.platform.name}: {one.why}")
        self._listener.start()
        try:
            yield
        finally:
            self._listener.stop()

    def preempt(self, workers: Sequence[Hurried], within_s: float | None) -> None:
        """Hurry *workers* because somebody else was told of the end, which is *within_s*, or what a signal leaves here.

        Any thread may call this.
        """
        left_s = self._grace_s if within_s is None else within_s
        self._monitor.notice("warning", f"a command says that this machine ends in {_span(left_s)}: {_HURRIED}")
        self._told("mlsync now --preempt", left_s)
        self._hurry(workers, left_s, is_new=True)

    def heed(self) -> None:
        """Act on all that has come."""
        acts = set()
        while self._events:
            event = self._events.popleft()
            acts.add(event.act)
            self._tell(event)
        if Act.HURRY in acts or Act.RELAX in acts:
            self._follow(is_new=Act.HURRY in acts)
        elif Act.FLUSH in acts:
            for worker in self._workers:
                worker.request()

    def as_json(self) -> list[dict[str, Any]]:
        """Return the events that are still to come, for the status; times are seconds since 1970."""
        return [
            {
                "platform": one.notice.platform,
                "kind": one.notice.kind,
                "effect": one.notice.effect.value,
                "certain": one.notice.certain,
                "deadline_s": None if one.deadline_s is None else round(one.deadline_s),
            }
            for one in self._listener.current
        ]

    def _take(self, events: list[Event]) -> None:
        self._events.extend(events)
        self._wake()

    def _follow(self, *, is_new: bool) -> None:
        """Have the workers follow the notice with the nearest end, if there is one left."""
        ends_s = [one.deadline_s for one in self._listener.current if one.act is Act.HURRY and one.deadline_s]
        if not ends_s:
            for worker in self._workers:
                worker.relax()
            return
        self._hurry(self._workers, min(ends_s) - self._wall(), is_new=is_new)

    def _hurry(self, workers: Sequence[Hurried], left_s: float, *, is_new: bool) -> None:
        deadline_s = self._clock() + left_s - min(_MARGIN_S_MAX, max(0.0, left_s) * _MARGIN_SHARE)
        for worker in workers:
            worker.hurry(deadline_s)
        if is_new:
            self._request_save(deadline_s)

    def _tell(self, event: Event) -> None:
        notice = event.notice
        what = f"{notice.platform}: {notice.kind}"
        when = "" if event.deadline_s is None else f" in {_span(event.deadline_s - self._wall())}"
        at = "" if event.deadline_s is None else f" ({_moment(event.deadline_s)})"
        if event.act is Act.RELAX:
            self._monitor.notice("info", f"{what} did not come, or was withdrawn; going on as before")
        elif event.act is Act.HURRY:
            self._told(notice.platform, None if event.deadline_s is None else event.deadline_s - self._wall())
            self._monitor.notice("warning", f"{what}{when}{at}: {_HURRIED}")
        elif notice.effect is Effect.PAUSE:
            self._monitor.notice("info", f"{what}{when}{at}: a pause of seconds; nothing is lost")
        else:
            risk = "this machine may end soon; " if notice.effect is Effect.RISK else ""
            self._monitor.notice("warning", f"{what}{when}{at}: {risk}backing up now")


def within_s(query: Mapping[str, list[str]]) -> float | None:
    """Return how many seconds a request names; ``None`` if it names none that can be."""
    text = query.get("within", [""])[-1]
    return float(text) if _SECONDS.fullmatch(text) else None


def _span(seconds: float) -> str:
    seconds = max(0.0, seconds)
    for unit, length_s in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 3 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "a date far away"
