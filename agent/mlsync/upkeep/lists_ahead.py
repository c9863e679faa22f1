"""Read the lists of files of many versions ahead of their turn: each takes a read or more of a store far away."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from mlsync.repository.ahead import ahead
from mlsync.repository.manifest import Entry
from mlsync.repository.repository import Repository, StoredVersion

#: Lists of so many files together are in memory ahead of their turn.
FILES_MAX: Final = 50_000


def file_count(stored: StoredVersion) -> int:
    """Return how many files a version says that its list has."""
    return stored.root.summary.file_count


def with_entries(
    repository: Repository, versions: Iterable[StoredVersion]
) -> Iterator[tuple[StoredVersion, tuple[Entry, ...]]]:
    """Yield each version, in order, with its entries; raise what reading them raises at its turn."""
    with ahead(repository.entries, versions, weight_of=file_count, weight_max=FILES_MAX) as lists:
        for stored, entries in lists:
            yield stored, entries()
