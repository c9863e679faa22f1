"""Make a version of a run: scan, read what changed, store what is new, prove it, and only then commit.

The order is the promise. Packs are durable before anything is proved; what is proved came back from the store; the
manifest is written last, and only with what was proved or what an earlier version had proved already.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Final

import mlsync
from mlsync.backup.archiver import Intake
from mlsync.backup.avoided import Avoided
from mlsync.backup.candidate import Candidate, Change
from mlsync.backup.chunk_index import Known
from mlsync.backup.files_cache import Recalled, encode_location, recall
from mlsync.backup.not_understood import newly_told, not_understood
from mlsync.backup.ownership import Claim, Here, Writer, next_writer
from mlsync.backup.parent import Base, load_entries
from mlsync.backup.presence import refuse_lost
from mlsync.backup.request import BackupOptions, BackupResult, Source
from mlsync.backup.shrunk import heed_loss, loss_of
from mlsync.backup.twin import find_twin
from mlsync.backup.uploads import finish_cut_off, sweep_abandoned
from mlsync.backup.whole_units import Clock, WholeUnits
from mlsync.errors import Damage, Error, SourceEmptied, Stopped, VersionMissing, VersionTaken
from mlsync.monitor import Monitor
from mlsync.proof.prover import Prover
from mlsync.proof.verdict import Verdict
from mlsync.proving.judge import Proving, content_of, proved_content, put_off
from mlsync.proving.load import Loading
from mlsync.repository.commit import Committed, commit
from mlsync.repository.manifest import ChunkRef, Entry, Manifest, ManifestRoot, Summary, Top, refs_of
from mlsync.repository.reader import ChunkReader
from mlsync.repository.repository import Repository
from mlsync.repository.tokens import EntryKind
from mlsync.repository.validation import is_sound_top
from mlsync.repository.writer import PackWriter
from mlsync.source.cached_file import CachedFile
from mlsync.source.paths import display
from mlsync.source.root import Root
from mlsync.source.scan import FileStat, Found, Scan, scan
from mlsync.source.state import Head, Made, State
from mlsync.source.takeover import end_takeover
from mlsync.versions.loaded_directories import LoadedDirectory, is_below

_LOG: Final = logging.getLogger(__name__)
_QUICKLY_STORED_BYTES: Final = 1 << 30
# As far as clocks of machines that set them differ, or are set back.
_CLOCKS_APART_NS: Final = 15 * 60 * 10**9


class VersionMaker:
    """Makes one version; its methods are the steps, in order. *avoided* are packs that are not relied on."""

    def __init__(
        self,
        repository: Repository,
        state: State,
        source: Source,
        open_prover: Callable[[], Prover],
        options: BackupOptions,
        monitor: Monitor,
        avoided: Avoided,
    ) -> None:
        self._repository = repository
        self._state = state
        self._source = source
        self._open_prover = open_prover
        self._options = options
        self._monitor = monitor
        self._avoided = avoided
        self._top: Top | None = None
        self._journal = None if options.uploads is None else repository.journal(options.uploads, source.run)

    def make(self, base: Base, result: BackupResult) -> None:
        """Do the steps, and say in *result* what was done; no version is made if nothing differs but times."""
        with Root.open_watched(self._source.directory) as root:
            self._make(root, base, result)

    def _make(self, root: Root, base: Base, result: BackupResult) -> None:
        _LOG.debug("scanning")
        tree = scan(root, self._source.exclude, keep_temporary=self._source.keep_temporary)
        result.left_out = tree.left_out
        self._top = _top_of(root)
        rows = self._state.cached_files(self._source.run)
        result.scanned_count = len(tree.found)
        _LOG.debug("found %d files and directories", result.scanned_count)
        # A row that cannot be read is as good as none.
        recalled = {path: one for path, row in rows.items() if (one := recall(row.entry)) is not None}
        load_entries(base, self._repository, self._source.run, recalled)
        writer = next_writer(self._here(tree, base, recalled), base, self._state)
        _refuse_emptied(tree, base, self._source)
        self._heed_loss(tree, base, result)
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        self._see_to_uploads()
        with self._open_prover() as prover:
            candidate = self._take_in(root, tree, rows, recalled, base, result, prover)
            stored_s, stored_cpu_s = time.monotonic(), time.process_time()
            change = self._prove(root, candidate, base, result, prover)
        result.store_seconds, result.prove_seconds = stored_s - began_s, time.monotonic() - stored_s
        result.store_cpu_seconds = stored_cpu_s - began_cpu_s
        result.prove_cpu_seconds = time.process_time() - stored_cpu_s
        if change is Change.NOTHING:
            self._remember(candidate)
        else:
            self._commit(candidate, base, result, writer)

    def _heed_loss(self, tree: Scan, base: Base, result: BackupResult) -> None:
        """Wait for checkpoints most of which are gone at once; that they stayed away is told, in the version too."""
        run, now_ns = self._source.run, self._options.now_ns()
        note = heed_loss(loss_of(tree, base), base, self._state, run, now_ns, accept=self._options.accept_loss)
        if note is not None:
            self._monitor.notice("warning", f"{run}: {note}")
            result.notes += (note,)

    def _here(self, tree: Scan, base: Base, recalled: Mapping[bytes, Recalled]) -> Here:
        """Return what tells whether this directory may go on with the run."""

        def before() -> dict[bytes, bytes]:
            if not base.before:
                return {}
            with suppress(Damage, VersionMissing):
                return _digests(self._repository.entries(self._repository.stored(self._source.run, base.before)))
            return {}

        remembered = _digests(one.entry for one in recalled.values() if one.entry is not None and not one.is_held)
        return Here(self._source.run, self._source.directory, tree, remembered, before)

    # ------------------------------------------------------------ read and store

    def _see_to_uploads(self) -> None:
        """Finish what the last backup was cut off from: its chunks are in the store then, and known."""
        if self._journal is None or self._options.uploads is None:
            return
        finish_cut_off(self._journal, self._repository, self._add_chunks, self._monitor)
        sweep_abandoned(self._options.uploads, self._repository, self._monitor, self._options.now_ns() / 1e9)

    def _take_in(
        self,
        root: Root,
        tree: Scan,
        rows: Mapping[bytes, CachedFile],
        recalled: Mapping[bytes, Recalled],
        base: Base,
        result: BackupResult,
        prover: Prover,
    ) -> Candidate:
        known = Known(base.refs(), self._state, self._repository, self._avoided, self._repository.tombstones())
        writer = self._repository.writer(known, journal=self._journal)
        changed = [found for found in tree.found if found.kind == "file" and found.link_to is None]
        changed = self._to_be_read(changed, rows, recalled)
        total_bytes = sum(found.stat.size_bytes for found in changed)
        with self._monitor.task(f"{self._source.run}: reading", total_bytes) as task:
            intake = Intake(
                root,
                rows,
                self._state.seed,
                writer,
                may_use=known.may_use,
                kind_of=base.kind_of,
                expect_proof=self._starting(prover, total_bytes),
                advance=self._remembering(writer, self._obeying(task.advance)),
                sleep=self._options.sleep,
            )
            candidate = Candidate(tree, rows, recalled, base, known, self._options.policy)
            try:
                for found in changed:
                    self._obey_stop()
                    candidate.take(found, intake)
                stats = writer.finish()
                writer.remember_durable(self._add_chunks)
            except BaseException as error:
                self._save_place(writer, error)
                raise
            finally:
                intake.close()
        self._avoided.wrote(stats.packs)
        candidate.settle(stats.packs)
        # New chunks are known by now; whoever lost the local state learns where all others are.
        if not base.is_remembered:
            self._add_chunks(candidate.refs())
        result.changed_count = len(changed)
        result.read_bytes, result.unkept = intake.read_bytes, intake.unkept
        result.new_bytes, result.stored_bytes = stats.new_bytes, stats.stored_bytes
        return candidate

    def _to_be_read(
        self, files: list[Found], rows: Mapping[bytes, CachedFile], recalled: Mapping[bytes, Recalled]
    ) -> list[Found]:
        """Return those whose bytes are not known, or are to be judged anew."""
        changed = {found.path for found in files if not self._stands(rows, recalled, found)}
        stirred = _stirred(recalled, changed, {found.path for found in files})
        changed |= {path for path, one in recalled.items() if one.refused_in in stirred}
        return [found for found in files if found.path in changed]

    def _stands(self, rows: Mapping[bytes, CachedFile], recalled: Mapping[bytes, Recalled], found: Found) -> bool:
        """Whether what is remembered of a file is true of it now, and can be had from the store."""
        row, one = rows.get(found.path), recalled.get(found.path)
        if row is None or one is None or not row.is_same(found) or not self._options.policy.holds(one.refused_by):
            return False
        return one.entry is None or self._avoided.unfit.isdisjoint(ref.pack for ref in one.entry.chunks)

    def _obey_stop(self) -> None:
        if self._options.stop():
            raise Stopped("the backup was asked to stop", where=self._source.run)

    def _obeying(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """Return *advance*, as a safe point: a single file may take minutes."""

        def advanced(amount: int) -> None:
            advance(amount)
            self._obey_stop()

        return advanced

    def _remembering(self, writer: PackWriter, advance: Callable[[int], None]) -> Callable[[int], None]:
        """Return *advance*, and have remembered meanwhile what is durable: a process can end without a word."""

        def advanced(amount: int) -> None:
            writer.remember_durable(self._add_chunks)
            advance(amount)

        return advanced

    def _save_place(self, writer: PackWriter, error: BaseException) -> None:
        """Keep hold of what is durable by now: the next backup need not send it again."""
        if isinstance(error, Stopped):
            with suppress(Error):
                writer.finish()
        writer.abort()
        writer.remember_durable(self._add_chunks)

    # ------------------------------------------------------------ prove

    def _starting(self, prover: Prover, total_bytes: int) -> Callable[[], None]:
        """Return what has the prover make ready while files are stored, so that nobody waits for torch afterwards.

        Not for what takes long to store: a process that waits on a GPU keeps some of its memory from the trainer.
        """
        is_quick = self._options.read_back != "none" and total_bytes <= _QUICKLY_STORED_BYTES
        return prover.start if is_quick else lambda: None

    def _prove(self, root: Root, candidate: Candidate, base: Base, result: BackupResult, prover: Prover) -> Change:
        with self._repository.reader() as reader:
            units = WholeUnits(candidate, reader, root, Clock(self._options.now_ns, self._sleep))
            units.hold_back()
            for text in units.said:
                self._monitor.notice("warning", f"{self._source.run}: {text}")
            candidate.forget_loads()
            if self._options.read_back == "none":
                self._put_off(candidate, base)
            else:
                self._read_back(candidate, units, result, reader, prover)
                units.follow_refusals()
                units.compare_steps()
            units.look_again()
        result.troubles = candidate.troubles()
        return candidate.change()

    def _sleep(self, seconds: float) -> None:
        """Sleep, but for no longer than a second without a look at whether to stop."""
        while seconds > 0:
            self._obey_stop()
            self._options.sleep(min(seconds, 1.0))
            seconds -= 1.0

    def _put_off(self, candidate: Candidate, base: Base) -> None:
        """Leave every new checkpoint to be proved later, but for what was proved under another name."""
        proved = proved_content(base.entries, self._options.required_level)
        for entry, is_checkpoint in candidate.unproved():
            if is_checkpoint:
                candidate.judged(entry, proved.get(content_of(entry, candidate.by_path)) or put_off())

    def _read_back(
        self, candidate: Candidate, units: WholeUnits, result: BackupResult, reader: ChunkReader, prover: Prover
    ) -> None:
        known = proved_content(candidate.base.entries, self._options.required_level)
        proving = Proving(reader, prover, known, Loading.of(self._options.loading, reader, self._repository))
        new = candidate.unproved()
        old = candidate.old(new) if self._options.read_back == "all" else []
        old = [entry for entry in old if not self._avoided.is_cold(entry)]
        total_bytes = sum(entry.size_bytes for entry, _ in new) + sum(entry.size_bytes for entry in old)
        with self._monitor.task(f"{self._source.run}: proving", total_bytes) as task:
            advance = self._obeying(task.advance)
            proving.read_back([*old, *(entry for entry, is_checkpoint in new if not is_checkpoint)], advance)
            checkpoints = [entry for entry, is_checkpoint in new if is_checkpoint]
            paths = candidate.moved_parts() | {entry.path for entry in checkpoints}
            wholes = proving.wholes(paths, candidate.by_path)
            for entry in checkpoints:
                self._obey_stop()
                judged = proving.judge(entry, candidate.by_path, advance, wholes)
                self._wait_if_asked(judged)
                candidate.judged(entry, judged)
            for whole in wholes.found:
                self._obey_stop()
                if not candidate.is_in_trouble(whole):
                    self._take_whole(candidate, units, whole, proving.judge_whole(whole, candidate.by_path, advance))
        result.read_back_bytes = proving.read_bytes

    def _take_whole(
        self, candidate: Candidate, units: WholeUnits, whole: LoadedDirectory, judged: Mapping[bytes, Verdict]
    ) -> None:
        """Take in what loading a directory as one says of each checkpoint in it."""
        for path, one in judged.items():
            self._wait_if_asked(one)
            if one.refused is not None:
                # Of one as of all.
                units.refuse(whole, one)
                return
            candidate.judged(candidate.by_path[path], one)

    def _wait_if_asked(self, judged: Verdict) -> None:
        """Make no version where the proof is to be had some other time; what was stored is used then."""
        short = judged.proof.level < self._options.required_level
        if short and judged.unavailable is not None and self._options.wait_for_proof:
            raise judged.unavailable

    # ------------------------------------------------------------ commit

    def _commit(self, candidate: Candidate, base: Base, result: BackupResult, writer: Writer) -> None:
        entries = candidate.entries()
        known = candidate.known
        refuse_lost(self._repository, known.old_refs(refs_of(entries)), self._repository.tombstones())
        root = ManifestRoot(
            run=self._source.run,
            number=base.next_number(self._source.run),
            created_ns=self._created_ns(base),
            previous=base.previous,
            writer=f"mlsync {mlsync.__version__}",
            host=writer.host,
            directory=writer.directory,
            required_level=self._options.required_level,
            summary=_summary(entries, result),
            troubles=result.troubles,
            packs=[],
            segments=[],
            origin=writer.origin,
            top=self._top,
            notes=result.notes,
        )
        manifest = Manifest(root, entries)
        self._tell_clamped(candidate)
        self._tell_writer(manifest, base, writer)
        self._note_writer(manifest, base)
        try:
            committed = commit(self._repository, manifest, known)
        except VersionTaken as error:
            if error.is_planted:
                # No listing need show it: a store may hide what is no object.
                self._state.add_unreadable(self._source.run, {root.number: ""})
            raise
        self._remember(candidate, manifest, committed)
        end_takeover(self._state.directory, self._source.run, self._source.directory)
        result.version = root.number
        result.size_bytes = root.summary.size_bytes
        result.stored_bytes += committed.stored_bytes
        result.lowest_level, result.device = root.summary.lowest_level, root.summary.device
        result.checkpoint_count = root.summary.checkpoint_count
        result.pending = _pending(manifest)
        self._tell_not_understood(manifest, result)
        # Right after, too: a prune that began before the commit did not know of it.
        known.wrote(committed.packs)
        refuse_lost(self._repository, known.foreign_refs([*refs_of(entries), *committed.body_refs]), set())

    def _tell_writer(self, manifest: Manifest, base: Base, writer: Writer) -> None:
        """Tell when the run goes on from another place, or begins with what another run holds already."""
        root = manifest.root
        if writer.claim is Claim.FIRST:
            twin = find_twin(self._repository, manifest.entries, root.summary)
            if twin is not None:
                text = f"{root.run}: this new run holds the same files as version {twin.number} of run {twin.run!r}"
                text += f", from {display(twin.directory)} on {twin.host}; if it is that run, set run = "
                self._monitor.notice("warning", f'{text}"{twin.run}" under [[watch]]')
        elif (base.host, base.directory) != (writer.host, writer.directory):
            text = f"{root.run}: goes on from {display(writer.directory)} on {writer.host}, where until version "
            text += f"{base.number} it was {display(base.directory)} on {base.host}: {writer.claim.value}"
            self._monitor.notice("warning", text)

    def _tell_not_understood(self, manifest: Manifest, result: BackupResult) -> None:
        """Name what looks like a model and was not looked into, each kind once in the life of a run."""
        found = not_understood(manifest.entries, self._source.not_models)
        result.not_understood = tuple(found)
        text = newly_told(found, self._state, self._source.run, self._options.now_ns())
        if text is not None:
            self._monitor.notice("warning", f"{self._source.run}: {text}")

    def _note_writer(self, manifest: Manifest, base: Base) -> None:
        """Have the local state know the version before it exists: who dies right after made it all the same."""
        last, made = (
            Made(base.number, base.created_ns),
            Made(manifest.root.number, manifest.root.created_ns),
        )
        self._state.begin_version(self._source.run, self._source.directory, manifest.root.origin.id, last, made)

    def _tell_clamped(self, candidate: Candidate) -> None:
        """Name what comes back with another time than it has: some file systems have times far beyond any other."""
        paths = candidate.newly_clamped()
        if paths:
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            what = f"{self._source.run}: {display(paths[0])}{more}: modified outside of the years 1677 to 2262"
            self._monitor.notice("warning", f"{what}, which a version cannot hold; the nearest that it can is kept")

    def _created_ns(self, base: Base) -> int:
        """Return this clock's time, or just after the last version's where the two are nearly the same.

        A clock that was far off made dates that later ones need not follow: else all of them would be wrong with it.
        """
        now_ns = self._options.now_ns()
        ahead_ns = base.created_ns - now_ns
        if ahead_ns < 0:
            return now_ns
        follows = ahead_ns <= _CLOCKS_APART_NS
        whose = (
            "whose time is used" if follows else "and one of the two is wrong; this version has the time of this clock"
        )
        text = f"{self._source.run}: the clock is {ahead_ns / 1e9:.0f} s behind the last version's, {whose}"
        self._monitor.notice("warning", text)
        return base.created_ns + 1 if follows else now_ns

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
            if _pending(manifest):
                self._state.add_pending(self._source.run, manifest.root.number)
            self._state.set_head(self._source.run, Head(manifest.root.number, committed.digest))
        elif candidate.base.number and not candidate.base.is_step_back:
            self._state.set_head(self._source.run, Head(candidate.base.number, candidate.base.digest))

    def _add_chunks(self, refs: Iterable[ChunkRef]) -> None:
        self._state.add_chunks((ref.name, ref.pack, encode_location(ref)) for ref in refs)


def _digests(entries: Iterable[Entry]) -> dict[bytes, bytes]:
    return {entry.path: entry.digest for entry in entries if entry.kind is EntryKind.FILE}


def _top_of(root: Root) -> Top | None:
    """Return what is kept of the directory itself; nothing if it has numbers that no version holds."""
    found = FileStat.of(os.fstat(root.descriptor))
    top = Top(stat.S_IMODE(found.mode), found.uid, found.gid, found.mtime_ns)
    return top if is_sound_top(top) else None


def _refuse_emptied(tree: Scan, base: Base, source: Source) -> None:
    """Refuse a version without files after one with files: rather a disk that is not mounted than a wish."""
    if any(found.kind == "file" for found in tree.found) or tree.problems:
        return
    if any(entry.kind is EntryKind.FILE for entry in base.entries.values()):
        what = f"the directory holds no file, and version {base.number} does"
        advice = f"version {base.number} stays the last one; put a file there to go on"
        raise SourceEmptied(what, where=display(source.directory), advice=advice)


def _stirred(
    recalled: Mapping[bytes, Recalled], changed: AbstractSet[bytes], present: AbstractSet[bytes]
) -> set[bytes]:
    """Return the directories that were refused as one and are another one by now: all of each is looked at again."""
    refused = {path: one.refused_in for path, one in recalled.items() if one.refused_in is not None}
    # A new file may be what was missing.
    moved = {path for path in changed if path in refused or path not in recalled} | (refused.keys() - present)
    return {directory for directory in set(refused.values()) if any(is_below(path, directory) for path in moved)}


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
        if entry.proof is not None and entry.proof.is_pending(manifest.root.required_level)
    )
