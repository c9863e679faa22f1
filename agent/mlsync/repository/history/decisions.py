"""Find what is decided of a run's versions, and decide anew. See decision.py for the objects.

The newest decision that opens counts. A decision is *hidden* if a manifest or the name of an object tells of a newer
one that cannot be read: a reader says so, believes what it can see, and nothing is removed. Two writers cannot both
make the same number: who comes second looks at what the first decided, and decides again.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final, Self

import msgspec

import mlsync
from mlsync.codec.digest import run_id
from mlsync.errors import (
    AlreadyExists,
    Damage,
    DecisionsHidden,
    DecisionTaken,
    FormatUnsupported,
    ManifestDamaged,
    NotFound,
    ObjectArchived,
    StoreBroken,
    VersionKept,
)
from mlsync.repository import names, sealed_object
from mlsync.repository.encoding.room import ROOM_BYTES_MAX, Room, room_of
from mlsync.repository.history.decision import (
    ITEMS_MAX,
    PINS_MAX,
    Decision,
    Forgotten,
    Gone,
    Pin,
    decision_key,
    open_decision,
    seal,
    tagged_number,
)
from mlsync.repository.history.registered import ROOM_NAME as REGISTERED_NAME
from mlsync.repository.history.registered import Registered, by_version, registered_in, registered_value
from mlsync.repository.history.seen_decision import SeenDecision, half
from mlsync.repository.manifest import Previous
from mlsync.repository.read_twice import read_anywhere, reads_back
from mlsync.repository.readable import newest_readable
from mlsync.repository.repository import Repository
from mlsync.store.base import Store
from mlsync.values import storable

# How often a writer begins anew because another one decided meanwhile.
_TRIES: Final = 8
_DAY_NS: Final = 24 * 3600 * 10**9
_UNREADABLE: Final = (Damage, FormatUnsupported, ObjectArchived, NotFound)
#: What to do about hidden decisions.
HIDDEN_ADVICE: Final = "find out who changed the store; --accept-rollback decides anew on what it shows"


@dataclass(frozen=True, slots=True)
class Decided:
    """What is decided of a run's versions: the state after the decision *number*, 0 if there is none.

    *hidden* says why a newer decision cannot be read, ``None`` if none is known. *next_number* is that of the next one:
    above all that are known to exist.
    """

    run: str
    number: int = 0
    digest: bytes = b""
    pins: Mapping[int, Pin] = field(default_factory=dict)
    forgotten: Mapping[int, Forgotten] = field(default_factory=dict)
    gone: tuple[Gone, ...] = ()
    hidden: str | None = None
    next_number: int = 1
    registered: Mapping[int, tuple[Registered, ...]] = field(default_factory=dict)

    @property
    def seen(self) -> SeenDecision | None:
        """What a manifest says of this decision."""
        return SeenDecision(self.number, half(self.digest)) if self.number else None

    @property
    def highest_dropped(self) -> int:
        """The highest number that a forgotten or gone version has; 0 if there is none."""
        return max([*self.forgotten, *(one.last for one in self.gone)], default=0)

    @property
    def gone_count(self) -> int:
        """How many versions are gone."""
        return sum(one.last - one.first + 1 for one in self.gone)

    def gone_as(self, number: int) -> Gone | None:
        """Return how a version went that may be deleted; ``None`` if it may not."""
        # A list of versions asks for each of them, and years of a run make many ranges.
        at = bisect_right(self.gone, number, key=lambda one: one.first)
        return self.gone[at - 1] if at and number <= self.gone[at - 1].last else None

    def dropped(self, number: int, digest: bytes | None = None) -> Forgotten | Gone | None:
        """Return by what a version is forgotten or gone; ``None`` if it is neither.

        With the *digest* of its manifest, a version that is not the one that was forgotten stays.
        """
        item = self.forgotten.get(number)
        if item is not None:
            return item if digest is None or half(digest) == item.manifest else None
        return self.gone_as(number)

    def named(self, name: str) -> Pin | None:
        """Return the pin of that name."""
        return next((pin for pin in self.pins.values() if pin.name == name), None)

    def refuse_hidden(self, where: str) -> None:
        """Raise ``DecisionsHidden`` if a newer decision cannot be read: what it says must not be undone."""
        if self.hidden is not None:
            what = f"nothing was changed: what was decided of run {self.run!r} cannot be read: {self.hidden}"
            raise DecisionsHidden(what, where=where, advice=HIDDEN_ADVICE)


@dataclass(slots=True)
class NextState:
    """What is to be decided next; it begins as what is decided now."""

    pins: dict[int, Pin]
    forgotten: dict[int, Forgotten]
    gone: tuple[Gone, ...]
    registered: list[Registered]

    @classmethod
    def of(cls, decided: Decided) -> Self:
        """Return what is decided now."""
        registered = [one for items in decided.registered.values() for one in items]
        return cls(dict(decided.pins), dict(decided.forgotten), decided.gone, registered)


class By(msgspec.Struct, frozen=True):
    """Who decides, and when."""

    host: str
    now_ns: int

    @classmethod
    def here(cls) -> Self:
        """Return this machine, and the time by its clock."""
        import socket  # late: hardly any command decides

        return cls(socket.gethostname(), time.time_ns())


def find_decided(repository: Repository, run: str, seen: SeenDecision | None = None) -> Decided:
    """Return what is decided of a run's versions; *seen* is what the run's newest manifest says of decisions.

    This costs one listing, which begins at what was seen, and mostly one object. A decision that does not open is in
    ``repository.skipped``.
    """
    run_bytes = run_id(repository.keys.of("run id"), run)
    after = 0 if seen is None else seen.number - 1
    numbers = _listed(repository, run_bytes, after)
    decided, fault = _newest_of(repository, run, numbers)
    if decided is None and after:
        # The one that was seen, and all after it, are gone or damaged.
        older = [number for number in _listed(repository, run_bytes, 0) if number <= after]
        decided, _ = _newest_of(repository, run, older)
    found = decided or Decided(run)
    counting = max(found.number, 0 if seen is None else seen.number)
    return _with_hidden(found, seen, fault, _next_number(counting, numbers))


def decide(
    repository: Repository,
    run: str,
    seen: SeenDecision | None,
    change: Callable[[Decided, NextState], None],
    by: By,
    *,
    accept_hidden: bool = False,
    found: Decided | None = None,
) -> Decided:
    """Change what is decided, and return it as it is then; nothing is written if nothing changes.

    *change* gets what is decided now, and may raise: if another writer is faster it is called again. The first time it
    gets what the caller *found* just now; if that is not the newest, the number of the next decision is taken. Raises
    ``DecisionsHidden`` unless that is accepted, ``DecisionTaken``, or ``RepositoryMissing``.
    """
    for _ in range(_TRIES):
        decided, found = found or find_decided(repository, run, seen), None
        if not accept_hidden:
            decided.refuse_hidden(repository.store.url)
        draft = NextState.of(decided)
        change(decided, draft)
        if draft == NextState.of(decided) and decided.hidden is None:
            return decided
        made = _decision(decided, draft, by)
        key = decision_key(repository.keys, run, made.number)
        body = seal(repository.keys, made, key)
        repository.confirm()
        with suppress(AlreadyExists):
            repository.store.put(key, body)
            if reads_back(repository.store, key, body):
                repository.refuse_retired()
                return state_of(made, open_decision(repository.keys, key, body)[1])
    what = f"other writers decide about run {run!r} at the same time; nothing was changed here"
    raise DecisionTaken(what, where=repository.store.url, advice="give the command again")


def mark_gone(
    repository: Repository, run: str, seen: SeenDecision | None, versions: Mapping[int, bytes], by: By
) -> Decided:
    """Mark forgotten versions as gone: from then on their manifests may be deleted, and nobody brings them back.

    *versions* are the digests of their manifests by number. A version that is no longer forgotten, or whose manifest
    is another one than was forgotten, is left alone: look at the result. So are all if the newest version that opens is
    forgotten itself: what is newer was lost. Raises what ``decide`` raises.
    """
    newest = newest_readable(repository, run)

    def change(decided: Decided, draft: NextState) -> None:
        going = [
            item
            for number, digest in sorted(versions.items())
            if (item := decided.forgotten.get(number)) is not None and item.manifest == half(digest)
        ]
        if newest is None or decided.dropped(newest.root.number, newest.digest) is not None:
            return
        for item in going:
            del draft.forgotten[item.version]
        new = [Gone(item.version, item.version, item.rule, item.forgotten_ns) for item in going]
        draft.gone = joined([*draft.gone, *new])

    return decide(repository, run, seen, change, by)


def joined(ranges: Iterable[Gone]) -> tuple[Gone, ...]:
    """Return ranges by number; neighbours that went by one rule on one day are one range."""
    found: list[Gone] = []
    for one in sorted(ranges, key=lambda one: one.first):
        last = found[-1] if found else None
        if last is not None and last.last + 1 == one.first and _kind(last) == _kind(one):
            found[-1] = Gone(last.first, one.last, one.rule, max(last.forgotten_ns, one.forgotten_ns))
        else:
            found.append(one)
    return tuple(found)


def open_numbered(repository: Repository, run: str, number: int) -> Decided:
    """Return the state after one decision; raise ``NotFound``, ``Damage`` or ``FormatUnsupported``."""
    return state_of(*read_decision(repository, decision_key(repository.keys, run, number)))


def read_decision(repository: Repository, key: str) -> tuple[Decision, bytes]:
    """Return the decision of that name, and its digest; raise ``NotFound``, ``Damage`` or ``FormatUnsupported``."""
    return read_anywhere(repository.store, lambda store: _read(repository, store, key))


def state_of(decision: Decision, digest: bytes) -> Decided:
    """Return what is decided after one decision, the newest that is known."""
    return Decided(
        decision.run,
        decision.number,
        digest,
        {pin.version: pin for pin in decision.pins},
        {item.version: item for item in decision.forgotten},
        decision.gone,
        None,
        decision.number + 1,
        by_version(registered_in(decision.room)),
    )


def _kind(one: Gone) -> tuple[str, int]:
    return one.rule, one.forgotten_ns // _DAY_NS


def _listed(repository: Repository, run_bytes: bytes, after: int) -> list[int]:
    """Return the numbers of a run's decisions above *after*, falling; the names of others cost no read."""
    prefix = names.run_decisions_prefix(run_bytes)
    infos = repository.store.list(prefix, after=names.decisions_after(run_bytes, after))
    found = (tagged_number(repository.keys, info.key) for info in infos)
    return sorted((number for number in found if number is not None), reverse=True)


