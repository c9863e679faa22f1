"""The versions that the demo has made so far, each as ``mlsync show`` describes it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from mlsync.demo import observed
from mlsync.demo.kinds import TrainerKind
from mlsync.demo.observed import RESULTS, AgentProcess
from mlsync.demo.processes import run_mlsync
from mlsync.demo.report import FileTrouble, VersionMade
from mlsync.demo.workplace import Workplace
from mlsync.errors import Error


class VersionHistory:
    """Adds new versions, and passes a line on each to *report*."""

    def __init__(self, place: Workplace, kind: TrainerKind, report: Callable[[str], None]) -> None:
        self._place = place
        self._kind = kind
        self._report = report
        self._saved_s: float | None = None
        self._results_bytes = 0
        self.versions: list[VersionMade] = []

    @property
    def whole_count(self) -> int:
        """The number of versions that hold checkpoints, each as it was on disk."""
        return sum(version.checkpoint_count > 0 and self._of_last(version) is None for version in self.versions)

    def trouble(self) -> FileTrouble | None:
        """Return the newest version's trouble with the last checkpoint, if that version has the complete results."""
        results = self._place.run / RESULTS
        if not self.versions or self._results_bytes != results.stat().st_size:
            return None
        return self._of_last(self.versions[-1])

    def has_new_versions(self, agent: AgentProcess) -> bool:
        """Return whether the agent made a version since the last ``update``."""
        return agent.last_version() > self._last

    def update(self, agent: AgentProcess) -> None:
        """Add the versions that the agent made since the last call."""
        for number in range(self._last + 1, agent.last_version() + 1):
            shown = self._show(number)
            saved_s = observed.last_saved_s(shown, self._kind.last)
            after_s = None
            if saved_s is not None and saved_s != self._saved_s:
                after_s = (agent.committed_s(number) or observed.made_s(shown)) - saved_s
            self._add(shown, "agent", None, after_s)

    def add_reads(self, agent: AgentProcess) -> None:
        """Add the bytes read for each version, from the agent's log, whose last line comes after the last version."""
        reads = agent.read_bytes()
        self.versions[:] = [
            dataclasses.replace(version, read_bytes=reads.get(version.number)) for version in self.versions
        ]

    @property
    def _last(self) -> int:
        return self.versions[-1].number if self.versions else 0

    def back_up(self) -> None:
        """Make a version with ``mlsync backup`` and add it."""
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
        self._report(f"version {version.number}: {self._description(version)}")

    def _description(self, version: VersionMade) -> str:
        if not version.checkpoint_count:
            return "no checkpoint is there yet"
        trouble = self._of_last(version)
        if trouble is not None:
            return f"{self._kind.last_name} {trouble.kind}, epoch {version.epoch}'s kept in its place"
        after = "" if version.proved_after_s is None else f", {version.proved_after_s:.1f} s after the save"
        where = f"L{version.level} {version.device}"
        return f"epoch {version.epoch}, {version.checkpoint_count} checkpoints at {where}{after}"

    def _of_last(self, version: VersionMade) -> FileTrouble | None:
        return next((trouble for trouble in version.troubles if trouble.path == self._kind.last), None)
