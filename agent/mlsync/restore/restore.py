"""Restore a version, whole or in part, to a new directory or over an existing one.

A restore writes each file under a temporary name in its directory, checks it, makes it durable and renames it. So the
final name always has the old content or the whole new one, never a part. A restore leaves files alone that are right
already, and continues the files that a killed restore left. A file that fails does not stop the others: the result
names each failure.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mlsync.errors import Damage, Error, ObjectArchived, ObjectDamaged, ObjectMissing, Stopped, TargetFull
from mlsync.log_context import working_on
from mlsync.monitor import Monitor
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry, Manifest, with_bases
from mlsync.repository.repository import Repository
from mlsync.restore.bases import BasesAtHand
from mlsync.restore.deletion import Deletion
from mlsync.restore.file_writer import FILE_ERRORS, FileWriter, Written
from mlsync.restore.selection import paths_in_run, select_entries
from mlsync.source.paths import display
from mlsync.target.lock import TargetLock
from mlsync.target.target import FilePlan, Target
from mlsync.versions.archived import naming_all
from mlsync.versions.incomplete import INCOMPLETE, incomplete_checkpoints

# As many as a person may still read.
_NAMED_MAX = 200


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """What to restore (*paths* or patterns: all where empty), and whether to *delete* what the version does not hold.

    Deletion spares what *exclude* matches, the patterns of the run's backups, unless *delete_excluded*. *confirmed*
    allows to delete much of a directory that no restore made.

    *ready* is called with the packs that the files which are not right already need. It may raise, with no file changed
    yet, or wait until they can be read, and returns whether it waited.
    """

    paths: tuple[bytes, ...] = ()
    delete: bool = False
    delete_excluded: bool = False
    confirmed: bool = False
    exclude: tuple[str, ...] = ()
    stop: Callable[[], bool] = lambda: False
    ready: Callable[[set[bytes]], bool] = lambda _packs: False


@dataclass(frozen=True, slots=True)
class Failure:
    """A path that could not be restored or deleted, and why."""

    path: bytes
    error: Error


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a restore did: everything except its *failures*; *fault* is one error for all of these.

    *entries* are what is there now; *is_whole* if they are, with the failures, all of the version.
    """

    run: str
    version: int
    directory: bytes
    entries: tuple[Entry, ...]
    is_whole: bool
    file_count: int
    written_count: int
    unchanged_count: int
    deleted_count: int
    size_bytes: int
    written_bytes: int
    read_bytes: int
    seconds: float
    failures: tuple[Failure, ...]
    fault: Error | None


def restore(
    repository: Repository, manifest: Manifest, directory: bytes, options: RestoreOptions, monitor: Monitor
) -> RestoreResult:
    """Return when the directory durably holds the version, except for the result's *failures*.

    Raises ``PathMissing``, ``TargetFull``, ``TargetLocked``, ``DeletionRefused``, ``Stopped`` or a ``StoreError``. Then
    finished files stay, all others are as they were, and the next restore continues from there.
    """
    with working_on(manifest.root.run, manifest.root.number):
        return _restore(repository, manifest, directory, options, monitor)


