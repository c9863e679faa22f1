"""Latency: how long after the end of a save is a checkpoint in a version, and which checkpoints are in none?

    python bench/latency.py [--minutes 2] [--quickly] [--quick]
    python bench/latency.py --busy 2 [--before COMMIT]

A simulated trainer saves as Hugging Face's does: a directory per step, the state last, and then it deletes what is
older than the last two saves. An agent watches it. Three scenes: the trainer alone, beside a log that is closed every
0.7 s, and with a store behind a slow network, where each save takes longer to store than to make. Told of each: saves
that are in a version, the median and the 95th percentile of the seconds from the end of a save to the version in the
agent's log, and versions that hold no new checkpoint. Writes results/latency.json.

With --busy there are two other scenes: a save every 5 s, and one every 40 s, by which the process of the last pass has
ended; so many loops for each processor, in a session of their own as a training's threads are, leave no processor idle.
With --before the agent of an older commit plays each scene first. Writes results/latency_busy.json.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import report
from far_network import FarNetwork
from peers import source_of
from sink import BUCKET, Sink

SOURCE = Path(__file__).parent.parent / "agent"
LIMIT = 2
LOG_EVERY_S = 0.7
MADE = re.compile(r"yolo: version (\d+) in ")
CONFIGURATION = """repository = "{repository}"
state_directory = "{base}/state"
[key]
key_file = "{base}/key"
[proof]
device = "cpu"
[[watch]]
directory = "{base}/run"
run = "yolo"
"""


@dataclass(frozen=True)
class Scene:
    """What the trainer does, and how fast the store is (a directory without *mb_per_s*)."""

    name: str
    every_s: float = 8.0
    mib: int = 12
    has_log: bool = False
    mb_per_s: float = 0.0
    loops: int = 0


SCENES = (
    Scene("quiet"),
    Scene("beside a log every 0.7 s", has_log=True),
    Scene("slow store", every_s=3.0, has_log=True, mb_per_s=4.0),
)


@dataclass
class Seen:
    """When each save ended and when each version came, in seconds since 1970."""

    saved_s: dict[int, float] = field(default_factory=dict)
    made_s: dict[int, float] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=None, help="how long each scene is; default 2, quick: 0.4")
    parser.add_argument("--quickly", action="store_true", help="an agent that does not stand behind all others")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="only beside N loops for each processor")
    parser.add_argument("--before", metavar="COMMIT", default=None, help="with --busy also the agent of this commit")
    arguments = parser.parse_args()
    seconds = 60 * (arguments.minutes or (0.4 if arguments.quick else 2))
    results = {}
    load = os.getloadavg()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        for name, scene, source in _scenes(arguments, Path(scratch)):
            base = Path(scratch) / "scene"
            base.mkdir()
            results[name] = played(scene, base, seconds, quickly=arguments.quickly, source=source)
            shutil.rmtree(base)
    columns = ["scene", "saves", "in a version", "median s", "p95 s", "versions", "without a new checkpoint"]
    rows = [[name, *(one[key] for key in KEYS)] for name, one in results.items()]
    report.show("From the end of a save to a version", columns, rows)
    told = {"minutes": seconds / 60, "quickly": arguments.quickly, "load": load, "scenes": results}
    if arguments.busy:
        told |= {"loops_for_each_processor": arguments.busy, "before": arguments.before}
    report.write("latency_busy" if arguments.busy else "latency", told, arguments)


def _scenes(arguments: Any, scratch: Path) -> Iterator[tuple[str, Scene, Path]]:
    """What is played: a name, the scene, and where the agent's program lies."""
    if not arguments.busy:
        yield from ((one.name, one, SOURCE) for one in SCENES)
        return
    loops = arguments.busy * (os.cpu_count() or 1)
    before = None if arguments.before is None else source_of(arguments.before, scratch / "before")
    for every_s in (40.0, 5.0):
        scene = Scene(f"all processors busy, a save every {every_s:.0f} s", every_s=every_s, loops=loops)
        if before is not None:
            yield f"{scene.name}, before", scene, before
        yield scene.name, scene, SOURCE


@contextmanager
def _busy(loops: int) -> Iterator[None]:
    """So many loops in one session, which is not this process's."""
    words = "import os, sys\nfor _ in range(int(sys.argv[1]) - 1):\n  if not os.fork(): break\nwhile True: pass"
    if not loops:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", words, str(loops)], start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


KEYS = ("saves", "captured", "median_s", "p95_s", "versions", "versions_without_checkpoint")


