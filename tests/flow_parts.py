"""A small world for the tests of the flows: a watched directory, a repository, a local state, and all steps on them."""

from __future__ import annotations

import io
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from doubles.memory_store import MemoryStore
from doubles.recording_monitor import RecordingMonitor
from mlsync.backup.backup import backup
from mlsync.backup.request import BackupOptions, BackupResult, Source
from mlsync.errors import Error
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proving.verify import VerifyResult, verify
from mlsync.repository.keys.keyslot import Passphrase, Stretching
from mlsync.repository.manifest import Manifest
from mlsync.repository.repository import Repository
from mlsync.restore.restore import RestoreOptions, RestoreResult, restore
from mlsync.source.state import State
from mlsync.store.base import Store
from mlsync.store.counting import CountingStore
from mlsync.upkeep.check import CheckResult, check

RUN = "yolo"
PASSPHRASE = Passphrase(b"open sesame")
# A test that derives a key does not pay for one that is hard to guess.
FAST = Stretching(64, 1, 1)

# What a person would compare: kind, mode, content or target, and which paths are one file.
Tree = dict[bytes, tuple[Any, ...]]


class World:
    """One machine with a run, and the store that it backs up to."""

    def __init__(self, base: Path, store: Store | None = None, *, is_there: bool = False) -> None:
        self.base = base
        self.directory = base / "run"
        self.directory.mkdir(parents=True, exist_ok=is_there)
        self.store = store if store is not None else MemoryStore()
        if is_there:
            self.repository = Repository.open(self.store, PASSPHRASE)
        else:
            self.repository = Repository.create(self.store, PASSPHRASE, stretching=FAST)
        self.counted = CountingStore(self.store)
        self.use(self.counted)
        self.state_path = base / "state" / "state.db"
        self.state = State.open(self.state_path)
        self.monitor = RecordingMonitor()
        self.slept: list[float] = []
        self.on_sleep = lambda: None

    # ------------------------------------------------------------ the machine

    def use(self, store: Store) -> None:
        """Go on with the same repository through *store*."""
        self.repository = Repository(store, self.repository.keys)

    def reopen(self) -> None:
        """Open the repository and the state as a new process would."""
        self.state.close()
        self.repository = Repository.open(self.store, PASSPHRASE)
        self.state = State.open(self.state_path)

    def lose_state(self) -> None:
        """Delete the local state."""
        self.state.close()
        shutil.rmtree(self.state_path.parent)
        self.state = State.open(self.state_path)

    def damage_state(self) -> None:
        """Overwrite the middle of the local state with nonsense."""
        self.state.close()
        body = bytearray(self.state_path.read_bytes())
        body[1000:-1000] = b"nonsense" * (len(body[1000:-1000]) // 8 + 1)
        self.state_path.write_bytes(bytes(body))
        self.state = State.open(self.state_path)

    def save_state(self, name: str) -> None:
        """Keep a copy of the local state."""
        self.state.close()
        shutil.copytree(self.state_path.parent, self.base / name)
        self.state = State.open(self.state_path)

    def load_state(self, name: str) -> None:
        """Put a kept copy of the local state in its place."""
        self.state.close()
        shutil.rmtree(self.state_path.parent)
        shutil.copytree(self.base / name, self.state_path.parent)
        self.state = State.open(self.state_path)

    # ------------------------------------------------------------ the tree

    def path(self, name: str | bytes) -> bytes:
        """Where a file of the run lies."""
        return os.path.join(os.fsencode(self.directory), os.fsencode(name))

    def write(self, name: str | bytes, content: bytes) -> None:
        """Write a file in place, the way a trainer does."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)

    def append(self, name: str, content: bytes) -> None:
        """Write more to the end of a file."""
        with open(self.path(name), "ab") as file:
            file.write(content)

    # ------------------------------------------------------------ the steps

    def backup(self, **options: Any) -> BackupResult:
        """Back up once, without a device."""
        uploads = self.state_path.parent / "uploads"
        values = {"required_level": 2, "sleep": self._sleep, "uploads": uploads} | options
        prover = values.pop("prover", None) or Prover(ProofOptions(device="none"))
        source = Source(RUN, os.fsencode(self.directory), values.pop("exclude", ()), held=values.pop("held", ()))
        return backup(self.repository, self.state, source, lambda: prover, BackupOptions(**values), self.monitor)

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.on_sleep()

    def manifest(self, number: int | None = None) -> Manifest:
        """A version of the run, the last one unless said otherwise."""
        number = number or self.numbers()[-1]
        return self.repository.manifest(self.repository.stored(RUN, number))

    def numbers(self) -> list[int]:
        """The versions that there are."""
        return self.repository.numbers(RUN)

    def restore(self, number: int | None = None, to: str = "out", *paths: bytes, **options: Any) -> RestoreResult:
        """Bring a version back to *to* below the world's directory."""
        directory = os.fsencode(self.base / to)
        values = RestoreOptions(paths=paths, **options)
        result = restore(self.repository, self.manifest(number), directory, values, self.monitor)
        if result.fault is not None:
            raise result.fault
        return result

    def restored(self, number: int | None = None, to: str = "out") -> Tree:
        """Bring a version back to an empty place and say what is there then."""
        shutil.rmtree(self.base / to, ignore_errors=True)
        self.restore(number, to)
        return tree_of(self.base / to)

    def tree(self) -> Tree:
        """What is in the run's directory."""
        return tree_of(self.directory)

    def verify(self, number: int | None = None) -> VerifyResult:
        """Verify a version without a device."""
        with Prover(ProofOptions(device="none")) as prover:
            return verify(self.repository, self.manifest(number), prover, self.monitor)

    def check(self, *, read_data: bool = True) -> CheckResult:
        """Check the repository."""
        return check(self.repository, self.monitor, read_data=read_data)

    def entry(self, name: bytes, number: int | None = None) -> Any:
        """An entry of a version by its path."""
        return next(entry for entry in self.manifest(number).entries if entry.path == name)

    def troubles(self, number: int | None = None) -> dict[bytes, Any]:
        """The troubles of a version by path."""
        return {trouble.path: trouble for trouble in self.manifest(number).root.troubles}

    def close(self) -> None:
        """Close the state."""
        self.state.close()


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user without rights for a while."""
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def tree_of(directory: Path, *, times: bool = True) -> Tree:
    """What lies below *directory*: modes, times of files and links, contents, targets, and who shares an inode."""
    tree: Tree = {}
    first_of: dict[int, bytes] = {}
    root = os.fsencode(directory)
    for folder, directories, files in os.walk(root):
        for name in sorted(directories + files):
            full = os.path.join(folder, name)
            path = os.path.relpath(full, root)
            found = os.lstat(full)
            mtime_ns = found.st_mtime_ns if times else 0
            if stat.S_ISLNK(found.st_mode):
                tree[path] = ("symlink", os.readlink(full))
            elif stat.S_ISDIR(found.st_mode):
                tree[path] = ("directory", stat.S_IMODE(found.st_mode), mtime_ns)
            else:
                tree[path] = ("file", stat.S_IMODE(found.st_mode), mtime_ns, _content(full), found.st_ino)
    for path in sorted(tree):
        if tree[path][0] == "file":
            *rest, inode = tree[path]
            tree[path] = (*rest, first_of.setdefault(inode, path))
    return tree


def contents(tree: Tree) -> dict[bytes, bytes]:
    """The files of a tree and what is in them."""
    return {path: found[3] for path, found in tree.items() if found[0] == "file"}


def _content(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def noise(size_bytes: int, seed: int = 0) -> bytes:
    """Bytes that do not compress, the same at every run."""
    return random.Random(seed).randbytes(size_bytes)


def checkpoint(*tensors: Any, epoch: int = 1) -> bytes:
    """A checkpoint as ``torch.save`` writes it."""
    import torch

    file = io.BytesIO()
    torch.save({"epoch": epoch, "model": {f"layer{n}": tensor for n, tensor in enumerate(tensors)}}, file)
    return file.getvalue()


def uniform_checkpoint(value: float = 1.0, **content: Any) -> bytes:
    """A checkpoint of one small tensor that holds one number, and of what else is to be in it."""
    import torch

    file = io.BytesIO()
    torch.save({"model": {"weight": torch.full((500,), value)}, **content}, file)
    return file.getvalue()


@cache
def small_checkpoint(seed: int = 0) -> bytes:
    """A checkpoint of some kilobytes."""
    import torch

    return checkpoint(torch.randn(600, generator=torch.Generator().manual_seed(seed)), epoch=seed)


def damaged(data: bytes) -> bytes:
    """The same zip with a bit of a tensor changed and its CRC left as it was: damage at rest."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def outcome(action: Callable[[], Any]) -> tuple[Any, Error | None]:
    """What an action gave, or the error that it ended with."""
    try:
        return action(), None
    except Error as error:
        return None, error


def keys_of(store: Store, prefix: str = "") -> list[str]:
    """The names of the objects under *prefix*."""
    return [info.key for info in store.list(prefix)]


def bytes_of(refs: Iterable[Any]) -> int:
    """The plain length of some chunks."""
    return sum(ref.plain_bytes for ref in refs)


class Killed(BaseException):
    """What a call of the operating system raises in place of the process's end."""


@contextmanager
def killed_at(nth: int, *functions: str) -> Iterator[list[int]]:
    """Die at the *nth* call of these functions of ``os``; give the count of calls, and whether it came to that."""
    count = [0]
    with pytest.MonkeyPatch.context() as patch, suppress(Killed):
        for name in functions:
            patch.setattr(os, name, _counted(getattr(os, name), count, nth))
        yield count


def _counted(real: Callable[..., Any], count: list[int], nth: int) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] >= nth:
            raise Killed
        return real(*arguments, **options)

    return call
