"""What trainers recorded, and whether a restored version agrees with it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LOGS = ("train.log", "results.csv")


@dataclass
class Save:
    """One save: its files by path, with their digests, and when it began, ended, and was deleted or overwritten."""

    files: dict[str, str]
    began_s: float
    ended_s: float = math.inf
    gone_s: float = math.inf

    @property
    def is_finished(self) -> bool:
        return self.ended_s < math.inf


@dataclass
class Version:
    """One version: its files by path, with their digests, the files that it tells to be others, and its moment."""

    number: int
    made_s: float
    files: dict[str, str]
    told: set[str] = field(default_factory=set)


class Record:
    """All saves of one run, in the order of their beginnings."""

    def __init__(self, file: Path, directory: Path) -> None:
        self.directory = directory
        self.saves: list[Save] = []
        open_saves: dict[str, Save] = {}
        for line in file.read_text().splitlines():
            event = json.loads(line)
            match event["what"]:
                case "begin":
                    self._overwritten(set(event["files"]), event["at_s"])
                    open_saves[event["save"]] = Save(event["files"], event["at_s"])
                    self.saves.append(open_saves[event["save"]])
                case "end":
                    open_saves[event["save"]].ended_s = event["at_s"]
                case "delete":
                    self._deleted(event["place"], event["at_s"])
        self._by_digest = {digest: save for save in self.saves for digest in save.files.values()}

    def _overwritten(self, paths: set[str], at_s: float) -> None:
        for save in self.saves:
            if not paths.isdisjoint(save.files):
                save.gone_s = min(save.gone_s, at_s)

    def _deleted(self, place: str, at_s: float) -> None:
        for save in self.saves:
            if any(path == place or path.startswith(f"{place}/") for path in save.files):
                save.gone_s = min(save.gone_s, at_s)

    def finished(self) -> list[Save]:
        return [save for save in self.saves if save.is_finished]

    def save_of(self, digest: str) -> Save | None:
        return self._by_digest.get(digest)

    def held(self, version: Version) -> list[Save]:
        """The saves that a version has whole."""
        found = [self.save_of(digest) for digest in version.files.values()]
        saves = {id(save): save for save in found if save is not None}
        return [
            save for save in saves.values() if all(version.files.get(path) == one for path, one in save.files.items())
        ]

    def faults(self, version: Version, before_s: float) -> list[str]:
        """What is wrong with a version; the one before it was made at *before_s*, and its pass began after that."""
        found = [*self._foreign(version), *self._mixed(version)]
        for save in self.finished():
            if save.ended_s < before_s and save.gone_s > version.made_s:
                found += [
                    f"{path} is not as it was since {version.made_s - save.ended_s:.1f} s before the version"
                    for path, digest in save.files.items()
                    if version.files.get(path) != digest and path not in version.told
                ]
        return [*found, *self._stale(version, before_s)]

    def _foreign(self, version: Version) -> list[str]:
        """Files with content that no save had, and logs that are no beginning of what was logged."""
        found = []
        for path, digest in version.files.items():
            if path in LOGS:
                continue
            save = self.save_of(digest)
            if save is None or save.files.get(path) != digest:
                found.append(f"{path} is no whole file of a save")
        return found

    def _mixed(self, version: Version) -> list[str]:
        """Checkpoints in a directory of which two files come from two saves."""
        saves_of: dict[str, set[int]] = {}
        for path, digest in version.files.items():
            if "checkpoint-" in path:
                saves_of.setdefault(path.split("/")[0], set()).add(id(self.save_of(digest)))
        return [f"{place} is a mix of {len(saves)} saves" for place, saves in saves_of.items() if len(saves) > 1]

    def _stale(self, version: Version, before_s: float) -> list[str]:
        """Files older than the newest save that was whole before the version's pass began, without a word about it."""
        newest: dict[str, Save] = {}
        for save in self.finished():
            if save.ended_s < before_s:
                newest.update(dict.fromkeys(save.files, save))
        found = []
        for path, digest in version.files.items():
            save = self.save_of(digest)
            if path in newest and save is not None and path not in version.told:
                late_s = newest[path].ended_s - save.began_s
                if save.began_s < newest[path].began_s:
                    found.append(f"{path} is {late_s:.1f} s older than it has to be")
        return found


def log_fault(path: str, logged: bytes, restored: bytes) -> str | None:
    """What is wrong with a restored log, if it is no beginning of all that was logged."""
    return None if logged.startswith(restored) else f"{path} is no beginning of what was logged"


def digests(directory: Path) -> dict[str, str]:
    return {
        file.relative_to(directory).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }


def partial_count(version: Version) -> int:
    """How many checkpoints in a directory lack their last file, as when the trainer was killed within the save."""
    places = {path.split("/")[0] for path in version.files if path.startswith("checkpoint-")}
    return sum(f"{place}/trainer_state.json" not in version.files for place in places)


def percentile(values: list[float], share: float) -> float | None:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))] if ordered else None


def slope(points: list[tuple[float, float]]) -> float | None:
    """Least squares: by how much the second value grows while the first grows by one."""
    if len(points) < 3:
        return None
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    squares = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / squares if squares else None


def rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)


def by_name(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))
