"""Delete what no version needs: manifests of removed versions, and packs that no manifest names, in two steps.

A plan reads everything and changes nothing. Carrying it out follows docs/format.md, "What a prune does", step by step:
the order, and not the grace period, is what makes it safe beside writers that may be stopped anywhere. A prune that
dies between any two steps leaves a repository in which every listed version restores, and the next one goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import mlsync
from mlsync.errors import (
    AlreadyExists,
    Damage,
    FormatUnsupported,
    NotFound,
    ObjectArchived,
    PruneBlocked,
    StoreDenied,
)
from mlsync.monitor import Monitor
from mlsync.repository import features, names
from mlsync.repository.ahead import ahead, each
from mlsync.repository.history import fence, fences, tombstone
from mlsync.repository.history.decisions import By, Decided, find_decided, mark_gone
from mlsync.repository.history.fence import Fence
from mlsync.repository.history.seen_decision import half, seen_decision
from mlsync.repository.history.tombstone import Tombstone
from mlsync.repository.repository import ListedVersion, Repository, StoredVersion, is_no_version
from mlsync.store.base import ObjectInfo
from mlsync.store.prices import class_of
from mlsync.upkeep.compaction import releasable
from mlsync.upkeep.early_deletion import EarlyPack, early_packs
from mlsync.upkeep.moved_packs import spent
from mlsync.upkeep.prune_sight import (
    Blocked,
    Mark,
    Sight,
    VersionPlace,
    free_numbers,
    list_places,
    list_versions,
    open_newest,
    read_marks,
    read_versions,
    registered_runs,
)

_NS: Final = 10**9
GRACE_S: Final = 7 * 24 * 3600.0
# A pack that no version names may be one of a backup that runs: that would have to store it again.
YOUNG_S: Final = 24 * 3600.0
_MISSING: Final = "the manifest is missing, and its copy is there: mlsync repair brings it back"
# How often a prune fences anew because a number that looked free was taken.
_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """How long a forgotten version and a tombstone wait before something is deleted, and who asks.

    *waits_for_minimum* leaves packs until the minimum storage duration of their class is over.
    """

    now_ns: int
    host: str
    grace_s: float = GRACE_S
    young_s: float = YOUNG_S
    waits_for_minimum: bool = False

    def is_over(self, since_ns: int) -> bool:
        """Return whether the grace period that began then is over."""
        return since_ns + int(self.grace_s * _NS) <= self.now_ns


@dataclass(frozen=True, slots=True)
class Going:
    """A version that is removed by a *rule*: its manifest gives way to a fence. *is_gone*: that was decided before."""

    run: str
    place: VersionPlace
    digest: bytes
    rule: str
    is_gone: bool
    packs: frozenset[bytes] = frozenset()

    @property
    def key(self) -> str:
        """The name of its manifest."""
        return names.version(*self.place)


@dataclass(slots=True)
class PrunePlan:
    """What a prune would do: versions that are *going*, packs to *delete* and packs to *mark*, with their bytes.

    *waiting* are packs whose tombstone is younger than the grace period. *leftovers* are copies, later proofs and
    evaluations of removed versions, *emptied* packs are gone and have a tombstone. *emptied_by_moves* are packs that
    versions name and whose chunks were moved, *spent* ones are gone, and nothing needs their move record. *early* ones
    would be deleted before the minimum of their storage class, *held* ones are left until that is over. *blocked*
    says why no pack may be deleted, *kept_back* why some versions stay.
    """

    going: list[Going] = field(default_factory=list)
    delete: dict[bytes, int] = field(default_factory=dict)
    mark: dict[bytes, int] = field(default_factory=dict)
    waiting: dict[bytes, int] = field(default_factory=dict)
    leftovers: list[str] = field(default_factory=list)
    emptied: list[bytes] = field(default_factory=list)
    emptied_by_moves: dict[bytes, int] = field(default_factory=dict)
    moved: set[bytes] = field(default_factory=set)
    spent: set[bytes] = field(default_factory=set)
    early: dict[bytes, EarlyPack] = field(default_factory=dict)
    held: dict[bytes, EarlyPack] = field(default_factory=dict)
    kept: list[VersionPlace] = field(default_factory=list)
    gone: set[VersionPlace] = field(default_factory=set)
    blocked: list[Blocked] = field(default_factory=list)
    kept_back: list[Blocked] = field(default_factory=list)
    version_count: int = 0
    pack_count: int = 0
    foreign_count: int = 0
    sight: Sight = field(default_factory=Sight)
    marks: dict[bytes, Mark | None] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.going or self.mark or self.leftovers or self.emptied or self.needs_fences)

    @property
    def needs_fences(self) -> bool:
        """Whether something would be deleted that a writer who stands still could come to need."""
        return bool(self.delete or self.emptied_by_moves or self.spent)


@dataclass(slots=True)
class Pruned:
    """What was done; *records* are of moves, and *denied* objects that the store did not let go, and why."""

    versions: list[Going] = field(default_factory=list)
    deleted: dict[bytes, int] = field(default_factory=dict)
    marked: dict[bytes, int] = field(default_factory=dict)
    records: list[bytes] = field(default_factory=list)
    denied: list[Blocked] = field(default_factory=list)


# ---------------------------------------------------------------- plan


def plan(repository: Repository, monitor: Monitor, options: PruneOptions) -> PrunePlan:
    """Return what may be deleted, after a look at every version; nothing is changed."""
    features.refuse_unknown(repository.store, repository.keys)
    # The tombstones first, and then the runs: see docs/format.md on why in this order.
    found = PrunePlan(marks=read_marks(repository))
    sight = found.sight
    if not (repository.conditional_create and repository.store.conditional_create):
        sight.block(names.HEADER, "the store overwrites objects although it is told not to: there can be no fences")
    registered = dict(registered_runs(repository))
    sight.listed.update(list_versions(repository))
    for run_id, run in registered.items():
        sight.runs.setdefault(run_id, run)
        sight.listed.setdefault(run_id, {})
    open_newest(repository, sight)
    going = _going(repository, found, options)
    _read_all(repository, found, going, monitor)
    _find_leftovers(repository, found, monitor)
    _choose_packs(repository, found, options)
    found.blocked = sight.blocked
    return found


def _going(
    repository: Repository, found: PrunePlan, options: PruneOptions
) -> dict[VersionPlace, tuple[str, str, bool]]:
    """Return the versions that decisions let go, each with its run, the rule, and whether it is gone already."""
    going: dict[VersionPlace, tuple[str, str, bool]] = {}

    def decided_of(newest: StoredVersion) -> Decided:
        return find_decided(repository, newest.root.run, seen_decision(newest.root.room))

    runs = ahead(lambda one: decided_of(one[1]), list(found.sight.newest.items()))
    for (run_id, newest), result in runs:
        run, listed, decided = newest.root.run, found.sight.listed[run_id], result()
        if decided.hidden is not None:
            why = f"versions of run {run!r} stay: what was decided of them cannot be read: {decided.hidden}"
            found.kept_back.append(Blocked(names.DECISIONS, why))
        for number, one in listed.items():
            # The newest version is never removed, whatever is decided.
            if one.is_fence or number >= newest.root.number:
                continue
            gone, item = decided.gone_as(number), decided.forgotten.get(number)
            if gone is not None:
                going[run_id, number] = run, gone.rule, True
            elif item is not None and decided.hidden is None and options.is_over(item.forgotten_ns):
                going[run_id, number] = run, item.rule, False
    return going


def _read_all(
    repository: Repository, found: PrunePlan, going: Mapping[VersionPlace, tuple[str, str, bool]], monitor: Monitor
) -> None:
    """Read every manifest: those that stay name packs, those that go show what they leave."""
    sight = found.sight
    places = [
        ((run_id, number), one)
        for run_id, listed in sight.listed.items()
        for number, one in listed.items()
        if not one.is_fence
    ]
    found.version_count = len(places) - len(going)
    for place, stored, packs in read_versions(repository, sight, places, monitor):
        if place in going:
            run, rule, is_gone = going[place]
            found.going.append(Going(run, place, stored.digest, rule, is_gone, frozenset(packs)))
        else:
            sight.named |= packs
    # A version that is gone goes whether it opens or not, and then nothing is known of its packs.
    read = {one.place for one in found.going}
    unread = {names.version(*place): place for place, (_, _, is_gone) in going.items() if is_gone and place not in read}
    found.going += [Going(going[place][0], place, b"", going[place][1], True) for place in unread.values()]
    sight.blocked = [one for one in sight.blocked if one.key not in unread]


def _find_leftovers(repository: Repository, found: PrunePlan, monitor: Monitor) -> None:
    """Find copies, proofs and evaluations of removed versions; block where a copy is all that is left of a version."""
    sight = found.sight
    unlisted: list[VersionPlace] = []
    is_going = {one.place for one in found.going}
    for prefix in (names.COPIES, names.LATER_PROOFS, names.EVALUATIONS):
        for key, (run_id, number) in list_places(repository, prefix).items():
            one = sight.listed.get(run_id, {}).get(number)
            if one is not None and not one.is_fence:
                if (run_id, number) in is_going:
                    found.leftovers.append(key)
                continue
            manifest = names.version(run_id, number)
            if one is not None and fences.counts(repository, manifest):
                found.leftovers.append(key)
            elif prefix == names.COPIES and _may_be_version(repository, manifest, key):
                if one is None:
                    unlisted.append((run_id, number))
                else:
                    sight.block(manifest, _MISSING)
    _heed_unlisted(repository, sight, unlisted, monitor)


def _heed_unlisted(repository: Repository, sight: Sight, unlisted: list[VersionPlace], monitor: Monitor) -> None:
    """Count what versions name that have a copy and were not listed; block where the manifest is really missing.

    A backup that commits while manifests are read comes after their listing and before that of the copies. A listing
    that keeps such a version back must not pass for that, so the next one has to show it.
    """
    places: list[tuple[VersionPlace, ListedVersion]] = []
    for run_id, number in unlisted:
        manifest = names.version(run_id, number)
        try:
            info = repository.store.stat(manifest)
        except NotFound:
            sight.block(manifest, _MISSING)
            continue
        one = ListedVersion(number, info.size_bytes, info.modified_s)
        sight.awaited.add((run_id, number))
        if not one.is_fence:
            places.append(((run_id, number), one))
    for _, _, packs in read_versions(repository, sight, places, monitor):
        sight.named |= packs


def _may_be_version(repository: Repository, manifest: str, copy: str) -> bool:
    """Return whether a copy is that of a version, or may be: a newer mlsync's, or one in cold storage."""
    try:
        repository.open_body(manifest, copy)
    except NotFound:
        return False
    except (Damage, FormatUnsupported, ObjectArchived) as error:
        return not is_no_version(error)
    return True


