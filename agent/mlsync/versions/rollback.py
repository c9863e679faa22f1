"""Find out whether a store shows an older history than this machine saw before."""

from __future__ import annotations

from mlsync.errors import HistoryRolledBack
from mlsync.repository.readable import newest_readable, stored_or_none
from mlsync.repository.repository import Repository
from mlsync.source.state import Head

_ADVICE = "find out who changed the store; --accept-rollback goes on with what it shows"


def refuse_rolled_back(repository: Repository, run: str, head: Head, *, by_number: bool) -> None:
    """Raise ``HistoryRolledBack`` unless the version that was seen last is still there, and unchanged.

    A version that a decision calls gone is not missed. If it is there and does not open, it is skipped and recorded
    like any other: it is damaged. Then a caller that asks for the newest version, and not *by_number*, would get an
    older version than was seen: that raises too.
    """
    first = next(repository.listed(run, after=head.number - 1), None)
    stored = stored_or_none(repository, run, head.number)
    is_gone = first is None or first.number != head.number
    if (is_gone or stored is None) and is_removed(repository, run, head.number):
        return
    if is_gone or (stored is not None and stored.digest != head.digest):
        raise rolled_back(run, head, repository.store.url, _ADVICE)
    if stored is None and not by_number:
        newest = newest_readable(repository, run)
        if newest is not None and newest.root.number < head.number:
            what = (
                f"version {head.number} of run {run!r}, which was seen before, does not open any more; the newest that "
            )
            raise HistoryRolledBack(f"{what}does is {newest.root.number}", where=repository.store.url, advice=_ADVICE)


def is_removed(repository: Repository, run: str, number: int) -> bool:
    """Return whether a version is gone because that was decided: a newer one is there then, since the newest stays."""
    newest = newest_readable(repository, run)
    if newest is None or newest.root.number < number:
        return False
    from mlsync.versions.decided import decided_of  # late: a backup that finds nothing new asks for no decision

    return decided_of(repository, run, newest).gone_as(number) is not None


def refuse_older(repository: Repository, run: str, number: int) -> None:
    """Raise ``HistoryRolledBack`` unless the run's newest version has this number or a higher one."""
    newest = newest_readable(repository, run)
    if newest is None or newest.root.number < number:
        found = "no version of it opens" if newest is None else f"its newest version is {newest.root.number}"
        what = f"the store shows less of run {run!r} than it has to: {found}, and {number} was asked for at least"
        raise HistoryRolledBack(what, where=repository.store.url, advice="find out who changed the store")


def rolled_back(run: str, head: Head, url: str, advice: str | None = None) -> HistoryRolledBack:
    """Return the error for a store that shows another history than this machine saw."""
    what = f"the store no longer shows version {head.number} of run {run!r} as it was seen before"
    own = "find out who changed the store; to take its word, delete the local state"
    return HistoryRolledBack(what, where=url, advice=advice or own)
