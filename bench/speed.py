"""The whole way of large checkpoints, beside ``cp`` and other tools: first backup, unchanged, touched, restore.

    python bench/speed.py [--gib 4] [--files 1] [--rounds 5] [--peers mlsync,restic] [--before COMMIT] [--quick]

Makes torch checkpoints of float32 weights: ``randn * 0.02``, which is how trained weights look to a compressor but no
training's result (bench/size.py has those). In each round every tool in turn makes its first backup into an empty
repository, one with nothing changed, one after each file was touched but not changed, and restores to an empty place;
rclone, rsync and cp have nothing to tell of touched files and skip that. With *before*, the
agent of an older commit takes its turn as one more tool. ``cp`` and fsync of the same bytes runs right
before each step that is compared with it. Before each step the machine is brought into the same state (see warm.py):
what is read next is in the page cache, memory is full, nothing is left to be written. A log that grows comes last.

Ratios are medians over the rounds of the ratio within a round. Writes results/speed.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import peers
import report
import trees
from peers import Mlsync, MlsyncBefore, MlsyncWithoutDevice, Peer
from process import Ran, run
from warm import Warmer

STEPS = ("first backup", "unchanged", "touched", "restore")
BESIDE_CP = ("first backup", "restore")
# What mlsync tells of itself: all that a tool does that does not read back what it wrote.
STORED = "mlsync until stored"
OURS = (Mlsync.name, MlsyncWithoutDevice.name, STORED)
SLOW = ("restic max", "mlsync whole")
LOG_BYTES = 200 << 20
APPENDED_BYTES = 1 << 20
GIB = 1 << 30

MAKE_CHECKPOINT = """
import sys, torch
torch.manual_seed(int(sys.argv[3]))
model = {f"layers.{n}.weight": torch.randn(4096, 1024) * 0.02 for n in range(int(sys.argv[2]))}
torch.save({"epoch": 1, "model": model}, sys.argv[1])
"""
LAYER_BYTES = 4096 * 1024 * 4


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        place = Path(scratch)
        source = place / "run"
        make_checkpoints(source, arguments.gib, arguments.files)
        tools = peers.chosen(arguments.peers, place / "peers", without=SLOW)
        if arguments.before is not None:
            agent = peers.source_of(arguments.before, place / "before")
            tools.insert(0, MlsyncBefore(place / "peers" / "before", agent))
        warmer = Warmer(place)
        log = appended_log(place, tools, warmer, arguments.quick)
        runs: list[dict[str, object]] = []
        for number in range(arguments.rounds):
            runs += one_round(number, source, tools, warmer)
            # After each round: a run that is ended has what it measured until then.
            result = {
                "what": "costs of each step on checkpoints of float32 weights (randn * 0.02), and of a log that grows",
                "size_bytes": trees.size_bytes(source),
                "file_count": arguments.files,
                "rounds": number + 1,
                "before": arguments.before,
                "tools": peers.versions(tools),
                "steps": summary(runs),
                "appended_log": log,
                "all": runs,
            }
            report.write("speed", result, arguments)
    show(result)


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__)
    parser.add_argument("--gib", type=float, default=None, help="size of all files together (default 4; quick: 0.25)")
    parser.add_argument("--files", type=int, default=1, help="number of files that it is in")
    parser.add_argument("--rounds", type=int, default=None, help="default 5; quick: 2")
    parser.add_argument("--peers", default=None, help="names of tools, with commas; default: all but two")
    parser.add_argument("--before", metavar="COMMIT", default=None, help="also the agent of this commit, in turn")
    arguments = parser.parse_args()
    arguments.gib = arguments.gib or (0.25 if arguments.quick else 4.0)
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 5)
    return arguments


def make_checkpoints(directory: Path, gib: float, count: int) -> None:
    """In processes of their own: a child's peak memory begins with its parent's, so this one has to stay small."""
    directory.mkdir(parents=True)
    layers = max(1, round(gib * GIB / LAYER_BYTES / count))
    for number in range(count):
        path = directory / f"checkpoint-{number}.pt"
        subprocess.run([sys.executable, "-c", MAKE_CHECKPOINT, path, str(layers), str(number)], check=True)


def one_round(number: int, source: Path, tools: list[Peer], warmer: Warmer) -> list[dict[str, object]]:
    runs = []
    for tool in tools:
        tool.prepare()
        for step in STEPS if tool.keeps_versions else ("first backup", "unchanged", "restore"):
            cp = copy_beside(source, warmer) if step in BESIDE_CP and isinstance(tool, Mlsync) else None
            ran = one_step(tool, step, source, warmer, is_checked=number == 0)
            beside = {"cp_wall_s": round(cp.wall_s, 3), "cp_cpu_s": round(cp.cpu_s, 3)} if cp else {}
            runs.append({"round": number, "tool": tool.name, "step": step, **ran.costs(), **beside, "facts": ran.facts})
            if isinstance(tool, MlsyncWithoutDevice) and step == "first backup":
                runs.append({**runs[-1], "tool": STORED, **without_proof(ran), "facts": {}})
            print(f"round {number + 1}: {tool.name}, {step}: {ran.wall_s:.2f} s", file=sys.stderr, flush=True)
        trees.remove(tool.place)
    return runs


def one_step(tool: Peer, step: str, source: Path, warmer: Warmer, *, is_checked: bool) -> Ran:
    if step == "touched":
        for file in trees.files(source):
            os.utime(file)
    warmer.settle(tool.store if step == "restore" else source)
    if step != "restore":
        return tool.backup(source)
    restored = tool.place / "restored"
    ran = tool.restore(restored)
    if is_checked:
        trees.check_alike(source, restored, tool.name)
    trees.remove(restored)
    return ran


def without_proof(ran: Ran) -> dict[str, float]:
    """What a backup cost but for reading back and proving; it has no other process that would have to be counted."""
    wall_s, cpu_s = ran.wall_s - ran.facts["prove_seconds"], ran.cpu_s - ran.facts["prove_cpu_seconds"]
    return {"wall_s": round(wall_s, 3), "cpu_s": round(cpu_s, 3)}


def copy_beside(source: Path, warmer: Warmer) -> Ran:
    warmer.settle(source)
    target = source.with_name("copy")
    target.mkdir()
    ran = run(peers.synced(["cp", *trees.files(source), target], target))
    trees.remove(target)
    return ran


def appended_log(place: Path, tools: list[Peer], warmer: Warmer, quick: bool) -> dict[str, object]:
    """A text log, its first version, and its second when a little was added: what is read and sent of it."""
    directory = place / "log"
    directory.mkdir()
    line = "epoch {0:07d} step {1:09d} loss {2:.6f} lr {3:.3e} grad_norm {4:.4f}\n"
    size_bytes = LOG_BYTES // 20 if quick else LOG_BYTES
    lines = (
        line.format(n // 500, n, 2.5 / (1 + n) ** 0.1 + n % 97 * 1e-4, 1e-3, n % 1013 / 97) for n in range(1 << 40)
    )
    extend(directory / "train.log", lines, size_bytes)
    keepers = [tool for tool in tools if tool.keeps_versions]
    first = {}
    for tool in keepers:
        tool.prepare()
        warmer.settle(directory)
        first[tool.name] = tool.backup(directory)
    extend(directory / "train.log", lines, APPENDED_BYTES)
    appended = {}
    for tool in keepers:
        warmer.settle(directory)
        appended[tool.name] = tool.backup(directory)
        trees.remove(tool.place)
    return {
        "log_bytes": size_bytes,
        "appended_bytes": APPENDED_BYTES,
        "tools": {
            name: {"first": first[name].costs(), "appended": {**ran.costs(), "facts": ran.facts}}
            for name, ran in appended.items()
        },
    }


def extend(file: Path, lines, size_bytes: int) -> None:
    with file.open("a") as stream:
        written_bytes = 0
        while written_bytes < size_bytes:
            written_bytes += stream.write(next(lines))


def summary(runs: list[dict[str, object]]) -> list[dict[str, object]]:
    result = []
    for name in dict.fromkeys(one["tool"] for one in runs):
        for step in STEPS:
            mine = [one for one in runs if one["tool"] == name and one["step"] == step]
            if mine:
                result.append({"tool": name, "step": step, **figures(mine, runs)})
    return result


def figures(mine: list[dict[str, object]], runs: list[dict[str, object]]) -> dict[str, object]:
    costs = {cost: report.spread(one[cost] for one in mine) for cost in ("wall_s", "cpu_s", "peak_mib")}
    if "cp_wall_s" in mine[0]:
        costs["cp_wall_s"] = report.spread(one["cp_wall_s"] for one in mine)
        costs["wall_to_cp"] = report.spread(one["wall_s"] / one["cp_wall_s"] for one in mine)
    for peer in OURS:
        for cost in ("wall_s", "cpu_s"):
            ratios = [one[cost] / same[cost] for one in mine for same in beside(one, peer, runs)]
            if ratios:
                costs[f"{cost[:-2]}_to_{peer}"] = round(statistics.median(ratios), 3)
    return costs


def beside(one: dict[str, object], peer: str, runs: list[dict[str, object]]) -> list[dict[str, object]]:
    """The same step of *peer* in the same round."""
    return [
        other for other in runs if (other["tool"], other["step"], other["round"]) == (peer, one["step"], one["round"])
    ]


def show(result: dict[str, object]) -> None:
    gib = result["size_bytes"] / GIB
    ratios = ["wall/cp", "wall/mlsync", "CPU/mlsync", "wall/no proof", "CPU/no proof", "wall/stored", "CPU/stored"]
    columns = ["tool", *ratios, "wall s", "min-max", "CPU s", "peak MiB", "GiB/s"]
    for step in STEPS:
        rows = [step_row(one, gib) for one in result["steps"] if one["step"] == step]
        report.show(f"{step}: {gib:.2f} GiB in {result['file_count']} files", columns, rows)
    log = result["appended_log"]
    rows = [log_row(name, one) for name, one in log["tools"].items()]
    title = f"{log['appended_bytes']:,} bytes appended to a log of {log['log_bytes']:,}"
    report.show(title, ["tool", "read bytes", "stored bytes", "wall s", "wall s of the first"], rows)
    show_phases(result)


def step_row(one: dict[str, object], gib: float) -> list[object]:
    wall = one["wall_s"]
    return [
        one["tool"],
        one.get("wall_to_cp", {}).get("median"),
        *(one.get(f"{cost}_to_{ours}") for ours in OURS for cost in ("wall", "cpu")),
        wall["median"],
        f"{wall['min']:.2f}-{wall['max']:.2f}",
        one["cpu_s"]["median"],
        one["peak_mib"]["median"],
        gib / wall["median"],
    ]


def log_row(name: str, one: dict[str, object]) -> list[object]:
    facts = one["appended"]["facts"]
    return [
        name,
        facts.get("read_bytes"),
        facts.get("stored_bytes"),
        one["appended"]["wall_s"],
        one["first"]["wall_s"],
    ]


def show_phases(result: dict[str, object]) -> None:
    """Where the time went, as far as mlsync tells of it."""
    rows = []
    for tool, step in dict.fromkeys((one["tool"], one["step"]) for one in result["all"]):
        mine = [one["facts"] for one in result["all"] if (one["tool"], one["step"]) == (tool, step)]
        phases = [name for name in mine[0] if name.endswith("seconds")]
        rows += [(f"{tool}, {step}: {phase}", statistics.median(facts[phase] for facts in mine)) for phase in phases]
    report.show("What mlsync says itself, in seconds", ["phase", "median"], rows)


if __name__ == "__main__":
    main()
