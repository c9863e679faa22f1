"""Restores every version after a soak, compares it with the trainers' records, and measures the agent."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter

from mlsync.app.session import Session
from mlsync.config.load import load
from mlsync.monitor import SilentMonitor
from mlsync.repository.keys.keyslot import KeyFile
from mlsync.restore.restore import RestoreOptions, restore
from soaking.causes import UNEXPLAINED, cause_of, in_order
from soaking.memory import KINDS, Memory, growth
from soaking.record import (
    LOGS,
    Record,
    Save,
    Version,
    digests,
    log_fault,
    partial_count,
    percentile,
    rounded,
    slope,
)

# A disturbance may still be felt for so long: the agent waits longer after each failure.
FELT_S = 60.0
WARM_UP_SHARE = 0.25
NS = 1e9
FAULTS_SHOWN = 20


class Judge:
    """What came of a soak."""

    def __init__(self, soak) -> None:
        self._soak = soak
        self._wrong: list[str] = []
        self._lags: list[float] = []
        self._calm_lags: list[float] = []
        self._causes: Counter[str] = Counter()
        self._unexplained: list[str] = []
        self._counts = dict.fromkeys(
            ("versions_compared", "files_compared", "saves_finished", "saves_captured", "files_told", "partial"), 0
        )

    def judge(self) -> dict[str, object]:
        """All figures; *wrong* counts what must not be."""
        agent = self._soak.agent
        config = load(agent.configuration)
        unlock = KeyFile(agent.key.read_bytes())
        with Session.open(config, lambda: unlock, SilentMonitor()) as session:
            for run, record in self._soak.records().items():
                self._judge_run(session.repository, run, record)
        self._wrong += agent.faults_in_log()
        self._wrong += [f"the agent ended by itself {agent.died_count} times"] * bool(agent.died_count)
        self._check()
        for line in self._wrong[:FAULTS_SHOWN]:
            print(f"WRONG: {line}", file=sys.stderr)
        return {
            **self._counts,
            **lags("lag_s", self._lags),
            **lags("lag_undisturbed_s", self._calm_lags),
            "saves_missed": in_order(self._causes),
            "unexplained_first": self._unexplained[:FAULTS_SHOWN],
            "agent": measured(agent.samples),
            "memory": composition(agent.memory),
            "passes": of_passes(list(agent.passes.values())),
            "state_bytes": sum(file.stat().st_size for file in agent.state.rglob("*") if file.is_file()),
            "wrong": len(self._wrong),
            "wrong_first": self._wrong[:FAULTS_SHOWN],
        }

    def _judge_run(self, repository, run: str, record: Record) -> None:
        directory = record.directory
        logged = {name: (directory / name).read_bytes() for name in LOGS if (directory / name).exists()}
        back = self._soak.agent.key.with_name("back")
        captured: dict[int, float] = {}
        before_s, version = 0.0, None
        made_s: list[float] = []
        for number in repository.numbers(run):
            stored = repository.stored(run, number)
            manifest = repository.manifest(stored)
            shutil.rmtree(back, ignore_errors=True)
            result = restore(repository, manifest, bytes(back), RestoreOptions(), SilentMonitor())
            if not result.is_whole or result.fault is not None:
                self._wrong.append(f"{run}/{number}: not restored: {result.fault}")
                continue
            told = {trouble.path.decode() for trouble in manifest.root.troubles}
            version = Version(number, manifest.root.created_ns / NS, digests(back), told)
            faults = record.faults(version, before_s)
            faults += [
                log_fault(name, whole, (back / name).read_bytes())
                for name, whole in logged.items()
                if name in version.files
            ]
            self._wrong += [f"{run}/{number}: {fault}" for fault in faults if fault is not None]
            for save in record.held(version):
                captured.setdefault(id(save), version.made_s)
            self._counts["versions_compared"] += 1
            self._counts["files_compared"] += len(version.files)
            self._counts["files_told"] += len(told)
            self._counts["partial"] += partial_count(version)
            before_s = version.made_s
            made_s.append(before_s)
        self._note_captured(run, record, captured, version)
        for save in record.finished():
            if id(save) not in captured:
                self._note_missed(run, save, made_s)

    def _note_missed(self, run: str, save: Save, made_s: list[float]) -> None:
        cause = cause_of(save, made_s, self._soak.disturber.periods)
        self._causes[cause] += 1
        if cause == UNEXPLAINED:
            after_s = next((at_s for at_s in made_s if at_s > save.ended_s), float("inf")) - save.ended_s
            lived_s = save.gone_s - save.ended_s
            text = f"{min(save.files)}, there for {lived_s:.1f} s, with the next version after {after_s:.1f} s"
            self._unexplained.append(f"{run}: {text} (saved at {save.ended_s:.1f})")

    def _note_captured(self, run: str, record: Record, captured: dict[int, float], newest: Version | None) -> None:
        finished = record.finished()
        self._counts["saves_finished"] += len(finished)
        for save in finished:
            if id(save) in captured:
                self._counts["saves_captured"] += 1
                lag_s = captured[id(save)] - save.ended_s
                self._lags.append(lag_s)
                if not self._was_disturbed(save, captured[id(save)]):
                    self._calm_lags.append(lag_s)
        lasting = [save for save in finished if save.gone_s == float("inf")]
        held = [] if newest is None else record.held(newest)
        self._wrong += [
            f"{run}: the newest version lacks a save of {save.files}" for save in lasting if save not in held
        ]

    def _was_disturbed(self, save: Save, captured_s: float) -> bool:
        periods = self._soak.disturber.periods
        return any(begin_s <= captured_s and end_s + FELT_S >= save.ended_s for begin_s, end_s, _ in periods)

    def _check(self) -> None:
        """Have mlsync itself read every byte."""
        command = [sys.executable, "-P", "-m", "mlsync", "check", "--read-data", "--quickly", "--config"]
        done = subprocess.run(
            [*command, self._soak.agent.configuration], capture_output=True, text=True, check=False, timeout=1800
        )
        if done.returncode != 0:
            self._wrong.append(f"mlsync check: {done.returncode}: {done.stdout}{done.stderr}")


def lags(name: str, values: list[float]) -> dict[str, object]:
    found = {
        "count": len(values),
        "median": rounded(percentile(values, 0.5)),
        "p95": rounded(percentile(values, 0.95)),
        "max": rounded(max(values, default=None)),
    }
    return {name: found}


def measured(samples: list[tuple[int, float, float, int, int]]) -> dict[str, object]:
    """The agent's longest life, without the first quarter: how memory and descriptors grow in an hour."""
    lives: dict[int, list[tuple[float, float, int, int]]] = {}
    for life, *rest in samples:
        lives.setdefault(life, []).append(tuple(rest))
    longest = max(lives.values(), key=lambda life: life[-1][0] - life[0][0], default=[])
    warm = longest[int(WARM_UP_SHARE * len(longest)) :]
    if not warm:
        return {"lives": len(lives)}
    per_hour = 3600.0
    memory, descriptors, threads = (slope([(point[0], point[column]) for point in warm]) for column in (1, 2, 3))
    return {
        "lives": len(lives),
        "longest_life_s": round(longest[-1][0]),
        "samples": len(warm),
        "memory_mib": {"first": mib(warm[0][1]), "last": mib(warm[-1][1]), "max": mib(max(p[1] for p in warm))},
        "memory_mib_per_hour": rounded(memory and memory * per_hour / 1024),
        "descriptors": {"first": warm[0][2], "last": warm[-1][2], "max": max(point[2] for point in warm)},
        "descriptors_per_hour": rounded(descriptors and descriptors * per_hour),
        "threads_per_hour": rounded(threads and threads * per_hour),
    }


def composition(samples: list[tuple[int, float, Memory]]) -> dict[str, object]:
    """What the memory of the agent's longest life is made of, and what of it grows, without the first quarter."""
    lives: dict[int, list[tuple[float, Memory]]] = {}
    for life, at_s, memory in samples:
        lives.setdefault(life, []).append((at_s, memory))
    longest = max(lives.values(), key=lambda life: life[-1][0] - life[0][0], default=[])
    return growth(longest[int(WARM_UP_SHARE * len(longest)) :])


def of_passes(peaks: list[Memory]) -> dict[str, object]:
    """The processes of passes that were seen: how many, and the most that one of them took of each kind, in MiB."""
    return {"count": len(peaks), **{kind: mib(max(getattr(one, kind) for one in peaks)) for kind in KINDS if peaks}}


def mib(kib: float) -> float:
    return round(kib / 1024, 1)
