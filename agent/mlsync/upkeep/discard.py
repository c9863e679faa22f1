"""Give up what lies under a version's number and is no version any more, nor will be: planted, or damaged for good.

Such an object keeps policies and prunes of its run waiting, since what it needs cannot be told. Discarding it says so
in a decision, if the number is that of a version that others follow, and puts a fence in its place in one step. The
next prune then deletes its copy, its later proofs, and what only it may have needed.

What lies in the place of a move record keeps its pack from being moved. It is deleted, and only while the pack is
there: then no reader goes by the record, and the next compaction makes it. Nothing else overwrites or deletes there
what does not open: a process that stood still for long before that call would hit the record that was made meanwhile.

Only a person can tell that something is lost for good. So nothing is discarded that may come back by itself or that
``mlsync repair`` heals: what opens, or whose copy opens, what the store does not give at this moment, what may be under
a key that is not known here; and what claims to be of a newer mlsync only by an own word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from mlsync.codec.digest import object_digest
from mlsync.errors import (
    AlreadyExists,
    Damage,
    DiscardRefused,
    FormatUnsupported,
    NotFound,
    ObjectArchived,
    StoreBroken,
)
from mlsync.repository import names
from mlsync.repository.history import fence
from mlsync.repository.history.decision import Gone
from mlsync.repository.history.decisions import By, Decided, NextState, decide, joined
from mlsync.repository.history.fence import Fence
from mlsync.repository.history.seen_decision import half, seen_decision
from mlsync.repository.repository import Repository, StoredVersion, is_no_version, listed_versions
from mlsync.upkeep.epoch_care import epoch_faults

#: The rule by which a version is gone that was discarded.
DISCARDED: Final = "discarded"
# Two looks: a read may flip a bit, and a store may answer that something is not there although it is.
_LOOKS: Final = 2


@dataclass(frozen=True, slots=True)
class Discarding:
    """What is given up: the object *key*, and what is wrong with it and with its copy.

    *run* is empty if no version of the run opens. *followed_by* is the newest version that opens, if that is above the
    number: then the number was that of a version, most likely. *digest* is ``None`` if nothing is there. What lies in
    the place of a move record has neither number nor copy.
    """

    key: str
    number: int | None
    fault: str
    copy_fault: str | None
    run: str = ""
    followed_by: int | None = None
    digest: bytes | None = None
    is_done: bool = False


def plan_discarding(repository: Repository, wanted: Sequence[str], *, even_newer: bool = False) -> list[Discarding]:
    """Return what discarding the *wanted* would give up; nothing is changed.

    Each is ``RUN/NUMBER``, or the name of an object as ``mlsync check`` tells it. Raise ``DiscardRefused`` for what
    must not be discarded, or for what there is no reason to.
    """
    repository.refuse_retired()
    fault = next((one for one in epoch_faults(repository) if not one.is_announcement), None)
    if fault is not None:
        # Without it, everything that is older than the rotation may look as if it was planted.
        raise DiscardRefused(f"{fault.key}: {fault.what}", advice="first: mlsync repair")
    keys = list(dict.fromkeys(_key(repository, one) for one in wanted))
    return [_look(repository, key, even_newer=even_newer) for key in keys]


def discard(
    repository: Repository, planned: Iterable[Discarding], by: By, *, even_newer: bool = False
) -> list[Discarding]:
    """Carry out a plan and return what was done; raise ``DiscardRefused`` where something changed meanwhile."""
    repository.confirm()
    return [_discard(repository, one, by, even_newer=even_newer) for one in planned]


# ---------------------------------------------------------------- plan


def _key(repository: Repository, wanted: str) -> str:
    """Return the name of the manifest or move record that is meant."""
    if names.parse_version(wanted) is not None or names.parse_move(wanted) is not None:
        return wanted
    if names.parse_copy(wanted) is not None:
        return names.copied(wanted)
    run, _, number = wanted.rpartition("/")
    if not run or not (number.isascii() and number.isdecimal()) or not 1 <= int(number) <= names.VERSION_MAX:
        what = f"{wanted!r} is neither RUN/NUMBER nor the name of an object below {names.VERSIONS} or {names.MOVES}"
        raise DiscardRefused(what, advice="mlsync check and mlsync prune --dry-run name such objects")
    return repository.version_key(run, int(number))


def _look(repository: Repository, key: str, *, even_newer: bool) -> Discarding:
    pack_id = names.parse_move(key)
    if pack_id is not None:
        return _look_at_move(repository, key, pack_id, even_newer=even_newer)
    run_id, number = names.parse_version(key) or (b"", 0)
    newest = _newest(repository, run_id)
    run, follows = ("", None) if newest is None else (newest.root.run, newest.root.number)
    follows = None if follows is None or follows < number else follows
    # One of an older epoch is no word about a version that others follow, as long as no decision says the same.
    epoch = repository.fence_epoch(key)
    if epoch is not None and (follows is None or epoch == repository.keys.epoch):
        raise DiscardRefused("this is no version, and nothing waits for it", where=key)
    faults = _faults(repository, key, even_newer=even_newer)
    found = Discarding(key, number, *faults, run, follows, _digest(repository, key))
    if found.digest is None and found.followed_by is None:
        raise DiscardRefused("there is nothing, and no version follows it", where=key)
    return found


def _look_at_move(repository: Repository, key: str, pack_id: bytes, *, even_newer: bool) -> Discarding:
    fault = ""
    for _ in range(_LOOKS):
        try:
            repository.moves.open(pack_id)
        except NotFound:
            raise DiscardRefused("there is nothing", where=key) from None
        except ObjectArchived as error:
            raise DiscardRefused(f"it is in cold storage: {error.what}", where=key) from error
        except (Damage, FormatUnsupported) as error:
            fault = _told(error, key, key, even_newer=even_newer)
        else:
            raise DiscardRefused("it opens, and is a move record", where=key)
    if not repository.has_pack(pack_id):
        # It may be all that is left of where chunks of the pack are.
        what = f"{names.pack(pack_id)} is not in the store, so that no compaction waits for it"
        raise DiscardRefused(what, where=key)
    return Discarding(key, None, fault, None, digest=_digest(repository, key))


def _newest(repository: Repository, run_id: bytes) -> StoredVersion | None:
    """Return the newest version of a run that opens, by the run's id alone."""
    listed = listed_versions(repository.store.list(names.run_prefix(run_id)))
    for _, one in sorted(listed, key=lambda found: found[1].number, reverse=True):
        if not one.is_fence:
            with suppress(NotFound, Damage, FormatUnsupported):
                return repository.open_version(names.version(run_id, one.number))
    return None


