"""What a training on all cores loses while its checkpoints are kept: beside nothing, rsync, restic and mlsync's agent.

    python bench/disturb.py [--rounds 2] [--seconds 32] [--settings plain,container,unit] [--before COMMIT]
    python bench/disturb.py --table

``training/steady.py`` trains with a thread per core and saves 144 MB in place every 11 s. Beside it runs, in turns, one
tool: rsync and restic once after each save, mlsync as its agent with the settings of ``mlsync init``; *before* is the
agent of an older commit. All of a turn begins anew. What counts is the median, the mean and the 99th percentile of the
steps' times (saves included). A machine's own speed drifts, so there is a turn beside nothing between any two others,
and each figure is a ratio to the mean of the two turns beside nothing around it. Three of the four longest steps of a
short turn are saves, so one slow step decides its 99th percentile: "p99 pooled" takes the steps of all turns together,
each as a ratio to the median step of the turns beside nothing around it, and "computing" those steps without their
saves. "waited" does not depend on the machine's speed: of the time in which the trainer's threads wanted a processor,
the share in which the kernel gave it to somebody else (/proc/PID/task/*/schedstat). Nor does "per processor": a turn's
seconds for each processor second that the trainer took, which differ by a thousandth between turns beside nothing where
the steps themselves differ by a third; it is what the mean step loses. So that nobody wins by doing
nothing, each turn tells how many saves were kept, of those that had nine seconds at least until the turn ended. So that
nobody believes figures of a machine that others used, the processors' use is measured before each turn, while nothing
of ours runs.

- plain: trainer and tool are each in a session of its own, as two terminals are; the kernel weighs sessions alike.
- container: both are in one control group, where sessions have no weight: nice values and policies count.
- unit: the tool is in a control group with the weight and nice value that systemd/mlsync-agent.service says, beside the
  trainer's of weight 100, as a service beside all slices stands beside user.slice. rsync and restic get an ordinary
  service's weight, 100, and no nice value.

The default is *plain* alone with two rounds: eleven minutes, and what README.md shows; ``--table`` prints its rows from
the results. Each further setting takes as long again. Control groups take root, and a processor controller (cgroup v2
or v1) that can be written; a setting that cannot be had is named and left out. Writes results/disturb.json.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import report
from peers import Mlsync, Peer, Restic, Rsync, source_of

ROOT = Path(__file__).parent.parent
TRAINER = Path(__file__).parent / "training" / "steady.py"
SETTINGS = ("plain", "container", "unit")
PATIENCE_S = 300.0
POLL_S = 0.2
# Above this share of the processors somebody else computes, and ratios near 1 mean nothing.
QUIET_SHARE = 0.05
QUIET_LOOK_S = 2.0
# A save that is this old is over: the trainer's own take a fraction of a second.
SETTLED_S = 1.0
START_S = 4.0
# A save counts as one to be kept if nothing overwrote it, and nobody ended the turn, for so long: two seconds less than
# the trainer leaves between two saves.
TO_KEEP_S = 9.0
UNIT = ROOT / "systemd" / "mlsync-agent.service"
USUAL_WEIGHT = 100
RATIOS = ("median", "mean", "p99")
POOLED = ("p99_pooled", "p99_computing")


def unit(key: str) -> int:
    """A number that the shipped unit says."""
    return int(re.search(rf"^{key}=(\d+)$", UNIT.read_text(), re.MULTILINE)[1])


@dataclass
class Turn:
    """What was seen of the trainer beside one tool, and how many of its saves the tool kept meanwhile."""

    steps_s: list[float] = field(default_factory=list)
    saves_s: list[float] = field(default_factory=list)
    computing_s: list[float] = field(default_factory=list)
    to_keep: int = 0
    kept: int = 0
    busy_before: float = 0.0
    ran_s: float = 0.0
    waited_s: float = 0.0

    def figures(self) -> dict[str, float]:
        ordered = sorted(self.steps_s)
        return {
            "steps": len(ordered),
            "median_s": round(statistics.median(ordered), 4),
            "mean_s": round(statistics.fmean(ordered), 4),
            "p99_s": round(p99(ordered), 4),
            "p99_computing_s": round(p99(sorted(self.computing_s)), 4),
            "waited": round(self.waited_s / max(1e-9, self.waited_s + self.ran_s), 4),
            "cpu_s_per_step": round(self.ran_s / max(1, len(ordered)), 4),
            "per_processor": round(sum(ordered) / max(1e-9, self.ran_s), 4),
            "longest_s": round(ordered[-1], 4),
            "saves": self.to_keep,
            "longest_save_s": round(max(self.saves_s, default=0.0), 4),
            "kept": min(self.kept, self.to_keep),
            "busy_before": self.busy_before,
        }


def p99(ordered: Sequence[float]) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def scheduled(pid: int) -> tuple[float, float]:
    """How long the threads of a process have run, and how long they waited for a processor, in seconds."""
    ran_ns = waited_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        ran, waited, _ = map(int, (task / "schedstat").read_text().split())
        ran_ns, waited_ns = ran_ns + ran, waited_ns + waited
    return ran_ns / 1e9, waited_ns / 1e9


def busy_share(seconds: float) -> float:
    """The share of all processors' time that is used at the moment, by anybody."""

    def ticks() -> tuple[int, int]:
        user, nice, system, idle, waiting, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
        return user + nice + system + sum(rest), idle + waiting

    before = ticks()
    time.sleep(seconds)
    busy, idle = (after - first for after, first in zip(ticks(), before, strict=True))
    return round(busy / max(1, busy + idle), 3)