def _follow_moves(repository: Repository, found: PrunePlan) -> None:
    """Count the packs to which move records lead as named: a version's chunks lie there by now."""
    waiting = found.sight.named & found.moved
    while waiting:
        records = (moved.packs for moved in each(repository.moves.of, waiting) if moved is not None)
        new = {pack_id for packs in records for pack_id in packs} - found.sight.named
        found.sight.named |= new
        waiting = new & found.moved


def _choose_packs(repository: Repository, found: PrunePlan, options: PruneOptions) -> None:
    """Sort the packs that no version names into those to delete, to mark, and to wait for."""
    found.moved = set(repository.moves.listed())
    _follow_moves(repository, found)
    left = {pack for one in found.going for pack in one.packs}
    young_s = options.now_ns / _NS - options.young_s
    listed: set[bytes] = set()
    doubtful: dict[bytes, ObjectInfo] = {}
    for pack_id, info in repository.packs():
        found.pack_count += 1
        doubtful |= {pack_id: info} if class_of(info.storage_class).minimum_days else {}
        listed.add(pack_id)
        mark = found.marks.get(pack_id)
        # A tombstone by a retired key is made anew: its grace must not have begun when a thief says so.
        mark = None if mark is not None and mark.is_retired else mark
        if pack_id in found.sight.named:
            if mark is not None and pack_id in found.moved and options.is_over(mark.made_ns):
                found.emptied_by_moves[pack_id] = info.size_bytes
            elif mark is None and pack_id in found.marks and _is_moved(repository, found, pack_id):
                found.mark[pack_id] = info.size_bytes
            continue
        if mark is not None:
            chosen = found.delete if options.is_over(mark.made_ns) else found.waiting
        elif pack_id in left or info.modified_s <= young_s:
            chosen = found.mark
        else:
            continue
        chosen[pack_id] = info.size_bytes
    for pack_id, mark in found.marks.items():
        if mark is None:
            found.foreign_count += pack_id not in found.mark
        elif pack_id not in listed and not repository.has_pack(pack_id):
            # A prune died after it had deleted the pack.
            found.emptied.append(pack_id)
    _mind_minimum(repository, found, doubtful, options)
    # With a tombstone, a writer or another prune may still be about to look at the pack: the next prune's turn.
    candidates = spent(found.moved, found.sight.named, listed | found.marks.keys())
    looked = ahead(lambda pack_id: _is_record(repository, pack_id), candidates)
    found.spent = {pack_id for pack_id, is_record in looked if is_record()}


