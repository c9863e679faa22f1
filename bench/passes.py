"""What a small version takes of a processor, beside restic: by the agent and by ``mlsync backup``, stored and proved.

    python bench/passes.py [--rounds 6] [--mib 116] [--quick]

The run directory is that of start.py, and in each round ``last.pt`` is written anew with other numbers; then, in turns:
restic; a pass of an agent whose process is there, and of one whose process starts for it; ``mlsync backup``. An agent
opened the repository when it started, so that no pass stretches a passphrase. mlsync reads the version back and proves
its checkpoint on the CPU; "stored" stands for ``device = "none"``, where it is read back and parsed, and no process
proves its numbers. restic reads nothing back. Processor seconds are of all processes that are at work; ratios are
medians over the rounds of the ratio within a round. Writes results/passes.json.
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

import report
from peers import Mlsync, MlsyncWithoutDevice, Restic, versions
from process import inherited
from start import make_checkpoint, make_run

ONE_PASS = Path(__file__).with_name("one_pass.py")
# Times that lie so far back that no file is taken for one that may still be written to.
OLD_S = 10**9


class Agent:
    """An agent's job, whose passes are asked for one by one."""

    def __init__(self, tool: Mlsync, source: Path, kind: str) -> None:
        tool.prepare()
        tool.watch(source)
        config = tool.place / "mlsync.toml"
        self._process = subprocess.Popen(
            [sys.executable, ONE_PASS, config, kind],
            env=inherited() | tool.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def backup(self, number: int) -> float:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        said = json.loads(self._process.stdout.readline())
        if said["version"] != number:
            sys.exit(f"the agent made no version {number}: {said}")
        return said["cpu_s"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        place = Path(scratch)
        source = place / "run"
        make_run(source, arguments.mib)
        age(source)
        tools = {
            "mlsync backup": Mlsync(place / "command"),
            "mlsync backup, stored": MlsyncWithoutDevice(place / "bare"),
        }
        tools["restic"] = Restic(place / "restic")
        for tool in tools.values():
            tool.prepare()
        agents = {
            "agent, process there": Agent(Mlsync(place / "there"), source, "there"),
            "agent, process there, stored": Agent(MlsyncWithoutDevice(place / "there-bare"), source, "there"),
            "agent, process starts": Agent(Mlsync(place / "starts"), source, "starts"),
        }
        took = measured(source, tools, agents, arguments)
        for agent in agents.values():
            agent.close()
    result = {
        "what": "processor seconds of a version with one new checkpoint, beside restic in the same round",
        "mib": arguments.mib,
        "rounds": arguments.rounds,
        "load": [round(load, 1) for load in os.getloadavg()],
        "versions": versions([tools["mlsync backup"], tools["restic"]]),
        "ways": {
            name: {
                "cpu_s": report.spread(found),
                "by_restic": round(statistics.median(a / b for a, b in zip(found, took["restic"], strict=True)), 3),
            }
            for name, found in took.items()
        },
    }
    rows = [(name, way["cpu_s"]["median"], way["by_restic"]) for name, way in result["ways"].items()]
    report.show("A version with one new checkpoint", ["way", "CPU s", "by restic"], rows)
    report.write("passes", result, arguments)


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=None, help="default 6; quick: 1")
    parser.add_argument("--mib", type=float, default=None, help="size of last.pt; default 116 (quick: 8)")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 6)
    arguments.mib = arguments.mib or (8 if arguments.quick else 116)
    return arguments


def measured(
    source: Path, tools: dict[str, Mlsync | Restic], agents: dict[str, Agent], arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """What each of them took, round by round; a first version does not count."""
    took: dict[str, list[float]] = {name: [] for name in (*tools, *agents)}
    for number in range(arguments.rounds + 1):
        if number:
            make_checkpoint(source / "weights" / "last.pt", arguments.mib, number + 1)
            age(source)
        order = [*took] if number % 2 else [*took][::-1]
        for name in order:
            cpu_s = agents[name].backup(number + 1) if name in agents else tools[name].backup(source).cpu_s
            if number:
                took[name].append(cpu_s)
        print(f"round {number} of {arguments.rounds}: done", file=sys.stderr, flush=True)
    return took


def age(source: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            os.utime(path, (OLD_S, OLD_S))


if __name__ == "__main__":
    main()
