"""A machine that really boots: systemd over an overlay of this machine, in memory, which is gone when it dies."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from first_day.day import Day
from first_day.machine import Machine

_BOOT_S = 180
# The person may become root, and pip finds its packages then as well.
_SUDOERS = (
    'Defaults env_keep += "PIP_* SSL_CERT_FILE HTTP_PROXY HTTPS_PROXY NO_PROXY"\n{name} ALL=(ALL) NOPASSWD: ALL\n'
)


@dataclass
class BootedMachine(Machine):
    """*root* is its file system as the script reaches it, *nspawn* the process that holds it."""

    root: Path = field(kw_only=True)
    nspawn: subprocess.Popen[bytes] = field(kw_only=True)

    def _enter(self, words: Sequence[str]) -> list[str]:
        as_user = ["setpriv", f"--reuid={self.user.uid}", f"--regid={self.user.gid}", "--init-groups"]
        return ["nsenter", f"--target={self.first_process}", "--all", *as_user, "env", "-C", str(self.home), *words]

    def boot(self) -> None:
        """Wait until systemd has started everything."""
        deadline = time.monotonic() + _BOOT_S
        children = Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children")
        while time.monotonic() < deadline and self.nspawn.poll() is None:
            for child in map(int, children.read_text().split()):
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    self.first_process = child
            if self.first_process is not None and self._state() in ("running", "degraded"):
                return
            time.sleep(0.2)
        raise RuntimeError(f"no systemd boots here: {(self.root.parent / 'console').read_text()[-500:]}")

    def _state(self) -> str:
        words = ["nsenter", f"--target={self.first_process}", "--all", "systemctl", "is-system-running"]
        return subprocess.run(words, capture_output=True, text=True, check=False, cwd="/").stdout.strip()

    def die(self) -> None:
        """The power is cut: its first process is killed, and its disk is gone."""
        os.kill(self.first_process or self.nspawn.pid, signal.SIGKILL)
        for terminal in self.terminals:
            terminal.close()
        self.nspawn.wait()
        _unmount(self.root)
        _unmount(self.root.parent)


@contextmanager
def booted_machine(day: Day, name: str, passphrase: str, binds: Mapping[Path, str]) -> Iterator[BootedMachine]:
    """A machine with a fresh clone in the home of its user, who may use sudo; *binds* says what is shown where."""
    if os.geteuid() != 0 or shutil.which("systemd-nspawn") is None:
        raise RuntimeError("a machine that boots takes root and systemd-nspawn (Debian: systemd-container)")
    place = day.directory / name
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", place], check=True)
    root = place / "root"
    made = None
    try:
        for directory in ("upper", "work", "root"):
            (place / directory).mkdir()
        layers = f"lowerdir=/,upperdir={place}/upper,workdir={place}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, root], check=True)
        (root / "etc/machine-id").unlink()
        (root / "etc/machine-id").write_text(secrets.token_hex(16) + "\n")
        (root / "etc/sudoers.d/first-day").write_text(_SUDOERS.format(name=day.user.name))
        words = ["systemd-nspawn", "-D", str(root), "--boot", "--register=no", "--keep-unit", "--console=pipe"]
        words += [f"--machine={name}", f"--bind-ro={day.directory / 'origin.git'}:/opt/origin.git"]
        words += [f"--bind={there}:{here}" for there, here in binds.items()]
        with (place / "console").open("wb") as log:
            nspawn = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        home = root / day.user.home.relative_to("/")
        made = BootedMachine(name, day.user, home, day.backup, passphrase, root=root, nspawn=nspawn)
        made.boot()
        made.prepare(["git", "clone", "--quiet", "file:///opt/origin.git", "mlsync"])
        yield made
    finally:
        if made is not None and made.nspawn.poll() is None:
            made.die()
        _unmount(root)
        _unmount(place)


def _unmount(place: Path) -> None:
    if place.is_mount():
        subprocess.run(["umount", "--recursive", "--lazy", place], check=True)
