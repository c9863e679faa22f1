"""Evaluations: objects beside a manifest with the numbers that a command measured of one of its checkpoints.

Each names its manifest by digest, so that it applies to no other. One that a store hides costs a number, and makes no
version look sound; so nothing has links to them. See docs/format.md, "Evaluation".
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec

from mlsync.codec import digest
from mlsync.codec.keys import Keys
from mlsync.errors import Damage, FormatUnsupported, ManifestDamaged, NotFound, StoreBroken
from mlsync.repository import names, sealed_object
from mlsync.repository.encoding.canonical import decode_as
from mlsync.repository.encoding.room import Room, check_room
from mlsync.repository.encoding.validation import is_safe_path, is_time
from mlsync.repository.read_twice import read_twice
from mlsync.repository.sealed_object import EVALUATION
from mlsync.store.base import Store

#: How many numbers one evaluation has, and how long their names are: more is no result, but somebody's log.
NUMBERS_MAX: Final = 100
NAME_BYTES_MAX: Final = 100
LABEL_BYTES_MAX: Final = 200
_COMMAND_BYTES: Final = 32
# They are small: the time is in the round trips.
_AT_ONCE: Final = 8


class Measure(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A number, and what it is called."""

    name: str
    value: float


class Evaluation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a command measured of a checkpoint of a version.

    *manifest* is the digest of the version's manifest. *label* names what measured, and *command* is a digest of it, so
    that readers see whether two evaluations were made alike. *path* is that of the checkpoint in the version: of a
    file, or of a directory, empty for the run's own. *numbers* are by rising name.
    """

    run: str
    number: int
    manifest: bytes
    made_ns: int
    writer: str
    host: str
    label: str
    command: bytes
    path: bytes
    device: str
    seconds: float
    numbers: list[Measure]
    room: Room = None

    @property
    def by_name(self) -> dict[str, float]:
        """The numbers."""
        return {one.name: one.value for one in self.numbers}


@dataclass(frozen=True, slots=True)
class StoredEvaluation:
    """An evaluation as it was read."""

    key: str
    evaluation: Evaluation


def newest_numbers(evaluations: Iterable[Evaluation]) -> dict[str, float]:
    """Return each number that was measured of a version, by name; where several evaluations have it, the newest's."""
    found: dict[str, float] = {}
    for one in sorted(evaluations, key=lambda one: one.made_ns):
        found |= one.by_name
    return dict(sorted(found.items()))


class Evaluations:
    """The evaluations of one repository; *refuse* raises an error for one that a retired key sealed."""

    def __init__(self, store: Store, keys: Keys, refuse: Callable[[str, bytes], None]) -> None:
        self._store = store
        self._keys = keys
        self._refuse = refuse
        self._run_key = keys.of("run id")

    def of_run(self, run_id: bytes) -> dict[int, list[str]]:
        """Return the names of the evaluations of a run's versions, by version: one listing."""
        found: dict[int, list[str]] = defaultdict(list)
        for key, number in self._listed(names.run_evaluations_prefix(run_id)):
            found[number].append(key)
        return found

    def of_version(self, run_id: bytes, number: int) -> list[str]:
        """Return the names of the evaluations of one version."""
        return [key for key, _ in self._listed(names.version_evaluations_prefix(run_id, number))]

    def open(self, key: str, manifest: bytes | None = None) -> StoredEvaluation:
        """Return the evaluation of this name; raise ``ManifestDamaged`` if it is none, or is of another *manifest*."""
        found = read_twice(partial(self._open, key))
        if manifest is not None and found.evaluation.manifest != manifest:
            raise _of_another(key)
        return found

    def read(
        self, manifests: Mapping[str, bytes], skipped: MutableMapping[str, Damage | FormatUnsupported]
    ) -> list[Evaluation]:
        """Return those that open of these names, each with its version's manifest, oldest first.

        *skipped* gets the others, and why, but for those that are gone or were made before the key was rotated.
        """

        def opened(key: str) -> Evaluation | None:
            try:
                return self.open(key, manifests[key]).evaluation
            except (ManifestDamaged, FormatUnsupported) as error:
                is_retired = isinstance(error, ManifestDamaged) and error.is_retired
                if not is_retired and not isinstance(error.__cause__, NotFound):
                    skipped[key] = error
                return None

        found = sorted(manifests)
        if len(found) <= 1:
            read = list(map(opened, found))
        else:
            with ThreadPoolExecutor(_AT_ONCE) as executor:
                read = list(executor.map(opened, found))
        return sorted((one for one in read if one is not None), key=lambda one: one.made_ns)

    def add(self, run_id: bytes, evaluation: Evaluation) -> StoredEvaluation:
        """Store the evaluation beside its version."""
        key = names.evaluation(run_id, evaluation.number, os.urandom(names.EVALUATION_ID_BYTES))
        _check(evaluation, key)
        self._store.put(key, sealed_object.seal(self._keys, EVALUATION, key, msgspec.msgpack.encode(evaluation)))
        return StoredEvaluation(key, evaluation)

    def _listed(self, prefix: str) -> Iterator[tuple[str, int]]:
        for info in self._store.list(prefix):
            parsed = names.parse_evaluation(info.key)
            if parsed is not None:
                yield info.key, parsed[1]

    def _open(self, key: str) -> StoredEvaluation:
        try:
            body = self._store.get(key, limit_bytes=sealed_object.OBJECT_BYTES_MAX)
        except StoreBroken as error:
            if not error.is_of_object:
                raise
            raise ManifestDamaged(f"the evaluation is not as it was written: {error.what}", where=key) from error
        except NotFound as error:
            raise ManifestDamaged("the evaluation was listed and is gone", where=key) from error
        found = decode_as(sealed_object.open_(self._keys, EVALUATION, key, body), Evaluation, key)
        if names.parse_evaluation(key) != (digest.run_id(self._run_key, found.run), found.number):
            raise _of_another(key)
        _check(found, key)
        self._refuse(key, body)
        return StoredEvaluation(key, found)


def _of_another(key: str) -> ManifestDamaged:
    return ManifestDamaged("the evaluation belongs to another version than its name says", where=key)


def _check(evaluation: Evaluation, where: str) -> None:
    """Raise ``ManifestDamaged`` for what is out of bounds: see docs/format.md, "Evaluation"."""
    is_sound = (
        is_time(evaluation.made_ns)
        and 0 < len(evaluation.label.encode()) <= LABEL_BYTES_MAX
        and len(evaluation.command) == _COMMAND_BYTES
        and (not evaluation.path or is_safe_path(evaluation.path))
        and math.isfinite(evaluation.seconds)
        and evaluation.seconds >= 0
    )
    if not is_sound:
        raise ManifestDamaged("the evaluation's time, label, command or path is out of bounds", where=where)
    if not 0 < len(evaluation.numbers) <= NUMBERS_MAX or not _are_measures(evaluation.numbers):
        raise ManifestDamaged("the evaluation's numbers are not as any writer makes them", where=where)
    check_room(evaluation.room, "the evaluation", where)


def is_measure_name(name: str) -> bool:
    """Return whether a number may be called so: 1 to 100 bytes of text without control characters."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return False
    return 0 < size <= NAME_BYTES_MAX and not any(char < " " or "\x7f" <= char <= "\x9f" for char in name)


def _are_measures(numbers: Sequence[Measure]) -> bool:
    rising = [one.name.encode() for one in numbers]
    return rising == sorted(set(rising)) and all(
        is_measure_name(one.name) and math.isfinite(one.value) for one in numbers
    )
