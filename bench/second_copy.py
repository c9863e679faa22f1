"""Copies of a repository to a second place, beside clients that copy objects: seconds, GB/s, processor, requests.

    python bench/second_copy.py [--gib 4] [--rounds 5] [--quick]

One repository, made by mlsync from float32 checkpoints in several versions, goes by turns from its directory to a
bucket of a SeaweedFS on this machine, and from that bucket to another one of the same server, where the server copies
by itself; and once more with the bytes through the client, which mlsync does if the two are told of by different
addresses. Each client begins with an empty bucket. mlsync opens each manifest, copies packs first and versions last,
and asks the server for each pack afterwards; ``--verify`` also reads all of it back and opens it. rclone and s5cmd copy
all objects by name.

In a round of its own, which is not timed, a proxy counts the requests. Ratios are medians over the rounds of the ratio
within a round. Writes results/second_copy.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import report
import trees
from peers import SECRET, MlsyncWithoutDevice
from process import Ran, run
from s3_clients import Place, Rclone, S5cmd
from speed import GIB, make_checkpoints

TESTS = Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS))

from fault_proxy import FaultProxy  # noqa: E402 - it lies with the tests
from seaweed import S3Server, Seaweed  # noqa: E402 - as above

VERSIONS = 4
UP, BY_SERVER, THROUGH = "directory to bucket", "bucket to bucket, by the server", "bucket to bucket, streamed"


@dataclass(frozen=True)
class Step:
    """A copy: from a directory or a bucket to an empty bucket, at a server's address."""

    source: str
    bucket: str
    endpoint_url: str
    other_url: str


@dataclass(frozen=True)
class Client:
    """Who copies, and in which steps it takes part."""

    name: str
    copy: Callable[[Step, Path, dict[str, str]], Ran]
    steps: tuple[str, ...] = (UP, BY_SERVER)


def main() -> None:
    arguments = parse()
    clients = [client for client in CLIENTS if client.name not in missing()]
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        place = Path(scratch)
        repository = make_repository(place, arguments.gib)
        size_bytes = trees.size_bytes(repository)
        seaweed = Seaweed(place / "server")
        (place / "server").mkdir()
        try:
            server = seaweed.start()
            rounds = [one_round(server, clients, place, repository, number) for number in range(arguments.rounds)]
            counts = counted(server, clients, place, repository)
        finally:
            seaweed.stop()
    result = {
        "what": "what it takes to copy a repository to a bucket, and from there to another bucket of the same server",
        "size_bytes": size_bytes,
        "object_count": counts.pop("objects"),
        "rounds": arguments.rounds,
        "tools": {"mlsync": MlsyncWithoutDevice.version(), "rclone": Rclone.version(), "s5cmd": S5cmd.version()},
        "steps": {step: rows(step, rounds, counts, size_bytes) for step in (UP, BY_SERVER, THROUGH)},
    }
    show(result)
    report.write("second_copy", result, arguments)


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__)
    parser.add_argument("--gib", type=float, default=None, help="size of all versions (default 4; quick: 0.125)")
    parser.add_argument("--rounds", type=int, default=None, help="default 5; quick: 1")
    arguments = parser.parse_args()
    arguments.gib = arguments.gib or (0.125 if arguments.quick else 4.0)
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 5)
    return arguments


def missing() -> set[str]:
    """Those that are not installed."""
    found = {tool.name for tool in (Rclone, S5cmd) if tool.command() is None}
    if found:
        print(f"not installed, left out: {', '.join(found)}", file=sys.stderr, flush=True)
    return found


def make_repository(place: Path, gib: float) -> Path:
    """A repository of several versions, each with a checkpoint that changed."""
    made, source = place / "made", place / "run"
    tool = MlsyncWithoutDevice(place / "tool")
    tool.prepare()
    make_checkpoints(made, gib, VERSIONS)
    source.mkdir()
    for number in range(VERSIONS):
        os.replace(made / f"checkpoint-{number}.pt", source / "last.pt")
        tool.backup(source)
    trees.remove(made)
    trees.remove(source)
    kept = place / "repository"
    shutil.move(tool.store, kept)
    shutil.rmtree(kept / "tmp", ignore_errors=True)
    return kept


# ---------------------------------------------------------------- who copies


def by_mlsync(step: Step, place: Path, keys: dict[str, str], *options: str) -> Ran:
    words = ["copy", "--repo", step.source, "--to", f"s3://{step.bucket}", "--create", "--quickly", "--json"]
    # Of a directory too: the mirror's server is the one that is named.
    words += ["--endpoint-url", step.endpoint_url, "--to-endpoint-url", step.other_url, *options]
    secret = {"MLSYNC_PASSPHRASE": SECRET, "HOME": str(place), "STATE_DIRECTORY": str(place / "state")}
    return run([sys.executable, "-m", "mlsync", *words], environment={**keys, **secret})


def verified(step: Step, place: Path, keys: dict[str, str]) -> Ran:
    return by_mlsync(step, place, keys, "--verify")


def by_rclone(step: Step, place: Path, keys: dict[str, str]) -> Ran:
    tool = Rclone(place / "rclone", Place(step.other_url, step.bucket, keys))
    tool.prepare()
    source = step.source.replace("s3://", "server:")
    return tool.run("copy", source, f"server:{step.bucket}", "--config", tool.place / "rclone.conf")


def by_s5cmd(step: Step, place: Path, keys: dict[str, str]) -> Ran:
    tool = S5cmd(place / "s5cmd", Place(step.other_url, step.bucket, keys))
    tool.prepare()
    return tool.run("--endpoint-url", step.other_url, "cp", f"{step.source}/*", f"s3://{step.bucket}/")


