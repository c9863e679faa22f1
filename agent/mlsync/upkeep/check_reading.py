"""Read what a check asks of versions ahead of it: it looks at one after the other, and waits for none of them.

What is read, and in which order it is told, is as if each was read when it is looked at: an error waits for its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from mlsync.errors import OF_OBJECT, Error
from mlsync.repository import names
from mlsync.repository.ahead import ahead
from mlsync.repository.later_proof import StoredProof
from mlsync.repository.manifest import Entry
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.upkeep.lists_ahead import FILES_MAX, file_count
from mlsync.upkeep.prune_sight import VersionPlace

# Manifests of so many bytes together are in memory ahead of their turn.
_MANIFESTS_BYTES: Final = 16 << 20

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Looked(Generic[_T]):
    """What a reading came to: its result, or the error about the object that was read."""

    value: _T | None = None
    error: Error | None = None

    @classmethod
    def of(cls, read: Callable[[], _T]) -> Looked[_T]:
        """Read now; raise what is about no single object."""
        try:
            return cls(read())
        except OF_OBJECT as error:
            return cls(error=error)

    def get(self) -> _T:
        """Return the result, or raise the error."""
        if self.error is not None:
            raise self.error
        assert self.value is not None
        return self.value


@dataclass(slots=True)
class Beside:
    """What is beside versions, by version: names of later proofs and evaluations, and of copies to be read.

    *sizes* are the bytes of the manifests.
    """

    proofs: Mapping[VersionPlace, list[str]] = field(default_factory=dict)
    evaluations: Mapping[VersionPlace, list[str]] = field(default_factory=dict)
    copies: Callable[[VersionPlace], str | None] = lambda _place: None
    sizes: Mapping[VersionPlace, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VersionRead:
    """A version that opens, its list of files, and what is beside it; *copy* is the digest of the second copy."""

    stored: StoredVersion
    entries: Looked[tuple[Entry, ...]]
    proofs: Mapping[str, Looked[StoredProof]]
    evaluations: Mapping[str, Looked[object]]
    copy: Looked[bytes] | None


def read_ahead(
    repository: Repository, places: Iterable[VersionPlace], beside: Beside
) -> Generator[tuple[VersionPlace, VersionRead | Error], None, None]:
    """Yield each version as it was read, or the error of one that does not open, in this order."""

    def opened() -> Iterator[tuple[VersionPlace, Looked[StoredVersion]]]:
        def size_of(place: VersionPlace) -> int:
            return beside.sizes.get(place, 0)

        found = ahead(
            lambda place: Looked.of(lambda: repository.open_version(names.version(*place))),
            places,
            weight_of=size_of,
            weight_max=_MANIFESTS_BYTES,
        )
        return ((place, result()) for place, result in found)

    def read(one: tuple[VersionPlace, Looked[StoredVersion]]) -> VersionRead | Error:
        place, found = one
        if found.error is not None:
            return found.error
        return _read(repository, place, found.get(), beside)

    for (place, _), result in ahead(read, opened(), weight_of=_file_count, weight_max=FILES_MAX):
        yield place, result()


def _file_count(one: tuple[VersionPlace, Looked[StoredVersion]]) -> int:
    stored = one[1].value
    return 0 if stored is None else file_count(stored)


def _read(repository: Repository, place: VersionPlace, stored: StoredVersion, beside: Beside) -> VersionRead:
    copy = beside.copies(place)
    return VersionRead(
        stored,
        Looked.of(lambda: repository.entries(stored)),
        {key: _proof(repository, key, stored) for key in beside.proofs.get(place, ())},
        {key: _evaluation(repository, key, stored) for key in beside.evaluations.get(place, ())},
        None if copy is None else Looked.of(lambda: repository.open_body(stored.key, copy)[0].digest),
    )


def _proof(repository: Repository, key: str, stored: StoredVersion) -> Looked[StoredProof]:
    return Looked.of(lambda: repository.open_later_proof(key, stored))


def _evaluation(repository: Repository, key: str, stored: StoredVersion) -> Looked[object]:
    return Looked.of(lambda: repository.open_evaluation(key, stored))
