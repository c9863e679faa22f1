"""Note what a registry of models has of a run, so that no rule forgets it; and let it go again."""

from __future__ import annotations

from mlsync.errors import VersionMissing
from mlsync.repository.history.decisions import By, Decided, NextState, decide, room_for
from mlsync.repository.history.registered import Registered
from mlsync.repository.history.seen_decision import SeenDecision, half, seen_decision
from mlsync.repository.readable import newest_readable
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.versions.decided import decided_of, refuse_gone


def hold(
    repository: Repository,
    stored: StoredVersion,
    at: tuple[str, str, int, bytes],
    by: By,
    *,
    accept_hidden: bool = False,
) -> Registered:
    """Note that a version is registered *at* a place, as a model's version, with a path; return the note.

    A version that is forgotten comes back. Another number that the same path had in the same model is left out: the
    registry does not have it any more. Raises ``VersionMissing`` for a version that is gone, and what ``decide``
    raises.
    """
    place, model, number, path = at
    root = stored.root
    item = Registered(root.number, half(stored.digest), place, model, number, path, by.now_ns)

    def change(decided: Decided, draft: NextState) -> None:
        refuse_gone(decided, root.number, repository.store.url)
        draft.forgotten.pop(root.number, None)
        if any(is_same(one) and one.number == number for one in draft.registered):
            return
        draft.registered[:] = [*(one for one in draft.registered if not is_same(one)), item]

    def is_same(one: Registered) -> bool:
        return (one.version, one.place, one.model, one.path) == (item.version, item.place, item.model, item.path)

    decide(repository, root.run, _newest_word(repository, root.run), change, by, accept_hidden=accept_hidden)
    return item


def refuse_full(repository: Repository, stored: StoredVersion, at: tuple[str, str, int, bytes]) -> None:
    """Raise ``VersionKept`` if the run's decisions have no room to ``hold`` a version there.

    That is to be known before the registry has something that nothing here would keep.
    """
    run = stored.root.run
    place, model, number, path = at
    item = Registered(stored.root.number, half(stored.digest), place, model, number, path, By.here().now_ns)
    room_for(run, [*(one for items in decided_of(repository, run).registered.values() for one in items), item])


def let_go(
    repository: Repository, run: str, number: int, model: str | None, by: By, *, accept_hidden: bool = False
) -> tuple[Registered, ...]:
    """Have a version not count as registered any more, as *model* or at all, and return what was noted.

    Raises ``VersionMissing`` if nothing was, and what ``decide`` raises.
    """
    where = repository.store.url
    removed: list[Registered] = []

    def change(decided: Decided, draft: NextState) -> None:
        removed[:] = _registered(decided, number, model, where)
        draft.registered[:] = [one for one in draft.registered if one not in removed]

    decide(repository, run, _newest_word(repository, run), change, by, accept_hidden=accept_hidden)
    return tuple(removed)


def registered_of(repository: Repository, run: str, number: int, model: str | None) -> tuple[Registered, ...]:
    """Return as what a version is registered, at all or as *model*; raise ``VersionMissing`` if it is not."""
    return _registered(decided_of(repository, run), number, model, repository.store.url)


def _registered(decided: Decided, number: int, model: str | None, where: str) -> tuple[Registered, ...]:
    found = tuple(one for one in decided.registered.get(number, ()) if model in (None, one.model))
    if not found:
        what = f"version {number} of run {decided.run!r} is not registered" + (f" as {model!r}" if model else "")
        there = ", ".join(f"{one} as {items[0].uri}" for one, items in sorted(decided.registered.items()))
        raise VersionMissing(what, where=where, advice=f"registered: {there or 'none'}")
    return found


def _newest_word(repository: Repository, run: str) -> SeenDecision | None:
    newest = newest_readable(repository, run)
    return None if newest is None else seen_decision(newest.root.room)