CLIENTS = (
    Client("mlsync copy", by_mlsync, (UP, BY_SERVER, THROUGH)),
    Client("mlsync copy --verify", verified, (UP, BY_SERVER)),
    Client(Rclone.name, by_rclone),
    Client(S5cmd.name, by_s5cmd),
)


# ---------------------------------------------------------------- rounds


def one_round(
    server: S3Server, clients: list[Client], place: Path, repository: Path, number: int
) -> dict[tuple[str, str], Ran]:
    """What each client cost, by step and name; each has an empty bucket."""
    rans: dict[tuple[str, str], Ran] = {}
    keys = server.environment() | {"AWS_REGION": server.region}
    copied = server.make_bucket()
    by_mlsync(Step(str(repository), copied, server.endpoint_url, server.endpoint_url), place, keys)
    # The order turns, so that none is always first.
    turned = clients[number % len(clients) :] + clients[: number % len(clients)]
    for name in (UP, BY_SERVER, THROUGH):
        for client in turned:
            if name not in client.steps:
                continue
            os.sync()
            step = the_step(name, server, repository, copied, server.endpoint_url)
            ran = client.copy(step, place, keys)
            rans[name, client.name] = ran
            check(client.name, name, ran)
            print(f"round {number + 1}, {name}: {client.name}: {ran.wall_s:.2f} s", file=sys.stderr, flush=True)
            empty(server, step.bucket)
    empty(server, copied)
    return rans


def the_step(name: str, server: S3Server, repository: Path, copied: str, endpoint_url: str) -> Step:
    source = str(repository) if name == UP else f"s3://{copied}"
    other_url = endpoint_url.replace("127.0.0.1", "localhost") if name == THROUGH else endpoint_url
    return Step(source, server.make_bucket(), endpoint_url, other_url)


def check(client: str, step: str, ran: Ran) -> None:
    """A copy that did something else than it is timed for ends the benchmark."""
    if client == "mlsync copy":
        done = json.loads(ran.output)
        is_server_side = done["server_side_bytes"] == done["size_bytes"] > 0
        if len(done["versions"]) != VERSIONS or is_server_side != (step == BY_SERVER):
            sys.exit(f"{client}, {step}: {ran.output}")


def empty(server: S3Server, bucket: str) -> None:
    client = server.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    for found in [one["Key"] for page in pages for one in page.get("Contents", ())]:
        client.delete_object(Bucket=bucket, Key=found)
    client.delete_bucket(Bucket=bucket)
    client.close()


@contextmanager
def counting(server: S3Server) -> Iterator[tuple[str, FaultProxy]]:
    proxy = FaultProxy(server.endpoint_url)
    try:
        yield proxy.start(), proxy
    finally:
        proxy.stop()


def counted(server: S3Server, clients: list[Client], place: Path, repository: Path) -> dict[object, object]:
    """How many requests each client makes, by step and name, and how many objects there are."""
    counts: dict[object, object] = {"objects": sum(1 for _ in trees.files(repository))}
    keys = server.environment() | {"AWS_REGION": server.region}
    copied = server.make_bucket()
    by_mlsync(Step(str(repository), copied, server.endpoint_url, server.endpoint_url), place, keys)
    for name in (UP, BY_SERVER):
        for client in clients:
            with counting(server) as (url, proxy):
                step = the_step(name, server, repository, copied, url)
                client.copy(step, place, keys)
                counts[name, client.name] = dict(Counter(request.method for request in proxy.requests))
            empty(server, step.bucket)
    empty(server, copied)
    return counts


# ---------------------------------------------------------------- telling


def rows(
    step: str, rounds: list[dict[tuple[str, str], Ran]], counts: dict[object, object], size_bytes: int
) -> dict[str, dict[str, object]]:
    found = {}
    for name in [name for of_step, name in rounds[0] if of_step == step]:
        mine = [one[step, name] for one in rounds]
        others = [min(ran.wall_s for (of, _), ran in one.items() if of == step) for one in rounds]
        found[name] = {
            "wall_s": report.spread(ran.wall_s for ran in mine),
            "gb_per_s": report.spread(size_bytes / 1e9 / ran.wall_s for ran in mine),
            "cpu_s_per_gib": report.spread(ran.cpu_s / (size_bytes / GIB) for ran in mine),
            "peak_mib": report.spread(ran.peak_mib for ran in mine),
            "wall_to_fastest": round(
                statistics.median(ran.wall_s / best for ran, best in zip(mine, others, strict=True)), 3
            ),
            "requests": counts.get((step, name)),
        }
    return found


def show(result: dict[str, object]) -> None:
    columns = ["client", "wall/fastest", "wall s", "GB/s", "min-max", "CPU s/GiB", "peak MiB", "requests"]
    for step, of_step in result["steps"].items():
        table = []
        for name, one in of_step.items():
            rate, calls = one["gb_per_s"], one["requests"] or {}
            span = f"{rate['min']:.2f}-{rate['max']:.2f}"
            cost = one["cpu_s_per_gib"]["median"], one["peak_mib"]["max"], sum(calls.values()) or None
            table.append((name, one["wall_to_fastest"], one["wall_s"]["median"], rate["median"], span, *cost))
        size = f"{result['size_bytes'] / GIB:.2f} GiB in {result['object_count']} objects"
        report.show(f"{size}, {step}", columns, table)


if __name__ == "__main__":
    main()