def _mind_minimum(
    repository: Repository, found: PrunePlan, doubtful: Mapping[bytes, ObjectInfo], options: PruneOptions
) -> None:
    """Find out which packs would be deleted before their class's minimum; hold them back if the options say so."""
    going = found.delete.keys() | found.emptied_by_moves.keys()
    infos = {pack_id: info for pack_id, info in doubtful.items() if pack_id in going}
    early = early_packs(repository.store, infos, options.now_ns)
    if not options.waits_for_minimum:
        found.early = early
        return
    found.held = early
    for pack_id in early:
        found.delete.pop(pack_id, None)
        found.emptied_by_moves.pop(pack_id, None)


def _is_record(repository: Repository, pack_id: bytes) -> bool:
    """Return whether what lies under the name of the pack's move record is one, and the pack is really gone."""
    try:
        return repository.moves.of(pack_id) is not None and not repository.has_pack(pack_id)
    except FormatUnsupported:
        return False


def _is_moved(repository: Repository, found: PrunePlan, pack_id: bytes) -> bool:
    return pack_id in found.moved and repository.moves.of(pack_id) is not None


# ---------------------------------------------------------------- carrying it out


def carry_out(repository: Repository, found: PrunePlan, monitor: Monitor, options: PruneOptions) -> Pruned:
    """Do what the plan says, as far as it still holds; raise ``PruneBlocked``, with no pack deleted, if it does not."""
    refuse_blocked(repository, found)
    features.refuse_unknown(repository.store, repository.keys)
    repository.confirm()
    # What a retired key marks and fences would count for nothing.
    repository.refuse_retired()
    pruned = Pruned()
    _remove_versions(repository, found, pruned, options)
    with monitor.task("looking again", None):
        if found.needs_fences:
            _fence(repository, found, options)
        _look_again(repository, found, monitor)
    _add_moved(repository, found, monitor)
    with monitor.task("deleting packs", len(found.delete), unit="packs") as task:
        _delete_packs(repository, found, pruned, task.advance)
    _mark_packs(repository, found, pruned, options)
    _delete_each(repository, [names.tombstone(pack_id) for pack_id in found.emptied], pruned)
    # Again what no version names: one that came meanwhile, or was brought back, may need the record.
    for pack_id in spent(found.spent, found.sight.named, ()):
        if _delete(repository, names.move(pack_id), pruned):
            pruned.records.append(pack_id)
    if pruned.denied and not pruned.deleted and len(pruned.denied) >= len(found.delete) > 0:
        denied = pruned.denied[0]
        advice = "prune needs the right to delete, s3:DeleteObject in a bucket: mlsync iam-policy --role pruner"
        raise StoreDenied(f"nothing could be deleted: {denied.why}", where=denied.key, advice=advice)
    return pruned


