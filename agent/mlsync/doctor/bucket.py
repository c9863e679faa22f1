"""What a bucket is set to: public access, versions, object lock, and lifecycle rules that would eat a repository."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlsync.doctor.findings import Diagnosis, Grade
from mlsync.doctor.store import Remedy
from mlsync.errors import Error
from mlsync.repository import names
from mlsync.store.base import MARKER
from mlsync.store.s3.inspection import BucketInspection, LifecycleRule

PUBLIC, VERSIONS, LOCK, LIFECYCLE = "public access", "versions of the bucket", "object lock", "lifecycle"


def diagnose_public(bucket: BucketInspection) -> Iterator[Diagnosis]:
    """Yield whether anybody on the network can list or read the bucket."""
    rights = bucket.open_to_all()
    if rights:
        means = "anybody sees sizes and times, and can try passphrases against the key slots for as long as he likes"
        advice = "block public access to the bucket, and change a passphrase that is not long: mlsync key change"
        what = f"anybody can {' and '.join(rights)} without credentials"
        yield Diagnosis(PUBLIC, Grade.GRAVE, what, means, advice)
    else:
        yield Diagnosis(PUBLIC, Grade.FINE, "nobody can list or read without credentials")


def diagnose_versions(bucket: BucketInspection) -> Iterator[Diagnosis]:
    """Yield whether a deleted object can be brought back."""
    if bucket.keeps_versions():
        yield Diagnosis(VERSIONS, Grade.FINE, "on: what is deleted or overwritten stays as a noncurrent version")
    else:
        yield Diagnosis(VERSIONS, Grade.FINE, "off: what is deleted is gone")


def diagnose_lock(bucket: BucketInspection) -> Iterator[Diagnosis]:
    """Yield whether the store itself refuses deletions."""
    lock = bucket.lock()
    if lock is None:
        yield Diagnosis(LOCK, Grade.FINE, "off: credentials that may delete can delete versions")
    elif not lock:
        means, advice = (
            "no object is protected unless its writer asks for it, and mlsync does not",
            "set a default retention",
        )
        yield Diagnosis(LOCK, Grade.WARNING, "on, without a default retention", means, advice)
    else:
        yield Diagnosis(LOCK, Grade.FINE, f"on: nobody deletes a new object for {lock}")


def remedy_of(bucket: BucketInspection) -> Remedy:
    """Return what keeps a deleted object; nothing where that is not to be known."""
    try:
        if bucket.lock():
            return Remedy.LOCK
        return Remedy.VERSIONS if bucket.keeps_versions() else Remedy.NONE
    except Error:
        return Remedy.NONE


def diagnose_lifecycle(bucket: BucketInspection) -> Iterator[Diagnosis]:
    """Yield the rules that delete or move objects of the repository, or that there is none."""
    yield from lifecycle_found(bucket.lifecycle(), bucket.prefix)


def lifecycle_found(rules: Sequence[LifecycleRule], prefix: str) -> Iterator[Diagnosis]:
    """Yield what *rules* do to the repository below *prefix*."""
    found = False
    for rule in rules:
        touched = sorted(one for one in (MARKER, *names.PREFIXES) if _meets(rule.prefix, f"{prefix}/{one}".lstrip("/")))
        if not touched:
            continue
        shown = f"rule {rule.name!r}{' (objects with certain tags or sizes)' if rule.is_narrow else ''}"
        if rule.expires:
            found = True
            what = f"{shown} deletes objects {rule.expires}: {', '.join(touched)}"
            means = "an old pack or manifest may be what the newest version needs: versions are lost"
            advice = "remove the rule; mlsync forget and mlsync prune remove what no version needs"
            yield Diagnosis(LIFECYCLE, Grade.GRAVE, what, means, advice)
        beyond_packs = [one for one in touched if one != names.PACKS]
        if rule.moves and beyond_packs:
            found = True
            what = f"{shown} moves objects {rule.moves}: {', '.join(touched)}"
            means = "what lies in cold storage cannot be read at once; only packs may be there (docs/s3.md)"
            yield Diagnosis(LIFECYCLE, Grade.WARNING, what, means, "limit the rule to the prefix of the packs")
    if not found:
        yield Diagnosis(LIFECYCLE, Grade.FINE, "no rule deletes or hides objects of the repository")


def _meets(begin: str, key: str) -> bool:
    """Return whether a rule about keys that begin with *begin* is about some that begin with *key*."""
    return key.startswith(begin) or begin.startswith(key)
