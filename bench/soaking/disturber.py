"""What happens to trainers, agent and store, at random moments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from soaking.agent import DAMAGES, Agent

TRAINER = Path(__file__).with_name("trainer.py")
DOWN_S = 3.0


class Trainers:
    """One process for each run; those that were killed begin again."""

    def __init__(self, base: Path, kinds: dict[str, str], every_s: float) -> None:
        self.directories = {run: base / "runs" / run for run in kinds}
        self.records = {run: base / f"{run}.record" for run in kinds}
        self._kinds, self._every_s = kinds, every_s
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start those that do not run."""
        for run, kind in self._kinds.items():
            if run not in self._processes:
                words = [kind, self.directories[run], self.records[run], len(run), self._every_s]
                command = [sys.executable, TRAINER, *map(str, words)]
                self._processes[run] = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def kill(self, run: str) -> None:
        process = self._processes.pop(run, None)
        if process is not None:
            process.kill()
            process.wait()

    def check(self) -> None:
        for run, process in self._processes.items():
            assert process.poll() is None, f"the trainer of {run} ended with {process.returncode}"

    def end(self) -> None:
        """End each after its save under way."""
        self.start()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            # One that has just begun does not listen yet.
            assert process.wait(60) in (0, -signal.SIGTERM)
        self._processes.clear()

    def close(self) -> None:
        for run in list(self._processes):
            self.kill(run)


class Disturber:
    """Begins a disturbance now and then, and ends it; *span_s* is the longest one, *pause_s* passes between two.

    *periods* are those in which anything was disturbed, on the wall clock.
    """

    def __init__(
        self, agent: Agent, trainers: Trainers, store, dice: random.Random, span_s: float, pause_s: float
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.periods: list[tuple[float, float, str]] = []
        self._agent, self._trainers, self._store, self._dice = agent, trainers, store, dice
        self._span_s, self._pause_s = span_s, pause_s
        self._ends: dict[str, tuple[float, float, Callable[[], None]]] = {}
        self._next_s = time.monotonic() + pause_s

    def tick(self, *, may_begin: bool, may_end_agent: bool) -> None:
        """End what is over, and begin something if it is time for it."""
        now_s = time.monotonic()
        for name in [name for name, (end_s, _, _) in self._ends.items() if end_s <= now_s]:
            self._finish(name)
        if may_begin and now_s >= self._next_s:
            self._next_s = now_s + self._dice.uniform(0.3, 1.7) * self._pause_s
            self._begin(may_end_agent=may_end_agent)

    def finish(self) -> None:
        """End all disturbances."""
        for name in list(self._ends):
            self._finish(name)

    def store_away(self, for_s: float) -> None:
        self._hold("store", "store away", for_s, self._store.heal)
        self._store.faults["store away"](self._dice)

    def agent_stopped(self, for_s: float) -> None:
        """Stop it, as a machine that sleeps does; its passes go on."""
        self._hold("agent", "agent stopped", for_s, lambda: self._agent.send(signal.SIGCONT))
        self._agent.send(signal.SIGSTOP)

    def _begin(self, *, may_end_agent: bool) -> None:
        kinds: list[Callable[[], None]] = [self.trainer_killed] * 4 + [self._store_fails] * 3
        kinds += [self._agent_stopped, self._pass_killed, self._pass_stopped]
        if may_end_agent:
            kinds += [self.agent_killed] * 3 + [self._state_deleted, self._state_damaged]
        self._dice.choice(kinds)()

    def trainer_killed(self, run: str | None = None) -> None:
        """Kill the trainer of *run*, or of one by chance, for a moment."""
        run = run or self._dice.choice(sorted(self._trainers.directories))
        self._hold(run, "trainer killed", self._dice.uniform(0.1, DOWN_S), self._trainers.start)
        self._trainers.kill(run)

    def _store_fails(self) -> None:
        name = self._dice.choice(sorted(self._store.faults))
        if self._hold("store", name, self._span(), self._store.heal):
            self._store.faults[name](self._dice)

    def _agent_stopped(self) -> None:
        if "agent" not in self._ends:
            self.agent_stopped(self._span())

    def agent_killed(self) -> None:
        """Kill the agent for a moment."""
        if self._hold("agent", "agent killed", self._dice.uniform(0.0, DOWN_S), self._agent.start):
            self._agent.kill()

    def _state_deleted(self) -> None:
        if self._hold("agent", "state deleted", self._dice.uniform(0.0, DOWN_S), self._agent.start):
            self._agent.kill()
            self._agent.delete_state()

    def _state_damaged(self) -> None:
        kind = self._dice.choice(DAMAGES)
        if self._hold("agent", f"state {kind}", self._dice.uniform(0.0, DOWN_S), self._agent.start):
            self._agent.kill()
            self._agent.damage(kind)

    def _pass_killed(self) -> None:
        if (child := self._child()) is not None:
            self._hold("pass", "pass killed", 0.0, lambda: None)
            signal_process(child, signal.SIGKILL)

    def _pass_stopped(self) -> None:
        child = self._child()
        if child is not None and "pass" not in self._ends:
            self._hold("pass", "pass stopped", self._span(), lambda: signal_process(child, signal.SIGCONT))
            signal_process(child, signal.SIGSTOP)

    def _child(self) -> int | None:
        children = self._agent.children()
        return self._dice.choice(children) if children else None

    def _span(self) -> float:
        return self._dice.uniform(0.1, 1.0) * self._span_s

    def _hold(self, what: str, name: str, for_s: float, undo: Callable[[], None]) -> bool:
        """Note what begins, and how it ends; *what* it concerns is left alone until then."""
        if what in self._ends:
            return False
        self.counts[name] += 1
        print(f"{time.strftime('%H:%M:%S')} {name} for {for_s:.1f} s", file=sys.stderr, flush=True)
        self._ends[what] = (time.monotonic() + for_s, time.time(), undo)
        return True

    def _finish(self, what: str) -> None:
        _, began_s, undo = self._ends.pop(what)
        undo()
        self.periods.append((began_s, time.time(), what))


def signal_process(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
