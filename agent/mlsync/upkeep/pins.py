"""Pin versions, so that no rule forgets them, and give them names."""

from __future__ import annotations

from typing import Final

from mlsync.errors import ConfigInvalid, PinNameTaken, VersionMissing
from mlsync.repository.history.decision import REASON_BYTES_MAX, Pin, is_pin_name
from mlsync.repository.history.decisions import By, Decided, NextState, decide
from mlsync.repository.history.seen_decision import half
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.upkeep.forget import newest_word
from mlsync.values import storable
from mlsync.versions.decided import refuse_gone
from mlsync.versions.select import WORDS

# Words that mean versions, or may mean some in a later mlsync.
_RESERVED: Final = frozenset(
    {*WORDS, "last", "newest", "first", "oldest", "all", "none", "pinned", "registered", "now"}
)


def refuse_pin_name(name: str) -> None:
    """Raise ``ConfigInvalid`` for a name that no pin can have."""
    if not is_pin_name(name):
        what = f"not a name for a pin: {name!r}"
        advice = "give a letter, then letters, digits, '.', '_' and '-', at most 63 together"
        raise ConfigInvalid(what, advice=advice)
    if name.lower() in _RESERVED:
        raise ConfigInvalid(f"{name!r} means something else already", advice=f"for example {name}-1")


def refuse_reason(reason: str) -> None:
    """Raise ``ConfigInvalid`` for a reason that is longer than a decision holds, or has more than one line."""
    if len(storable(reason).encode()) > REASON_BYTES_MAX:
        raise ConfigInvalid("the reason is longer than 1,000 bytes", advice="say it shorter")
    if not storable(reason).isprintable():
        raise ConfigInvalid("the reason has a line break or a control character", advice="give it on one line")


def pin(
    repository: Repository,
    stored: StoredVersion,
    by: By,
    *,
    name: str | None = None,
    reason: str | None = None,
    accept_hidden: bool = False,
) -> tuple[Pin, bool]:
    """Pin a version; return the pin, and whether the version was forgotten, and is not any more.

    Of a version that is pinned already, name and reason stay unless they are given. Raises ``PinNameTaken``,
    ``VersionMissing`` for a version that is gone, and what ``decide`` raises.
    """
    root, run = stored.root, stored.root.run
    made: list[tuple[Pin, bool]] = []

    def change(decided: Decided, draft: NextState) -> None:
        refuse_gone(decided, root.number, repository.store.url)
        before = decided.pins.get(root.number)
        kept_name, kept_reason = ("", "") if before is None else (before.name, before.reason)
        new = Pin(
            root.number,
            half(stored.digest),
            kept_name if name is None else name,
            storable(kept_reason if reason is None else reason),
            by.now_ns,
        )
        _refuse_taken(decided, new, repository.store.url)
        if before is None or (before.name, before.reason, before.manifest) != (new.name, new.reason, new.manifest):
            draft.pins[root.number] = new
        was_forgotten = draft.forgotten.pop(root.number, None) is not None
        made[:] = [(draft.pins[root.number], was_forgotten)]

    decide(repository, run, newest_word(repository, run), change, by, accept_hidden=accept_hidden)
    return made[0]


def unpin(repository: Repository, run: str, text: str, by: By, *, accept_hidden: bool = False) -> Pin:
    """Remove the pin of a version, by its number or the pin's name, and return it; the version stays listed.

    Raises ``VersionMissing`` if there is no such pin, and what ``decide`` raises.
    """
    removed: list[Pin] = []

    def change(decided: Decided, draft: NextState) -> None:
        found = decided.pins.get(int(text)) if text.isdecimal() else decided.named(text)
        if found is None:
            which = f"version {text}" if text.isdecimal() else repr(text)
            pinned = ", ".join(one.name or str(number) for number, one in sorted(decided.pins.items()))
            what = f"{which} of run {run!r} is not pinned"
            advice = f"pinned: {pinned or 'none'}"
            if text.isdecimal() and int(text) in decided.registered:
                advice = f"it is registered: mlsync unregister {text}; {advice}"
            raise VersionMissing(what, where=repository.store.url, advice=advice)
        del draft.pins[found.version]
        removed[:] = [found]

    decide(repository, run, newest_word(repository, run), change, by, accept_hidden=accept_hidden)
    return removed[0]


def _refuse_taken(decided: Decided, new: Pin, where: str) -> None:
    for pin_ in decided.pins.values():
        if new.name and pin_.name.lower() == new.name.lower() and pin_.version != new.version:
            what = f"version {pin_.version} of run {decided.run!r} is pinned as {pin_.name}"
            raise PinNameTaken(what, where=where)
