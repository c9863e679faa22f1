"""Evaluates versions after their proof, if that is wanted, in a process of its own with the lowest priority.

No pass waits for it: a thread waits for the process, one version after the other, the newest first. A failure costs a
number and no version: it is told, tried again later, and given up after some tries. Only the idle agent has this module
loaded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.config.model import Config, EvaluateSettings, WatchSettings
from mlsync.errors import Error, Stopped
from mlsync.monitor import Monitor
from mlsync.service.job import Heartbeat
from mlsync.service.passes.pass_process import EvaluateRequest, Opened, PassProcess
from mlsync.service.run_record import LastEvaluation
from mlsync.upkeep.version_seen import VersionSeen

#: After a failure a version waits so long for its next try, then twice as long; after so many it is given up.
RETRY_S: Final = 600.0
TRIES_MAX: Final = 3
_NAME: Final = "evaluating"
# How long an agent that ends waits for a command to be killed and its copy to be removed.
_END_S: Final = 10.0
_NOTHING_TELLS: Final = (
    'on = "best" under [evaluate], and nothing tells before its evaluation which version is best; on = "every" '
    "evaluates each"
)


@dataclass(slots=True)
class _Run:
    """What is known of the evaluations of one run: since which version, which are done, and what failed."""

    watch: WatchSettings
    settings: EvaluateSettings
    since: int | None = None
    done: set[int] = field(default_factory=set)
    tries: dict[int, int] = field(default_factory=dict)
    not_before_s: dict[int, float] = field(default_factory=dict)
    is_told: bool = False


class AgentEvaluations:
    """The evaluations of one agent, for all of its runs; each asks for it after a pass, in threads of their own.

    *opened* returns the repository, which a pass has opened before. *versions* returns what is known of a run's
    versions, oldest first, and *measured* gets what became of each evaluation.
    """

    def __init__(
        self,
        config: Config,
        opened: Callable[[], Opened],
        monitor: Monitor,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._opened = opened
        self._monitor = monitor
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_working = False
        self._process = PassProcess(_NAME, Heartbeat(), does="evaluates")
        self._stop = threading.Event()
        self._runs = {
            watch.run: _Run(watch, watch.evaluate)
            for watch in config.watches
            if watch.evaluate.measures and watch.evaluate.on in ("best", "every")
        }
        self.versions: Callable[[str], Sequence[VersionSeen]] = lambda _run: ()
        self.measured: Callable[[str, LastEvaluation], None] = lambda _run, _measured: None

    def evaluates(self, run: str) -> bool:
        """Return whether versions of a run are evaluated after their proof."""
        return run in self._runs

    def best_by(self, run: str) -> str | None:
        """Return the number by which the best version of a run is chosen, if one is named."""
        return self._config.evaluate_of(run).best_by

    def passed(self, run: str) -> None:
        """Begin with what is due after a pass over a run, and do not wait for it."""
        one = self._runs.get(run)
        if one is None or self._stop.is_set():
            return
        known = self.versions(run)
        if one.since is None and known:
            # The newest, and all that come: whoever switches it on does not mean years of versions.
            one.since = known[-1].version
        with self._lock:
            if not self._is_working and self._next() is not None:
                self._is_working = True
                self._thread = threading.Thread(target=self._work, name=_NAME, daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Return when no evaluation is under way."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """End an evaluation that is under way, and begin none any more."""
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join(_END_S)
        self._process.close()
        self.wait()

    # ------------------------------------------------------------ inside

    def _next(self) -> tuple[_Run, VersionSeen] | None:
        """Return the newest version that is due, of any run."""
        now_s = self._clock()
        for one in self._runs.values():
            for seen in reversed(self.versions(one.watch.run)):
                if one.since is None or seen.version < one.since:
                    break
                if _is_proved(seen) and seen.version not in one.done and one.not_before_s.get(seen.version, 0) <= now_s:
                    return one, seen
        return None

    def _work(self) -> None:
        """Evaluate until nothing is due; what becomes due meanwhile is found too."""
        while True:
            with self._lock:
                due = None if self._stop.is_set() else self._next()
                if due is None:
                    # What it loaded is not needed for a while.
                    self._process.close()
                    self._is_working = False
                    return
            self._evaluate(*due)

    def _evaluate(self, one: _Run, seen: VersionSeen) -> None:
        """Evaluate a version, and tell what became of it."""
        run, earlier = one.watch.run, [old for old in self.versions(one.watch.run) if old.version < seen.version]
        known = [old.fitness for old in earlier if old.fitness is not None]
        request = EvaluateRequest(
            self._config,
            self._opened(),
            one.watch,
            seen.version,
            previous=_previous(earlier),
            fitness_before=max(known, default=None),
        )
        if isinstance(request.opened.keys, WriteOnlyKeys):
            one.done.add(seen.version)  # other machines evaluate
            return
        try:
            done = self._process.ask(request, self._stop)
        except Stopped:
            return
        except Error as error:
            if not self._stop.is_set():
                self._failed(one, seen.version, error)
            return
        one.done.add(seen.version)
        if done["numbers"]:
            self._tell(run, seen.version, done)
        elif done["tells_nothing"] and not one.is_told:
            one.is_told = True
            self._monitor.notice("warning", f"{run}: {_NOTHING_TELLS}")

    def _tell(self, run: str, version: int, done: dict[str, Any]) -> None:
        numbers = {str(name): float(value) for name, value in done["numbers"].items()}
        if done["is_new"]:
            some = ", ".join(f"{name} {value:.6g}" for name, value in list(numbers.items())[:3])
            more = f" and {len(numbers) - 3} more" if len(numbers) > 3 else ""  # noqa: PLR2004 - as many as above
            self._monitor.notice("info", f"{run}: version {version} evaluated by {done['label']}: {some}{more}")
            for note in done["notes"]:
                self._monitor.notice("warning", f"{run}: version {version}: {note}")
        self.measured(run, LastEvaluation(version, self._wall(), numbers))

    def _failed(self, one: _Run, version: int, error: Error) -> None:
        """Tell of a failure, and plan the next try."""
        run, tries = one.watch.run, one.tries.get(version, 0) + 1
        one.tries[version] = tries
        if tries >= TRIES_MAX:
            one.done.add(version)
            then = f"given up after {tries} tries: mlsync evaluate {version} --run {run} tries it again"
        else:
            wait_s = RETRY_S * 2.0 ** (tries - 1)
            one.not_before_s[version] = self._clock() + wait_s
            then = f"next try in {wait_s / 60:.0f} min"
        self._monitor.notice("warning", f"{run}: version {version} is not evaluated: {error}; {then}")
        text = f"{error.what}; {then}"
        self.measured(run, LastEvaluation(version, self._wall(), {}, text, is_final=version in one.done))


def _is_proved(seen: VersionSeen) -> bool:
    """Return whether a version has a sound checkpoint, and is proved as far as it was to be."""
    return not seen.is_pending and not seen.is_hidden and seen.checkpoint_count > seen.broken_count


def _previous(earlier: Iterable[VersionSeen]) -> int | None:
    """Return the last version before that has a checkpoint."""
    return max((old.version for old in earlier if old.checkpoint_count), default=None)
