"""Rounds of backups in which client, server or network die at a random moment, and what must be true after each.

The client is the ``mlsync`` command in a process of its own, the server SeaweedFS, the network a proxy.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from command_client import CommandServer
from fault_proxy import FaultProxy
from seaweed import Seaweed

# Some go up in one request each, some in parts.
FILE_BYTES = (14 << 20, 14 << 20, 14 << 20, 48 << 20)
VICTIMS = ("client",) * 6 + ("server", "network", "network")
# From before it has read its configuration to after the end.
KILL_WITHIN_S = 1.6
END_WITHIN_S = 120
CONFIGURATION = """repository = "{url}"
state_directory = "{state}"
[s3]
endpoint_url = "{endpoint}"
[proof]
device = "none"
[[watch]]
directory = "{run}"
"""


@dataclass
class Tally:
    """What happened."""

    rounds: int = 0
    victims: Counter = field(default_factory=Counter)
    statuses: Counter = field(default_factory=Counter)
    committed_at_once: int = 0
    restores: int = 0
    sent_bytes: int = 0
    new_bytes: int = 0


class KillRounds:
    """A run, a server and a network, from ``__enter__`` on; *seed* makes the same files and moments again."""

    def __init__(self, base: Path, seed: int) -> None:
        self.tally = Tally()
        self._base = base
        self._run = base / "run"
        self._dice = random.Random(seed)
        self._digests: dict[int, dict[str, str]] = {}
        self._newest_number = 0
        (base / "seaweed").mkdir()
        self._seaweed = Seaweed(base / "seaweed")
        (base / "commands").mkdir()
        # What is not killed need not start a Python of its own.
        self._commands = CommandServer(base / "commands")

    def __enter__(self) -> Self:
        server = self._seaweed.start()
        self._proxy = FaultProxy(server.endpoint_url)
        endpoint_url = self._proxy.start()
        self._environment = {
            **{name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ},
            **server.environment(),
            "HOME": str(self._base),
            # A key: a passphrase costs each command a quarter of a second, on purpose.
            "CREDENTIALS_DIRECTORY": str(self._base / "credentials"),
            "MLSYNC_CONFIG": str(self._base / "mlsync.toml"),
        }
        self._run.mkdir()
        key = self._base / "credentials" / "mlsync-key"
        key.parent.mkdir()
        key.write_bytes(bytes(range(32)))
        url = f"s3://{server.make_bucket()}/kills"
        text = CONFIGURATION.format(url=url, state=self._base / "state", endpoint=endpoint_url, run=self._run)
        (self._base / "mlsync.toml").write_text(text)
        self.mlsync("init", url, "--endpoint-url", endpoint_url, "--config", self._base / "of-init.toml")
        return self

    def __exit__(self, *_exc: object) -> None:
        self._commands.stop()
        self._proxy.stop()
        self._seaweed.stop()

    def one(self) -> None:
        """One round: new files, a backup that is cut off, and a look at everything that is committed."""
        self._change()
        now = digests(self._run)
        before = self._newest_number
        victim = self._dice.choice(VICTIMS)
        status = self._back_up_and_kill(victim)
        after = self._newest_number = self._newest()
        assert after - before in (0, 1), (before, after)
        assert status != 0 or after == before + 1, "said done, and no version is there"
        if after > before:
            self._digests[after] = now
        if after > before or (after and victim == "server"):
            self._restore(after)
        self.tally.rounds += 1
        self.tally.victims[victim] += 1
        self.tally.statuses[status] += 1
        self.tally.committed_at_once += after > before

    def finish(self) -> None:
        """A last backup that nothing disturbs; then every version that there is comes back, and a check is content."""
        self._change()
        self._digests[self._newest() + 1] = digests(self._run)
        self.mlsync("backup", "--quickly")
        self.tally.sent_bytes = self._proxy.sent_bytes
        for number in self._digests:
            self._restore(number)
        self.mlsync("check", "--quickly", "--read-data")

    def mlsync(self, *arguments: object) -> str:
        """What a command says that has to succeed."""
        done = self._commands.run(arguments, self._environment, self._base, 0)
        assert done.status == 0, (arguments, done)
        return done.out

    def _change(self) -> None:
        """A checkpoint that is another one, and a log that grows."""
        size_bytes = self._dice.choice(FILE_BYTES)
        (self._run / "data.bin").write_bytes(self._dice.randbytes(size_bytes))
        with (self._run / "log.csv").open("a") as log:
            log.write(f"{self.tally.rounds},{self._dice.random()}\n")
        self.tally.new_bytes += size_bytes

    def _back_up_and_kill(self, victim: str) -> int:
        command = [sys.executable, "-m", "mlsync", "backup", "--quickly", "--quiet"]
        output = subprocess.DEVNULL
        with subprocess.Popen(command, env=self._environment, stdout=output, stderr=output) as process:
            time.sleep(self._dice.uniform(0, KILL_WITHIN_S))
            if victim == "client":
                process.kill()
            elif victim == "server":
                self._seaweed.stop()
                self._seaweed.start()
            else:
                self._proxy.cut_all()
            return process.wait(END_WITHIN_S)

    def _newest(self) -> int:
        versions = json.loads(self.mlsync("versions", "--json"))["versions"]
        return max((one["version"] for one in versions), default=0)

    def _restore(self, number: int) -> None:
        target = self._base / "back"
        shutil.rmtree(target, ignore_errors=True)
        self.mlsync("restore", "--version", number, "--to", target, "--quiet")
        assert digests(target) == self._digests[number], f"version {number} is another"
        self.tally.restores += 1


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of each file."""
    return {
        file.relative_to(directory).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }
