"""What every situation begins with: a repository to clone, an ordinary user, a disk for backups, machines on demand."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from first_day.machine import Machine, User, machine, ordinary_user
from first_day.outcome import Outcome
from first_day.pages import Page
from first_day.person import Person
from first_day.terminal import Terminal

ROOT = Path(__file__).parents[2]
_CLONE = "mlsync"


@dataclass(frozen=True)
class Day:
    """The stage of one situation. Everything lies below *directory*, and is gone after the day."""

    name: str
    directory: Path
    user: User
    commit: str
    installer: Path
    trainer_python: Path | None

    @property
    def backup(self) -> Path:
        """The disk that outlives the machines."""
        return self.directory / "backup"

    @contextmanager
    def machine(self, name: str, passphrase: str) -> Iterator[Machine]:
        """A new machine with an empty home, in which there are a fresh clone and the program uv."""
        with machine(name, self.user, self.directory, self.backup, passphrase) as made:
            made.prepare(["git", "clone", "--quiet", f"file://{self.directory / 'origin.git'}", _CLONE])
            # Where uv's own installer puts it.
            made.prepare(["install", "-D", self.installer, ".local/bin/uv"])
            yield made

    def clone(self, at: Machine) -> str:
        """The directory of the clone, as the person names it."""
        return str(at.home / _CLONE)

    def page(self, name: str) -> Page:
        """A page of the commit that is cloned."""
        text = subprocess.run(
            ["git", "-C", ROOT, "show", f"{self.commit}:{name}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return Page(name, text)

    def install(self, person: Person, at: Machine, window: Terminal, outcome: Outcome, program: str = "uv") -> None:
        """Follow the first step of the outcome's page in the clone; what installers show is not kept."""
        window.run(f"cd {self.clone(at)}")
        shown = person.follow(window, at, self.page(outcome.page).step(1).command(program))
        outcome.seconds[f"installation, {at.name} machine"] = shown.seconds
        window.shown.clear()

    def outcome(self, page: Page, tools: dict[str, str]) -> Outcome:
        """An empty outcome of this day."""
        user = "an added user; each machine has namespaces of its own" if self.user.is_added else "the one who ran it"
        return Outcome(page.name, self.commit[:12], user, Person(), tools)


def passphrase() -> str:
    """A passphrase that nobody knows but the person."""
    return secrets.token_hex(12)


@contextmanager
def day(name: str, directory: Path | None, trainer_python: Path | None) -> Iterator[Day]:
    """The stage of a situation, which is empty at first and removed at the end."""
    with (
        ordinary_user() as user,
        tempfile.TemporaryDirectory(dir=directory, prefix="first-day-", ignore_cleanup_errors=True) as scratch,
    ):
        place = Path(scratch)
        # Directories of tempfile are closed to all but their owner.
        place.chmod(0o755)
        commit = _origin(place, user)
        (place / "backup").mkdir()
        os.chown(place / "backup", user.uid, user.gid)
        yield Day(name, place, user, commit, _uv(place), trainer_python)


def _origin(place: Path, user: User) -> str:
    """Make the repository that the person clones, at the commit that is checked out here; return that commit."""
    git = ["git", "-C", str(ROOT)]
    if subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout:
        print("what is not committed is not in the clone", file=sys.stderr)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    origin = place / "origin.git"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", origin], check=True)
    subprocess.run([*git, "push", "--quiet", str(origin), f"{commit}:refs/heads/main"], check=True)
    for path in (origin, *origin.rglob("*")):
        os.chown(path, user.uid, user.gid)
    return commit


def _uv(place: Path) -> Path:
    """The program uv: that of this machine, or the one from the package index."""
    found = shutil.which("uv")
    if found is not None:
        return Path(found)
    subprocess.run([sys.executable, "-m", "venv", place / "uv"], check=True)
    subprocess.run([place / "uv" / "bin" / "python", "-m", "pip", "install", "--quiet", "uv"], check=True)
    return place / "uv" / "bin" / "uv"
