"""Machines that can die: each with an empty home of its own, and, where root plays, a machine id and a name of its own.

As root, a user is added for the time of the play, and each machine is a process with namespaces of its own, which the
kernel ends together with everything that ran in it. Whoever is not root plays himself, with an empty directory as HOME.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from first_day.terminal import MARKS, Terminal

BACKUP_DISK = "/mnt/backup"
_SKELETON = Path("/etc/skel")
_NAMES = ("newcomer", *(f"newcomer{number}" for number in range(2, 100)))
# How packages are reached from this place, which says nothing of the person.
_HANDED_ON = (
    "PIP_",
    "UV_",
    "SSL_CERT_",
    "REQUESTS_CA_BUNDLE",
    "HTTP_",
    "HTTPS_",
    "NO_PROXY",
    "http",
    "no_proxy",
    "DOCKER_HOST",
)
_HOLD = """
set -e
hostname "$1"
mount --bind "$2" /etc/machine-id
mount --bind "$3" "$4"
mount -t tmpfs -o mode=0755 none /mnt
mkdir /mnt/backup
mount --bind "$5" /mnt/backup
echo ready
exec sleep infinity
"""


@dataclass(frozen=True)
class User:
    """Who plays: *home* is where the home of each machine appears."""

    name: str
    uid: int
    gid: int
    home: Path
    is_added: bool


@contextmanager
def ordinary_user() -> Iterator[User]:
    """Root adds a user, who is removed at the end; everybody else is one."""
    if os.geteuid() != 0:
        me = pwd.getpwuid(os.getuid())
        yield User(me.pw_name, me.pw_uid, me.pw_gid, Path(), is_added=False)
        return
    taken = {one.pw_name for one in pwd.getpwall()}
    name = next(one for one in _NAMES if one not in taken and not Path("/home", one).exists())
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", name], check=True)
    try:
        entry = pwd.getpwnam(name)
        yield User(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir), is_added=True)
    finally:
        subprocess.run(["userdel", "--remove", name], check=True, stderr=subprocess.DEVNULL)


@dataclass
class Machine:
    """A machine that runs. *place* is its home as the script reaches it, *home* as the person does."""

    name: str
    user: User
    place: Path
    backup: Path
    passphrase: str
    first_process: int | None = None
    terminals: list[Terminal] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """The home, as the person names it."""
        return self.user.home if self.user.is_added else self.place

    @property
    def backup_disk(self) -> str:
        """The mounted directory that both machines have, as the person names it."""
        return BACKUP_DISK if self.user.is_added else str(self.backup)

    def terminal(self, *, before_path: str = "") -> Terminal:
        """A new window with a login shell; a trainer's environment that is active in it stands *before_path*."""
        more = {"TRAINER": before_path} if before_path else {}
        opened = Terminal(self._enter(["bash", "--login"]), self.environment() | MARKS | more, self.passphrase)
        self.terminals.append(opened)
        if before_path:
            # What an environment's activate does.
            opened.run('PATH="$TRAINER:$PATH"')
            opened.shown.clear()
        return opened

    def prepare(self, words: Sequence[str | Path], *, within: Path | None = None) -> str:
        """Do what the person has done before the day begins, and return what it said."""
        command = self._enter(["env", "-C", str(within or self.home), *map(str, words)])
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{command} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def write(self, name: str, text: str) -> None:
        """A file of the person's, by its path in the home."""
        path = self.place / name
        for directory in reversed([path.parent, *path.parent.parents]):
            if not directory.exists():
                directory.mkdir()
                os.chown(directory, self.user.uid, self.user.gid)
        path.write_text(text)
        os.chown(path, self.user.uid, self.user.gid)

    def environment(self) -> dict[str, str]:
        """What a login gives, and how packages are reached from here."""
        handed_on = {name: value for name, value in os.environ.items() if name.startswith(_HANDED_ON)}
        return handed_on | {
            "HOME": str(self.home),
            "USER": self.user.name,
            "LOGNAME": self.user.name,
            "SHELL": "/bin/bash",
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "PATH": "/usr/local/bin:/usr/bin:/bin",
        }

    def _enter(self, words: Sequence[str]) -> list[str]:
        if self.first_process is None:
            return ["env", "-C", str(self.home), *words]
        inside = ["nsenter", f"--target={self.first_process}", "--mount", "--uts", "--pid"]
        as_user = ["setpriv", f"--reuid={self.user.uid}", f"--regid={self.user.gid}", "--init-groups"]
        return [*inside, *as_user, "env", "-C", str(self.home), *words]

    def die(self) -> None:
        """The machine is gone with all its processes and its disk; nobody had time to say good-bye."""
        if self.first_process is not None:
            os.kill(self.first_process, signal.SIGKILL)
        for terminal in self.terminals:
            terminal.close()
        shutil.rmtree(self.place)


@contextmanager
def machine(name: str, user: User, directory: Path, backup: Path, passphrase: str) -> Iterator[Machine]:
    """A machine with an empty home in *directory*; it is gone at the end, if it did not die before."""
    place = directory / name
    shutil.copytree(_SKELETON, place, symlinks=True)
    for path in (place, *place.rglob("*")):
        os.chown(path, user.uid, user.gid, follow_symlinks=False)
    made = Machine(name, user, place, backup, passphrase)
    holder = _hold(made, directory) if user.is_added else None
    try:
        yield made
    finally:
        if place.exists():
            made.die()
        if holder is not None:
            holder.wait()


def _hold(made: Machine, directory: Path) -> subprocess.Popen[bytes]:
    """Start the machine's first process: when it ends, so does everything that runs there."""
    identity = directory / f"{made.name}-id"
    identity.write_text(secrets.token_hex(16) + "\n")
    arguments = [made.name, identity, made.place, made.user.home, made.backup]
    unshared = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    complaints = directory / f"{made.name}-complaints"
    with complaints.open("w") as stderr:
        outer = subprocess.Popen(
            [*unshared, "sh", "-c", _HOLD, "hold", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    assert outer.stdout is not None
    with outer.stdout as said:
        if said.readline() != b"ready\n":
            raise RuntimeError(f"no namespaces can be made; run it as an ordinary user: {complaints.read_text()}")
    made.first_process = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text())
    return outer
