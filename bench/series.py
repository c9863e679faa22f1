"""Makes the series of snapshots that bench/size.py replays, each by really training a small network.

    python bench/series.py --into DIR [--only NAME] [--versions 10]

DIR/<name>/0001, 0002, ... hold what the trainer's run directory held after each save: checkpoints and small logs. A
file that a save left alone is a hard link to the snapshot before, so that a replay knows that it was not written. Seeds
are fixed; the last bits depend on the processor and on torch, and the text is the standard library of this Python.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import time
from pathlib import Path

import torch
from training.run_directory import RunDirectory

NAMES = ("transformer", "bf16", "frozen", "yolo", "dcp")
VERSIONS = 10


def main() -> None:
    arguments = parse()
    for name in [arguments.only] if arguments.only else NAMES:
        make(name, arguments.into, arguments.versions)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, required=True, help="the directory that gets a directory per series")
    parser.add_argument("--only", choices=NAMES, help="make this series alone")
    parser.add_argument("--versions", type=int, default=VERSIONS, help=f"snapshots per series (default {VERSIONS})")
    return parser.parse_args()


def make(name: str, into: Path, versions: int) -> Path:
    """Train the series *name* anew and return the directory of its snapshots."""
    target = into / name
    shutil.rmtree(target, ignore_errors=True)
    torch.manual_seed(0)
    torch.set_num_threads(2)
    began_s = time.perf_counter()
    with RunDirectory(target) as run:
        importlib.import_module(f"training.{name}").train(run, versions)
    print(f"{name}: {versions} versions in {time.perf_counter() - began_s:.0f} s", flush=True)
    return target


if __name__ == "__main__":
    main()
