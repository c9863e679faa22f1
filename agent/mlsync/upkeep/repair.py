"""Heal what the repository itself can heal: a lost or damaged object from the one that holds the same.

First a plan: every manifest is compared with its second copy, and nothing is written. Then its steps, one by one, each
of which looks again before it changes anything. An object is replaced only if it does not open and the bytes for its
place do; what was lost of packs cannot be made here, and is named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from mlsync.errors import (
    AlreadyExists,
    Damage,
    Error,
    FormatUnsupported,
    ManifestDamaged,
    NotFound,
    ObjectArchived,
    ObjectDamaged,
    RebuildNeeded,
    RepositoryMissing,
    StoreError,
)
from mlsync.monitor import Monitor
from mlsync.repository import names
from mlsync.repository.ahead import ahead, each
from mlsync.repository.history import fences
from mlsync.repository.history.decisions import Decided
from mlsync.repository.history.fence import is_fence_size
from mlsync.repository.history.move import STEPS_MAX
from mlsync.repository.manifest import ChunkRef, with_bases
from mlsync.repository.repository import Repository, is_no_version
from mlsync.upkeep.check import Problem, Version, check
from mlsync.upkeep.epoch_care import epoch_faults, heal_epoch
from mlsync.versions.decided import decided_of

_UNREADABLE: Final = (Damage, FormatUnsupported, ObjectArchived, NotFound)


class Heal(Enum):
    """What heals an object."""

    FROM_COPY = "from its copy"
    FROM_MANIFEST = "from the manifest"
    FROM_KEY = "from the master key"
    FROM_TWIN = "from the other copy"
    REMOVE = "removed, nothing needs it"


@dataclass(frozen=True, slots=True)
class Healing:
    """One object to heal: *fault* is what is wrong with it, *version* the one that it belongs to."""

    key: str
    fault: str
    heal: Heal
    version: Version | None = None


@dataclass(frozen=True, slots=True)
class Affected:
    """A file whose content is lost in some *versions* of a run."""

    run: str
    path: bytes
    versions: tuple[int, ...]


@dataclass(slots=True)
class Repaired:
    """What a repair did: the steps *done*, those that *failed* and why, and the problems that are *left*.

    *affected* are the files whose content is in *packs* that are lost or damaged.
    """

    done: list[Healing] = field(default_factory=list)
    failed: list[tuple[Healing, Error]] = field(default_factory=list)
    left: list[Problem] = field(default_factory=list)
    packs: list[bytes] = field(default_factory=list)
    affected: list[Affected] = field(default_factory=list)


def plan(repository: Repository, monitor: Monitor, *, header_fault: Error | None, rebuild: bool) -> list[Healing]:
    """Return what can be healed; raise ``RebuildNeeded`` if all manifests are gone, unless *rebuild*."""
    steps = [] if header_fault is None else [_header_step(header_fault)]
    steps += _epochs(repository)
    versions = _listed(repository, names.VERSIONS, names.parse_version)
    copies = _listed(repository, names.COPIES, names.parse_copy)
    decided = _Decided(repository)
    # A copy whose manifest gave way to a fence is of a version that was removed on purpose.
    fences = _fences(repository)
    both = sorted((versions | copies) - fences)
    with monitor.task("comparing manifests with their copies", len(both), unit="versions") as task:
        for step in each(lambda place: _compared(repository, names.version(*place)), both):
            if step is not None and decided.lets(step):
                steps.append(step)
            task.advance(1)
    if not versions - fences and copies - fences and not rebuild:
        what = f"all manifests are gone, and {len(copies - fences)} copies of them are there"
        advice = "if nobody removed them on purpose: mlsync repair --rebuild"
        raise RebuildNeeded(what, where=f"{repository.store.url} {names.VERSIONS}", advice=advice)
    return steps + list(_tombstones(repository))


def carry_out(repository: Repository, steps: Iterable[Healing], monitor: Monitor, *, read_data: bool) -> Repaired:
    """Heal each object of a plan that still needs it; then return what a check still finds."""
    repaired = Repaired()
    for step in steps:
        try:
            _heal(repository, step)
        except (StoreError, Damage, FormatUnsupported, RepositoryMissing) as error:
            repaired.failed.append((step, error))
        else:
            repaired.done.append(step)
    return left(repository, monitor, repaired, read_data=read_data)


def left(repository: Repository, monitor: Monitor, repaired: Repaired, *, read_data: bool) -> Repaired:
    """Add to *repaired* the problems that a check finds now, and the files that they affect."""
    result = check(repository, monitor, read_data=read_data)
    repaired.left = [*result.problems, *result.unchecked]
    parsed = (names.parse_pack(problem.key) for problem in result.problems)
    repaired.packs = [pack for pack in parsed if pack is not None]
    repaired.affected = _affected(repository, result.problems)
    return repaired


# ---------------------------------------------------------------- plan


class _Decided:
    """What is decided of each run, read once: a version that is gone on purpose never comes back from its copy."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._of_run: dict[str, Decided] = {}

    def lets(self, step: Healing) -> bool:
        """Return whether a step may be done: a hidden decision may say that the version is gone."""
        if step.version is None:
            return True
        run, number = step.version
        if run not in self._of_run:
            self._of_run[run] = decided_of(self._repository, run)
        decided = self._of_run[run]
        return decided.gone_as(number) is None and (decided.hidden is None or step.heal is not Heal.FROM_COPY)


def _listed(
    repository: Repository, prefix: str, parse: Callable[[str], tuple[bytes, int] | None]
) -> set[tuple[bytes, int]]:
    found = (parse(info.key) for info in repository.store.list(prefix))
    return {one for one in found if one is not None}


