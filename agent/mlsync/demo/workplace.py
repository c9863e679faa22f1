"""The demo's directory: what is where in it, and its removal."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlsync.demo.processes import signals_blocked
from mlsync.errors import ConfigInvalid

_PASSPHRASE_BYTES = 18
# A slow agent beside a fast trainer keeps some twenty checkpoints; usually it is half of this.
NEEDED_BYTES = 400 << 20
_NOTHING_LEFT_BYTES = 32 << 20
_ELSEWHERE = "--directory names another place"


@dataclass(frozen=True, slots=True)
class Workplace:
    """The paths below the demo's directory."""

    directory: Path

    @property
    def run(self) -> Path:
        """Where the trainer writes."""
        return self.directory / "runs" / "train"

    @property
    def repository(self) -> Path:
        """The repository."""
        return self.directory / "repository"

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.directory / "mlsync.toml"

    @property
    def passphrase(self) -> Path:
        """The file with the passphrase."""
        return self.directory / "passphrase"

    @property
    def state(self) -> Path:
        """The local state."""
        return self.directory / "state"

    @property
    def temporary(self) -> Path:
        """Where the processes put their temporary files."""
        return self.directory / "tmp"

    def log(self, name: str) -> Path:
        """The log of a process."""
        return self.directory / f"{name}.log"

    def shortage(self) -> str | None:
        """Return what to do about a full disk, which may be the cause of any error; ``None`` if it is not full."""
        if _free_bytes(self.directory) > _NOTHING_LEFT_BYTES:
            return None
        return f"{self.directory} has no room left: {_ELSEWHERE}"

    def write_passphrase(self) -> None:
        """Write a new passphrase, which nobody else may read."""
        descriptor = os.open(self.passphrase, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_urlsafe(_PASSPHRASE_BYTES) + "\n")


@contextmanager
def workplace(asked: Path | None, *, keep: bool) -> Iterator[Workplace]:
    """Yield a directory, *asked* (empty or new) or a temporary one; remove it afterwards unless *keep*."""
    directory, is_new = _made(asked)
    try:
        _need_room(directory)
        yield Workplace(directory)
    finally:
        if not keep:
            with signals_blocked():
                _remove(directory, itself=is_new)


def _made(asked: Path | None) -> tuple[Path, bool]:
    if asked is None:
        return Path(tempfile.mkdtemp(prefix="mlsync-demo-")).resolve(), True
    directory = Path(os.path.abspath(asked))
    try:
        is_new = not directory.exists()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_empty = not any(directory.iterdir())
    except OSError as error:
        what = f"the demo's directory cannot be used: {error.strerror}"
        raise ConfigInvalid(what, where=str(directory)) from error
    if not is_empty:
        what = "the demo's directory is not empty"
        raise ConfigInvalid(what, where=str(directory), advice="name one that is, or one that is not there yet")
    return directory, is_new


def _need_room(directory: Path) -> None:
    free = _free_bytes(directory)
    if free < NEEDED_BYTES:
        what = f"the demo's directory has room for {free >> 20} MiB, and up to {NEEDED_BYTES >> 20} MiB are written"
        raise ConfigInvalid(what, where=str(directory), advice=_ELSEWHERE)


def _free_bytes(directory: Path) -> int:
    return shutil.disk_usage(directory).free


def _remove(directory: Path, *, itself: bool) -> None:
    # The demo's own error matters more than a file that cannot be removed.
    if itself:
        shutil.rmtree(directory, ignore_errors=True)
        return
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
