"""Ask a policy about the versions of a run: gather what the store says of them, and refuse what is not clear.

The policy itself is in ``mlsync.retention``, and knows no store. This reads the manifest of each version and the later
proofs, as a list of versions does. The lists of files are read only where a rule or a protection needs them: for each
version if a rule compares epochs or numbers, if one looks pending, or if something would be removed at all. Each
object is read once, and what was read is there for the forget that follows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

from mlsync.errors import Damage, PolicyRefused, VersionMissing
from mlsync.repository import names
from mlsync.repository.ahead import ahead
from mlsync.repository.history.decisions import Decided
from mlsync.repository.manifest import Entry, ManifestRoot
from mlsync.repository.repository import Repository
from mlsync.retention.direction import named_number
from mlsync.retention.facts import VersionFacts
from mlsync.retention.policy import KeepPolicy, PolicyOutcome, evaluate
from mlsync.retention.rules import BestRule, EveryRule
from mlsync.upkeep.forget import is_proved
from mlsync.versions.best import BestSearch
from mlsync.versions.evaluated import RunEvaluations, best_among, sound_numbers
from mlsync.versions.measured import Measured, measured
from mlsync.versions.proof_status import KnownVersions, ProofStatus, Told, run_versions, status_from_entries
from mlsync.versions.run_proofs import RunProofs

# Lists of files are small and may be far away, and one may be of a hundred thousand files: so many are in memory.
_FILES_MAX: Final = 200_000
_NAMED_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Retained:
    """What a policy says of a run's versions, and by what each would be forgotten: the digest of its manifest.

    *known* is what was read for that, which spares ``forget`` to read it again.
    """

    evaluation: PolicyOutcome
    roots: Mapping[int, ManifestRoot]
    digests: Mapping[int, bytes]
    decided: Decided
    known: KnownVersions


def retained(repository: Repository, run: str, policy: KeepPolicy, now_ns: int, *, with_all_reasons: bool) -> Retained:
    """Return what *policy* says of the versions of a run, with everything that its rules ask for.

    Without *with_all_reasons*, a run of which nothing would be removed is not looked at further, and some of the
    reasons why versions are kept may be missing. Raises ``PolicyRefused`` if what the store shows of the run is not
    complete or not clear: then nothing may be removed.
    """
    found = _Run(repository, run)
    asked = _asked(policy)
    if asked is None and not with_all_reasons and not found.is_pending:
        # Without the lists of files only fewer versions can be kept.
        evaluation = evaluate(policy, run, found.facts, now_ns)
        if not evaluation.removed:
            return found.retained(evaluation)
    return found.retained(evaluate(policy, run, found.with_files(asked), now_ns))


def _asked(policy: KeepPolicy) -> frozenset[str] | None:
    """Return the names of numbers that the rules compare; ``None`` if no rule needs the lists of files."""
    names = frozenset(rule.name for rule in policy.rules if isinstance(rule, BestRule))
    if names or any(isinstance(rule, EveryRule) for rule in policy.rules):
        return names
    return None


@dataclass(frozen=True, slots=True)
class _Listed:
    """A version with its list of files: its status, what is known of its training, and its entries."""

    status: ProofStatus
    measured: Measured
    entries: Sequence[Entry]

    @classmethod
    def of(
        cls,
        repository: Repository,
        status: ProofStatus,
        proofs: RunProofs,
        asked: Collection[str] | None,
        evaluations: RunEvaluations,
    ) -> _Listed:
        """Read the list of files of a version, once."""
        entries = list(proofs.entries(status.stored))
        if status.is_pending:
            status = replace(status_from_entries(status, entries), hidden=status.hidden)
        known = sound_numbers(evaluations.of(status.stored), entries) if asked else {}
        return cls(status, measured(repository, entries, asked, known), entries)


class _Run:
    """The versions of a run that are not gone, as the store shows them."""

    def __init__(self, repository: Repository, run: str) -> None:
        self._repository = repository
        self._run = run
        self._known = KnownVersions()
        # A version that looks pending needs its list of files, which is read once, for all that is asked of it.
        versions = run_versions(repository, run, with_forgotten=True, known=self._known, by_summaries=True)
        self._found = versions
        self._decided = versions.decided
        self._statuses = versions.statuses
        self._refuse_unclear()

    @property
    def facts(self) -> list[VersionFacts]:
        """What manifests, later proofs and decisions say of the versions."""
        return [_facts(status, self._decided) for status in self._statuses]

    @property
    def is_pending(self) -> bool:
        """Whether a version that is not forgotten looks pending, so that only its list of files has its status."""
        return any(status.is_pending and not self._is_forgotten(status) for status in self._statuses)

    def with_files(self, asked: Collection[str] | None) -> list[VersionFacts]:
        """Return the facts with what the lists of files say: this reads those of all versions that are not forgotten.

        Each is read once, whatever is asked; some of them are in memory at the same time.
        """
        proofs = RunProofs(self._repository, self._run, self._known, self._found)
        search, evaluations = BestSearch(self._repository, self._run), RunEvaluations(self._repository, self._run)
        best_by = self._repository.best_by(self._run)
        if best_by is not None:
            asked = {*(asked or ()), named_number(best_by)[0]}
        found = {}

        def read(status: ProofStatus) -> _Listed:
            return _Listed.of(self._repository, status, proofs, asked, evaluations)

        # The newest first, as the search for the best asks; and alone: what all of them need is read with it, once.
        there = [status for status in reversed(self._statuses) if not self._is_forgotten(status)]
        rest = ahead(read, there[1:], weight_of=_file_count, weight_max=_FILES_MAX)
        try:
            for one in chain(map(read, there[:1]), (result() for _, result in rest)):
                search.look(one.status.stored, one.entries)
                found[one.status.root.number] = one.status, one.measured
                self._note(one, proofs)
            best = self._best_number(search, best_by, {number: known.numbers for number, (_, known) in found.items()})
        except Damage as error:
            raise self._unclear(f"a list of files cannot be read: {error}") from error
        self._refuse_skipped()
        facts = {
            number: _with_measured(_facts(status, self._decided), known, best)
            for number, (status, known) in found.items()
        }
        return [facts.get(one.number, one) for one in self.facts]

    def _note(self, one: _Listed, proofs: RunProofs) -> None:
        """Have a forget that follows know what the list of files told."""
        self._known.told[one.status.root.number] = Told(
            proofs.of(one.status.stored)[0], one.status, one.measured.is_resumable
        )

    def _is_forgotten(self, status: ProofStatus) -> bool:
        return self._decided.dropped(status.root.number, status.stored.digest) is not None

    def _best_number(
        self, search: BestSearch, best_by: str | None, numbers: Mapping[int, Mapping[str, tuple[float, ...]]]
    ) -> int:
        """Return the version that a restore of the best one takes; 0 if nothing tells which that is."""
        if best_by is not None:
            name, is_max = named_number(best_by)
            return best_among(numbers, name, is_max=is_max) or 0
        try:
            return search.number()
        except VersionMissing:
            return 0

    def retained(self, evaluation: PolicyOutcome) -> Retained:
        """Return an evaluation with what it is about."""
        roots = {status.root.number: status.root for status in self._statuses}
        digests = {status.root.number: status.stored.digest for status in self._statuses}
        return Retained(evaluation, roots, digests, self._decided, self._known)

    def _refuse_unclear(self) -> None:
        """Raise ``PolicyRefused`` if versions, their proofs, or decisions about them may be hidden or damaged."""
        self._refuse_skipped()
        if self._decided.hidden is not None:
            raise self._unclear(f"what was decided of its versions cannot be read: {self._decided.hidden}")
        hidden = [str(status.root.number) for status in self._statuses if status.hidden is not None]
        if hidden:
            raise self._unclear(f"later proofs are missing of version {_some(hidden)}")
        numbers = {status.root.number for status in self._statuses}
        for status in self._statuses:
            previous = status.root.previous
            if previous is None or previous.number in numbers or self._decided.dropped(previous.number) is not None:
                continue
            what = f"version {previous.number} is missing, and nothing says that it was removed"
            raise self._unclear(what)

    def _refuse_skipped(self) -> None:
        """Raise ``PolicyRefused`` if an object under the name of a version, proof or decision did not open."""
        run_id = self._repository.version_key(self._run, 1).split("/")[1]
        # An evaluation that does not open is as one that a store hides: a version without a number is kept.
        skipped = sorted(
            key
            for key in self._repository.skipped
            if key.split("/")[1:2] == [run_id] and names.parse_evaluation(key) is None
        )
        if skipped:
            raise self._unclear(f"{_some(skipped)} cannot be read")

    def _unclear(self, what: str) -> PolicyRefused:
        text = f"nothing was removed of run {self._run!r}: {what}"
        return PolicyRefused(text, where=self._repository.store.url)


def _file_count(status: ProofStatus) -> int:
    return status.root.summary.file_count


def _facts(status: ProofStatus, decided: Decided) -> VersionFacts:
    root = status.root
    has_sound = root.summary.checkpoint_count > status.broken_count
    return VersionFacts(
        root.number,
        root.created_ns,
        level=status.lowest_level if has_sound else 0,
        is_as_required=is_proved(status),
        is_broken=status.broken_count > 0,
        is_pinned=root.number in decided.pins,
        is_registered=root.number in decided.registered,
        is_forgotten=decided.dropped(root.number, status.stored.digest) is not None,
        sources=frozenset(trouble.kept for trouble in root.troubles if trouble.kept),
    )


def _with_measured(facts: VersionFacts, known: Measured, best: int) -> VersionFacts:
    return replace(
        facts,
        is_resumable=known.is_resumable,
        is_best=facts.number == best,
        epoch=known.epoch,
        step=known.step,
        metrics=known.numbers,
    )


def _some(texts: list[str]) -> str:
    return ", ".join(texts[:_NAMED_MAX]) + (" and others" if len(texts) > _NAMED_MAX else "")
