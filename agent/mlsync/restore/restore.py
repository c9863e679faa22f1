"""Bring a version back: whole or in part, to a new place or over what is there.

Each file is written under a temporary name beside its place, checked, made durable and renamed: under its final name
stands the old content or the whole new one, never half of either. What is there already and right is left alone; what a
killed restore left behind is used. One file that cannot be had keeps no other one back: each of them is named.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from mlsync.errors import (
    Damage,
    Error,
    ObjectArchived,
    ObjectDamaged,
    ObjectMissing,
    PathMissing,
    Stopped,
    StoreError,
    TargetBlocked,
    TargetFull,
)
from mlsync.monitor import Monitor, Task
from mlsync.repository import names
from mlsync.repository.manifest import ChunkRef, Entry, Manifest
from mlsync.repository.reader import ChunkReader, Plain
from mlsync.repository.repository import Repository
from mlsync.repository.tokens import EntryKind
from mlsync.restore.deletion import Deletion
from mlsync.source.paths import display
from mlsync.target.lock import TargetLock
from mlsync.target.target import Plan, Target
from mlsync.versions.archived import naming_all
from mlsync.versions.incomplete import INCOMPLETE, incomplete_checkpoints
from mlsync.versions.stored_file import Part

# What one file cannot be had for while others can.
_OF_ONE_FILE = (Damage, ObjectArchived, TargetBlocked)
# Lines that a person may still read.
_NAMED_MAX = 200
# More bytes than this are not fetched just to be passed over.
_PASSED_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """What to restore (*paths*: all where empty) and whether to *delete* what the version does not hold.

    What *exclude* matches, the patterns of the run's backups, stays unless *delete_excluded*. With *confirmed* much may
    be deleted of a directory that no restore made.
    """

    paths: tuple[bytes, ...] = ()
    delete: bool = False
    delete_excluded: bool = False
    confirmed: bool = False
    exclude: tuple[str, ...] = ()
    stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class Failure:
    """What could not be restored or deleted, and why."""

    path: bytes
    error: Error


@dataclass(slots=True)
class RestoreResult:
    """What a restore did; where *failures* is not empty, all else was restored, and *fault* is one error for them."""

    run: str
    version: int
    directory: bytes
    file_count: int = 0
    written_count: int = 0
    unchanged_count: int = 0
    deleted_count: int = 0
    size_bytes: int = 0
    written_bytes: int = 0
    read_bytes: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    fault: Error | None = None


def restore(
    repository: Repository, manifest: Manifest, directory: bytes, options: RestoreOptions, monitor: Monitor
) -> RestoreResult:
    """Return when the directory holds the version, durable, but for what is among the result's *failures*.

    Raises ``PathMissing``, ``TargetFull``, ``TargetLocked``, ``DeletionRefused``, ``Stopped`` or a ``StoreError``;
    files that were finished by then stand, all others are as they were, and running it again goes on from there.
    """
    started_s = time.monotonic()
    entries = _selected(manifest, options.paths)
    for why, which in incomplete_checkpoints(entries).items():
        more = f" and {len(which) - 1} more" if len(which) > 1 else ""
        monitor.notice("warning", f"{display(which[0])}{more}: {INCOMPLETE}{why}")
    result = RestoreResult(manifest.root.run, manifest.root.number, directory)

    def tick() -> None:
        if options.stop():
            raise Stopped("the restore was asked to stop", advice="run it again to go on")

    with (
        Target(directory, repository.is_chunk, notice=monitor.notice, tick=tick) as target,
        TargetLock(
            target.root,
            _identity(repository, manifest),
            f"{manifest.root.run} version {manifest.root.number}",
            notice=monitor.notice,
            tick=tick,
        ) as lock,
    ):
        mark = f"{repository.repository_id.hex()} {manifest.root.run}".encode()
        is_ours = target.is_fresh or target.is_marked(mark)
        if is_ours:
            target.mark(mark)
        try:
            _Restore(repository, manifest, target, options, monitor, result, tick, is_ours=is_ours).run(entries)
        except Error:
            lock.remove()
            target.abandon(entries)
            raise
        # Before the directory gets its time back: taking the file away changes it.
        lock.remove()
        top = None if options.paths else manifest.root.top
        target.finish(top, is_ours=is_ours or os.path.realpath(directory) == manifest.root.directory)
    result.fault = _fault(repository, manifest, result)
    result.seconds = time.monotonic() - started_s
    return result


def _fault(repository: Repository, manifest: Manifest, result: RestoreResult) -> Error | None:
    """Return one error for all failures, if there are any: damage counts before what stood in the way."""
    for kind in (ObjectDamaged, ObjectMissing, Damage, ObjectArchived, Error):
        first = next((failure for failure in result.failures if isinstance(failure.error, kind)), None)
        if first is None:
            continue
        if isinstance(first.error, ObjectArchived):
            return naming_all(repository, manifest, first.error)
        more = f", and {len(result.failures) - 1} more" if len(result.failures) > 1 else ""
        what = f"all was restored but {display(first.path)}{more}: {first.error.what}"
        return type(first.error)(what, where=first.error.where, advice=first.error.advice)
    return None


class _Restore:
    """The steps of one restore; what one entry cannot be had for goes into the *result*, and the next one follows."""

    def __init__(
        self,
        repository: Repository,
        manifest: Manifest,
        target: Target,
        options: RestoreOptions,
        monitor: Monitor,
        result: RestoreResult,
        tick: Callable[[], None],
        *,
        is_ours: bool,
    ) -> None:
        self._repository = repository
        self._name = f"{manifest.root.run} version {manifest.root.number}"
        self._target = target
        self._options = options
        self._monitor = monitor
        self._result = result
        self._tick = tick
        self._is_ours = is_ours
        self._failed: dict[bytes, Error] = {}

    def run(self, entries: list[Entry]) -> None:
        """All entries are at their places, or among the failures."""
        deletion = self._counted_deletion(entries)
        self._each(entries, EntryKind.DIRECTORY, self._target.make_directory)
        self._files([entry for entry in entries if entry.kind is EntryKind.FILE])
        self._each(entries, EntryKind.SYMLINK, self._target.make_link)
        self._each(entries, EntryKind.HARD_LINK, self._target.make_link)
        if deletion is not None:
            self._delete(deletion)
        self._each(reversed(entries), EntryKind.DIRECTORY, self._target.finish_directory)

    # ------------------------------------------------------------ one entry after the other

    def _each(self, entries: Iterable[Entry], kind: EntryKind, step: Callable[[Entry], None]) -> None:
        for entry in entries:
            if entry.kind is kind and self._is_possible(entry):
                self._try(entry, step)

    def _try(self, entry: Entry, step: Callable[[Entry], None]) -> None:
        self._tick()
        try:
            step(entry)
        except _OF_ONE_FILE as error:
            self._fail(entry.path, error)

    def _is_possible(self, entry: Entry) -> bool:
        """Whether nothing that the entry needs has failed; if so, it fails too."""
        if entry.path in self._failed:
            return False
        needs = [entry.path.rpartition(b"/")[0]] + [entry.target] * (entry.kind is EntryKind.HARD_LINK)
        for path in needs:
            if path in self._failed:
                self._fail(entry.path, self._failed[path])
                return False
        return True

    def _fail(self, path: bytes, error: Error) -> None:
        self._failed[path] = error
        self._note(path, error, "restored")

    def _note(self, path: bytes, error: Error, verb: str) -> None:
        self._result.failures.append(Failure(path, error))
        count = len(self._result.failures)
        if count <= _NAMED_MAX:
            self._monitor.notice("error", f"not {verb}: {display(path)}: {error}")
        if count == _NAMED_MAX:
            self._monitor.notice("error", "what else cannot be restored is not named here; --json names all")

    # ------------------------------------------------------------ files

    def _files(self, files: list[Entry]) -> None:
        result = self._result
        result.file_count, result.size_bytes = len(files), sum(entry.size_bytes for entry in files)
        with self._monitor.task(f"{self._name}: comparing", result.size_bytes) as task:
            plans = self._plans(files, task)
        self._refuse_full(sum(plan.needed_bytes for plan in plans))
        missing_bytes = sum(_missing_bytes(plan) for plan in plans)
        with (
            self._repository.reader() as reader,
            self._monitor.task(f"{self._name}: restoring", missing_bytes) as task,
        ):
            _Writing(self._target, reader, task, self._tick, self._fail, result).write(plans)
            result.read_bytes = reader.read_bytes

    def _plans(self, files: list[Entry], task: Task) -> list[Plan]:
        plans: list[Plan] = []

        def compare(entry: Entry) -> None:
            plan = self._target.plan(entry)
            if plan is None:
                self._result.unchanged_count += 1
            else:
                plans.append(plan)

        for entry in files:
            self._each([entry], EntryKind.FILE, compare)
            task.advance(entry.size_bytes)
        return plans

    def _refuse_full(self, needed_bytes: int) -> None:
        free_bytes = self._target.free_bytes()
        if needed_bytes > free_bytes:
            what = f"the restore needs {needed_bytes} bytes and {free_bytes} are free"
            raise TargetFull(what, where=self._target.where, advice="no file was changed")

    # ------------------------------------------------------------ what the version does not hold

    def _counted_deletion(self, entries: list[Entry]) -> Deletion | None:
        """Return how to delete, after ``DeletionRefused`` where it would be more than anybody can have meant."""
        options = self._options
        if not options.delete or options.paths:
            return None
        kept = {entry.path for entry in entries}
        deletion = Deletion(self._target.root, kept, options.exclude, everything=options.delete_excluded)
        if not options.confirmed and not self._is_ours:
            deletion.survey().refuse_large(self._target.where)
        return deletion

    def _delete(self, deletion: Deletion) -> None:
        self._result.deleted_count = deletion.run()
        for path, error in deletion.failures:
            self._note(path, error, "deleted")


class _Writing:
    """Writes files; their missing chunks come as one stream, so that neighbours in a pack are fetched together.

    What is damaged ends a stream. The file that met it is tried once more by itself, for what is damaged may have been
    fetched together with it only; then the stream goes on with the other files. Those that need something of a damaged
    pack come at the end, chunk by chunk.
    """

    def __init__(
        self,
        target: Target,
        reader: ChunkReader,
        task: Task,
        tick: Callable[[], None],
        fail: Callable[[bytes, Error], None],
        result: RestoreResult,
    ) -> None:
        self._target = target
        self._reader = reader
        self._task = task
        self._tick = tick
        self._fail = fail
        self._result = result
        self._gone: dict[str, Error] = {}

    def write(self, plans: list[Plan]) -> None:
        """Each file is at its place, or has failed."""
        doubtful: list[Plan] = []
        while plans:
            at, pack = self._stream(plans)
            # One at least is behind us or put off: this comes to an end.
            rest = plans[at:]
            doubtful += [plan for plan in rest[:1] if pack is not None] + [p for p in rest[1:] if _needs(p, pack)]
            plans = [plan for plan in rest[1:] if not _needs(plan, pack)] if pack is not None else rest
        for plan in doubtful:
            self._apart(plan)

    def _apart(self, plan: Plan) -> None:
        """Write a file that needs something of a damaged pack; where nothing of the pack is to be had, do not ask."""
        gone = next((self._gone[key] for key in map(_pack_key, plan.missing) if key in self._gone), None)
        if gone is None:
            self._one(plan, ((part, self._reader.one(_ref(part))) for part in plan.missing))
        else:
            self._failed(plan, gone)

    def _stream(self, plans: list[Plan]) -> tuple[int, str | None]:
        """Write files until something is damaged; return where that was, with the pack's key, or the end."""
        chunks = self._reader.stream(_ref(part) for plan in plans for part in plan.missing)
        for at, plan in enumerate(plans):
            taken = [0]
            try:
                self._one(plan, _taken(plan, chunks, taken))
            except _Unfetched as unfetched:
                return at, unfetched.error.where or ""
            left = plan.missing[taken[0] :]
            if not left:
                continue
            if sum(part.length for part in left) > _PASSED_BYTES_MAX:
                return at + 1, None
            try:
                for _ in left:
                    next(chunks)
            except _OF_ONE_FILE:
                return at + 1, None
        return len(plans), None

    def _one(self, plan: Plan, contents: Iterator[tuple[Part, Plain | bytes]]) -> None:
        self._tick()
        try:
            self._target.write(plan, self._watched(contents))
        except _OF_ONE_FILE as error:
            self._failed(plan, error)
        else:
            self._result.written_count += 1
            self._result.written_bytes += _missing_bytes(plan)

    def _failed(self, plan: Plan, error: Error) -> None:
        if isinstance(error, (ObjectMissing, ObjectArchived)) and error.where is not None:
            self._gone[error.where] = error
        self._fail(plan.entry.path, error)

    def _watched(self, contents: Iterator[tuple[Part, Plain | bytes]]) -> Iterator[tuple[Part, Plain | bytes]]:
        for part, plain in contents:
            yield part, plain
            self._task.advance(part.length)
            self._tick()


