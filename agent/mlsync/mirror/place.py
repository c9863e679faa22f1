"""The mirror as a place: whether it is this repository's, and what it needs to be opened with.

Key slots, epochs and features are copied as they are; an object of them that nobody with the key made stays away. The
header is made anew, since it says what the store can do. Nothing is written to a place of another repository.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from mlsync.errors import (
    AlreadyExists,
    Damage,
    Error,
    FormatUnsupported,
    KeyProblem,
    KeySlotDamaged,
    MirrorForeign,
    NotFound,
    ObjectDamaged,
    RepositoryMissing,
    StoreBroken,
    StoreDenied,
)
from mlsync.mirror import small
from mlsync.monitor import Monitor
from mlsync.repository import features, header, names
from mlsync.repository.keys import epochs, keyslot
from mlsync.repository.repository import Repository
from mlsync.store.base import Store

_NOTHING_WRITTEN: Final = "nothing was written there"
#: What to do about a place without a mirror.
MAKE_ADVICE: Final = "if its disk is there and this is the right place, the first copy makes it: --create"


@dataclass(frozen=True, slots=True)
class MirrorPlace:
    """A mirror, opened with the keys of its source; *is_new* if it had no header when it was looked at."""

    repository: Repository
    is_new: bool


def look(source: Repository, target: Store, *, create: bool) -> MirrorPlace:
    """Return what is at *target*; raise ``MirrorForeign`` if it is, or may be, of another repository.

    Raise ``RepositoryMissing`` if nothing is there, unless it may be *created*.
    """
    try:
        found = Repository.look(target)
    except RepositoryMissing as error:
        if not create:
            raise RepositoryMissing("there is no mirror", where=target.url, advice=MAKE_ADVICE) from error
        _refuse_parts_of_another(source, target)
        return MirrorPlace(Repository(target, source.keys, conditional_create=target.conditional_create), is_new=True)
    if found.repository_id != source.repository_id:
        what = "another repository is there, and a mirror has the objects of one"
        raise MirrorForeign(what, where=target.url, advice=f"{_NOTHING_WRITTEN}; give a place of its own")
    if not found.is_of(source.keys):
        raise ObjectDamaged("the mirror's header was changed", where=f"{target.url} {names.HEADER}")
    can_create = found.conditional_create
    target.configure(conditional_create=can_create, warn=lambda _text: None)
    return MirrorPlace(Repository(target, source.keys, conditional_create=can_create), is_new=False)


def _refuse_parts_of_another(source: Repository, target: Store) -> None:
    """Raise ``MirrorForeign`` if a place without a header has objects that this repository did not put there."""
    is_ours = False
    for info in target.list(names.KEY_SLOTS):
        with suppress(KeySlotDamaged, FormatUnsupported, NotFound, StoreBroken):
            slot = keyslot.parse(target.get(info.key, limit_bytes=keyslot.SLOT_BYTES_MAX), info.key)
            if slot.repository != source.repository_id.hex():
                what = "there are key slots of another repository, without its header"
                raise MirrorForeign(what, where=target.url, advice=_NOTHING_WRITTEN)
            is_ours = True
    if not is_ours and next(iter(target.list(names.PACKS)), None) is not None:
        what = "there are packs of a repository whose header is missing"
        raise MirrorForeign(what, where=target.url, advice=_NOTHING_WRITTEN)


def prepare(source: Repository, place: MirrorPlace, monitor: Monitor) -> tuple[int, list[str]]:
    """Copy what a mirror needs to be opened; return how many objects that were, and key slots that it has too many.

    In the order of a rotation of the key: a slot opens nothing before the object of its epoch is there. The header
    comes last, so that a place that opens has everything. Key slots of older epochs go, as they did in the source.
    """
    target = place.repository.store
    there = {info.key for prefix in _PREFIXES for info in target.list(prefix)}
    wanted = [*_slots(source), *_of_epochs(source), *_features(source)]
    count = 0
    for key, body in wanted:
        if key not in there:
            count += small.create(target, key, body)
    if place.is_new:
        count += _make_header(source, place)
    return count, _surplus(source, place, {key for key, _ in wanted}, there, monitor)


def _make_header(source: Repository, place: MirrorPlace) -> int:
    repository, target = place.repository, place.repository.store
    body = header.encode(source.keys, conditional_create=target.probe())
    try:
        target.put(names.HEADER, body)
    except AlreadyExists:
        # Another copier was faster, or somebody made another repository meanwhile.
        look(source, target, create=False)
        return 0
    repository.conditional_create = target.conditional_create
    return 1


_PREFIXES: Final = (names.KEY_SLOTS, names.EPOCHS, names.FEATURES)


def _slots(source: Repository) -> Iterator[tuple[str, bytes]]:
    """Yield the key slots of the repository; those of others, and what does not parse, stay away."""
    for info in source.store.list(names.KEY_SLOTS):
        if names.is_key_slot(info.key):
            with suppress(KeyProblem, FormatUnsupported, NotFound, StoreDenied, StoreBroken):
                body = source.store.get(info.key, limit_bytes=keyslot.SLOT_BYTES_MAX)
                slot = keyslot.parse(body, info.key)
                if slot.repository == source.repository_id.hex() and slot.epoch <= source.keys.epoch:
                    yield info.key, body


def _of_epochs(source: Repository) -> Iterator[tuple[str, bytes]]:
    """Yield announcements, objects and copies of all epochs that the key knows, the oldest first."""
    for number in range(1, source.keys.epoch + 1):
        for key in epochs.announcements(source.keys, number - 1):
            yield key, b""
        for key in (names.epoch(number), names.epoch_copy(number)):
            with suppress(NotFound, Damage):
                body = epochs.body_of(source.store, key)
                epochs.open_epoch(source.repository_id, number, source.keys.masters[number], body)
                yield key, body


def _features(source: Repository) -> Iterator[tuple[str, bytes]]:
    for info in source.store.list(names.FEATURES):
        if features.is_feature(source.keys, info.key):
            yield info.key, b""


def _surplus(source: Repository, place: MirrorPlace, wanted: set[str], there: set[str], monitor: Monitor) -> list[str]:
    """Remove key slots of retired keys from the mirror, and return slots that the source has no more."""
    target, left = place.repository.store, []
    for key in sorted(there - wanted):
        if not names.is_key_slot(key):
            continue
        try:
            slot = keyslot.parse(target.get(key, limit_bytes=keyslot.SLOT_BYTES_MAX), key)
        except (Error, NotFound):
            continue  # it opens nothing
        if slot.repository != source.repository_id.hex():
            continue
        # Only once a slot of the newest key is there, or a listing that lacks it would lock everybody out.
        if slot.epoch < source.keys.epoch and any(_is_newest(source, target, other) for other in wanted):
            try:
                target.delete(key)
                continue
            except StoreDenied as error:
                what = f"a key slot of a retired key stays in the mirror: {key}: {error.what}"
                monitor.notice("warning", what)
        left.append(key)
    return left


def _is_newest(source: Repository, target: Store, key: str) -> bool:
    if not names.is_key_slot(key):
        return False
    with suppress(Error):
        slot = keyslot.parse(target.get(key, limit_bytes=keyslot.SLOT_BYTES_MAX), key)
        return slot.epoch == source.keys.epoch
    return False
