"""Rotate the repository's key: from then on everything is sealed with a new one, and the old one writes nothing more.

The order makes a crash harmless: a key slot of the new key, which opens nothing yet; the announcement, after which no
holder of the old key believes that it committed; then a look at what is there; then the new epoch's object, which is
the rotation; its copy; and last, the old key slots go. Whoever dies before the object leaves a repository that opens
with the old key; whoever dies after it, one that opens with the new one.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import mlsync
from mlsync.codec.keys import EPOCH_MAX, MASTER_KEY_BYTES, Keys
from mlsync.errors import (
    AlreadyExists,
    ConfigInvalid,
    Error,
    FormatUnsupported,
    KeyRetired,
    KeySlotKept,
    ManifestDamaged,
    NotFound,
    StoreError,
)
from mlsync.monitor import Monitor
from mlsync.repository import names
from mlsync.repository.evaluation import Evaluations
from mlsync.repository.history.decision import tagged_number
from mlsync.repository.history.decisions import read_decision
from mlsync.repository.history.seen_decision import half
from mlsync.repository.keys import epochs, keyslot
from mlsync.repository.keys.epochs import EpochKeys, LastOne
from mlsync.repository.keys.keyslot import Stretching, Unlock
from mlsync.repository.repository import Repository, is_no_version
from mlsync.upkeep.key_slots import SlotStatus, list_slots
from mlsync.values import storable

_T = TypeVar("_T")
_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did: the number of the new epoch, the new key slot, and the old ones that it removed.

    *repository* is the same one, opened with the new key.
    """

    epoch: int
    slot_id: str
    removed: tuple[SlotStatus, ...]
    repository: Repository


def rotate(
    repository: Repository,
    unlock: Unlock,
    monitor: Monitor,
    *,
    host: str,
    now_ns: int,
    stretching: Stretching | None = None,
) -> Rotated:
    """Give the repository a new master key, which *unlock* opens from now on, and nothing else does.

    Raise ``KeyRetired`` with nothing changed if another rotation was faster, and ``KeySlotKept`` if only the removal of
    old key slots failed: these then give retired keys alone.
    """
    _refuse(repository)
    store, old = repository.store, repository.keys
    keys = Keys(old.master, old.repository_id, (*old.later, os.urandom(MASTER_KEY_BYTES)))
    slot_id = os.urandom(names.SLOT_ID_BYTES)
    slot = names.key_slot(slot_id)
    store.put(slot, _slot(keys, unlock, stretching or Stretching()))
    try:
        for name in epochs.announcements(old, old.epoch):
            with suppress(AlreadyExists):  # by a rotation that did not end
                store.put(name, b"")
        last, later_proofs = _there(repository, monitor)
        _write_evaluations_anew(repository, keys, monitor)
        writer = f"mlsync {mlsync.__version__}"
        epoch = EpochKeys(keys.epoch, old.masters, now_ns, writer, storable(host), last, later_proofs)
        body = epochs.seal_epoch(keys, epoch)
    except Error:
        _give_up(repository, slot)
        raise
    _put(repository, slot, names.epoch(keys.epoch), body)
    with suppress(AlreadyExists):
        store.put(names.epoch_copy(keys.epoch), body)
    opened = Repository.open(store, unlock)
    if (opened.slot, opened.keys) != (slot, keys):
        raise KeyRetired("another rotation changed the repository at the same time", where=store.url)
    return Rotated(keys.epoch, slot_id.hex(), tuple(_remove_old(opened)), opened)


def _refuse(repository: Repository) -> None:
    """Raise an error if a rotation cannot be made safely."""
    store = repository.store
    if not repository.conditional_create:
        what = "the store overwrites objects, so that two rotations at once could lose the keys; nothing was changed"
        raise ConfigInvalid(what, where=store.url)
    if repository.keys.epoch == EPOCH_MAX:
        raise ConfigInvalid(f"there is no epoch after {EPOCH_MAX}; nothing was changed", where=store.url)
    place = names.epoch(repository.keys.epoch + 1)
    try:
        store.stat(place)
    except NotFound:
        return
    if repository.is_retired:
        raise epochs.retired(store, repository.keys)
    what = "something that no holder of the key announced is in the place of the next epoch; nothing was changed"
    raise KeyRetired(what, where=f"{store.url} {place}", advice="if nobody rotated the key, remove this object")


def _slot(keys: Keys, unlock: Unlock, stretching: Stretching) -> bytes:
    salt = os.urandom(keyslot.SALT_BYTES)
    return keyslot.make(unlock, keys.masters[-1], keys.repository_id, salt, stretching, epoch=keys.epoch)


def _put(repository: Repository, slot: str, key: str, body: bytes) -> None:
    """Create the epoch's object, or give up if another rotation was faster.

    After any other error it may be there, and only the new key slot opens it: the slot stays.
    """
    try:
        repository.store.put(key, body)
    except AlreadyExists:
        if epochs.body_of(repository.store, key) == body:
            return  # made by this very call, whose first answer was lost
        _give_up(repository, slot)
        what = "another rotation of the key was faster; nothing was changed"
        raise KeyRetired(what, where=repository.store.url) from None


def _give_up(repository: Repository, slot: str) -> None:
    """Remove the new key slot, whose key is of no epoch; if that fails, it opens nothing and does no harm."""
    with suppress(StoreError):
        repository.store.delete(slot)


