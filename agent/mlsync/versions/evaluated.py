"""What was measured of a run's versions, and the version that is best by a number."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property

from mlsync.errors import VersionMissing
from mlsync.repository.evaluation import Evaluation, newest_numbers
from mlsync.repository.manifest import Entry
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.retention.direction import named_number
from mlsync.retention.nearest_word import did_you_mean
from mlsync.versions.loaded_directories import is_below
from mlsync.versions.measured import measured
from mlsync.versions.run_proofs import RunProofs

_NAMED_MAX = 8


class RunEvaluations:
    """The evaluations of a run's versions; one listing finds them, and each is read when it is asked for."""

    def __init__(self, repository: Repository, run: str) -> None:
        self._repository = repository
        self._run = run

    @cached_property
    def keys(self) -> Mapping[int, list[str]]:
        """The names of the evaluations by version."""
        return self._repository.evaluation_keys(self._run)

    def of(self, stored: StoredVersion) -> list[Evaluation]:
        """Return the evaluations of a version, oldest first."""
        return self._repository.read_evaluations(dict.fromkeys(self.keys.get(stored.root.number, ()), stored.digest))

    def of_all(self, versions: Iterable[StoredVersion]) -> dict[int, list[Evaluation]]:
        """Return the evaluations of these versions, by number: several are read at once."""
        manifests = {key: one.digest for one in versions for key in self.keys.get(one.root.number, ())}
        found: dict[int, list[Evaluation]] = {}
        for evaluation in self._repository.read_evaluations(manifests):
            found.setdefault(evaluation.number, []).append(evaluation)
        return found


def sound_numbers(evaluations: Iterable[Evaluation], entries: Collection[Entry]) -> dict[str, float]:
    """Return the numbers that were measured of checkpoints of a version that are not broken, the newest of each."""
    broken = [entry.path for entry in entries if entry.proof is not None and entry.proof.is_broken]
    return newest_numbers(
        one for one in evaluations if not any(path == one.path or is_below(path, one.path) for path in broken)
    )


def best_number_by(repository: Repository, run: str, text: str) -> int:
    """Return the number of the version that is best by a number, of equals the newest; raise ``VersionMissing``.

    This reads each version once, and what it logged where no evaluation has the number.
    """
    name, is_max = named_number(text)
    proofs, evaluations = RunProofs(repository, run), RunEvaluations(repository, run)
    numbers: dict[int, Mapping[str, tuple[float, ...]]] = {}
    for stored in proofs.trusted(reversed(proofs.numbers)):
        entries = list(proofs.entries(stored))
        if any(entry.proof is not None and not entry.proof.is_broken for entry in entries):
            known = sound_numbers(evaluations.of(stored), entries)
            numbers[stored.root.number] = measured(repository, entries, {name}, known).numbers
    best = best_among(numbers, name, is_max=is_max)
    if best is None:
        what = f"no version of run {run!r} has a number called {name!r}{proofs.passed_over()}"
        raise VersionMissing(what, where=repository.store.url, advice=_advice(name, numbers.values()))
    return best


def best_among(numbers: Mapping[int, Mapping[str, tuple[float, ...]]], name: str, *, is_max: bool) -> int | None:
    """Return the version with the best value of a number, of equals the newest; ``None`` if none has it."""
    best: tuple[float, int] | None = None
    for version, known in numbers.items():
        values = [value for value in known.get(name, ()) if not math.isnan(value)]
        if values:
            value = max(values) if is_max else -min(values)
            best = max(best or (value, version), (value, version))
    return None if best is None else best[1]


def _advice(name: str, numbers: Iterable[Mapping[str, object]]) -> str:
    known = sorted({one for some in numbers for one in some})
    if not known:
        return "mlsync evaluate measures a version; mlsync show says what is known of one"
    some = ", ".join(known[:_NAMED_MAX]) + (", …" if len(known) > _NAMED_MAX else "")
    return did_you_mean(name, known) or f"known are: {some}"