class _Unfetched(Exception):
    """What a stream ended with, apart from the same said of the file that is written."""

    def __init__(self, error: Damage | StoreError) -> None:
        super().__init__(str(error))
        self.error = error


def _taken(plan: Plan, chunks: Iterator[Plain], taken: list[int]) -> Iterator[tuple[Part, Plain]]:
    """Yield a file's missing chunks from the stream, and count them in *taken*."""
    for part in plan.missing:
        try:
            plain = next(chunks)
        except (Damage, ObjectArchived) as error:
            raise _Unfetched(error) from error
        taken[0] += 1
        yield part, plain


def _ref(part: Part) -> ChunkRef:
    assert part.ref is not None
    return part.ref


def _needs(plan: Plan, pack: str | None) -> bool:
    return pack is not None and any(_pack_key(part) == pack for part in plan.missing)


def _pack_key(part: Part) -> str:
    return names.pack(_ref(part).pack)


def _missing_bytes(plan: Plan) -> int:
    return sum(part.length for part in plan.missing)


def _identity(repository: Repository, manifest: Manifest) -> str:
    """Return what is the same for the same version only, and says nothing about it."""
    digest = hashlib.sha256(repository.repository_id)
    digest.update(f"{manifest.root.number} {manifest.root.created_ns} {manifest.root.run}".encode())
    return digest.hexdigest()


