"""The shipped unit under a real systemd, which boots in a container over an overlay of this machine and goes again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlsync

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

UNITS = Path(__file__).parents[2] / "systemd"
# A unit that stands behind everything else waits for a busy machine.
PATIENCE_S = 400.0
SYSTEMD = ("systemd", "--system")
# The container has a /tmp of its own, and so has the unit: what lies in the machine's is bound to these places.
PYTHON, CODE, RUN = "/opt/mlsync-test", "/opt/mlsync-code", "/data/runs/yolo"
COMMAND = f"{PYTHON}/bin/python -m mlsync"
CONFIGURATION = "/etc/mlsync/mlsync.toml"
DROP_IN = f"""[Service]
Environment=PYTHONPATH={CODE}
LoadCredential=mlsync-passphrase:/etc/mlsync/passphrase
RestartSec=100ms
"""


class Container:
    """A machine whose first process is systemd; what it writes lies in memory and goes with it."""

    def __init__(self, place: Path, run: Path) -> None:
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
        binds = {sys.prefix: PYTHON, str(code): CODE, str(UNITS): "/opt/systemd", str(run): RUN}
        self.log = (place / "console").open("wb")
        self.nspawn = subprocess.Popen(
            ["systemd-nspawn", "-D", str(self.root), "--boot", "--register=no", "--keep-unit", "--console=pipe"]
            + [f"--machine=mlsync-test-{os.getpid()}"]
            + [f"--bind-ro={there}:{here}" for there, here in binds.items()],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
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

    def unit(self, key: str) -> str:
        """What systemd says of the unit."""
        return self.inside("systemctl", "show", "--property", key, "--value", "mlsync-agent").strip()

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
        self.log.close()
        subprocess.run(["umount", "--recursive", "--lazy", str(self.root)], check=False, capture_output=True)


def save(run: Path, epoch: int) -> None:
    content = {"epoch": epoch, "model": {"weight": torch.full((64, 64), float(epoch)) + torch.arange(64)}}
    torch.save(content, run / "saved")
    (run / "saved").replace(run / "last.pt")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training directory with one checkpoint."""
    directory = tmp_path_factory.mktemp("yolo")
    save(directory, 1)
    return directory


@pytest.fixture(scope="module")
def container(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A container in which the unit has made version 1."""
    if os.geteuid() != 0 or shutil.which("systemd-nspawn") is None:
        pytest.skip("a real systemd takes root and systemd-nspawn (Debian: systemd-container)")
    place = tmp_path_factory.mktemp("container")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], check=True)
    started = None
    try:
        started = Container(place, run)
        started.boot()
        started.write("/etc/mlsync/passphrase", "correct horse battery staple")
        started.write("/etc/systemd/system/mlsync-agent.service.d/test.conf", DROP_IN, 0o644)
        (started.root / "srv/mlsync").mkdir(mode=0o700, parents=True, exist_ok=True)
        words = f"{COMMAND} init file:///srv/mlsync --watch {RUN} --config {CONFIGURATION}".split()
        words += ["--passphrase-file", "/etc/mlsync/passphrase"]
        said = started.inside("env", f"PYTHONPATH={CODE}", *words)
        assert "repository id" in said, said
        said = started.inside("env", f"PYTHONPATH={CODE}", *COMMAND.split(), "service", "install")
        assert f"runs     {COMMAND} agent --config {CONFIGURATION}" in said, said
        started.inside("systemctl", "daemon-reload")
        started.inside("systemctl", "start", "mlsync-agent")
        started.until("StatusText", "yolo/1")
        yield started
    finally:
        if started is not None:
            started.end()
        subprocess.run(["umount", "--recursive", "--lazy", str(place)], check=False, capture_output=True)


def test_a_checkpoint_is_proved_under_the_whole_hardening(container):
    """Under the unit as it ships the first version's checkpoint is loaded and its numbers are counted."""
    assert "1 checkpoint proved to L4 on cpu" in container.inside("journalctl", "-u", "mlsync-agent")


def test_the_unit_stands_beside_all_slices(container):
    """The unit's weight counts against system.slice and user.slice, and is a hundredth of theirs."""
    assert (container.unit("ControlGroup"), container.unit("CPUWeight")) == ("/mlsync-agent.service", "1")
    beside = container.inside("systemctl", "show", "--property", "ControlGroup,CPUWeight", "user.slice", "system.slice")
    assert beside.count("CPUWeight=[not set]") == 2  # 100
    assert "ControlGroup=/system.slice" in beside


def test_a_reload_backs_up_now(container, run):
    """``systemctl reload`` makes a version of what changed."""
    save(run, 2)
    container.inside("systemctl", "reload", "mlsync-agent")
    container.until("StatusText", "yolo/2")


def test_a_killed_agent_comes_back(container, run):
    """SIGKILL is survived: systemd starts the agent again, and it goes on."""
    before = container.unit("MainPID")
    container.inside("kill", "-KILL", before)
    container.until("NRestarts", "1")
    container.until("ActiveState", "active")
    save(run, 3)
    container.until("StatusText", "yolo/3")
    assert container.unit("MainPID") != before


def test_a_stop_is_in_good_order(container):
    """``systemctl stop`` ends the agent before its time is over, and leaves no process behind."""
    container.inside("systemctl", "stop", "mlsync-agent")
    assert (container.unit("ActiveState"), container.unit("Result")) == ("inactive", "success")
    assert container.inside("systemctl", "status", "mlsync-agent").count("mlsync.service") == 0
