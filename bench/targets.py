"""What the figures in results/ are held against: target, measured, met.

python bench/targets.py [--results DIR]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import report
from peers import Mlsync, MlsyncWithoutDevice
from speed import OURS, STORED

READING_BACK = (Mlsync.name, MlsyncWithoutDevice.name)
PEAK_MIB = 256
# A log's tail may begin inside the last piece that the version before stored.
TAIL_SLACK_BYTES = 4 << 20


@dataclass(frozen=True)
class Target:
    """*measured* is at most *bound*, or at least where *is_floor*; ``None`` where nothing was measured."""

    what: str
    bound: float
    measured: float | None
    is_floor: bool = False

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        is_met = self.measured >= self.bound if self.is_floor else self.measured <= self.bound
        return "met" if is_met else "MISSED"

    def row(self) -> tuple[str, str, float | None, str]:
        return self.what, f"{'>=' if self.is_floor else '<='} {report.shown(self.bound)}", self.measured, self.verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    show(parser.parse_args().results)


def show(directory: Path) -> None:
    rows = [target.row() for target in targets(directory)]
    report.show("Targets", ["target", "wanted", "measured", "verdict"], rows)


def targets(directory: Path) -> Iterator[Target]:
    kinds = {
        "size": size_targets,
        "speed": speed_targets,
        "many": many_targets,
        "s3": s3_targets,
        "disturb": disturb_targets,
    }
    for name, of_result in kinds.items():
        file = directory / f"{name}.json"
        if file.exists():
            yield from of_result(json.loads(file.read_text()))


def size_targets(result: dict) -> Iterator[Target]:
    for peer in ("restic", "restic max"):
        stored = {name: total["stored_bytes"] for name, total in result["totals"].items()}
        yield Target(f"stored of all series, to {peer}", 0.82, report.ratio(stored.get("mlsync"), stored.get(peer)))
        stored = result["series"].get("frozen", {"stored_bytes": {}})["stored_bytes"]
        yield Target(
            f"stored of the frozen series, to {peer}", 0.70, report.ratio(stored.get("mlsync"), stored.get(peer))
        )


def speed_targets(result: dict) -> Iterator[Target]:
    steps = {(one["tool"], one["step"]): one for one in result["steps"]}
    for ours in (name for name in OURS if (name, "first backup") in steps):
        yield from first_backup_targets(steps, ours)
    for ours in (name for name in READING_BACK if (name, "restore") in steps):
        restore = steps[ours, "restore"]
        yield Target(f"restore, wall to cp + fsync: {ours}", 1.25, restore["wall_to_cp"]["median"])
        other = steps.get(("restic", "restore"), {})
        yield Target(f"restore, restic's wall to it: {ours}", 4, other.get(f"wall_to_{ours}"), is_floor=True)
        yield from touched_targets(result, ours)
        peak_mib = max(steps[name, step]["peak_mib"]["max"] for name, step in steps if name == ours)
        yield Target(f"peak MiB, large files: {ours}", PEAK_MIB, peak_mib)
        yield from log_targets(result["appended_log"], ours)


def first_backup_targets(steps: dict, ours: str) -> Iterator[Target]:
    own = steps[ours, "first backup"]
    yield Target(f"first backup, wall to cp + fsync: {ours}", 1.25, own["wall_to_cp"]["median"])
    for peer in ("restic", "borg"):
        other = steps.get((peer, "first backup"), {})
        yield Target(f"first backup, {peer}'s wall to it: {ours}", 6, other.get(f"wall_to_{ours}"), is_floor=True)
        yield Target(f"first backup, {peer}'s CPU to it: {ours}", 5, other.get(f"cpu_to_{ours}"), is_floor=True)


def touched_targets(result: dict, ours: str) -> Iterator[Target]:
    facts = [one["facts"] for one in result["all"] if (one["tool"], one["step"]) == (ours, "touched")]
    read_bytes = max(fact["read_bytes"] for fact in facts)
    yield Target(f"touched, bytes read to bytes there: {ours}", 1.0, read_bytes / result["size_bytes"])
    yield Target(f"touched, bytes new: {ours}", 0, max(fact["new_bytes"] for fact in facts))


def log_targets(log: dict, ours: str) -> Iterator[Target]:
    if ours in log["tools"]:
        facts = log["tools"][ours]["appended"]["facts"]
        bound = log["appended_bytes"] + TAIL_SLACK_BYTES
        yield Target(f"appended log, bytes read: {ours}", bound, facts["read_bytes"])
        yield Target(f"appended log, bytes sent: {ours}", bound, facts["stored_bytes"])


def many_targets(result: dict) -> Iterator[Target]:
    if Mlsync.name in result["files"]["unchanged"]:
        yield from unchanged_targets(result["files"])
    yield from history_targets(result["history"]["looks"])


def unchanged_targets(files: dict) -> Iterator[Target]:
    ours, restic = files["unchanged"][Mlsync.name], files["unchanged"].get("restic")
    ratio = report.ratio(ours["wall_s"]["median"], restic and restic["wall_s"]["median"])
    yield Target(f"{files['file_count']:,} files unchanged, wall to restic", 1 / 3, ratio)
    yield Target("files unchanged, bytes of the source read", 0, ours["read_bytes"])
    yield Target("files unchanged, store calls", 3, ours["store_calls"])
    yield Target("peak MiB, many files", PEAK_MIB, ours["peak_mib"]["max"])


def history_targets(looks: list[dict]) -> Iterator[Target]:
    first, last = looks[0], looks[-1]
    early, middle = next(iter(first["restores"])), list(last["restores"])[-1]
    wall_s = last["restores"][middle]["wall_s"]["median"]
    yield Target(f"restore of version {middle} of {last['versions']}, 30 MB, s", 1, wall_s)
    more_calls = last["restores"][early]["store_calls"] - first["restores"][early]["store_calls"]
    what = f"store calls for version {early}: with {last['versions']} versions more than with {first['versions']}"
    yield Target(what, 0, more_calls)
    costs = [one for look in (first, last) for one in (look["backup"], *look["restores"].values())]
    yield Target(f"peak MiB, {last['versions']} versions", PEAK_MIB, max(one["peak_mib"]["max"] for one in costs))


def s3_targets(result: dict) -> Iterator[Target]:
    for server, steps in result["servers"].items():
        up, down = steps["up"], steps["down"]
        for ours in (name for name in OURS if name in up):
            yield Target(f"{server}, CPU to bare boto3 upload_part: {ours}", 1.3, up[ours]["cpu_to_bare"])
            if ours in READING_BACK:
                yield Target(f"{server}, peak MiB: {ours}", PEAK_MIB, up[ours]["peak_mib"]["max"])
        stored = up[STORED]
        if server == "seaweedfs":
            what = f"{server}, up, wall to the fastest that is plain: {STORED}"
            yield Target(what, 1.1, stored["wall_to_fastest_plain"])
        elif "restic" in up:
            ratio = report.ratio(up["restic"]["wall_s"]["median"], stored["wall_s"]["median"])
            yield Target(f"{server}, up, restic's wall to it: {STORED}", 3, ratio, is_floor=True)
        if "s5cmd" in down:
            ours = down[MlsyncWithoutDevice.name]["wall_s"]["median"]
            ratio = report.ratio(down["s5cmd"]["wall_s"]["median"], ours)
            yield Target(f"{server}, down, s5cmd's wall to it", 1.0, ratio, is_floor=True)


def disturb_targets(result: dict) -> Iterator[Target]:
    for setting, tools in result["settings"].items():
        ours = tools["mlsync agent"]
        yield Target(f"a training beside the agent, {setting}, mean step to alone", 1.01, ours["mean"]["median"])
        if "rsync" in tools:
            # A run from before steps of several turns were put together has the medians alone.
            bound, own = (tool.get("p99_pooled", tool["p99"]["median"]) for tool in (tools["rsync"], ours))
            yield Target(f"a training beside the agent, {setting}, p99 step to rsync's", bound, own)


if __name__ == "__main__":
    main()