def _selected(manifest: Manifest, paths: tuple[bytes, ...]) -> list[Entry]:
    """Return the entries at and below *paths* with the directories above them; ``PathMissing`` if one names nothing."""
    if not paths:
        return list(manifest.entries)
    wanted = []
    above: set[bytes] = set()
    for path in (os.path.normpath(path).strip(b"/") for path in paths):
        found = [entry for entry in manifest.entries if entry.path == path or entry.path.startswith(path + b"/")]
        if not found:
            raise PathMissing(
                f"version {manifest.root.number} holds nothing at {display(path)}", where=f"run {manifest.root.run}"
            )
        wanted += found
        parts = path.split(b"/")
        above |= {b"/".join(parts[:count]) for count in range(1, len(parts))}
    chosen = {entry.path: entry for entry in wanted}
    chosen |= {entry.path: entry for entry in manifest.entries if entry.path in above}
    by_path = {entry.path: entry for entry in manifest.entries}
    for entry in wanted:
        # A hard link alone becomes a file of its own, with the content of the file that it is a link to.
        if entry.kind is EntryKind.HARD_LINK and entry.target not in chosen:
            chosen[entry.path] = _as_file(entry, by_path[entry.target])
    return [chosen[path] for path in sorted(chosen)]


def _as_file(link: Entry, content: Entry) -> Entry:
    return msgspec.structs.replace(content, path=link.path)