# ---------------------------------------------------------------- control groups


class Group:
    """A control group for the processor, made anew; processes are put into it before they start their program."""

    def __init__(self, path: Path, weight: int) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        if (path / "cpu.weight").exists():
            (path / "cpu.weight").write_text(str(weight))
        else:
            # What systemd makes of CPUWeight= on cgroup v1
            (path / "cpu.shares").write_text(str(1024 * weight // 100))

    def enter(self) -> None:
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        until_s = time.monotonic() + 10
        while time.monotonic() < until_s:
            try:
                self.path.rmdir()
            except OSError:
                time.sleep(0.1)
            else:
                return


def controller() -> Path | str:
    """Where groups for the processor can be made, or why they cannot."""
    v1, v2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    base = v1 if (v1 / "cpu.shares").exists() or (v1 / "cgroup.procs").exists() else v2
    try:
        if base is v2:
            (v2 / "cgroup.subtree_control").write_text("+cpu")
        probe = base / "mlsync-bench-probe"
        probe.mkdir()
        known = (probe / "cpu.weight").exists() or (probe / "cpu.shares").exists()
        probe.rmdir()
    except OSError as error:
        return f"no control group can be made below {base}: {error.strerror}"
    return base if known else f"{base} has no controller of the processor"


@contextmanager
def groups(setting: str, tool_weight: int) -> Iterator[tuple[Group | None, Group | None]]:
    """The groups of the trainer and of the tool, gone afterwards."""
    if setting == "plain":
        yield None, None
        return
    base = controller()
    assert isinstance(base, Path)
    top = base / f"mlsync-bench-{os.getpid()}"
    # A container's processes are all in one group; a unit has its own beside the others.
    names = {"container": ("all", "all"), "unit": ("trainer", "tool")}[setting]
    weights = {"all": USUAL_WEIGHT, "trainer": USUAL_WEIGHT, "tool": tool_weight}
    top.mkdir()
    if (top / "cgroup.subtree_control").exists():
        (top / "cgroup.subtree_control").write_text("+cpu")
    made = {name: Group(top / name, weights[name]) for name in dict.fromkeys(names)}
    try:
        yield made[names[0]], made[names[1]]
    finally:
        for group in made.values():
            group.remove()
        top.rmdir()


# ---------------------------------------------------------------- processes


def start(
    words: Sequence[str | Path], group: Group | None, environment: Mapping[str, str] | None = None, **options: object
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own and in *group*."""
    nice = options.pop("nice", 0)

    def set_up() -> None:
        if group is not None:
            group.enter()
        if nice:
            os.nice(int(str(nice)))

    return subprocess.Popen(
        [os.fspath(word) for word in words],
        env=os.environ | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=set_up,  # noqa: PLW1509 - this process has one thread
        **options,
    )


def end(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def training(run: Path, steps: Path, group: Group | None) -> Iterator[subprocess.Popen[bytes]]:
    """A trainer that is warm and saved once."""
    words = [sys.executable, TRAINER, run, steps, "--threads", str(os.cpu_count())]
    process = start(words, group)
    try:
        until_s = time.monotonic() + PATIENCE_S
        while not (steps.exists() and steps.stat().st_size):
            if process.poll() is not None or time.monotonic() > until_s:
                sys.exit("the trainer does not train")
            time.sleep(POLL_S)
        yield process
    finally:
        end(process, signal.SIGKILL)


# ---------------------------------------------------------------- what runs beside it


class Nothing:
    """No tool."""

    name = "none"
    has_unit = False

    def prepare(self, place: Path, run: Path) -> None:
        pass

    @contextmanager
    def beside(self, group: Group | None, nice: int) -> Iterator[None]:
        del group, nice
        yield

    def kept(self) -> int:
        return 0


class Loop(Nothing):
    """A tool that is run once after each save, by this very file as a process in the tool's session and group."""

    peer: type[Peer]

    def prepare(self, place: Path, run: Path) -> None:
        self.place, self.run_directory = place, run
        self.tool = self.peer(place)
        self.tool.prepare()

    @contextmanager
    def beside(self, group: Group | None, nice: int) -> Iterator[None]:
        words = [sys.executable, __file__, "--loop", self.peer.name, self.place, self.run_directory]
        process = start(words, group, nice=nice)
        try:
            yield
        finally:
            with_children = os.getpgid(process.pid)
            os.killpg(with_children, signal.SIGKILL)
            process.wait()

    def kept(self) -> int:
        done = self.place / "done"
        return len(done.read_text().split()) if done.exists() else 0


class RsyncLoop(Loop):
    name = "rsync"
    peer = Rsync


class ResticLoop(Loop):
    name = "restic"
    peer = Restic


def loop(peer: type[Peer], place: Path, run: Path) -> None:
    """Back *run* up after each save, for ever."""
    tool = peer(place)
    checkpoint, seen = run / "last.pt", 0
    with (place / "done").open("w", buffering=1) as done:
        while True:
            found = checkpoint.stat().st_mtime_ns if checkpoint.exists() else seen
            if found != seen and time.time() - found / 1e9 > SETTLED_S:
                tool.backup(run)
                seen = found
                done.write("done\n")
            time.sleep(POLL_S)


class Agent(Nothing):
    """mlsync's agent, as ``mlsync init`` sets it up."""

    name = "mlsync agent"
    has_unit = True
    source = ROOT / "agent"

    def prepare(self, place: Path, run: Path) -> None:
        self.tool = Mlsync(place)
        self.tool.prepare()
        self.tool.watch(run)

    @contextmanager
    def beside(self, group: Group | None, nice: int) -> Iterator[None]:
        environment = self.tool.environment() | {"PYTHONPATH": str(self.source)}
        words = [sys.executable, "-m", "mlsync", "agent", "--config", self.tool.place / "mlsync.toml", "--quiet"]
        with (self.tool.place / "agent.log").open("w") as log:
            process = start(words, group, environment, nice=nice, stdout=log, stderr=log)
            try:
                yield
                if process.poll() is not None:
                    sys.exit(f"the agent ended:\n{(self.tool.place / 'agent.log').read_text()}")
            finally:
                end(process)

    def kept(self) -> int:
        versions = self.tool.store / "versions"
        return sum(1 for path in versions.rglob("*") if path.is_file()) if versions.exists() else 0


class AgentBefore(Agent):
    """The agent of another commit."""

    name = "mlsync agent before"

    def __init__(self, source: Path) -> None:
        self.source = source


# ---------------------------------------------------------------- the turns


def turn(beside: Nothing, setting: str, scratch: Path, seconds: float) -> Turn:
    """Train beside one tool for *seconds*."""
    place = scratch / "turn"
    shutil.rmtree(place, ignore_errors=True)
    run, steps = place / "run", place / "steps"
    run.mkdir(parents=True)
    (run / "args.yaml").write_text("lr0: 0.01\n")
    beside.prepare(place / "tool", run)
    os.sync()
    busy_before = busy_share(QUIET_LOOK_S)
    weight, nice = (unit("CPUWeight"), unit("Nice")) if setting == "unit" and beside.has_unit else (USUAL_WEIGHT, 0)
    with ExitStack() as stack:
        trainer_group, tool_group = stack.enter_context(groups(setting, weight))
        # An agent is there before the training; its own start is not what is measured.
        stack.enter_context(beside.beside(tool_group, nice))
        time.sleep(START_S)
        trainer = stack.enter_context(training(run, steps, trainer_group))
        began_s, kept_before = time.monotonic(), beside.kept()
        ran_before_s, waited_before_s = scheduled(trainer.pid)
        time.sleep(seconds)
        until_s = time.monotonic()
        if trainer.poll() is not None:
            sys.exit("the trainer ended")
        ran_s, waited_s = scheduled(trainer.pid)
        kept = beside.kept() - kept_before
    # The first one came right before the turn began.
    seen = Turn(to_keep=1, kept=kept, busy_before=busy_before)
    seen.ran_s, seen.waited_s = ran_s - ran_before_s, waited_s - waited_before_s
    for line in steps.read_text().splitlines()[1:-1]:
        ended_s, step_s, save_s = map(float, line.split())
        if began_s <= ended_s <= until_s:
            seen.steps_s.append(step_s)
            seen.computing_s.append(step_s - save_s)
            seen.saves_s += [save_s] if save_s else []
            seen.to_keep += bool(save_s) and ended_s <= until_s - TO_KEEP_S
    shutil.rmtree(place)
    return seen


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=32.0, help="how long each turn is (default 32)")
    parser.add_argument("--settings", default=SETTINGS[0], help=f"some of {','.join(SETTINGS)}; default plain")
    parser.add_argument("--tools", default=None, help="some of none,rsync,restic,mlsync agent")
    parser.add_argument("--before", metavar="COMMIT", default=None, help="also the agent of this commit, in plain only")
    parser.add_argument("--table", action="store_true", help="only print the rows for README.md from the results")
    arguments = parser.parse_args()
    if arguments.table:
        written = json.loads(((arguments.results or report.RESULTS) / "disturb.json").read_text())
        print("\n".join(readme_rows(written)))
        return
    # What was started, and the groups, go with this process however it is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 14.0
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        before = None if arguments.before is None else source_of(arguments.before, Path(scratch) / "before")
        measured, lacking = all_turns(arguments, Path(scratch), before)
    tell(measured, lacking, arguments)


def tools_of(arguments: object, setting: str, before: Path | None) -> list[Nothing]:
    tools: list[Nothing] = [Nothing()]
    tools += [one() for one in (RsyncLoop, ResticLoop) if one.peer.command() is not None]
    tools += [AgentBefore(before)] if before is not None and setting == "plain" else []
    tools.append(Agent())
    wanted = arguments.tools
    return [tool for tool in tools if wanted is None or tool.name in ("none", *wanted.split(","))]


def all_turns(
    arguments: object, scratch: Path, before: Path | None
) -> tuple[dict[str, dict[str, list[Turn]]], dict[str, str]]:
    """Every turn, by setting and tool; and which settings could not be had, and why."""
    measured: dict[str, dict[str, list[Turn]]] = {}
    lacking = {one.name: "not installed" for one in (RsyncLoop, ResticLoop) if one.peer.command() is None}
    for setting in arguments.settings.split(","):
        where = None if setting == "plain" else controller()
        if isinstance(where, str):
            lacking[setting] = where
            continue
        nothing, *tools = tools_of(arguments, setting, before)
        turns = measured[setting] = {tool.name: [] for tool in (nothing, *tools)}
        # none, rsync, none, restic, none, …, none: the tool of turn n stands between the "none" of n and of n + 1.
        order = [nothing] + [one for _ in range(arguments.rounds) for tool in tools for one in (tool, nothing)]
        for number, tool in enumerate(order):
            turns[tool.name].append(turn(tool, setting, scratch, arguments.seconds))
            figures = turns[tool.name][-1].figures()
            print(f"{setting} {number + 1}/{len(order)} {tool.name}: {figures}", flush=True)
    return measured, lacking


def tell(measured: dict[str, dict[str, list[Turn]]], lacking: dict[str, str], arguments: object) -> None:
    """Print the tables and write the results."""
    result: dict[str, object] = {
        "what": "steps of a training beside a tool, as ratios to the turns beside nothing before and after it",
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "before": arguments.before,
        "autogroup": autogroup(),
        "left_out": lacking,
        "settings": {},
    }
    for setting, turns in measured.items():
        rows, table = [], {}
        names = [name for name in turns if name != "none"]
        for name, mine in turns.items():
            figures = compared(mine, around(turns["none"], names, name))
            table[name] = figures
            medians = [figures[key]["median"] for key in RATIOS] + [figures[key] for key in POOLED]
            medians += [f"{figures['per_processor']['median']:.3f}", f"{figures['waited']['median']:.1%}"]
            kept = f"{figures['kept']} of {figures['saves']}"
            rows.append((name, *medians, figures["longest_step_s"], figures["longest_save_s"], kept))
        columns = [setting, *RATIOS, "p99 pooled", "computing", "per processor", "waited"]
        columns += ["longest step s", "longest save s", "saves kept"]
        report.show(f"Steps beside each tool, {setting}: times beside nothing", columns, rows)
        result["settings"][setting] = table
    every = [one for turns in measured.values() for mine in turns.values() for one in mine]
    busiest = max((one.busy_before for one in every), default=0.0)
    result["busiest_before"] = busiest
    if busiest > QUIET_SHARE:
        print(f"\nOTHERS USED UP TO {busiest:.0%} OF THE PROCESSORS BETWEEN TURNS: the figures mean nothing")
    for setting, why in lacking.items():
        print(f"\n{setting}: left out, {why}")
    report.write("disturb", result, arguments)


def readme_rows(result: Mapping[str, object]) -> Iterator[str]:
    """Yield the rows of README.md's table."""
    several = len(result["settings"]) > 1
    for setting, tools in result["settings"].items():
        for name, one in tools.items():
            ratios = (_readme_ratio(one.get(key)) for key in RATIOS)
            pooled = (f"{one[key]:.2f}" for key in POOLED)
            shares = _readme_ratio(one["per_processor"], digits=3), f"{one['waited']['median']:.1%}"
            words = [f"{name}, {setting}" if several else name, *ratios, *pooled, *shares]
            words.append(f"{one['longest_step_s']:.2f} s")
            kept = "" if name == "none" else f"{one['kept']} of {one['saves']}"
            yield f"| {' | '.join([*words, kept])} |"


def _readme_ratio(found: Mapping[str, float] | None, digits: int = 2) -> str:
    if found is None:
        return "-"
    median, low, high = (f"{found[key]:.{digits}f}" for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def around(alone: Sequence[Turn], names: Sequence[str], name: str) -> list[tuple[Turn, Turn]]:
    """For each turn of a tool the turns beside nothing before and after it; those themselves have the next one."""
    if name == "none":
        return [(one, alone[min(index + 1, len(alone) - 1)]) for index, one in enumerate(alone)]
    return [(alone[index], alone[index + 1]) for index in range(names.index(name), len(alone) - 1, len(names))]


def compared(mine: Sequence[Turn], alone: Sequence[tuple[Turn, Turn]]) -> dict[str, object]:
    """A tool's turns beside those beside nothing around each."""
    pairs = [(one.figures(), [other.figures() for other in others]) for one, others in zip(mine, alone, strict=True)]

    def ratios(key: str) -> dict[str, float]:
        return report.spread(one[key] / statistics.fmean(other[key] for other in others) for one, others in pairs)

    usual_s = [statistics.fmean(other["median_s"] for other in others) for _, others in pairs]

    def pooled(times_s: Callable[[Turn], Sequence[float]]) -> float:
        """The 99th percentile of all turns' steps, in usual steps."""
        return round(p99(sorted(t / usual for one, usual in zip(mine, usual_s, strict=True) for t in times_s(one))), 3)

    return {
        "median": ratios("median_s"),
        "mean": ratios("mean_s"),
        "p99": ratios("p99_s"),
        "p99_pooled": pooled(lambda one: one.steps_s),
        "p99_computing": pooled(lambda one: one.computing_s),
        "per_processor": ratios("per_processor"),
        "waited": report.spread(one["waited"] for one, _ in pairs),
        "cpu_per_step": ratios("cpu_s_per_step"),
        "longest_step_s": max(one["longest_s"] for one, _ in pairs),
        "longest_save_s": max(one["longest_save_s"] for one, _ in pairs),
        "kept": sum(one["kept"] for one, _ in pairs),
        "saves": sum(one["saves"] for one, _ in pairs),
        "turns": [one for one, _ in pairs],
    }


def autogroup() -> str:
    """Whether the kernel weighs sessions, without which plain is like container."""
    try:
        return Path("/proc/sys/kernel/sched_autogroup_enabled").read_text().strip()
    except OSError:
        return "absent"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--loop"]:
        kinds = {one.peer.name: one.peer for one in (RsyncLoop, ResticLoop)}
        loop(kinds[sys.argv[2]], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
