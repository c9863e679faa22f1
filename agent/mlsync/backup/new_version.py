"""Make a version of a run: scan, store what is new, prove it, and only then commit.

The order is the promise. Packs are durable before anything is proved; what is proved was read back from the store; the
manifest is written last, and only with what was proved, or what an earlier version had proved already.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing, suppress
from typing import Final, NamedTuple

import msgspec

import mlsync
from mlsync.backup.bases.choice import Bases
from mlsync.backup.bases.opened import content_opener
from mlsync.backup.early_proofs import EarlyProofs
from mlsync.backup.files_cache import CachedPath, FilesCache, load_files_cache
from mlsync.backup.notices import (
    warn_of_clamped,
    warn_of_no_copy,
    warn_of_not_understood,
    warn_of_unkept,
    warn_of_writer,
)
from mlsync.backup.parents.closed_parent import load_closed_parent
from mlsync.backup.parents.decided import decided_now
from mlsync.backup.parents.later_proofs import seen_now
from mlsync.backup.parents.ownership import Here, Writer, next_writer
from mlsync.backup.parents.parent import Parent, load_parent
from mlsync.backup.prove import prove
from mlsync.backup.read_order import newest_first
from mlsync.backup.reasons import reasons
from mlsync.backup.record import Record, Status, archive_small
from mlsync.backup.records import Candidate, Records
from mlsync.backup.request import BackupResult, Job, Source, StoredDifferences
from mlsync.backup.shrunk import heed_loss, loss_of
from mlsync.backup.storing.archiver import Archiver, ReadFile, stored_differences
from mlsync.backup.storing.chunk_index import ChunkIndex
from mlsync.backup.storing.presence import new_places, placed, read_moved, refuse_lost
from mlsync.backup.storing.small_files import SmallFiles
from mlsync.backup.storing.uploads import drop_stale_uploads, resume_uploads
from mlsync.courtesy.pressure import PACE
from mlsync.errors import Damage, Error, SourceEmptied, Stopped, VersionMissing, VersionTaken
from mlsync.monitor import Task
from mlsync.proof.prover import Prover
from mlsync.proving.policy import Policy
from mlsync.repository.commit import Committed, commit
from mlsync.repository.encoding.room import Room, room_of
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.encoding.validation import is_sound_top
from mlsync.repository.history.seen_decision import ROOM_NAME as DECISION
from mlsync.repository.history.seen_decision import seen_value
from mlsync.repository.manifest import ChunkRef, Entry, Manifest, ManifestRoot, Summary, Top, refs_of, with_bases
from mlsync.repository.pack.journal import PackJournal
from mlsync.repository.pack_lookup import Tombstones
from mlsync.repository.proof_links import LATER_PROOFS, later_proofs_value
from mlsync.repository.writer import PackWriter, WriteStats
from mlsync.source.held import with_deleted
from mlsync.source.holding import hold
from mlsync.source.paths import display
from mlsync.source.root import Root
from mlsync.source.scan import FileStat, Found, LeftOut, Scan, scan
from mlsync.source.small_files import together
from mlsync.source.state import Head, Made
from mlsync.source.takeover import end_takeover
from mlsync.versions.loaded_directories import is_below

_LOG: Final = logging.getLogger(__name__)
_QUICKLY_STORED_BYTES: Final = 1 << 30
# As far as the clocks of two machines may differ, or one is set back.
_CLOCKS_APART_NS: Final = 15 * 60 * 10**9


class _Scanned(NamedTuple):
    """The directory as it is, beside what is known of the run. *notes* are for the manifest."""

    tree: Scan
    top: Top | None
    cache: FilesCache
    parent: Parent
    writer: Writer
    notes: tuple[str, ...]


class _Stored(NamedTuple):
    """What was read: it is in the store, and the *records* say what the version holds of it."""

    records: Records
    chunk_index: ChunkIndex
    stats: WriteStats
    changed_count: int
    read_bytes: int
    unkept: LeftOut
    differences: StoredDifferences
    bases: Bases


class _Committed(NamedTuple):
    """The version that was made; *number* 0 if none was. *pending* are checkpoints that still are to be proved.

    *why* says what the version is for, if it stored nothing new.
    """

    number: int = 0
    summary: Summary = Summary(0, 0, 0, 0, 0, 0, "")
    body_bytes: int = 0
    pending: tuple[str, ...] = ()
    not_understood: tuple[bytes, ...] = ()
    why: tuple[str, ...] = ()


class _Moment(NamedTuple):
    wall_s: float
    cpu_s: float


def _now() -> _Moment:
    return _Moment(time.monotonic(), time.process_time())


def make_version(job: Job, last: Parent, started_s: float) -> BackupResult:
    """Make the version that follows *last*, or none if nothing but times differs; return what was done."""
    with Root.open_watched(job.source.directory) as root:
        with job.monitor.task(f"{job.source.run}: scanning", None):
            scanned = _scan(job, root, last)
        begin = _now()
        with job.monitor.task(f"{job.source.run}: resuming uploads", None):
            journal = _resume_uploads(job)
        with job.open_prover() as prover, EarlyProofs(job, root, prover, scanned.parent, scanned.cache) as early:
            stored = _store(job, root, scanned, prover, journal, early)
            between = _now()
            with closing(stored.bases):
                read_back_bytes = prove(
                    job, root, stored.records, prover, scanned.cache, early, read_base=stored.bases.read
                )
        end = _now()
        candidate = stored.records.candidate(scanned.cache)
        with job.monitor.task(f"{job.source.run}: committing", None):
            _copy_parent(job, scanned.parent)
            if candidate.differs:
                committed = _commit(job, scanned, stored, candidate)
            else:
                committed = _no_version(job, scanned.parent, candidate)
    return BackupResult(
        job.source.run,
        last.number,
        version=committed.number,
        scanned_count=len(scanned.tree.found),
        changed_count=stored.changed_count,
        size_bytes=committed.summary.size_bytes,
        read_bytes=stored.read_bytes,
        new_bytes=stored.stats.new_bytes,
        stored_bytes=stored.stats.stored_bytes + committed.body_bytes,
        read_back_bytes=read_back_bytes,
        lowest_level=committed.summary.lowest_level,
        checkpoint_count=committed.summary.checkpoint_count,
        device=committed.summary.device,
        store_seconds=between.wall_s - begin.wall_s,
        prove_seconds=end.wall_s - between.wall_s,
        store_cpu_seconds=between.cpu_s - begin.cpu_s,
        prove_cpu_seconds=end.cpu_s - between.cpu_s,
        seconds=time.monotonic() - started_s,
        troubles=candidate.troubles,
        why=committed.why,
        notes=scanned.notes,
        pending=committed.pending,
        left_out=scanned.tree.left_out,
        unkept=stored.unkept,
        differences=stored.differences,
        not_understood=committed.not_understood,
        newest_checkpoint_ns=max((e.mtime_ns for e in candidate.entries if e.proof is not None), default=0),
    )


# ---------------------------------------------------------------- scan


def _scan(job: Job, root: Root, last: Parent) -> _Scanned:
    """Return what is there, or raise why no version may be made of it."""
    source = job.source
    _LOG.debug("scanning")
    for one in (file for save in source.held for file in save.files):
        root.adopt(one.path, os.dup(one.descriptor), one.stat)
    tree = scan(root, source.exclude, keep_temporary=source.keep_temporary)
    tree = with_deleted(tree, root, source.held, source.exclude, keep_temporary=source.keep_temporary)
    _LOG.debug("found %d files and directories", len(tree.found))
    cache = load_files_cache(job.state, source.run)
    if job.repository.is_write_only:
        parent = load_closed_parent(last, job.repository, job.state, source.run, source.directory, cache.files)
    else:
        parent = load_parent(last, job.repository, source.run, cache.files)
    writer = next_writer(_here(job, tree, parent, cache), parent, job.state)
    _refuse_emptied(tree, parent, source)
    loss, now_ns = loss_of(tree, parent), job.options.now_ns()
    note = heed_loss(loss, parent, job.state, source.run, now_ns, accept=job.options.accept_loss)
    if note is not None:
        job.warn(note)
    return _Scanned(tree, _top_of(root), cache, parent, writer, () if note is None else (note,))


def _here(job: Job, tree: Scan, parent: Parent, cache: FilesCache) -> Here:
    """Return what shows whether this directory may continue the run."""

    def before() -> dict[bytes, bytes]:
        if not parent.before:
            return {}
        with suppress(Damage, VersionMissing):
            return _digests(job.repository.entries(job.repository.stored(job.source.run, parent.before)))
        return {}

    cached = (one.entry for one in cache.files.values() if one.entry is not None and not one.row.is_held)
    return Here(job.source.run, job.source.directory, tree, _digests(cached), before)


def _digests(entries: Iterable[Entry]) -> dict[bytes, bytes]:
    return {entry.path: entry.digest for entry in entries if entry.kind is EntryKind.FILE}


def _top_of(root: Root) -> Top | None:
    """Return what is kept of the directory itself, or ``None`` if it has numbers that no version can hold."""
    found = FileStat.of(os.fstat(root.descriptor))
    top = Top(stat.S_IMODE(found.mode), found.uid, found.gid, found.mtime_ns)
    return top if is_sound_top(top) else None


def _refuse_emptied(tree: Scan, parent: Parent, source: Source) -> None:
    """Refuse a version without files after one with files: most likely a disk is not mounted."""
    if any(found.kind == "file" for found in tree.found) or tree.problems:
        return
    if any(entry.kind is EntryKind.FILE for entry in parent.entries.values()):
        what = f"the directory holds no file, and version {parent.number} does"
        advice = f"version {parent.number} stays the last one; put a file there to go on"
        raise SourceEmptied(what, where=display(source.directory), advice=advice)


# ---------------------------------------------------------------- store


def _resume_uploads(job: Job) -> PackJournal | None:
    """Finish what the last backup was cut off from, so that its chunks are known; return the notes for the next one."""
    if job.options.uploads is None:
        return None
    journal = job.repository.journal(job.options.uploads, job.source.run)
    resume_uploads(journal, job.repository, job.remember_chunks, job.monitor)
    drop_stale_uploads(job.options.uploads, job.repository, job.monitor, job.options.now_ns() / 1e9)
    return journal


def _store(
    job: Job, root: Root, scanned: _Scanned, prover: Prover, journal: PackJournal | None, early: EarlyProofs
) -> _Stored:
    """Read what changed and store what is new; every chunk of the records is durable afterwards."""
    parent, repository = scanned.parent, job.repository
    known = parent.refs()
    tombstones = Tombstones(repository, {ref.pack for ref in with_bases(known.values())})
    index = ChunkIndex(known, job.state, repository, job.avoided, tombstones)
    writer = repository.writer(index, journal=journal, lookup_all=index.all_of)
    bases = _bases(job, scanned, index)
    records = _first_records(job, scanned.tree, scanned.cache)
    changed = [found for found in scanned.tree.found if records[found.path].status is Status.CHANGED]
    hold(root, changed)
    total_bytes = sum(found.stat.size_bytes for found in changed)
    job.options.announce(len(changed), total_bytes)
    with job.monitor.task(f"{job.source.run}: reading", total_bytes) as task:
        advance = _in_time(job, _remembering(job, writer, job.stoppable(task.advance)))
        small_files = SmallFiles(
            root,
            job.state.seed,
            writer,
            may_use=index.may_use,
            container_of=parent.container_of,
            advance=advance,
        )
        archiver = Archiver(
            root,
            job.state.seed,
            writer,
            bases,
            may_use=index.may_use,
            container_of=parent.container_of,
            expect_proof=_expecting(_start_of(prover, job, total_bytes), early.follow(writer, bases.read)),
            advance=advance,
            sleep=job.options.sleep,
        )
        try:
            for files in _in_order(job, changed):
                job.check_stop()
                PACE.rest(job.check_stop)
                _read(job, [records[found.path] for found in files], archiver, small_files, task)
            for record in records.values():
                if record.found is not None and record.found.kind == "directory":
                    record.room = archiver.room_of_directory(record.found, record.cached)
            task.say("waiting until all is stored")
            stats = writer.finish()
            writer.remember_durable(job.remember_chunks)
        except BaseException as error:
            early.close()
            _keep_progress(job, writer, error)
            bases.close()
            raise
        finally:
            archiver.close()
    job.avoided.wrote(stats.packs)
    index.add_written(stats.packs)
    settled = Records(records, scanned.tree.problems, parent, job.avoided, job.options.policy)
    # New chunks are remembered by now; a machine that lost its local state learns where all others are.
    if not parent.is_remembered:
        job.remember_chunks(refs_of(settled.entries.values()))
    read_bytes = small_files.read_bytes + archiver.read_bytes
    differences = stored_differences(record.read for record in records.values())
    return _Stored(settled, index, stats, len(changed), read_bytes, archiver.unkept, differences, bases)


def _bases(job: Job, scanned: _Scanned, index: ChunkIndex) -> Bases:
    """Return the bases for the tensors of this backup."""
    options = job.options
    opener = content_opener(options.differences, job.repository, job.source.run, options.now_ns() / 1e9)
    files, found = scanned.cache.files, scanned.tree.found
    return Bases(scanned.parent, files, found, options.required_level, index.may_use, opener)


def _first_records(job: Job, tree: Scan, cache: FilesCache) -> dict[bytes, Record]:
    """Return a record for each path found, which says whether the file is to be read."""
    unfit = job.avoided.unfit
    records = {}
    for found in tree.found:
        cached = cache.files.get(found.path)
        if found.kind != "file" or found.link_to is not None:
            status = Status.NOT_A_FILE
        elif cached is not None and cached.file.is_same(found) and _stands(cached, job.options.policy, unfit):
            status = Status.UNCHANGED
        else:
            status = Status.CHANGED
        records[found.path] = Record(found.path, found, cached, status)
    changed_wholes = _changed_wholes(records, cache.files)
    for path, cached in cache.files.items() if changed_wholes else ():
        record = records.get(path)
        if record is not None and record.status is Status.UNCHANGED and cached.row.refused_in in changed_wholes:
            record.status = Status.CHANGED
    return records


def _stands(cached: CachedPath, policy: Policy, unfit: AbstractSet[bytes]) -> bool:
    """Return whether what the cache says of an unchanged file still holds, and the store can return its content."""
    if not policy.holds(cached.row.refused_by):
        return False
    return not unfit or cached.entry is None or unfit.isdisjoint(ref.pack for ref in refs_of([cached.entry]))


def _changed_wholes(records: Mapping[bytes, Record], files: Mapping[bytes, CachedPath]) -> set[bytes]:
    """Return the directories that were refused as one and have changed since: all of each is judged again."""
    refused = {path: one.row.refused_in for path, one in files.items() if one.row.refused_in is not None}
    if not refused:
        return set()
    # A new file may be what was missing.
    changed = (path for path, record in records.items() if record.status is Status.CHANGED)
    moved = {path for path in changed if path in refused or path not in files}
    moved |= {path for path in refused if path not in records or records[path].status is Status.NOT_A_FILE}
    return {directory for directory in set(refused.values()) if any(is_below(path, directory) for path in moved)}


def _start_of(prover: Prover, job: Job, total_bytes: int) -> Callable[[], None]:
    """Return what starts the prover while files are stored, so that nobody waits for torch afterwards.

    It does nothing if storing takes long: a process that waits on a GPU keeps some of its memory from the trainer.
    """
    is_quick = not job.options.proves_later and total_bytes <= _QUICKLY_STORED_BYTES
    return prover.start if is_quick else lambda: None


def _in_order(job: Job, changed: list[Found]) -> Iterator[list[Found]]:
    """Yield the files in the order in which they are read, small ones of a directory together.

    If there may be no time for all, the newest come first, each alone.
    """
    if job.options.deadline is None:
        return together(changed)
    return together(newest_first(changed), most=1)


def _read(job: Job, changed: Sequence[Record], archiver: Archiver, small_files: SmallFiles, task: Task) -> None:
    """Read one file, or small ones of a directory; what there is no time for is put off."""
    deadline = job.options.deadline
    if deadline is not None and deadline.is_reading_over:
        for record in changed:
            record.put_off()
        return
    task.say(display(changed[0].path))
    for record in archive_small(changed, small_files):
        record.archive(archiver)


def _expecting(start: Callable[[], None], begin: Callable[[ReadFile], None]) -> Callable[[ReadFile], None]:
    """Return what is called with each new piece of a checkpoint."""

    def expect(read: ReadFile) -> None:
        start()
        begin(read)

    return expect


def _in_time(job: Job, advance: Callable[[int], None]) -> Callable[[int], None]:
    deadline = job.options.deadline
    return advance if deadline is None else deadline.checked(advance)


def _remembering(job: Job, writer: PackWriter, advance: Callable[[int], None]) -> Callable[[int], None]:
    """Return *advance*, which also notes what is durable: a process may be killed at any time."""

    def advanced(amount: int) -> None:
        writer.remember_durable(job.remember_chunks)
        advance(amount)

    return advanced


def _keep_progress(job: Job, writer: PackWriter, error: BaseException) -> None:
    """End the writer and note what is durable, so that the next backup need not send it again."""
    if isinstance(error, Stopped):
        with suppress(Error):
            writer.finish()
    writer.abort()
    writer.remember_durable(job.remember_chunks)


# ---------------------------------------------------------------- commit


def _commit(job: Job, scanned: _Scanned, stored: _Stored, candidate: Candidate) -> _Committed:
    """Write the manifest, and remember the version; all packs that it relies on are in the store before and after."""
    source, index = job.source, stored.chunk_index
    parent, room = _with_room(job, scanned.parent)
    scanned = scanned._replace(parent=parent)
    chunks = [ref for entry in candidate.entries for ref in entry.chunks]
    old_packs = {ref.pack for ref in with_bases(chunks) if index.is_old(ref)}
    places = new_places(job.repository, chunks, Tombstones(job.repository, old_packs), index.is_old)
    if places:
        with job.monitor.task(f"{source.run}: reading what was moved", sum(ref.plain_bytes for ref in places)) as task:
            read_moved(job.repository, places, job.stoppable(task.advance))
        stored.records.move(places)
        candidate = stored.records.candidate(scanned.cache)
        job.remember_chunks({placed(ref, places) for ref in chunks} - set(chunks))
    is_without_news = parent.number and not stored.stats.new_bytes
    why = reasons(stored.records, candidate.troubles, source, job.avoided) if is_without_news else ()
    manifest = Manifest(_root_of(job, scanned, stored, candidate, why, room), candidate.entries)
    warn_of_clamped(job, candidate.clamped)
    warn_of_writer(job, manifest, parent, scanned.writer)
    manifest, committed = _create(job, parent, stored.chunk_index, manifest)
    new = manifest.root
    warn_of_no_copy(job, new.number, committed.copy_error)
    pending = _pending(manifest)
    job.state.replace_files(source.run, candidate.cached, candidate.uncached)
    job.remember_chunks(committed.body_refs)
    if pending:
        job.state.add_pending(source.run, new.number)
    # Last: nobody believes rows of a version that the head does not name.
    job.state.set_head(source.run, Head(new.number, committed.digest))
    end_takeover(job.state.directory, source.run, source.directory)
    not_understood = warn_of_not_understood(job, manifest)
    return _Committed(new.number, new.summary, committed.stored_bytes, pending, not_understood, why)


def _create(job: Job, parent: Parent, index: ChunkIndex, manifest: Manifest) -> tuple[Manifest, Committed]:
    """Create the manifest under the first number that no prune has fenced; return it as it was created."""
    refs = list(refs_of(manifest.entries))

    def look(body_refs: Sequence[ChunkRef], packs: Sequence[bytes]) -> None:
        # Own packs too: this process may have been stopped since it stored them, for longer than any grace period.
        job.avoided.wrote(packs)
        # First the tombstones, then the packs: a prune deletes a pack first, and then its tombstone.
        relied_on = [*refs, *body_refs]
        tombstones = Tombstones(job.repository, {ref.pack for ref in relied_on})
        refuse_lost(job.repository, relied_on, tombstones)

    while True:
        new = manifest.root
        # Noted before the version exists: if this process dies right after the commit, it made it all the same.
        last, made = Made(parent.number, parent.created_ns), Made(new.number, new.created_ns)
        job.state.begin_version(job.source.run, job.source.directory, new.origin.id, last, made)
        try:
            return manifest, commit(job.repository, manifest, index.usable, look=look, begin=_begin(job, new.number))
        except VersionTaken as error:
            if error.is_planted:
                # A listing need not show it: a store may hide what is no object.
                job.state.add_unreadable(job.source.run, {new.number: ""})
            if not error.is_fenced:
                raise
        parent = parent.without(new.number)
        root = msgspec.structs.replace(new, number=parent.next_number(job.source.run))
        manifest = Manifest(root, manifest.entries)


def _begin(job: Job, number: int) -> Callable[[bytes], None]:
    """Return what notes a manifest's digest before it is created: a node that cannot open it knows it by that alone."""

    def begin(digest: bytes) -> None:
        if job.repository.is_write_only:
            job.state.set_sealed(job.source.run, Head(number, digest))

    return begin


