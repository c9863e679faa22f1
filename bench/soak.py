"""Soak: backup, forget and prune of one run, killed at random moments, for minutes or hours.

    python bench/soak.py [--minutes 30] [--seed N] [--quick]

A step is a command in a process of its own: a backup of a directory of which a few files were rewritten, a forget of
some versions, or a prune without a grace period to speak of. Most are killed (kill -9) at a random moment. After each
step every version that is listed is restored and compared with the directory as it was; at the end a check reads
everything. One wrong byte, or a version that does not restore, ends the run. Writes results/soak.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import report
from peers import Mlsync

FILES = 12
FILE_BYTES = (1_000, 400_000)
STEPS = ("backup",) * 4 + ("forget",) * 2 + ("prune",) * 3
END_WITHIN_S = 120
CONFIGURATION = """repository = "{repository}"
state_directory = "{state}"
[proof]
device = "none"
[[watch]]
directory = "{run}"
"""


class Soak:
    """A run and its repository; *seed* makes the same files and moments again."""

    def __init__(self, base: Path, seed: int) -> None:
        self.steps: Counter[str] = Counter()
        self.killed: Counter[str] = Counter()
        self.restores = self.most_versions = 0
        self._base, self._run, self._dice = base, base / "run", random.Random(seed)
        self._known: dict[int, dict[str, str]] = {}
        self._slowest_s = 1.0
        self._environment = {
            **{name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ},
            "HOME": str(base),
            # A key: a passphrase costs each command a quarter of a second, on purpose.
            "CREDENTIALS_DIRECTORY": str(base / "credentials"),
            "MLSYNC_CONFIG": str(base / "mlsync.toml"),
        }
        self._run.mkdir()
        key = base / "credentials" / "mlsync-key"
        key.parent.mkdir()
        key.write_bytes(bytes(range(32)))
        text = CONFIGURATION.format(repository=base / "repository", state=base / "state", run=self._run)
        (base / "mlsync.toml").write_text(text)
        self._whole("init", base / "repository", "--config", base / "of-init.toml")

    def step(self) -> None:
        """One command, killed or not, and a look at every version."""
        kind = self._dice.choice(STEPS)
        if kind == "backup":
            self._rewrite()
        now = digests(self._run)
        arguments = self._arguments(kind)
        if arguments is None:
            return
        self.steps[kind] += 1
        self.killed[kind] += self._cut_off(*arguments)
        self.compare(now)

    def compare(self, now: dict[str, str]) -> None:
        """Restore every listed version; one that is new must be the directory as it is *now*."""
        numbers = self._numbers()
        self.most_versions = max(self.most_versions, len(numbers))
        for number in numbers:
            target = self._base / "back"
            shutil.rmtree(target, ignore_errors=True)
            self._whole("restore", "--version", number, "--to", target, "--quiet")
            found = digests(target)
            assert found == self._known.setdefault(number, now), f"version {number} is another"
            self.restores += 1

    def finish(self) -> None:
        """A backup and a prune that nothing disturbs; then a check of every byte is content."""
        self._rewrite()
        self._whole("backup", "--quickly")
        self._whole(*PRUNE)
        self.compare(digests(self._run))
        self._whole("check", "--quickly", "--read-data")

    def _arguments(self, kind: str) -> tuple[object, ...] | None:
        if kind == "backup":
            return "backup", "--quickly", "--quiet"
        if kind == "prune":
            return PRUNE
        old = self._numbers()[:-1]
        chosen = [number for number in old if self._dice.random() < 0.5]
        return ("forget", *chosen, "--yes", "--quiet") if chosen else None

    def _rewrite(self) -> None:
        for file in range(FILES):
            path = self._run / f"file{file}"
            if not path.exists() or self._dice.random() < 0.3:
                path.write_bytes(self._dice.randbytes(self._dice.randrange(*FILE_BYTES)))

    def _numbers(self) -> list[int]:
        versions = json.loads(self._whole("versions", "--json"))["versions"]
        return sorted(one["version"] for one in versions)

    def _cut_off(self, *arguments: object) -> bool:
        """Run a command, and kill most of them somewhere between begin and end; return whether it was."""
        begin_s = time.monotonic()
        with subprocess.Popen(
            self._command(*arguments), env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            if self._dice.random() < 0.75:
                try:
                    process.wait(self._dice.uniform(0.2, 1.1) * self._slowest_s)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
            said, _ = process.communicate(timeout=END_WITHIN_S)
        if process.returncode == 0:
            self._slowest_s = 0.8 * self._slowest_s + 0.2 * (time.monotonic() - begin_s)
        # A version that must stay cannot be forgotten, which is no failure.
        assert process.returncode in (0, -signal.SIGKILL, 94), (arguments, process.returncode, said.decode())
        return process.returncode == -signal.SIGKILL

    def _whole(self, *arguments: object) -> str:
        """What a command says that has to succeed."""
        command = self._command(*arguments)
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=END_WITHIN_S, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def _command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "mlsync", *map(str, arguments)]


PRUNE = ("prune", "--yes", "--quiet", "--compact", "--grace", "1s")


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of each file."""
    return {
        file.relative_to(directory).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=None, help="default 30; quick: 1")
    parser.add_argument("--seed", type=int, default=None, help="of files, steps and moments; default: by chance")
    arguments = parser.parse_args()
    minutes = arguments.minutes or (1.0 if arguments.quick else 30.0)
    seed = random.randrange(1 << 30) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        soak = Soak(Path(scratch), seed)
        end_s = time.monotonic() + 60 * minutes
        while time.monotonic() < end_s:
            soak.step()
            print(f"{dict(soak.steps)}, {soak.restores} restores", file=sys.stderr, flush=True)
        soak.finish()
        result = {
            "what": "backup, forget and prune of a run, killed at random moments; all versions restored after each",
            "tools": {"mlsync": Mlsync.version()},
            "seed": seed,
            "minutes": minutes,
            "steps": dict(soak.steps),
            "killed": dict(soak.killed),
            "restores_compared": soak.restores,
            "most_versions_at_once": soak.most_versions,
            "wrong": 0,
        }
    report.show("Soak", ["what", "count"], [(name, str(value)) for name, value in result.items()])
    report.write("soak", result, arguments)


if __name__ == "__main__":
    main()
