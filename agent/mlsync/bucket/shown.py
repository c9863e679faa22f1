"""What a bucket is set to, in words: a line or more for each setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from mlsync.bucket import lifecycle, policy, replication
from mlsync.bucket.facts import BucketFacts
from mlsync.bucket.plan import encryption_words, lock_of, lock_words, public_words, versions_words
from mlsync.store.s3.settings import Setting


def shown(facts: BucketFacts) -> Iterator[tuple[Setting, str]]:
    """Yield each setting and what it is."""
    for setting, words in _WORDS.items():
        answer = facts.answer(setting)
        if answer.is_lacking:
            yield setting, "the server has none"
        elif not answer.is_known:
            yield setting, f"not known: {answer.why}"
        else:
            for line in words(answer.document, facts):
                yield setting, line


def _lock(document: Mapping[str, Any]) -> str:
    if document.get("ObjectLockEnabled") != "Enabled":
        return "off"
    found = lock_of(document)
    return "on, without a default retention" if found is None else lock_words(found)


def _policy(document: Mapping[str, Any], facts: BucketFacts) -> str:
    count = len(policy.statements_of(document))
    refuses = policy.refuses_http(document, replication.arn_of(facts.bucket, facts.region))
    how_many = "no statement" if not count else f"{count} statement{'s' if count > 1 else ''}"
    return f"{how_many}; plain http is {'' if refuses else 'not '}refused"


def _rules(describe: Callable[[Mapping[str, Any]], str], document: Mapping[str, Any]) -> list[str]:
    return [describe(rule) for rule in document.get("Rules") or ()] or ["none"]


_WORDS: Final[Mapping[Setting, Callable[[Mapping[str, Any], BucketFacts], list[str]]]] = {
    Setting.PUBLIC: lambda document, _facts: [public_words(document)],
    Setting.VERSIONS: lambda document, _facts: [versions_words(document)],
    Setting.ENCRYPTION: lambda document, _facts: [encryption_words(document)],
    Setting.LIFECYCLE: lambda document, _facts: _rules(lifecycle.described, document),
    Setting.LOCK: lambda document, _facts: [_lock(document)],
    Setting.POLICY: lambda document, facts: [_policy(document, facts)],
    Setting.REPLICATION: lambda document, _facts: _rules(replication.described, document),
}
