"""A real agent as a process: started, killed, stopped for a while, and measured."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from soaking.memory import Memory, memory_of

CONFIGURATION = """repository = "{repository}"
state_directory = "{state}"
[key]
key_file = "{key}"
[proof]
device = "none"
require = 2
on_unavailable = "commit"
[limits]
# The trainings and what kills them need all processors: with its share the agent would make versions too seldom.
processor_share = "100%"
{lines}"""
WATCH = """[[watch]]
directory = "{directory}"
run = "{run}"
"""
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") / 1024
# To list all mappings costs the process that has them a millisecond or so.
MEMORY_EVERY_S = 10.0
DAMAGES = ("truncated", "overwritten", "without its log", "a directory in its place")


class Agent:
    """Its *samples*: the life it was in, seconds of this life, KiB of memory, descriptors, threads, of it alone."""

    def __init__(self, base: Path, repository: str, lines: str, runs: dict[str, Path]) -> None:
        self.samples: list[tuple[int, float, float, int, int]] = []
        #: What memory is made of: the agent's, with its life and the seconds of that, and the most of each pass.
        self.memory: list[tuple[int, float, Memory]] = []
        self.passes: dict[int, Memory] = {}
        self._memory_at_s = 0.0
        self.lives = self.died_count = 0
        self.log = base / "agent.log"
        self.state = base / "state"
        self.configuration = base / "mlsync.toml"
        self.key = base / "key"
        self.key.write_bytes(bytes(range(32)))
        self.key.chmod(0o600)
        text = CONFIGURATION.format(repository=repository, state=self.state, key=self.key, lines=lines)
        text += "".join(WATCH.format(run=run, directory=directory) for run, directory in runs.items())
        self.configuration.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None
        self._began_s = 0.0

    def start(self) -> None:
        """Start it if it is not there."""
        if self._process is not None:
            return
        with self.log.open("ab") as log:
            # A gentle one would wait for everything else here, and the figures would be those of the machine.
            command = [sys.executable, "-P", "-m", "mlsync", "agent", "--quickly", "--config", self.configuration]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.lives += 1
        self._began_s = time.monotonic()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def end(self, within_s: float) -> int:
        """End it as systemd does; return its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(within_s)
        self._process = None
        return status

    def look(self) -> None:
        """Measure it; start it again if it ended by itself."""
        if self._process is None:
            return
        if self._process.poll() is not None:
            self.died_count += 1
            self._process = None
            self.start()
            return
        place = Path("/proc") / str(self._process.pid)
        try:
            memory_kib = int((place / "statm").read_text().split()[1]) * PAGE_KIB
            descriptors, threads = len(os.listdir(place / "fd")), len(os.listdir(place / "task"))
        except OSError:
            return
        now_s = time.monotonic()
        self.samples.append((self.lives, now_s - self._began_s, memory_kib, descriptors, threads))
        for child in self.children():
            if (found := memory_of(child)) is not None and found.rss > self.passes.get(child, Memory()).rss:
                self.passes[child] = found
        if now_s >= self._memory_at_s and (found := memory_of(self._process.pid)) is not None:
            self._memory_at_s = now_s + MEMORY_EVERY_S
            self.memory.append((self.lives, now_s - self._began_s, found))

    def children(self) -> list[int]:
        """The processes of its passes."""
        if self._process is None:
            return []
        found = []
        for task in (Path("/proc") / str(self._process.pid) / "task").iterdir():
            try:
                found += map(int, (task / "children").read_text().split())
            except OSError:
                continue
        return found

    def databases(self) -> list[Path]:
        return [database for database in sorted(self.state.glob("*/state.sqlite")) if database.is_file()]

    def damage(self, kind: str) -> None:
        """Damage the databases of a state that nobody uses."""
        for database in self.databases():
            size = database.stat().st_size
            if kind == "truncated":
                os.truncate(database, size // 2)
            elif kind == "overwritten":
                with database.open("r+b") as file:
                    file.seek(size // 3)
                    file.write(os.urandom(min(16384, size // 2)))
            elif kind == "without its log":
                database.with_name(database.name + "-wal").unlink(missing_ok=True)
            else:
                database.unlink()
                database.mkdir()

    def delete_state(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)

    def runs(self) -> list[dict[str, object]]:
        """The runs as its status file shows them."""
        try:
            return list(json.loads((self.state / "status.json").read_text())["runs"])
        except (OSError, ValueError):
            return []

    def faults_in_log(self) -> Iterator[str]:
        """Lines of what nobody expects."""
        for line in self.log.read_text(errors="replace").splitlines():
            if "Traceback" in line or "unexpected error" in line:
                yield line
