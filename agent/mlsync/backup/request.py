"""What a backup is asked for, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from mlsync.backup.bases.settings import Differences
from mlsync.backup.deadline import Deadline, OutOfTime
from mlsync.backup.files_cache import encode_location
from mlsync.backup.storing.avoided import Avoided
from mlsync.errors import Stopped
from mlsync.monitor import Monitor
from mlsync.proving.policy import NO_POLICY, Policy
from mlsync.repository.manifest import ChunkRef, Trouble
from mlsync.repository.repository import Repository
from mlsync.source.held import HeldSave
from mlsync.source.scan import LeftOut
from mlsync.source.state import State

if TYPE_CHECKING:
    from mlsync.proof.prover import Prover
    from mlsync.proving.load import LoadingOptions


class Source(msgspec.Struct, frozen=True):
    """A watched directory and the run that it belongs to.

    With *keep_temporary*, files whose names say that a writer is not done are backed up like any other. *not_models*
    are patterns of files that no warning names although they look like models of an unknown kind. *held* are saves that
    the agent held open; what is deleted of them belongs to the next version.
    """

    run: str
    directory: bytes
    exclude: tuple[str, ...] = ()
    keep_temporary: bool = False
    not_models: tuple[str, ...] = ()
    held: tuple[HeldSave, ...] = ()


class BackupOptions(msgspec.Struct, frozen=True):
    """How a backup is done; it calls *stop* at safe points, and *announce* with the files and bytes that it will read.

    *read_back* says what is read back from the store before a version is committed: what is ``new`` in it, ``all`` of
    it, or ``none``, which leaves the proof to later. *uploads* is the directory of the notes by which an interrupted
    upload is resumed; with ``None`` there are none. *loading* says how a framework loads new checkpoints, if it does.
    *policy* says what the user wants refused: a file that another policy refused is looked at again. With
    *accept_loss* a version is made at once although most checkpoints are gone. A *deadline* is that of a last backup,
    before the machine goes away: it reads the newest files first, and leaves proofs to later unless a version is to
    wait for them. With *reuse_cold* a version may rely on packs that have gone cold, whose content is not read back.
    With *differences* tensors may be stored as such, from earlier versions of them. Once *hurry* says so, beside
    *stop*, a version whose content is stored is committed and not proved.
    """

    required_level: int = 3
    wait_for_proof: bool = False
    read_back: Literal["new", "all", "none"] = "new"
    uploads: Path | None = None
    loading: LoadingOptions | None = None
    policy: Policy = NO_POLICY
    accept_loss: bool = False
    reuse_cold: bool = False
    differences: Differences | None = None
    deadline: Deadline | None = None
    announce: Callable[[int, int], None] = lambda _files, _bytes: None
    stop: Callable[[], bool] = lambda: False
    hurry: Callable[[], bool] = lambda: False
    sleep: Callable[[float], None] = time.sleep
    now_ns: Callable[[], int] = time.time_ns

    @property
    def proves_later(self) -> bool:
        """Whether nothing is read back before the version is committed."""
        return self.read_back == "none" or (self.deadline is not None and not self.wait_for_proof)


class Job(msgspec.Struct, frozen=True):
    """One backup: what all of its steps work with. *avoided* are packs that the version must not rely on."""

    repository: Repository
    state: State
    source: Source
    open_prover: Callable[[], Prover]
    options: BackupOptions
    monitor: Monitor
    avoided: Avoided

    def warn(self, text: str) -> None:
        """Notify the user of something about the run."""
        self.monitor.notice("warning", f"{self.source.run}: {text}")

    def check_stop(self) -> None:
        """Raise ``Stopped`` if the backup is to stop; for safe points."""
        if self.options.stop():
            raise Stopped("the backup was asked to stop", where=self.source.run)

    def check_proving(self) -> None:
        """Raise ``OutOfTime`` if the version is to be committed as it is, ``Stopped`` if the backup is to stop."""
        if self.options.hurry() and not self.options.wait_for_proof:
            raise OutOfTime
        self.check_stop()

    def stoppable(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """Return *advance* as a safe point: a single file may take minutes."""

        def advanced(amount: int) -> None:
            advance(amount)
            self.check_stop()

        return advanced

    def sleep(self, seconds: float) -> None:
        """Sleep, and look every second whether to stop; a last backup ends the sleep when it has no time for it."""
        deadline = self.options.deadline
        while seconds > 0:
            self.check_stop()
            if deadline is not None and deadline.clock() >= deadline.wait_until_s:
                return
            self.options.sleep(min(seconds, 1.0))
            seconds -= 1.0

    def remember_chunks(self, refs: Iterable[ChunkRef]) -> None:
        """Note in the local state where these chunks lie."""
        # Names are random. In order, neighbours go to one page of the index; in no order each page is read and written
        # again and again, once the index is larger than the memory that SQLite has for it.
        ordered = sorted(refs, key=attrgetter("name"))
        self.state.add_chunks((ref.name, ref.pack, encode_location(ref)) for ref in ordered)


class StoredDifferences(msgspec.Struct, frozen=True):
    """What was stored as differences: so many plain bytes in so many stored ones, less than the bases' by *saved*."""

    size_bytes: int = 0
    stored_bytes: int = 0
    saved_bytes: int = 0


class BackupResult(msgspec.Struct, frozen=True):
    """What a backup did: *version* is 0 if nothing had changed since *previous*.

    *why* is what a version is for that stored nothing new, each thing in a few words; empty otherwise. *notes* are what
    a person should know of the version as a whole. The manifest holds both. *left_out* are files left out because
    their names say that a writer is not done. *unkept* are files with attributes that no version keeps.
    *not_understood* are files of a new version that look like models of an unknown kind. *newest_checkpoint_ns* is
    when the newest checkpoint of a new version was written.
    """

    run: str
    previous: int
    version: int = 0
    scanned_count: int = 0
    changed_count: int = 0
    size_bytes: int = 0
    read_bytes: int = 0
    new_bytes: int = 0
    stored_bytes: int = 0
    read_back_bytes: int = 0
    lowest_level: int = 0
    checkpoint_count: int = 0
    device: str = ""
    store_seconds: float = 0.0
    prove_seconds: float = 0.0
    store_cpu_seconds: float = 0.0
    prove_cpu_seconds: float = 0.0
    seconds: float = 0.0
    troubles: tuple[Trouble, ...] = ()
    why: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    left_out: LeftOut = msgspec.field(default_factory=LeftOut)
    unkept: LeftOut = msgspec.field(default_factory=LeftOut)
    not_understood: tuple[bytes, ...] = ()
    newest_checkpoint_ns: int = 0
    differences: StoredDifferences = StoredDifferences()
