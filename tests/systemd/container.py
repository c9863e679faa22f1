"""A machine whose first process is systemd, for tests: it boots over an overlay of this one, and goes again.

Where this cannot be (no root, no systemd-nspawn, no overlay) the test is skipped with the reason.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

import mlsync

# A unit that stands behind everything else waits for a busy machine.
PATIENCE_S = 120.0
UNITS = Path(__file__).parents[2] / "systemd"
# The container has a /tmp of its own, and so has the unit: what lies in the machine's is bound to these places.
PYTHON, CODE, PACKAGES, RUN = "/opt/mlsync-test", "/opt/mlsync-code", "/opt/mlsync-packages", "/data/runs/yolo"
COMMAND = f"{PYTHON}/bin/python -m mlsync"


class Container:
    """A machine whose first process is systemd; what it writes lies in memory and goes with it."""

    def __init__(self, place: Path, run: Path) -> None:
        if os.geteuid() != 0 or shutil.which("systemd-nspawn") is None:
            pytest.skip("a real systemd takes root and systemd-nspawn (Debian: systemd-container)")
        self.root, self.place = place / "root", place
        for name in ("upper", "work", "root"):
            (place / name).mkdir()
        layers = f"lowerdir=/,upperdir={place}/upper,workdir={place}/work"
        mounted = subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", layers, str(self.root)],
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode != 0:
            pytest.skip(f"no overlay can be mounted here: {mounted.stderr.strip()}")
        code = Path(mlsync.__file__).parents[1]
        # The units are beside the code, as in a clone.
        binds = {
            sys.prefix: PYTHON,
            str(code): CODE,
            str(Path(click.__file__).parents[1]): PACKAGES,
            str(UNITS): "/opt/systemd",
            str(run): RUN,
        }
        self.console = (place / "console").open("wb")
        self.nspawn = subprocess.Popen(
            ["systemd-nspawn", "-D", str(self.root), "--boot", "--register=no", "--keep-unit", "--console=pipe"]
            + [f"--machine=mlsync-test-{os.getpid()}"]
            + [f"--bind-ro={there}:{here}" for there, here in binds.items()],
            stdin=subprocess.DEVNULL,
            stdout=self.console,
            stderr=subprocess.STDOUT,
        )

    def boot(self) -> None:
        """It is up; the test is skipped where no such container can be."""
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s and self.nspawn.poll() is None:
            state = self.inside("systemctl", "is-system-running") if self.first() else ""
            if state.strip() in ("running", "degraded"):
                return
            time.sleep(0.2)
        pytest.skip(f"no systemd boots in a container here: {(self.place / 'console').read_text()[-300:]}")

    def first(self) -> int | None:
        """The first process of the container, as this machine numbers it."""
        children = Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text().split()
        for child in map(int, children):
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return child
        return None

    def inside(self, *command: str) -> str:
        """What a command in the container says."""
        words = ["nsenter", "-t", str(self.first()), "-a", *command]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd="/")
        return done.stdout + done.stderr

    def write(self, path: str, content: str, mode: int = 0o600) -> None:
        """A file of the container."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(mode)

    def drop_in(self, name: str, *lines: str) -> None:
        """The unit has more settings from its next start on; without lines no more."""
        file = self.root / f"etc/systemd/system/mlsync-agent.service.d/{name}.conf"
        if lines:
            self.write(str(file.relative_to(self.root)), "\n".join(["[Service]", *lines, ""]), 0o644)
        else:
            file.unlink(missing_ok=True)
        self.inside("systemctl", "daemon-reload")

    def unit(self, key: str) -> str:
        """What systemd says of the unit."""
        return self.inside("systemctl", "show", "--property", key, "--value", "mlsync-agent").strip()

    def log(self) -> str:
        """What the unit logged."""
        return self.inside("journalctl", "-u", "mlsync-agent", "-o", "cat")

    def until(self, key: str, wanted: str) -> str:
        """What systemd says of the unit once *wanted* is in it."""
        deadline_s = time.monotonic() + PATIENCE_S
        while wanted not in (said := self.unit(key)):
            assert time.monotonic() < deadline_s, (key, said, self.inside("journalctl", "-u", "mlsync-agent"))
            time.sleep(0.1)
        return said

    def end(self) -> None:
        """Nothing is left of it."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self.nspawn.poll() is None:
            # The first asks systemd to end, the second ends nspawn.
            self.nspawn.send_signal(signal.SIGTERM if time.monotonic() < deadline_s - 60 else signal.SIGKILL)
            time.sleep(0.2)
        self.console.close()
        subprocess.run(["umount", "--recursive", "--lazy", str(self.root)], check=False, capture_output=True)
