"""Find, for a run that makes its first version, another run whose newest version holds the same files."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from mlsync.errors import Error
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.listing import newest_keys
from mlsync.repository.manifest import Entry, ManifestRoot, Summary
from mlsync.repository.repository import Repository, StoredVersion

# It is a hint, needed once in the life of a run: if there are more runs, the rest are not read.
_RUNS_MAX: Final = 64
_AT_ONCE: Final = 16


def find_twin(repository: Repository, entries: Iterable[Entry], summary: Summary) -> ManifestRoot | None:
    """Return the newest version of a run that holds the same files as *entries*; damaged versions are skipped.

    Lists of files are read only if number and size are the same.
    """
    if not summary.size_bytes or repository.is_write_only:
        return None
    files: dict[bytes, bytes] | None = None
    with ThreadPoolExecutor(_AT_ONCE) as executor:
        keys = newest_keys(repository, _RUNS_MAX)
        for stored in executor.map(lambda key: _read(repository, key), keys):
            if stored is not None and _is_alike(stored.root.summary, summary):
                # A repository mostly has no other run that is as large.
                files = files or _files(entries)
                with suppress(Error):
                    if _files(repository.entries(stored)) == files:
                        return stored.root
    return None


def _read(repository: Repository, key: str) -> StoredVersion | None:
    with suppress(Error):
        return repository.open_version(key)
    return None


def _is_alike(one: Summary, other: Summary) -> bool:
    return (one.file_count, one.size_bytes) == (other.file_count, other.size_bytes)


def _files(entries: Iterable[Entry]) -> dict[bytes, bytes]:
    return {entry.path: entry.digest for entry in entries if entry.kind is EntryKind.FILE}
