"""A machine to run ``mlsync`` on: a home, a repository, a training directory, and no setting from outside."""

from __future__ import annotations

import io
import os
import pty
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from command_client import CommandServer, Done
from mlsync.source.takeover import allow_takeover

PASSPHRASE = "correct horse"
WITH_GENTLY = ("backup", "verify", "prove", "check", "repair")
GENTLY_OPTIONS = {"--gently", "--quickly"}
MLSYNC = Path(sys.executable).with_name("mlsync")
# Nothing that needs torch: containers and their content are proved (L2), no device is asked. Tests that need it say so.
NO_DEVICE = '[proof]\ndevice = "none"\n'


def at_once(arguments: tuple) -> tuple:
    """The arguments of a command that does not wait for all other tests; test_cli_gently.py has those that do."""
    if arguments[0] in (*WITH_GENTLY, "agent") and not GENTLY_OPTIONS & {*arguments}:
        return (arguments[0], "--quickly", *arguments[1:])
    return arguments


class Machine:
    """Where a test's commands run."""

    def __init__(self, base: Path, server: CommandServer) -> None:
        self.base = base
        self.home = base / "home"
        self.repository = base / "repository"
        self.training = base / "train"
        self.state = base / "state"
        self.configuration = base / "mlsync.toml"
        self.home.mkdir(parents=True, exist_ok=True)
        self.secret = {"CREDENTIALS_DIRECTORY": str(server.credentials)}
        self._server = server

    @property
    def url(self) -> str:
        """The repository's."""
        return f"file://{self.repository}"

    def environment(self, **more: str) -> dict[str, str]:
        """What a command sees: its home, its secret, its configuration."""
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        own = {
            "HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "80",
            "MLSYNC_CONFIG": str(self.configuration),
            # Where the state lies if no configuration says so: root's own place is not the tests' to write to.
            "STATE_DIRECTORY": str(self.base / "default-state"),
            # As on a machine: a container, where tests may run, has less time for the last backup.
            "MLSYNC_PREEMPTION_SIGNAL_GRACE": "30s",
            # The tests themselves need all processors, and a second pass would wait for that to end.
            "MLSYNC_LIMITS_PROCESSOR_SHARE": "100%",
        }
        return {name: value for name, value in (kept | own | self.secret | more).items() if value}

    def run(self, *arguments, uid: int = 0, cwd: Path | None = None, systemd: bool = True, **environment: str) -> Done:
        """What ``mlsync`` with *arguments* did; an *environment* variable that is empty is not set.

        *systemd* is whether it manages the machine.
        """
        return self._server.run(
            at_once(arguments), self.environment(**environment), cwd or self.base, uid, systemd=systemd
        )

    def good(self, *arguments, **options) -> Done:
        """What a command did that had to succeed."""
        done = self.run(*arguments, **options)
        assert done.status == 0, (arguments, done)
        return done

    def on_terminal(self, *arguments: object, columns: int, **environment: str) -> str:
        """What a terminal of that width shows of a command, with the lines that the command broke."""
        parent, child = pty.openpty()
        env = self.environment(COLUMNS=str(columns), TERM="dumb", **environment)
        command = [MLSYNC, *map(str, arguments)]
        shown = b""
        with subprocess.Popen(command, env=env, stdout=child, stderr=child, cwd=self.base):
            os.close(child)
            with suppress(OSError):  # as Linux ends a terminal that nobody holds
                while data := os.read(parent, 1 << 16):
                    shown += data
        os.close(parent)
        return shown.decode().replace("\r\n", "\n")

    def configure(self, more: str = NO_DEVICE, *, directory: Path | None = None) -> None:
        """The configuration watches the training directory, and says *more*."""
        self.configuration.write_text(
            f'repository = "{self.url}"\nstate_directory = "{self.state}"\n'
            f'[[watch]]\ndirectory = "{directory or self.training}"\nrun = "yolo"\n{more}'
        )
        self.configuration.chmod(0o600)

    def object(self, pattern: str, index: int = 0) -> Path:
        """An object of the repository."""
        return sorted(self.repository.glob(pattern))[index]


def content(directory: Path) -> dict[bytes, bytes]:
    """What every file below *directory* holds."""
    root = os.fsencode(directory)
    found = {}
    for place, _, files in os.walk(root):
        for name in files:
            with open(os.path.join(place, name), "rb") as file:
                found[os.path.relpath(os.path.join(place, name), root)] = file.read()
    return found


def copy_of(template: Machine, base: Path, server: CommandServer) -> Machine:
    """A machine that has all that *template* has, in a place of its own."""
    machine = Machine(base, server)
    for name in ("repository", "train", "state"):
        if (template.base / name).exists():
            shutil.copytree(template.base / name, base / name, symlinks=True)
    machine.configure()
    for state in machine.state.glob("*/state.sqlite"):
        # The copy goes on where the template stood.
        allow_takeover(state.parent, "yolo", os.fsencode(machine.training), 0)
    return machine


def write_training(directory: Path, epoch: int = 1) -> None:
    """A directory like a trainer's: a checkpoint, a log, settings."""
    (directory / "weights").mkdir(parents=True, exist_ok=True)
    (directory / "weights" / "last.pt").write_bytes(checkpoint(epoch))
    (directory / "results.csv").write_text("epoch,loss\n1,0.5\n")
    (directory / "args.yaml").write_text("lr0: 0.01\n")


def checkpoint(epoch: int = 1, width: int = 64) -> bytes:
    """A checkpoint as torch writes it."""
    import torch

    torch.manual_seed(epoch)
    file = io.BytesIO()
    torch.save({"epoch": epoch, "model": {"weight": torch.randn(width, width)}, "optimizer": {"state": {}}}, file)
    return file.getvalue()
