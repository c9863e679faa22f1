"""What a prune has to see before it may delete anything: all versions of all runs, and the packs that they name.

Nothing is deleted on the word of one listing. What a listing lacks is found out by numbers: those of a run leave no
gap, as a removed version leaves a fence, so a number that looks free and is not tells that the listing is incomplete.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from mlsync.errors import OF_OBJECT, Error, FormatUnsupported, ManifestDamaged, NotFound
from mlsync.monitor import Monitor
from mlsync.repository import names, sealed_object
from mlsync.repository.ahead import ahead, each
from mlsync.repository.history import tombstone
from mlsync.repository.named_packs import NamedPacks
from mlsync.repository.reader import ChunkReader
from mlsync.repository.repository import ListedVersion, Repository, StoredVersion, is_no_version, listed_versions

# So many bytes of manifests are in memory ahead of their turn.
_AHEAD_BYTES: Final = 8 << 20

# A version's place: the run's id and the number.
VersionPlace = tuple[bytes, int]


@dataclass(frozen=True, slots=True)
class Blocked:
    """Something that keeps a prune from deleting packs: an object, and why."""

    key: str
    why: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A tombstone as it was read: when it was made, and its bytes, by which it is known again.

    One *is_retired* that is under an older key than the newest: who kept that key can make it, with any time.
    """

    made_ns: int
    body: bytes
    is_retired: bool = False


@dataclass(slots=True)
class Sight:
    """What was seen: versions by run and number, what each run is called, and the packs that versions name.

    *blocked* says why packs may not be deleted; *awaited* are numbers that were taken, so that each listing must have
    them.
    """

    listed: dict[bytes, dict[int, ListedVersion]] = field(default_factory=lambda: defaultdict(dict))
    runs: dict[bytes, str] = field(default_factory=dict)
    newest: dict[bytes, StoredVersion] = field(default_factory=dict)
    named: set[bytes] = field(default_factory=set)
    blocked: list[Blocked] = field(default_factory=list)
    awaited: set[VersionPlace] = field(default_factory=set)
    _read: dict[VersionPlace, str] = field(default_factory=dict)
    _packs: NamedPacks = field(default_factory=NamedPacks)

    def block(self, key: str, why: str) -> None:
        """Note why no pack may be deleted."""
        self.blocked.append(Blocked(key, why))

    def packs_of(self, stored: StoredVersion, reader: ChunkReader) -> set[bytes]:
        """Return the packs that a version names; parts of lists of files that versions share are read once."""
        return self._packs.of(stored, reader)

    def is_read(self, place: VersionPlace, one: ListedVersion) -> bool:
        """Return whether this very object was read; objects never change."""
        return self._read.get(place) == one.stamp

    def note_read(self, place: VersionPlace, one: ListedVersion) -> None:
        """Note that the packs of this object are known."""
        self._read[place] = one.stamp


_PARSE: Final[Mapping[str, Callable[[str], VersionPlace | None]]] = {
    names.COPIES: names.parse_copy,
    names.LATER_PROOFS: names.parse_later_proof,
    names.EVALUATIONS: names.parse_evaluation,
}


def list_versions(repository: Repository) -> dict[bytes, dict[int, ListedVersion]]:
    """Return all objects under names of versions, fences too; an object that a listing has twice counts once."""
    found: dict[bytes, dict[int, ListedVersion]] = defaultdict(dict)
    for run_id, one in listed_versions(repository.store.list(names.VERSIONS)):
        found[run_id][one.number] = one
    return found


def list_places(repository: Repository, prefix: str) -> dict[str, VersionPlace]:
    """Return the versions that copies, later proofs or evaluations belong to, by the names of these."""
    parse = _PARSE[prefix]
    found = ((info.key, parse(info.key)) for info in repository.store.list(prefix))
    return {key: place for key, place in found if place is not None}


