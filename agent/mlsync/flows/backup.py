"""Back up one run: scan, read what changed, store what is new, prove it, and only then commit a version.

The order is the promise. Packs are durable before anything is proved; what is proved came back from the store; the
manifest is written last, and only with what was proved or what an earlier version had proved already.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import mlsync
from mlsync.errors import Error, ObjectDamaged, ObjectMissing, SourceEmptied, Stopped
from mlsync.flows.candidate import Candidate, Change, is_same_row
from mlsync.flows.history import Base, find_base, load_entries
from mlsync.flows.intake import Intake
from mlsync.flows.known import Known, refs_of
from mlsync.flows.presence import refuse_lost
from mlsync.flows.proving import Judged, Proving
from mlsync.flows.recall import Recalled, encode_location, recall, recall_trouble
from mlsync.monitor import Monitor
from mlsync.proof.prove import Prover
from mlsync.repository import names
from mlsync.repository.manifest import ChunkRef, Entry, Manifest, Summary, Trouble
from mlsync.repository.repository import Committed, Repository
from mlsync.repository.tokens import EntryKind
from mlsync.repository.writer import PackWriter
from mlsync.source.paths import display
from mlsync.source.scan import Found, Scan, scan
from mlsync.source.state import Head, Remembered, State, is_unchanged


@dataclass(frozen=True, slots=True)
class Source:
    """A watched directory and the run that it belongs to."""

    run: str
    directory: bytes
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """How a backup is done; *stop* is asked at safe points."""

    required_level: int = 3
    wait_for_proof: bool = False
    stop: Callable[[], bool] = lambda: False
    sleep: Callable[[float], None] = time.sleep
    now_ns: Callable[[], int] = time.time_ns


@dataclass(slots=True)
class BackupResult:
    """What a backup did: *version* is 0 where nothing had changed since *previous*."""

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
    seconds: float = 0.0
    troubles: tuple[Trouble, ...] = ()
    pending: tuple[str, ...] = field(default=())


def backup(
    repository: Repository, state: State, source: Source, prover: Prover, options: BackupOptions, monitor: Monitor
) -> BackupResult:
    """Return what was done; the version, if one was made, is committed and proved as its manifest says.

    Raises ``SourceMissing``, ``SourceEmptied``, ``HistoryRolledBack``, ``VersionTaken``, ``Stopped`` or a store's or
    state's error; no version was made then, and what had been stored is used by the next backup.
    """
    lost: set[bytes] = set()
    while True:
        try:
            return _Backup(repository, state, source, prover, options, monitor, lost).run()
        except (ObjectMissing, ObjectDamaged) as error:
            # A pack that was relied on is lost or damaged: what lies in it is stored once more, from the source.
            pack_id = names.parse_pack(error.where or "")
            if pack_id is None or pack_id in lost:
                raise
            monitor.notice("error", f"{error}; what this run needs of it is stored again")
            state.forget_packs([pack_id])
            lost.add(pack_id)


class _Backup:
    """One backup; its methods are the steps, in order."""

    def __init__(
        self,
        repository: Repository,
        state: State,
        source: Source,
        prover: Prover,
        options: BackupOptions,
        monitor: Monitor,
        lost: set[bytes],
    ) -> None:
        self._repository = repository
        self._state = state
        self._source = source
        self._prover = prover
        self._options = options
        self._monitor = monitor
        self._lost = lost
        self._started_s = time.monotonic()

    def run(self) -> BackupResult:
        """Do the steps."""
        tree = scan(self._source.directory, self._source.exclude)
        rows = self._state.remembered(self._source.run)
        base = find_base(self._repository, self._state, self._source.run)
        result = BackupResult(self._source.run, base.number, scanned_count=len(tree.found))
        if self._is_untouched(tree, rows, base):
            result.troubles = _troubles(rows)
            return self._finished(result)
        # A row that cannot be read is as good as none.
        recalled = {path: one for path, row in rows.items() if (one := recall(row.entry)) is not None}
        load_entries(base, self._repository, self._source.run, recalled)
        _refuse_emptied(tree, base, self._source)
        candidate = self._take_in(tree, rows, recalled, base, result)
        change = self._prove(candidate, base, result)
        if change is Change.NOTHING:
            self._remember(candidate)
            return self._finished(result)
        self._commit(candidate, base, result)
        return self._finished(result)

    # ------------------------------------------------------------ has anything changed?

    def _is_untouched(self, tree: Scan, rows: Mapping[bytes, Remembered], base: Base) -> bool:
        if self._lost or tree.problems or not base.is_remembered or len(rows) != len(tree.found):
            return False
        return all((row := rows.get(found.path)) is not None and _same(row, found) for found in tree.found)

    # ------------------------------------------------------------ read and store

    def _take_in(
        self,
        tree: Scan,
        rows: Mapping[bytes, Remembered],
        recalled: Mapping[bytes, Recalled],
        base: Base,
        result: BackupResult,
    ) -> Candidate:
        known = Known(base.refs(), self._state, self._repository, self._lost, self._repository.tombstones())
        writer = self._repository.writer(known)
        changed = [found for found in tree.found if found.kind == "file" and found.link_to is None]
        changed = [found for found in changed if not self._stands(rows, recalled, found)]
        total_bytes = sum(found.stat.size_bytes for found in changed)
        with self._monitor.task(f"{self._source.run}: reading", total_bytes) as task:
            intake = Intake(
                self._source.directory,
                rows,
                self._state.seed,
                writer,
                may_use=known.may_use,
                advance=self._obeying(task.advance),
                sleep=self._options.sleep,
            )
            candidate = Candidate(tree, rows, recalled, base, known)
            try:
                for found in changed:
                    self._obey_stop()
                    candidate.take(found, intake)
                stats = writer.finish()
            except BaseException as error:
                self._save_place(writer, error)
                raise
            finally:
                intake.close()
        candidate.settle(stats.packs)
        # By now, not at the commit: whatever comes between, what is durable is not sent a second time.
        self._add_chunks(candidate.refs())
        result.changed_count = len(changed)
        result.read_bytes = intake.read_bytes
        result.new_bytes, result.stored_bytes = stats.new_bytes, stats.stored_bytes
        return candidate

    def _stands(self, rows: Mapping[bytes, Remembered], recalled: Mapping[bytes, Recalled], found: Found) -> bool:
        """Whether what is remembered of a file is true of it now, and can be had from the store."""
        row, one = rows.get(found.path), recalled.get(found.path)
        if row is None or one is None or not _same(row, found):
            return False
        return one.entry is None or self._lost.isdisjoint(ref.pack for ref in one.entry.chunks)

    def _obey_stop(self) -> None:
        if self._options.stop():
            raise Stopped("the backup was asked to stop", where=self._source.run)

    def _obeying(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """Return *advance*, as a safe point: a single file may take minutes."""

        def advanced(amount: int) -> None:
            advance(amount)
            self._obey_stop()

        return advanced

    def _save_place(self, writer: PackWriter, error: BaseException) -> None:
        """Keep hold of what is durable by now: the next backup need not send it again."""
        if isinstance(error, Stopped):
            with suppress(Error):
                writer.finish()
        self._add_chunks(writer.abort())

    # ------------------------------------------------------------ prove

    def _prove(self, candidate: Candidate, base: Base, result: BackupResult) -> Change:
        with self._repository.reader() as reader:
            # A proof that fell short is no answer for another file of the same content.
            proved = (e for e in base.entries.values() if e.proof and e.proof.level >= self._options.required_level)
            proving = Proving(reader, self._prover, proved)
            new = candidate.unproved()
            total_bytes = sum(entry.size_bytes for entry, _ in new)
            with self._monitor.task(f"{self._source.run}: proving", total_bytes) as task:
                advance = self._obeying(task.advance)
                proving.read_back([entry for entry, is_checkpoint in new if not is_checkpoint], advance)
                for entry in [entry for entry, is_checkpoint in new if is_checkpoint]:
                    self._obey_stop()
                    judged = proving.judge(entry, advance)
                    self._wait_if_asked(judged)
                    candidate.judged(entry, judged)
            result.read_back_bytes = proving.read_bytes
        result.troubles = candidate.troubles()
        return candidate.change()

    def _wait_if_asked(self, judged: Judged) -> None:
        """Make no version where the proof is to be had some other time; what was stored is used then."""
        short = judged.proof is not None and judged.proof.level < self._options.required_level
        if short and judged.unavailable is not None and self._options.wait_for_proof:
            raise judged.unavailable

    # ------------------------------------------------------------ commit

    def _commit(self, candidate: Candidate, base: Base, result: BackupResult) -> None:
        entries = candidate.entries()
        known = candidate.known
        refuse_lost(self._repository, known.old_refs(refs_of(entries)), self._repository.tombstones())
        manifest = Manifest(
            run=self._source.run,
            number=base.number + 1,
            created_ns=self._created_ns(base),
            previous=base.previous,
            writer=f"mlsync {mlsync.__version__}",
            host=socket.gethostname(),
            directory=self._source.directory,
            required_level=self._options.required_level,
            summary=_summary(entries, result),
            troubles=result.troubles,
            entries=entries,
        )
        committed = self._repository.commit(manifest, known)
        self._remember(candidate, manifest, committed)
        result.version = manifest.number
        result.size_bytes = manifest.summary.size_bytes
        result.stored_bytes += committed.stored_bytes
        result.lowest_level, result.device = manifest.summary.lowest_level, manifest.summary.device
        result.checkpoint_count = manifest.summary.checkpoint_count
        result.pending = _pending(manifest)
        # Right after, too: a prune that began before the commit did not know of it.
        known.wrote(committed.packs)
        refuse_lost(self._repository, known.foreign_refs([*refs_of(entries), *committed.body_refs]), set())

    def _created_ns(self, base: Base) -> int:
        now_ns = self._options.now_ns()
        if now_ns <= base.created_ns:
            behind_s = (base.created_ns - now_ns) / 1e9
            text = f"{self._source.run}: the clock is {behind_s:.0f} s behind the last version's, whose time is used"
            self._monitor.notice("warning", text)
        return max(now_ns, base.created_ns + 1)

    # ------------------------------------------------------------ remember

    def _remember(
        self, candidate: Candidate, manifest: Manifest | None = None, committed: Committed | None = None
    ) -> None:
        changed, removed = candidate.rows()
        self._state.replace_files(self._source.run, changed, removed)
        if committed is not None:
            self._add_chunks(committed.body_refs)
        # Last: rows of a version that the head does not name are not believed.
        if manifest is not None and committed is not None:
            self._state.set_head(self._source.run, Head(manifest.number, committed.digest))
        elif candidate.base.number:
            self._state.set_head(self._source.run, Head(candidate.base.number, candidate.base.digest))

    def _add_chunks(self, refs: Iterable[ChunkRef]) -> None:
        self._state.add_chunks((ref.name, ref.pack, encode_location(ref)) for ref in refs)

    def _finished(self, result: BackupResult) -> BackupResult:
        result.seconds = time.monotonic() - self._started_s
        return result


def _troubles(rows: Mapping[bytes, Remembered]) -> tuple[Trouble, ...]:
    """Return what is still wrong with files that are as they were."""
    troubles = (recall_trouble(rows[path].entry) for path in sorted(rows))
    return tuple(trouble for trouble in troubles if trouble is not None)


def _same(row: Remembered, found: Found) -> bool:
    if found.kind == "file" and found.link_to is None:
        return is_unchanged(row, found.stat)
    return is_same_row(row, found)


def _refuse_emptied(tree: Scan, base: Base, source: Source) -> None:
    """Refuse a version without files after one with files: rather a disk that is not mounted than a wish."""
    if any(found.kind == "file" for found in tree.found) or tree.problems:
        return
    if any(entry.kind is EntryKind.FILE for entry in base.entries.values()):
        what = f"the directory holds no file, and version {base.number} does"
        advice = f"version {base.number} stays the last one; put a file there to go on"
        raise SourceEmptied(what, where=display(source.directory), advice=advice)


def _summary(entries: tuple[Entry, ...], result: BackupResult) -> Summary:
    files = [entry for entry in entries if entry.kind is EntryKind.FILE]
    proofs = [entry.proof for entry in files if entry.proof is not None]
    lowest = min(proofs, key=lambda proof: proof.level, default=None)
    return Summary(
        file_count=len(files),
        size_bytes=sum(entry.size_bytes for entry in files),
        new_bytes=result.new_bytes,
        stored_bytes=result.stored_bytes,
        checkpoint_count=len(proofs),
        lowest_level=0 if lowest is None else lowest.level,
        device="" if lowest is None else lowest.device,
    )


def _pending(manifest: Manifest) -> tuple[str, ...]:
    return tuple(
        display(entry.path)
        for entry in manifest.entries
        if entry.proof is not None and entry.proof.level < manifest.required_level
    )
