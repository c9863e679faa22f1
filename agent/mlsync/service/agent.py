"""The resident agent: one worker for each run; changes, rescans and the schedule wake it until a signal ends it."""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

from mlsync.app.pass_result import PassResult
from mlsync.config.every import HOURLY, Every
from mlsync.config.model import Config
from mlsync.config.places import runtime_directory
from mlsync.errors import ConfigInvalid, Error, ListenFailed, RunLocked
from mlsync.monitor import Monitor
from mlsync.service import status
from mlsync.service.afterwards.evaluations import AgentEvaluations
from mlsync.service.afterwards.mirrors import AgentMirrors
from mlsync.service.afterwards.registrations import Registrations
from mlsync.service.grace import stop_within_s
from mlsync.service.job import RunJob, hung_after_s
from mlsync.service.passes.asked_passes import AskedPasses
from mlsync.service.preemption_watch import PreemptionOptions, PreemptionWatch, within_s
from mlsync.service.run_record import LastEvaluation, RecordedJob, RunRecord
from mlsync.service.talk.metrics import exposition
from mlsync.service.talk.page import status_page
from mlsync.service.talk.place import STATUS_FILE, AgentPlace
from mlsync.service.talk.talk import Talk, TalkOptions
from mlsync.service.talk.told_saves import may_tell, told_below
from mlsync.service.telling.heartbeat_url import HeartbeatUrl
from mlsync.service.telling.news import News
from mlsync.service.telling.telling import Telling, TellOptions
from mlsync.service.telling.told_by_command import CommandNews
from mlsync.service.unit.notify import Notifier
from mlsync.service.watching.trigger import Trigger
from mlsync.service.worker import LastPass, Timing, Worker
from mlsync.source.finished import place_of_save
from mlsync.upkeep.version_seen import VersionSeen

_LOG: Final = logging.getLogger(__name__)
# What is written to the wakeup pipe.
_STOP, _BACKUP_NOW, _RELOAD, _STATE_CHANGED, _NOTICED, _END = b"s", b"n", b"r", b"c", b"p", b"e"
# A last pass that nobody hurries may take as long as it makes progress; a store that is away gives up long before.
_SILENT_S_MAX: Final = 150.0
# How long the end waits for copies where nothing says by when it is over.
_MIRRORS_S_MAX: Final = 600.0
_SIGNALS = {signal.SIGTERM: _STOP, signal.SIGINT: _STOP, signal.SIGHUP: _RELOAD, signal.SIGUSR1: _BACKUP_NOW}
TICK_S = 20.0
# A tick that comes later than so many says that this process could not run.
_LATE_TICKS: Final = 3


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """The agent's settings; *status_file* shows the state of each run, *repository* is the one that they belong to."""

    repository: str
    status_file: Path
    every: Every = HOURLY
    timing: Timing = field(default_factory=Timing)
    stop_within_s: float = 25.0
    hung_after_s: float = 1800.0
    silence_factor: float = 0.0
    preemption: PreemptionOptions | None = None
    talk: TalkOptions = field(default_factory=TalkOptions)
    heartbeat_url_file: Path | None = None
    tell: TellOptions = field(default_factory=TellOptions)
    proves: bool = True

    @classmethod
    def of(cls, config: Config) -> Self:
        """Return the settings that the configuration gives."""
        agent = config.agent
        return cls(
            repository=config.repository,
            status_file=config.state_directory / STATUS_FILE,
            every=agent.every,
            timing=Timing(agent.on_change, agent.settle_s, agent.settle_max_s, agent.rescan_s, agent.join_logs_s),
            stop_within_s=stop_within_s(config),
            hung_after_s=hung_after_s(config.proof.timeout_s),
            silence_factor=agent.silence_factor,
            preemption=PreemptionOptions.of(config),
            heartbeat_url_file=agent.heartbeat_url_file,
            tell=TellOptions.of(config),
            proves=config.proof.device != "none",
            talk=TalkOptions(agent.listen, agent.listen_names, agent.metrics_file, runtime_directory()),
        )


