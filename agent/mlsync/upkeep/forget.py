"""Forget versions, and bring them back: nothing is deleted, and what something needs is refused.

A forgotten version is no longer listed or chosen. All of it stays until its grace has passed and ``mlsync prune``
removes it; until then ``unforget`` brings it back as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mlsync.errors import VersionKept, VersionMissing
from mlsync.repository.history.decision import Forgotten
from mlsync.repository.history.decisions import By, Decided, NextState, decide
from mlsync.repository.history.seen_decision import SeenDecision, half, seen_decision
from mlsync.repository.readable import newest_readable
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.versions.decided import refuse_gone
from mlsync.versions.proof_status import KnownVersions, ProofStatus, RunVersions, run_versions
from mlsync.versions.resumable import resumables
from mlsync.versions.run_proofs import RunProofs

# The rule of what a person forgets by number.
BY_HAND: Final = "by hand"
_NAMED_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What a forget did, or would do: the versions that were listed until then, each with the rule it falls to."""

    run: str
    items: tuple[tuple[StoredVersion, str], ...]
    already: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Needs:
    """The versions of a run that are listed, and why some of them must stay.

    *kept_by* has, by number, the later versions whose troubles name a version as the one whose content they kept.
    """

    decided: Decided
    seen: SeenDecision | None
    listed: Mapping[int, StoredVersion] = field(default_factory=dict)
    reasons: Mapping[int, str] = field(default_factory=dict)
    kept_by: Mapping[int, Sequence[int]] = field(default_factory=dict)

    def reason(self, number: int, going: Collection[int]) -> str | None:
        """Return why a version must stay while all of *going* go; ``None`` if it need not."""
        if number in self.decided.pins:
            name = self.decided.pins[number].name
            return f"it is pinned{f' as {name}' if name else ''}"
        if number in self.decided.registered:
            return f"it is registered as {self.decided.registered[number][0].uri}"
        if number in self.reasons:
            return self.reasons[number]
        staying = [other for other in self.kept_by.get(number, ()) if other not in going]
        return f"it has the last good content of a file, as version {staying[-1]} says" if staying else None


def needs_of(repository: Repository, run: str, known: KnownVersions | None = None) -> Needs:
    """Return which versions of a run are listed, and which must stay; this reads all manifests that are not *known*."""
    known = known or KnownVersions()
    found = run_versions(repository, run, known=known)
    listed = {status.root.number: status.stored for status in found.statuses}
    seen = None if found.newest is None else seen_decision(found.newest.root.room)
    kept_by: dict[int, list[int]] = {}
    for number, stored in listed.items():
        for kept in {trouble.kept for trouble in stored.root.troubles}:
            kept_by.setdefault(kept, []).append(number)
    return Needs(found.decided, seen, listed, dict(_reasons(repository, run, found, known)), kept_by)


def forget(
    repository: Repository,
    run: str,
    items: Sequence[tuple[int, str]],
    by: By,
    *,
    dry_run: bool = False,
    accept_hidden: bool = False,
    known: KnownVersions | None = None,
) -> Forgetting:
    """Forget versions of a run, by number and the rule that each falls to: all of them, or none.

    What is *known* of versions is not read again. Raises ``VersionMissing`` for a number that is not there,
    ``VersionKept`` for versions that must stay, and what ``decide`` raises. A version that is forgotten already stays
    so, by the rule that it fell to first.
    """
    needs = needs_of(repository, run, known)
    if not accept_hidden:
        needs.decided.refuse_hidden(repository.store.url)
    rules = dict(items)
    already = tuple(sorted(number for number in rules if number in needs.decided.forgotten))
    going = {number: rule for number, rule in sorted(rules.items()) if number not in needs.decided.forgotten}
    for number in going:
        refuse_gone(needs.decided, number, repository.store.url)
        if number not in needs.listed:
            raise VersionMissing(f"run {run!r} has no version {number}", where=repository.store.url)
    _refuse_needed(needs, going, repository.store.url)

    def change(decided: Decided, draft: NextState) -> None:
        pinned = {number: "it was pinned meanwhile" for number in going if number in decided.pins}
        registered = {number: "it was registered meanwhile" for number in going if number in decided.registered}
        _refuse(run, pinned | registered, repository.store.url)
        for number, rule in going.items():
            if decided.dropped(number) is None:
                digest = half(needs.listed[number].digest)
                draft.forgotten[number] = Forgotten(number, digest, rule, by.now_ns)

    if going and not dry_run:
        decide(repository, run, needs.seen, change, by, accept_hidden=accept_hidden, found=needs.decided)
    return Forgetting(run, tuple((needs.listed[number], rule) for number, rule in going.items()), already)


