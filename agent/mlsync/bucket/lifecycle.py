"""The rules of a lifecycle that a repository wants: packs grow cold, what was deleted goes, uploads do not pile up.

Only packs are moved. Everything else is small, and is read by every backup and every restore, so it stays where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlsync.bucket.facts import BucketFacts
from mlsync.bucket.providers import OLD_VERSIONS, TIERS, UPLOADS, Provider
from mlsync.bucket.steps import BucketStep, StepLine, StepMark, left, prefix_of, same_rule, unknown
from mlsync.bucket.wanted import (
    DEFAULT_ABORT_DAYS,
    DEFAULT_NONCURRENT_DAYS,
    DEFAULT_TIERS,
    FROZEN,
    PackTier,
    Wanted,
)
from mlsync.store.s3.settings import Setting

_PACKS, _OLD, _UPLOADS = "packs", "old-versions", "uploads"
OURS = "mlsync-"
_KINDS = {_PACKS: TIERS, _OLD: OLD_VERSIONS, _UPLOADS: UPLOADS}


def rules_of(wanted: Wanted, have: Mapping[str, Mapping[str, Any]], provider: Provider) -> dict[str, dict[str, Any]]:
    """Return our rules by name: as the options say, else as the bucket has them in *have*, else the defaults."""
    found: dict[str, dict[str, Any]] = {}
    tiers = _tiers(wanted, have, provider)
    if tiers:
        rule = _rule(wanted.rule_name(_PACKS), wanted.packs)
        rule["Transitions"] = [{"Days": one.days, "StorageClass": one.storage_class} for one in tiers]
        found[rule["ID"]] = rule
    if OLD_VERSIONS not in provider.lacks:
        rule = _rule(wanted.rule_name(_OLD), wanted.below)
        days = wanted.noncurrent_days or _days(have, rule["ID"], "NoncurrentVersionExpiration", "NoncurrentDays")
        # A marker that nothing hides behind any more is of no use.
        rule["Expiration"] = {"ExpiredObjectDeleteMarker": True}
        rule["NoncurrentVersionExpiration"] = {"NoncurrentDays": days or DEFAULT_NONCURRENT_DAYS}
        found[rule["ID"]] = rule
    if UPLOADS not in provider.lacks:
        rule = _rule(wanted.rule_name(_UPLOADS), wanted.below)
        days = wanted.abort_days or _days(have, rule["ID"], "AbortIncompleteMultipartUpload", "DaysAfterInitiation")
        rule["AbortIncompleteMultipartUpload"] = {"DaysAfterInitiation": days or DEFAULT_ABORT_DAYS}
        found[rule["ID"]] = rule
    return found


def lifecycle_step(wanted: Wanted, facts: BucketFacts, provider: Provider) -> BucketStep:
    """Return the step that makes our rules as they are wanted, and leaves all others."""
    answer = facts.answer(Setting.LIFECYCLE)
    if answer.is_lacking:
        asked = bool(wanted.tiers) or wanted.noncurrent_days is not None or wanted.abort_days is not None
        what = f"{provider.name} has none: packs stay in their class, and mlsync alone removes incomplete uploads"
        return left(facts.bucket, Setting.LIFECYCLE, what, is_refused=asked)
    if not answer.is_known:
        return unknown(facts.bucket, Setting.LIFECYCLE, answer.why)
    have = {str(rule.get("ID") or f"#{at}"): rule for at, rule in enumerate(answer.document.get("Rules", []))}
    rules = rules_of(wanted, have, provider)
    lines = [_compared(have.get(name), rule) for name, rule in rules.items()]
    is_shared = bool(facts.others) and not wanted.prefix
    if is_shared:
        # A rule about the whole bucket would remove what others keep there.
        lines = [line for line, name in zip(lines, list(rules), strict=True) if name.startswith(f"{OURS}{_PACKS}")]
        rules = {name: rule for name, rule in rules.items() if name.startswith(f"{OURS}{_PACKS}")}
        lines.append(StepLine(StepMark.LEFT, _others_there(facts)))
    mine = {wanted.rule_name(kind): part for kind, part in _KINDS.items()}
    removed = tuple(name for name in have if name in mine and name not in rules and not is_shared)
    lines += [StepLine(StepMark.REMOVED, described(have[name])) for name in removed]
    if not removed and wanted.rule_name(_PACKS) not in rules and TIERS not in provider.lacks:
        lines.append(StepLine(StepMark.SAME, "packs are moved nowhere (--tier sets classes)"))
    for part in _KINDS.values():
        if part in provider.lacks and not (part == TIERS and wanted.tiers):
            lines.append(StepLine(StepMark.LEFT, f"{provider.name}: nothing about {part}: {provider.lacks[part]}"))
    lines += [
        StepLine(StepMark.SAME, f"{described(rule)} (not mlsync's here: it stays)")
        for name, rule in have.items()
        if name not in mine
    ]
    document = {"Rules": [*rules.values()]}
    return BucketStep(facts.bucket, Setting.LIFECYCLE, tuple(lines), document, rules, removed)


def described(rule: Mapping[str, Any]) -> str:
    """Return what a rule does, in words."""
    does = [f"{one.get('StorageClass')} after {_after(one)}" for one in rule.get("Transitions") or ()]
    expiry = rule.get("Expiration") or {}
    if expiry.get("Days") or expiry.get("Date"):
        does.append(f"deleted {'on ' + str(expiry['Date']) if expiry.get('Date') else 'after ' + _after(expiry)}")
    old = rule.get("NoncurrentVersionExpiration") or {}
    if old.get("NoncurrentDays"):
        does.append(f"noncurrent versions go after {old['NoncurrentDays']} days")
    abort = rule.get("AbortIncompleteMultipartUpload") or {}
    if abort.get("DaysAfterInitiation"):
        does.append(f"incomplete uploads go after {abort['DaysAfterInitiation']} days")
    where = prefix_of(rule) or "the whole bucket"
    chosen = rule.get("Filter") or {}
    if {*chosen, *(chosen.get("And") or {})} - {"Prefix", "And"}:
        where += " (objects with certain tags or sizes)"
    off = "" if rule.get("Status") == "Enabled" else " (disabled)"
    return f"{rule.get('ID') or 'a rule without a name'}{off}: {where}: {', '.join(does) or 'something else'}"


def frozen_tiers(rules: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the classes among the rules' from which packs have to be thawed."""
    found = (str(one.get("StorageClass")) for rule in rules.values() for one in rule.get("Transitions") or ())
    return [one for one in found if one in FROZEN]


