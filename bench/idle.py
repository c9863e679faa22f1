"""The memory of an agent that waits: before its first version, and after some that were proved.

    python bench/idle.py [--versions 3]

Starts a real agent beside a directory in which torch checkpoints of 32 MiB are saved, and reads what the kernel says of
its process while it waits (smaps_rollup: resident, its own, and what it shares with others). The process that makes
the versions comes and goes and is not counted. The agent is alone in its session, as under systemd: elsewhere a
bare Python of 8 MiB waits beside it. Writes results/idle.json.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report
from peers import Mlsync

SAVE = """
import sys, torch
torch.manual_seed(int(sys.argv[2]))
torch.save({"epoch": int(sys.argv[2]), "model": {"layer": torch.randn(2048, 4096) * 0.02}}, sys.argv[1])
"""
WAIT_S = 60.0
# The agent's first look at its run is over by then, and so is the process that it was done in.
SETTLE_S = 45.0


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--versions", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        result = {"what": "memory of an agent that waits, MiB", **looks(Path(scratch), arguments.versions)}
    rows = [(when, *(result[when][kind] for kind in KINDS)) for when in ("at first", "after proofs")]
    report.show(f"An agent that waits, MiB, {arguments.versions} proved versions", ["when", *KINDS], rows)
    report.write("idle", result, arguments)


KINDS = {"resident": ("Rss",), "proportional": ("Pss",), "its own": ("Private_Clean", "Private_Dirty")}


def looks(place: Path, versions: int) -> dict[str, object]:
    run = place / "run"
    run.mkdir()
    tool = Mlsync(place / "mlsync")
    tool.prepare()
    tool.backup(run)  # makes the repository and its configuration; an empty directory makes no version
    command = [sys.executable, "-m", "mlsync", "agent", "--config", str(tool.place / "mlsync.toml"), "--quiet"]
    environment = os.environ | tool.environment()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True) as agent:
        try:
            time.sleep(SETTLE_S)
            first = memory(agent.pid)
            for number in range(1, versions + 1):
                subprocess.run([sys.executable, "-c", SAVE, run / "last.pt", str(number)], check=True)
                wait_for(tool, number)
            time.sleep(SETTLE_S)
            return {"versions": versions, "at first": first, "after proofs": memory(agent.pid)}
        finally:
            agent.send_signal(signal.SIGTERM)
            agent.wait()


def wait_for(tool: Mlsync, number: int) -> None:
    until_s = time.monotonic() + WAIT_S
    while len(list((tool.store / "versions").rglob(f"{number:010d}"))) == 0:
        if time.monotonic() > until_s:
            sys.exit(f"no version {number} after {WAIT_S:.0f} s")
        time.sleep(0.5)


def memory(pid: int) -> dict[str, float]:
    fields = dict.fromkeys(("Rss", "Pss", "Private_Clean", "Private_Dirty"), 0)
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in fields:
            fields[name] = int(rest.split()[0])
    return {kind: round(sum(fields[name] for name in names) / 1024, 1) for kind, names in KINDS.items()}


if __name__ == "__main__":
    main()