def refuse_blocked(repository: Repository, found: PrunePlan) -> None:
    """Raise ``PruneBlocked`` if something keeps packs from being deleted."""
    if found.blocked:
        first = found.blocked[0]
        more = f", and {len(found.blocked) - 1} more" if len(found.blocked) > 1 else ""
        raise PruneBlocked(f"nothing was deleted: {first.key}: {first.why}{more}", where=repository.store.url)


def _remove_versions(repository: Repository, found: PrunePlan, pruned: Pruned, options: PruneOptions) -> None:
    """Put a fence in the place of each manifest that goes, and delete what belongs to it."""
    by_run: dict[bytes, dict[int, bytes]] = {}
    for one in found.going:
        if not one.is_gone:
            by_run.setdefault(one.place[0], {})[one.place[1]] = one.digest
    gone: set[VersionPlace] = {one.place for one in found.going if one.is_gone}

    def mark(run_id: bytes) -> Decided:
        newest = found.sight.newest[run_id].root
        by = By(options.host, options.now_ns)
        return mark_gone(repository, newest.run, seen_decision(newest.room), by_run[run_id], by)

    with ahead(mark, by_run) as marking:
        for run_id, result in marking:
            decided = result()
            gone.update((run_id, number) for number in by_run[run_id] if decided.gone_as(number) is not None)
    found.gone = gone
    # Of others somebody brought one back, or another version has its number.
    kept = {one.place for one in found.going if one.place not in gone}
    for one in found.going:
        found.sight.named |= one.packs if one.place in kept else frozenset()

    def take_place(one: Going) -> None:
        said = Fence(options.now_ns, half(one.digest) or fence.NEVER_USED)
        repository.store.replace(one.key, fence.make(repository.keys, one.key, said))

    with ahead(take_place, [one for one in found.going if one.place not in kept]) as taking:
        for one, is_done in taking:
            is_done()
            pruned.versions.append(one)
    # Only now: what is left of a version is deleted once nothing lists it.
    _delete_each(repository, [key for key in found.leftovers if _place_of(key) not in kept], pruned)


