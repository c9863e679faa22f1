"""Find the runs of a repository, and the last versions of a run, by listings of the store.

A listing shows only names. Whoever may create objects can plant some under the names of versions, so a run has the name
that an opened manifest gives it, and no listing proves that a version exists (see readable.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, takewhile
from typing import Final

import msgspec

from mlsync.errors import FormatUnsupported, ManifestDamaged, NotFound
from mlsync.repository import names
from mlsync.repository.ahead import ahead, each
from mlsync.repository.repository import ListedVersion, Repository, listed_versions

# S3 lists as many objects in one response.
PAGE_COUNT: Final = 1000
_LISTED_MAX: Final = 20 * PAGE_COUNT
# How many of a run's oldest and of its newest manifests are opened to learn its name.
_NAMED_BY: Final = 16


class Run(msgspec.Struct, frozen=True):
    """A run as listings show it."""

    name: str
    numbers: tuple[int, ...]


def last_page(repository: Repository, run: str, below: int = names.VERSION_MAX + 1) -> list[ListedVersion]:
    """Return the objects, fences too, under the names of the run's last versions below a number, by rising number.

    This reads one page of a listing for a run of up to as many versions, and for longer histories a number of pages
    that grows with the logarithm of their length.
    """
    # The last version has a number above *low*, or is *low* itself; no version that counts has the number *high* or one
    # above it.
    low, high, step, probe = 0, None, 0, 0
    last: list[ListedVersion] = []
    while high is None or low < high:
        page = _page(repository, run, probe, below)
        if 0 < len(page) < PAGE_COUNT:
            return page
        is_behind_low = probe == low
        if page:
            low, last = page[-1].number, page
        else:
            high = probe
        if high is None:
            # Never above the highest number: its key would have a digit more, and sort somewhere else.
            probe, step = min(low + step, names.VERSION_MAX), max(2 * step, PAGE_COUNT)
        else:
            # The page behind *low* first: most histories end in it.
            probe = (low + high) // 2 if is_behind_low else low
    return last


def _page(repository: Repository, run: str, after: int, below: int) -> list[ListedVersion]:
    """Return the first objects of a run above one number and below another, as many as come in one page."""
    return list(takewhile(lambda one: one.number < below, islice(repository.listed(run, after=after), PAGE_COUNT)))


def run_names(repository: Repository) -> Iterator[str]:
    """Yield the names of all runs, in no order: each costs its part of a listing, two pages at most, and a manifest."""

    def named(first: tuple[bytes, ListedVersion]) -> str | None:
        run_id, one = first
        return _name_in(repository, run_id, one) or _name_among(repository, run_id, _versions_of(repository, run_id))

    yield from (name for name in each(named, _first_versions(repository)) if name is not None)


def _first_versions(repository: Repository) -> Iterator[tuple[bytes, ListedVersion]]:
    """Yield the first version of each run that is listed; of a long run the rest is not listed."""
    after: str | None = ""
    while after is not None:
        listing, after = repository.store.list(names.VERSIONS, after=after), None
        run, count, is_found = b"", 0, False
        # Objects that are no versions are skipped within one listing: a new listing for each would cost a call each.
        for run_id, one in listed_versions(listing):
            if run_id != run:
                run, count, is_found = run_id, 0, False
            count += 1
            if not is_found and not one.is_fence:
                is_found = True
                yield run_id, one
            if is_found and count >= PAGE_COUNT:
                after = names.version(run_id, names.VERSION_MAX)
                break


def runs(repository: Repository) -> list[Run]:
    """Return every run with the numbers of its versions, by name; a run of which no version opens is left out."""
    by_id: dict[bytes, list[ListedVersion]] = {}
    for run_id, one in listed_versions(repository.store.list(names.VERSIONS)):
        if not one.is_fence:
            by_id.setdefault(run_id, []).append(one)
    named = ahead(lambda run_id: _name_among(repository, run_id, by_id[run_id]), by_id)
    found = ((name(), by_id[run_id]) for run_id, name in named)
    opened = [Run(name, tuple(one.number for one in listed)) for name, listed in found if name is not None]
    return sorted(opened, key=lambda run: run.name)


def newest_keys(repository: Repository, limit: int) -> list[str]:
    """Return the names of the newest versions of up to *limit* runs: one listing, of few pages."""
    newest: dict[bytes, str] = {}
    for run_id, one in islice(listed_versions(repository.store.list(names.VERSIONS)), _LISTED_MAX):
        if run_id not in newest and len(newest) == limit:
            break
        if not one.is_fence:
            newest[run_id] = names.version(run_id, one.number)
    return list(newest.values())


def _versions_of(repository: Repository, run_id: bytes) -> list[ListedVersion]:
    listed = listed_versions(repository.store.list(names.run_prefix(run_id)))
    return [one for _, one in listed if not one.is_fence]


def _name_among(repository: Repository, run_id: bytes, listed: Sequence[ListedVersion]) -> str | None:
    """Return the name of a run, which is sealed in each of its manifests: any manifest that opens gives it.

    The oldest are opened first, since planted objects came later, and then the newest. A made-up run has no name, and
    costs no more reads for being large.
    """
    by_age = sorted(listed, key=lambda one: one.modified_s)
    for one in [*by_age[:_NAMED_BY], *by_age[_NAMED_BY:][: -_NAMED_BY - 1 : -1]]:
        name = _name_in(repository, run_id, one)
        if name is not None:
            return name
    return None


def _name_in(repository: Repository, run_id: bytes, one: ListedVersion) -> str | None:
    key = names.version(run_id, one.number)
    try:
        return repository.open_version(key).root.run
    except NotFound:
        pass
    except (ManifestDamaged, FormatUnsupported) as error:
        repository.skipped[key] = error
    return None
