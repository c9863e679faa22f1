"""Prove the records: leave out what is not complete, read back what is new, and refuse what does not load."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from mlsync.backup.checkpoints.whole_units import WholeUnits
from mlsync.backup.deadline import OutOfTime
from mlsync.backup.early_proofs import EarlyProofs
from mlsync.backup.files_cache import FilesCache
from mlsync.backup.records import Records
from mlsync.backup.request import Job
from mlsync.backup.storing.source_reader import PlacesIn, SourceReader, came_back
from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.courtesy.pressure import PACE
from mlsync.proof.prover import Prover
from mlsync.proof.verdict import Verdict
from mlsync.proving.judge import Proving, content_of, proved_content, put_off
from mlsync.proving.load import Loading
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.reader import ChunkReader, ReadBase
from mlsync.source.root import Root
from mlsync.versions.loaded_directories import LoadedDirectory

_COLD: Final = "not read back yet: some of it lies in cold storage"


def prove(
    job: Job,
    root: Root,
    records: Records,
    prover: Prover,
    cache: FilesCache,
    early: EarlyProofs,
    *,
    read_base: ReadBase | None = None,
) -> int:
    """Prove what the records hold, as far as the options say; return how many bytes were read back.

    Afterwards the records hold complete checkpoints that load, as far as they were proved. *cache* says what came back
    from the store before, and *early* what was proved while it was stored. *read_base* may have bases of differences on
    this machine. They came back from the store when they were proved, and nothing is fetched for them again.
    """
    read_back_bytes = 0
    with _reader(job, root, records, cache, read_base) as reader:
        units = WholeUnits(job, records, reader, root)
        let_in = units.hold_back()
        unloaded = records.forget_loads()
        if job.options.proves_later:
            _put_off(job, records)
        else:
            try:
                read_back_bytes = _read_back(job, records, units, unloaded, reader, prover, early)
            except OutOfTime:
                read_back_bytes = reader.read_bytes
                early.close()
                _put_off(job, records)
            units.follow_refusals()
            let_in = units.compare_steps(let_in)
        units.look_again(let_in)
    return read_back_bytes + early.read_bytes


def _reader(job: Job, root: Root, records: Records, cache: FilesCache, read_base: ReadBase | None) -> ChunkReader:
    """Return what reads the chunks of the records: what came back before is in the source, unless all is to come back.

    A node that only writes opens those alone that it has just stored.
    """
    repository = job.repository
    is_closed = isinstance(repository.keys, WriteOnlyKeys)
    new = [entry for entry, _ in records.unproved()]
    found: set[ChunkRef] = set()
    if job.options.read_back == "new" and not job.options.proves_later:
        found = came_back(new, records.parent, cache, repository)
    if not found and not is_closed:
        return repository.reader(read_base)
    places = PlacesIn(list(records.entries.values())) if is_closed else PlacesIn(new, found)
    return SourceReader(repository, found, places, root, read_base)


def _put_off(job: Job, records: Records) -> None:
    """Leave every new checkpoint to be proved later, except content that was proved under another name.

    What this backup has proved before it had to hurry stays as it was judged.
    """
    proved = proved_content(records.parent.entries, job.options.required_level)
    by_choice = job.options.read_back == "none"
    why = "not read back yet, as proof.read_back says" if by_choice else "not read back yet: the machine was to end"
    for entry, is_checkpoint in records.unproved():
        if is_checkpoint and (by_choice or entry.proof is None):
            records.judge(entry.path, proved.get(content_of(entry, records.entries)) or put_off(why))


def _read_back(
    job: Job,
    records: Records,
    units: WholeUnits,
    unloaded: AbstractSet[bytes],
    reader: ChunkReader,
    prover: Prover,
    early: EarlyProofs,
) -> int:
    """Read back what is new, prove the checkpoints in it, and load the directories that are loaded as one."""
    known = proved_content(records.parent.entries, job.options.required_level)
    proving = Proving(reader, prover, known, Loading.of(job.options.loading, reader, job.repository))
    new = records.unproved()
    checkpoints = [entry for entry, is_checkpoint in new if is_checkpoint]
    plain = [entry for entry, is_checkpoint in new if not is_checkpoint]
    if job.options.read_back == "all":
        paths = {entry.path for entry, _ in new}
        files = [entry for _, entry in sorted(records.entries.items()) if entry.kind is EntryKind.FILE]
        plain = [e for e in files if e.path not in paths and not job.avoided.is_cold(e)] + plain
    job.avoided.look_for_reused((*plain, *checkpoints), job.repository, job.monitor)
    plain = [entry for entry in plain if not job.avoided.is_reused(entry)]
    total_bytes = sum(entry.size_bytes for entry in (*plain, *checkpoints))
    with job.monitor.task(f"{job.source.run}: proving", total_bytes) as task:

        def advance(amount: int) -> None:
            task.advance(amount)
            job.check_proving()

        if early.has_begun:
            task.say("what was begun while it was stored")
        early.wait(job.check_proving)
        proving.say, proving.early = task.say, early.verdict
        prover.on_tick = job.check_proving
        proving.read_back(plain, advance)
        records.note_read_back(plain)
        moved = records.moved_parts() | unloaded | {entry.path for entry in checkpoints}
        wholes = proving.wholes(moved, records.entries)
        for entry in checkpoints:
            job.check_proving()
            PACE.rest(job.check_proving)
            if job.avoided.is_reused(entry):
                # A proof of the same content under another name holds for it too.
                records.judge(entry.path, known.get(content_of(entry, records.entries)) or put_off(_COLD))
                continue
            judged = proving.judge(entry, records.entries, advance, wholes)
            _wait_if_asked(job, judged)
            records.judge(entry.path, judged)
        for whole in wholes.found:
            job.check_proving()
            if not records.is_mixed(whole):
                _judge_whole(job, records, units, whole, proving.judge_whole(whole, records.entries, advance))
    return proving.read_bytes


def _judge_whole(
    job: Job, records: Records, units: WholeUnits, whole: LoadedDirectory, judged: Mapping[bytes, Verdict]
) -> None:
    """Record what loading a directory as one says of each checkpoint in it."""
    for path, one in judged.items():
        _wait_if_asked(job, one)
        if one.refused is not None:
            # If one is refused, all are.
            units.refuse(whole, one)
            return
        records.judge(path, one)


def _wait_if_asked(job: Job, judged: Verdict) -> None:
    """Make no version yet if a proof is unavailable and the user waits for it; the next backup uses what was stored."""
    is_short = judged.proof.level < job.options.required_level
    if is_short and judged.unavailable is not None and job.options.wait_for_proof:
        raise judged.unavailable