def _place_of(key: str) -> VersionPlace | None:
    return names.parse_copy(key) or names.parse_later_proof(key) or names.parse_evaluation(key)


def _fence(repository: Repository, found: PrunePlan, options: PruneOptions) -> None:
    """Take each number that a writer can have in mind, by a listing of which each free number turns out to be free."""
    sight = found.sight
    listed: Mapping[bytes, Mapping[int, ListedVersion]] = sight.listed
    for _ in range(_TRIES):
        free = (
            (run_id, number)
            for run_id, of_run in listed.items()
            for number in free_numbers(of_run, _opening(repository, sight, run_id, of_run))
        )
        with ahead(lambda place: _take(repository, *place, options), free) as looked:
            taken = [place for place, is_taken in looked if not is_taken()]
        if not taken:
            return
        # A version came since, or the listing lacked something: then it lacks other numbers as well.
        sight.awaited.update(taken)
        listed = {**{run_id: {} for run_id in sight.listed}, **list_versions(repository)}
    run_id, number = taken[0]
    sight.block(names.version(run_id, number), "listings lack it, or backups commit all the time: run prune again")


def _take(repository: Repository, run_id: bytes, number: int, options: PruneOptions) -> bool:
    """Put a fence under a number; return whether it was free."""
    key = names.version(run_id, number)
    try:
        repository.store.put(key, fence.make(repository.keys, key, Fence(options.now_ns)))
    except AlreadyExists:
        return False
    return True


def _opening(
    repository: Repository, sight: Sight, run_id: bytes, listed: Mapping[int, ListedVersion]
) -> Callable[[int], bool]:
    """Return what tells whether a number of a run has a version or a fence that opens."""

    def is_version(number: int) -> bool:
        is_read = sight.is_read((run_id, number), listed[number])
        return is_read or repository.is_fenced(names.version(run_id, number))

    return is_version


