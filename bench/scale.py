"""Scale: what each command costs at S3 by the length of the history: requests, bytes, seconds, memory.

    python bench/scale.py [--versions 10 100 1000 10000] [--runs 1000] [--quick] [--show FILE] [--write]

Real commands run in this process against a store in memory that keeps an account and a virtual clock (scale_store.py).
What they do follows from real manifests, decisions and tombstones; only the packs are small, some hundred bytes each,
since what a command does with history depends on how many there are and not on how long they are. What depends on
bytes, backup, restore and verify, is measured with two sizes of a checkpoint; larger ones lie on the line
through both.

Each command runs in a fork of the process that holds the store, so that all find the same history. "Seconds" are those
of the store by the virtual clock, with the processor's seconds of this machine beside them. "MiB" is how much
the process grew while it ran the command.

`--show` prints the tables from a file of results, with what providers charge (scale_prices.py): the requests of a
command, and a month of three teams. `--write` writes the tables of docs/scale.md from results/scale.json
(scale_page.py). Differences between versions are not in it. Writes results/scale.json.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import report
import scale_page
from prune_parts import commit_history
from scale_prices import PROVIDERS, TEAMS, Sizes, month, sizes_in
from scale_store import TESTS, Account, OrderedStore

from mlsync.repository import names
from mlsync.repository.repository import Repository

sys.path.append(str(TESTS / "repository"))

from format_parts import PASSPHRASE, new_repository

RUN = "run"
MIB = 1 << 20
SIZES_MIB, QUICK_SIZES_MIB = (128, 512), (4, 12)
COLUMNS = ("command", "PUT", "LIST", "GET", "DELETE", "sent MB", "received MB", "store s", "CPU s", "MiB", "$ of 1,000")
PARTS = ("one_run", "more_packs", "many_runs", "by_size")
KINDS = ("put", "list", "get", "delete")

# What only reads, each in a fork of its own.
READING: Mapping[str, Sequence[str]] = {
    "restore, newest": ("restore", "--run", RUN, "--to", "{out}"),
    "restore, an old one": ("restore", "--run", RUN, "--version", "{old}", "--to", "{out}"),
    "show": ("show", "--run", RUN),
    "versions RUN": ("versions", RUN),
    "status --fleet": ("status", "--fleet"),
    "diff": ("diff", "--run", RUN, "{old}", "latest"),
    "verify": ("verify", "--run", RUN, "--quickly"),
    "prove --pending": ("prove", "--pending", "--quickly"),
    "check": ("check", "--quickly"),
    "repair --dry-run": ("repair", "--dry-run", "--quickly"),
    "doctor": ("doctor",),
    "copy, nothing new": ("copy", "--to", "/mirror", "--quickly"),
}
# What changes the store, one after the other in one fork.
RETAINING: Mapping[str, Sequence[str]] = {
    "forget --dry-run": ("forget", "--keep", "last {keep}", "--dry-run"),
    "forget": ("forget", "--keep", "last {keep}", "--yes"),
    "prune, nothing due": ("prune", "--yes", "--quickly"),
    "prune, removes and marks": ("prune", "--yes", "--quickly", "--grace", "0s"),
    "backup, beside what is marked": ("backup", "--quickly", "--take-over", RUN),
    "prune, deletes": ("prune", "--yes", "--quickly", "--grace", "0s"),
}
# As many saves of as many files lie in the packs that a backup relies on.
SAVES_BEFORE = 12


def main() -> None:
    arguments = parse()
    if arguments.write:
        text = scale_page.written(scale_page.PAGE.read_text(), json.loads((report.RESULTS / "scale.json").read_text()))
        scale_page.PAGE.write_text(text)
        return
    if arguments.show:
        show(json.loads(arguments.show.read_text()))
        return
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        result = measure(Path(scratch), arguments)
    show(result)
    report.write("scale", result, arguments)


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__)
    parser.add_argument("--versions", type=int, nargs="+", help="default 10 100 1000 10000; quick: 5 25")
    parser.add_argument("--runs", type=int, default=None, help="runs of ten versions; default 1000; quick: 5")
    parser.add_argument(
        "--packs", type=int, default=10, help="packs of a version, in the history that tells what they cost"
    )
    parser.add_argument("--show", type=Path, default=None, help="print the tables of this file of results")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS, help="measure these alone; default: all")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/scale.md from the results")
    arguments = parser.parse_args()
    arguments.versions = arguments.versions or ([5, 25] if arguments.quick else [10, 100, 1000, 10_000])
    arguments.runs = arguments.runs or (5 if arguments.quick else 1000)
    return arguments


def measure(place: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """All histories; the one with more packs has the second largest number of versions."""
    versions, runs, packs = arguments.versions, arguments.runs, arguments.packs
    preload()
    result: dict[str, object] = {"what": "what commands cost by the length of the history, at a simulated S3"}
    if "one_run" in arguments.parts:
        result["one_run"] = {str(count): History(place / f"v{count}", {RUN: count}).costs() for count in versions}
    if "more_packs" in arguments.parts:
        several = versions[-2:][0]
        result["packs_of_each"] = packs
        result["more_packs"] = {str(several): History(place / "packs", {RUN: several}, packs).costs()}
    if "many_runs" in arguments.parts:
        many = {RUN: 10} | {f"run-{number}": 10 for number in range(1, runs)}
        result["many_runs"] = {str(runs): History(place / "runs", many).costs()}
    if "by_size" in arguments.parts:
        sizes = QUICK_SIZES_MIB if arguments.quick else SIZES_MIB
        result["by_size"] = {str(mib): sized(place / f"s{mib}", mib) for mib in sizes}
    return result


def sized(place: Path, mib: int) -> dict[str, object]:
    """What depends on bytes, with a checkpoint of so many MiB of which all are new."""
    return History(place, {RUN: 10}).costs_by_size(mib)


class History:
    """A repository in memory with so many versions of each run, and one machine that works with it."""

    def __init__(self, place: Path, runs: Mapping[str, int], packs: int = 1) -> None:
        place.mkdir(parents=True)
        self._place = place
        self._store = OrderedStore()
        repository = new_repository(self._store)
        for run, count in runs.items():
            commit_history(repository, count, packs, run)
        self._repository = repository
        self._count = runs[RUN]
        # The mirror lacks nothing but the objects that only the newest version of the run has.
        self._mirror = self._store.copy()
        for key in mirror_lacks(repository, self._count):
            self._mirror.delete(key)
        self._tree = place / "run"
        self._tree.mkdir()
        self._config = place / "mlsync.toml"
        (place / "repository").mkdir()
        self._config.write_text(
            f'repository = "{place / "repository"}"\nstate_directory = "{place}/STATE"\n'
            f'[retention]\nmax_remove = "100%"\n[proof]\ndevice = "none"\nscrub = "90d"\n'
            f'[[watch]]\nrun = "{RUN}"\ndirectory = "{self._tree}"\n'
        )
        self._config.chmod(0o600)
        self._text = self._config.read_text()
        self._forks = 0
        write_checkpoint(self._tree / "model.safetensors", 1, 0)

    def costs(self) -> dict[str, object]:
        """What each command costs with this history."""
        found: dict[str, object] = {}
        for name, words in READING.items():
            found |= self._in_fork({name: lambda words=words: self._command(words)})
        found |= self._in_fork({name: lambda words=words: self._command(words) for name, words in RETAINING.items()})
        found |= self._in_fork({"copy, a new version": lambda: self._command(READING["copy, nothing new"])}, lacks=True)
        found |= self._in_fork(self._backups(1))
        say(f"{self._place.name}: {len(found)} commands")
        return found

    def costs_by_size(self, mib: int) -> dict[str, object]:
        steps = self._backups(mib)
        verify = {"verify": lambda: self._command(("verify", "--run", RUN, "--quickly"))}
        restore = {"restore, newest": lambda: self._command(READING["restore, newest"])}
        return self._in_fork(steps | verify | restore)

    def _backups(self, mib: int) -> dict[str, Callable[[], None]]:
        """What a machine does with saves: the first one, the next, none, one file of many; and an hour later."""

        def back_up(*more: str) -> None:
            self._command(("backup", "--quickly", *more))

        return {
            "save": lambda: write_checkpoint(self._tree / "model.safetensors", mib, 0),
            "backup, first on a machine": lambda: back_up("--take-over", RUN),
            "save again": lambda: write_checkpoint(self._tree / "model.safetensors", mib, 1),
            "backup, a new save": back_up,
            "backup, nothing new": back_up,
            **{f"save {number}": lambda number=number: self._save_one_more(number) for number in range(SAVES_BEFORE)},
            f"backup, relies on {SAVES_BEFORE + 1} packs": lambda: self._save_one_more(SAVES_BEFORE),
            "maintenance, starts its clock": lambda: self._maintain(0),
            "maintenance, an hour": lambda: self._maintain(3700),
        }

    def _save_one_more(self, number: int) -> None:
        """A small file more, and so a pack more on which all later versions rely."""
        write_checkpoint(self._tree / f"{number}.safetensors", 1, number)
        self._command(("backup", "--quickly"))

    def _command(self, words: Sequence[str]) -> None:
        """Run the command line in this process."""
        from mlsync.cli.main import main as mlsync_main

        values = {"out": str(self._place / "out"), "old": "2", "keep": str(max(1, self._count - 5))}
        filled = [word.format(**values) for word in words]
        # A command takes it out of its environment.
        os.environ["MLSYNC_PASSPHRASE"] = PASSPHRASE.secret.decode()
        sys.argv = ["mlsync", *filled, "--config", str(self._config)]
        try:
            mlsync_main()
        except SystemExit as leaving:
            # Simulated disks are not the store: what doctor warns of there does not count.
            if leaving.code not in (0, None) and words[0] != "doctor":
                raise RuntimeError(f"{' '.join(filled)} ended with {leaving.code}") from leaving

    def _maintain(self, later_s: float) -> None:
        from mlsync.app.session import Session
        from mlsync.config.load import load
        from mlsync.monitor import SilentMonitor
        from mlsync.service.afterwards.maintenance import Maintenance

        config = load(self._config)
        now_ns = time.time_ns() + int(later_s * 1e9)
        with Session.open(config, lambda: PASSPHRASE, SilentMonitor()) as session:
            watch = config.watches[0]
            Maintenance(session, watch, SilentMonitor(), threading.Event(), now_ns=lambda: now_ns).run()

    # ------------------------------------------------------------ a fork

    def _in_fork(self, steps: Mapping[str, Callable[[], None]], *, lacks: bool = False) -> dict[str, object]:
        """Do the steps in a child, one after the other, and return what each cost."""
        # What one machine knows of versions is true for its own fork's store only.
        self._forks += 1
        self._config.write_text(self._text.replace("STATE", f"state-{self._forks}"))
        gc.collect()
        gc.freeze()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            status = 1
            try:
                with open(writing, "w") as pipe:
                    json.dump(self._steps(steps, lacks=lacks), pipe)
                status = 0
            except BaseException:  # noqa: BLE001 - the child ends here, whatever it was
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writing)
        with open(reading) as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"{', '.join(steps)}: failed")
        return json.loads(said)

    def _steps(self, steps: Mapping[str, Callable[[], None]], *, lacks: bool) -> dict[str, object]:
        found = {}
        for name, step in steps.items():
            account, mirror = Account(self._store), Account(self._mirror if lacks else self._store.copy())
            place_stores(account, mirror)
            with open(self._place / "said", "w+") as said:
                begun = Begun()
                with redirected(said):
                    try:
                        step()
                    except RuntimeError:
                        said.seek(0)
                        sys.__stderr__.write(said.read())
                        raise
            costs = account.facts() | begun.facts(account.sent_bytes)
            if mirror.requests:
                costs["at_the_mirror"] = mirror.facts()
            if not name.startswith(("save", "maintenance, starts")):
                found[name] = costs
        return found


class Begun:
    """What a process has used since then."""

    def __init__(self) -> None:
        # From here on the kernel notes a new peak.
        Path("/proc/self/clear_refs").write_text("5")
        self._resident = status_kib("VmRSS")
        self._cpu_s = time.process_time()

    def facts(self, stored_bytes: int) -> dict[str, float]:
        """Without what the store itself keeps: it is in this process."""
        cpu_s = time.process_time() - self._cpu_s
        grown_mib = (status_kib("VmHWM") - self._resident) / 1024 - stored_bytes / MIB
        return {"cpu_s": round(cpu_s, 3), "mib": round(max(0.0, grown_mib), 1)}


def status_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


@contextlib.contextmanager
def redirected(said):
    """Have what a command prints go to a file."""
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        yield


def place_stores(account: Account, mirror: Account) -> None:
    """Have every session open these stores."""
    from mlsync.app import second_copy, session
    from mlsync.store import location

    def opened(url: str, *_options: object, **_more: object) -> Account:
        return mirror if url.endswith("/mirror") else account

    location.open_store = session.open_store = second_copy.open_store = opened


def mirror_lacks(repository: Repository, number: int) -> list[str]:
    """The objects that belong to the newest version of the run alone."""
    stored = repository.stored(RUN, number)
    packs = {ref.pack for entry in repository.entries(stored) for ref in entry.chunks}
    packs |= set(stored.root.packs)
    return [stored.key, names.copy_of(stored.key), *map(names.pack, packs)]


def write_checkpoint(path: Path, mib: int, seed: int) -> None:
    """A file in safetensors' format with one tensor of bytes that do not compress."""
    head = {"weight": {"dtype": "U8", "shape": [mib * MIB], "data_offsets": [0, mib * MIB]}}
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(mib):
            file.write(os.urandom(MIB))
    # Old enough to count as finished.
    os.utime(path, (time.time() - 3600 + seed, time.time() - 3600 + seed))