def played(scene: Scene, base: Path, seconds: float, *, quickly: bool, source: Path) -> dict[str, object]:
    """What came of a scene."""
    (base / "run").mkdir()
    (base / "key").write_bytes(bytes(range(32)))
    (base / "key").chmod(0o600)
    seen = Seen()
    with _store(scene, base) as (repository, more):
        (base / "mlsync.toml").write_text(CONFIGURATION.format(repository=repository, base=base))
        environment = {
            **{name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ},
            **more,
            "HOME": str(base),
            "MLSYNC_CONFIG": str(base / "mlsync.toml"),
            "PYTHONPATH": str(source),
        }
        words = ["init", repository, "--key-file", str(base / "key"), "--config", str(base / "none.toml")]
        _mlsync(words, environment)
        with _agent(environment, seen, ["--quickly"] if quickly else []), _busy(scene.loops):
            _train(scene, base / "run", seconds, seen)
            time.sleep(40 if scene.mb_per_s or scene.loops else 10)
        held = {number: _steps(number, environment) for number in sorted(seen.made_s)}
    return _told(seen, held)


def _told(seen: Seen, held: Mapping[int, set[int]]) -> dict[str, object]:
    waits: dict[int, float] = {}
    without = 0
    known: set[int] = set()
    for number, steps in held.items():
        new = steps - known
        without += not new
        known |= steps
        waits |= {step: seen.made_s[number] - seen.saved_s[step] for step in new if step in seen.saved_s}
    # The last save may be on its way when the trainer ends.
    ordered = sorted(waits.values())
    return {
        "saves": len(seen.saved_s),
        "captured": len(waits),
        "median_s": round(ordered[len(ordered) // 2], 1) if ordered else None,
        "p95_s": round(ordered[int(0.95 * (len(ordered) - 1))], 1) if ordered else None,
        "versions": len(held),
        "versions_without_checkpoint": without,
    }


@contextmanager
def _store(scene: Scene, base: Path) -> Iterator[tuple[str, dict[str, str]]]:
    if not scene.mb_per_s:
        yield f"file://{base}/repository", {}
        return
    sink = Sink()
    network = FarNetwork(sink.start(), delay_ms=20, mb_per_s=scene.mb_per_s, line_mb_per_s=scene.mb_per_s)
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
    try:
        yield f"s3://{BUCKET}/runs", keys | {"AWS_ENDPOINT_URL": network.start()}
    finally:
        network.stop()
        sink.stop()


@contextmanager
def _agent(environment: Mapping[str, str], seen: Seen, options: list[str]) -> Iterator[None]:
    words = [sys.executable, "-m", "mlsync", "agent", *options]
    process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    reader = threading.Thread(target=_read_log, args=(process, seen))
    reader.start()
    try:
        while not any(": watching " in line for line in list(seen.log)):
            time.sleep(0.1)
        time.sleep(3)
        yield
    finally:
        # Not SIGTERM: a last pass would be counted too.
        process.send_signal(signal.SIGKILL)
        process.wait()
        reader.join()


def _read_log(process: subprocess.Popen[str], seen: Seen) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        seen.log.append(line)
        if "MLSYNC_BENCH_VERBOSE" in os.environ:
            sys.stderr.write(line)
        if found := MADE.search(line):
            seen.made_s[int(found[1])] = time.time()


def _train(scene: Scene, directory: Path, seconds: float, seen: Seen) -> None:
    """Save again and again until *seconds* are over; the log goes on between the saves."""
    dice = random.Random(1)
    end_s = time.monotonic() + seconds
    next_s, step = time.monotonic(), 0
    while time.monotonic() < end_s:
        if scene.has_log:
            with (directory / "train.log").open("a") as log:
                log.write(f"step {step}, loss {dice.random()}\n")
        if time.monotonic() >= next_s:
            step += 10
            next_s = time.monotonic() + scene.every_s
            seen.saved_s[step] = _save(directory, step, dice.randbytes(scene.mib << 20))
        time.sleep(LOG_EVERY_S)


def _save(directory: Path, step: int, content: bytes) -> float:
    """Save a checkpoint, delete what is too old, and return when the save had ended."""
    place = directory / f"checkpoint-{step}"
    place.mkdir()
    third = len(content) // 3
    for name, part in (("model", content[:third]), ("optimizer", content[third:])):
        header = json.dumps({"w": {"dtype": "U8", "shape": [len(part)], "data_offsets": [0, len(part)]}}).encode()
        header += b" " * (-len(header) % 8)
        (place / f"{name}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + part)
    (place / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": []}))
    ended_s = time.time()
    steps = sorted(int(one.name.partition("-")[2]) for one in directory.glob("checkpoint-*"))
    for old in steps[:-LIMIT]:
        shutil.rmtree(directory / f"checkpoint-{old}")
    return ended_s


def _steps(number: int, environment: Mapping[str, str]) -> set[int]:
    """The steps of which a version has the whole checkpoint."""
    shown = json.loads(_mlsync(["show", str(number), "--json"], environment))
    paths = {one["path"] for one in shown["entries"]}
    found = {int(path.partition("/")[0].partition("-")[2]) for path in paths if path.endswith("trainer_state.json")}
    return {step for step in found if f"checkpoint-{step}/model.safetensors" in paths}


def _mlsync(words: list[str], environment: Mapping[str, str]) -> str:
    command = [sys.executable, "-m", "mlsync", *words]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