def _fences(repository: Repository) -> set[tuple[bytes, int]]:
    """Return the numbers whose fence counts: whatever their copies hold, they are no versions."""
    small = (info for info in repository.store.list(names.VERSIONS) if is_fence_size(info.size_bytes))
    looked = ahead(lambda info: fences.counts(repository, info.key), small)
    found = (names.parse_version(info.key) for info, counts in looked if counts())
    return {one for one in found if one is not None}


def _header_step(fault: Error) -> Healing:
    what = "missing" if isinstance(fault, RepositoryMissing) else fault.what
    return Healing(names.HEADER, what, Heal.FROM_KEY)


def _compared(repository: Repository, key: str) -> Healing | None:
    """Return what heals a manifest or its copy, if one of them is lost or damaged and the other is not."""
    copy = names.copy_of(key)
    version, fault = _opened(repository, key, key)
    copy_version, copy_fault = _opened(repository, key, copy)
    if fault is not None and copy_version is not None:
        return Healing(key, fault, Heal.FROM_COPY, copy_version)
    if copy_fault is not None and version is not None:
        return Healing(copy, copy_fault, Heal.FROM_MANIFEST, version)
    return None


def _opened(repository: Repository, key: str, place: str) -> tuple[Version | None, str | None]:
    """Return the version of an object that opens as the manifest *key*, or else what is wrong with it.

    Both are ``None`` for what cannot be told: an object of a newer mlsync, or in cold storage.
    """
    try:
        stored, _ = repository.open_body(key, place)
    except NotFound:
        is_hidden = key == place and repository.is_fenced(key)
        return None, "a fence that does not count is in its place" if is_hidden else "missing"
    except _UNREADABLE as error:
        return None, error.what if is_no_version(error) else None
    return (stored.root.run, stored.root.number), None


def _epochs(repository: Repository) -> Iterator[Healing]:
    for fault in epoch_faults(repository):
        if fault.twin is not None:
            yield Healing(fault.key, fault.what, Heal.FROM_TWIN)
        elif fault.is_announcement:
            yield Healing(fault.key, fault.what, Heal.FROM_KEY)


def _tombstones(repository: Repository) -> Iterator[Healing]:
    # A listing of packs could be incomplete: each is asked for by its name.
    for (_, info), is_there in ahead(lambda one: repository.has_pack(one[0]), repository.listed_tombstones()):
        if not is_there():
            yield Healing(info.key, "a tombstone for a pack that is gone", Heal.REMOVE)


# ---------------------------------------------------------------- healing


def _heal(repository: Repository, step: Healing) -> None:
    if names.parse_epoch(step.key) is not None:
        heal_epoch(repository, step.key)
    elif step.heal is Heal.FROM_KEY:
        repository.make_header()
    elif step.heal is Heal.REMOVE:
        # Long after the plan, perhaps: a tombstone must stay as long as its pack does.
        if not repository.has_pack(names.parse_tombstone(step.key) or b""):
            repository.store.delete(step.key)
    else:
        _replace(repository, step)


def _replace(repository: Repository, step: Healing) -> None:
    """Store a manifest or a copy anew from the other one; an object that opens by now stays."""
    if not _Decided(repository).lets(step):
        raise ObjectDamaged("the version was removed meanwhile", where=step.key)
    is_manifest = step.heal is Heal.FROM_COPY
    key = step.key if is_manifest else names.copied(step.key)
    if fences.counts(repository, key):
        return  # removed on purpose since the plan was made
    _, body = repository.open_body(key, names.copy_of(key) if is_manifest else key)
    try:
        repository.open_body(key, step.key)
    except NotFound:
        if is_manifest and repository.is_fenced(key):
            # A retired key's fence. In one step: a number is never free.
            repository.store.replace(key, body)
    except (ManifestDamaged, FormatUnsupported) as error:
        if not is_no_version(error):
            raise
        repository.store.delete(step.key)
    else:
        return
    with suppress(AlreadyExists):
        repository.store.put(step.key, body)
    if repository.open_body(key, step.key)[1] != body:
        raise ObjectDamaged("something else was put in its place meanwhile", where=step.key)


# ---------------------------------------------------------------- what stays lost


def _affected(repository: Repository, problems: Iterable[Problem]) -> list[Affected]:
    """Return the files that need a pack with a problem, by run and path."""
    packs: dict[Version, set[bytes]] = defaultdict(set)
    for problem in problems:
        pack = names.parse_pack(problem.key)
        for version in problem.versions if pack is not None else ():
            packs[version].add(pack or b"")
    moved = set(repository.moves.listed()) if packs else set()
    files: dict[tuple[str, bytes], list[int]] = defaultdict(list)
    for (run, number), lost in sorted(packs.items()):
        with suppress(Damage, NotFound):  # the list of files itself may be lost, which is a problem of its own
            for entry in repository.entries(repository.stored(run, number)):
                needed = with_bases(entry.chunks, lambda pack: pack not in moved or repository.has_pack(pack))
                if any(_lies_in(repository, ref, lost, moved) for ref in needed):
                    files[run, entry.path].append(number)
    return [Affected(run, path, tuple(numbers)) for (run, path), numbers in sorted(files.items())]


def _lies_in(repository: Repository, ref: ChunkRef, lost: AbstractSet[bytes], moved: AbstractSet[bytes]) -> bool:
    """Return whether a chunk lies in a lost pack, or was moved to one."""
    place: ChunkRef | None = ref
    for _ in range(STEPS_MAX + 1):
        if place is None or place.pack in lost:
            break
        place = repository.moves.next_place(place) if place.pack in moved else None
    return place is not None
