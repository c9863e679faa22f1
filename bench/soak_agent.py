"""Soak: an agent beside three trainings; all of them, the store and the state are killed, stopped, cut off and damaged.

    python bench/soak_agent.py [--minutes 60] [--store disk|s3|directory] [--every 8] [--seed N] [--quick]

Three simulated trainers (soaking/trainer.py) save, rotate and log, and record the digests of what they save. One real
agent backs them up. At random moments trainer, agent or a process of a pass is killed (kill -9) or stopped for a while;
the store is away, full (disk) or fails (s3); the agent's state is deleted or damaged while it is down. For a twentieth
of the time the store stays away, and later the agent stays stopped as long. The last seventh is calm. Nothing restarts
the agent but what killed it. At the end all is healed, the agent has to catch up by itself, and each version that is
listed is restored and compared with what the trainers recorded. Writes results/soak_agent_STORE.json; ends with 1 if
anything was wrong. The disk is one in memory, which only root can mount.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import report
from peers import Mlsync
from soaking.agent import Agent
from soaking.disturber import Disturber, Trainers
from soaking.judge import Judge
from soaking.record import Record, by_name
from soaking.stores import STORES

KINDS = {"bert": "steps", "yolo": "epochs", "nano": "renamed"}
TICK_S = 0.1
SAMPLE_EVERY_S = 2.0
CATCH_UP_WITHIN_S = 900.0
END_WITHIN_S = 120.0
# Until then the agent is killed and its state damaged; after that one life of it is measured.
SHARE_OF_KILLS = 0.5
# What follows shows how late a version is when all is well.
SHARE_DISTURBED = 0.85
SHARE_OF_LONG_ONES = 0.05
IN_A_NAMESPACE = "SOAK_HAS_MOUNTS"


class Soak:
    """Trainers, an agent, a store, and what disturbs them, for *length_s*."""

    def __init__(self, base: Path, arguments, seed: int, length_s: float) -> None:
        os.environ.update({"HOME": str(base), "MLSYNC_PREEMPTION_NOTICES": "off"})
        self.length_s = length_s
        dice = random.Random(seed)
        self.store = STORES[arguments.store](base)
        self.trainers = Trainers(base, KINDS, arguments.every)
        self.agent = Agent(base, self.store.url, self.store.lines(), self.trainers.directories)
        span_s, pause_s = min(40.0, length_s / 20), min(12.0, length_s / 30)
        self.disturber = Disturber(self.agent, self.trainers, self.store, dice, span_s, pause_s)
        self.caught_up_s = -1.0
        self._look_at_s = 0.0
        self._init()

    def live(self) -> None:
        """Have it all go on, disturbed, for the given time; then in peace, until the agent has caught up and ended."""
        self.trainers.start()
        self.agent.start()
        begin_s, long_ones = time.monotonic(), self._long_ones()
        while (gone_s := time.monotonic() - begin_s) < self.length_s:
            if long_ones and gone_s > long_ones[0][0]:
                long_ones.pop(0)[1]()
            self.disturber.tick(
                may_begin=gone_s < SHARE_DISTURBED * self.length_s,
                may_end_agent=gone_s < SHARE_OF_KILLS * self.length_s,
            )
            self.trainers.check()
            self._look()
        self._end()

    def tell(self) -> None:
        """The same in short, in an order that is told: what it waits for are versions, and not times."""
        self.trainers.start()
        self.agent.start()
        self._await(lambda: self._least_version() >= 1)
        self.disturber.trainer_killed("yolo")
        self.disturber.agent_killed()
        self.disturber.finish()
        self.disturber.store_away(0.0)
        self._await(lambda: any(run["failures"] for run in self.agent.runs()))
        self._end()

    def _end(self) -> None:
        self.disturber.finish()
        self.trainers.end()
        self.agent.start()
        healed_s = time.time()
        # Log lines may wait for minutes, until the agent ends: what counts are the saves.
        saved_s = {run: record.finished()[-1].ended_s for run, record in self.records().items()}
        self._await(lambda: self._is_well(saved_s))
        self.caught_up_s = time.time() - healed_s
        assert self.agent.end(END_WITHIN_S) == 0, "the agent did not end well"

    def close(self) -> None:
        self.trainers.close()
        self.agent.kill()
        self.store.close()

    def _long_ones(self):
        long_s = SHARE_OF_LONG_ONES * self.length_s

        def away() -> None:
            self.disturber.finish()
            self.disturber.store_away(long_s)

        def stopped() -> None:
            self.disturber.finish()
            self.disturber.agent_stopped(long_s)

        return [(0.6 * self.length_s, away), (0.75 * self.length_s, stopped)]

    def _await(self, is_so) -> None:
        """Wait until it is so; nobody helps the agent."""
        begin_s = time.monotonic()
        while not is_so():
            self._look()
            if time.monotonic() > begin_s + CATCH_UP_WITHIN_S:
                sys.exit(f"the agent does not catch up: {self.agent.runs()}")

    def records(self) -> dict[str, Record]:
        return {run: Record(file, self.trainers.directories[run]) for run, file in self.trainers.records.items()}

    def _is_well(self, saved_s: dict[str, float]) -> bool:
        """Whether a pass over each run that began after its newest save has ended well."""
        runs = self.agent.runs()
        return len(runs) == len(KINDS) and all(is_well(run, saved_s[str(run["run"])]) for run in runs)

    def _least_version(self) -> int:
        runs = self.agent.runs()
        return min((run["last_version"] or 0 for run in runs), default=0) if len(runs) == len(KINDS) else 0

    def _look(self) -> None:
        """Measure the agent now and then; some time passes."""
        if time.monotonic() > self._look_at_s:
            self._look_at_s = time.monotonic() + SAMPLE_EVERY_S
            self.agent.look()
        time.sleep(TICK_S)

    def _init(self) -> None:
        agent = self.agent
        words = ["init", self.store.url, "--key-file", agent.key, "--config", agent.key.with_name("of-init.toml")]
        lines = self.store.lines()
        if lines:
            words += ["--endpoint-url", lines.split('"')[1]]
        subprocess.run([sys.executable, "-P", "-m", "mlsync", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def is_well(run: dict[str, object], since_s: float) -> bool:
    last_s = run["last_pass_s"]
    return isinstance(last_s, float | int) and last_s > since_s and not run["failures"] and run["phase"] == "waiting"


def show(result: dict[str, object]) -> None:
    """One table of all figures; of what is unexplained each save in a line before it."""
    for line in result["unexplained_first"]:
        print(f"UNEXPLAINED: {line}")
    left_out = ("what", "tools", "unexplained_first", "wrong_first")
    rows = [row for name, value in result.items() if name not in left_out for row in rows_of(name, value)]
    report.show("Soak", ["what", "value"], [(name, "-" if value is None else value) for name, value in rows])


def rows_of(name: str, value: object) -> Iterator[tuple[str, object]]:
    """A row for each figure, named by the way to it; what was counted at several times is one row."""
    if isinstance(value, dict) and set(value) == {"first", "last", "max", "per_hour"}:
        grows = "not known" if value["per_hour"] is None else f"{value['per_hour']:+.1f}"
        yield f"{name} (MiB)", f"{value['first']} to {value['last']}, at most {value['max']}, {grows} an hour"
    elif isinstance(value, dict):
        for part, inner in value.items():
            yield from rows_of(f"{name}: {part}", inner)
    else:
        yield name, value


def with_mounts() -> None:
    """Go on in mounts of its own, which end with this process."""
    if IN_A_NAMESPACE not in os.environ:
        os.environ[IN_A_NAMESPACE] = "1"
        command = ["unshare", "--mount", sys.executable, *sys.argv]
        os.execvp(command[0], command)
    del os.environ[IN_A_NAMESPACE]


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=None, help="default 60; quick: 1")
    parser.add_argument("--store", choices=sorted(STORES), default="disk", help="default: %(default)s")
    parser.add_argument("--every", type=float, default=8.0, help="seconds between two saves of a trainer")
    parser.add_argument("--seed", type=int, default=None, help="of what is disturbed and when; default: by chance")
    parser.add_argument("--story", action="store_true", help="a short, fixed story instead, for the tests")
    parser.add_argument("--commit", default=None, help="of mlsync, for the results")
    arguments = parser.parse_args()
    if arguments.store == "disk":
        with_mounts()
    minutes = arguments.minutes or (1.0 if arguments.quick else 60.0)
    seed = random.randrange(1 << 30) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        soak = Soak(Path(scratch), arguments, seed, 60 * minutes)
        try:
            (soak.tell if arguments.story else soak.live)()
            judge = Judge(soak)
            found = judge.judge()
        finally:
            soak.close()
            if arguments.results is not None:
                arguments.results.mkdir(parents=True, exist_ok=True)
                shutil.copy(soak.agent.log, arguments.results / f"agent_{arguments.store}.log")
    result = {
        "what": "an agent beside three trainings, killed, stopped, cut off and damaged; all versions compared",
        "tools": {"mlsync": Mlsync.version()},
        "commit": arguments.commit,
        "store": arguments.store,
        "seed": seed,
        "minutes": minutes,
        "save_every_s": arguments.every,
        "disturbances": by_name(soak.disturber.counts),
        "caught_up_after_s": round(soak.caught_up_s, 1),
        **found,
    }
    show(result)
    report.write(f"soak_agent_{arguments.store}", result, arguments)
    sys.exit(1 if found["wrong"] else 0)


if __name__ == "__main__":
    main()
