"""The resident agent: a worker for each run, woken by changes, by rescans and by the clock, until a signal ends it."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Self

from mlsync.config.every import HOURLY, Every
from mlsync.config.model import Config
from mlsync.errors import ConfigInvalid, RunLocked
from mlsync.monitor import Monitor
from mlsync.service import status
from mlsync.service.changes import Changes
from mlsync.service.job import RunJob
from mlsync.service.notify import Notifier
from mlsync.service.worker import Timing, Worker

_STOP, _NOW, _TOLD = b"s", b"n", b"t"
_MEANINGS = {signal.SIGTERM: _STOP, signal.SIGINT: _STOP, signal.SIGHUP: _NOW}
TICK_S = 20.0


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What the agent goes by; *status_file* tells how each run fares, *repository* says whose runs they are."""

    repository: str
    status_file: Path
    every: Every = HOURLY
    timing: Timing = field(default_factory=Timing)
    stop_within_s: float = 25.0
    # Far above the longest silence of a healthy pass, which is a proof on a slow device or a store's retries.
    hung_after_s: float = 1800.0

    @classmethod
    def of(cls, config: Config) -> Self:
        """What the configuration says of it."""
        agent = config.agent
        return cls(
            repository=config.repository,
            status_file=config.state_directory / status.FILE_NAME,
            every=agent.every,
            timing=Timing(agent.on_change, agent.settle_s, agent.settle_max_s, agent.rescan_s),
            stop_within_s=agent.stop_within_s,
            hung_after_s=max(1800.0, 2 * config.proof.timeout_s),
        )


