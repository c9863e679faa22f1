"""Copy versions to a mirror: their sealed objects as they are, in an order that may be broken off anywhere.

What the mirror needs to be opened comes first; then, run by run and version by version, the packs that the manifest
names, the records of packs that were moved, what was decided and proved, and the manifest last. So whatever the mirror
lists restores, whenever the copier is stopped, and the next one goes on there. Nothing is overwritten: an object of the
same name that is another one is reported, and the rest goes on. See docs/format.md, "What a copier to a mirror does".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from mlsync.codec.digest import object_digest, run_id
from mlsync.errors import (
    OF_OBJECT,
    Damage,
    Error,
    MirrorConflict,
    NotFound,
    RunMissing,
    Stopped,
    StoreDenied,
    WriteOnly,
)
from mlsync.mirror import place, small
from mlsync.mirror.account import Conflict, CopyOptions, CopyResult, Lag, NotCopied
from mlsync.mirror.plan import (
    Packs,
    Planned,
    decisions_of,
    listed_by_version,
    numbers_in,
    plan_run,
    versions_of,
)
from mlsync.mirror.transfer import Pack, PackTransfer
from mlsync.monitor import Monitor, Task
from mlsync.repository import names
from mlsync.repository.ahead import ahead
from mlsync.repository.history import fence, omission
from mlsync.repository.history.decision import open_decision
from mlsync.repository.history.decisions import By, Decided, find_decided
from mlsync.repository.history.omission import Omitted
from mlsync.repository.listing import Run, runs
from mlsync.repository.pack_lookup import Tombstones, look_up
from mlsync.repository.repository import ListedVersion, Repository
from mlsync.repository.sealed_object import OBJECT_BYTES_MAX
from mlsync.store.base import Store

# So many versions, or packs to copy, are dealt with together: more at once, and less is done again after a stop.
_BATCH_VERSIONS: Final = 64
_BATCH_PACKS: Final = 64
_BATCH_BYTES: Final = 1 << 30
_NS: Final = 10**9
# So many versions are named that are others in the mirror.
_DIFFERING_MAX: Final = 100
# Parts of an interrupted upload cost money until they are removed.
_STALE_UPLOAD_S: Final = 24 * 3600.0


def copy_versions(source: Repository, target: Store, options: CopyOptions, monitor: Monitor) -> CopyResult:
    """Copy versions of *source* to *target*, and return what was copied and what was not.

    Raise ``MirrorForeign`` or ``RepositoryMissing`` before anything is written, ``Stopped`` with all that was copied
    complete, or the error of a store that does not work. Call it again: it goes on.
    """
    if source.is_write_only:
        raise WriteOnly("a node that can only write cannot copy: it cannot tell what a version needs")
    source.refuse_retired()
    found = place.look(source, target, create=options.create)
    result = CopyResult(is_new=found.is_new, is_dry=options.dry_run)
    if not options.dry_run:
        result.object_count, result.stale_slots = place.prepare(source, found, monitor)
        with suppress(StoreDenied):
            target.remove_stale_uploads(_STALE_UPLOAD_S)
    copier = _Copier(source, found.repository, options, result, monitor)
    copier.plan()
    if not options.dry_run:
        copier.copy()
    copier.tell_lag()
    return result


def look_at_mirror(source: Repository, target: Store, options: CopyOptions, monitor: Monitor) -> CopyResult:
    """Return how far a mirror is behind, and what is another one there; nothing is written or read of what is missing.

    Raise ``MirrorForeign`` or ``RepositoryMissing``.
    """
    found = place.look(source, target, create=False)
    result = CopyResult(is_dry=True)
    copier = _Copier(source, found.repository, options, result, monitor)
    copier.look()
    copier.tell_lag()
    return result


@dataclass(slots=True)
class _RunCopy:
    """A run: what both ends have, what is to be copied, and what stays away."""

    name: str
    run_id: bytes
    here: dict[int, ListedVersion]
    there: dict[int, ListedVersion]
    decided: Decided
    planned: list[Planned] = field(default_factory=list)
    unplanned: set[int] = field(default_factory=set)
    fenced: set[int] = field(default_factory=set)
    # Versions that are other ones in the mirror, the newest first.
    differing: list[int] = field(default_factory=list)
    # Listed there, and nobody looked back yet at whether the mirror's prune left its packs.
    unfinished: set[int] = field(default_factory=set)
    omitted: tuple[int, ...] = ()
    copied: set[int] = field(default_factory=set)

    @property
    def present(self) -> set[int]:
        """The versions that the mirror has."""
        return (numbers_in(self.there) - self.unfinished) | self.copied


class _Copier:
    def __init__(
        self, source: Repository, mirror: Repository, options: CopyOptions, result: CopyResult, monitor: Monitor
    ) -> None:
        self._source = source
        self._mirror = mirror
        self._options = options
        self._result = result
        self._monitor = monitor
        self._run_copies: list[_RunCopy] = []

    # ------------------------------------------------------------ what is to be copied

    def look(self) -> None:
        """Compare what both ends list; no version that is missing is read."""
        chosen = self._chosen_runs()
        here, there = versions_of(self._source), versions_of(self._mirror)
        copies = {names.parse_copy(info.key) for info in self._mirror.store.list(names.COPIES)}
        # Later than the versions: what a version names was there before it.
        self._list_beside(chosen)
        for run in chosen:
            run_bytes = run_id(self._source.keys.of("run id"), run.name)
            ends = here.get(run_bytes, {}), there.get(run_bytes, {})
            one = _RunCopy(run.name, run_bytes, *ends, Decided(run.name))
            one.unfinished = {n for n in numbers_in(one.there) & one.here.keys() if (run_bytes, n) not in copies}
            self._run_copies.append(one)
        for one, looked in ahead(self._look_at, self._run_copies):
            looked()
            self._compare(one)

    def plan(self) -> None:
        """Find out what is missing in the mirror."""
        self._packs = Packs(self._source, self._mirror)
        with self._monitor.task("looking at versions", None, unit="versions") as task:
            self.look()
            for run in self._run_copies:
                self._plan_run(run, task)
        self._count_planned()

    def _look_at(self, run: _RunCopy) -> None:
        """Find what was decided of a run, and what differs."""
        if self._decisions[0].get(run.run_id):
            run.decided = find_decided(self._source, run.name)
        self._find_differing(run)

    def _chosen_runs(self) -> list[Run]:
        found = runs(self._source)
        wanted = self._options.runs
        if wanted is None:
            return found
        missing = sorted(set(wanted) - {run.name for run in found})
        if missing:
            raise RunMissing(f"no run named {missing[0]!r} in the repository", where=self._source.store.url)
        return [run for run in found if run.name in wanted]

    def _list_beside(self, chosen: Sequence[Run]) -> None:
        """List what is beside versions, at both ends."""
        key = self._source.keys.of("run id")
        ids = {run_id(key, run.name): run for run in chosen}
        self._decisions = [decisions_of(end) for end in (self._source, self._mirror)]
        self._proofs = [listed_by_version(end, names.LATER_PROOFS, ids) for end in (self._source, self._mirror)]
        here, there = ({info.key for info in end.store.list(names.RUNS)} for end in (self._source, self._mirror))
        # Those of a source that is a mirror itself.
        self._omissions = [info.key for info in self._source.store.list(names.OMISSIONS)]
        self._registered = {run_bytes for run_bytes in ids if names.registration(run_bytes) in here - there}
        self._evaluations = [listed_by_version(end, names.EVALUATIONS, ids) for end in (self._source, self._mirror)]

    def _plan_run(self, run: _RunCopy, task: Task) -> None:
        wanted = self._wanted(run)
        blocked_from = min(run.differing, default=None)
        missing = sorted(
            number
            for number in wanted
            if number not in run.there or number in run.fenced or number in run.unfinished - set(run.differing)
        )
        self._result.there_count += len(wanted & numbers_in(run.there) - run.unfinished)
        keys = {names.version(run.run_id, number): number for number in missing}
        for key, found in plan_run(self._source, self._packs, list(keys)):
            task.advance(1)
            if found is None:
                continue
            number = keys[key]
            if isinstance(found, Planned) and blocked_from is not None and number > blocked_from:
                self._leave(run, number, f"it follows version {blocked_from}, which is another one in the mirror")
            elif isinstance(found, Planned):
                run.planned.append(found)
            elif not (isinstance(found, Damage) and getattr(found, "is_retired", False)):
                self._leave(run, number, str(found))
        kept = {one.number for one in run.planned}
        here = {number for number in numbers_in(run.here) if run.decided.gone_as(number) is None}
        run.omitted = tuple(sorted(here - kept - numbers_in(run.there) - run.unplanned))
        if run.omitted:
            self._result.omitted[run.name] = run.omitted

    def _wanted(self, run: _RunCopy) -> set[int]:
        """Return the numbers that are to be in the mirror: without those that are gone or, unless asked, forgotten."""
        asked = self._options.versions.get(run.name)
        there = {number for number in numbers_in(run.here) if run.decided.gone_as(number) is None}
        if asked is not None:
            return there & set(asked)
        return {number for number in there if number not in run.decided.forgotten}

    def _find_differing(self, run: _RunCopy) -> None:
        """Find versions that are other ones in the mirror.

        Each version names the one before it by its digest, so that equal ones mean equal histories: the newest that
        both have is compared, and older ones only where that differs.
        """
        for number in sorted(numbers_in(run.here) & numbers_in(run.there), reverse=True):
            key = names.version(run.run_id, number)
            if run.here[number].size_bytes == run.there[number].size_bytes and small.same(
                self._source.store, self._mirror.store, key
            ):
                break
            if _opens(self._source, key):
                run.differing.append(number)
                if len(run.differing) == _DIFFERING_MAX:
                    break

    def _compare(self, run: _RunCopy) -> None:
        """Name what differs, what was removed in the mirror, and what only that has."""
        for number in run.differing[: _DIFFERING_MAX - 1]:
            what = f"version {number} of run {run.name!r} is another one in the mirror"
            self._conflict(names.version(run.run_id, number), what)
        self._look_at_fences(run)
        self._look_ahead(run)

    def _look_at_fences(self, run: _RunCopy) -> None:
        """Tell versions that were removed in the mirror from numbers that its prune fenced, for a writer there."""
        removed = []
        for number in sorted(run.there.keys() - numbers_in(run.there)):
            if number not in numbers_in(run.here) or run.decided.gone_as(number) is not None:
                continue
            key = names.version(run.run_id, number)
            with suppress(*OF_OBJECT):
                if fence.read(self._mirror.store, self._mirror.keys, key).removed == fence.NEVER_USED:
                    run.fenced.add(number)
                    continue
            removed.append(number)
        if removed:
            self._result.removed[run.name] = tuple(removed)

    def _look_ahead(self, run: _RunCopy) -> None:
        """Find versions that only the mirror has: then the source lost them, or is an older state of itself."""
        ahead = [
            number
            for number in sorted(numbers_in(run.there) - run.here.keys())
            if run.decided.gone_as(number) is None and _opens(self._mirror, names.version(run.run_id, number))
        ]
        if ahead:
            self._result.ahead[run.name] = tuple(ahead)

    def _count_planned(self) -> None:
        planned = [one for run in self._run_copies for one in run.planned]
        packs = {pack_id: pack for one in planned for pack_id, pack in one.needs.missing.items()}
        self._planned_bytes = sum(pack.size_bytes for pack in packs.values())
        if self._options.dry_run:
            self._result.versions = [(run.name, one.number) for run in self._run_copies for one in run.planned]
            self._result.pack_count, self._result.size_bytes = len(packs), self._planned_bytes

    # ------------------------------------------------------------ copying

    def copy(self) -> None:
        """Copy what was planned."""
        transfer = PackTransfer(
            self._source, self._mirror.store, server_side=self._options.server_side, stop=self._options.stop
        )
        with transfer, self._monitor.task("copying packs", self._planned_bytes) as task:
            for run in self._run_copies:
                if run.planned or numbers_in(run.there):
                    self._copy_run(run, transfer, task)
                self._refuse_stopped()

    def _copy_run(self, run: _RunCopy, transfer: PackTransfer, task: Task) -> None:
        self._copy_decisions(run)
        self._copy_beside(run, self._proofs, sorted(numbers_in(run.there)))
        if run.run_id in self._registered:
            self._objects([names.registration(run.run_id)], lambda _key, _body: None)
        prefix = names.run_omissions_prefix(run.run_id)
        self._objects(
            [key for key in self._omissions if key.startswith(prefix)],
            lambda key, _body: omission.read(self._source, key),
        )
        self._say_omitted(run, run.omitted)
        for batch in _batches(run.planned):
            self._refuse_stopped()
            self._copy_batch(run, batch, transfer, task)
        # A version that could not be copied must not look hidden beside those that follow it.
        self._say_omitted(run, sorted(run.unplanned - run.present))
        self._copy_beside(run, self._evaluations, sorted(run.present))

    def _copy_batch(self, run: _RunCopy, batch: Sequence[Planned], transfer: PackTransfer, task: Task) -> None:
        packs = self._move_packs(batch, transfer, task)
        again = [one for one in batch if _is_gone(one, packs)]
        if again:
            # Compacted or pruned meanwhile: where the chunks lie now is looked up once more.
            batch = [*(one for one in batch if one not in again), *self._planned_again(run, again)]
            batch = sorted(batch, key=lambda one: one.number)
            packs |= self._move_packs(batch, transfer, task)
        marked = self._mirror.tombstones()
        listed: list[tuple[Planned, bytes]] = []
        for one in batch:
            # What is whole when somebody asks to stop is listed all the same; packs that were not begun are no fault.
            if self._options.stop() and not one.needs.packs <= self._packs.there.keys() | packs.keys():
                break
            fault = self._fault_of(one, packs, marked)
            if fault is not None:
                self._leave_out(run, one, fault)
                continue
            try:
                body = self._commit(run, one)
                listed += [] if body is None else [(one, body)]
            except MirrorConflict as error:
                self._refused(run, one, error)
            except OF_OBJECT as error:
                if not self._source.is_fenced(one.stored.key):
                    self._leave(run, one.number, str(error))
        self._look_back(run, listed)
        if len(listed) < len(batch):
            self._refuse_stopped()

    def _move_packs(self, batch: Sequence[Planned], transfer: PackTransfer, task: Task) -> dict[bytes, Error]:
        """Copy the packs that the mirror lacks for these versions; return why some could not be copied."""
        there = self._packs.there
        packs = {pack_id: pack for one in batch for pack_id, pack in one.needs.missing.items() if pack_id not in there}
        done = transfer.move(packs.values(), task)
        if self._options.verify:
            for pack_id, size_bytes in done.sizes.items():
                self._verify(pack_id, size_bytes, done.failed)
        for pack_id in done.failed:
            done.sizes.pop(pack_id, None)
        there.update(done.sizes)
        self._result.pack_count += len(done.sizes)
        self._result.size_bytes += sum(done.sizes.values())
        self._result.server_side_bytes += done.server_side_bytes
        return done.failed

    def _verify(self, pack_id: bytes, size_bytes: int, failed: dict[bytes, Error]) -> None:
        """Read a pack back from the mirror, and open every chunk of it."""
        try:
            refs = self._mirror.pack_refs(pack_id, size_bytes)
            with self._mirror.reader() as reader:
                for _ in reader.stream(refs):
                    pass
        except OF_OBJECT as error:
            failed[pack_id] = error
        else:
            self._result.verified_bytes += size_bytes

    def _planned_again(self, run: _RunCopy, again: Sequence[Planned]) -> Iterator[Planned]:
        for one in again:
            self._packs.forget(one.needs.missing)
        for key, found in plan_run(self._source, self._packs, [one.stored.key for one in again]):
            if isinstance(found, Planned):
                yield found
            elif found is not None:
                parsed = names.parse_version(key)
                assert parsed is not None
                self._leave(run, parsed[1], str(found))

    def _fault_of(self, one: Planned, failed: dict[bytes, Error], marked: set[bytes]) -> str | None:
        """Return why a version cannot be listed in the mirror; ``None`` if all that it needs was seen there."""
        # All of them are looked at, so that each pack that is another one is named.
        faults = [self._fault_of_pack(pack_id, failed, marked) for pack_id in sorted(one.needs.packs)]
        for fault in faults:
            if fault is not None:
                return fault
        try:
            for pack_id in one.needs.records:
                self._copy_record(pack_id)
        except MirrorConflict as error:
            return f"{error.what}: {error.where}"
        except NotFound:
            return "a record of a move was deleted meanwhile: copy again"
        return None

    def _fault_of_pack(self, pack_id: bytes, failed: dict[bytes, Error], marked: set[bytes]) -> str | None:
        fault: str | None = None
        if pack_id in failed:
            fault = str(failed[pack_id])
        elif pack_id not in self._packs.there:
            fault = f"the mirror lacks a pack: {names.pack(pack_id)}"
        elif self._packs.is_other(pack_id):
            self._conflict(names.pack(pack_id), "the mirror's pack has another size; remove it there, and copy again")
            fault = "a pack of it is another one in the mirror"
        elif pack_id in marked:
            fault = "the mirror is about to delete a pack of it: prune the mirror, and copy again afterwards"
        return fault

    def _copy_record(self, pack_id: bytes) -> None:
        key = names.move(pack_id)
        body = self._source.store.get(key, limit_bytes=8 << 20)
        self._result.object_count += small.create(self._mirror.store, key, body)

    def _commit(self, run: _RunCopy, one: Planned) -> bytes | None:
        """Create a version in the mirror, its later proofs before it, and return its bytes: see ``_look_back``."""
        self._copy_beside(run, self._proofs, [one.number])
        key, target = one.stored.key, self._mirror.store
        body = one.body if one.body is not None else self._source.open_body(key, key)[1]
        if one.number in run.fenced:
            # No writer of the mirror's own has that number in mind, and its prune looked before packs came.
            try:
                target.replace(key, body)
            except StoreDenied as error:
                what = f"the mirror's prune fenced its number, and the fence cannot be overwritten: {error.what}"
                self._leave(run, one.number, what)
                return None
        small.create(target, key, body)
        return body

    def _refused(self, run: _RunCopy, one: Planned, error: MirrorConflict) -> None:
        """Tell a number that the mirror's prune fenced since it was listed from another version under it."""
        if self._mirror.is_fenced(one.stored.key):
            self._leave(run, one.number, "the mirror's prune fenced its number meanwhile: copy again")
        else:
            self._conflict(one.stored.key, error.what)

    def _look_back(self, run: _RunCopy, listed: Sequence[tuple[Planned, bytes]]) -> None:
        """Finish versions that were listed just now with their second copies, or take them back.

        A prune of the mirror that listed versions before that may still delete a pack with a tombstone. It deletes the
        pack first: what has none now, and is there afterwards, no such prune deletes any more. The copy says that
        somebody looked; a version without one is looked at by the next copier, whoever died here.
        """
        needed = {pack_id for one, _ in listed for pack_id in one.needs.packs}
        marked = Tombstones(self._mirror, needed) if needed else ()
        there = look_up(self._mirror, needed)
        for one, body in listed:
            lost = sorted(pack_id for pack_id in one.needs.packs if pack_id in marked or pack_id not in there)
            lost += [pack_id for pack_id in one.needs.records if not self._has_record(pack_id)]
            if lost:
                for pack_id in lost:
                    self._packs.there.pop(pack_id, None)
                self._take_back(run, one, f"the mirror's prune takes a pack of it, {names.pack(lost[0])}: copy again")
                continue
            run.copied.add(one.number)
            self._result.versions.append((run.name, one.number))
            place = names.copy_of(one.stored.key)
            try:
                small.create(self._mirror.store, place, body)
            except MirrorConflict as error:
                self._conflict(place, error.what)

    def _has_record(self, pack_id: bytes) -> bool:
        try:
            self._mirror.store.stat(names.move(pack_id))
        except NotFound:
            return False
        return True

    def _leave_out(self, run: _RunCopy, one: Planned, why: str) -> None:
        """Leave a version out; one that is listed and was not looked back at is taken back."""
        if one.number in run.unfinished:
            self._take_back(run, one, why)
        else:
            self._leave(run, one.number, why)

    def _take_back(self, run: _RunCopy, one: Planned, why: str) -> None:
        """Put a fence in the place of a manifest whose packs the mirror may lose: nothing is listed that may be lost.

        Such a fence says that the number was never used, so the next copier puts the version in its place. It takes no
        right to delete.
        """
        key, target = one.stored.key, self._mirror.store
        try:
            if object_digest(target.get(key, limit_bytes=OBJECT_BYTES_MAX)) == one.stored.digest:
                target.replace(key, fence.make(self._mirror.keys, key, fence.Fence(self._options.now_ns)))
        except NotFound:
            pass
        except StoreDenied as error:
            why = f"{why}; it is listed there, and may not restore, as nothing may be overwritten there: {error.what}"
        self._leave(run, one.number, why)

    def _copy_decisions(self, run: _RunCopy) -> None:
        here, there = (end.get(run.run_id, set()) for end in self._decisions)
        common = sorted(here & there)
        if common and not small.same(self._source.store, self._mirror.store, common[-1]):
            self._tell_apart(run.name, common[-1])

        def check(key: str, body: bytes) -> None:
            open_decision(self._source.keys, key, body)
            self._source.retired_keys.refuse(key, body)

        self._objects(sorted(here - there), check)

    def _tell_apart(self, run: str, key: str) -> None:
        """Tell a decision that somebody with the key made in the mirror, as for its own retention, from damage."""
        try:
            open_decision(self._mirror.keys, key, self._mirror.store.get(key, limit_bytes=OBJECT_BYTES_MAX))
        except OF_OBJECT as error:
            self._conflict(key, f"what was decided of run {run!r} is another object in the mirror: {error}")
        else:
            self._result.decided_apart.append(run)

    def _copy_beside(
        self, run: _RunCopy, ends: list[dict[tuple[bytes, int], dict[str, int]]], numbers: Sequence[int]
    ) -> None:
        """Copy the later proofs or evaluations of versions that the mirror has or is about to have."""
        here, there = ends
        opens = self._source.later_proof_link if ends is self._proofs else self._source.open_evaluation
        keys: list[str] = []
        for number in numbers:
            listed, copied = here.get((run.run_id, number), {}), there.get((run.run_id, number), {})
            keys += sorted(listed.keys() - copied.keys())
            for key in sorted(listed.keys() & copied.keys()):
                if listed[key] != copied[key]:
                    self._conflict(key, "the mirror has another object of this name")
        self._objects(keys, lambda key, _body: opens(key))

    def _objects(self, keys: Sequence[str], check: Callable[[str, bytes], object]) -> None:
        def failed(key: str, error: Error) -> None:
            self._conflict(key, error.what)

        self._result.object_count += small.copy_all(self._source.store, self._mirror.store, keys, check, failed)

    def _say_omitted(self, run: _RunCopy, numbers: Sequence[int]) -> None:
        """Say in the mirror which versions are not there, unless that was said before."""
        if not numbers:
            return
        known: Omitted = omission.omitted(self._mirror, run.run_id)
        new = [number for number in numbers if number not in known]
        if new:
            by = By(self._options.host, self._options.now_ns)
            for key, body in omission.made(self._mirror, run.name, new, by):
                self._result.object_count += small.create(self._mirror.store, key, body)

    # ------------------------------------------------------------ what is told

    def _leave(self, run: _RunCopy, number: int, why: str) -> None:
        run.unplanned.add(number)
        self._result.left_out.append(NotCopied(run.name, number, why))

    def _conflict(self, key: str, why: str) -> None:
        if all(one.key != key for one in self._result.conflicts):
            self._result.conflicts.append(Conflict(key, why))

    def _refuse_stopped(self) -> None:
        if self._options.stop():
            raise Stopped("asked to stop; what was copied until now is complete")

    def tell_lag(self) -> None:
        """Say how far each run's copy is behind."""
        for run, lag in ahead(self._lag_of, self._run_copies):
            found = lag()
            if found is not None:
                self._result.lag[run.name] = found

    def _lag_of(self, run: _RunCopy) -> Lag | None:
        wanted = self._wanted(run)
        if not wanted:
            return None
        # What was removed there on purpose is not awaited.
        lacking = wanted - run.present - set(self._result.removed.get(run.name, ()))
        newest, copied = max(wanted), max(run.present & wanted, default=0)
        age_s = 0.0
        if copied < newest:
            made_ns = self._made_ns(run, newest)
            until_ns = self._made_ns(run, copied) if copied else None
            age_s = (made_ns - until_ns if until_ns is not None else self._options.now_ns - made_ns) / _NS
        return Lag(newest, copied, len(lacking), max(0.0, age_s))

    def _made_ns(self, run: _RunCopy, number: int) -> int:
        try:
            return self._source.open_version(names.version(run.run_id, number)).root.created_ns
        except OF_OBJECT:
            return self._options.now_ns


def _batches(planned: Sequence[Planned]) -> Iterator[list[Planned]]:
    batch: list[Planned] = []
    packs: dict[bytes, Pack] = {}
    for one in planned:
        is_large = len(packs) >= _BATCH_PACKS or sum(pack.size_bytes for pack in packs.values()) >= _BATCH_BYTES
        if batch and (len(batch) == _BATCH_VERSIONS or is_large):
            yield batch
            batch, packs = [], {}
        batch.append(one)
        packs |= one.needs.missing
    if batch:
        yield batch


def _is_gone(one: Planned, failed: dict[bytes, Error]) -> bool:
    return any(isinstance(failed.get(pack_id), NotFound) for pack_id in one.needs.missing)


def _opens(repository: Repository, key: str) -> bool:
    try:
        repository.open_version(key)
    except OF_OBJECT:
        return False
    return True