def _faults(repository: Repository, key: str, *, even_newer: bool) -> tuple[str, str]:
    """Return what is wrong with a manifest and with its copy, both for good as far as this can be told."""
    return (
        _fault(repository, key, key, even_newer=even_newer),
        _fault(repository, key, names.copy_of(key), even_newer=even_newer),
    )


def _fault(repository: Repository, key: str, place: str, *, even_newer: bool) -> str:
    fault = ""
    for _ in range(_LOOKS):
        try:
            repository.open_body(key, place)
        except NotFound:
            fault = "missing"
        except ObjectArchived as error:
            raise DiscardRefused(f"it is in cold storage: {error.what}", where=place) from error
        except (Damage, FormatUnsupported) as error:
            fault = _told(error, key, place, even_newer=even_newer)
        else:
            if place == key:
                raise DiscardRefused("it opens, and is a version", where=key, advice="mlsync forget drops versions")
            what = "this copy opens, so that the version is not lost"
            raise DiscardRefused(what, where=place, advice="mlsync repair brings the version back")
    return fault


def _told(error: Damage | FormatUnsupported, key: str, place: str, *, even_newer: bool) -> str:
    """Return the fault; raise ``DiscardRefused`` if it may be one of what is known here, and not of the object."""
    if not is_no_version(error) or error.where not in (key, place):
        raise DiscardRefused(f"what it is cannot be told: {error.what}", where=place) from error
    if isinstance(error, FormatUnsupported) and not even_newer:
        what = f"it claims to be a newer mlsync's: {error.what}"
        advice = "look with the newest mlsync first; if that says the same, add --even-newer"
        raise DiscardRefused(what, where=place, advice=advice) from error
    return error.what


def _digest(repository: Repository, key: str) -> bytes | None:
    try:
        return repository.digest_of(key)
    except NotFound:
        return None
    except StoreBroken as error:
        if not error.is_of_object:
            raise
        # A directory in its place, or more bytes than any manifest has: its length and time are all there is.
        info = repository.store.stat(key)
        return object_digest(f"{info.size_bytes} {info.modified_s}".encode())


# ---------------------------------------------------------------- carrying it out


def _discard(repository: Repository, planned: Discarding, by: By, *, even_newer: bool) -> Discarding:
    """Decide that the version is gone, and then put a fence in its place; delete what is in that of a move record."""
    again = _look(repository, planned.key, even_newer=even_newer)
    if again != planned:
        raise DiscardRefused("it changed since it was looked at; nothing was done to it", where=planned.key)
    if planned.number is None:
        repository.store.delete(planned.key)
        return replace(planned, is_done=True)
    if planned.followed_by is not None:
        _decide_gone(repository, planned, by)
    removed = fence.NEVER_USED if planned.digest is None else half(planned.digest)
    body = fence.make(repository.keys, planned.key, Fence(by.now_ns, removed))
    if planned.digest is not None:
        repository.store.replace(planned.key, body)
    else:
        try:
            repository.store.put(planned.key, body)
        except AlreadyExists:
            raise DiscardRefused("it is there by now; nothing was put in its place", where=planned.key) from None
    return replace(planned, is_done=True)


def _decide_gone(repository: Repository, planned: Discarding, by: By) -> None:
    run_id, number = names.parse_version(planned.key) or (b"", 0)
    newest = _newest(repository, run_id)
    if newest is None or newest.root.number <= number:
        raise DiscardRefused("it changed since it was looked at; nothing was done to it", where=planned.key)

    def change(decided: Decided, draft: NextState) -> None:
        if number in decided.pins:
            what = f"version {number} of run {planned.run!r} is pinned"
            raise DiscardRefused(what, where=planned.key, advice=f"if it is lost all the same: mlsync unpin {number}")
        if number in decided.registered:
            what = f"version {number} of run {planned.run!r} is registered as {decided.registered[number][0].uri}"
            advice = f"if it is lost all the same: mlsync unregister {number}"
            raise DiscardRefused(what, where=planned.key, advice=advice)
        draft.forgotten.pop(number, None)
        if decided.gone_as(number) is None:
            draft.gone = joined([*draft.gone, Gone(number, number, DISCARDED, by.now_ns)])

    decide(repository, planned.run, seen_decision(newest.root.room), change, by)
