"""What the demo sees of the agent and of the trainer: only what anybody can see who looks at their files and logs."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from mlsync.demo.processes import Child, mlsync_command
from mlsync.demo.report import Trouble, VersionMade
from mlsync.demo.workplace import Workplace

LAST = "weights/last.pt"
RESULTS = "results.csv"
_READ = re.compile(r"version (\d+) in .* with ([\d.]+) ([KM])iB read")
_UNITS = {"K": 1 << 10, "M": 1 << 20}


class Agent(Child):
    """The resident agent, and what its status file says."""

    def __init__(self, place: Workplace) -> None:
        command = mlsync_command("agent", "--config", str(place.config))
        super().__init__("the agent", command, place.log("agent-output"), place.log("agent"), place.temporary)
        self._status = place.state / "status.json"
        self._committed_s: dict[int, float] = {}

    def is_watching(self) -> bool:
        """Whether the kernel tells the agent of changes."""
        return bool(self._run().get("watched"))

    def last_version(self) -> int:
        """Return the number of the last version, 0 for none; it is remembered when it was committed."""
        run = self._run()
        number = run.get("last_version")
        if not number:
            return 0
        self._committed_s.setdefault(number, run["last_version_s"])
        return int(number)

    def committed_s(self, number: int) -> float | None:
        """Return when a version was committed, if it was seen."""
        return self._committed_s.get(number)

    def read_bytes(self, number: int) -> int | None:
        """Return how many bytes the agent read for a version, as exactly as its log has it."""
        for match in _READ.finditer(self.log.read_text(errors="replace")):
            if int(match[1]) == number:
                return round(float(match[2]) * _UNITS[match[3]])
        return None

    def _run(self) -> dict[str, Any]:
        try:
            runs = json.loads(self._status.read_bytes())["runs"]
        except FileNotFoundError:
            return {}
        return dict(runs[0]) if runs else {}


class Trainer(Child):
    """The training, and what it says of itself."""

    def __init__(self, place: Workplace, name: str, *options: str) -> None:
        command = [sys.executable, "-P", "-m", "mlsync.demo.trainer", str(place.run), *options]
        self._output = place.log(f"{name}-events")
        super().__init__("the trainer", command, self._output, place.log(name), place.temporary)
        self._heard_count = 0

    def has_news(self) -> bool:
        """Whether an epoch was saved since the last time that somebody heard of it."""
        return len(self.events("saved")) > self._heard_count

    def news(self) -> list[dict[str, Any]]:
        """Return the epochs that were saved since the last time."""
        events = self.events("saved")[self._heard_count :]
        self._heard_count += len(events)
        return events

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return what happened so far, of one kind."""
        # The last line may not be whole yet.
        lines = self._output.read_text().split("\n")[:-1]
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def saved(self) -> dict[int, dict[str, Any]]:
        """Return the epochs that were saved whole."""
        return {event["epoch"]: event for event in self.events("saved")}


def losses(run: Path) -> dict[int, float]:
    """Return each epoch's loss as the training wrote it down."""
    with (run / RESULTS).open(newline="") as stream:
        return {int(row["epoch"]): float(row["train/loss"]) for row in csv.DictReader(stream)}


def digests(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below *directory*."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def last_saved_s(shown: Mapping[str, Any]) -> float | None:
    """Return when the last.pt that a version holds was written."""
    entry = _last(shown)
    return None if entry is None else datetime.fromisoformat(entry["modified"]).timestamp()


def last_epoch(shown: Mapping[str, Any]) -> int | None:
    """Return which epoch the last.pt that a version holds is of, as the proof found it in the file."""
    entry = _last(shown)
    if entry is None or entry["proof"] is None:
        return None
    epoch = entry["proof"]["facts"].get("epoch")
    return None if epoch is None else int(epoch)


def size_bytes(shown: Mapping[str, Any], path: str) -> int:
    """Return how long a file is in a version, 0 if it is not there."""
    return next((int(entry["size_bytes"]) for entry in shown["entries"] if entry["path"] == path), 0)


def shortfall(shown: Mapping[str, Any]) -> str | None:
    """Return why the first checkpoint that was not proved far enough was not."""
    proofs = [entry["proof"] for entry in shown["entries"] if entry["proof"]]
    return next((proof["shortfall"] for proof in proofs if proof["shortfall"]), None)


def version_made(
    shown: Mapping[str, Any], *, made_by: str, read_bytes: int | None, proved_after_s: float | None
) -> VersionMade:
    """Return a version as the report has it, from what ``mlsync show --json`` says."""
    return VersionMade(
        number=shown["version"],
        made_by=made_by,
        epoch=last_epoch(shown),
        file_count=shown["file_count"],
        size_bytes=shown["size_bytes"],
        read_bytes=read_bytes,
        new_bytes=shown["new_bytes"],
        stored_bytes=shown["stored_bytes"],
        checkpoint_count=shown["checkpoint_count"],
        proved_after_s=proved_after_s,
        level=shown["lowest_level"] or 0,
        device=shown["device"] or "",
        troubles=tuple(_troubles(shown["troubles"])),
    )


def _last(shown: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((entry for entry in shown["entries"] if entry["path"] == LAST), None)


def _troubles(given: Iterable[Mapping[str, Any]]) -> Iterable[Trouble]:
    return (Trouble(item["path"], item["kind"], item["text"], item["kept_version"]) for item in given)