class Agent:
    """Keeps all runs backed up until ``stop``; no run delays another.

    The main thread does nothing that can block: it handles signals, notifies the watchdog while all workers are alive,
    and reports the status. The threads of workers, watcher and schedule are daemons, so that none outlives the agent.
    On a notice that the machine ends *request_save* is called, in the main thread, with the time on the monotonic
    clock by which the trainer is to have saved.
    """

    def __init__(
        self,
        jobs: Sequence[RunJob],
        options: AgentOptions,
        monitor: Monitor,
        *,
        notifier: Notifier | None = None,
        request_save: Callable[[float], object] = lambda _: None,
        read_again: Callable[[], bool] = lambda: False,
        registrations: Registrations | None = None,
        evaluations: AgentEvaluations | None = None,
        mirrors: AgentMirrors | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if not jobs:
            raise ConfigInvalid("nothing to watch", advice="name a directory under [[watch]] in the configuration")
        self._options = options
        self._monitor = monitor
        self._notifier = notifier or Notifier.from_environment()
        self._read_again = read_again
        self._registrations = registrations
        #: Whether the agent ended for another one, with a configuration that was read anew.
        self.is_superseded = False
        #: What that one has to heed: signals that came too late for this one.
        self.unheard = b""
        self._clock = clock
        self._wall = wall
        # Never closed: a worker that outlives ``run`` would write to whatever file gets the number next.
        self._wakeup_read, self._wakeup_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._records = {job.name: RunRecord(wall=wall) for job in jobs}
        heartbeat = HeartbeatUrl(options.heartbeat_url_file, monitor)
        self._mirrors = mirrors
        # Where only a mirror is safe, a proof in the repository is no reason to say that all is well.
        safe_at_proof = mirrors is None or not mirrors.decides
        if mirrors is not None:
            mirrors.proved_until = lambda run: self._records[run].proved_until_s
            mirrors.safe = lambda _run: self._safe_in_mirror(heartbeat)
            mirrors.changed = lambda: self._wake(_STATE_CHANGED)
        directory = options.status_file.parent
        self._place = AgentPlace(directory, options.repository, self._records)
        with suppress(OSError):
            self._place.claim()
        self._telling = Telling(options.tell, self._place, monitor, self._records, clock=clock, wall=wall)
        places = {"mlsync": directory} | {job.name: job.directory for job in jobs}
        #: Tells channels and hooks.
        self.news = News(
            self._telling,
            self._records,
            places,
            join_logs_s=options.timing.join_logs_s,
            proves=options.proves,
            clock=clock,
            wall=wall,
        )
        if registrations is not None:
            registrations.told = self.news.registered
        recorded = [
            RecordedJob(
                job,
                self._records[job.name],
                heartbeat.proved if safe_at_proof else lambda: None,
                partial(self._passed, job.name),
                wall=wall,
            )
            for job in jobs
        ]
        self._evaluations = evaluations
        if evaluations is not None and registrations is not None:
            registrations.evaluates = evaluations.evaluates
        if evaluations is not None:
            evaluations.versions = lambda run: self._records[run].versions
            evaluations.measured = self._measured
            self.news.evaluates, self.news.best_by = evaluations.evaluates, evaluations.best_by
        self._workers = [
            Worker(job, options.timing, monitor, lambda: self._wake(_STATE_CHANGED), clock=clock, wall=wall)
            for job in recorded
        ]
        # By when to end, if it was not a signal that asked for it.
        self._ending: tuple[float | None] | None = None
        self._preemption = PreemptionWatch(
            options.preemption,
            self._workers,
            monitor,
            lambda: self._wake(_NOTICED),
            request_save=request_save,
            told=self.news.preempted,
            clock=clock,
            wall=wall,
        )
        self._watched: Callable[[Path], bool] = lambda _: False
        self._asked = AskedPasses(self._seen)
        self._hung: set[str] = set()
        self._checked_s = clock()
        self._awake_since_s = -math.inf
        self._silent: set[str] = set()
        self._talk: Talk | None = None
        self._started_s = wall()
        self._status_failed = False
        self._status: dict[str, Any] = {}

    def run(self, *, signals: bool = True) -> None:
        """Return after SIGTERM, SIGINT or ``stop``; raise ``RunLocked`` if another process holds every run.

        Only a process's main thread can handle signals; elsewhere pass *signals* = ``False``.
        """
        self._restore_states()
        try:
            self._keep_watch(signals)
        except RunLocked:
            self._place.discard()
            raise
        finally:
            self._place.release()

    def _keep_watch(self, signals: bool) -> None:
        self._talk = talk = Talk(self, self._place, self._monitor, self._options.talk)
        with (
            self._handling_signals(signals),
            self._telling.going_on(),
            talk.going_on(),
            self._watching(),
            self._scheduling() as check_clock,
        ):
            for worker in self._workers:
                worker.start()
            self._notifier.ready()
            try:
                with self._preemption.going_on():
                    self._serve(check_clock)
            finally:
                if self.is_superseded:
                    self._give_way()
                else:
                    self._notifier.stopping()
                    self._end()
        if self.is_superseded:
            self.unheard += self._wait(0.0)

    def _passed(self, run: str, outcome: PassResult) -> None:
        """Tell what a pass came to, and have evaluated what is due by now; a worker's thread calls this."""
        self.news.passed(run, outcome)
        if self._evaluations is not None:
            self._evaluations.passed(run)
        if self._mirrors is not None:
            self._mirrors.passed(run, outcome)

    def _safe_in_mirror(self, heartbeat: HeartbeatUrl) -> None:
        """Tell that more of a run is in a mirror; the thread that copied it calls this."""
        if self._mirrors is not None and self._mirrors.decides:
            heartbeat.proved()

    def _measured(self, run: str, measured: LastEvaluation) -> None:
        """Note and tell what became of an evaluation; its thread calls this."""
        self._records[run].evaluated(measured)
        self.news.evaluated(run, measured)
        if self._registrations is not None and (measured.numbers or measured.is_final):
            self._registrations.evaluated(run)
        self._wake(_STATE_CHANGED)

    def heed(self, events: bytes) -> None:
        """Take over what another agent has not heeded."""
        self._wake(events)

    def stop(self) -> None:
        """Ask the agent to end, as a signal does; any thread and any signal handler may call this."""
        self._wake(_STOP)

    def end(self, deadline_s: float | None) -> None:
        """Ask the agent to end with a last pass that is over by *deadline_s*, on the monotonic clock, if there is one.

        It may be called again with another deadline. Any thread may call it.
        """
        self._ending = (deadline_s,)
        self._wake(_END)

    def hurry(self, deadline_s: float) -> None:
        """Have each run be stored now, and each change of it, before *deadline_s*; any thread may call this."""
        for worker in self._workers:
            worker.hurry(deadline_s)

    def last_passes(self) -> dict[str, LastPass | None]:
        """Return how the last pass of each run ended, after ``run``; ``None`` for one that had not ended in time."""
        return {worker.job.name: worker.last for worker in self._workers}

    def _serve(self, check_clock: Callable[[], None]) -> None:
        """Wait for events, check the workers and report the status, until an event says to stop."""
        while True:
            events = self._wait(self._tick_s())
            if _STOP in events or _END in events:
                return
            if _RELOAD in events and self._reload():
                return
            if _BACKUP_NOW in events:
                self._request_all()
            if _NOTICED in events:
                self._preemption.heed()
                if self._mirrors is not None:
                    self._mirrors.hurry()
            check_clock()
            self._check_workers()
            self._report()
            if self._talk is not None:
                self._talk.tick()
            self._give_up_if_locked()

    def _tick_s(self) -> float:
        watchdog_s = self._notifier.watchdog_s
        return min(TICK_S, watchdog_s / 3) if watchdog_s else TICK_S

    def _reload(self) -> bool:
        """Return whether another agent is to go on; else request a pass over each run.

        *read_again* returns whether the configuration is another one by now. A broken one changes nothing.
        """
        self._notifier.reloading()
        try:
            self.is_superseded = self._read_again()
        except Error as error:
            self._monitor.notice("error", f"the configuration was not read again, and the old one stays: {error}")
        if not self.is_superseded:
            self._request_all()
            self._notifier.ready()
        return self.is_superseded

    def _give_way(self) -> None:
        """End all passes at their next safe point, for the agent that goes on with these runs."""
        for worker in self._workers:
            worker.stop()
        self._await_workers(time.monotonic() + self._options.stop_within_s)
        self._report()

    def _request_all(self) -> None:
        for worker in self._workers:
            worker.trigger.request()

    def request_backup(self, runs: Sequence[str], query: Mapping[str, list[str]]) -> dict[str, Any]:
        """Request a pass over each of *runs*, or all of them, as ``TalkingAgent`` says.

        With ``preempt`` in the query it is for the machine's end, ``within`` so many seconds.
        """
        workers = {worker.job.name: worker for worker in self._workers}
        wanted = [workers[run] for run in runs] or self._workers
        ids = [self._asked.add(worker.job.name, worker.request_now()) for worker in wanted]
        if "preempt" in query:
            # Afterwards: a pass that began between the two would be asked for and not hurry.
            self._preemption.preempt(wanted, within_s(query))
        return {"requested": [worker.job.name for worker in wanted], **self.requested(ids)}

    def tell_saved(
        self, paths: Sequence[bytes], runs: Sequence[str], uid: int | None, *, is_awaited: bool = False
    ) -> dict[str, Any]:
        """Have the runs that *paths* concern read them at once, as ``TalkingAgent`` says."""
        ids = []
        for worker in self._workers:
            below = told_below(worker.job.directory, worker.trigger.place, paths)
            if below is None or (runs and worker.job.name not in runs) or not may_tell(worker.trigger.place, uid):
                continue
            asked = worker.trigger.tell_saved(place_of_save(below), below, is_awaited=is_awaited)
            ids.append(self._asked.add(worker.job.name, asked, uid))
        if not ids:
            raise KeyError
        return self.requested(ids, uid)

    def requested(self, ids: Sequence[int], uid: int | None = None) -> dict[str, Any]:
        """Return what became of passes that were requested, as ``TalkingAgent`` says."""
        return {"passes": self._asked.as_json(ids, uid)}

    def _seen(self, run: str, version: int) -> VersionSeen | None:
        """Return what is remembered of a version by now."""
        return next((one for one in self._records[run].versions if one.version == version), None)

    def tell(self, news: Any) -> None:
        """Tell what a command did, as ``TalkingAgent`` says."""
        CommandNews.of_json(news).tell(self._telling)

    def statuses(self) -> list[status.RunStatus]:
        """Return the state of every run, with what is remembered of it."""
        return [self._run_status(worker) for worker in self._workers]

    def metrics(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return exposition(
            self.statuses(), self._started_s, self._telling.as_json(), self._registry_json(), self._mirrors_json()
        )

    def page(self) -> bytes:
        """Return the status page."""
        return status_page(self.statuses(), self._options.repository, socket.gethostname(), self._wall())

    @property
    def listen_failed(self) -> ListenFailed | None:
        """Why the address for metrics and the status page could not be had to the last, if it could not."""
        return None if self._talk is None else self._talk.failed

    def unhealthy(self) -> str | None:
        """Return which runs hang, if any do."""
        return f"hangs: {', '.join(sorted(self._hung))}" if self._hung else None

    def unready(self) -> str | None:
        """Return which runs have not been looked at since the agent started, if there are such."""
        waiting = [worker for worker in self._workers if worker.state.last_pass_s is None]
        texts = [one.job.name + (f" ({one.state.last_error})" if one.state.last_error else "") for one in waiting]
        return f"no pass yet: {', '.join(texts)}" if waiting else None

    def _check_workers(self) -> None:
        """Notify the watchdog only while no worker hangs; otherwise systemd restarts the agent."""
        self._note_awake()
        for worker in self._workers:
            if worker.state.phase == "running" and (silent_s := worker.job.heartbeat.age_s) >= TICK_S:
                _LOG.debug("%s: the pass has made no progress for %.0f s", worker.job.name, silent_s)
        limit_s = self._options.hung_after_s
        hung = {worker.job.name for worker in self._workers if self._was_awake(limit_s) and worker.hung(limit_s)}
        for name in sorted(hung - self._hung):
            self._monitor.notice("error", f"{name}: no progress for {self._options.hung_after_s:.0f} s; it hangs")
        self._hung = hung
        if not hung:
            self._notifier.alive()

    def _was_awake(self, for_s: float) -> bool:
        """Return whether this process could run for the last *for_s*: when it was stopped, its passes were too."""
        return self._clock() >= self._awake_since_s + for_s

    def _note_awake(self) -> None:
        """Notice a tick that comes far too late: the process was stopped, or the machine was."""
        now_s = self._clock()
        if now_s > self._checked_s + _LATE_TICKS * TICK_S:
            self._awake_since_s = now_s
        self._checked_s = now_s

    def _give_up_if_locked(self) -> None:
        """Raise ``RunLocked`` if every run is locked; while one run is ours, the others are tried again."""
        locked = [worker.state.locked for worker in self._workers]
        if all(error is not None for error in locked):
            first = locked[0]
            assert first is not None
            raise RunLocked(first.what, where=first.where, advice=first.advice)

    def as_json(self) -> dict[str, Any]:
        """Return the state of every run, as the status file shows it."""
        runs = [self._run_status(worker) for worker in self._workers]
        return self._content(runs, self._wall())

    def _report(self) -> None:
        """Report the status to systemd, and in the status file if it changed, or was written long ago."""
        runs = [self._run_status(worker) for worker in self._workers]
        now_s = self._wall()
        self._tell_silence(runs)
        self.news.look(runs)
        self._notifier.status(status.as_line(runs, now_s))
        content = self._content(runs, now_s)
        if not status.is_news(content, self._status):
            return
        try:
            status.write_status(self._place.file(STATUS_FILE), content)
        except OSError as error:
            if not self._status_failed:
                self._monitor.notice("warning", f"the status file cannot be written: {error.strerror}")
            self._status_failed = True
        else:
            self._status_failed, self._status = False, content

    def _tell_silence(self, runs: Sequence[status.RunStatus]) -> None:
        """Warn, when it begins, of each run whose checkpoints do not come any more."""
        texts = {run.run: text for run in runs if (text := status.silence_in_words(run)) is not None}
        for run in sorted(texts.keys() - self._silent):
            self._monitor.notice("warning", texts[run])
        self._silent = set(texts)

    def _content(self, runs: Sequence[status.RunStatus], now_s: float) -> dict[str, Any]:
        notices = self._preemption.as_json()
        channels, registry = self._telling.as_json(), self._registry_json()
        return status.as_json(
            runs, self._options.repository, self._started_s, now_s, notices, channels, registry, self._mirrors_json()
        )

    def _mirrors_json(self) -> list[dict[str, Any]]:
        return [] if self._mirrors is None else self._mirrors.as_json()

    def _registry_json(self) -> dict[str, Any] | None:
        return None if self._registrations is None else self._registrations.as_json()

    def _run_status(self, worker: Worker) -> status.RunStatus:
        state = worker.state
        worker.follow_clock(self._wall())
        self._records[worker.job.name].follow_clock(self._wall())
        sleeps = state.phase in ("waiting", "retrying", "locked", "refused") and state.next_try_s != float("inf")
        next_try_s = self._wall() + max(0.0, state.next_try_s - self._clock()) if sleeps else None
        changed_s, now_s = worker.trigger.changes.first_s, self._wall()
        lag_s, proof_lag_s = worker.behind_s()
        return status.RunStatus(
            worker.job.name,
            worker.job.directory,
            self._watched(worker.job.directory),
            state,
            next_try_s,
            now_s,
            self._records[worker.job.name],
            worker.job.heartbeat,
            silent_s=worker.job.heartbeat.age_s if state.phase == "running" else None,
            changed_s=None if changed_s is None else now_s - (self._clock() - changed_s),
            silence_factor=self._options.silence_factor,
            lag_s=lag_s,
            proof_lag_s=proof_lag_s,
            safe_in_mirror=self._mirrors is not None and self._mirrors.decides,
            mirrored_until_s=None if self._mirrors is None else self._mirrors.safe_until_s(worker.job.name),
        )

    def _restore_states(self) -> None:
        states = status.read_states(self._place.directory, self._options.repository)
        for worker in self._workers:
            worker.state = states.get(worker.job.name, worker.state)
        proved = status.read_proved_until(self._place.directory, self._options.repository)
        for run, record in self._records.items():
            record.proved_until_s = proved.get(run)
        if self._mirrors is not None:
            self._mirrors.restore(status.read_mirrors(self._place.directory, self._options.repository))

    def _end(self) -> None:
        """Have all workers make a last pass, within the time that the settings allow, and report the status."""
        deadline_s = self._begin_last_passes()
        self._await_workers(deadline_s)
        self._await_mirrors(deadline_s)
        for worker in self._workers:
            if worker.thread.is_alive():
                self._monitor.notice(
                    "warning", f"{worker.job.name}: cut short; the next pass goes on from what is stored"
                )
        self._report()

    def _begin_last_passes(self) -> float | None:
        """Have the workers make their last passes; return by when they are to be done, if there is such a time."""
        (deadline_s,) = self._ending or (time.monotonic() + self._options.stop_within_s,)
        # For the end of the processes, and of this one.
        margin_s = 0.0 if deadline_s is None else min(1.0, max(0.0, deadline_s - time.monotonic()) / 10)
        for worker in self._workers:
            worker.last_pass(None if deadline_s is None else deadline_s - margin_s)
        return deadline_s

    def _left_s(self, deadline_s: float | None) -> float:
        if deadline_s is not None:
            return deadline_s - time.monotonic()
        silent_s = max((one.job.heartbeat.age_s for one in self._workers if one.thread.is_alive()), default=0.0)
        return _SILENT_S_MAX - silent_s

    def _await_workers(self, deadline_s: float | None) -> None:
        """Wait until all workers ended, or until *deadline_s*; a signal means that somebody does not want to wait."""
        while any(worker.thread.is_alive() for worker in self._workers):
            left_s = self._left_s(deadline_s)
            if left_s <= 0:
                return
            events = self._wait(min(left_s, 1.0))
            self.unheard += events
            if _STOP in events:
                return
            if _END in events:
                deadline_s = self._begin_last_passes()
            self._notifier.alive()

    def _await_mirrors(self, deadline_s: float | None) -> None:
        """Wait until the last versions are in the mirrors, if the repository may go with this machine."""
        if self._mirrors is None or not self._mirrors.decides or not self._mirrors.is_busy:
            return
        self._mirrors.hurry()
        until_s = time.monotonic() + _MIRRORS_S_MAX if deadline_s is None else deadline_s
        while self._mirrors.is_busy and (left_s := until_s - time.monotonic()) > 0:
            events = self._wait(min(left_s, 0.25))
            self.unheard += events
            if _STOP in events:
                return
            self._notifier.alive()

    def _wake(self, event: bytes) -> None:
        # A full pipe means that the main thread has enough to handle already, and a closed one that it is gone.
        with suppress(OSError):
            os.write(self._wakeup_write, event)

    def _wait(self, timeout_s: float) -> bytes:
        """Return the events since the last call; empty when none came within *timeout_s*."""
        ready, _, _ = select.select([self._wakeup_read], [], [], timeout_s)
        return os.read(self._wakeup_read, 4096) if ready else b""

    @contextmanager
    def _handling_signals(self, wanted: bool) -> Iterator[None]:
        if not wanted:
            yield
            return

        def handle(number: int, _frame: FrameType | None) -> None:
            # Only a write: the interrupted code could hold any lock that this took.
            self._wake(_SIGNALS[signal.Signals(number)])

        before = {number: signal.signal(number, handle) for number in _SIGNALS}
        # An agent that this one follows had them wait.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        try:
            yield
        finally:
            if self.is_superseded:
                # Between two agents a signal would end the process: it waits for the next one.
                signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        if not self._options.timing.on_change:
            yield
            return
        from mlsync.service.watching.watch import Watcher  # late: agents that only follow the schedule need no inotify

        directories: dict[Path, list[Trigger]] = {}
        for worker in self._workers:
            directories.setdefault(worker.job.directory, []).append(worker.trigger)
        watcher = Watcher(directories, self._monitor)
        watcher.start()
        self._watched = watcher.watched
        try:
            yield
        finally:
            watcher.stop()

    @contextmanager
    def _scheduling(self) -> Iterator[Callable[[], None]]:
        from mlsync.service.watching.schedule import (  # late: commands that only need options do not pay for it
            JITTER_S,
            Schedule,
        )

        schedule = Schedule(self._options.every, self._request_all, jitter_s=JITTER_S)
        schedule.start()
        try:
            yield schedule.check_clock
        finally:
            schedule.stop()
