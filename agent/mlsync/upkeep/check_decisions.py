"""Check what was decided of a run's versions: that each decision opens, and that none is missing or swapped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from mlsync.errors import Damage, Error, FormatUnsupported, NotFound, ObjectArchived
from mlsync.repository.history.decision import Decision, decision_key
from mlsync.repository.history.decisions import Decided, read_decision, state_of
from mlsync.repository.history.seen_decision import SeenDecision, half
from mlsync.repository.repository import Repository

_OF_OBJECT: Final = (Damage, FormatUnsupported, ObjectArchived, NotFound)


def checked_decisions(
    repository: Repository,
    keys: Mapping[int, str],
    failed: Callable[[str, Error], None],
    problem: Callable[[str, str], None],
) -> Decided:
    """Return what is decided of a run, and report what is wrong; *keys* are the names of its decisions by number.

    *failed* is called for a decision that does not open, and *problem* for one that is missing, or that follows another
    one than is there.
    """
    decided, before = Decided(""), dict[int, bytes]()
    for number in sorted(keys):
        try:
            decision, digest = read_decision(repository, keys[number])
        except _OF_OBJECT as error:
            failed(keys[number], error)
            continue
        text = _chain_fault(decision, before, keys)
        if text is not None:
            problem(keys[number], text)
        before[number] = digest
        decided = state_of(decision, digest)
    return decided


def _chain_fault(decision: Decision, before: Mapping[int, bytes], keys: Mapping[int, str]) -> str | None:
    """Return what is wrong between a decision and the one before it that it names."""
    previous = decision.previous
    if previous is None:
        return None
    if previous.number not in keys:
        return f"decision {previous.number}, which it follows, is missing"
    # One that does not open is reported by itself.
    if previous.number in before and before[previous.number] != previous.digest:
        return f"decision {previous.number} is not the one that it was made to follow"
    return None


def hidden_decision(repository: Repository, run: str, decided: Decided, seen: SeenDecision | None) -> tuple[str, str]:
    """Return name and fault of the decision that a run's newest version names, if it is not there; else two blanks."""
    if seen is None or seen.number < decided.number:
        return "", ""
    key = decision_key(repository.keys, run, seen.number)
    if seen.number > decided.number:
        return key, "a decision that a version names is missing: pins may be gone, and forgotten versions be back"
    if seen.half != half(decided.digest):
        return key, "the decision is another one than was seen before"
    return "", ""