def preload() -> None:
    """Import what commands import, so that their memory is that of their work."""
    import importlib

    for name in (
        "restore",
        "show",
        "versions",
        "status",
        "diff",
        "verify",
        "prove",
        "check",
        "repair",
        "forget",
        "prune",
        "copy",
        "backup",
        "doctor",
    ):
        with suppress(ImportError):
            importlib.import_module(f"mlsync.cli.{name}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- tables


def show(result: dict[str, object]) -> None:
    for title, part in (
        ("versions of one run", "one_run"),
        ("versions, more packs", "more_packs"),
        ("runs of ten versions", "many_runs"),
        ("MiB new in each version", "by_size"),
    ):
        for count, costs in result.get(part, {}).items():
            report.show(f"{count} {title}", COLUMNS, [row(name, one) for name, one in costs.items()])
    if "one_run" in result and "by_size" in result:
        show_months(sizes_in(result))


def show_months(sizes: Sizes) -> None:
    """What three teams pay a month at each provider: with and without retention, and with a mirror."""
    columns = ("provider and team", "requests", "all that a month adds", "what stays", "with its grace", "and a mirror")
    rows = []
    for prices in PROVIDERS:
        for team in TEAMS:
            found = month(team, prices, sizes)
            amounts = (found.requests, found.added, found.kept, found.total, found.total_with_mirror)
            rows.append([f"{prices.name}: {team.name}", *(scale_page.dollars(amount) for amount in amounts)])
    report.show("dollars a month", columns, rows)
    for prices in PROVIDERS:
        print(f"{prices.name}: {prices.source} ({prices.read})")


def row(name: str, costs: Mapping[str, float]) -> list[object]:
    counts = [costs[kind] for kind in KINDS]
    moved = [round(costs[kind] / 1e6, 2) for kind in ("sent_bytes", "received_bytes")]
    usd = round(1000 * PROVIDERS[0].requests_usd(costs), 3)
    return [name, *counts, *moved, round(costs["store_s"], 2), costs["cpu_s"], costs["mib"], usd]


if __name__ == "__main__":
    main()
