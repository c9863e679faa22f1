"""Ask a policy about the versions of a run: gather what the store says of them, and refuse what is not clear.

The policy itself is in ``mlsync.retention``, and knows no store. This reads the manifest of each version and the later
proofs, as a list of versions does. The lists of files are read only where a rule or a protection needs them: for each
version if a rule compares epochs or numbers, or if something would be removed at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from mlsync.errors import Damage, PolicyRefused, VersionMissing
from mlsync.repository.history.decisions import Decided
from mlsync.repository.manifest import ManifestRoot
from mlsync.repository.repository import Repository
from mlsync.retention.facts import VersionFacts
from mlsync.retention.policy import Evaluation, KeepPolicy, evaluate
from mlsync.retention.rules import BestRule, EveryRule
from mlsync.upkeep.forget import is_proved
from mlsync.versions.best import best_number
from mlsync.versions.measured import Measured, measured
from mlsync.versions.proof_status import ProofStatus, run_versions
from mlsync.versions.run_proofs import RunProofs

# Lists of files are small and may be far away; each that is in memory may be of a hundred thousand files.
_AT_ONCE: Final = 4
_NAMED_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Retained:
    """What a policy says of a run's versions, and by what each would be forgotten: the digest of its manifest."""

    evaluation: Evaluation
    roots: Mapping[int, ManifestRoot]
    digests: Mapping[int, bytes]
    decided: Decided


def retained(repository: Repository, run: str, policy: KeepPolicy, now_ns: int, *, with_all_reasons: bool) -> Retained:
    """Return what *policy* says of the versions of a run, with everything that its rules ask for.

    Without *with_all_reasons*, a run of which nothing would be removed is not looked at further, and some of the
    reasons why versions are kept may be missing. Raises ``PolicyRefused`` if what the store shows of the run is not
    complete or not clear: then nothing may be removed.
    """
    found = _Run(repository, run)
    asked = _asked(policy)
    facts = found.facts
    if asked is None and not with_all_reasons:
        # Without the lists of files only fewer versions can be kept.
        evaluation = evaluate(policy, run, facts, now_ns)
        if not evaluation.removed:
            return found.retained(evaluation)
    facts = found.with_files(facts, asked)
    return found.retained(evaluate(policy, run, facts, now_ns))


def _asked(policy: KeepPolicy) -> frozenset[str] | None:
    """Return the names of numbers that the rules compare; ``None`` if no rule needs the lists of files."""
    names = frozenset(rule.name for rule in policy.rules if isinstance(rule, BestRule))
    if names or any(isinstance(rule, EveryRule) for rule in policy.rules):
        return names
    return None


class _Run:
    """The versions of a run that are not gone, as the store shows them."""

    def __init__(self, repository: Repository, run: str) -> None:
        self._repository = repository
        self._run = run
        versions = run_versions(repository, run, with_forgotten=True)
        self._decided = versions.decided
        self._statuses = versions.statuses
        self._refuse_unclear()

    @property
    def facts(self) -> list[VersionFacts]:
        """What manifests, later proofs and decisions say of the versions."""
        return [_facts(status, self._decided) for status in self._statuses]

    def with_files(self, facts: list[VersionFacts], asked: Collection[str] | None) -> list[VersionFacts]:
        """Return *facts* with what the lists of files say: this reads those of all versions that are not forgotten."""
        proofs = RunProofs(self._repository, self._run)
        stored = {status.root.number: status.stored for status in self._statuses}

        def measure(number: int) -> Measured:
            return measured(self._repository, list(proofs.entries(stored[number])), asked)

        there = [one.number for one in facts if not one.is_forgotten]
        try:
            # The first one alone: what all of them need is read with it, once.
            known = {number: measure(number) for number in there[:1]}
            with ThreadPoolExecutor(_AT_ONCE) as executor:
                known |= zip(there[1:], executor.map(measure, there[1:]), strict=True)
            best = self._best_number()
        except Damage as error:
            raise self._unclear(f"a list of files cannot be read: {error}") from error
        self._refuse_skipped()
        return [_with_measured(one, known[one.number], best) if one.number in known else one for one in facts]

    def _best_number(self) -> int:
        """Return the version that a restore of the best one takes; 0 if nothing tells which that is."""
        try:
            return best_number(self._repository, self._run)
        except VersionMissing:
            return 0

    def retained(self, evaluation: Evaluation) -> Retained:
        """Return an evaluation with what it is about."""
        roots = {status.root.number: status.root for status in self._statuses}
        digests = {status.root.number: status.stored.digest for status in self._statuses}
        return Retained(evaluation, roots, digests, self._decided)

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
        skipped = sorted(key for key in self._repository.skipped if key.split("/")[1:2] == [run_id])
        if skipped:
            raise self._unclear(f"{_some(skipped)} cannot be read")

    def _unclear(self, what: str) -> PolicyRefused:
        text = f"nothing was removed of run {self._run!r}: {what}"
        return PolicyRefused(text, where=self._repository.store.url)


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
