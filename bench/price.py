"""What a proof on the CPU costs: seconds and processor, from a repository in a directory to level 4.

    python bench/price.py [--gib 1] [--types float32,bfloat16] [--rounds 3] [--before COMMIT] [--restore] [--quick]

One version holds the same numbers (``randn * 0.02``) as ``torch.save`` writes them, whose records have CRC-32s, and as
safetensors does. In each round, in a process of its own: the child's start, each file proved with the repository out of
the page cache (where *directory* is on a disk), and twice with it there, of which the better counts; the same file only
read back, which is what a proof adds to. What reading back consists of is measured step by step in one thread: parsing,
reading, opening, decoding, the chunks' names, the file's digest, the container's checksums; the numbers are the child's
processor seconds, and importing what proves is measured in a process that does nothing else. With *before*, the
agent of an older commit does the same in turn with this one, on the same repository, and ratios are medians over the
rounds of the ratio within a round: more than 1 is dearer before. Processor seconds are of mlsync and its child
together; where others use the machine they say more than the clock. Writes results/price.json.

With *restore* it measures the steps of a restore instead (price_restore.py). Writes results/price_restore.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import price_restore
import report
from gpu_proof import STEPS, step
from peers import SECRET, MlsyncWithoutDevice, source_of

AGENT = Path(__file__).parents[1] / "agent"
NOW, BEFORE = "now", "before"
STEPS_APART = ("parsing", "reading", "opening", "decoding", "name", "digest", "checksums")


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        place = Path(scratch)
        sources = {NOW: AGENT}
        if arguments.before is not None:
            sources = {BEFORE: source_of(arguments.before, place / "before"), **sources}
        if arguments.restore:
            restores = price_restore.measure(arguments, place, sources)
            price_restore.show(restores)
            report.write("price_restore", restores, arguments)
            return
        rows = [row for dtype in arguments.types for row in one_type(place / dtype, dtype, sources, arguments)]
    result = {
        "what": "from a repository in a directory to level 4 on the CPU, medians over the rounds",
        "device": f"{len(os.sched_getaffinity(0))} CPU cores",
        "gib": arguments.gib,
        "rounds": arguments.rounds,
        "before": arguments.before,
        "files": rows,
    }
    show(result)
    report.write("price", result, arguments)


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__)
    parser.add_argument("--gib", type=float, default=None, help="size of each file; default 1 (quick: 0.0625)")
    parser.add_argument("--types", default="float32,bfloat16", help="torch's names, with commas")
    parser.add_argument("--rounds", type=int, default=None, help="default 3; quick: 1")
    parser.add_argument("--before", metavar="COMMIT", default=None, help="also the agent of this commit, in turn")
    parser.add_argument("--restore", action="store_true", help="the steps of a restore, and not of a proof")
    arguments = parser.parse_args()
    arguments.gib = arguments.gib or (0.0625 if arguments.quick else 1.0)
    arguments.types = arguments.types.split(",")
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    return arguments


def one_type(place: Path, dtype: str, sources: dict[str, Path], arguments: argparse.Namespace) -> list[dict]:
    """The two files of one type, measured; nothing is left of them."""
    source = place / "run"
    source.mkdir(parents=True)
    files = {"last.pt": source / "last.pt", "model.safetensors": source / "model.safetensors"}
    paths = {"path": str(files["last.pt"]), "tensors_path": str(files["model.safetensors"])}
    step("make", dtype=dtype, gib=arguments.gib, **paths)
    tool = MlsyncWithoutDevice(place / "mlsync")
    tool.prepare()
    tool.backup(source)
    for path in files.values():
        path.unlink()
    runs: dict[str, list[dict]] = {who: [] for who in sources}
    for number in range(arguments.rounds):
        for who, agent in sources.items():
            runs[who].append(measured(agent, tool.place / "mlsync.toml"))
            print(f"{dtype}, round {number + 1}, {who}: done", file=sys.stderr, flush=True)
    return [row_of(dtype, name, runs) for name in files]


def measured(source: Path, config: Path) -> dict:
    """What one process of that source says of all files."""
    words = json.dumps({"config": str(config), "passphrase": SECRET})
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, STEPS, "price", words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        sys.exit(f"price failed with {done.returncode}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def row_of(dtype: str, name: str, runs: dict[str, list[dict]]) -> dict:
    """All that was measured of one file, and how it was before."""
    row = {"dtype": dtype, "file": name, "size_bytes": runs[NOW][0]["files"][name]["size_bytes"]}
    for who, rounds in runs.items():
        found = [one["files"][name] for one in rounds]
        row[who] = {
            **{f"{kind}_gb_per_s": rates(found, kind) for kind in ("read", "cold_prove", "prove")},
            **{f"{kind}_cpu_s_per_gib": costs(found, kind) for kind in ("read", "prove")},
            "child_cpu_s_per_gib": costs(found, "child"),
            "start_s": report.spread(one["start_s"] for one in rounds),
            "start_cpu_s": report.spread(one["start_cpu_s"] for one in rounds),
            **steps_of(rounds, found),
        }
    if BEFORE in runs:
        pairs = list(zip(runs[BEFORE], runs[NOW], strict=True))
        keys = ("read_s", "read_cpu_s", "prove_s", "prove_cpu_s")
        row["before_by_now"] = {
            key: round(statistics.median(b["files"][name][key] / n["files"][name][key] for b, n in pairs), 3)
            for key in keys
        }
    return row


def steps_of(rounds: list[dict], found: list[dict]) -> dict:
    """What each step costs, where the commit tells them apart."""
    if any("import_cpu_s" not in one for one in rounds):
        return {}
    steps = {step for one in found for step in one["steps_cpu_s"]}
    per_gib = {
        step: report.spread(one["steps_cpu_s"].get(step, 0.0) / one["size_bytes"] * 2**30 for one in found)
        for step in STEPS_APART
        if step in steps
    }
    return {
        "import_cpu_s": report.spread(one["import_cpu_s"] for one in rounds),
        "steps_cpu_s_per_gib": per_gib | {"numbers": costs(found, "child")},
    }


def rates(found: list[dict], kind: str) -> dict[str, float]:
    return report.spread(one["size_bytes"] / one[f"{kind}_s"] / 1e9 for one in found)


def costs(found: list[dict], kind: str) -> dict[str, float]:
    return report.spread(one[f"{kind}_cpu_s"] / one["size_bytes"] * 2**30 for one in found)


def show(result: dict) -> None:
    rows = []
    for row in result["files"]:
        for who in (BEFORE, NOW):
            if who in row:
                found = row[who]
                names = ("prove_gb_per_s", "cold_prove_gb_per_s", "read_gb_per_s")
                costly = ("prove_cpu_s_per_gib", "child_cpu_s_per_gib", "read_cpu_s_per_gib", "start_s", "start_cpu_s")
                rows.append((f"{row['dtype']} {row['file']}, {who}", *(found[n]["median"] for n in (*names, *costly))))
    columns = [
        "file",
        "proof GB/s",
        "from disk",
        "reading",
        "CPU s/GiB",
        "child's",
        "reading's",
        "start s",
        "start CPU",
    ]
    report.show(f"Proof on {result['device']}", columns, rows)
    steps = [*STEPS_APART, "numbers"]
    lines = []
    for row in result["files"]:
        apart = row[NOW]["steps_cpu_s_per_gib"]
        medians = [apart[step]["median"] if step in apart else 0.0 for step in steps]
        lines.append((f"{row['dtype']} {row['file']}", row[NOW]["import_cpu_s"]["median"], *medians))
    report.show("CPU s/GiB of each step, and of the import", ["file", "import", *steps], lines)
    if result["before"] is not None:
        keys = list(result["files"][0]["before_by_now"])
        lines = [(f"{row['dtype']} {row['file']}", *row["before_by_now"].values()) for row in result["files"]]
        report.show(f"{result['before']} by now", ["file", *keys], lines)


if __name__ == "__main__":
    main()
