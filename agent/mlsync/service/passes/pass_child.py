"""The process in which an agent makes its passes; ``pass_process`` starts it and describes the protocol."""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import os
import pickle
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, Final

import msgspec

from mlsync import errors
from mlsync.app.passes import back_up, outcome
from mlsync.app.privacy import keep_private
from mlsync.app.session import Session, repository_id_of
from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.config.model import Config
from mlsync.courtesy.priority import NICE_LAST, NICE_SELDOM, describe, stand_back
from mlsync.courtesy.slowness import SLOWNESS
from mlsync.errors import Error, Stopped, StoreError
from mlsync.log_context import working_on
from mlsync.monitor import NoticeLevel, Task
from mlsync.proof.warm import WarmEngine
from mlsync.repository import names
from mlsync.repository.readable import newest_maker
from mlsync.repository.repository import Repository
from mlsync.service.afterwards.maintenance import Maintenance
from mlsync.service.log import JSON_LOG, LogMonitor, log_to
from mlsync.service.passes.doing import DoingNow, PassStep
from mlsync.service.passes.pass_process import (
    HANDED_AT_ONCE,
    HANDOVER,
    HURRY,
    LEAVE_GPU,
    STOP,
    CopyRequest,
    EvaluateRequest,
    LookRequest,
    Opened,
    OpenRequest,
    PassRequest,
    PruneRequest,
    ReadyRequest,
    RegisterRequest,
    Request,
    RestoreRequest,
)
from mlsync.source.held import HeldSave
from mlsync.source.takeover import NewestWriter, allow_takeover
from mlsync.upkeep.version_seen import VersionSeen

_LOG: Final = logging.getLogger(__name__)
# Often enough for the agent to see progress, and too seldom to cost anything.
_BEAT_S: Final = 1.0
# Of older versions the status page shows as many as fit, and an agent that starts reads as many manifests.
HISTORY_COUNT: Final = 60
# What most passes load that find something changed.
_OF_PASSES: Final = ("mlsync.backup.new_version", "mlsync.proof.prover", "mlsync.codec.planes")