def _restore(
    repository: Repository, manifest: Manifest, directory: bytes, options: RestoreOptions, monitor: Monitor
) -> RestoreResult:
    started_s = time.monotonic()
    root = manifest.root
    paths = paths_in_run(options.paths, (root.directory, directory))
    entries = select_entries(manifest, paths)
    for why, which in incomplete_checkpoints(entries).items():
        more = f" and {len(which) - 1} more" if len(which) > 1 else ""
        monitor.notice("warning", f"{display(which[0])}{more}: {INCOMPLETE}{why}")

    def tick() -> None:
        if options.stop():
            raise Stopped("the restore was asked to stop", advice="run it again to go on")

    label = f"{root.run} version {root.number}"
    failures = _Failures(monitor)
    with (
        Target(directory, repository.chunk_name, notice=monitor.notice, tick=tick) as target,
        TargetLock(target.root, _token(repository, manifest), label, notice=monitor.notice, tick=tick) as lock,
    ):
        mark = f"{repository.repository_id.hex()} {root.run}".encode()
        is_ours = target.is_fresh or target.is_marked(mark)
        if is_ours:
            target.mark(mark)
        try:
            deletion = None if paths else _checked_deletion(entries, target, options, is_ours=is_ours)
            restoring = _Restoring(repository, target, monitor, label, failures, tick, options.ready)
            done = restoring.restore(entries, deletion)
        except Error:
            lock.remove()
            target.abandon(entries)
            raise
        # Before the directory gets its time: removing the lock's file changes it.
        lock.remove()
        top = None if paths else root.top
        target.finish(top, is_ours=is_ours or os.path.realpath(directory) == root.directory)
    files, failed = _files(entries), {failure.path for failure in failures.all}
    return RestoreResult(
        run=root.run,
        version=root.number,
        directory=directory,
        entries=tuple(entry for entry in entries if entry.path not in failed),
        is_whole=not paths,
        file_count=len(files),
        written_count=done.written.count,
        unchanged_count=done.unchanged_count,
        deleted_count=done.deleted_count,
        size_bytes=sum(entry.size_bytes for entry in files),
        written_bytes=done.written.size_bytes,
        read_bytes=done.read_bytes,
        seconds=time.monotonic() - started_s,
        failures=tuple(failures.all),
        fault=_fault(repository, manifest, failures.all),
    )


class _Failures:
    """The paths that could not be restored or deleted; reports each."""

    def __init__(self, monitor: Monitor) -> None:
        self.all: list[Failure] = []
        self._monitor = monitor
        self._unrestored: dict[bytes, Error] = {}

    def add(self, path: bytes, error: Error) -> None:
        """Add a path that could not be restored."""
        self._unrestored[path] = error
        self._report(path, error, "restored")

    def add_undeleted(self, path: bytes, error: Error) -> None:
        """Add a path that could not be deleted."""
        self._report(path, error, "deleted")

    def prevent(self, entry: Entry) -> bool:
        """Return whether the entry, or what it needs, has failed; in the second case it fails too."""
        if entry.path in self._unrestored:
            return True
        needs = [entry.path.rpartition(b"/")[0]] + [entry.target] * (entry.kind is EntryKind.HARD_LINK)
        error = next((self._unrestored[path] for path in needs if path in self._unrestored), None)
        if error is not None:
            self.add(entry.path, error)
        return error is not None

    def _report(self, path: bytes, error: Error, verb: str) -> None:
        self.all.append(Failure(path, error))
        count = len(self.all)
        if count <= _NAMED_MAX:
            self._monitor.notice("error", f"not {verb}: {display(path)}: {error}")
        if count == _NAMED_MAX:
            self._monitor.notice("error", "what else cannot be restored is not named here; --json names all")


@dataclass(frozen=True, slots=True)
class _Done:
    """What the steps of a restore did."""

    unchanged_count: int
    written: Written
    read_bytes: int
    deleted_count: int


