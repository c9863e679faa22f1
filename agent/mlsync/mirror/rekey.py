"""Copy versions into another repository, which has another master key: for giving a run to another team.

Each chunk is opened, compared with its name, and sealed anew under the other key, with the name that it has there. It
is not compressed again. A version keeps its number, its files, their digests, and its proofs: these say what was proved
of the same bytes, and when. What was proved later is summed up in one later proof; evaluations come along; pins and
what was forgotten do not. The manifest says, sealed, of which version of which repository it is a copy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec

import mlsync
from mlsync.errors import OF_OBJECT, Error, NotFound, ObjectMissing, RekeyRefused, RunMissing, Stopped, WriteOnly
from mlsync.mirror.account import CopyOptions, CopyResult, Lag, NotCopied
from mlsync.monitor import Monitor, Task
from mlsync.repository import names
from mlsync.repository.commit import commit
from mlsync.repository.encoding.room import Room, room_of
from mlsync.repository.history.decisions import find_decided
from mlsync.repository.history.seen_decision import ROOM_NAME as DECISION
from mlsync.repository.history.seen_decision import half, seen_decision, seen_value
from mlsync.repository.later_proof import LaterProof, ProvedFile
from mlsync.repository.listing import Run, runs
from mlsync.repository.manifest import ChunkRef, Entry, Manifest, Previous, refs_of
from mlsync.repository.pack.resealing import Resealer
from mlsync.repository.proof_links import LATER_PROOFS, SeenProofs, later_proofs_value, seen_proofs
from mlsync.repository.readable import newest_readable
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.values import storable
from mlsync.versions.proof_status import summed, with_proofs

#: In the room of a root: the id of the repository that it was copied from, and half of its manifest's digest there.
COPIED_FROM: Final = "copied-from"
_NOTE: Final = "copied from another repository, with the proofs that were made there"
_NS: Final = 10**9


def copy_rekeyed(source: Repository, target: Repository, options: CopyOptions, monitor: Monitor) -> CopyResult:
    """Copy versions of *source* into the repository *target*; return what was copied.

    Raise ``RekeyRefused`` before anything is written if the two are one, or a run there has other versions.
    """
    if source.is_write_only or target.is_write_only:
        raise WriteOnly("a node that can only write cannot copy to another key: it has to open what it copies")
    if source.repository_id == target.repository_id:
        what = "this is the repository itself, or a mirror of it, and has the same key"
        raise RekeyRefused(what, where=target.store.url, advice="leave out --rekey, or make another one: mlsync init")
    target.refuse_retired()
    result = CopyResult(is_dry=options.dry_run)
    chosen = [_RekeyedRun.of(source, target, run, options) for run in _runs(source, options)]
    for run in chosen:
        result.there_count += len(run.there)
        result.versions += [(run.name, number) for number in run.missing] if options.dry_run else []
        result.left_out += [NotCopied(run.name, number, _OLDER) for number in run.too_old]
    if options.dry_run:
        return result
    total = sum(len(run.missing) for run in chosen)
    with monitor.task("sealing anew", total, unit="versions") as task:
        for run in chosen:
            if run.missing:
                _RunCopier(source, target, run, options, result).copy(task)
    for run in chosen:
        lacking = {one.number for one in result.left_out if one.run == run.name}
        newest = max(run.wanted, default=0)
        if newest:
            result.lag[run.name] = Lag(newest, max(run.wanted - lacking, default=0), len(lacking), 0.0)
    return result


_OLDER: Final = "the run has newer versions there, and a version never comes between others"


def _runs(source: Repository, options: CopyOptions) -> list[Run]:
    found = runs(source)
    missing = sorted(set(options.runs or ()) - {run.name for run in found})
    if missing:
        raise RunMissing(f"no run named {missing[0]!r} in the repository", where=source.store.url)
    return [run for run in found if options.runs is None or run.name in options.runs]


@dataclass(slots=True)
class _RekeyedRun:
    """A run: the versions that are wanted, those that are there by now, and the newest there."""

    name: str
    wanted: set[int]
    there: set[int]
    missing: list[int]
    too_old: list[int]
    newest: StoredVersion | None

    @classmethod
    def of(cls, source: Repository, target: Repository, run: Run, options: CopyOptions) -> _RekeyedRun:
        """Look at a run in both repositories; raise ``RekeyRefused`` if it has other versions there."""
        decided = find_decided(source, run.name)
        asked = options.versions.get(run.name)
        there = {number for number in run.numbers if decided.gone_as(number) is None}
        wanted = there & set(asked) if asked is not None else there - decided.forgotten.keys()
        newest = newest_readable(target, run.name)
        in_target = set(target.numbers(run.name))
        for number in sorted(in_target):
            _refuse_other(source, target, run.name, number)
        missing = sorted(wanted - in_target)
        last = 0 if newest is None else newest.root.number
        return cls(
            run.name,
            wanted,
            wanted & in_target,
            [number for number in missing if number > last],
            [number for number in missing if number < last],
            newest,
        )


def _refuse_other(source: Repository, target: Repository, run: str, number: int) -> None:
    """Raise ``RekeyRefused`` if a version there is no copy of the one of that number here."""
    try:
        stored = target.stored(run, number)
    except Error:
        return  # no version
    said = (stored.root.room or {}).get(COPIED_FROM)
    if isinstance(said, list) and len(said) == 2 and said[0] == source.repository_id:  # noqa: PLR2004 - id and half
        try:
            if half(source.stored(run, number).digest) == said[1]:
                return
        except Error:
            return  # removed here since
    what = f"run {run!r} has a version {number} there that is no copy of the one here"
    raise RekeyRefused(what, where=target.store.url, advice="give the run to a repository that has no such run")


class _RunCopier:
    """Copies the versions of one run, the oldest first."""

    def __init__(
        self, source: Repository, target: Repository, run: _RekeyedRun, options: CopyOptions, result: CopyResult
    ) -> None:
        self._source = source
        self._target = target
        self._run = run
        self._options = options
        self._result = result
        # What the other repository has, by the name of the chunk here.
        self._known: dict[bytes, ChunkRef] = {}
        self._bodies: dict[bytes, ChunkRef] = {}
        self._packs = {pack_id for pack_id, _ in source.packs()}
        self._previous = run.newest
        # What the newest manifest here says of later proofs.
        newest = newest_readable(source, run.name)
        self._seen_here = seen_proofs(None if newest is None else newest.root.room)
        self._seen_there = seen_proofs(None if run.newest is None else run.newest.root.room)

    def copy(self, task: Task) -> None:
        """Copy what is missing."""
        if self._run.newest is not None:
            self._learn(self._run.newest)
        for number in self._run.missing:
            if self._options.stop():
                raise Stopped("asked to stop; the versions that were copied until now are complete")
            try:
                self._copy_version(number)
            except OF_OBJECT as error:
                self._result.left_out.append(NotCopied(self._run.name, number, str(error)))
            task.advance(1)

    def _learn(self, there: StoredVersion) -> None:
        """Learn where the chunks are of the newest version that both have: its files are in the same order."""
        with suppress(*OF_OBJECT):
            here = self._source.stored(self._run.name, there.root.number)
            pairs = zip(self._source.entries(here), self._target.entries(there), strict=True)
            for own, other in pairs:
                lengths = [[ref.plain_bytes for ref in entry.chunks] for entry in (own, other)]
                # Whoever has the other key could say that another version is a copy of this one.
                if (own.path, own.digest) == (other.path, other.digest) and lengths[0] == lengths[1]:
                    self._known.update(zip((ref.name for ref in own.chunks), other.chunks, strict=True))

    def _copy_version(self, number: int) -> None:
        stored = self._source.stored(self._run.name, number)
        proofs = self._source.later_proofs(stored, self._heads(number))
        if proofs.missing:
            raise ObjectMissing("a later proof that was seen before is missing: it may say that it is broken")
        entries = self._source.entries(stored)
        self._copy_chunks(ref for entry in entries for ref in entry.chunks)
        made = self._commit(stored, [self._placed(entry) for entry in entries])
        self._add_proof(made, stored, entries, proofs.proofs)
        for evaluation in self._source.evaluations(stored):
            self._target.add_evaluation(msgspec.structs.replace(evaluation, manifest=made.digest))
            self._result.object_count += 1
        self._previous = made
        self._result.versions.append((self._run.name, number))

    def _heads(self, number: int) -> Sequence[bytes]:
        return self._seen_here[number].heads if number in self._seen_here else ()

    def _copy_chunks(self, refs: Iterable[ChunkRef]) -> None:
        """Have all these chunks in the other repository, durable."""
        by_pack: dict[bytes, dict[bytes, ChunkRef]] = defaultdict(dict)
        for ref in refs:
            if ref.name in self._known:
                continue
            place = self._source.moves.last_place(ref, self._packs.__contains__)
            if place is None:
                raise ObjectMissing("a pack is not in the store", where=names.pack(ref.pack))
            by_pack[place.pack][ref.name] = place
        found: dict[bytes, ChunkRef] = {}
        into = self._target.store, self._target.keys
        with Resealer(self._source.store, self._source.keys, into=into) as resealer:
            for chunks in by_pack.values():
                ordered = sorted(chunks.values(), key=lambda ref: ref.offset)
                for ref, place in zip(ordered, resealer.copy(ordered), strict=True):
                    found[ref.name] = place
            resealer.finish()
            self._result.pack_count += resealer.pack_count
            self._result.size_bytes += resealer.written_bytes
        if self._options.verify:
            self._read_back(list(found.values()))
        self._known.update(found)

    def _read_back(self, refs: list[ChunkRef]) -> None:
        with self._target.reader() as reader:
            for _ in reader.stream(sorted(refs, key=lambda ref: (ref.pack, ref.offset))):
                pass
            self._result.verified_bytes += reader.read_bytes

    def _placed(self, entry: Entry) -> Entry:
        return msgspec.structs.replace(entry, chunks=tuple(self._known[ref.name] for ref in entry.chunks))

    def _commit(self, stored: StoredVersion, entries: list[Entry]) -> StoredVersion:
        root, previous = stored.root, self._previous
        made = msgspec.structs.replace(
            root,
            previous=None if previous is None else Previous(previous.root.number, previous.digest),
            packs=[],
            segments=[],
            notes=root.notes if _NOTE in root.notes else (*root.notes, _NOTE),
            room=self._room(stored),
        )
        committed = commit(self._target, Manifest(made, tuple(entries)), self._bodies.get, look=self._look(entries))
        self._bodies.update({ref.name: ref for ref in committed.body_refs})
        self._result.pack_count += len(committed.packs)
        self._result.size_bytes += committed.stored_bytes
        return StoredVersion(made, committed.digest, self._target.version_key(root.run, root.number))

    def _room(self, stored: StoredVersion) -> Room:
        """Return what the manifest there says beside the version itself: what its own repository decided and proved."""
        run, previous = stored.root.run, self._previous
        decided = find_decided(self._target, run, None if previous is None else seen_decision(previous.root.room))
        kept = {name: value for name, value in (stored.root.room or {}).items() if name not in (DECISION, LATER_PROOFS)}
        kept[COPIED_FROM] = [self._source.repository_id, half(stored.digest)]
        kept[DECISION] = seen_value(decided.seen)
        kept[LATER_PROOFS] = later_proofs_value(self._seen_there.values())
        return room_of(kept)

    def _look(self, entries: Iterable[Entry]) -> _PackLook:
        return _PackLook(self._target, {ref.pack for ref in refs_of(entries)})

    def _add_proof(
        self, made: StoredVersion, stored: StoredVersion, entries: Sequence[Entry], later: Sequence[LaterProof]
    ) -> None:
        """Sum up what was proved later in one later proof of the copy."""
        if not later:
            return
        paths = {file.path for one in later for file in one.files}
        proved = list(with_proofs(entries, later))
        files = [ProvedFile(one.path, one.proof) for one in proved if one.path in paths and one.proof is not None]
        level, device, broken_count = summed(proved)
        last = max(later, key=lambda one: one.made_ns)
        proof = LaterProof(
            stored.root.run,
            stored.root.number,
            made.digest,
            last.made_ns,
            f"mlsync {mlsync.__version__}",
            storable(self._options.host),
            level,
            device,
            broken_count,
            files,
        )
        added = self._target.add_later_proof(proof)
        self._result.object_count += 1
        number = stored.root.number
        self._seen_there[number] = SeenProofs(number, added.refused, 1, (added.link,))


@dataclass(slots=True)
class _PackLook:
    """Looks, right before the manifest is created, whether all packs that it relies on are there and stay."""

    target: Repository
    packs: set[bytes] = field(default_factory=set)

    def __call__(self, refs: Sequence[ChunkRef], new: Sequence[bytes]) -> None:
        """Raise ``ObjectMissing`` unless they are."""
        needed = self.packs | {ref.pack for ref in refs} | set(new)
        marked = self.target.tombstones() & needed
        for pack_id in _missing(self.target, needed):
            raise ObjectMissing("a pack is gone from the other repository", where=names.pack(pack_id))
        if marked:
            where = names.pack(min(marked))
            raise ObjectMissing("the other repository is about to delete a pack: prune it first", where=where)


def _missing(target: Repository, packs: Iterable[bytes]) -> Iterator[bytes]:
    for pack_id in packs:
        try:
            target.store.stat(names.pack(pack_id))
        except NotFound:
            yield pack_id
