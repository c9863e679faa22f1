"""Check what was decided of a run's versions: that each decision opens, and that none is missing or swapped."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mlsync.errors import OF_OBJECT, Error
from mlsync.repository.ahead import ahead
from mlsync.repository.history.decision import Decision, decision_key
from mlsync.repository.history.decisions import Decided, read_decision, state_of
from mlsync.repository.history.seen_decision import SeenDecision, half
from mlsync.repository.repository import Repository


def checked_decisions(
    repository: Repository,
    runs: Mapping[bytes, Mapping[int, str]],
    failed: Callable[[str, Error], None],
    problem: Callable[[str, str], None],
) -> dict[bytes, Decided]:
    """Return what is decided of runs, by id, and report what is wrong; *runs* has the names of decisions by number.

    *failed* is called for a decision that does not open, and *problem* for one that is missing, or that follows another
    one than is there.
    """
    in_order = ((run_id, number) for run_id, keys in runs.items() for number in sorted(keys))
    found, before = {run_id: Decided("") for run_id in runs}, dict[bytes, dict[int, bytes]]()
    for (run_id, number), read in ahead(lambda one: read_decision(repository, runs[one[0]][one[1]]), in_order):
        keys = runs[run_id]
        try:
            decision, digest = read()
        except OF_OBJECT as error:
            failed(keys[number], error)
            continue
        earlier = before.setdefault(run_id, {})
        text = _chain_fault(decision, earlier, keys)
        if text is not None:
            problem(keys[number], text)
        earlier[number] = digest
        found[run_id] = state_of(decision, digest)
    return found


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
