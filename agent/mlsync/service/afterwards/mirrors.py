"""Copies versions to the mirrors, for each of them in a thread and a process of its own: no pass waits for it.

There is no queue: a copy finds out what the mirror lacks. So a mirror that was away for hours, a restart or another
machine's agent lose nothing, and memory does not grow with what waits. Each run is looked at after its first pass, and
after each one that made or proved a version. Only the idle agent has this module loaded.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mlsync.app.pass_result import PassResult
from mlsync.app.wording import count, size
from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.config.model import Config, MirrorSettings
from mlsync.errors import Error, Stopped
from mlsync.monitor import Monitor
from mlsync.service.job import Heartbeat
from mlsync.service.passes.pass_process import CopyRequest, Opened, PassProcess

_RETRY_FIRST_S: Final = 10.0
_RETRY_MAX_S: Final = 300.0
# After a notice that the machine ends, copies give way to nobody for this long.
_HURRY_S: Final = 900.0

AskCopy = Callable[[CopyRequest, threading.Event], Mapping[str, Any]]


@dataclass(slots=True)
class _RunCopy:
    """How a run's copy stands: *version* is the newest there, as far as is known.

    *waiting* versions were made since a copy was complete, the first at *behind_since_s*. Everything that was in the
    directory at *safe_until_s* is in a proved version that is in the mirror.
    """

    version: int | None = None
    waiting: int = 0
    newest: int | None = None
    behind_since_s: float | None = None
    safe_until_s: float | None = None


@dataclass(slots=True)
class _Mirror:
    """One mirror: the runs to be looked at, and how it went."""

    settings: MirrorSettings
    process: PassProcess
    runs: dict[str, _RunCopy] = field(default_factory=dict)
    due: set[str] = field(default_factory=set)
    thread: threading.Thread | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    is_copying: bool = False
    not_before_s: float = -math.inf
    failures: int = 0
    last_failure: str = ""
    copied_s: float | None = None
    version_count: int = 0
    copied_bytes: int = 0


class AgentMirrors:
    """The mirrors of one agent; any thread may call it.

    *opened* returns the repository, which a pass has opened before. *proved_until* returns until when everything of a
    run is known to be proved. *safe* is called when more of a run became safe.
    """

    def __init__(
        self,
        config: Config,
        opened: Callable[[], Opened],
        monitor: Monitor,
        *,
        ask: AskCopy | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._opened = opened
        self._monitor = monitor
        self._clock = clock
        self._wall = wall
        self._asked = ask
        self._changed = threading.Condition()
        self._is_closed = False
        self._is_denial_told = False
        self._hurry_until_s = -math.inf
        self._mirrors = [
            _Mirror(one, PassProcess(f"copying to {one.name}", Heartbeat(), does="copies to a mirror"))
            for one in config.mirrors
        ]
        self.proved_until: Callable[[str], float | None] = lambda _run: None
        self.safe: Callable[[str], None] = lambda _run: None
        #: Called when something is to be told of a mirror.
        self.changed: Callable[[], None] = lambda: None

    @property
    def decides(self) -> bool:
        """Whether a version counts as safe only once it is in a mirror."""
        return self._config.is_safe_in_mirror

    @property
    def is_busy(self) -> bool:
        """Whether something is to be copied that is not failing."""
        with self._changed:
            return any((one.due or one.is_copying) and not one.failures for one in self._mirrors)

    def restore(self, known: Iterable[Mapping[str, Any]]) -> None:
        """Take over what the last agent's status said; what is no sound status counts as unknown."""
        with self._changed:
            by_name = {one.settings.name: one for one in self._mirrors}
            for told in known:
                mirror = by_name.get(str(told.get("name")))
                if mirror is None or told.get("url") != mirror.settings.url:
                    continue
                for run in told.get("runs") or ():
                    version, safe_until_s = run.get("version"), run.get("safe_until_s")
                    mirror.runs[str(run["run"])] = _RunCopy(
                        version if isinstance(version, int) else None,
                        safe_until_s=safe_until_s if isinstance(safe_until_s, int | float) else None,
                    )

    def passed(self, run: str, outcome: PassResult) -> None:
        """Note what a pass came to, and begin with what is to be copied; return at once."""
        with self._changed:
            for mirror in self._mirrors:
                if not mirror.settings.copies(run):
                    continue
                is_first = run not in mirror.runs or mirror.runs[run].newest is None
                one = mirror.runs.setdefault(run, _RunCopy())
                one.newest = outcome.version or one.newest or 0
                if outcome.version is not None:
                    one.waiting += 1
                    one.behind_since_s = one.behind_since_s or self._wall()
                if is_first or outcome.version is not None or outcome.proved_version is not None:
                    mirror.due.add(run)
                elif not one.waiting and run not in mirror.due and not mirror.is_copying and one.safe_until_s:
                    # Nothing changed, and all of it is there.
                    one.safe_until_s = max(one.safe_until_s, self.proved_until(run) or 0.0)
                self._begin(mirror)
            self._changed.notify_all()

    def hurry(self) -> None:
        """Copy what waits without regard for anybody, the newest versions first: the machine is about to end."""
        if not self.decides:
            return
        with self._changed:
            hurried = self._clock() < self._hurry_until_s
            self._hurry_until_s = self._clock() + _HURRY_S
            for mirror in self._mirrors:
                mirror.not_before_s = -math.inf
                # What gave way once does so for ever; another process goes on where it ends.
                if mirror.is_copying and not hurried:
                    mirror.stop.set()
                self._begin(mirror)
            self._changed.notify_all()

    def safe_until_s(self, run: str) -> float | None:
        """Return until when everything of a run is in a mirror, as far as is known."""
        with self._changed:
            known = [one.runs[run].safe_until_s for one in self._mirrors if run in one.runs]
        return max((at_s for at_s in known if at_s is not None), default=None)

    def as_json(self) -> list[dict[str, Any]]:
        """Return how each mirror stands, as plain values."""
        with self._changed:
            return [self._mirror_json(one) for one in self._mirrors]

    def close(self) -> None:
        """End what is under way; the next agent goes on with it."""
        with self._changed:
            self._is_closed = True
            for mirror in self._mirrors:
                mirror.stop.set()
            self._changed.notify_all()
            threads = [one.thread for one in self._mirrors if one.thread is not None]
        for mirror in self._mirrors:
            mirror.process.close()
        for thread in threads:
            thread.join()

    # ------------------------------------------------------------ inside

    def _begin(self, mirror: _Mirror) -> None:
        if self._is_closed or not mirror.due or (mirror.thread is not None and mirror.thread.is_alive()):
            return
        mirror.thread = threading.Thread(
            target=self._serve, args=(mirror,), name=f"copying to {mirror.settings.name}", daemon=True
        )
        mirror.thread.start()

    def _serve(self, mirror: _Mirror) -> None:
        """Copy until nothing is due."""
        while True:
            with self._changed:
                while (wait_s := mirror.not_before_s - self._clock()) > 0 and not self._is_closed:
                    self._changed.wait(min(wait_s, _RETRY_MAX_S))
                if self._is_closed or not mirror.due:
                    mirror.thread = None
                    return
                mirror.stop.clear()
                runs = sorted(mirror.due)
                mirror.due.clear()
                mirror.is_copying = True
                begun = {run: (mirror.runs[run].waiting, self.proved_until(run)) for run in runs}
            try:
                self._copy(mirror, runs, begun)
            finally:
                with self._changed:
                    mirror.is_copying = False
                    self._changed.notify_all()
                self.changed()

    def _copy(self, mirror: _Mirror, runs: list[str], begun: Mapping[str, tuple[int, float | None]]) -> None:
        try:
            opened = self._opened()
            if isinstance(opened.keys, WriteOnlyKeys):
                self._tell_denied()
                return
            hurries = self._clock() < self._hurry_until_s
            newest = {run: mirror.runs[run].newest or 0 for run in runs if mirror.runs[run].waiting > 1}
            request = CopyRequest(
                self._config,
                opened,
                mirror.settings.name,
                tuple(runs),
                hurries=hurries,
                newest_only={run: number for run, number in newest.items() if number} if hurries else {},
            )
            done = (self._asked or mirror.process.ask)(request, mirror.stop)
            if request.newest_only:
                with self._changed:
                    mirror.due.update(request.newest_only)
        except Error as error:
            if isinstance(error, Stopped) or mirror.stop.is_set():
                with self._changed:
                    mirror.due.update(runs)
                return
            self._failed(mirror, runs, str(error))
            return
        finally:
            mirror.process.close()
        self._copied(mirror, done, begun)

    def _copied(self, mirror: _Mirror, done: Mapping[str, Any], begun: Mapping[str, tuple[int, float | None]]) -> None:
        became_safe, failure = [], "; ".join(done["faults"])
        with self._changed:
            mirror.copied_s = self._wall()
            mirror.version_count += done["versions"]
            mirror.copied_bytes += done["bytes"]
            for run, found in done["runs"].items():
                one, (waited, proved_until_s) = mirror.runs[run], begun[run]
                one.version = found["copied"] or None
                one.newest = max(one.newest or 0, found["newest"])
                one.waiting = max(0, one.waiting - waited) + found["behind"]
                if found["behind"]:
                    one.behind_since_s = one.behind_since_s or mirror.copied_s
                    continue
                one.behind_since_s = mirror.copied_s if one.waiting else None
                if proved_until_s is not None and proved_until_s > (one.safe_until_s or 0.0):
                    one.safe_until_s = proved_until_s
                    became_safe.append(run)
        for run in became_safe:
            self.safe(run)
        if done["versions"]:
            copied = f"{count(done['versions'], 'version')} copied ({size(done['bytes'])})"
            self._monitor.notice("info", f"mirror {mirror.settings.name!r}: {copied}")
        if failure:
            self._failed(mirror, [run for run, found in done["runs"].items() if found["behind"]], failure)
        else:
            self._succeeded(mirror)

    def _failed(self, mirror: _Mirror, runs: Iterable[str], failure: str) -> None:
        """Plan the next try, and tell of a failure that is another one than before."""
        with self._changed:
            is_news, mirror.last_failure = failure != mirror.last_failure, failure
            wait_s = min(_RETRY_MAX_S, _RETRY_FIRST_S * 2.0 ** min(mirror.failures, 16))
            mirror.not_before_s = self._clock() + wait_s
            mirror.failures += 1
            mirror.due.update(runs)
        if is_news:
            self._monitor.notice("warning", f"mirror {mirror.settings.name!r}: {failure}; tried again later")

    def _succeeded(self, mirror: _Mirror) -> None:
        with self._changed:
            had_failed, mirror.failures, mirror.last_failure = mirror.failures, 0, ""
            mirror.not_before_s = -math.inf
        if had_failed:
            self._monitor.notice("info", f"mirror {mirror.settings.name!r}: versions are copied again")

    def _tell_denied(self) -> None:
        with self._changed:
            if self._is_denial_told:
                return
            self._is_denial_told = True
        text = "this machine's key reads nothing, so its versions are not copied to mirrors here (mlsync copy does it)"
        self._monitor.notice("warning", text)

    def _mirror_json(self, mirror: _Mirror) -> dict[str, Any]:
        now_s = self._wall()
        phase = "failing" if mirror.failures else "copying" if mirror.is_copying or mirror.due else "idle"
        return {
            "name": mirror.settings.name,
            "url": mirror.settings.url,
            "phase": phase,
            "failures": mirror.failures,
            "last_failure": mirror.last_failure or None,
            "copied_s": None if mirror.copied_s is None else round(mirror.copied_s),
            "copied_versions": mirror.version_count,
            "copied_bytes": mirror.copied_bytes,
            "runs": [
                {
                    "run": run,
                    "version": one.version,
                    "behind_versions": one.waiting,
                    "behind_s": None if one.behind_since_s is None else round(max(0.0, now_s - one.behind_since_s)),
                    "safe_until_s": None if one.safe_until_s is None else round(one.safe_until_s, 1),
                }
                for run, one in sorted(mirror.runs.items())
            ],
        }