def _copy_parent(job: Job, parent: Parent) -> None:
    """Store the second copy of the last version's manifest, if its writer may have died before it did so.

    A version that this machine remembers had its turn: it is not looked for at each backup.
    """
    if parent.number and not parent.is_remembered and not parent.is_closed:
        job.repository.add_copy(job.repository.version_key(job.source.run, parent.number), parent.digest)


def _no_version(job: Job, parent: Parent, candidate: Candidate) -> _Committed:
    """Update the files cache alone: nothing but times differs."""
    job.state.replace_files(job.source.run, candidate.cached, candidate.uncached)
    if parent.number and not parent.is_step_back and not parent.is_closed:
        job.state.set_head(job.source.run, Head(parent.number, parent.digest))
    return _Committed()


def _root_of(
    job: Job, scanned: _Scanned, stored: _Stored, candidate: Candidate, why: tuple[str, ...], room: Room
) -> ManifestRoot:
    parent, writer = scanned.parent, scanned.writer
    return ManifestRoot(
        run=job.source.run,
        number=parent.next_number(job.source.run),
        created_ns=_created_ns(job, parent),
        previous=parent.previous,
        writer=f"mlsync {mlsync.__version__}",
        host=writer.host,
        directory=writer.directory,
        required_level=job.options.required_level,
        summary=_summary(candidate.entries, stored.stats),
        troubles=candidate.troubles,
        packs=[],
        segments=[],
        origin=writer.origin,
        top=scanned.top,
        # A note that most checkpoints are gone says all that the reason would.
        notes=(*(scanned.notes or why), *warn_of_unkept(job, stored.unkept)),
        room=room,
    )