class Agent:
    """Cares for all runs until ``stop``; what one run goes through never delays another.

    The main thread does nothing that can block: it hears signals, says "alive" while all workers are, and tells the
    status. Each worker's thread, the watcher's and the schedule's are daemons, so that nothing outlives the agent.
    """

    def __init__(
        self,
        jobs: Sequence[RunJob],
        options: AgentOptions,
        monitor: Monitor,
        *,
        notifier: Notifier | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if not jobs:
            raise ConfigInvalid("nothing to watch", advice="name a directory under [[watch]] in the configuration")
        self._options = options
        self._monitor = monitor
        self._notifier = notifier or Notifier.from_environment()
        self._clock = clock
        self._wall = wall
        # Never closed: a worker that was cut short would speak into whatever file gets the number next.
        self._ear, self._mouth = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._workers = [
            Worker(job, options.timing, monitor, lambda: self._say(_TOLD), clock=clock, wall=wall) for job in jobs
        ]
        self._watched: Callable[[Path], bool] = lambda _: False
        self._hung: set[str] = set()
        self._started_s = wall()
        self._status_failed = False
        self._status: dict[str, Any] = {}

    def run(self, *, signals: bool = True) -> None:
        """Return after SIGTERM, SIGINT or ``stop``; raise ``RunLocked`` if every run turns out to be another's.

        Signals can be heard by a process's main thread only; elsewhere say *signals* = ``False``.
        """
        self._recall()
        with self._hearing_signals(signals), self._watching(), self._by_the_clock() as check_clock:
            for worker in self._workers:
                worker.start()
            self._notifier.ready()
            try:
                self._serve(check_clock)
            finally:
                self._notifier.stopping()
                self._end()

    def stop(self) -> None:
        """The agent ends soon; may be called from any thread and from signal handlers."""
        self._say(_STOP)

    def backup_now(self) -> None:
        """Every run is backed up as soon as its worker is free; may be called from any thread."""
        self._say(_NOW)

    def _serve(self, check_clock: Callable[[], None]) -> None:
        """Hear, look after the workers, tell; until told to stop."""
        while True:
            heard = self._hear(self._tick_s())
            if _STOP in heard:
                return
            if _NOW in heard:
                self._ask_all()
            check_clock()
            self._look_after_workers()
            self._tell()
            self._give_up_if_locked()

    def _tick_s(self) -> float:
        watchdog_s = self._notifier.watchdog_s
        return min(TICK_S, watchdog_s / 3) if watchdog_s else TICK_S

    def _ask_all(self) -> None:
        self._notifier.reloading()
        for worker in self._workers:
            worker.changes.ask()
        self._notifier.ready()

    def _look_after_workers(self) -> None:
        """Say "alive" only while every worker is: systemd starts the agent anew when that stays away."""
        hung = {worker.job.name for worker in self._workers if worker.hung(self._options.hung_after_s)}
        for name in sorted(hung - self._hung):
            self._monitor.notice("error", f"{name}: no progress for {self._options.hung_after_s:.0f} s; it hangs")
        self._hung = hung
        if not hung:
            self._notifier.alive()

    def _give_up_if_locked(self) -> None:
        """End when there is nothing left to do; while one run is ours, the locked ones are tried again now and then."""
        locked = [worker.state.locked for worker in self._workers]
        if all(error is not None for error in locked):
            first = locked[0]
            assert first is not None
            raise RunLocked(first.what, where=first.where, advice=first.advice)

    def as_json(self) -> dict[str, Any]:
        """How every run fares, as the status file tells it."""
        runs = [self._run_status(worker) for worker in self._workers]
        return status.as_json(runs, self._options.repository, self._started_s)

    def _tell(self) -> None:
        runs = [self._run_status(worker) for worker in self._workers]
        now_s = self._wall()
        self._notifier.status(status.as_line(runs, now_s))
        content = status.as_json(runs, self._options.repository, self._started_s)
        if content == self._status:
            return
        try:
            status.write_status(self._options.status_file, content)
        except OSError as error:
            if not self._status_failed:
                self._monitor.notice("warning", f"the status file cannot be written: {error.strerror}")
            self._status_failed = True
        else:
            self._status_failed, self._status = False, content

    def _run_status(self, worker: Worker) -> status.RunStatus:
        state = worker.state
        sleeps = state.phase in ("waiting", "retrying", "locked", "refused") and state.next_try_s != float("inf")
        next_try_s = self._wall() + max(0.0, state.next_try_s - self._clock()) if sleeps else None
        return status.RunStatus(
            worker.job.name, worker.job.directory, self._watched(worker.job.directory), state, next_try_s
        )

    def _recall(self) -> None:
        recalled = status.recall(self._options.status_file, self._options.repository)
        for worker in self._workers:
            worker.state = recalled.get(worker.job.name, worker.state)

    def _end(self) -> None:
        """Every worker was told to stop, and had its time for it; the status says so."""
        for worker in self._workers:
            worker.stop()
        deadline_s = time.monotonic() + self._options.stop_within_s
        while any(worker.thread.is_alive() for worker in self._workers):
            left_s = deadline_s - time.monotonic()
            # A second signal says that somebody does not want to wait.
            if left_s <= 0 or _STOP in self._hear(min(left_s, 1.0)):
                break
            self._notifier.alive()
        for worker in self._workers:
            if worker.thread.is_alive():
                self._monitor.notice(
                    "warning", f"{worker.job.name}: cut short; the next pass goes on from what is stored"
                )
        self._tell()

    def _say(self, word: bytes) -> None:
        # A full pipe means that the main thread has plenty to hear already, and a closed one that it is gone.
        with suppress(OSError):
            os.write(self._mouth, word)

    def _hear(self, timeout_s: float) -> bytes:
        """What was said since the last time; empty when nothing was within *timeout_s*."""
        ready, _, _ = select.select([self._ear], [], [], timeout_s)
        return os.read(self._ear, 4096) if ready else b""

    @contextmanager
    def _hearing_signals(self, wanted: bool) -> Iterator[None]:
        if not wanted:
            yield
            return

        def heard(number: int, _frame: FrameType | None) -> None:
            # Only a write: a lock taken here could be one that the interrupted code holds.
            self._say(_MEANINGS[signal.Signals(number)])

        before = {number: signal.signal(number, heard) for number in _MEANINGS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        if not self._options.timing.on_change:
            yield
            return
        from mlsync.service.watch import Watcher  # late, as all of inotify, for agents that go by the clock

        directories: dict[Path, list[Changes]] = {}
        for worker in self._workers:
            directories.setdefault(worker.job.directory, []).append(worker.changes)
        watcher = Watcher(directories, self._monitor)
        watcher.start()
        self._watched = watcher.watched
        try:
            yield
        finally:
            watcher.stop()

    @contextmanager
    def _by_the_clock(self) -> Iterator[Callable[[], None]]:
        from mlsync.service.schedule import Schedule  # late: commands that only need options do not pay for it

        schedule = Schedule(self._options.every, self._ask_by_the_clock)
        schedule.start()
        try:
            yield schedule.check_clock
        finally:
            schedule.stop()

    def _ask_by_the_clock(self) -> None:
        for worker in self._workers:
            worker.changes.ask()
