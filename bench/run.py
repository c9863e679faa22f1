"""Runs every benchmark, prints its tables and in the end what the figures are held against.

    python bench/run.py [--quick] [--only size,speed] [--directory DIR] [--results DIR]

Each benchmark is a process of its own, one after the other; alone each can do more (``python bench/speed.py --help``).
A quick run takes minutes and its results go to a temporary directory: they say that it works, and nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import report
import targets

BENCHMARKS = ("size", "speed", "many", "s3", "kills", "idle", "codec_steps")


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="mlsync-bench-") as temporary:
        results = arguments.results or (Path(temporary) if arguments.quick else report.RESULTS)
        for name in arguments.only:
            run(name, results, arguments)
        targets.show(results)


def parse():
    parser = report.parser(__doc__)
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=BENCHMARKS,
        help=f"some of {','.join(BENCHMARKS)}",
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.only) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    return arguments


def run(name: str, results: Path, arguments) -> None:
    print(f"\n== {name} ==", flush=True)
    command = [sys.executable, Path(__file__).with_name(f"{name}.py"), "--results", results]
    if arguments.quick:
        command.append("--quick")
    if arguments.directory:
        command += ["--directory", arguments.directory]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
