"""Read the logs that trainers write beside their checkpoints from a version: small files that no proof reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeVar

from mlsync.errors import Damage, StoreError
from mlsync.formats.logs.trainer_logs import (
    ARGUMENTS_NAME,
    RESULTS_BYTES_MAX,
    RESULTS_NAME,
    STATE_BYTES_MAX,
    STATE_NAME,
    argument_facts,
    results_facts,
    state_facts,
)
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import ChunkRef, Entry
from mlsync.repository.repository import Repository
from mlsync.values import Fact
from mlsync.versions.logs.content import content_of

# Bounded, since a directory may have thousands of checkpoints, and each file is read before anything is shown.
_FILES_MAX: Final = 200
_READERS: Final[Mapping[bytes, tuple[int, Callable[[bytes], dict[str, Fact]]]]] = {
    STATE_NAME: (STATE_BYTES_MAX, state_facts),
    RESULTS_NAME: (RESULTS_BYTES_MAX, results_facts),
    ARGUMENTS_NAME: (STATE_BYTES_MAX, argument_facts),
}
_T = TypeVar("_T")


def logged_facts(repository: Repository, entries: Iterable[Entry]) -> dict[bytes, dict[str, Fact]]:
    """Return the facts in the trainers' logs of a version, by path; of more than 200 logs, the last 200.

    A log that cannot be read is left out: ``check`` reports it.
    """
    logs = [entry for entry in entries if entry.kind is EntryKind.FILE and _name(entry) in _READERS]
    looked: dict[tuple[ChunkRef, ...], dict[str, Fact] | None] = {}
    found: dict[bytes, dict[str, Fact]] = {}
    for entry in sorted(logs, key=lambda entry: entry.mtime_ns)[-_FILES_MAX:]:
        bytes_max, read = _READERS[_name(entry)]
        try:
            found |= dict(read_files(repository, {entry.path: entry}, bytes_max, read, looked))
        except (Damage, StoreError):
            continue
    return {path: facts for path, facts in found.items() if facts}


def _name(entry: Entry) -> bytes:
    return entry.path.rpartition(b"/")[2]


def read_files(
    repository: Repository,
    files: Mapping[bytes, Entry],
    bytes_max: int,
    read: Callable[[bytes], _T | None],
    looked: dict[tuple[ChunkRef, ...], _T | None],
) -> Iterator[tuple[bytes, _T]]:
    """Yield the results of *read* for small files of a version; a file that versions share is read once."""
    for path, entry in files.items():
        if entry.size_bytes > bytes_max:
            continue
        if entry.chunks not in looked:
            looked[entry.chunks] = read(content_of(repository, entry))
        said = looked[entry.chunks]
        if said is not None:
            yield path, said
