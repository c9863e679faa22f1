"""Find the versions of a run that open, among objects that others may have planted.

An object that does not open (it does not authenticate, or contradicts itself) is skipped and reported, whatever its
number, and blocks nothing: the newest version is the newest one that opens. A listing shows which numbers exist, and
only the seal of a manifest shows whether it is a version, so each planted object costs one read. A long-running process
remembers what did not open (``ListedVersion.stamp``) and reads it once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from mlsync.errors import FormatUnsupported, ManifestDamaged, VersionMissing
from mlsync.monitor import Monitor
from mlsync.repository import names
from mlsync.repository.ahead import AT_ONCE, each
from mlsync.repository.listing import last_page
from mlsync.repository.repository import ListedVersion, Repository, StoredVersion, is_no_version

_NAMED_COUNT: Final = 8
# So many of these are in memory at once; larger ones are opened alone.
_SMALL_BYTES: Final = 1 << 20


def newest_readable(
    repository: Repository, run: str, *, below: int = names.VERSION_MAX + 1, known: Mapping[int, str] | None = None
) -> StoredVersion | None:
    """Return the run's newest version that opens, among those below a number; ``None`` if there is none.

    *known* holds objects that did not open before, by number, with the stamps that they had: they are not read again.
    """
    while page := last_page(repository, run, below):
        unread = (one for one in reversed(page) if not one.is_fence)
        unknown = [one for one in unread if (known or {}).get(one.number) != one.stamp]
        for _, stored in opened(repository, run, unknown):
            if stored is not None:
                return stored
        below = page[0].number
    return None


def readable(repository: Repository, run: str, numbers: Iterable[int]) -> Iterator[StoredVersion]:
    """Yield the versions of these numbers that open, in this order; each is read when the caller asks for it."""
    for number in numbers:
        stored = stored_or_none(repository, run, number)
        if stored is not None:
            yield stored


def opened(
    repository: Repository, run: str, listed: Sequence[ListedVersion]
) -> Iterator[tuple[ListedVersion, StoredVersion | None]]:
    """Yield each of these with its version, ``None`` if it does not open or is gone.

    The first is opened alone, since it mostly is the wanted one; the others are opened several at once.
    """

    def look(one: ListedVersion) -> tuple[ListedVersion, StoredVersion | None]:
        return one, stored_or_none(repository, run, one.number)

    yield from map(look, listed[:1])
    for batch in _batches(listed[1:]):
        yield from each(look, batch)


def stored_or_none(repository: Repository, run: str, number: int) -> StoredVersion | None:
    """Return a version; ``None`` if it is gone or does not open, which is recorded in ``repository.skipped``."""
    try:
        return repository.stored(run, number)
    except VersionMissing:
        return None
    except (ManifestDamaged, FormatUnsupported) as error:
        if not is_no_version(error):
            raise
        repository.skipped[repository.version_key(run, number)] = error
        return None


def _batches(listed: Sequence[ListedVersion]) -> Iterator[Sequence[ListedVersion]]:
    """Yield batches in order: small objects together, and each large one alone."""
    batch: list[ListedVersion] = []
    for one in listed:
        is_large = one.size_bytes > _SMALL_BYTES
        if batch and (is_large or len(batch) == AT_ONCE):
            yield batch
            batch = []
        if is_large:
            yield [one]
        else:
            batch.append(one)
    if batch:
        yield batch


def report_skipped(repository: Repository, monitor: Monitor) -> None:
    """Report the objects that did not open, and the versions that were passed over, since the last call."""
    skipped, doubts = dict(repository.skipped), dict(repository.doubts)
    repository.skipped.clear()
    repository.doubts.clear()
    for _, text in sorted(doubts.items())[:_NAMED_COUNT]:
        monitor.notice("warning", text)
    if len(doubts) > _NAMED_COUNT:
        monitor.notice("warning", f"{len(doubts) - _NAMED_COUNT} more versions are passed over; see mlsync check")
    for key, error in sorted(skipped.items())[:_NAMED_COUNT]:
        monitor.notice("warning", f"{key} is skipped: {error.what}")
    if len(skipped) > _NAMED_COUNT:
        text = f"{len(skipped) - _NAMED_COUNT} more objects under the names of versions and proofs are skipped"
        monitor.notice("warning", f"{text}; mlsync check names all of them")


def newest_maker(repository: Repository, run: str, known: StoredVersion | None = None) -> tuple[int, bytes]:
    """Return the number of the run's newest version and its writer's id; *known* is that version if it is known."""
    newest = known or newest_readable(repository, run)
    return (0, b"") if newest is None else (newest.root.number, newest.root.origin.id)
