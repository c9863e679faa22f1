"""A machine with a training directory, a real ``mlsync agent`` beside it, and a directory for a repository."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PATIENCE_S = 120.0
MLSYNC = [sys.executable, "-P", "-m", "mlsync"]


class Watched:
    """The machine; *more* stands at the end of its configuration."""

    def __init__(self, base: Path, more: str = "") -> None:
        self.base = base
        self.runs = base / "runs"
        self.repository = base / "repository"
        self.state = base / "state"
        self.runs.mkdir(parents=True)
        self._key = base / "key"
        self._key.write_bytes(bytes(range(32)))
        self._key.chmod(0o600)
        self._config = base / "mlsync.toml"
        self._agent: subprocess.Popen[str] | None = None
        self.mlsync("init", f"file://{self.repository}", "--key-file", self._key, "--config", base / "initial.toml")
        self.configure(more)

    def configure(self, more: str) -> None:
        """From its next start on the agent goes by this."""
        self._config.write_text(
            f'repository = "file://{self.repository}"\nstate_directory = "{self.state}"\n'
            f'[key]\nkey_file = "{self._key}"\n[[watch]]\ndirectory = "{self.runs}"\n'
            f'[agent]\nsettle = "200ms"\nsettle_max = "1s"\nrescan = "2s"\n[limits]\nprocessor_share = "100%"\n'
            f'[proof]\ndevice = "cpu"\n{more}'
        )

    # ------------------------------------------------------------ commands

    def mlsync(self, *arguments: object, status: int = 0):
        """What a command printed as JSON; it has to end with *status*."""
        command = [*MLSYNC, *map(str, arguments), "--json"]
        if arguments[0] == "backup":
            # A gentle one would wait for all other tests.
            command.append("--quickly")
        if arguments[0] != "init":
            command += ["--config", str(self._config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status, (arguments, done.stderr)
        return json.loads(done.stdout)

    def versions(self):
        """All versions with their files, oldest first."""
        numbers = [version["version"] for version in self.mlsync("versions")["versions"]]
        return [self.mlsync("show", number) for number in sorted(numbers)]

    # ------------------------------------------------------------ the agent

    def start(self) -> None:
        """The agent keeps watch."""
        log = (self.base / "agent.log").open("a")
        command = [*MLSYNC, "agent", "--quickly", "--config", str(self._config)]
        self._agent = subprocess.Popen(command, stderr=log, text=True, start_new_session=True)
        log.close()

    def stop(self) -> None:
        """The agent ended well, if it was there."""
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(PATIENCE_S) == 0, self.log()

    def kill(self) -> None:
        """The agent is gone, without a word."""
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.kill()
            agent.wait()

    def log(self) -> str:
        """What the agent has said."""
        return (self.base / "agent.log").read_text()

    def status(self):
        """What the agent's status file says of the run, nothing yet if there is none."""
        file = self.state / "status.json"
        return json.loads(file.read_text())["runs"][0] if file.exists() else None

    def caught_up(self, since_s: float):
        """Wait until a pass that began after *since_s* has ended well; return the last version's number."""
        return self.wait(lambda s: s["last_pass_s"] and s["last_pass_s"] > since_s and s["phase"] == "waiting")

    def wait(self, condition):
        """Wait until the agent's status fulfils *condition*; return the last version's number."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            status = self.status()
            if status and condition(status):
                return status["last_version"]
            assert time.monotonic() < deadline, (status, self.log())
            assert self._agent is not None
            assert self._agent.poll() is None, self.log()
            time.sleep(0.05)


class Trainer:
    """A trainer's process, and what it has told."""

    def __init__(self, command, environment, events: Path, log: Path) -> None:
        self._events = events
        self._log = log
        with log.open("w") as stream:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=stream, stderr=stream, cwd=events.parent
            )

    def events(self, kind: str):
        """What happened so far, of one kind."""
        lines = self._events.read_text().split("\n")[:-1] if self._events.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    @property
    def is_alive(self) -> bool:
        """Whether it trains."""
        return self._process.poll() is None

    def wait_saved(self, epoch: int) -> float:
        """Wait until an epoch was saved; return a time after that."""
        deadline = time.monotonic() + PATIENCE_S
        while epoch not in [event["epoch"] for event in self.events("saved")]:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)
        return time.time()

    def go_on(self) -> None:
        """The next epoch begins."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def wait(self) -> float:
        """Wait until the training ended well; return a time after that."""
        assert self._process.wait(PATIENCE_S) == 0, self._log.read_text()
        self.kill()
        return time.time()

    def kill(self) -> None:
        """The trainer is gone."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()


def without_mlsync(*paths: Path) -> tuple[str, dict[str, str]]:
    """A Python and an environment that have torch and what lies at *paths*, and nothing of mlsync.

    The interpreter below the tests' virtual environment, which takes that one's packages from a mere path: mlsync,
    installed for editing, is known to the virtual environment itself only.
    """
    packages = Path(next(path for path in sys.path if path.endswith("site-packages")))
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, [*paths, packages]))
    return sys._base_executable, environment
