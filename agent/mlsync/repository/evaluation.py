"""Evaluations: objects beside a manifest with the numbers that a command measured of one of its checkpoints.

Each names its manifest by digest, so that it applies to no other. One that a store hides costs a number, and makes no
version look sound; so nothing has links to them. See docs/format.md, "Evaluation".
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Final

import msgspec

from mlsync.codec.keys import Keys
from mlsync.errors import Damage, FormatUnsupported, ManifestDamaged, NotFound
from mlsync.repository import names
from mlsync.repository.ahead import each
from mlsync.repository.beside import BesideKind, ObjectsBeside
from mlsync.repository.encoding.room import Room, check_room
from mlsync.repository.encoding.validation import is_safe_path, is_time
from mlsync.repository.sealed_object import EVALUATION
from mlsync.store.base import Store

#: How many numbers one evaluation has, and how long their names are: more is no result, but somebody's log.
NUMBERS_MAX: Final = 100
NAME_BYTES_MAX: Final = 100
LABEL_BYTES_MAX: Final = 200
_COMMAND_BYTES: Final = 32


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


class StoredEvaluation(msgspec.Struct, frozen=True):
    """An evaluation as it was read."""

    key: str
    evaluation: Evaluation


def newest_numbers(evaluations: Iterable[Evaluation]) -> dict[str, float]:
    """Return each number that was measured of a version, by name; where several evaluations have it, the newest's."""
    found: dict[str, float] = {}
    for one in sorted(evaluations, key=lambda one: one.made_ns):
        found |= one.by_name
    return dict(sorted(found.items()))


class Evaluations(ObjectsBeside[Evaluation]):
    """The evaluations of one repository; *refuse* raises an error for one that a retired key sealed."""

    def __init__(self, store: Store, keys: Keys, refuse: Callable[[str, bytes], None]) -> None:
        super().__init__(_KIND, store, keys, refuse)

    def open(self, key: str, manifest: bytes | None = None) -> StoredEvaluation:
        """Return the evaluation of this name; raise ``ManifestDamaged`` if it is none, or is of another *manifest*."""
        return StoredEvaluation(key, self.opened(key, manifest)[0])

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

        read = each(opened, sorted(manifests))
        return sorted((one for one in read if one is not None), key=lambda one: one.made_ns)

    def add(self, run_id: bytes, evaluation: Evaluation) -> StoredEvaluation:
        """Store the evaluation beside its version."""
        key = names.evaluation(run_id, evaluation.number, os.urandom(names.EVALUATION_ID_BYTES))
        self.put(key, evaluation)
        return StoredEvaluation(key, evaluation)


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


_KIND: Final = BesideKind(
    EVALUATION,
    Evaluation,
    names.parse_evaluation,
    names.run_evaluations_prefix,
    names.version_evaluations_prefix,
    _check,
)
