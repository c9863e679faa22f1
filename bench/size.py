"""How much each tool stores of real trainings, version by version, and how long each version takes it.

    python bench/size.py [--series DIR] [--only NAME …] [--peers mlsync,restic] [--quick]

Plays the series of bench/series.py (made first if DIR has none) in one directory; after each step every tool in turn
makes its version of it. The last version is restored by each and compared by SHA-256. Prints tables, ratios first, and
writes results/size.json and results/size.png. Bytes are the growth of the tool's repository directory; of the tools
that keep no versions (rclone, rsync, cp) they are what it wrote there, which is no size of anything kept.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import peers
import replay
import report
import trees
from peers import Peer
from warm import Warmer

SERIES = ("transformer", "bf16", "frozen", "yolo", "dcp")
QUICK_SERIES = ("frozen", "yolo")
QUICK_VERSIONS = 3


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        place = Path(scratch)
        names = arguments.only or (QUICK_SERIES if arguments.quick else SERIES)
        source = arguments.series or place / "series"
        tools = peers.chosen(arguments.peers, place / "peers")
        warmer = Warmer(place, fills=arguments.fill_memory)
        series = {}
        for name in names:
            snapshots = made(source, name, arguments.quick)
            series[name] = one_series(snapshots, place / "live" / name, tools, warmer)
        result = {
            "what": "bytes stored and seconds taken per version, of trainings replayed in place",
            "memory_filled": arguments.fill_memory,
            "tools": peers.versions(tools),
            "keeps_versions": {tool.name: tool.keeps_versions for tool in tools},
            "totals": totals(series, tools),
            "series": series,
        }
    show(result)
    report.write("size", result, arguments)
    draw(arguments)


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__)
    parser.add_argument("--series", type=Path, default=None, help="where the series are, or are made; default: anew")
    parser.add_argument("--only", nargs="+", choices=SERIES, help="these series alone")
    parser.add_argument("--peers", default=None, help="names of tools, with commas; default: all that are installed")
    parser.add_argument(
        "--fill-memory", action="store_true", help="as in the others (see warm.py), at some seconds for each step"
    )
    return parser.parse_args()


def made(source: Path, name: str, quick: bool) -> Path:
    """In a process of its own: torch would make this one, and so every child's peak memory, large."""
    if not (source / name).exists():
        options = ["--versions", str(QUICK_VERSIONS)] if quick else []
        script = Path(__file__).with_name("series.py")
        subprocess.run([sys.executable, script, "--into", source, "--only", name, *options], check=True)
    return source / name


def one_series(series: Path, live: Path, tools: list[Peer], warmer: Warmer) -> dict[str, object]:
    for tool in tools:
        tool.prepare()
    versions = []
    for snapshot, trainer_bytes in replay.play(series, live):
        costs = {tool.name: one_version(tool, live, warmer) for tool in tools}
        versions.append({"trainer_wrote_bytes": trainer_bytes, **costs})
        print(f"{series.name} {snapshot.name}", file=sys.stderr, flush=True)
    for tool in tools:
        restored = live.with_name(f"{live.name}-restored")
        tool.restore(restored)
        trees.check_alike(live, restored, tool.name)
        trees.remove(restored)
    result = {"versions": versions, "stored_bytes": {tool.name: stored(tool, versions) for tool in tools}}
    for tool in tools:
        trees.remove(tool.place)
    trees.remove(live)
    return result


def one_version(tool: Peer, live: Path, warmer: Warmer) -> dict[str, object]:
    before = trees.stamps(tool.store)
    before_bytes = tool.stored_bytes() if before else 0
    warmer.settle(live)
    ran = tool.backup(live)
    written_bytes = trees.written_bytes(before, trees.stamps(tool.store))
    added_bytes = tool.stored_bytes() - before_bytes if tool.keeps_versions else written_bytes
    return {"added_bytes": added_bytes, **ran.costs(), "facts": ran.facts}


def stored(tool: Peer, versions: list[dict[str, object]]) -> int:
    """What the repository came to with everything in it; of tools without versions, all that was written."""
    return (
        tool.stored_bytes() if tool.keeps_versions else sum(version[tool.name]["added_bytes"] for version in versions)
    )


def totals(series: dict[str, dict[str, object]], tools: list[Peer]) -> dict[str, dict[str, float]]:
    result = {}
    for tool in tools:
        runs = [version[tool.name] for one in series.values() for version in one["versions"]]
        result[tool.name] = {
            "stored_bytes": sum(one["stored_bytes"][tool.name] for one in series.values()),
            "wall_s": round(sum(run["wall_s"] for run in runs), 2),
            "cpu_s": round(sum(run["cpu_s"] for run in runs), 2),
            "peak_mib": max(run["peak_mib"] for run in runs),
        }
    return result


def show(result: dict[str, object]) -> None:
    names = [name for name, keeps in result["keeps_versions"].items() if keeps]
    peer_names = [name for name in names if not name.startswith("mlsync")]
    rows = [size_row(name, one["stored_bytes"], peer_names, names) for name, one in result["series"].items()]
    whole = {name: total["stored_bytes"] for name, total in result["totals"].items()}
    rows.append(size_row("together", whole, peer_names, names))
    columns = ["series", *(f"mlsync/{name}" for name in peer_names), *(f"{name} MB" for name in names)]
    report.show("Stored bytes, all versions", columns, rows)
    mlsync = result["totals"].get("mlsync")
    time_rows = [
        (
            name,
            report.ratio(total["wall_s"], mlsync and mlsync["wall_s"]),
            total["wall_s"],
            total["cpu_s"],
            total["peak_mib"],
            total["stored_bytes"] / 1e6,
        )
        for name, total in result["totals"].items()
    ]
    columns = ["all series", "wall/mlsync", "wall s", "CPU s", "peak MiB", "stored or written MB"]
    report.show("Time of all versions (MB of rclone, rsync and cp: written, not kept)", columns, time_rows)


def size_row(series: str, stored: dict[str, int], peer_names: list[str], names: list[str]) -> list[object]:
    ratios = [report.ratio(stored.get("mlsync"), stored[name]) for name in peer_names]
    return [series, *ratios, *(stored[name] / 1e6 for name in names)]


def draw(arguments: argparse.Namespace) -> None:
    from plot import draw_size  # late: matplotlib is large, and all is measured now

    directory = arguments.results or (None if arguments.quick else report.RESULTS)
    if directory is not None:
        draw_size(directory / "size.json", directory / "size.png")


if __name__ == "__main__":
    main()
