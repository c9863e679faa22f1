"""What the demo reads of the agent and the trainer: only their files and logs, as anybody could."""

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

from mlsync.demo.kinds import TrainerKind
from mlsync.demo.processes import DemoProcess, mlsync_command
from mlsync.demo.report import FileTrouble, VersionMade
from mlsync.demo.workplace import Workplace

RESULTS = "results.csv"
_READ = re.compile(r": version (\d+) in .* with ([\d.]+) (B|KiB|MiB|GiB) read")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# What Python runs.
TRAINER = ("-m", "mlsync.demo.trainer")


class AgentProcess(DemoProcess):
    """The resident agent, with its status file and its log."""

    def __init__(self, place: Workplace) -> None:
        command = mlsync_command("agent", "--quickly", "--config", str(place.config))
        super().__init__("the agent", command, place.log("agent-output"), place.log("agent"), place.temporary)
        self._status = place.state / "status.json"
        self._committed_s: dict[int, float] = {}

    def last_version(self) -> int:
        """Return the number of the last version, 0 for none; remember when it was committed."""
        try:
            runs = json.loads(self._status.read_bytes())["runs"]
        except FileNotFoundError:
            return 0
        number = int(runs[0]["last_version"] or 0)
        if number:
            self._committed_s.setdefault(number, runs[0]["last_version_s"])
        return number

    def committed_s(self, number: int) -> float | None:
        """Return when a version was committed; ``None`` if the next one came before ``last_version`` saw it."""
        return self._committed_s.get(number)

    def read_bytes(self) -> dict[int, int]:
        """Return how many bytes the agent read for each version, as precisely as its log has them."""
        found = _READ.findall(self.log.read_text(errors="replace"))
        return {int(number): round(float(amount) * _UNITS[unit]) for number, amount, unit in found}


class TrainerProcess(DemoProcess):
    """The training, with the events that it prints."""

    def __init__(self, place: Workplace, kind: TrainerKind, name: str, *options: str) -> None:
        command = [sys.executable, "-P", *TRAINER, str(place.run), "--trainer", kind.name, *options]
        self._output = place.log(f"{name}-events")
        super().__init__("the trainer", command, self._output, place.log(name), place.temporary)
        self._seen_count = 0

    def has_new_epochs(self) -> bool:
        """Return whether ``new_epochs`` would return any."""
        return len(self.events("saved")) > self._seen_count

    def new_epochs(self) -> list[dict[str, Any]]:
        """Return the epochs that were saved since the last call."""
        events = self.events("saved")[self._seen_count :]
        self._seen_count += len(events)
        return events

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return all events of one kind so far."""
        # The last line may be incomplete.
        lines = self._output.read_text().split("\n")[:-1]
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def saved(self) -> dict[int, dict[str, Any]]:
        """Return the event of each epoch that was saved completely."""
        return {event["epoch"]: event for event in self.events("saved")}


def losses(run: Path) -> dict[int, float]:
    """Return each epoch's loss from the training's results."""
    with (run / RESULTS).open(newline="") as stream:
        return {int(row["epoch"]): float(row["train/loss"]) for row in csv.DictReader(stream)}


def digests(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below *directory*."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def made_s(shown: Mapping[str, Any]) -> float:
    """Return when a version was made, which is just before it was committed."""
    return datetime.fromisoformat(shown["made"]).timestamp()


def last_saved_s(shown: Mapping[str, Any], last: str) -> float | None:
    """Return when the last checkpoint that a version holds was written."""
    entry = _entry(shown, last)
    return None if entry is None else datetime.fromisoformat(entry["modified"]).timestamp()


def last_epoch(shown: Mapping[str, Any], last: str) -> int | None:
    """Return the epoch of the last checkpoint that a version holds, as the proof read it from the file."""
    entry = _entry(shown, last)
    if entry is None or entry["proof"] is None:
        return None
    epoch = entry["proof"]["facts"].get("epoch")
    return None if epoch is None else int(epoch)


def size_bytes(shown: Mapping[str, Any], path: str) -> int:
    """Return the size of a file in a version, 0 if it is not there."""
    return next((int(entry["size_bytes"]) for entry in shown["entries"] if entry["path"] == path), 0)


def shortfall(shown: Mapping[str, Any]) -> str | None:
    """Return why the first checkpoint that was not proved far enough fell short."""
    proofs = [entry["proof"] for entry in shown["entries"] if entry["proof"]]
    return next((proof["shortfall"] for proof in proofs if proof["shortfall"]), None)


def version_made(
    shown: Mapping[str, Any], last: str, *, made_by: str, read_bytes: int | None, proved_after_s: float | None
) -> VersionMade:
    """Return the report's entry for a version, from the output of ``mlsync show --json``."""
    return VersionMade(
        number=shown["version"],
        made_by=made_by,
        epoch=last_epoch(shown, last),
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


def _entry(shown: Mapping[str, Any], path: str) -> Mapping[str, Any] | None:
    return next((entry for entry in shown["entries"] if entry["path"] == path), None)


def _troubles(given: Iterable[Mapping[str, Any]]) -> Iterable[FileTrouble]:
    return (FileTrouble(item["path"], item["kind"], item["text"], item["kept_version"]) for item in given)