class PassChild(LogMonitor):
    """Serves one request after the other, and keeps the repository open in between."""

    def __init__(self, requests: int, answers: int, handover: socket.socket | None = None) -> None:
        self._handover = handover
        self._incoming = os.fdopen(requests, "rb")
        self._answers = answers
        self._lock = threading.Lock()
        self._requests: queue.SimpleQueue[Request | ReadyRequest] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._session: Session | None = None
        self._beaten_s = 0.0
        self._doing = DoingNow()
        self._may_be_killed = False
        self._gives_way = False
        self._warm = WarmEngine()
        SLOWNESS.on_wait = self.beat

    def listen(self) -> None:
        """Receive the agent's messages, also during a pass; end the process when the agent is gone."""
        while True:
            try:
                message = pickle.load(self._incoming)  # noqa: S301 - from the process that started this one
            except EOFError:
                os._exit(0)
            if message == LEAVE_GPU:
                self._warm.leave()
            elif message in (STOP, HURRY):
                if self._may_be_killed:
                    os._exit(0)
                if message == HURRY:
                    self._hurry.set()
                self._stop.set()
                # A limit must not keep it from its next safe point.
                SLOWNESS.lift()
            else:
                # A prune has no safe point to wait for, and needs none.
                self._may_be_killed = isinstance(message, PruneRequest)
                # Not when the request is taken from the queue: a STOP that follows it would be lost.
                self._stop.clear()
                self._hurry.clear()
                self._requests.put(message)

    def serve(self) -> None:
        """Answer one request after the other."""
        while True:
            request = self._requests.get()
            if isinstance(request, ReadyRequest):
                self._get_ready(request.config, request.opened)
            else:
                self._send(**self._answer(request))

    def _get_ready(self, config: Config, opened: Opened) -> None:
        """Load what most passes need that find something changed; what is wrong, they tell."""
        for module in _OF_PASSES:
            import_module(module)
        with suppress(Error):
            self._resumed(config, opened)

    def _answer(self, request: Request) -> dict[str, Any]:
        # A backup begins its own work.
        SLOWNESS.begin(hurries=False)
        if self._stop.is_set():  # now: a stop that came before this began was to lift what it put back
            SLOWNESS.lift()
        try:
            done = self._done(request)
        except Error as error:
            if not isinstance(error, Stopped):
                # The next pass begins with a fresh connection and local state, whatever was wrong with these.
                self._close_session()
            return {"error": _as_json(error)}
        except Exception as bug:  # noqa: BLE001 - answered as an error: the agent survives it and tries again
            _LOG.exception("unexpected error")
            self._close_session()
            return {"error": _as_json(Error(f"unexpected error: {type(bug).__name__}: {bug}"))}
        return {"done": done}

    def _done(self, request: Request) -> dict[str, Any]:
        done: dict[str, Any]
        match request:
            case LookRequest():
                repository_id_of(request.config, self)
                done = {}
            case OpenRequest():
                done = self._open(request)
            case PassRequest():
                done = self._pass(request)
            case EvaluateRequest():
                done = self._evaluate(request)
            case PruneRequest():
                done = self._prune(request)
            case RegisterRequest():
                done = self._register(request)
            case CopyRequest():
                done = self._copy(request)
            case RestoreRequest():
                done = self._bring_back(request)
        return done

    def _open(self, request: OpenRequest) -> dict[str, Any]:
        with Session.open(request.config, lambda: request.unlock, self, writes_only=True) as session:
            repository = session.repository
            found = {"conditional_create": repository.conditional_create, "has_one_slot": _has_one_slot(repository)}
            if isinstance(request.unlock, WriteOnlyKeys):
                return found | {"slot": ""}
            return found | {
                "masters": [master.hex() for master in repository.keys.masters],
                "repository_id": repository.repository_id.hex(),
                "slot": repository.slot,
            }

    def _pass(self, request: PassRequest) -> dict[str, Any]:
        if request.gently and not self._gives_way:
            # Last in line beside a training on all processors it would take many seconds.
            self._get_ready(request.config, request.opened)
            stand_back(NICE_SELDOM if request.config.limits.processor_share < 1 else NICE_LAST)
            self._gives_way = True
            _LOG.debug("this process gives way: %s", describe())
        with working_on(request.watch.run), self._received(request.held) as held:
            return self._back_up(request, held)

    def _back_up(self, request: PassRequest, held: tuple[HeldSave, ...]) -> dict[str, Any]:
        session = self._confirmed(request.config, request.opened)
        end_s = request.deadline_s
        self._warm.stay_s = request.keeps_warm_s
        if end_s is not None:
            self._warm.close()  # the machine is about to go, and its trainer may need all there is
        result = back_up(
            session,
            request.watch,
            self,
            self._stop,
            deadline_s=end_s,
            hurry=self._hurry.is_set,
            at_once=request.is_unslowed,
            is_late=request.is_late,
            held=held,
            warm=self._warm,
        )
        if request.goes_on or self._hurry.is_set():
            # A trainer may save once more before the machine ends, and that must not wait for a proof.
            return dataclasses.asdict(outcome(result))
        maintenance = Maintenance(session, request.watch, self, self._stop, warm=self._warm)
        proved_version = maintenance.run(result) if end_s is None else maintenance.prove_until(end_s)
        made = outcome(result)
        told = () if end_s is not None else self._versions(request, {result.version, *maintenance.looked_at})
        return dataclasses.asdict(
            dataclasses.replace(
                made,
                proved_version=made.proved_version or proved_version,
                versions=told,
                damaged_count=maintenance.damaged_count,
            )
        )

    @contextmanager
    def _received(self, held: tuple[HeldSave, ...]) -> Iterator[tuple[HeldSave, ...]]:
        """Yield the saves with this process's own descriptors, which are closed afterwards."""
        count = sum(len(save.files) for save in held)
        descriptors: list[int] = []
        try:
            while self._handover is not None and len(descriptors) < count:
                wanted = min(HANDED_AT_ONCE, count - len(descriptors))
                _, some, _, _ = socket.recv_fds(self._handover, 1, wanted)
                descriptors += some
                if len(some) < wanted:
                    # This process may open no more files. What else comes by this socket would be taken for others.
                    self._handover.close()
                    self._handover = None
            yield _owned(held, descriptors) if len(descriptors) == count else ()
        finally:
            for one in descriptors:
                os.close(one)

    def _confirmed(self, config: Config, opened: Opened) -> Session:
        """Return the session that this process goes on with."""
        session = self._resumed(config, opened)
        # It was opened long ago: its disk may be away by now, or another one in its place.
        session.repository.confirm()
        session.repository.refuse_retired()
        return session

    def _resumed(self, config: Config, opened: Opened) -> Session:
        """Return the session; the store is asked nothing."""
        if self._session is None:
            self._session = Session.resume(
                config, opened.keys, self, conditional_create=opened.conditional_create, slot=opened.slot
            )
        return self._session

    def _bring_back(self, request: RestoreRequest) -> dict[str, Any]:
        from mlsync.restore.bring_back import bring_back  # late: most processes restore nothing

        session = self._confirmed(request.config, request.opened)
        run, directory = request.watch.run, bytes(request.watch.directory)
        found = bring_back(
            session.repository,
            run,
            directory,
            request.wanted,
            self,
            seen=session.seen_heads().get(run),
            stop=self._stop.is_set,
        )
        if found.result is not None:
            # The next pass goes on with the run, although another machine made its last version.
            newest = NewestWriter(*newest_maker(session.repository, run))
            allow_takeover(session.state_directory, run, directory, found.result.version, newest)
        return {
            "version": found.number,
            "word": found.word,
            "standing": None if found.standing is None else found.standing.name.lower(),
            "file_count": 0 if found.result is None else found.result.written_count,
            "bytes": 0 if found.result is None else found.result.written_bytes,
        }

    def _versions(self, request: PassRequest, numbers: set[int]) -> tuple[VersionSeen, ...]:
        """Return what is told of versions; nothing where the store does not say, since the pass itself is done."""
        assert self._session is not None
        repository, run = self._session.repository, request.watch.run
        numbers = numbers - {0}
        if repository.is_write_only or not (numbers or request.tells_history):
            return ()
        from mlsync.upkeep.history import newest_versions, seen_versions  # late: most passes find nothing changed

        try:
            older = newest_versions(repository, run, HISTORY_COUNT) if request.tells_history else []
            rest = numbers - {one.version for one in older}
            return (*older, *seen_versions(repository, run, rest))
        except Error as error:
            _LOG.debug("%s: its versions cannot be told: %s", run, error)
            return ()

    def _prune(self, request: PruneRequest) -> dict[str, Any]:
        from mlsync.app.pruning import prune, prune_options  # late: passes need nothing of it

        stand_back()
        opened = request.opened
        with Session.resume(
            request.config, opened.keys, self, conditional_create=opened.conditional_create, slot=opened.slot
        ) as session:
            session.repository.confirm()
            session.repository.refuse_retired()
            found, pruned = prune(session.repository, prune_options(request.config, request.now_ns), self)
        denied = [f"the store keeps {one.key}: {one.why}" for one in pruned.denied[:1]]
        return {
            "versions": len(pruned.versions),
            "packs": len(pruned.deleted),
            "bytes": sum(pruned.deleted.values()),
            "kept_back": [one.why for one in found.kept_back],
            "denied": "".join(denied),
        }

    def _register(self, request: RegisterRequest) -> dict[str, Any]:
        from mlsync.app.registering import register_wanted  # late: HTTP, and what looks for the best

        stand_back()
        session = self._confirmed(request.config, request.opened)
        return register_wanted(session, request.wanted, self, self._stop).as_json()

    def _copy(self, request: CopyRequest) -> dict[str, Any]:
        from mlsync.app.mirroring import copy_to_mirror  # late: most processes copy nothing

        if request.hurries:
            SLOWNESS.begin(hurries=True)
        else:
            stand_back()
        mirror = next(one for one in request.config.mirrors if one.name == request.mirror)
        session = self._confirmed(request.config, request.opened)
        return copy_to_mirror(session, mirror, request.runs, self, self._stop, newest_only=request.newest_only)

    def _evaluate(self, request: EvaluateRequest) -> dict[str, Any]:
        from mlsync.app.evaluating import evaluate_chosen  # late: it loads all that reads checkpoints

        stand_back()
        session, run = self._confirmed(request.config, request.opened), request.watch.run
        with working_on(run, request.number):
            done = evaluate_chosen(
                session,
                run,
                request.number,
                self,
                self._stop,
                previous=request.previous,
                fitness_before=request.fitness_before,
            )
        return dataclasses.asdict(done)

    def _close_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    # ------------------------------------------------------------ the monitor of the flows

    @contextmanager
    def task(self, name: str, total: int | None, unit: str = "B") -> Iterator[Task]:
        """Open a task whose progress reaches the agent as heartbeats."""
        self.beat()
        step = self._doing.begin(name, total, unit)
        try:
            with super().task(name, total, unit) as task:
                yield _BeatingTask(self, task, step)
        finally:
            self._doing.end(step)
        self.beat()

    def beat(self) -> None:
        """Send a heartbeat, unless one was sent a moment ago."""
        now_s = time.monotonic()
        if now_s >= self._beaten_s + _BEAT_S:
            self._beaten_s = now_s
            self._send(beat=self._doing.now.as_json())

    def notice(self, level: NoticeLevel, text: str) -> None:
        """Log it, and count it as progress."""
        super().notice(level, text)
        if self._doing.notice(text):
            self._beaten_s = 0.0
        self.beat()

    def _send(self, **message: Any) -> None:
        line = memoryview(json.dumps(message).encode() + b"\n")
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._answers, line) :]
            except BrokenPipeError:
                # The agent is gone, as ``listen`` is about to learn.
                os._exit(0)