def _newest_of(repository: Repository, run: str, numbers: Iterable[int]) -> tuple[Decided | None, str | None]:
    """Return the first of these that opens, and why one before it does not, if one does not."""
    fault: str | None = None
    for number in numbers:
        try:
            return open_numbered(repository, run, number), fault
        except _UNREADABLE as error:
            # What a retired key decides afterwards is no decision, and hides none.
            if not (isinstance(error, ManifestDamaged) and error.is_retired):
                fault = fault or f"decision {number}: {error.what}"
            if isinstance(error, (Damage, FormatUnsupported)):
                repository.skipped[decision_key(repository.keys, run, number)] = error
    return None, fault


def _next_number(counting: int, listed: Iterable[int]) -> int:
    """Return the number after all of these; the lowest free one above *counting* if somebody took the highest."""
    taken = set(listed)
    number = max([counting, *taken]) + 1
    if number > names.VERSION_MAX:
        number = next(free for free in range(counting + 1, names.VERSION_MAX + 2) if free not in taken)
    return number


def _with_hidden(decided: Decided, seen: SeenDecision | None, fault: str | None, next_number: int) -> Decided:
    hidden = fault
    if seen is not None and decided.number < seen.number:
        hidden = hidden or f"decision {seen.number}, which a version names, is missing"
    elif seen is not None and decided.number == seen.number and half(decided.digest) != seen.half:
        hidden = f"decision {seen.number} is another one than was seen before"
    return replace(decided, hidden=hidden, next_number=next_number)


