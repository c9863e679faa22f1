"""Apply a policy to the versions of a run: which are kept and why, and which are removed.

A version is kept if any rule keeps it, or if it is one that no policy may remove: the newest, the newest proved, the
newest that training can resume from, the best, pinned and registered ones, those younger than the grace, those whose
date has not come yet, and those whose content of a file stands in a version that is kept, because that file was torn or
broken.

What holds, for one moment and one list of versions: the order of the list does not matter; one more rule, or a rule
with a higher count, removes nothing more; and what is left, given to the same policy again, loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from mlsync.errors import PolicyRefused
from mlsync.retention.facts import History, VersionFacts
from mlsync.retention.rules import Rule

# Decisions about versions hold it, and have no room for more.
_TEXT_BYTES_MAX: Final = 180


class KeepPolicy(msgspec.Struct, frozen=True):
    """The rules, the level below which a version displaces none, and the age below which none is removed."""

    rules: tuple[Rule, ...]
    floor: int
    grace_s: float

    @property
    def text(self) -> str:
        """The rules in one line, cut if there are many."""
        text = ", ".join(rule.text for rule in self.rules)
        body = text.encode()
        if len(body) <= _TEXT_BYTES_MAX:
            return text
        return body[: _TEXT_BYTES_MAX - len("…".encode())].decode(errors="ignore") + "…"


class RuleCount(msgspec.Struct, frozen=True):
    """A rule, how many versions it could choose from, and how many it keeps."""

    text: str
    seen_count: int
    kept_count: int


class Judged(msgspec.Struct, frozen=True):
    """A version, and the reasons why it is kept: none for one that is removed."""

    version: VersionFacts
    reasons: tuple[str, ...]

    @property
    def is_kept(self) -> bool:
        """Whether the version stays."""
        return bool(self.reasons)


class PolicyOutcome(msgspec.Struct, frozen=True):
    """What a policy says of the versions of a run that are not forgotten, by rising number."""

    run: str
    policy_text: str
    judged: tuple[Judged, ...]
    rules: tuple[RuleCount, ...]

    @property
    def removed(self) -> tuple[int, ...]:
        """The numbers of the versions that no rule keeps."""
        return tuple(one.version.number for one in self.judged if not one.is_kept)

    @property
    def there_count(self) -> int:
        """How many versions there are."""
        return len(self.judged)


def evaluate(policy: KeepPolicy, run: str, versions: Iterable[VersionFacts], now_ns: int) -> PolicyOutcome:
    """Return what *policy* says of *versions*, of which forgotten ones neither count nor come back.

    Raise ``PolicyRefused`` if a rule asks for what is known of no version.
    """
    if not policy.rules:
        raise PolicyRefused(f"the policy of run {run!r} has no rule, and would keep nothing")
    history = History(run, versions, floor=policy.floor, now_ns=now_ns)
    reasons: dict[int, list[str]] = {one.number: [] for one in history.versions}
    _protect(history, policy.grace_s, reasons)
    counts = []
    # Without a version there is nothing that a rule could ask for.
    for rule in policy.rules if history.versions else ():
        choice = rule.choose(history)
        counts.append(RuleCount(rule.text, choice.seen_count, len(choice.reasons)))
        for number, reason in choice.reasons.items():
            if reason not in reasons[number]:
                reasons[number].append(reason)
    _protect_sources(history.versions, reasons)
    judged = tuple(Judged(one, tuple(reasons[one.number])) for one in history.versions)
    return PolicyOutcome(run, policy.text, judged, tuple(counts))


def _protect(history: History, grace_s: float, reasons: dict[int, list[str]]) -> None:
    """Give reasons to the versions that no policy may remove."""

    def keep_last(found: Sequence[VersionFacts], reason: str) -> None:
        if found and reason not in reasons[found[-1].number]:
            reasons[found[-1].number].append(reason)

    keep_last(history.versions, "newest")
    # The floor may be above or below what was required of the versions: both kinds of a proved one stay.
    keep_last([one for one in (history.newest_proved,) if one is not None], "newest proved")
    keep_last([one for one in history.versions if one.is_as_required], "newest proved")
    resumable = [one for one in history.versions if one.is_resumable]
    # A newer one below the floor does not displace a proved one here, either.
    keep_last(resumable, "newest resumable")
    keep_last([one for one in resumable if history.is_proved(one)], "newest resumable")
    young_ns = history.now_ns - int(grace_s * 10**9)
    for one in history.versions:
        if one.is_best:
            reasons[one.number].append("best")
        if one.is_pinned:
            reasons[one.number].append("pinned")
        if one.is_registered:
            reasons[one.number].append("registered")
        if history.is_of_future(one):
            reasons[one.number].append("dated in the future")
        elif one.made_ns > young_ns:
            reasons[one.number].append("younger than the grace")


def _protect_sources(versions: Sequence[VersionFacts], reasons: dict[int, list[str]]) -> None:
    """Keep the versions whose content of a file stands in versions that are kept, and the sources of these."""
    sources = {one.number: one.sources for one in versions}
    kept = [number for number, why in reasons.items() if why]
    while kept:
        number = kept.pop()
        for source in sorted(sources[number] & reasons.keys() - {number}):
            if not reasons[source]:
                kept.append(source)
            reasons[source].append(f"last good content of a file in version {number}")
