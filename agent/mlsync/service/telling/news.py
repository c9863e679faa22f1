"""Makes events of what the agent knows: of the outcomes of passes, and of how the runs stand."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mlsync.app.pass_result import PassResult
from mlsync.retention.direction import named_number
from mlsync.service.conditions import BEHIND_S, Conditions, full_disks, knows_of
from mlsync.service.run_record import LastEvaluation, RunRecord
from mlsync.service.status import RunStatus
from mlsync.service.telling.telling import Telling
from mlsync.tell.event import NoticeEvent
from mlsync.tell.onsets import Condition
from mlsync.upkeep.version_seen import VersionSeen

_LOG: Final = logging.getLogger(__name__)
_NUMBERS_MAX: Final = 5
_DAY_S: Final = 24 * 3600.0
_DISKS_EVERY_S: Final = 60.0


class News:
    """Tells what is new; no call waits, and none raises an error."""

    def __init__(
        self,
        telling: Telling,
        records: Mapping[str, RunRecord],
        directories: Mapping[str, Path],
        *,
        join_logs_s: float = 0.0,
        proves: bool = True,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._telling = telling
        self._records = records
        self._directories = directories
        self._clock = clock
        self._wall = wall
        self._host = socket.gethostname()
        # Logs wait for so long on purpose.
        behind_s = max(BEHIND_S, 2 * join_logs_s)
        self._conditions = Conditions(self._host, behind_s=behind_s, proves=proves)
        self._disks: threading.Thread | None = None
        self._disks_at_s = clock()
        #: Whether the best version of a run is told once it was evaluated, and not before.
        self.best_by: Callable[[str], str | None] = lambda _run: None
        self.evaluates: Callable[[str], bool] = lambda _run: False
        # How many passes each run had when the end was announced, and who announced it.
        self._announced: tuple[dict[str, int], str] | None = None

    def passed(self, run: str, outcome: PassResult) -> None:
        """Tell what a pass came to; a fault of this must not fail the pass."""
        if not self._telling.is_on:
            return
        try:
            self._tell_version(run, outcome)
        except Exception:  # noqa: BLE001 - a bug here costs a notice, and not a version
            _LOG.exception("%s: what is new could not be told", run)

    def preempted(self, platform: str, left_s: float | None) -> None:
        """Tell that the end of the machine was announced."""
        counts = {run: record.counts.passed for run, record in self._records.items()}
        self._announced = (counts, platform)
        facts: dict[str, float | str] = {"platform": platform}
        self._telling.event(self._event("preemption", facts=facts | ({} if left_s is None else {"left_s": left_s})))

    def pruned(self, done: Mapping[str, Any]) -> None:
        """Tell what a prune deleted."""
        facts = {"versions": done["versions"], "packs": done["packs"], "bytes": done["bytes"]}
        self._telling.event(self._event("pruned", facts=facts))

    def registered(self, done: Mapping[str, Any]) -> None:
        """Tell what was registered in MLflow."""
        facts: dict[str, float | str] = {"model": done["model"], "model_version": done["number"]}
        if done["aliases"]:
            facts["alias"] = ", ".join(done["aliases"])
        self._telling.event(self._event("registered", done["run"], done["version"], facts))

    def ephemeral(self, subject: str) -> None:
        """Tell once that something lies on a disk that goes with the machine."""
        self._telling.once(f"ephemeral_disk\0\0{subject}", self._event("ephemeral_disk", facts={"what": subject}))

    def look(self, runs: Sequence[RunStatus]) -> None:
        """Tell what began and what ended since the last look."""
        if not self._telling.is_on:
            return
        self._telling.look(self._conditions.of(runs), covers=lambda key: knows_of(key, runs))
        self._tell_stored()
        self._tell_day(runs)
        if self._clock() >= self._disks_at_s and (self._disks is None or not self._disks.is_alive()):
            self._disks_at_s = self._clock() + _DISKS_EVERY_S
            # A disk that hangs holds this thread alone.
            self._disks = threading.Thread(target=self._look_at_disks, name="disks", daemon=True)
            self._disks.start()

    def _look_at_disks(self) -> None:
        found: list[Condition] = full_disks(self._directories, self._host)
        self._telling.look(found, covers=lambda key: key.startswith("disk_full\0"))

    def _tell_version(self, run: str, outcome: PassResult) -> None:
        if outcome.damaged_count:
            self._telling.event(self._event("damage", run, facts={"packs": outcome.damaged_count}))
        known = self._records[run].versions
        proved = next((one for one in known if one.version == outcome.proved_version), None)
        if proved is None:
            return
        facts = _facts_of(proved)
        self._telling.event(self._event("version", run, proved.version, facts))
        if not proved.checkpoint_count:
            return
        before = [one for one in known if one.version < proved.version]
        if not any(one.checkpoint_count and not one.is_pending for one in before):
            self._telling.once(f"first_proved\0{run}\0", self._event("first_proved", run, proved.version, facts))
        if not self.evaluates(run) and self._is_best(proved, before):
            self._telling.event(self._event("best", run, proved.version, facts))

    def evaluated(self, run: str, measured: LastEvaluation) -> None:
        """Tell of a new best version once its evaluation has ended; by the number that is compared, if one is."""
        if not self._telling.is_on or not (measured.numbers or measured.is_final):
            return
        try:
            known = self._records[run].versions
            one = next((one for one in known if one.version == measured.version), None)
            before = [other for other in known if other.version < measured.version]
            if one is not None and self._is_best(one, before, self.best_by(run)):
                self._telling.event(self._event("best", run, one.version, _facts_of(one)))
        except Exception:  # noqa: BLE001 - as above
            _LOG.exception("%s: what was measured could not be told", run)

    @staticmethod
    def _is_best(one: VersionSeen, before: Sequence[VersionSeen], by: str | None = None) -> bool:
        """Return whether a version is better than all before it that are known."""
        name, is_max = ("", True) if by is None else named_number(by)

        def value(seen: VersionSeen) -> float | None:
            return seen.fitness if by is None else seen.numbers.get(name)

        own, known = value(one), [found for other in before if (found := value(other)) is not None]
        return own is not None and bool(known) and (own > max(known) if is_max else own < min(known))

    def _tell_stored(self) -> None:
        """Tell once that every run had a pass after the end was announced."""
        if self._announced is None:
            return
        counts, platform = self._announced
        if all(self._records[run].counts.passed > passed for run, passed in counts.items()):
            self._announced = None
            self._telling.event(self._event("preemption", facts={"platform": platform}, is_over=True))

    def _tell_day(self, runs: Sequence[RunStatus]) -> None:
        for run in runs:
            since_s = run.now_s - _DAY_S
            made = [one for one in run.record.versions if one.made_s >= since_s]
            facts: dict[str, float | str] = {
                "versions": len(made),
                "proved": sum(1 for one in made if not one.is_pending),
                "new_bytes": sum(one.new_bytes for one in made),
                "failures": run.record.counts.failed,
            }
            if run.unproved_s is not None:
                facts["unproved_s"] = run.unproved_s
            event = self._event("digest", run.run, run.state.last_version, facts)
            self._telling.daily(f"digest\0{run.run}\0", event, _DAY_S)

    def _event(
        self,
        kind: str,
        run: str = "",
        version: int | None = None,
        facts: Mapping[str, float | str] | None = None,
        *,
        is_over: bool = False,
    ) -> NoticeEvent:
        return NoticeEvent(kind, run, version, facts or {}, self._wall(), is_over, self._host)


def _facts_of(one: VersionSeen) -> dict[str, float | str]:
    numbers = {"epoch": one.epoch, "step": one.step, "fitness": one.fitness, "new_bytes": one.new_bytes}
    facts: dict[str, float | str] = {name: value for name, value in numbers.items() if value is not None}
    if one.numbers:
        some = [f"{name} {value:.6g}" for name, value in list(one.numbers.items())[:_NUMBERS_MAX]]
        facts["numbers"] = ", ".join(some)
    return ({} if one.level is None else {"level": f"L{one.level}"}) | facts
