"""How fast a checkpoint gets from the repository to proved on a GPU, beside what loads the same file there.

    python bench/gpu_proof.py [--device cuda] [--sizes-gib 0.1,1,4,16] [--types float32,bfloat16] [--rounds 3] [--quick]
    python bench/gpu_proof.py --device cpu --sizes-gib 0.25      # where there is no GPU: does it work?

For each size and type: mlsync backs the file up into a repository in a directory and proves it from there: the whole
proof, the reading alone (fetch, open, decode), and each step of the child alone (copy into pinned memory, onto the
device, digest and counts); and a version's proof by a child that starts for it, beside one by a child that waited on
the GPU since the last version. Beside it torch.load(map_location=device) and safetensors' load_file of the same
numbers, on the same disk. "from disk": what is read was taken out of the page cache before; "cached": read once
before. Every other process that is measured is there when its clock starts: torch imported, the device's context made.
Memory of the
device is what all processes together take more of it than before, as the driver says, contexts too. In the end a
training on the same device, alone and while proofs run without pause beside it.

Writes results/gpu_proof.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

import report
from peers import SECRET, MlsyncWithoutDevice

from mlsync.proof.programs import gpus

STEPS = Path(__file__).with_name("gpu_steps.py")
MEMORY_BYTES = 512 << 20
TRAINING_S = 20.0
SAMPLE_EVERY_S = 0.02
LOADERS = ("torch.load", "safetensors")


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        place = Path(scratch)
        rows = [
            one_file(place / f"{dtype}-{gib:g}", gib, dtype, arguments)
            for gib in arguments.sizes_gib
            for dtype in arguments.types
        ]
        result = {
            "what": "GB/s from a repository in a directory to proved on a device, beside loaders of the same numbers",
            "device": rows[0]["proof"]["device"],
            "torch": rows[0]["proof"]["torch"],
            "rounds": arguments.rounds,
            "files": rows,
            "stages_gb_per_s": {dtype: stages(dtype, arguments.device) for dtype in arguments.types},
            "training": training(first_configuration(place), place / "proving", arguments),
        }
    show(result)
    report.write("gpu_proof", result, arguments)


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--sizes-gib", default=None, help="sizes with commas; default 0.1,1,4,16 (quick: 0.0625)")
    parser.add_argument("--types", default="float32,bfloat16", help="torch's names, with commas")
    parser.add_argument("--rounds", type=int, default=None, help="default 3; quick: 1")
    arguments = parser.parse_args()
    sizes = arguments.sizes_gib or ("0.0625" if arguments.quick else "0.1,1,4,16")
    arguments.sizes_gib = [float(size) for size in sizes.split(",")]
    arguments.types = arguments.types.split(",")
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    return arguments


def one_file(place: Path, gib: float, dtype: str, arguments: argparse.Namespace) -> dict[str, object]:
    """All that is measured of one file; only its repository is left of it."""
    source, tensors = place / "run", place / "model.safetensors"
    source.mkdir(parents=True)
    made = step("make", path=str(source / "last.pt"), tensors_path=str(tensors), dtype=dtype, gib=gib)
    tool = MlsyncWithoutDevice(place / "mlsync")
    tool.prepare()
    tool.backup(source)
    config = str(tool.place / "mlsync.toml")
    common = {"device": arguments.device, "rounds": arguments.rounds}
    with DeviceMemory() as memory:
        proof = step("prove", config=config, passphrase=SECRET, **common)
    row = {"gib": gib, "dtype": dtype, "size_bytes": made["size_bytes"]}
    row["proof"] = {"device": proof["device"], "torch": proof["torch"], "start_s": round(proof["start_s"], 2)}
    row["proof"] |= rates(proof["runs"], row["size_bytes"]) | {"device_peak_mib": memory.peak_mib}
    row["proof"] |= {name: proof[name] for name in ("host_peak_mib", "child_peak_mib")}
    row["warm_and_cold"] = step("warm_and_cold", config=config, passphrase=SECRET, **common)["runs"]
    for name, path in zip(LOADERS, (source / "last.pt", tensors), strict=True):
        with DeviceMemory() as memory:
            load = step(name, path=str(path), **common)
        row[name] = rates(load["runs"], row["size_bytes"]) | {"device_peak_mib": memory.peak_mib}
    (source / "last.pt").unlink()
    tensors.unlink()
    print(f"{gib:g} GiB {dtype}: done", file=sys.stderr, flush=True)
    return row


def rates(runs: list[dict[str, float]], size_bytes: int) -> dict[str, dict[str, float]]:
    """GB/s instead of seconds, over the rounds."""
    return {
        name.removesuffix("_s") + "_gb_per_s": report.spread(size_bytes / run[name] / 1e9 for run in runs)
        for name in runs[0]
    }


def stages(dtype: str, device: str) -> dict[str, float]:
    found = step("stages", device=device, memory_bytes=MEMORY_BYTES, dtype=dtype)
    return {name: round(rate, 2) for name, rate in found.items()}


def first_configuration(place: Path) -> Path:
    """That of the repository that was made first."""
    return min(place.glob("*/mlsync/mlsync.toml"), key=lambda path: path.stat().st_mtime_ns)


def training(configuration: Path, flag: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Steps a second of a training alone, and with one file proved beside it again and again while *flag* is there."""
    seconds = 2.0 if arguments.quick else TRAINING_S
    alone = step("train", device=arguments.device, seconds=seconds)["steps_per_s"]
    flag.touch()
    words = {"config": str(configuration), "passphrase": SECRET, "device": arguments.device}
    words |= {"rounds": 0, "until": str(flag)}
    with subprocess.Popen(command("prove", words), stdout=subprocess.PIPE, text=True) as proving:
        beside = step("train", device=arguments.device, seconds=seconds)["steps_per_s"]
        flag.unlink()
        proofs = json.loads(proving.communicate()[0].splitlines()[-1])["proofs"]
    return {
        "steps_per_s_alone": round(alone, 2),
        "steps_per_s_beside_proofs": round(beside, 2),
        "slowdown": report.ratio(alone, beside),
        "proofs_meanwhile": proofs,
    }


