"""The process beside a training that restores, keeps watch and makes the last pass; ``messages`` has the protocol.

It depends on nobody: if ``mlsync run`` is killed, it keeps watch until the training has ended, makes a last pass, and
ends. Signals that a platform sends to all processes do not end it, since what the training writes last comes after
them.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO, Final

from mlsync import errors
from mlsync.app.pass_result import PassResult
from mlsync.app.privacy import keep_private
from mlsync.app.proof_user import refuse_untrusted_programs
from mlsync.app.wording import count, size
from mlsync.config.model import WatchSettings
from mlsync.courtesy.share import ProcessorShare
from mlsync.errors import Error, KeyServiceUnavailable, RunLocked, StoreUnavailable
from mlsync.monitor import Monitor
from mlsync.service.afterwards.daily_prune import DailyPrune
from mlsync.service.afterwards.evaluations import AgentEvaluations
from mlsync.service.afterwards.mirrors import AgentMirrors
from mlsync.service.afterwards.registrations import Registrations
from mlsync.service.agent import Agent, AgentOptions
from mlsync.service.backup_job import BackupJob, RepositoryOpener
from mlsync.service.grace import stop_within_s
from mlsync.service.job import Heartbeat
from mlsync.service.log import LogMonitor, log_to
from mlsync.service.passes.pass_process import PassProcess, RestoreRequest
from mlsync.service.training.messages import Began, End, Hurry, Start
from mlsync.service.unit.notify import Notifier
from mlsync.service.worker import LastPass
from mlsync.source.paths import display

_LOG: Final = logging.getLogger(__name__)
_AGAIN_S: Final = 5.0
# For what the last pass leaves to be registered, if the machine stays.
_REGISTER_S: Final = 60.0
# What a platform may send to each process it sees.
_ENDING: Final = (signal.SIGINT, signal.SIGTERM)
_IGNORED: Final = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class CompanionProcess:
    """Serves ``mlsync run`` until the training has ended and was backed up."""

    def __init__(self, start: Start, incoming: BinaryIO, answers: int, monitor: Monitor) -> None:
        self._start = start
        self._incoming = incoming
        self._answers = answers
        self._monitor = monitor
        # Handlers of signals take it too, in a thread that may have it already.
        self._lock = threading.RLock()
        self._parent = os.getppid()
        self._agent: Agent | None = None
        self._trainer = start.trainer
        self._end: End | None = None
        self._hurry_until_s: float | None = None
        # Set if the training will not be started; what gets ready for it stops.
        self._is_in_vain = threading.Event()
        self._opener = RepositoryOpener(start.config, start.unlock)
        self._prune = DailyPrune(start.config, monitor)
        self._models = Registrations(start.config, monitor)
        self._evaluations = AgentEvaluations(start.config, partial(self._opener.opened, threading.Event()), monitor)
        self._mirrors = AgentMirrors(start.config, partial(self._opener.opened, threading.Event()), monitor)
        share = ProcessorShare(start.config.limits.processor_share)
        self._jobs = [
            BackupJob(
                self._opener,
                watch,
                gently=start.gently,
                keeps_ready=start.keeps_ready,
                prune=self._prune,
                registrations=self._models,
                stored=self._tell_stored,
                share=share,
            )
            for watch in start.config.watches
        ]

    # ------------------------------------------------------------ before the training

    def prepare(self) -> None:
        """Open the repository, restore, and take the locks; raise what the training must not be started with."""
        refuse_untrusted_programs(self._start.config)
        try:
            opened = self._opener.opened(self._is_in_vain, Heartbeat())
        except (StoreUnavailable, KeyServiceUnavailable) as error:
            if self._start.restore is not None:
                error.advice = "nobody knows what is to be restored; --restore never starts without looking"
                raise
            self._monitor.notice("warning", f"{error}; waiting for it")
            return
        for job, watch in zip(self._jobs, self._start.config.watches, strict=True):
            if self._start.restore is not None:
                self._bring_back(opened, watch, self._start.restore)
            job.hold()
            directory = display(bytes(watch.directory))
            self._monitor.notice("info", f"{watch.run}: watching {directory} for {self._start.config.repository}")

    def _bring_back(self, opened: Any, watch: WatchSettings, wanted: str) -> None:
        process = PassProcess(watch.run, Heartbeat(), does="restores")
        try:
            request = RestoreRequest(self._start.config, opened, watch, wanted)
            done = process.ask(request, self._is_in_vain)
        finally:
            process.close()
        self._monitor.notice("info", f"{watch.run}: {_restored_text(done, watch)}")

    @property
    def is_in_vain(self) -> bool:
        """Whether no training will be started."""
        return self._is_in_vain.is_set()

    def listen(self) -> None:
        """Hear from now on what ``mlsync run`` says."""
        threading.Thread(target=self._listen, daemon=True).start()

    # ------------------------------------------------------------ beside it

    def keep_watch(self) -> None:
        """Keep watch until the training has ended, make the last passes, and tell what came of them."""
        while True:
            agent = self._new_agent()
            try:
                agent.run(signals=False)
            except RunLocked as error:
                self._monitor.notice("error", f"{error}; next try in {_AGAIN_S:.0f} s")
            except Exception:  # noqa: BLE001 - a bug must not end the backups of a training that goes on
                _LOG.exception("unexpected error; keeping watch anew in %.0f s", _AGAIN_S)
            if self._end is not None:
                break
            time.sleep(_AGAIN_S)
        if self._end.deadline_s is None:
            # Nobody goes on with it where a container ends with its training.
            self._models.finish(_REGISTER_S)
        self.tell(ended=_ended(agent.last_passes()))
        self._evaluations.close()
        self._mirrors.close()
        self._prune.close()
        self._models.close()
        for job in self._jobs:
            job.close()

    def _new_agent(self) -> Agent:
        with self._lock:
            options = AgentOptions.of(self._start.config)
            self._agent = Agent(
                self._jobs,
                options,
                self._monitor,
                notifier=Notifier(None),
                request_save=self._request_save,
                registrations=self._models,
                evaluations=self._evaluations,
                mirrors=self._mirrors,
            )
            if self._end is not None:
                self._agent.end(self._end.deadline_s)
            elif self._hurry_until_s is not None:
                self._agent.hurry(self._hurry_until_s)
            return self._agent

    def _request_save(self, deadline_s: float) -> None:
        """Have the training be told of a notice that the machine ends; this agent hurries already."""
        self.tell(notice={"deadline_s": deadline_s})

    def _listen(self) -> None:
        """Do what ``mlsync run`` says; when it is gone, keep watch until the training has ended."""
        while True:
            try:
                message = pickle.load(self._incoming)  # noqa: S301 - from the process that started this one
            except (EOFError, OSError, pickle.UnpicklingError):
                break
            match message:
                case Began():
                    self._trainer = message.trainer
                case Hurry():
                    self._hurry(message.deadline_s)
                case End():
                    self._end_by(message)
        if self._trainer is None:
            # Nobody will start one any more.
            self._is_in_vain.set()
        if self._end is None and self._trainer is not None and _is_there(self._trainer):
            text = f"mlsync run is gone; keeping watch until the training ends, process {self._trainer}"
            self._monitor.notice("warning", text)
            _wait_for(self._trainer)
        if self._end is None:
            self._end_by(End(None))

    def _hurry(self, deadline_s: float) -> None:
        with self._lock:
            self._hurry_until_s = deadline_s
            if self._agent is not None and self._end is None:
                self._agent.hurry(deadline_s)

    def _end_by(self, end: End) -> None:
        if self._trainer is None:
            self._is_in_vain.set()
        with self._lock:
            self._end = end
            if self._agent is not None:
                self._agent.end(end.deadline_s)

    def terminated(self) -> None:
        """End with a last pass if nobody is there any more who would say so."""
        if os.getppid() != self._parent and self._end is None:
            self._end_by(End(time.monotonic() + stop_within_s(self._start.config)))

    def _tell_stored(self, made: PassResult) -> None:
        stored = {"run": made.run, "version": made.version, "checkpoint_ns": made.newest_checkpoint_ns}
        self.tell(stored=stored)

    def tell(self, **message: Any) -> None:
        """Tell ``mlsync run``, if it is still there."""
        with suppress(BrokenPipeError):
            os.write(self._answers, json.dumps(message).encode() + b"\n")


def _ended(passes: dict[str, LastPass | None]) -> dict[str, Any]:
    """Return for each run the error of its last pass, or ``None`` for a good one."""
    return {run: "it was not done in time" if last is None else last.error for run, last in passes.items()}


def _restored_text(done: dict[str, Any], watch: WatchSettings) -> str:
    directory, version = display(bytes(watch.directory)), done["version"]
    if version is None:
        return "nothing to restore"
    which = f"version {version}" if done["word"] == "latest" else f"version {version} ({done['word']})"
    if done["standing"] == "same":
        return f"{directory} is as {which} has it"
    if done["standing"] == "ahead":
        return f"{directory} is ahead of {which}; nothing was restored"
    return f"{which} restored to {directory}: {count(done['file_count'], 'file')} written, {size(done['bytes'])}"


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _wait_for(pid: int) -> None:
    """Return when the process has ended; it is no child of this one."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
    finally:
        os.close(descriptor)


def main(arguments: Sequence[str] = ()) -> None:
    """Serve the process that started this one."""
    del arguments
    gc.set_threshold(20_000)
    incoming, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    # What a library reads or prints must not come between the messages.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    for number in (*_ENDING, *_IGNORED):
        signal.signal(number, signal.SIG_IGN)
    start = pickle.load(incoming)  # noqa: S301 - from the process that started this one
    keep_private()
    log_to(sys.stderr, start.level, as_json=start.config.agent.log_format == "json")
    companion = CompanionProcess(start, incoming, answers, LogMonitor())
    for number in _ENDING:
        signal.signal(number, lambda *_: companion.terminated())
    companion.listen()
    try:
        companion.prepare()
    except Error as error:
        if start.trainer is None:
            kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
            told = {"kind": kind.__name__, "what": error.what, "where": error.where, "advice": error.advice}
            companion.tell(error=told)
            return
        _LOG.error("%s; keeping watch all the same", error)
    if companion.is_in_vain:
        return
    companion.tell(ready=True)
    companion.keep_watch()


if __name__ == "__main__":
    main()
