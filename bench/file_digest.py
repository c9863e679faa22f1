"""What a digest of each whole file costs: BLAKE3, which mlsync computes, beside none, XXH3-128 and SHA-256.

    python bench/file_digest.py [--gib 1] [--rounds 5] [--quick]

First alone, on pieces of 2 MiB of float32 numbers: processor seconds per GiB, and the seconds that a file of 1,000
bytes takes. Then within mlsync, by processor seconds of the whole command with its children: a first backup of one
file of float32 numbers and of a small run directory, stored only (``store_cpu_seconds`` of the report) and with its
proof on the CPU; the backup of the same file touched; its restore. Each digest in turn, each round in another order;
ratios are medians over the rounds of the ratio to XXH3-128 within a round. Others may use the machine: wall time is not
told. Writes results/file_digest.json.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import report
import trees
from peers import Mlsync, Peer
from process import Ran

PIECE_BYTES = 2 << 20
SMALL_BYTES = 1000
AS = "--as"
KINDS = ("none", "xxh3-128", "blake3", "sha256")
STEPS = ("stored", "stored and proved", "touched", "restored")


class NoDigest:
    """Looks at nothing."""

    def update(self, view: object) -> None:
        pass

    def digest(self) -> bytes:
        return b""


def hash_of(kind: str) -> Callable[[], Any]:
    import xxhash
    from blake3 import blake3

    return {"none": NoDigest, "xxh3-128": xxhash.xxh3_128, "blake3": blake3, "sha256": hashlib.sha256}[kind]


class MlsyncAs(Mlsync):
    """mlsync with another digest of files."""

    def __init__(self, place: Path, kind: str) -> None:
        super().__init__(place)
        self._kind = kind

    def run(self, *arguments: str | Path, cwd: Path | None = None) -> Ran:
        return Peer.run(self, __file__, AS, self._kind, *arguments, "--config", self._config, cwd=cwd)


class MlsyncAsWithoutDevice(MlsyncAs):
    proof_lines = 'device = "none"\n'


def be_mlsync(kind: str, arguments: list[str]) -> None:
    """Be the command ``mlsync`` in this process, with digests of that kind, as long as BLAKE3's."""
    from mlsync.cli.main import main as mlsync
    from mlsync.codec.digest import FileDigester

    made, begin = hash_of(kind), FileDigester.__init__

    class Padded:
        def __init__(self) -> None:
            self._hash = made()
            self.update = self._hash.update

        def digest(self) -> bytes:
            return self._hash.digest().ljust(32, b"\0")

    def begin_as(self: FileDigester, *given: Any) -> None:
        begin(self, *given)
        self._hash = Padded()

    FileDigester.__init__ = begin_as
    sys.argv = ["mlsync", *arguments]
    mlsync()


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        place = Path(scratch)
        large, small = place / "large", place / "small"
        make_large(large, arguments.gib)
        make_small(small)
        alone = {kind: one_alone(kind, arguments.rounds, quick=arguments.quick) for kind in KINDS[1:]}
        within = {
            "one file of float32": one_tree(place / "of-large", large, arguments.rounds),
            "small run directory": one_tree(place / "of-small", small, arguments.rounds),
        }
    result = {
        "what": "processor seconds that a digest of each whole file costs",
        "gib": arguments.gib,
        "rounds": arguments.rounds,
        "alone": alone,
        "within": within,
    }
    show(result)
    report.write("file_digest", result, arguments)


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__)
    parser.add_argument("--gib", type=float, default=None, help="size of the large file; default 1 (quick: 0.0625)")
    parser.add_argument("--rounds", type=int, default=None, help="default 5; quick: 1")
    arguments = parser.parse_args()
    arguments.gib = arguments.gib or (0.0625 if arguments.quick else 1.0)
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 5)
    return arguments


def make_large(directory: Path, gib: float) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    directory.mkdir()
    generator = np.random.default_rng(0)
    count = int(gib * 2**30) // 4 // 32
    tensors = {f"layer.{n}": generator.standard_normal(count, np.float32) * np.float32(0.02) for n in range(32)}
    save_file(tensors, directory / "model.safetensors")