# ---------------------------------------------------------------- what is there


def _there(repository: Repository, monitor: Monitor) -> tuple[tuple[LastOne, ...], tuple[bytes, ...]]:
    """Return the newest version and decision of each run, by name, and links to all later proofs, rising."""
    with monitor.task("looking at what is there", None, unit="objects") as task:
        last = []
        for one in (*_last_versions(repository), *_last_decisions(repository)):
            last.append(one)
            task.advance(1)
        proofs = [info.key for info in repository.store.list(names.LATER_PROOFS) if names.parse_later_proof(info.key)]
        links = set()
        with ThreadPoolExecutor(_AT_ONCE) as executor:
            for link in executor.map(partial(_proof_link, repository), proofs):
                task.advance(1)
                if link is not None:
                    links.add(link)
    return tuple(sorted(last, key=lambda one: one.key)), tuple(sorted(links))


def _write_evaluations_anew(repository: Repository, keys: Keys, monitor: Monitor) -> None:
    """Seal with the new key what counts of all evaluations: those of an older key will count for nothing.

    They are there before the epoch is, so that no reader misses them; what a rotation leaves that does not end opens
    for nobody.
    """
    store, none_is_retired = repository.store, lambda _key, _body: None
    evaluations = Evaluations(store, keys, none_is_retired)
    found = [info.key for info in store.list(names.EVALUATIONS) if names.parse_evaluation(info.key)]

    def write_anew(key: str) -> None:
        place = names.parse_evaluation(key)
        one = _unless_none(lambda: repository.open_evaluation(key).evaluation)
        if one is not None and place is not None:
            evaluations.add(place[0], one)

    with (
        monitor.task("writing evaluations anew", len(found), unit="objects") as task,
        ThreadPoolExecutor(_AT_ONCE) as executor,
    ):
        for _ in executor.map(write_anew, found):
            task.advance(1)


def _last_versions(repository: Repository) -> Iterator[LastOne]:
    """Yield the newest version of each run that opens, from its manifest or the copy."""
    numbers: dict[bytes, set[int]] = defaultdict(set)
    for prefix, parse in ((names.VERSIONS, names.parse_version), (names.COPIES, names.parse_copy)):
        for info in repository.store.list(prefix):
            parsed = parse(info.key)
            if parsed is not None:
                numbers[parsed[0]].add(parsed[1])
    for run_id, found in numbers.items():
        keys = (names.version(run_id, number) for number in sorted(found, reverse=True))
        yield from _first(keys, partial(_version, repository))


def _version(repository: Repository, key: str) -> bytes | None:
    for place in (key, names.copy_of(key)):
        with suppress(NotFound):
            digest = _unless_none(partial(_digest, repository, key, place))
            if digest is not None:
                return digest
    return None


def _digest(repository: Repository, key: str, place: str) -> bytes:
    return repository.open_body(key, place)[0].digest


def _last_decisions(repository: Repository) -> Iterator[LastOne]:
    """Yield the newest decision of each run that opens."""
    found: dict[str, list[str]] = defaultdict(list)
    for info in repository.store.list(names.DECISIONS):
        if tagged_number(repository.keys, info.key) is not None:
            found[info.key.rpartition("/")[0]].append(info.key)
    for keys in found.values():
        yield from _first(sorted(keys, reverse=True), partial(_decision, repository))


def _decision(repository: Repository, key: str) -> bytes | None:
    return _unless_none(lambda: read_decision(repository, key)[1])


def _proof_link(repository: Repository, key: str) -> bytes | None:
    return _unless_none(lambda: repository.later_proof_link(key))


def _first(keys: Iterable[str], digest_of: Callable[[str], bytes | None]) -> Iterator[LastOne]:
    for key in keys:
        digest = digest_of(key)
        if digest is not None:
            yield LastOne(key, half(digest))
            return


def _unless_none(read: Callable[[], _T]) -> _T | None:
    """Return what *read* returns; ``None`` for an object that is none of ours, whatever its name."""
    try:
        return read()
    except NotFound:
        return None
    except (ManifestDamaged, FormatUnsupported) as error:
        # One that opens and is a newer mlsync's would be cut off: then the key is not rotated.
        if not is_no_version(error):
            raise
        return None


# ---------------------------------------------------------------- the old key slots


def _remove_old(repository: Repository) -> Iterator[SlotStatus]:
    """Remove all key slots of older keys and yield each; raise ``KeySlotKept`` at the end if some could not be."""
    fault: StoreError | None = None
    kept = []
    for one in list_slots(repository):
        is_foreign = one.slot is not None and one.slot.repository != repository.repository_id.hex()
        is_newer = one.slot is not None and one.slot.epoch > repository.keys.epoch
        if one.is_used or is_foreign or is_newer:
            continue
        try:
            repository.store.delete(one.key)
        except StoreError as error:
            fault = fault or error
            kept.append(one.id[:8])
        else:
            yield one
    if fault is not None:
        what = f"the key was rotated, and old key slots could not be removed ({', '.join(kept)}): {fault.what}"
        advice = "they give the retired key alone; remove them with credentials that may delete: mlsync key remove ID"
        raise KeySlotKept(what, where=repository.store.url, advice=advice) from fault