def command(name: str, words: dict[str, object]) -> list[str]:
    return [sys.executable, str(STEPS), name, json.dumps(words)]


def step(name: str, **words: object) -> dict[str, object]:
    """What a step says of itself; one that fails ends the benchmark."""
    done = subprocess.run(command(name, words), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{name} failed with {done.returncode}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


class DeviceMemory:
    """Looks again and again how much of the GPUs is free; ``peak_mib`` is how much less it was than at first."""

    def __init__(self) -> None:
        self.peak_mib: float | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._before = gpus.free_bytes()
        if self._before:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self._before:
            self._thread.join()

    def _look(self) -> None:
        while not self._is_over.is_set():
            now = gpus.free_bytes()
            taken = sum(self._before[number] - free for number, free in now.items() if number in self._before)
            self.peak_mib = max(self.peak_mib or 0.0, round(taken / (1 << 20), 1))
            time.sleep(SAMPLE_EVERY_S)


def show(result: dict[str, object]) -> None:
    rows = []
    for row in result["files"]:
        name = f"{row['gib']:g} GiB {row['dtype']}"
        proof, loader = row["proof"], row["torch.load"]
        rows.append(
            (
                name,
                report.ratio(proof["prove_gb_per_s"]["median"], loader["load_gb_per_s"]["median"]),
                proof["prove_gb_per_s"]["median"],
                proof["cached_prove_gb_per_s"]["median"],
                proof["read_gb_per_s"]["median"],
                *(row[one][f"{state}load_gb_per_s"]["median"] for one in LOADERS for state in ("", "cached_")),
                proof["device_peak_mib"],
                *(row[one]["device_peak_mib"] for one in LOADERS),
            )
        )
    loaders = [f"{name}{state}" for name in LOADERS for state in ("", ", cached")]
    columns = ["file", "proof/torch.load", "proof", "cached", "reading alone", *loaders, "MiB"]
    report.show(
        f"GB/s to {result['device']}; MiB of the device: proof and loaders",
        [*columns, *(f"MiB {x}" for x in LOADERS)],
        rows,
    )
    parts = list(next(iter(result["stages_gb_per_s"].values())))
    report.show(
        "Each step of the child alone, GB/s",
        ["type", *parts],
        [(dtype, *found.values()) for dtype, found in result["stages_gb_per_s"].items()],
    )
    report.show(
        "A version's proof by a child that starts for it, and by one that waited; seconds, and the child's CPU seconds",
        ["file", "waited", "cold", "warm", "cold CPU", "warm CPU", "MiB waiting"],
        [
            (f"{row['gib']:g} GiB {row['dtype']}", *one.values())
            for row in result["files"]
            for one in row["warm_and_cold"]
        ],
    )
    found = result["training"]
    report.show("A training on the same device", list(found), [list(found.values())])


if __name__ == "__main__":
    main()
