"""The objects of epochs: which are lost or damaged, and how they come back. Each is there twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from mlsync.errors import AlreadyExists, FormatUnsupported, ManifestDamaged, NotFound, ObjectDamaged
from mlsync.repository import names
from mlsync.repository.keys import epochs
from mlsync.repository.read_twice import read_twice
from mlsync.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class EpochFault:
    """What is wrong with an object of an epoch; *twin* is the sound one with the same bytes, if there is one."""

    key: str
    what: str
    twin: str | None
    is_announcement: bool = False


def epoch_names(repository: Repository) -> set[str]:
    """Return the names of all objects that the epochs of this repository have."""
    keys = repository.keys
    found: set[str] = set()
    for number in range(1, keys.epoch + 1):
        found |= {names.epoch(number), names.epoch_copy(number), *epochs.announcements(keys, number - 1)}
    return found


def epoch_faults(repository: Repository) -> Iterator[EpochFault]:
    """Yield each object of an epoch that is missing or does not open; an announcement has no twin, and needs none."""
    keys = repository.keys
    for number in range(1, keys.epoch + 1):
        places = names.epoch(number), names.epoch_copy(number)
        wrong = {place: what for place in places if (what := _wrong(repository, number, place)) is not None}
        sound = [place for place in places if place not in wrong]
        for place, what in wrong.items():
            yield EpochFault(place, what, sound[0] if sound else None)
        for announcement in epochs.announcements(keys, number - 1):
            try:
                repository.store.stat(announcement)
            except NotFound:
                yield EpochFault(announcement, "missing", None, is_announcement=True)


def heal_epoch(repository: Repository, key: str) -> None:
    """Store an object of an epoch anew, from its twin or, an announcement, from the keys; a sound one stays."""
    number = names.parse_epoch(key) or 0
    body = b""
    if key not in epochs.announcements(repository.keys, number - 1):
        twin = names.epoch_copy(number) if key == names.epoch(number) else names.epoch(number)
        if _wrong(repository, number, key) is None:
            return
        _open(repository, number, twin)
        body = epochs.body_of(repository.store, twin)
        with suppress(NotFound):
            repository.store.delete(key)
    with suppress(AlreadyExists):
        repository.store.put(key, body)
    if body and epochs.body_of(repository.store, key) != body:
        raise ObjectDamaged("something else was put in its place meanwhile", where=key)


def _wrong(repository: Repository, number: int, place: str) -> str | None:
    try:
        read_twice(lambda: _open(repository, number, place))
    except NotFound:
        return "missing"
    except (ManifestDamaged, FormatUnsupported) as error:
        return error.what
    return None


def _open(repository: Repository, number: int, place: str) -> None:
    keys = repository.keys
    epochs.open_epoch(keys.repository_id, number, keys.masters[number], epochs.body_of(repository.store, place))