class _Restoring:
    """The steps of one restore; an entry that fails goes to *failures*, and the next one follows."""

    def __init__(
        self,
        repository: Repository,
        target: Target,
        monitor: Monitor,
        label: str,
        failures: _Failures,
        tick: Callable[[], None],
        ready: Callable[[set[bytes]], bool],
    ) -> None:
        self._ready = ready
        self._repository = repository
        self._target = target
        self._monitor = monitor
        self._label = label
        self._failures = failures
        self._tick = tick

    def restore(self, entries: list[Entry], deletion: Deletion | None) -> _Done:
        """Restore all entries that can be restored, and delete what is to go."""
        self._each(entries, EntryKind.DIRECTORY, self._target.make_directory)
        plans, right = self._compare(_files(entries))
        _refuse_full(self._target, plans)
        missing = (part.ref for plan in plans for part in plan.missing if part.ref is not None)
        if self._ready({ref.pack for ref in with_bases(missing)}):
            # It waited, for hours maybe: the files may be others by now, and the disk may be full.
            plans, right = self._compare(_files(entries))
            _refuse_full(self._target, plans)
        written, read_bytes = self._write(plans, right)
        self._each(entries, EntryKind.SYMLINK, self._target.make_link)
        self._each(entries, EntryKind.HARD_LINK, self._target.make_link)
        deleted_count = 0 if deletion is None else self._delete(deletion)
        self._each(reversed(entries), EntryKind.DIRECTORY, self._target.finish_directory)
        return _Done(len(right), written, read_bytes, deleted_count)

    def _each(self, entries: Iterable[Entry], kind: EntryKind, step: Callable[[Entry], None]) -> None:
        for entry in entries:
            if entry.kind is not kind or self._failures.prevent(entry):
                continue
            self._tick()
            try:
                step(entry)
            except FILE_ERRORS as error:
                self._failures.add(entry.path, error)

    def _compare(self, files: list[Entry]) -> tuple[list[FilePlan], list[Entry]]:
        """Return how to write the files that are not right already, and those that are."""
        plans: list[FilePlan] = []
        right: list[Entry] = []

        def compare(entry: Entry) -> None:
            plan = self._target.plan(entry)
            if plan is None:
                right.append(entry)
            else:
                plans.append(plan)

        with self._monitor.task(f"{self._label}: comparing", sum(entry.size_bytes for entry in files)) as task:
            for entry in files:
                self._each([entry], EntryKind.FILE, compare)
                task.advance(entry.size_bytes)
        return plans, right

    def _write(self, plans: list[FilePlan], right: list[Entry]) -> tuple[Written, int]:
        """Write files; return what was written, and how many bytes came from the store."""
        missing_bytes = sum(plan.missing_bytes for plan in plans)
        with (
            BasesAtHand(self._target, plans, right) as bases,
            self._repository.reader(bases.read, bases.keep) as reader,
            self._monitor.task(f"{self._label}: restoring", missing_bytes) as task,
        ):
            writer = FileWriter(self._target, reader, task, self._tick, self._failures.add, bases.note_written)
            return writer.write(bases.first_needed(plans)), reader.read_bytes

    def _delete(self, deletion: Deletion) -> int:
        with contextlib.closing(deletion):
            deleted_count = deletion.run()
        for path, error in deletion.failures:
            self._failures.add_undeleted(path, error)
        return deleted_count


def _files(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.kind is EntryKind.FILE]


def _refuse_full(target: Target, plans: list[FilePlan]) -> None:
    needed_bytes, free_bytes = sum(plan.needed_bytes for plan in plans), target.free_bytes()
    if needed_bytes > free_bytes:
        what = f"the restore needs {needed_bytes:,} bytes, and {free_bytes:,} are free"
        advice = "free some room, or give --to DIR on another disk; no file was changed"
        raise TargetFull(what, where=target.where, advice=advice)


def _checked_deletion(
    entries: list[Entry], target: Target, options: RestoreOptions, *, is_ours: bool
) -> Deletion | None:
    """Return what deletes, if asked for; raise ``DeletionRefused`` if it would delete more than likely meant."""
    if not options.delete:
        return None
    kept = {entry.path for entry in entries}
    deletion = Deletion(target.root, kept, options.exclude, everything=options.delete_excluded)
    if not options.confirmed and not is_ours:
        deletion.survey().refuse_large(target.where)
    return deletion


def _token(repository: Repository, manifest: Manifest) -> str:
    """Return a token that only the same version has, and that reveals nothing about it."""
    root = manifest.root
    digest = hashlib.sha256(repository.repository_id)
    digest.update(f"{root.number} {root.created_ns} {root.run}".encode())
    return digest.hexdigest()


def _fault(repository: Repository, manifest: Manifest, failures: list[Failure]) -> Error | None:
    """Return one error for all failures, if there are any: damage comes before what blocks the target."""
    for kind in (ObjectDamaged, ObjectMissing, Damage, ObjectArchived, Error):
        first = next((failure for failure in failures if isinstance(failure.error, kind)), None)
        if first is None:
            continue
        if isinstance(first.error, ObjectArchived):
            return naming_all(repository, manifest, first.error)
        more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
        what = f"all was restored but {display(first.path)}{more}: {first.error.what}"
        return type(first.error)(what, where=first.error.where, advice=first.error.advice)
    return None
