"""Level 5 of a version's checkpoints: each is restored from the store to a file or directory, which a command loads.

It is restored into a private directory, which is removed afterwards; the next process removes what a killed one left.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from mlsync.beneath import Beneath
from mlsync.errors import CommandUnavailable, TargetError
from mlsync.proof.framework import Framework, Loaded, load
from mlsync.proof.user import User
from mlsync.proving.access import grant_access, remove_others_files
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry
from mlsync.repository.reader import ChunkReader, Plain
from mlsync.repository.repository import Repository
from mlsync.target.target import FilePlan, NameOf, Target
from mlsync.values import Level, Proof
from mlsync.versions.loaded_directories import LoadedDirectories, loaded_directories
from mlsync.versions.stored_file import FileSpan
from mlsync.versions.units import Entries

# The state directory may be on the trainer's disk, which a proof must not fill.
_SPARE_BYTES: Final = 1 << 30
_PREFIX: Final = "checkpoint-"


@dataclass(frozen=True, slots=True)
class LoadingOptions:
    """How checkpoints are loaded, and the *directory* below which they are restored for that time."""

    framework: Framework
    directory: Path


@dataclass(frozen=True, slots=True)
class PrivateCopy:
    """Restored *files*, and the *home* of the command that gets them."""

    files: Path
    home: Path


class PrivateCopies:
    """Restores files of one repository below *directory*, each time into a private directory of its own."""

    def __init__(self, directory: Path, reader: ChunkReader, name_of: NameOf) -> None:
        self._directory = directory
        self._reader = reader
        self._name_of = name_of

    @contextmanager
    def restored(self, entries: Sequence[Entry], user: User | None, tick: Callable[[], None]) -> Iterator[PrivateCopy]:
        """Restore *entries* by their paths, also for another *user*, and remove them again.

        Raises ``OSError``, ``TargetError`` or ``CommandUnavailable`` without room for them, ``Damage`` if a byte does
        not come back, and what *tick* raises, which is called regularly.
        """
        with private_directory(self._directory) as place:
            home = place / "home"
            home.mkdir(mode=0o700)
            self._restore([_own(entry) for entry in entries], place / "file", tick)
            if user is not None:
                # The state directory, the repository's directory in it, and the one for loading: mlsync owns them.
                through = (*self._directory.parents[1::-1], self._directory)
                with _locked(self._directory):
                    grant_access(user, through, place / "file", home)
            yield PrivateCopy(place / "file", home)

    def _restore(self, entries: Sequence[Entry], directory: Path, tick: Callable[[], None]) -> None:
        """Write files by the same code as a restore."""
        with Target(bytes(directory), self._name_of, tick=tick) as target:
            for entry in entries:
                if entry.kind is EntryKind.DIRECTORY:
                    target.make_directory(entry)
            plans = [plan for entry in entries if entry.kind is EntryKind.FILE and (plan := target.plan(entry))]
            self._refuse_full(target, sum(plan.needed_bytes for plan in plans))
            refs = (part.ref for plan in plans for part in plan.missing if part.ref is not None)
            chunks = self._reader.stream(refs, target.rooms(plans))
            for plan in plans:
                target.write(plan, _contents(plan, chunks, tick))
            for entry in entries:
                if entry.kind in (EntryKind.SYMLINK, EntryKind.HARD_LINK):
                    target.make_link(entry)

    def _refuse_full(self, target: Target, needed_bytes: int) -> None:
        free_bytes = target.free_bytes()
        if needed_bytes + _SPARE_BYTES > free_bytes:
            what = (
                f"no room to load a checkpoint of {needed_bytes} bytes and leave {_SPARE_BYTES} free, "
                f"of {free_bytes} that are"
            )
            advice = "make room there, or set state_directory"
            raise CommandUnavailable(what, where=str(self._directory), advice=advice)


class Loading:
    """Loads the checkpoints of one repository, one at a time."""

    def __init__(self, options: LoadingOptions, reader: ChunkReader, name_of: NameOf) -> None:
        self._framework = options.framework
        self._reader = reader
        self._copies = PrivateCopies(options.directory, reader, name_of)

    @classmethod
    def of(cls, options: LoadingOptions | None, reader: ChunkReader, repository: Repository) -> Self | None:
        """Return what loads the checkpoints of *repository*, ``None`` without *options*."""
        return None if options is None else cls(options, reader, repository.chunk_name)

    @property
    def name(self) -> str:
        """The framework's name, as a proof records it."""
        return self._framework.name

    def is_wanted(self, entry: Entry, proof: Proof) -> bool:
        """Return whether a file is loaded: it reached level 4, and the command is meant for it."""
        is_meant = self._framework.is_meant_for(entry.path, proof.container, proof.facts)
        return proof.level == Level.NUMBERS and is_meant

    def wholes(self, paths: Iterable[bytes], entries: Entries) -> LoadedDirectories:
        """Return the directories that are to be loaded as one and that any of *paths* is in."""
        return loaded_directories(self._framework, paths, entries, self._reader)

    def load(self, entries: Sequence[Entry], name: bytes, tick: Callable[[], None]) -> Loaded:
        """Restore a file or directory, load it, and remove it again.

        *entries* are restored by their paths into a directory, and the command gets the path *name* in it. Raises
        ``ProofUnavailable`` if the load could not be tried, ``Damage`` if a byte does not come back, and what *tick*
        raises, which is called regularly.
        """
        try:
            with self._copies.restored(entries, self._framework.user, tick) as copy:
                return load(self._framework, copy.files / os.fsdecode(name), copy.home, tick)
        except (OSError, TargetError) as error:
            raise CommandUnavailable(f"no place to load a checkpoint from: {error}") from error