def _look_again(repository: Repository, found: PrunePlan, monitor: Monitor) -> None:
    """List all versions again, and read those that came since; raise ``PruneBlocked`` if anything is missing."""
    sight = found.sight
    again = list_versions(repository)
    seen = {(run_id, number) for run_id, listed in sight.listed.items() for number in listed} | sight.awaited
    for run_id, number in sorted(seen):
        if number not in again.get(run_id, {}):
            sight.block(names.version(run_id, number), "a listing does not show it, and it is there: run prune again")
    places = [
        ((run_id, number), one)
        for run_id, listed in again.items()
        for number, one in listed.items()
        if not one.is_fence and not sight.is_read((run_id, number), one)
    ]
    for _, _, packs in read_versions(repository, sight, places, monitor):
        sight.named |= packs
    _follow_moves(repository, found)
    found.kept = [
        (run_id, number)
        for run_id, listed in again.items()
        for number, one in listed.items()
        if not one.is_fence and (run_id, number) not in found.gone
    ]
    for run_id, listed in again.items() if found.needs_fences else ():
        # A number that looks free and is taken: the end of the listing is missing.
        last = max(listed)
        if last < names.VERSION_MAX and _is_there(repository, names.version(run_id, last + 1)):
            sight.block(names.version(run_id, last + 1), "a backup commits at this moment, or a listing lacks it")
    refuse_blocked(repository, replace(found, blocked=sight.blocked))


def _add_moved(repository: Repository, found: PrunePlan, monitor: Monitor) -> None:
    """Delete packs too that versions name, if every chunk that they need was read where its record says."""
    if not found.emptied_by_moves:
        return
    sizes = {pack_id: info.size_bytes for pack_id, info in repository.packs()}
    doomed = {*found.emptied_by_moves, *found.delete.keys() - found.sight.named}
    versions = each(lambda place: repository.open_version(names.version(*place)), found.kept)
    free = releasable(repository, doomed, versions, sizes, monitor)
    for pack_id, size_bytes in found.emptied_by_moves.items():
        if pack_id in free:
            found.sight.named.discard(pack_id)
            found.delete[pack_id] = size_bytes


def _is_there(repository: Repository, key: str) -> bool:
    try:
        repository.store.stat(key)
    except NotFound:
        return False
    return True


def _delete_packs(repository: Repository, found: PrunePlan, pruned: Pruned, advance: Callable[[int], None]) -> None:
    """Delete each pack whose tombstone is still the one that was read first, and then the tombstone."""

    def delete(pack_id: bytes) -> bool:
        mark, key = found.marks[pack_id], names.tombstone(pack_id)
        try:
            if mark is None or repository.store.get(key, limit_bytes=tombstone.OBJECT_BYTES_MAX) != mark.body:
                return False
        except NotFound:
            return False
        if not _delete(repository, names.pack(pack_id), pruned):
            return False
        _delete(repository, key, pruned)
        return True

    going = [pack_id for pack_id in found.delete if pack_id not in found.sight.named]
    with ahead(delete, going) as deleting:
        for pack_id, is_deleted in deleting:
            if is_deleted():
                pruned.deleted[pack_id] = found.delete[pack_id]
            advance(1)


def _mark_packs(repository: Repository, found: PrunePlan, pruned: Pruned, options: PruneOptions) -> None:
    """Create the tombstones of packs that no version names; one that somebody planted is overwritten in one step."""
    said = Tombstone(options.now_ns, f"mlsync {mlsync.__version__}")

    def mark(pack_id: bytes) -> bool:
        key = names.tombstone(pack_id)
        body = tombstone.make_tombstone(repository.keys, key, said)
        try:
            # Never deleted first: a tombstone stays as long as its pack.
            (repository.store.replace if pack_id in found.marks else repository.store.put)(key, body)
        except AlreadyExists:
            return False  # another prune was faster
        return True

    named = found.sight.named - found.moved
    with ahead(mark, [pack_id for pack_id in found.mark if pack_id not in named]) as marking:
        for pack_id, is_marked in marking:
            if is_marked():
                pruned.marked[pack_id] = found.mark[pack_id]


def _delete_each(repository: Repository, keys: Sequence[str], pruned: Pruned) -> None:
    """Delete objects, several at once."""

    def delete(key: str) -> Blocked | None:
        try:
            repository.store.delete(key)
        except StoreDenied as error:
            return Blocked(key, error.what)
        return None

    pruned.denied += [denied for denied in each(delete, keys) if denied is not None]


def _delete(repository: Repository, key: str, pruned: Pruned) -> bool:
    """Delete an object; return whether the store let it go."""
    try:
        repository.store.delete(key)
    except StoreDenied as error:
        pruned.denied.append(Blocked(key, error.what))
        return False
    return True
