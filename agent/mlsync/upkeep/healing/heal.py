"""Put back from mirrors what a check found missing or damaged, and versions that only a mirror has.

Packs first, then what is beside versions, and manifests last, as a backup commits. What comes from a mirror is opened
before anything is touched, and an object that is there gives way only if it is still damaged then. Nothing that was
removed on purpose comes back: a fence or a decision says so. Key slots never come from a mirror, since one that was
removed would open the repository again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Final, TypeAlias

from mlsync.errors import (
    AlreadyExists,
    Damage,
    Error,
    FormatUnsupported,
    ManifestDamaged,
    NotFound,
    ObjectArchived,
    StoreError,
)
from mlsync.monitor import Monitor
from mlsync.repository import names
from mlsync.repository.encoding.segments import segment_refs
from mlsync.repository.history import fences
from mlsync.repository.history.decision import Decision, decision_key, open_decision
from mlsync.repository.history.decisions import read_decision
from mlsync.repository.history.fence import is_fence_size
from mlsync.repository.history.seen_decision import half, seen_decision
from mlsync.repository.listing import runs
from mlsync.repository.manifest import with_bases
from mlsync.repository.readable import newest_readable
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.store.base import Store
from mlsync.upkeep.check import Problem
from mlsync.upkeep.healing.snapshot import Snapshot
from mlsync.versions.decided import decided_of

_OF_OBJECT: Final = (Damage, FormatUnsupported, NotFound, ObjectArchived, StoreError)
_PART_BYTES: Final = 8 << 20


#: A mirror's name, and the mirror opened with the repository's keys.
Mirror: TypeAlias = tuple[str, Repository]


@dataclass(frozen=True, slots=True)
class Healed:
    """An object that was put back, or would be: from which mirror, and whether a damaged one gave way."""

    key: str
    mirror: str
    size_bytes: int
    was_damaged: bool


@dataclass(slots=True)
class HealResult:
    """What was put back, or could be, and by object why something could not."""

    healed: list[Healed] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def heal(
    repository: Repository, mirrors: Sequence[Mirror], problems: Sequence[Problem], monitor: Monitor, *, dry_run: bool
) -> HealResult:
    """Put back what *problems* name and what versions that only a mirror has need; a *dry_run* only looks."""
    work = _Healing(repository, mirrors, dry_run=dry_run)
    missing = list(_only_in_mirrors(repository, mirrors, work.result))
    packs = [key for key in dict.fromkeys(problem.key for problem in problems) if names.parse_pack(key) is not None]
    packs += [key for one in missing for key in one.packs if key not in packs]
    beside = [
        key
        for key in dict.fromkeys(problem.key for problem in problems)
        if names.is_object(key) and _heals(key) and names.parse_pack(key) is None
    ]
    beside += [key for key in _beside_only_in_mirrors(repository, mirrors) if key not in beside]
    # Manifests after what they need: nothing may be listed that does not restore.
    beside.sort(key=lambda key: names.parse_version(key) is not None)
    with monitor.task("healing from mirrors", len(packs) + len(beside) + len(missing), unit="objects") as task:
        for key in (*packs, *beside):
            work.put_back(key)
            task.advance(1)
        for one in missing:
            if not any(key in work.result.failed for key in one.packs):
                work.put_back(one.stored.key)
            else:
                work.result.failed[one.stored.key] = "a pack that it needs could not be had"
            task.advance(1)
    return work.result


def _heals(key: str) -> bool:
    return not key.startswith((names.KEY_SLOTS, names.TOMBSTONES)) and key != names.HEADER


class _Healing:
    def __init__(self, repository: Repository, mirrors: Sequence[Mirror], *, dry_run: bool) -> None:
        self._repository = repository
        self._mirrors = mirrors
        self._dry_run = dry_run
        self.result = HealResult()

    def put_back(self, key: str) -> None:
        """Put one object back from the first mirror that has it sound."""
        why = "no mirror has it"
        for name, mirror in self._mirrors:
            try:
                self._from(name, mirror, key)
            except NotFound:
                continue
            except _OF_OBJECT as error:
                why = f"mirror {name!r}: {error.what}"
                continue
            self.result.failed.pop(key, None)
            return
        self.result.failed[key] = why

    def _from(self, name: str, mirror: Repository, key: str) -> None:
        store = self._repository.store
        snapshot = Snapshot(store, key, mirror.store, part_bytes=_part_bytes(store))
        _open(_seen_through(self._repository, snapshot), key, snapshot.size_bytes)
        is_there, is_sound = self._own(key)
        if is_sound:
            return
        if not self._dry_run:
            _store(store, key, snapshot, replaces=is_there)
            _open(self._repository, key, snapshot.size_bytes)
        self.result.healed.append(Healed(key, name, snapshot.size_bytes, was_damaged=is_there))

    def _own(self, key: str) -> tuple[bool, bool]:
        """Return whether the repository has the object, and whether it opens; look right before it is replaced."""
        try:
            size_bytes = self._repository.store.stat(key).size_bytes
        except NotFound:
            return False, False
        if names.parse_version(key) is not None and is_fence_size(size_bytes) and fences.counts(self._repository, key):
            return True, True  # removed on purpose
        try:
            _open(self._repository, key, size_bytes)
        except (Damage, FormatUnsupported, NotFound):
            return True, False
        return True, True


def _part_bytes(store: Store) -> int:
    return max(store.part_bytes, _PART_BYTES) // store.part_bytes * store.part_bytes


def _seen_through(repository: Repository, store: Store) -> Repository:
    return Repository(store, repository.keys, conditional_create=repository.conditional_create)


def _store(store: Store, key: str, snapshot: Snapshot, *, replaces: bool) -> None:
    """Store the object; one that *replaces* a damaged object does so once all of its parts are sent."""
    if names.parse_pack(key) is None:
        body = snapshot.get(key, limit_bytes=snapshot.size_bytes)
        if replaces:
            # In one step: a number of a version is never free.
            store.replace(key, body)
        else:
            with suppress(AlreadyExists):
                store.put(key, body)
        return
    upload = store.upload(key)
    try:
        for start, part in snapshot.parts():
            for offset in range(0, len(part), store.part_bytes):
                upload.write(start + offset, memoryview(part)[offset : offset + store.part_bytes])
        if replaces:
            store.delete(key)
        with suppress(AlreadyExists):
            upload.finish(snapshot.size_bytes)
    finally:
        upload.abort()


# ---------------------------------------------------------------- what opens


def _open(repository: Repository, key: str, size_bytes: int) -> None:
    """Raise unless the object *key* opens in *repository* as what its name says."""
    for parse, opened in _OPENERS:
        if parse(key) is not None:
            opened(repository, key, size_bytes)
            return
    raise NotFound("an object of this kind is not taken from mirrors", where=key)


def _open_pack(repository: Repository, key: str, size_bytes: int) -> None:
    with repository.reader() as reader:
        for _ in reader.stream(repository.pack_refs(names.parse_pack(key) or b"", size_bytes)):
            pass


def _open_manifest(repository: Repository, key: str, _size_bytes: int) -> None:
    repository.open_body(key, key)


def _open_copy(repository: Repository, key: str, _size_bytes: int) -> None:
    repository.open_body(names.copied(key), key)


def _open_decision(repository: Repository, key: str, size_bytes: int) -> None:
    body = repository.store.get(key, limit_bytes=size_bytes)
    decision, digest = open_decision(repository.keys, key, body)
    repository.retired_keys.refuse(key, body)
    if not _is_named(repository, decision, digest):
        raise ManifestDamaged("nothing in the repository says that this is the decision that was here", where=key)


def _is_named(repository: Repository, decision: Decision, digest: bytes) -> bool:
    """Return whether the next decision, or the newest version, names this one by its digest.

    Whoever forgets versions in a mirror decides there, under the next number: that must never come back as what was
    decided here.
    """
    run, number = decision.run, decision.number
    with suppress(NotFound, Damage, FormatUnsupported):
        following, _ = read_decision(repository, decision_key(repository.keys, run, number + 1))
        return following.previous is not None and following.previous.digest == digest
    newest = newest_readable(repository, run)
    seen = None if newest is None else seen_decision(newest.root.room)
    return seen is not None and seen.number == number and seen.half == half(digest)


def _open_move(repository: Repository, key: str, _size_bytes: int) -> None:
    repository.moves.open(names.parse_move(key) or b"")


def _open_proof(repository: Repository, key: str, _size_bytes: int) -> None:
    repository.later_proof_link(key)


def _open_evaluation(repository: Repository, key: str, _size_bytes: int) -> None:
    repository.open_evaluation(key)


_OPENERS: Final[tuple[tuple[Callable[[str], object], Callable[[Repository, str, int], None]], ...]] = (
    (names.parse_pack, _open_pack),
    (names.parse_version, _open_manifest),
    (names.parse_copy, _open_copy),
    (names.parse_decision, _open_decision),
    (names.parse_move, _open_move),
    (names.parse_later_proof, _open_proof),
    (names.parse_evaluation, _open_evaluation),
)


# ---------------------------------------------------------------- versions that only a mirror has


def _beside_only_in_mirrors(repository: Repository, mirrors: Sequence[Mirror]) -> list[str]:
    """Return later proofs and evaluations that only a mirror has, of versions that are here."""
    own = {prefix: {info.key for info in repository.store.list(prefix)} for prefix in _BESIDE}
    listed = repository.store.list(names.VERSIONS)
    versions = {names.parse_version(info.key) for info in listed if not is_fence_size(info.size_bytes)} - {None}
    found: dict[str, None] = {}
    for _, mirror in mirrors:
        for prefix, parse in _BESIDE.items():
            for info in mirror.store.list(prefix):
                if info.key not in own[prefix] and parse(info.key) in versions:
                    found[info.key] = None
    return list(found)


_BESIDE: Final[dict[str, Callable[[str], tuple[bytes, int] | None]]] = {
    names.LATER_PROOFS: names.parse_later_proof,
    names.EVALUATIONS: names.parse_evaluation,
}


@dataclass(frozen=True, slots=True)
class _Missing:
    stored: StoredVersion
    packs: tuple[str, ...]


def _only_in_mirrors(repository: Repository, mirrors: Sequence[Mirror], result: HealResult) -> Iterator[_Missing]:
    """Yield versions that a mirror has and the repository lost, by rising number, with the packs that they need."""
    seen: set[str] = set()
    for name, mirror in mirrors:
        for run in runs(mirror):
            own = {one.number for one in repository.listed(run.name)}
            lost = [number for number in run.numbers if number not in own]
            if not lost:
                continue
            decided, theirs = decided_of(repository, run.name), decided_of(mirror, run.name)
            for number in lost:
                key = repository.version_key(run.name, number)
                if key in seen or any(one.gone_as(number) for one in (decided, theirs)):
                    continue
                seen.add(key)
                if decided.hidden is not None:
                    result.failed[key] = f"what was decided of run {run.name!r} cannot be read: {decided.hidden}"
                    continue
                try:
                    stored = mirror.stored(run.name, number)
                    fault = _does_not_fit(repository, stored, seen)
                    packs = () if fault is not None else tuple(_packs_of(repository, mirror, stored))
                except Error as error:
                    fault, packs = error.what, ()
                if fault is not None:
                    result.failed[key] = f"mirror {name!r}: {fault}"
                    continue
                yield _Missing(stored, packs)


def _does_not_fit(repository: Repository, lost: StoredVersion, back: set[str]) -> str | None:
    """Return why a version is of another history than the repository's, if it is."""
    run, previous = lost.root.run, lost.root.previous
    if previous is not None:
        key = repository.version_key(run, previous.number)
        with suppress(NotFound, Damage):
            if key not in back and repository.open_version(key).digest != previous.digest:
                return f"it follows another version {previous.number} than the repository has"
    following = next((one for one in repository.listed(run, after=lost.root.number) if not one.is_fence), None)
    if following is not None:
        with suppress(NotFound, Damage):
            after = repository.stored(run, following.number).root.previous
            if after is None or after.number < lost.root.number:
                return f"version {following.number} of the repository does not follow it"
    return None


def _packs_of(repository: Repository, mirror: Repository, stored: StoredVersion) -> Iterator[str]:
    """Yield the packs of a version that the repository lacks, where no move record stands for them."""
    there: dict[bytes, bool] = {}
    refs = [*segment_refs(stored.root, stored.key), *(ref for one in mirror.entries(stored) for ref in one.chunks)]

    # A difference that was moved needs no base; one whose pack is lost needs it again once the pack is healed.
    @cache
    def needs_base(pack: bytes) -> bool:
        return repository.has_pack(pack) or repository.moves.of(pack) is None

    for ref in with_bases(refs, needs_base):
        if ref.pack not in there:
            there[ref.pack] = repository.has_pack(ref.pack) or repository.moves.next_place(ref) is not None
            if not there[ref.pack]:
                yield names.pack(ref.pack)
