"""Many files, and many versions: what a backup and a restore cost then.

    python bench/many.py [--files 100000] [--versions 1000] [--rounds 5] [--peers mlsync,restic,borg] [--quick]
    python bench/many.py --only-files [--before COMMIT] …

First a directory of small files, in rounds: each tool's first backup in turn, then the next with nothing changed.
``--only-files`` ends there, writes results/many_files.json, and may compare with the agent of an older commit. Else
the history of one run, mlsync alone and without the device proof: a checkpoint of 30 MB (safetensors) of which each
version rewrites one tensor in a hundred. With 10 versions and with all of them an early one is restored to an empty
place, and what of it depends on the history would show; in the end also one from the middle, which lies in the packs of
the hundred versions before it. Writes results/many.json.

Calls to the store are those that mlsync counts itself; the look whether there is a repository at all, before it asks
for a passphrase, is one more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import struct
import sys
import tempfile
from array import array
from pathlib import Path

import peers
import report
import trees
from peers import MlsyncBefore, MlsyncWithoutDevice, Peer
from process import Ran
from warm import Warmer

PEERS = "mlsync,restic,borg"
FILES_PER_DIRECTORY = 500
TENSOR_COUNT = 100
TENSOR_VALUES = 75_000
CHECKPOINT = "model.safetensors"


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        place = Path(scratch)
        tools = peers.chosen(arguments.peers, place / "peers", without=("mlsync whole",))
        if arguments.before:
            tools.append(MlsyncBefore(place / "peers" / "before", peers.source_of(arguments.before, place / "before")))
        result = {
            "what": "first and unchanged backups of many small files",
            "tools": peers.versions(tools) | ({MlsyncBefore.name: arguments.before} if arguments.before else {}),
            "load": round(os.getloadavg()[0], 1),
            "rounds": arguments.rounds,
            "files": many_files(place / "files", tools, Warmer(place), arguments.files, arguments.rounds),
        }
        if not arguments.only_files:
            result["what"] += "; backups and restores early and late in a long history"
            result["history"] = history(place / "history", arguments.versions, arguments.rounds)
    show(result)
    report.write("many_files" if arguments.only_files else "many", result, arguments)


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__)
    parser.add_argument("--files", type=int, default=None, help="small files (default 100000; quick: 2000)")
    parser.add_argument("--versions", type=int, default=None, help="versions of the history (default 1000; quick: 20)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default=PEERS, help=f"names of tools, with commas; default: {PEERS}")
    parser.add_argument("--only-files", action="store_true", help="without the history of versions")
    parser.add_argument("--before", metavar="COMMIT", help="measure the agent of that commit beside, with --only-files")
    arguments = parser.parse_args()
    arguments.files = arguments.files or (2_000 if arguments.quick else 100_000)
    arguments.versions = arguments.versions or (20 if arguments.quick else 1_000)
    return arguments


def many_files(source: Path, tools: list[Peer], warmer: Warmer, count: int, rounds: int) -> dict[str, object]:
    make_small_files(source, count)
    first: dict[str, list[Ran]] = {tool.name: [] for tool in tools}
    runs: dict[str, list[Ran]] = {tool.name: [] for tool in tools}
    for _ in range(rounds):
        for tool in tools:
            tool.prepare()
            warmer.settle(source)
            first[tool.name].append(tool.backup(source))
            say(f"first backup of {count} files: {tool.name}", first[tool.name][-1])
    for _ in range(rounds):
        for tool in tools:
            warmer.settle(source)
            runs[tool.name].append(tool.backup(source))
            say(f"unchanged: {tool.name}", runs[tool.name][-1])
    for tool in tools:
        trees.remove(tool.place)
    return {
        "file_count": count,
        "size_bytes": trees.size_bytes(source),
        "first": {name: costs_of(mine) for name, mine in first.items()},
        "unchanged": {name: costs_of(mine) for name, mine in runs.items()},
    }


def make_small_files(directory: Path, count: int) -> None:
    """Small results and labels, as a data set or a sweep of runs leaves them; no two alike."""
    generator = random.Random(0)
    for number in range(count):
        file = directory / f"{number // FILES_PER_DIRECTORY:04}" / f"{number:06}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = (f"{generator.random():.6f} {generator.random():.6f}\n" for _ in range(generator.randint(5, 80)))
        file.write_text(f"{number}\n" + "".join(lines))


def costs_of(runs: list[Ran]) -> dict[str, object]:
    costs = {name: report.spread(getattr(ran, name) for ran in runs) for name in ("wall_s", "cpu_s", "peak_mib")}
    facts = [ran.facts for ran in runs if ran.facts]
    if facts:
        costs["read_bytes"] = max(fact["read_bytes"] for fact in facts)
        costs["store_calls"] = max(calls(fact) for fact in facts)
        costs["store_calls_by_kind"] = facts[-1].get("store_calls")
    return costs


def calls(facts: dict[str, object]) -> int:
    return sum(facts.get("store_calls", {}).values())


class Growing:
    """A checkpoint in safetensors' format, kept in memory, of which one tensor after the other gets new values."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._generator = random.Random(0)
        self._tensor_bytes = 4 * TENSOR_VALUES
        head = {
            f"layers.{number:02}.weight": {
                "dtype": "F32",
                "shape": [TENSOR_VALUES // 250, 250],
                "data_offsets": [number * self._tensor_bytes, (number + 1) * self._tensor_bytes],
            }
            for number in range(TENSOR_COUNT)
        }
        text = json.dumps(head).encode()
        text += b" " * (-len(text) % 8)
        self._data_at = 8 + len(text)
        self._content = bytearray(struct.pack("<Q", len(text)) + text + bytes(TENSOR_COUNT * self._tensor_bytes))
        for number in range(TENSOR_COUNT):
            self._renew(number)

    def save(self, version: int) -> None:
        """Rewrite the file in place as a trainer does; one tensor of it is new."""
        self._renew(version % TENSOR_COUNT)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_bytes(self._content)

    def _renew(self, number: int) -> None:
        values = array("f", (self._generator.gauss(0.0, 0.02) for _ in range(TENSOR_VALUES)))
        at = self._data_at + number * self._tensor_bytes
        self._content[at : at + self._tensor_bytes] = values.tobytes()


def history(place: Path, versions: int, rounds: int) -> dict[str, object]:
    source = place / "run"
    tool = MlsyncWithoutDevice(place / "mlsync")
    tool.prepare()
    growing = Growing(source / CHECKPOINT)
    early, middle = min(10, versions) // 2, versions // 2
    backups, digests, looks = [], {}, []
    for version in range(1, versions + 1):
        growing.save(version)
        backups.append(tool.backup(source))
        if version in (early, middle):
            digests[version] = trees.digest(source / CHECKPOINT)
        if version % 50 == 0:
            say(f"version {version}", backups[-1])
        if version in (min(10, versions), versions):
            wanted = {number: digest for number, digest in digests.items() if number < version}
            looks.append(look(tool, version, wanted, backups[-rounds:], rounds))
    trees.remove(tool.place)
    return {"checkpoint_bytes": (source / CHECKPOINT).stat().st_size, "looks": looks}


def look(
    tool: MlsyncWithoutDevice, versions: int, wanted: dict[int, str], backups: list[Ran], rounds: int
) -> dict[str, object]:
    """What a backup costs when there are so many *versions*, and a restore of each of those that are *wanted*."""
    return {
        "versions": versions,
        "stored_bytes": tool.stored_bytes(),
        "object_count": sum(1 for _ in trees.files(tool.store)),
        "backup": costs_of(backups),
        "restores": {number: restores(tool, number, digest, rounds) for number, digest in wanted.items()},
    }


def restores(tool: MlsyncWithoutDevice, version: int, digest: str, rounds: int) -> dict[str, object]:
    runs = []
    for _ in range(rounds):
        target = tool.place / "restored"
        runs.append(tool.restore_one(target, CHECKPOINT, version))
        assert trees.digest(target / CHECKPOINT) == digest, f"version {version} came back as something else"
        trees.remove(target)
    say(f"restore of version {version}", runs[-1])
    return costs_of(runs)


def say(what: str, ran: Ran) -> None:
    print(f"{what}: {ran.wall_s:.2f} s", file=sys.stderr, flush=True)


def show(result: dict[str, object]) -> None:
    files = result["files"]
    title = f"{files['file_count']:,} files of {files['size_bytes']:,} bytes together"
    columns = ["mlsync/it", "wall s", "min-max", "CPU s", "peak MiB", "read bytes", "calls"]
    for what in ("first", "unchanged"):
        ours = files[what]["mlsync"]["wall_s"]["median"] if "mlsync" in files[what] else None
        rows = [file_row(name, ours, costs) for name, costs in files[what].items()]
        report.show(f"{title}: {what}", [what, *columns], rows)
    if "history" in result:
        show_history(result["history"])


def file_row(name: str, ours: float | None, costs: dict[str, object]) -> list[object]:
    wall = costs["wall_s"]
    return [
        name,
        report.ratio(ours, wall["median"]),
        wall["median"],
        f"{wall['min']:.2f}-{wall['max']:.2f}",
        costs["cpu_s"]["median"],
        costs["peak_mib"]["max"],
        costs.get("read_bytes"),
        costs.get("store_calls"),
    ]


def show_history(history: dict[str, object]) -> None:
    rows = [
        history_row(f"{what}, with {look['versions']} versions", costs)
        for look in history["looks"]
        for what, costs in {
            "backup": look["backup"],
            **{f"restore of version {number}": costs for number, costs in look["restores"].items()},
        }.items()
    ]
    columns = [MlsyncWithoutDevice.name, "wall s", "min-max", "CPU s", "peak MiB", "read bytes", "calls"]
    title = f"One checkpoint of {history['checkpoint_bytes']:,} bytes, one tensor of 100 new in each version"
    report.show(title, columns, rows)


def history_row(what: str, costs: dict[str, object]) -> list[object]:
    wall = costs["wall_s"]
    spread = f"{wall['min']:.2f}-{wall['max']:.2f}"
    rest = (costs["cpu_s"]["median"], costs["peak_mib"]["max"], costs["read_bytes"], costs["store_calls"])
    return [what, wall["median"], spread, *rest]


if __name__ == "__main__":
    main()
