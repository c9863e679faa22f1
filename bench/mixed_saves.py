"""Mixed saves: does a version ever hold shards of two saves that were written one over the other?

    python bench/mixed_saves.py [--minutes 10] [--slow 8] [--quick]

A process exports three shards of safetensors over and over under the same names, each by a temporary name and a rename,
the second of them taking --slow seconds, with pauses by chance; each tensor holds the number of its save. Beside it
one backup begins after another, by chance a moment apart. At the end every version is restored, and its shards are
asked for their numbers. One version with two of them ends the run with status 1. Writes results/mixed_saves.json.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report
from peers import Mlsync

SHARDS = 3
SECRET = "of a benchmark"
PROOF = 'device = "none"\n'


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=None, help="how long; default 10, quick: 0.5")
    parser.add_argument("--slow", type=float, default=8.0, help="seconds that the second shard takes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--export-to", type=Path, help=parser_help_of_writer())
    arguments = parser.parse_args()
    if arguments.export_to:
        export(arguments.export_to, arguments.slow, random.Random(arguments.seed))
        return
    minutes = arguments.minutes or (0.5 if arguments.quick else 10)
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        result = soak(Path(scratch), minutes * 60, arguments.slow, arguments.seed)
    report.show("Mixed saves", ["what", "count"], [(name, str(value)) for name, value in result.items()])
    report.write("mixed_saves", result, arguments)
    sys.exit(1 if result["mixed_versions"] else 0)


def parser_help_of_writer() -> str:
    return "be the process that exports, for ever, into this directory"


def name_of(number: int) -> str:
    return f"model-{number:05}-of-{SHARDS:05}.safetensors"


def shard(number: int, value: int) -> bytes:
    """A shard of one tensor, as the format has it; without numpy, since this process is measured beside."""
    header = json.dumps({f"layer{number}": {"dtype": "I64", "shape": [4096], "data_offsets": [0, 32768]}}).encode()
    return len(header).to_bytes(8, "little") + header + value.to_bytes(8, "little") * 4096


def value_of(content: bytes) -> int:
    return int.from_bytes(content[-8:], "little")


def export(directory: Path, slow_s: float, chance: random.Random) -> None:
    """Write save after save; every other one leaves the index as it is."""
    value = 0
    while True:
        value += 1
        for number in range(1, SHARDS + 1):
            temporary = directory / f".tmp{chance.randrange(36**6):06}"
            content = shard(number, value)
            with temporary.open("wb") as file:
                file.truncate(len(content))
                for part in range(4):
                    file.write(content[part * len(content) // 4 : (part + 1) * len(content) // 4])
                    file.flush()
                    if number == 2:
                        time.sleep(slow_s / 4)
            temporary.rename(directory / name_of(number))
            time.sleep(chance.uniform(0, 0.5))
        if value % 2:
            names = {f"layer{n}": name_of(n) for n in range(1, SHARDS + 1)}
            index = {"metadata": {"total_size": 32768 * SHARDS}, "weight_map": names}
            (directory / "model.safetensors.index.json").write_text(json.dumps(index))
        time.sleep(chance.choice([0, 0.2, 5, 20]))


def soak(place: Path, seconds: float, slow_s: float, seed: int) -> dict[str, object]:
    """Back up beside the exports for so long, and say what the versions hold."""
    (place / "run").mkdir()
    mlsync(place, "init", (place / "repository").as_uri(), "--watch", place / "run", check=True)
    config = place / "mlsync.toml"
    text = config.read_text().replace("[proof]\n", "[proof]\n" + PROOF)
    config.write_text(f'state_directory = "{place / "state"}"\n{text}')
    words = [sys.executable, __file__, "--export-to", place / "run", "--slow", str(slow_s), "--seed", str(seed)]
    chance = random.Random(seed)
    writer = subprocess.Popen(words)
    statuses: dict[int, int] = {}
    try:
        ends_s = time.monotonic() + seconds
        while time.monotonic() < ends_s:
            (place / "run" / "log.csv").write_text(f"{time.time()}\n")
            status = mlsync(place, "backup", "--quickly").returncode
            statuses[status] = statuses.get(status, 0) + 1
            time.sleep(chance.uniform(0, 3))
    finally:
        writer.kill()
        writer.wait()
    return (
        {"backups": sum(statuses.values()), "ended_with_status": statuses}
        | judge(place)
        | {
            "seconds": seconds,
            "second_shard_s": slow_s,
            "seed": seed,
            "tools": {"mlsync": Mlsync.version()},
        }
    )


def judge(place: Path) -> dict[str, object]:
    """Restore every version and count those whose shards are of more than one save."""
    mixed, saves = [], set()
    count = 0
    for number in versions(place):
        target = place / "out"
        mlsync(place, "restore", "--version", str(number), "--to", target, check=True)
        found = [target / name_of(n) for n in range(1, SHARDS + 1)]
        values = {value_of(path.read_bytes()) for path in found if path.exists()}
        count += 1
        saves |= values
        if len(values) > 1 or 0 < sum(path.exists() for path in found) < SHARDS:
            mixed.append(number)
        subprocess.run(["rm", "-rf", target], check=True)
    return {"versions": count, "saves_in_versions": len(saves), "mixed_versions": len(mixed)}


def versions(place: Path) -> list[int]:
    told = json.loads(mlsync(place, "versions", "--json", check=True).stdout)
    return [version["version"] for version in told["versions"]]


def mlsync(place: Path, *words: object, check: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlsync", *map(str, words), "--config", str(place / "mlsync.toml")]
    environment = {**os.environ, "MLSYNC_PASSPHRASE": SECRET}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if check and ran.returncode:
        sys.exit(f"failed with {ran.returncode}: {' '.join(command)}\n{ran.stdout}{ran.stderr}")
    return ran


if __name__ == "__main__":
    main()