def _read(repository: Repository, store: Store, key: str) -> tuple[Decision, bytes]:
    try:
        body = store.get(key, limit_bytes=sealed_object.OBJECT_BYTES_MAX)
    except StoreBroken as error:
        if not error.is_of_object:
            raise
        raise ManifestDamaged(f"the decision is not as it was written: {error.what}", where=key) from error
    found = open_decision(repository.keys, key, body)
    repository.retired_keys.refuse(key, body)
    return found


def _decision(decided: Decided, draft: NextState, by: By) -> Decision:
    if len(draft.pins) > PINS_MAX or max(len(draft.forgotten), len(draft.gone)) > ITEMS_MAX:
        what = f"run {decided.run!r} would have more than {PINS_MAX:,} pins or {ITEMS_MAX:,} forgotten versions"
        raise VersionKept(what, advice="unpin some, or wait until prune has deleted forgotten ones")
    return Decision(
        run=decided.run,
        number=decided.next_number,
        previous=Previous(decided.number, decided.digest) if decided.number else None,
        made_ns=by.now_ns,
        writer=f"mlsync {mlsync.__version__}",
        host=storable(by.host),
        pins=tuple(pin for _, pin in sorted(draft.pins.items())),
        forgotten=tuple(item for _, item in sorted(draft.forgotten.items())),
        gone=draft.gone,
        room=room_for(decided.run, draft.registered),
    )


def room_for(run: str, registered: Iterable[Registered]) -> Room:
    """Return the room of a decision; raise ``VersionKept`` if it would be more than an object has room for."""
    room = room_of({REGISTERED_NAME: registered_value(registered)})
    if len(msgspec.msgpack.encode(room)) > ROOM_BYTES_MAX:
        what = f"run {run!r} has as many registered versions as it has room for"
        raise VersionKept(what, advice="mlsync unregister lets go of those that no registry needs any more")
    return room