def make_small(directory: Path) -> None:
    """As a training of a small detector leaves it: two checkpoints of half floats, pictures, a table, settings."""
    import numpy as np
    from safetensors.numpy import save_file

    generator, noise = np.random.default_rng(1), random.Random(1)
    (directory / "weights").mkdir(parents=True)
    for name in ("best", "last"):
        tensors = {f"model.{n}": (generator.standard_normal(130_000) * 0.02).astype(np.float16) for n in range(24)}
        save_file(tensors, directory / "weights" / f"{name}.safetensors")
    for number in range(24):
        (directory / f"batch{number}.jpg").write_bytes(noise.randbytes(noise.randint(50_000, 400_000)))
    (directory / "results.csv").write_text(
        "".join(f"{n},{noise.random():.5f},{noise.random():.5f}\n" for n in range(300))
    )
    (directory / "args.yaml").write_text("imgsz: 640\nlr0: 0.01\n" * 40)


def one_alone(kind: str, rounds: int, *, quick: bool) -> dict[str, object]:
    made = hash_of(kind)
    pieces = [os.urandom(PIECE_BYTES) for _ in range(8)]
    times = 2 if quick else 32
    per_gib = []
    for _ in range(rounds):
        running, began_s = made(), time.thread_time()
        for _ in range(times):
            for piece in pieces:
                running.update(piece)
        running.digest()
        per_gib.append((time.thread_time() - began_s) * 2**30 / (times * len(pieces) * PIECE_BYTES))
    small, began_s = pieces[0][:SMALL_BYTES], time.thread_time()
    for _ in range(10_000):
        running = made()
        running.update(small)
        running.digest()
    small_s = (time.thread_time() - began_s) / 10_000
    return {"cpu_s_per_gib": report.spread(per_gib), "small_file_microseconds": round(small_s * 1e6, 2)}


def one_tree(place: Path, source: Path, rounds: int) -> dict[str, object]:
    costs: dict[str, dict[str, list[float]]] = {step: {kind: [] for kind in KINDS} for step in STEPS}
    for number in range(rounds):
        for kind in KINDS[number % len(KINDS) :] + KINDS[: number % len(KINDS)]:
            for step, cpu_s in one_round(place, source, kind).items():
                costs[step][kind].append(cpu_s)
    return {
        step: {
            kind: {"cpu_s": report.spread(found), "of_xxh3": report.spread(ratios(found, mine["xxh3-128"]))}
            for kind, found in mine.items()
        }
        for step, mine in costs.items()
    }


def one_round(place: Path, source: Path, kind: str) -> dict[str, float]:
    found = {}
    plain, proving = MlsyncAsWithoutDevice(place / "plain", kind), MlsyncAs(place / "proving", kind)
    plain.prepare()
    found["stored"] = plain.backup(source).facts["store_cpu_seconds"]
    for file in source.rglob("*"):
        file.touch()
    found["touched"] = plain.backup(source).cpu_s
    found["restored"] = plain.restore(place / "restored").cpu_s
    proving.prepare()
    found["stored and proved"] = proving.backup(source).cpu_s
    for tool in (plain, proving):
        tool.prepare()  # gives the disk back
    trees.remove(place / "restored")
    return found


def ratios(found: list[float], base: list[float]) -> list[float]:
    return [cpu_s / of for cpu_s, of in zip(found, base, strict=True)]


def show(result: dict[str, Any]) -> None:
    rows = [
        (kind, one["cpu_s_per_gib"]["median"], one["small_file_microseconds"]) for kind, one in result["alone"].items()
    ]
    report.show("Alone", ["digest", "CPU s/GiB", "µs of 1,000 bytes"], rows)
    for tree, steps in result["within"].items():
        rows = [
            (step, *(cell for one in kinds.values() for cell in (one["cpu_s"]["median"], one["of_xxh3"]["median"])))
            for step, kinds in steps.items()
        ]
        columns = ["step", *(cell for kind in KINDS for cell in (kind, "of XXH3"))]
        report.show(f"CPU seconds of mlsync, {tree}", columns, rows)


if __name__ == "__main__":
    if sys.argv[1:2] == [AS]:
        be_mlsync(sys.argv[2], sys.argv[3:])
    else:
        main()