def _with_room(job: Job, parent: Parent) -> tuple[Parent, Room]:
    """Return what the manifest says of later proofs and decisions: two listings, and reads where they have changed.

    The parent that is returned knows which numbers are used up.
    """
    # The first version of a run has none before it that could be proved, pinned or forgotten. A node that cannot read
    # leaves both out, as docs/format.md allows.
    if not parent.number or job.repository.is_write_only:
        return parent, None
    run = job.source.run
    decision, reserved = decided_now(job.repository, run, parent.seen_decision, job.monitor)
    parent = msgspec.structs.replace(parent, reserved=reserved)
    seen = seen_now(job.repository, run, parent.next_number(run), parent.seen_proofs, job.monitor)
    return parent, room_of({LATER_PROOFS: later_proofs_value(seen), DECISION: seen_value(decision)})


def _created_ns(job: Job, parent: Parent) -> int:
    """Return this clock's time, or just after the parent's where the two are nearly the same.

    A clock that was far off made dates that later versions need not follow, or all of them would be wrong with it.
    """
    now_ns = job.options.now_ns()
    ahead_ns = parent.created_ns - now_ns
    if ahead_ns < 0:
        return now_ns
    follows = ahead_ns <= _CLOCKS_APART_NS
    whose = "whose time is used" if follows else "and one of the two is wrong; this version has the time of this clock"
    job.warn(f"the clock is {ahead_ns / 1e9:.0f} s behind the last version's, {whose}")
    return parent.created_ns + 1 if follows else now_ns


def _summary(entries: tuple[Entry, ...], stats: WriteStats) -> Summary:
    files = [entry for entry in entries if entry.kind is EntryKind.FILE]
    proofs = [entry.proof for entry in files if entry.proof is not None]
    lowest = min(proofs, key=lambda proof: proof.level, default=None)
    return Summary(
        file_count=len(files),
        size_bytes=sum(entry.size_bytes for entry in files),
        new_bytes=stats.new_bytes,
        stored_bytes=stats.stored_bytes,
        checkpoint_count=len(proofs),
        lowest_level=0 if lowest is None else lowest.level,
        device="" if lowest is None else lowest.device,
    )


def _pending(manifest: Manifest) -> tuple[str, ...]:
    return tuple(
        display(entry.path)
        for entry in manifest.entries
        if entry.proof is not None and entry.proof.is_pending(manifest.root.required_level)
    )