def unforget(
    repository: Repository, run: str, numbers: Iterable[int], by: By, *, accept_hidden: bool = False
) -> tuple[int, ...]:
    """Bring forgotten versions back, and return which were forgotten: all of them, or none.

    Raises ``VersionMissing`` for a version that is gone, or whose manifest is another one than was forgotten.
    """
    wanted = sorted(set(numbers))
    opened = {number: _openable(repository, run, number) for number in wanted}
    back: list[int] = []

    def change(decided: Decided, draft: NextState) -> None:
        back.clear()
        for number in wanted:
            refuse_gone(decided, number, repository.store.url)
            item = draft.forgotten.pop(number, None)
            if item is not None:
                back.append(number)
            if item is not None and half(opened[number]().digest) != item.manifest:
                what = f"version {number} of run {run!r} is another one than was forgotten"
                raise VersionMissing(what, where=repository.store.url, advice="mlsync check tells more")

    decide(repository, run, newest_word(repository, run), change, by, accept_hidden=accept_hidden)
    return tuple(back)


def newest_word(repository: Repository, run: str) -> SeenDecision | None:
    """Return what the newest version of a run says of decisions."""
    newest = newest_readable(repository, run)
    return None if newest is None else seen_decision(newest.root.room)


def _openable(repository: Repository, run: str, number: int) -> Callable[[], StoredVersion]:
    return lambda: repository.stored(run, number)


def _reasons(repository: Repository, run: str, found: RunVersions, known: KnownVersions) -> Iterable[tuple[int, str]]:
    """Yield the versions that no rule may drop; the strongest reason comes last."""
    statuses, proofs = found.statuses, RunProofs(repository, run, known, found)
    for stored in proofs.trusted(reversed(proofs.numbers)):
        if _is_resumable(stored, proofs, known):
            yield stored.root.number, "it is the newest from which training can resume"
            break
    proved = [status for status in statuses if is_proved(status)]
    if proved:
        yield proved[-1].root.number, "it is the newest that is proved"
    if statuses:
        yield statuses[-1].root.number, "it is the newest"


def _is_resumable(stored: StoredVersion, proofs: RunProofs, known: KnownVersions) -> bool:
    told = known.told.get(stored.root.number)
    if told is not None and told.proofs is proofs.of(stored)[0]:
        return told.is_resumable
    return bool(resumables(proofs.entries(stored)))


def is_proved(status: ProofStatus) -> bool:
    """Return whether a version has checkpoints, and all of them are proved as far as was required."""
    return (
        status.root.summary.checkpoint_count > 0
        and not status.broken_count
        and not status.is_pending
        and status.hidden is None
    )


def _refuse_needed(needs: Needs, going: Collection[int], where: str) -> None:
    reasons = {number: needs.reason(number, going) for number in going}
    _refuse(needs.decided.run, {number: text for number, text in reasons.items() if text is not None}, where)


def _refuse(run: str, reasons: Mapping[int, str], where: str) -> None:
    """Raise ``VersionKept`` if there is a reason against a version."""
    if not reasons:
        return
    named = "; ".join(f"version {number}: {text}" for number, text in sorted(reasons.items())[:_NAMED_MAX])
    more = len(reasons) - _NAMED_MAX
    others = f"; and {more} more" if more > 0 else ""
    what = f"nothing was forgotten: versions of run {run!r} must stay: {named}{others}"
    raise VersionKept(what, where=where)
