"""The versions that the demo saw made, in order, each as ``mlsync show`` tells of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from mlsync.demo import observed
from mlsync.demo.kinds import Kind
from mlsync.demo.observed import RESULTS, ObservedAgent
from mlsync.demo.processes import run_mlsync
from mlsync.demo.report import ReportedTrouble, VersionMade
from mlsync.demo.workplace import Workplace
from mlsync.errors import Error


class Ledger:
    """Takes versions in; *tell* hears of each."""

    def __init__(self, place: Workplace, kind: Kind, tell: Callable[[str], None]) -> None:
        self._place = place
        self._kind = kind
        self._tell = tell
        self._saved_s: float | None = None
        self._results_bytes = 0
        self.versions: list[VersionMade] = []

    @property
    def whole_count(self) -> int:
        """How many versions hold checkpoints, each as it lay on the disk."""
        return sum(version.checkpoint_count > 0 and self._of_last(version) is None for version in self.versions)

    def trouble(self) -> ReportedTrouble | None:
        """Return the newest version's trouble with the last checkpoint, if it has the training's last words."""
        results = self._place.run / RESULTS
        if not self.versions or self._results_bytes != results.stat().st_size:
            return None
        return self._of_last(self.versions[-1])

    def has_news(self, agent: ObservedAgent) -> bool:
        """Whether the agent made a version that was not taken in."""
        return agent.last_version() > self._last

    def take(self, agent: ObservedAgent) -> None:
        """Take in the versions that the agent made since the last time."""
        for number in range(self._last + 1, agent.last_version() + 1):
            shown = self._show(number)
            saved_s = observed.last_saved_s(shown, self._kind.last)
            after_s = None
            if saved_s is not None and saved_s != self._saved_s:
                after_s = (agent.committed_s(number) or observed.made_s(shown)) - saved_s
            self._add(shown, "agent", None, after_s)

    def take_reads(self, agent: ObservedAgent) -> None:
        """Take in what the agent's log says that it read; its last line comes after the last version."""
        reads = agent.read_bytes()
        self.versions[:] = [
            dataclasses.replace(version, read_bytes=reads.get(version.number)) for version in self.versions
        ]

    @property
    def _last(self) -> int:
        return self.versions[-1].number if self.versions else 0

    def back_up(self) -> None:
        """Make a version by hand and take it in."""
        done = run_mlsync("backup", "--quickly", "--config", str(self._place.config))["runs"][0]
        now_s = time.time()
        shown = self._show(done["version"])
        saved_s = observed.last_saved_s(shown, self._kind.last)
        self._add(shown, "backup", done["read_bytes"], None if saved_s is None else now_s - saved_s)

    def _show(self, number: int) -> dict[str, Any]:
        return run_mlsync("show", str(number), "--config", str(self._place.config))

    def _add(self, shown: Mapping[str, Any], made_by: str, read_bytes: int | None, after_s: float | None) -> None:
        self._saved_s = observed.last_saved_s(shown, self._kind.last)
        self._results_bytes = observed.size_bytes(shown, RESULTS)
        if shown["pending"]:
            raise Error("the checkpoints could not be proved on a device", where=observed.shortfall(shown))
        after_s = None if after_s is None else round(after_s, 3)
        version = observed.version_made(
            shown, self._kind.last, made_by=made_by, read_bytes=read_bytes, proved_after_s=after_s
        )
        self.versions.append(version)
        self._tell(f"version {version.number}: {self._in_words(version)}")

    def _in_words(self, version: VersionMade) -> str:
        if not version.checkpoint_count:
            return "no checkpoint is there yet"
        trouble = self._of_last(version)
        if trouble is not None:
            return f"{self._kind.last_name} {trouble.kind}, epoch {version.epoch}'s kept in its place"
        after = "" if version.proved_after_s is None else f", {version.proved_after_s:.1f} s after the save"
        where = f"L{version.level} {version.device}"
        return f"epoch {version.epoch}, {version.checkpoint_count} checkpoints at {where}{after}"

    def _of_last(self, version: VersionMade) -> ReportedTrouble | None:
        return next((trouble for trouble in version.troubles if trouble.path == self._kind.last), None)
