"""What is decided of a run's versions, for what reads them: which are left out, and what their names are.

A forgotten version is neither listed nor chosen, and a gone one is not read at all: its packs may be deleted.
"""

from __future__ import annotations

from datetime import UTC, datetime

from mlsync.errors import VersionMissing
from mlsync.repository import names
from mlsync.repository.history.decision import Forgotten, Gone
from mlsync.repository.history.decisions import Decided, find_decided
from mlsync.repository.history.seen_decision import seen_decision
from mlsync.repository.readable import newest_readable
from mlsync.repository.repository import Repository, StoredVersion


def decided_of(repository: Repository, run: str, newest: StoredVersion | None = None) -> Decided:
    """Return what is decided of a run's versions; *newest* is its newest version that opens, if the caller has it.

    If a decision is hidden, ``repository.doubts`` says so.
    """
    newest = newest or newest_readable(repository, run)
    decided = find_decided(repository, run, None if newest is None else seen_decision(newest.root.room))
    if decided.hidden is not None:
        text = f"{run}: what was decided of its versions cannot be read, so pins and forgotten versions may be missing"
        repository.doubts[names.DECISIONS + run] = f"{text}: {decided.hidden}"
    return decided


def newest_kept(repository: Repository, run: str, decided: Decided | None = None) -> StoredVersion | None:
    """Return the newest version that opens and is not forgotten or gone; ``None`` if there is none."""
    newest = newest_readable(repository, run)
    if newest is None:
        return None
    return _kept(repository, run, decided or decided_of(repository, run, newest), newest)


def kept_before(repository: Repository, run: str, number: int) -> StoredVersion | None:
    """Return the newest version below a number that opens and is not forgotten or gone; ``None`` if there is none."""
    before = newest_readable(repository, run, below=number)
    return None if before is None else _kept(repository, run, decided_of(repository, run), before)


def _kept(repository: Repository, run: str, decided: Decided, stored: StoredVersion) -> StoredVersion | None:
    found: StoredVersion | None = stored
    while found is not None and decided.dropped(found.root.number, found.digest) is not None:
        gone = decided.gone_as(found.root.number)
        below = found.root.number if gone is None else gone.first
        found = newest_readable(repository, run, below=below)
    return found


def refuse_gone(decided: Decided, number: int, where: str) -> None:
    """Raise ``VersionMissing``, which says why, if a version is gone."""
    gone = decided.gone_as(number)
    if gone is not None:
        what = f"version {number} of run {decided.run!r} was removed, {by_rule(gone)}"
        raise VersionMissing(what, where=where, advice=f"mlsync versions {decided.run} lists what is there")


def note_forgotten(repository: Repository, decided: Decided, stored: StoredVersion) -> None:
    """Let ``repository.doubts`` say that a version that was asked for by its number is forgotten."""
    number = stored.root.number
    dropped = decided.dropped(number, stored.digest)
    if dropped is not None:
        text = f"{decided.run}: version {number} is {by_rule(dropped)}; mlsync unforget {number} brings it back"
        repository.doubts[stored.key] = text


def by_rule(dropped: Forgotten | Gone) -> str:
    """Return by what rule a version was forgotten, and on which day."""
    day = datetime.fromtimestamp(dropped.forgotten_ns // 10**9, UTC).date().isoformat()
    return f"forgotten {dropped.rule if dropped.rule.startswith('by ') else f'by {dropped.rule}'} on {day}"
