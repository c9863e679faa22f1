"""What short commands cost, mostly their start: processor seconds and wall time, beside an older commit and restic.

    python bench/start.py [--rounds 5] [--mib 116] [--before COMMIT] [--quick]

A run directory as YOLO leaves it (``weights/last.pt`` and ``best.pt`` in half precision and an optimizer in float32, a
log, a few small files) is backed up once. Then in each round, in turns: ``--help``, ``status``, ``versions``, a backup
of the untouched run, a restore of its log alone, and a backup after ``last.pt`` was written anew with other numbers.
Ratios are medians over the rounds of the ratio within a round; where others use the machine, they say more than seconds
do. Processor seconds are of all processes of a command. Bytecode is there, as on every machine on which mlsync ran
once. mlsync stretches the passphrase by Argon2id in each command that opens the repository, restic by scrypt;
``stretching`` says what that takes of it alone. ``remembered`` is mlsync where the kernel remembers what that came to
(``[key] remember``), if it does so here. Writes results/start.json after each round, so that one that is cut off leaves
the rounds before it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import report
from peers import Mlsync, MlsyncBefore, MlsyncRemembering, Peer, Restic, source_of, versions
from process import Ran, run

NOW, REMEMBERED, BEFORE, RESTIC = "now", "remembered", "before", "restic"
SHORT = ("help", "status", "versions", "untouched", "restore_log")
LOG = "results.csv"
MAKE = """
import sys, torch
path, mib, seed = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(seed)
count = int(mib * 2**20 / 8)  # 2 bytes of the model, 2 of its average, 4 of the optimizer
model = torch.randn(count) * 0.02
layers = lambda numbers: {f"model.{at}.weight": part.clone() for at, part in enumerate(numbers.chunk(100))}
torch.save({"epoch": seed, "model": layers(model.half()), "ema": layers((model * 0.99).half()),
            "optimizer": layers(model * 0.001 + torch.randn(count) * 1e-5)}, path)
"""
STRETCH = """
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
import time
began = time.process_time()
Argon2id(salt=bytes(16), length=32, iterations=3, lanes=4, memory_cost=64 << 10).derive(b"a passphrase")
print(time.process_time() - began)
"""


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        place = Path(scratch)
        who: dict[str, Peer] = {NOW: Mlsync(place / "now")}
        if MlsyncRemembering.is_possible():
            who[REMEMBERED] = MlsyncRemembering(place / "remembered")
        if arguments.before is not None:
            who[BEFORE] = MlsyncBefore(place / "old", source_of(arguments.before, place / "sources"))
        if Restic.command() is not None:
            who[RESTIC] = Restic(place / "restic")
        said = versions([who[name] for name in (NOW, RESTIC) if name in who])
        for rounds, ran in enumerate(measured(place, who, arguments), 1):
            result = result_of(ran, rounds, said, arguments)
            report.write("start", result, arguments)
    show(result)


def result_of(
    ran: dict[str, dict[str, list[Ran]]], rounds: int, said: dict[str, str], arguments: argparse.Namespace
) -> dict[str, object]:
    """What came of so many rounds."""
    return {
        "what": "processor seconds and wall time of short commands, medians over the rounds",
        "mib": arguments.mib,
        "rounds": rounds,
        "before": arguments.before,
        "load": [round(load, 1) for load in os.getloadavg()],
        "versions": said,
        "stretching_cpu_s": report.spread(stretched() for _ in range(rounds)),
        "steps": {step: row_of(found) for step, found in ran.items()},
    }


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=None, help="default 5; quick: 2")
    parser.add_argument("--mib", type=float, default=None, help="size of last.pt; default 116 (quick: 8)")
    parser.add_argument("--before", metavar="COMMIT", default=None, help="also the agent of this commit, in turn")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 5)
    arguments.mib = arguments.mib or (8 if arguments.quick else 116)
    return arguments


def measured(
    place: Path, who: dict[str, Peer], arguments: argparse.Namespace
) -> Iterator[dict[str, dict[str, list[Ran]]]]:
    """What each of them took for each step, after each round; a first round, with the bytecode, does not count."""
    source = place / "run"
    make_run(source, arguments.mib)
    for peer in who.values():
        peer.prepare()
        peer.backup(source)
    ran: dict[str, dict[str, list[Ran]]] = {step: {} for step in (*SHORT, "small")}
    for number in range(arguments.rounds + 1):
        for step in SHORT:
            note(ran, number, step, {name: do(peer, step, source, place / "target") for name, peer in who.items()})
        make_checkpoint(source / "weights" / "last.pt", arguments.mib, number + 2)
        note(ran, number, "small", {name: peer.backup(source) for name, peer in who.items()})
        print(f"round {number} of {arguments.rounds}: done", file=sys.stderr, flush=True)
        if number:
            yield ran


def note(ran: dict[str, dict[str, list[Ran]]], number: int, step: str, took: dict[str, Ran | None]) -> None:
    for name, one in took.items():
        if number and one is not None:
            ran[step].setdefault(name, []).append(one)


def make_run(source: Path, mib: float) -> None:
    (source / "weights").mkdir(parents=True)
    make_checkpoint(source / "weights" / "last.pt", mib, 1)
    (source / "weights" / "best.pt").write_bytes((source / "weights" / "last.pt").read_bytes())
    (source / LOG).write_text("epoch,loss\n" + "".join(f"{at},{1 / (at + 1)}\n" for at in range(100)))
    for name in ("args.yaml", "labels.txt", "events.out"):
        (source / name).write_text(name * 20)


def make_checkpoint(path: Path, mib: float, seed: int) -> None:
    """In a process of its own: this one has to stay small, as its children's peaks begin with it."""
    run([sys.executable, "-c", MAKE, path, str(mib), str(seed)])


