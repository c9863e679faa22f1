"""Has versions registered in MLflow after their proof, in a thread and a process of its own: no pass waits for it.

What is to be registered is in a file of each run, from the moment that the pass ended: a server that is away, a wrong
token or a restart lose none of it. Only the idle agent has this module loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlsync.app.pass_result import PassResult
from mlsync.app.wording import count
from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.config.model import Config
from mlsync.errors import Error
from mlsync.monitor import Monitor
from mlsync.service.job import Heartbeat
from mlsync.service.passes.pass_process import Opened, PassProcess, RegisterRequest
from mlsync.service.replaced_file import replace_file

#: Stands for the best version of a run, whichever that is when its turn comes.
BEST: Final = 0
_LOG: Final = logging.getLogger(__name__)
_NAME: Final = "registering"
_FORMAT: Final = 1
_FILE_BYTES_MAX: Final = 1 << 20
_WAITING_MAX: Final = 1_000
_RETRY_FIRST_S: Final = 10.0
_RETRY_MAX_S: Final = 900.0

Ask = Callable[[RegisterRequest, threading.Event], Mapping[str, Any]]


@dataclass(slots=True)
class _Run:
    """What waits of a run, oldest first, in *file*; the highest fitness that was seen."""

    file: Path
    waiting: list[int]
    best: float = field(default=-math.inf)


class Registrations:
    """The registrations of one agent, for all of its runs; any thread may call it."""

    def __init__(
        self,
        config: Config,
        monitor: Monitor,
        *,
        ask: Ask | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._monitor = monitor
        self._clock = clock
        self._process = PassProcess(_NAME, Heartbeat(), does="registers versions")
        self._ask = self._process.ask if ask is None else ask
        self._changed = threading.Condition()
        self._runs: dict[str, _Run] = {}
        self._opened: Opened | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._not_before_s = -math.inf
        self._is_denial_told = False
        self._told_of: dict[str, str] = {}
        self.registered_count = 0
        self.failed_count = 0
        #: Failures in a row, and what the last one was.
        self.failures = 0
        self.last_failure = ""
        #: Whether versions of a run are evaluated after their proof: then the best is known once that is done.
        self.evaluates: Callable[[str], bool] = lambda _run: False
        #: Gets what was registered, as plain values.
        self.told: Callable[[Mapping[str, Any]], None] = lambda _done: None

    def passed(self, opened: Opened, run: str, outcome: PassResult) -> None:
        """Note what a pass came to, and have it registered if the configuration says so; return at once."""
        if self._config.mlflow.on == "never":
            return
        try:
            self._note_pass(opened, run, outcome)
        except Exception:  # noqa: BLE001 - a bug here costs a registration, and not a version
            _LOG.exception("%s: what is to be registered could not be noted", run)

    def _note_pass(self, opened: Opened, run: str, outcome: PassResult) -> None:
        if isinstance(opened.keys, WriteOnlyKeys):
            if not self._is_denial_told:
                self._is_denial_told = True
                text = "this machine's key reads nothing, so its versions are not registered here ([mlflow] on)"
                self._monitor.notice("warning", text)
            return
        with self._changed:
            self._opened = opened
            self._put(self._run(opened, run), self._wanted(run, self._run(opened, run), outcome))

    def evaluated(self, run: str) -> None:
        """Have the best version of a run registered, if that is wanted, after an evaluation has ended."""
        with self._changed:
            if self._config.mlflow.on == "best" and run in self._runs:
                self._put(self._runs[run], BEST)

    def as_json(self) -> dict[str, Any] | None:
        """Return how it stands; ``None`` if nothing is registered by itself."""
        if self._config.mlflow.on == "never":
            return None
        with self._changed:
            waiting = [
                {"run": run, "version": number or None}
                for run, one in sorted(self._runs.items())
                for number in one.waiting
            ]
            return {
                "waiting": waiting,
                "registered": self.registered_count,
                "failed": self.failed_count,
                "failures": self.failures,
                "last_failure": self.last_failure or None,
            }

    def finish(self, within_s: float) -> None:
        """Wait until nothing waits any more, or the registry fails, and so long at most; say what is left."""
        until_s = self._clock() + within_s
        with self._changed:
            while any(one.waiting for one in self._runs.values()) and not self.failures and self._thread is not None:
                left_s = until_s - self._clock()
                if left_s <= 0:
                    break
                self._changed.wait(min(left_s, 0.5))
            left = sum(len(one.waiting) for one in self._runs.values())
        if left:
            text = (
                f"not registered in MLflow before the end: {count(left, 'version')}; by mlsync register, or by the next"
            )
            self._monitor.notice("warning", f"{text} agent with this state directory")

    def close(self) -> None:
        """End what is under way, as a crash would: the next agent goes on with it."""
        with self._changed:
            self._stop.set()
            self._changed.notify_all()
            thread = self._thread
        self._process.close()
        if thread is not None:
            thread.join()

    def _put(self, known: _Run, wanted: int | None) -> None:
        """Add what is to be registered, and begin with all that waits."""
        if wanted is not None and wanted not in known.waiting:
            known.waiting.append(wanted)
            del known.waiting[:-_WAITING_MAX]
            self._save(known)
        if not self._stop.is_set() and any(one.waiting for one in self._runs.values()):
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name=_NAME, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _wanted(self, run: str, known: _Run, outcome: PassResult) -> int | None:
        """Return the version that a pass leaves to be registered; ``None`` if none."""
        proved = next((one for one in outcome.versions if one.version == outcome.proved_version), None)
        before = known.best
        fitness = [one.fitness for one in outcome.versions if one.fitness is not None and not one.is_pending]
        known.best = max([before, *fitness])
        if outcome.proved_version is None:
            return None
        if not (outcome.newest_checkpoint_ns if proved is None else proved.checkpoint_count):
            return None
        if self._config.mlflow.on == "proved":
            return outcome.proved_version
        if self.evaluates(run):
            return None
        if proved is None or self._config.evaluate_of(run).best_by is not None:
            # A last pass has no time to look at what it made; and the fitness says nothing of another number.
            return BEST
        # What is worse than something before is not the best; whether the rest is, the store tells.
        others = [one.fitness for one in outcome.versions if one.fitness is not None and one.version != proved.version]
        is_worse = proved.fitness is not None and proved.fitness < max([before, *others])
        return None if is_worse else BEST

    def _serve(self) -> None:
        """Have what waits registered until nothing does."""
        while True:
            with self._changed:
                while (wait_s := self._not_before_s - self._clock()) > 0 and not self._stop.is_set():
                    self._changed.wait(min(wait_s, _RETRY_MAX_S))
                wanted = [(run, number) for run, one in sorted(self._runs.items()) for number in one.waiting]
                if self._stop.is_set() or not wanted or self._opened is None:
                    self._thread = None
                    return
                opened = self._opened
            self._try(opened, wanted)

    def _try(self, opened: Opened, wanted: Sequence[tuple[str, int]]) -> None:
        try:
            done = self._ask(RegisterRequest(self._config, opened, tuple(wanted)), self._stop)
            left = {(str(run), int(number)) for run, number in done["left"]}
            failure = str(done["failure"])
        except Error as error:
            done, left, failure = {"done": (), "dropped": ()}, set(wanted), str(error)
        finally:
            self._process.close()
        if self._stop.is_set() and not done["done"]:
            return
        for run, number, why in done["dropped"]:
            which = f"version {number}" if number else "the best version"
            text = f"{run}: {which} is not registered: {why}"
            if self._told_of.get(run) != text:  # each version would say it again
                self._monitor.notice("warning", text)
            self._told_of[run] = text
        for one in done["done"]:
            self._monitor.notice("info", _line(one))
            self.told(one)
        with self._changed:
            self.registered_count += len(done["done"])
            for run, known in self._runs.items():
                tried = {number for name, number in wanted if name == run and (name, number) not in left}
                if tried:
                    known.waiting[:] = [number for number in known.waiting if number not in tried]
                    self._save(known)
            is_news = self._note(failure)
            self._changed.notify_all()
        if is_news and failure:
            self._monitor.notice("warning", f"not registered yet: {failure}; tried again later")
        elif is_news:
            self._monitor.notice("info", "versions are registered again")

    def _note(self, failure: str) -> bool:
        """Note how it went; return whether that begins or ends a row of failures, or is another failure."""
        was = self.last_failure
        self.last_failure = failure
        if not failure:
            self.failures, self._not_before_s = 0, -math.inf
            return bool(was)
        self.failed_count += 1
        self._not_before_s = self._clock() + min(_RETRY_MAX_S, _RETRY_FIRST_S * 2.0 ** min(self.failures, 16))
        self.failures += 1
        return failure != was

    # ------------------------------------------------------------ files

    def _run(self, opened: Opened, run: str) -> _Run:
        if run not in self._runs:
            # By run: its lock is held, so no other agent writes the file.
            name = f"registrations-{hashlib.sha256(run.encode()).hexdigest()[:16]}.json"
            file = self._config.state_directory / opened.keys.repository_id.hex() / name
            self._runs[run] = _Run(file, _read(file))
        return self._runs[run]

    def _save(self, known: _Run) -> None:
        try:
            _write(known.file, {"format": _FORMAT, "waiting": known.waiting})
        except OSError as error:
            text = f"what is to be registered cannot be noted, and is lost with this process: {error.strerror}"
            self._monitor.notice("warning", text)


def _line(one: Mapping[str, Any]) -> str:
    named = "".join(f", {one['model']}@{alias}" for alias in one["aliases"])
    return f"{one['run']}: version {one['version']} is models:/{one['model']}/{one['number']}{named}"


def _read(file: Path) -> list[int]:
    """Return what waits; a file that is none counts as empty."""
    try:
        with file.open("rb") as stream:
            content = json.loads(stream.read(_FILE_BYTES_MAX))
        waiting = content["waiting"]
        is_sound = content["format"] == _FORMAT and isinstance(waiting, list) and len(waiting) <= _WAITING_MAX
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    if not is_sound or not all(type(one) is int and 0 <= one < 1 << 63 for one in waiting):
        return []
    return list(dict.fromkeys(waiting))


def _write(file: Path, content: Mapping[str, Any]) -> None:
    if not content["waiting"]:
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(file, json.dumps(content).encode())
