"""How many requests at a time pay, by how far away the store is: as mlsync finds it, beside the numbers it begins with.

    python bench/far.py [--gib 1] [--rounds 3] [--quick]

A sink (sink.py) stands behind networks (far_network.py) that hold each request back and let each connection carry so
many bytes a second: *near* does neither, *far* takes 100 ms and 10 MB/s, *line* the same, but 40 MB/s for all
connections together. "Fixed" keeps the numbers that mlsync begins with. Both lines of a pair are run in turns.

"Stored" is until all is in the store, "read back" from there to the version. Ratios are medians over the rounds of
fixed to found within a round. Writes results/far.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import report
import trees
from far_network import FarNetwork
from peers import Peer
from process import Ran
from s3 import NO_KEYS, settle
from s3_clients import MlsyncWithoutDeviceOnS3, Place
from sink import BUCKET, Sink
from speed import GIB, make_checkpoints, without_proof

NETWORKS = {
    "near": None,
    "far": {"delay_ms": 100, "mb_per_s": 10},
    "line": {"delay_ms": 100, "mb_per_s": 10, "line_mb_per_s": 40},
}
FIXED = """
import sys
from mlsync.store.s3 import store as s3
s3.WRITES_AT_ONCE_MAX, s3.READS_AT_ONCE_MAX = s3.WRITES_AT_ONCE, s3.READS_AT_ONCE
from mlsync.cli.main import main
sys.argv[0] = "mlsync"
main()
"""


class Found(MlsyncWithoutDeviceOnS3):
    name = "found"


class Fixed(MlsyncWithoutDeviceOnS3):
    name = "fixed"

    def run(self, *arguments: str | Path, cwd: Path | None = None) -> Ran:
        if arguments[0] == "init":
            return super().run(*arguments, cwd=cwd)
        return Peer.run(self, "-c", FIXED, *arguments, "--config", self._config, cwd=cwd)


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        place = Path(scratch)
        source = place / "run"
        make_checkpoints(source, arguments.gib, 1)
        gib = trees.size_bytes(source) / GIB
        networks = {}
        for name in arguments.networks.split(","):
            rounds = [one_round(name, place, source, number) for number in range(arguments.rounds)]
            networks[name] = {"network": NETWORKS[name], **summary(rounds)}
    what = "seconds of a backup and a restore, by how far away the store is"
    result = {"what": what, "gib": round(gib, 3), "rounds": arguments.rounds, "networks": networks}
    for name, of_network in networks.items():
        rows = [(step, *(of_network[step][key] for key in COLUMNS[1:])) for step in STEPS]
        report.show(f"{gib:.2f} GiB, {name}; peak {of_network['peak_mib']} MiB", COLUMNS, rows)
    report.write("far", result, arguments)


STEPS = ("stored", "read back", "restore")
COLUMNS = ("step", "found s", "fixed s", "fixed/found")


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__)
    parser.add_argument("--gib", type=float, default=None, help="size of the checkpoint (default 1; quick: 0.25)")
    parser.add_argument("--rounds", type=int, default=None, help="default 3; quick: 1")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="which, with a comma; default: all")
    arguments = parser.parse_args()
    arguments.gib = arguments.gib or (0.25 if arguments.quick else 1.0)
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    return arguments


def one_round(network: str, place: Path, source: Path, number: int) -> dict[str, dict[str, float]]:
    order = (Found, Fixed) if number % 2 == 0 else (Fixed, Found)
    return {client.name: one_run(network, client, place, source) for client in order}


def one_run(network: str, client: type[Found | Fixed], place: Path, source: Path) -> dict[str, float]:
    sink = Sink()
    url = sink.start()
    far = FarNetwork(url, **NETWORKS[network]) if NETWORKS[network] else None
    try:
        tool = client(place / "client", Place(far.start() if far else url, BUCKET, NO_KEYS))
        tool.prepare()
        settle(source)
        up = tool.backup(source)
        down = tool.restore(place / "restored")
        trees.check_alike(source, place / "restored", tool.name)
    finally:
        sink.stop()
        if far:
            far.stop()
    trees.remove(place / "restored")
    trees.remove(tool.place)
    stored_s = without_proof(up)["wall_s"]
    print(f"{network}: {client.name}: {up.wall_s:.2f} s, {down.wall_s:.2f} s", file=sys.stderr, flush=True)
    peak_mib = max(up.peak_mib, down.peak_mib)
    return {"stored": stored_s, "read back": up.wall_s - stored_s, "restore": down.wall_s, "peak_mib": peak_mib}


def summary(rounds: list[dict[str, dict[str, float]]]) -> dict[str, object]:
    result: dict[str, object] = {
        "peak_mib": {name: round(max(one[name]["peak_mib"] for one in rounds), 1) for name in (Found.name, Fixed.name)}
    }
    for step in STEPS:
        found, fixed = ([one[name][step] for one in rounds] for name in (Found.name, Fixed.name))
        ratios = [slow / quick for slow, quick in zip(fixed, found, strict=True)]
        result[step] = {
            "found s": round(statistics.median(found), 2),
            "fixed s": round(statistics.median(fixed), 2),
            "fixed/found": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
        }
    return result


if __name__ == "__main__":
    main()