def read_marks(repository: Repository) -> dict[bytes, Mark | None]:
    """Return all tombstones by pack; ``None`` stands for one that does not open, which is nobody's who has the key."""
    packs = sorted(repository.tombstones())

    def read(pack_id: bytes) -> Mark | None:
        key = names.tombstone(pack_id)
        try:
            found, body = tombstone.read(
                repository.store, key, lambda body: tombstone.open_tombstone(repository.keys, key, body)
            )
        except (ManifestDamaged, FormatUnsupported, NotFound):
            return None
        return Mark(found.made_ns, body, sealed_object.epoch_of(body) < repository.keys.epoch)

    return dict(zip(packs, each(read, packs), strict=True))


def registered_runs(repository: Repository) -> Iterator[tuple[bytes, str]]:
    """Yield the runs that are registered, with their names; what somebody planted does not open and is left out."""

    def read(key: str) -> str | None:
        with suppress(*OF_OBJECT):
            return tombstone.read(repository.store, key, _opening(repository, key))[0].run
        return None

    listed = ((info.key, names.parse_registration(info.key)) for info in repository.store.list(names.RUNS))
    keys = {key: run_id for key, run_id in listed if run_id is not None}
    yield from ((keys[key], found) for key, run in ahead(read, keys) if (found := run()) is not None)


def _opening(repository: Repository, key: str) -> Callable[[bytes], tombstone.Registration]:
    return lambda body: tombstone.open_registration(repository.keys, key, body, lambda run: repository.is_run(key, run))


def open_newest(repository: Repository, sight: Sight) -> None:
    """Find the name and the newest version that opens of each run that was listed."""

    def newest(run_id: bytes) -> StoredVersion | None:
        listed = sight.listed[run_id]
        for number in sorted(listed, reverse=True):
            if not listed[number].is_fence:
                with suppress(*OF_OBJECT):
                    return repository.open_version(names.version(run_id, number))
        return None

    for run_id, found in ahead(newest, list(sight.listed)):
        stored = found()
        if stored is not None:
            sight.newest[run_id], sight.runs[run_id] = stored, stored.root.run


def read_versions(
    repository: Repository, sight: Sight, places: Sequence[tuple[VersionPlace, ListedVersion]], monitor: Monitor
) -> Iterator[tuple[VersionPlace, StoredVersion, set[bytes]]]:
    """Yield versions with the packs that they name; block what does not open, not even as its copy."""
    opened = ahead(
        lambda one: _open(repository, one[0]), places, weight_of=lambda one: one[1].size_bytes, weight_max=_AHEAD_BYTES
    )
    with (
        repository.reader() as reader,
        monitor.task("reading manifests", len(places), unit="versions") as task,
        opened,
    ):
        for (place, one), found in opened:
            task.advance(1)
            key = names.version(*place)
            stored, fault = found()
            if stored is None:
                sight.block(key, fault or "it does not open")
                continue
            try:
                packs = sight.packs_of(stored, reader)
            except OF_OBJECT as error:
                sight.block(key, f"its list of files cannot be read: {error.what}")
                continue
            sight.note_read(place, one)
            yield place, stored, packs


def _open(repository: Repository, place: VersionPlace) -> tuple[StoredVersion | None, str | None]:
    """Return a version from its manifest, or from its copy if that does not open; or else what is wrong."""
    key = names.version(*place)
    try:
        return repository.open_version(key), None
    except OF_OBJECT as error:
        fault: Error = error
    # Of a manifest that is damaged or lost, the copy has the same bytes. A newer mlsync's is not to be looked past.
    if is_no_version(fault) or isinstance(fault, NotFound):
        with suppress(*OF_OBJECT):
            return repository.open_body(key, names.copy_of(key))[0], None
    return None, fault.what


def free_numbers(listed: Mapping[int, object], is_version: Callable[[int], bool]) -> list[int]:
    """Return the free numbers that a writer can have in mind: the first behind each row of taken ones, and 1.

    It takes the lowest free number above a version, and no number becomes free again. A row without any version or
    fence that opens, by *is_version*, was planted: no writer comes by it.
    """
    found: list[int] = []
    row: list[int] = []
    for number in [*sorted(listed), 0]:
        if row and number != row[-1] + 1:
            if row[0] == 1 or any(map(is_version, row)):
                found.append(row[-1] + 1)
            row = []
        row.append(number)
    if 1 not in listed:
        found.append(1)
    return sorted(number for number in found if number <= names.VERSION_MAX)