def _tiers(wanted: Wanted, have: Mapping[str, Mapping[str, Any]], provider: Provider) -> tuple[PackTier, ...]:
    if wanted.tiers is not None:
        return wanted.tiers
    rule = have.get(wanted.rule_name(_PACKS))
    if rule is not None:
        moves = (one for one in rule.get("Transitions") or () if one.get("Days") is not None)
        return tuple(PackTier(str(one.get("StorageClass")), int(one["Days"])) for one in moves)
    if TIERS in provider.lacks or any(wanted.rule_name(kind) in have for kind in _KINDS):
        # Our other rules without this one: somebody wanted no class.
        return ()
    return tuple(one for one in DEFAULT_TIERS if provider.classes is None or one.storage_class in provider.classes)


def _days(have: Mapping[str, Mapping[str, Any]], name: str, part: str, what: str) -> int:
    return int((have.get(name, {}).get(part) or {}).get(what) or 0)


def _rule(name: str, prefix: str) -> dict[str, Any]:
    return {"ID": name, "Filter": {"Prefix": prefix}, "Status": "Enabled"}


def _compared(have: Mapping[str, Any] | None, rule: Mapping[str, Any]) -> StepLine:
    if have is None:
        return StepLine(StepMark.ADDED, described(rule))
    if same_rule(have, rule):
        return StepLine(StepMark.SAME, described(rule))
    return StepLine(StepMark.CHANGED, f"{described(have)} -> {described(rule)}")


def _others_there(facts: BucketFacts) -> str:
    return (
        f"no rule about noncurrent versions and incomplete uploads: the bucket also has {', '.join(facts.others[:3])}; "
        "give the repository a prefix of its own"
    )


def _after(one: Mapping[str, Any]) -> str:
    return f"{one.get('Days', 0)} days"
