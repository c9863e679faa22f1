"""What a restore costs, step by step: ``price.py --restore``.

One file of float32 numbers (``randn * 0.02``), restored from a directory beside ``cp`` and fsync, and from SeaweedFS on
this machine beside s5cmd, which neither opens, compares nor syncs anything. Processor seconds of the steps are of all
threads together; *waited* is what a step's threads waited in it: for the disk, the server or a processor.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peers
import report
import trees
from peers import SECRET, MlsyncWithoutDevice
from process import Ran, run
from s3 import serving
from s3_clients import MlsyncWithoutDeviceOnS3, S5cmd
from speed import GIB, make_checkpoints

STEPS = Path(__file__).with_name("restore_steps.py")
NOW = "now"
PLACES = {"directory": "cp and fsync", "seaweedfs": "s5cmd"}


def measure(arguments: argparse.Namespace, place: Path, sources: dict[str, Path]) -> dict[str, object]:
    """Restore from each place by each agent, in turns with what it is compared with."""
    source = place / "run"
    make_checkpoints(source, arguments.gib, 1)
    found = {}
    for name, other in PLACES.items():
        with stored(name, place / name, source) as (tool, beside):
            rounds = []
            for number in range(arguments.rounds):
                turn: dict[str, object] = {other: beside(place / "restored").costs()}
                trees.remove(place / "restored")
                for who, agent in sources.items():
                    turn[who] = one_restore(tool, agent, place / "restored")
                    trees.remove(place / "restored")
                rounds.append(turn)
                print(f"{name}, round {number + 1}: done", file=sys.stderr, flush=True)
            found[name] = {who: summary([turn[who] for turn in rounds]) for who in (other, *sources)}
    return {
        "what": "what each step of a restore costs, medians over the rounds",
        "device": f"{len(os.sched_getaffinity(0))} CPU cores",
        "size_bytes": trees.size_bytes(source),
        "rounds": arguments.rounds,
        "before": arguments.before,
        "places": found,
    }


@contextmanager
def stored(name: str, place: Path, source: Path) -> Iterator[tuple]:
    """A repository with one version, and what brings the same bytes back without mlsync."""
    if name == "directory":
        tool = MlsyncWithoutDevice(place)
        tool.prepare()
        tool.backup(source)
        yield tool, lambda target: copy(source, target)
        return
    with serving(name, place.with_name("server")) as at:
        tool, other = MlsyncWithoutDeviceOnS3(place, at), S5cmd(place.with_name("s5cmd"), at)
        for one in (tool, other):
            one.prepare()
            one.backup(source)
        yield tool, other.restore


def copy(source: Path, target: Path) -> Ran:
    target.mkdir()
    return run(peers.synced(["cp", *trees.files(source), target], target))


def one_restore(tool: MlsyncWithoutDevice, agent: Path, target: Path) -> dict[str, object]:
    words = json.dumps({"config": str(tool.place / "mlsync.toml"), "passphrase": SECRET, "to": str(target)})
    environment = {**os.environ, **tool.environment(), "PYTHONPATH": str(agent)}
    done = subprocess.run([sys.executable, STEPS, words], capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        sys.exit(f"a restore failed with {done.returncode}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(rounds: list[dict]) -> dict[str, object]:
    """The spread of each figure; steps by their names."""
    return {
        key: {step: report.spread(one[key].get(step, 0.0) for one in rounds) for step in value}
        if isinstance(value, dict)
        else report.spread(one[key] for one in rounds)
        for key, value in rounds[0].items()
    }


def show(result: dict[str, object]) -> None:
    gib = result["size_bytes"] / GIB
    for name, of_place in result["places"].items():
        rows = [(who, one["wall_s"]["median"], one["cpu_s"]["median"], *start_of(one)) for who, one in of_place.items()]
        title = f"restore of {gib:.2f} GiB from {name}; of mlsync without its start"
        report.show(title, ["who", "wall s", "CPU s", "start s", "start CPU s", "reads"], rows)
        agents = {who: one for who, one in of_place.items() if "steps_cpu_s" in one}
        steps = list(dict.fromkeys(step for one in agents.values() for step in one["steps_cpu_s"]))
        lines = [(step, *(cost for one in agents.values() for cost in step_of(one, step, gib))) for step in steps]
        report.show(
            "each step", ["step", *(f"{who}: {of}" for who in agents for of in ("CPU s/GiB", "waited s"))], lines
        )


def start_of(one: dict) -> tuple[object, ...]:
    return tuple(one[key]["median"] if key in one else None for key in ("start_s", "start_cpu_s", "reads"))


def step_of(one: dict, step: str, gib: float) -> tuple[object, object]:
    cpu, waited = one["steps_cpu_s"].get(step), one["steps_waited_s"].get(step)
    return cpu and cpu["median"] / gib, waited and waited["median"]