def do(peer: Peer, step: str, source: Path, target: Path) -> Ran | None:
    """One step of one of them; ``None`` for what it has nothing of."""
    if step == "untouched":
        return peer.backup(source)
    if isinstance(peer, Mlsync):
        shutil.rmtree(target, ignore_errors=True)
        words = {
            "help": ("--help",),
            "status": ("status",),
            "versions": ("versions",),
            "restore_log": ("restore", LOG, "--to", target),
        }
        return peer.run(*words[step])
    return peer.run("snapshots") if step == "versions" else None


def stretched() -> float:
    """Processor seconds of one derivation of a key from a passphrase, as mlsync's key slots ask for it."""
    done = subprocess.run([sys.executable, "-c", STRETCH], capture_output=True, text=True, check=True)
    return float(done.stdout)


def row_of(found: dict[str, list[Ran]]) -> dict[str, object]:
    row: dict[str, object] = {
        name: {
            "cpu_s": report.spread(one.cpu_s for one in rans),
            "wall_s": report.spread(one.wall_s for one in rans),
            "peak_mib": round(statistics.median(one.peak_mib for one in rans), 1),
        }
        for name, rans in found.items()
    }
    for other in (REMEMBERED, BEFORE, RESTIC):
        if other in found:
            pairs = list(zip(found[NOW], found[other], strict=True))
            row[f"by_{other}"] = {
                "cpu": round(statistics.median(now.cpu_s / then.cpu_s for now, then in pairs), 3),
                "wall": round(statistics.median(now.wall_s / then.wall_s for now, then in pairs), 3),
            }
    return row


def show(result: dict) -> None:
    names = [name for name in (BEFORE, NOW, REMEMBERED, RESTIC) if any(name in row for row in result["steps"].values())]
    rows = []
    for step, row in result["steps"].items():
        cells = [row[name]["cpu_s"]["median"] if name in row else None for name in names]
        cells += [row[name]["wall_s"]["median"] if name in row else None for name in names]
        ratios = [row[f"by_{name}"]["cpu"] if f"by_{name}" in row else None for name in (BEFORE, RESTIC)]
        rows.append((step, *cells, *ratios))
    columns = ["step", *(f"{name} CPU s" for name in names), *(f"{name} s" for name in names)]
    report.show("Short commands", [*columns, "CPU by before", "CPU by restic"], rows)
    print(f"\nstretching a passphrase takes {result['stretching_cpu_s']['median']:.2f} processor seconds of it")


if __name__ == "__main__":
    main()
