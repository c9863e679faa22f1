"""The whole way of a checkpoint, beside ``cp``: first backup, second backup with nothing changed, restore.

    python bench/spine.py [--gib 2] [--rounds 3] [--directory DIR]

Makes a torch checkpoint of that many GiB of float32 weights, then in each round runs ``cp`` (with fsync), the first
backup into a fresh directory repository, a second one with nothing changed, ``cp`` again, and a restore to a fresh
place, each as a process of its own, page cache warm. The same ``cp`` can cost three times as much later in a round (it
did on a virtual machine, probably for want of memory that the page cache had used before), so each step is compared
with the ``cp`` right before it. Prints medians, ratios first, and writes bench/results/spine.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
STEPS = ("cp", "backup", "unchanged", "cp again", "restore")
PEER = {"cp": "cp", "backup": "cp", "unchanged": "cp", "cp again": "cp again", "restore": "cp again"}


@dataclass
class Run:
    step: str
    wall_s: float
    cpu_s: float
    peak_mib: float


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        place = Path(scratch)
        size_bytes = make_checkpoint(place / "run" / "last.pt", arguments.gib)
        runs = [run for _ in range(arguments.rounds) for run in one_round(place)]
    result = summary(runs, size_bytes, arguments.rounds)
    show(result)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "spine.json").write_text(json.dumps(result, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=None, help="where to work; default: the temporary directory")
    return parser.parse_args()


MAKE_CHECKPOINT = """
import sys, torch
torch.manual_seed(0)
model = {f"layers.{n}.weight": torch.randn(4096, 4096) * 0.02 for n in range(int(sys.argv[2]))}
torch.save({"epoch": 1, "model": model}, sys.argv[1])
"""


def make_checkpoint(path: Path, gib: float) -> int:
    """In a process of its own: a child's peak memory begins with its parent's, so this one has to stay small."""
    path.parent.mkdir(parents=True)
    layers = max(1, round(gib * 16))
    subprocess.run([sys.executable, "-c", MAKE_CHECKPOINT, str(path), str(layers)], check=True)
    return path.stat().st_size


def one_round(place: Path) -> list[Run]:
    for name in ("repo", "state", "restored", "copy"):
        shutil.rmtree(place / name, ignore_errors=True)
    (place / "copy").mkdir()
    config = place / "mlsync.toml"
    config.unlink(missing_ok=True)
    mlsync = [sys.executable, "-m", "mlsync"]
    options = ["--config", str(config), "--quiet"]
    measure("init", [*mlsync, "init", f"file://{place}/repo", "--watch", str(place / "run"), *options], place)
    text = config.read_text()
    config.write_text(text.replace("[[watch]]", f'state_directory = "{place}/state"\n\n[[watch]]', 1))
    source = place / "run" / "last.pt"
    runs = [
        measure("cp", copy_command(source, place / "copy" / "first.pt"), place),
        measure("backup", [*mlsync, "backup", *options], place),
        measure("unchanged", [*mlsync, "backup", *options], place),
        measure("cp again", copy_command(source, place / "copy" / "second.pt"), place),
        measure("restore", [*mlsync, "restore", "--to", str(place / "restored"), *options], place),
    ]
    assert same(source, place / "restored" / "last.pt"), "the restore is not what was backed up"
    return runs


def copy_command(source: Path, target: Path) -> list[str]:
    return ["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", str(source), str(target)]


def measure(step: str, command: list[str], place: Path) -> Run:
    environment = os.environ | {"MLSYNC_PASSPHRASE": "bench", "HOME": str(place)}
    began = time.perf_counter()
    child = os.posix_spawnp(command[0], command, environment)
    _, status, usage = os.wait4(child, 0)
    wall_s = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"{step} failed: {' '.join(command)}")
    return Run(step, wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def same(first: Path, second: Path) -> bool:
    with first.open("rb") as one, second.open("rb") as other:
        while True:
            left, right = one.read(1 << 22), other.read(1 << 22)
            if left != right:
                return False
            if not left:
                return True


def summary(runs: list[Run], size_bytes: int, rounds: int) -> dict[str, object]:
    steps = {step: median([run for run in runs if run.step == step]) for step in STEPS}
    return {
        "what": "seconds and peak memory of each step on one file of float32 weights, medians",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}",
        "python": platform.python_version(),
        "size_bytes": size_bytes,
        "rounds": rounds,
        "steps": steps,
        "wall_to_cp": {step: round(steps[step]["wall_s"] / steps[PEER[step]]["wall_s"], 2) for step in STEPS},
        "all": [asdict(run) for run in runs],
    }


def median(runs: list[Run]) -> dict[str, float]:
    return {
        name: round(statistics.median(getattr(run, name) for run in runs), 3)
        for name in ("wall_s", "cpu_s", "peak_mib")
    }


def show(result: dict[str, object]) -> None:
    steps, ratios = result["steps"], result["wall_to_cp"]
    print(
        f"{result['size_bytes'] / 2**30:.2f} GiB of float32 weights, {result['machine']}, medians of {result['rounds']}"
    )
    print(f"{'step':<12}{'x cp':>8}{'wall s':>10}{'CPU s':>10}{'peak MiB':>10}")
    for step in STEPS:
        values = steps[step]
        print(f"{step:<12}{ratios[step]:>8}{values['wall_s']:>10}{values['cpu_s']:>10}{values['peak_mib']:>10}")


if __name__ == "__main__":
    main()