def _own(entry: Entry) -> Entry:
    """Return an entry as it is restored here: owned by this user, and private."""
    mode = 0o700 if entry.kind is EntryKind.DIRECTORY else 0o600
    return msgspec.structs.replace(entry, mode=mode, uid=os.geteuid(), gid=os.getegid())


def _contents(plan: FilePlan, chunks: Iterator[Plain], tick: Callable[[], None]) -> Iterator[tuple[FileSpan, Plain]]:
    for part in plan.missing:
        yield part, next(chunks)
        tick()


# ---------------------------------------------------------------- the directory


@contextmanager
def private_directory(base: Path) -> Iterator[Path]:
    """Make a private directory below *base*, and remove it afterwards with all that is in it."""
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(base):
        place = Path(tempfile.mkdtemp(dir=base, prefix=_PREFIX))
        held = _hold(place)
    try:
        yield place
    finally:
        _remove(place)
        os.close(held)


def clear_leftovers(base: Path) -> None:
    """Remove what ended processes left below *base*; directories of living ones stay."""
    if not base.is_dir():
        return
    # A process that makes a directory holds this lock until it holds the directory too.
    with _locked(base):
        for place in base.glob(_PREFIX + "*"):
            with suppress(OSError):
                held = _hold(place)
                _remove(place)
                os.close(held)


@contextmanager
def _locked(base: Path) -> Iterator[None]:
    descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _hold(place: Path) -> int:
    """Return a descriptor that locks *place* while this process lives; raises ``OSError`` if another process has it."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove(place: Path) -> None:
    """Remove *place* with all in it, also directories that a command made unreadable.

    A process that the command left may swap names meanwhile, so modes are changed by descriptor and not by name.
    """
    remove_others_files(place / "home")
    with suppress(OSError), Beneath.open(bytes(place)) as root:
        to_come = [b""]
        while to_come:
            path = to_come.pop()
            with suppress(OSError):
                to_come += _unlock(root, path)
    shutil.rmtree(place, ignore_errors=True)


def _unlock(root: Beneath, path: bytes) -> list[bytes]:
    """Make a directory readable; return the directories in it."""
    if path:
        descriptor = root.open_file(path, os.O_PATH | os.O_DIRECTORY)
        try:
            os.chmod(f"/proc/self/fd/{descriptor}", 0o700)
        finally:
            os.close(descriptor)
    descriptor = root.open_directory(path)
    try:
        with os.scandir(descriptor) as entries:
            names = [os.fsencode(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
    finally:
        os.close(descriptor)
    return [path + b"/" + name if path else name for name in names]
