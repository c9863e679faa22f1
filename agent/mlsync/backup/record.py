"""The record of one path: what became of it in the source, and what the version does with it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Final, NamedTuple

import msgspec

from mlsync.backup.checkpoints.structure import Unsound
from mlsync.backup.deadline import OutOfTime
from mlsync.backup.files_cache import CachedPath, CacheRow, encode_row, pack_entry
from mlsync.backup.storing.archiver import Archiver, ReadFile, TakenFile
from mlsync.backup.storing.small_files import SmallFiles
from mlsync.errors import ChangedWhileReading, SourceError
from mlsync.repository.encoding.room import Room
from mlsync.repository.encoding.tokens import TroubleKind
from mlsync.repository.manifest import Entry, Trouble
from mlsync.source.cached_file import CachedFile
from mlsync.source.scan import FileStat, Found
from mlsync.source.small_files import is_small

# Of directories and links: a backup never reads them.
_NEVER_READ: Final = 0


class Status(Enum):
    """What became of a path in the source."""

    ABSENT = auto()  # only the last version has it
    NOT_A_FILE = auto()  # a directory or a link: its stat says all
    UNCHANGED = auto()  # as the files cache knows it
    CHANGED = auto()  # to be read
    READ = auto()
    GONE = auto()  # there at the scan, and not any more
    UNREADABLE = auto()  # the source returns an error, or the file does not hold still
    UNSOUND = auto()  # read, and no complete checkpoint


class Action(Enum):
    """What the version does with a path."""

    TAKE = auto()  # hold what the source has
    KEEP = auto()  # hold what the last version has, and say why
    HOLD_BACK = auto()  # the same, until the checkpoint that the file is part of is complete
    REFUSE = auto()  # the same, because the file does not load


class Refusal(NamedTuple):
    """By which *policy* a file was refused (see ``Policy``), and in which *directory*, whose *trouble* it has."""

    policy: str
    directory: bytes | None = None
    trouble: Trouble | None = None


class Record(msgspec.Struct):
    """All that a backup knows of one path.

    *entry* is what the version holds, *trouble* why that is not what the source has. *unit_trouble* is that of a
    checkpoint of several files which is named by this path. A part of one that the version goes without has the entry
    *held* for the next backup, which looks at it again at *again_ns*. *unit_note* is what the proof says of the
    checkpoint that the file is part of: ``None`` says nothing, "" takes back what an earlier proof said.
    *room* has a directory's extended attributes. The entry *is_moved* if chunks of it lie elsewhere than it said. The
    file *is_put_off* if there was no time to read it. Its content *came_back* from the store.
    """

    path: bytes
    found: Found | None = None
    cached: CachedPath | None = None
    status: Status = Status.ABSENT
    read: ReadFile | TakenFile | Unsound | None = None
    fault: tuple[TroubleKind, str] | None = None
    entry: Entry | None = None
    trouble: Trouble | None = None
    unit_trouble: Trouble | None = None
    unit_note: str | None = None
    held: Entry | None = None
    again_ns: int = 0
    refusal: Refusal | None = None
    room: Room = None
    is_moved: bool = False
    is_put_off: bool = False
    came_back: bool = False

    @property
    def action(self) -> Action:
        """What the version does with the path."""
        if self.held is not None:
            return Action.HOLD_BACK
        if self.refusal is not None:
            return Action.REFUSE
        return Action.TAKE if self.trouble is None else Action.KEEP

    @property
    def was_held(self) -> bool:
        """Whether an unchanged file is in no version yet, because its checkpoint was not complete."""
        return self.status is Status.UNCHANGED and self.cached is not None and self.cached.row.is_held

    @property
    def is_new(self) -> bool:
        """Whether no version has been proved with the file as it is now."""
        return self.status is Status.READ or self.was_held

    @property
    def is_checkpoint(self) -> bool:
        """Whether a file that is new is a checkpoint."""
        if isinstance(self.read, (ReadFile, TakenFile)):
            return self.read.is_checkpoint
        return self.cached is not None and self.cached.row.is_checkpoint

    @property
    def stat(self) -> FileStat | None:
        """The stat of the file when it was read, by this backup or an earlier one."""
        if isinstance(self.read, (ReadFile, TakenFile)):
            return self.read.stat
        return None if self.cached is None else self.cached.file.stat

    def archive(self, archiver: Archiver) -> None:
        """Read a changed file, and note what became of it."""
        assert self.found is not None
        self.status = Status.UNREADABLE
        try:
            self.read = archiver.read(self.found, self.cached)
        except Unsound as unsound:
            self.status, self.read, self.fault = Status.UNSOUND, unsound, (unsound.kind, unsound.text)
        except OutOfTime:
            self.put_off()
        except ChangedWhileReading as error:
            self.fault = TroubleKind.TORN, error.what
        except SourceError as error:
            self.fault = TroubleKind.UNREADABLE, error.what
        except MemoryError:
            self.fault = TroubleKind.UNREADABLE, "memory ran out while it was read"
        else:
            self.status = Status.GONE if self.read is None else Status.READ

    def put_off(self) -> None:
        """Leave a changed file to the next backup: this one has no time for it."""
        self.status, self.fault = Status.UNREADABLE, (TroubleKind.TORN, "no time was left to read it")
        self.is_put_off = True

    def cache_row(self) -> CachedFile | None:
        """Return what the files cache is to keep of the path, or ``None`` to leave it as it is."""
        if self.held is not None and self.is_new:
            row = CacheRow(
                pack_entry(self.held),
                self._cached_trouble(),
                is_held=True,
                is_checkpoint=self.is_checkpoint,
                again_ns=self.again_ns,
            )
        elif self._keeps_row():
            return None
        else:
            by, directory, _ = self.refusal or Refusal("")
            row = CacheRow(
                pack_entry(self.entry),
                self._cached_trouble(),
                refused_by=by,
                refused_in=directory,
                came_back=self._has_come_back(),
            )
        body = encode_row(row)
        if isinstance(self.read, (ReadFile, TakenFile)):
            # The pieces are those of the content that was read; they say nothing of another one in its place.
            has_pieces = row.is_held or row.trouble is None
            pieces = self.read.for_cache() if has_pieces else ()
            return CachedFile(self.read.stat, self.read.checked_ns, body, pieces)
        if self.read is not None:
            return CachedFile(self.read.stat, self.read.checked_ns, body, ())
        if self.status is Status.UNCHANGED and self.cached is not None:
            before = self.cached.file
            return CachedFile(before.stat, before.checked_ns, body, before.pieces)
        assert self.found is not None
        return CachedFile(self.found.stat, _NEVER_READ, body, ())

    def _has_come_back(self) -> bool:
        """Return whether the content of the entry was read back from the store, now or when the row was written."""
        if self.entry is None or not self.entry.chunks or self.refusal is not None or self.trouble is not None:
            return False
        before = self.cached
        if before is None or before.entry is None or before.entry.chunks != self.entry.chunks:
            return self.came_back
        return self.came_back or before.row.came_back

    def _keeps_row(self) -> bool:
        if self.status is Status.UNCHANGED:
            # A file that is refused, or let in now, must stay so although nobody will have written to it by next time.
            return self.refusal is None and not self.is_moved and not (self.was_held and self.held is None)
        return self.status in (Status.ABSENT, Status.GONE, Status.UNREADABLE)

    def _cached_trouble(self) -> Trouble | None:
        if self.refusal is not None and self.refusal.trouble is not None:
            return self.refusal.trouble
        if self.unit_trouble is None:
            return self.trouble
        is_directory = self.found is not None and self.found.kind == "directory"
        # Not that of a file which stands: there it would outlive the next look at the checkpoint.
        return self.trouble or (self.unit_trouble if self.held is not None or is_directory else None)


def archive_small(records: Sequence[Record], small_files: SmallFiles) -> Sequence[Record]:
    """Read the changed small files of one directory together; return the records of those that are still to be read."""
    if records[0].found is None or not is_small(records[0].found):
        return records
    files = [(record.found, record.cached) for record in records if record.found is not None]
    try:
        read = small_files.read(files)
    except OutOfTime:
        for record in records:
            record.put_off()
        return ()
    except MemoryError:  # one by one they need less, and whichever still needs too much is named
        return records
    for record, one in zip(records, read, strict=True):
        if one is not None:
            record.status, record.read = Status.READ, one
    return [record for record, one in zip(records, read, strict=True) if one is None]