class _BeatingTask:
    """A task of *child* whose progress reaches the agent as heartbeats."""

    def __init__(self, child: PassChild, task: Task, step: PassStep) -> None:
        self._child = child
        self._task = task
        self._step = step

    def advance(self, amount: int) -> None:
        """Report the progress."""
        self._step.advance(amount)
        self._child.beat()
        self._task.advance(amount)

    def say(self, what: str) -> None:
        """Report that something goes on."""
        self._step.say(what)
        self._child.beat()
        self._task.say(what)


def _has_one_slot(repository: Repository) -> bool:
    """Return whether a single secret opens the repository, as far as the store tells."""
    with suppress(StoreError):
        return sum(names.is_key_slot(one.key) for one in repository.store.list(names.KEY_SLOTS)) == 1
    return False


def _as_json(error: Error) -> dict[str, Any]:
    """Return an error so that the agent can raise it again: a private kind as the public one that it extends."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    return {"kind": kind.__name__, "what": error.what, "where": error.where, "advice": error.advice}


def _owned(held: tuple[HeldSave, ...], descriptors: list[int]) -> tuple[HeldSave, ...]:
    """Return the saves with the descriptors of this process."""
    own = iter(descriptors)
    return tuple(
        msgspec.structs.replace(
            save, files=tuple(msgspec.structs.replace(file, descriptor=next(own)) for file in save.files)
        )
        for save in held
    )


def _handover() -> socket.socket | None:
    """Return the socket by which descriptors come, if the process that started this one made one."""
    for word in sys.argv:
        if word.startswith(HANDOVER):
            handover = socket.socket(fileno=int(word.removeprefix(HANDOVER)))
            handover.set_inheritable(False)
            return handover
    return None


def main() -> None:
    """Serve the process that started this one until it is gone; the first argument is the level to log from."""
    # As for any command.
    gc.set_threshold(20_000)
    log_to(sys.stderr, int(sys.argv[1]), as_json=JSON_LOG in sys.argv)
    requests, answers = os.dup(0), os.dup(1)
    # What a library reads or prints must not come between the messages.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    # Last before the first request, which has the secret in it: after this, /proc lets it change nothing of itself.
    keep_private()
    child = PassChild(requests, answers, _handover())
    threading.Thread(target=child.listen, daemon=True).start()
    child.serve()


if __name__ == "__main__":
    main()
