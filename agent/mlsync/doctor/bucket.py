"""What a bucket is set to, and what that does to a repository: for ``mlsync doctor`` and ``mlsync bucket show``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from mlsync.doctor.findings import Check, Diagnosis, Grade
from mlsync.doctor.store import Remedy
from mlsync.errors import Error, StoreError
from mlsync.repository import names
from mlsync.store.base import MARKER
from mlsync.store.s3.inspection import BucketInspection, LifecycleRule

PUBLIC, VERSIONS, LOCK, LIFECYCLE = "public access", "versions of the bucket", "object lock", "lifecycle"
ENCRYPTION, REPLICATION, PLACE = "encryption", "replication", "owner and region"
_DAY_S: Final = 86_400


def checks_of_bucket(asked: Callable[[], BucketInspection], grace_s: float) -> Iterator[Check]:
    """Yield everything that is looked at of a bucket; *grace_s* is how long what is forgotten waits."""
    yield Check(PUBLIC, lambda: diagnose_public(asked()))
    yield Check(VERSIONS, lambda: diagnose_versions(asked()))
    yield Check(LOCK, lambda: diagnose_lock(asked(), grace_s))
    yield Check(LIFECYCLE, lambda: diagnose_lifecycle(asked()))
    yield Check(ENCRYPTION, lambda: diagnose_encryption(asked()))
    yield Check(REPLICATION, lambda: diagnose_replication(asked()))
    yield Check(PLACE, lambda: diagnose_place(asked()))


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


def diagnose_lock(bucket: BucketInspection, grace_s: float) -> Iterator[Diagnosis]:
    """Yield whether the store itself refuses deletions, and for long enough."""
    lock = bucket.lock()
    if lock is None:
        yield Diagnosis(LOCK, Grade.FINE, "off: credentials that may delete can delete versions")
    elif not lock:
        means, advice = (
            "no object is protected unless its writer asks for it, and mlsync does not",
            "set a default retention",
        )
        yield Diagnosis(LOCK, Grade.WARNING, "on, without a default retention", means, advice)
    elif (days := re.match(r"(\d+) days", lock)) and int(days[1]) * _DAY_S < grace_s:
        what = f"on, but for {lock}, and forgotten versions wait for {grace_s / _DAY_S:g} days"
        means = "what somebody deletes on purpose can be gone before a prune would have removed it"
        yield Diagnosis(LOCK, Grade.WARNING, what, means, "mlsync bucket apply --lock-days sets a longer one")
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


def diagnose_encryption(bucket: BucketInspection) -> Iterator[Diagnosis]:
    """Yield whether the server encrypts what it stores, and whether the key for that works."""
    kind, key = bucket.encryption()
    if not kind:
        means = "mlsync seals everything itself; the server adds nothing to that, which a rule of yours may ask for"
        yield Diagnosis(ENCRYPTION, Grade.WARNING, "the bucket has no default encryption", means, "mlsync bucket apply")
        return
    if not kind.startswith("aws:kms") or not key:
        yield Diagnosis(ENCRYPTION, Grade.FINE, f"the server encrypts new objects: {kind}")
        return
    try:
        fault = bucket.key_fault(key)
    except StoreError as error:
        yield Diagnosis(
            ENCRYPTION, Grade.FINE, f"the server encrypts new objects by {key}; not asked of KMS: {error.what}"
        )
        return
    if fault is None:
        yield Diagnosis(ENCRYPTION, Grade.FINE, f"the server encrypts new objects by {key}, which works")
    else:
        means = "nothing can be stored, and what it encrypted cannot be read"
        advice = "enable the key or cancel its deletion, while that is possible; or mlsync bucket apply --sse-kms-key"
        yield Diagnosis(ENCRYPTION, Grade.GRAVE, f"the key {key} cannot be used: {fault}", means, advice)


def diagnose_replication(bucket: BucketInspection) -> Iterator[Diagnosis]:
    """Yield whether a second bucket gets a copy, and what would keep it from that."""
    rules = bucket.replication()
    if not rules:
        advice = "mlsync bucket apply --replicate-to s3://OTHER, or mlsync copy --to, makes a second copy"
        yield Diagnosis(REPLICATION, Grade.FINE, "none: this bucket has the only copy", advice=advice)
        return
    means, advice = "new objects are not copied", "mlsync bucket apply turns versioning on in both"
    if not bucket.keeps_versions():
        what = "the bucket replicates, but keeps no versions, which replication needs"
        yield Diagnosis(REPLICATION, Grade.WARNING, what, means, advice)
    for rule in rules:
        try:
            other = bucket.other(rule.bucket)
        except StoreError as error:
            what = f"rule {rule.name!r} copies to {rule.bucket}, which cannot be looked at: {error.what}"
            yield Diagnosis(
                REPLICATION, Grade.WARNING, what, "whether anything is copied is not known", error.advice or ""
            )
            continue
        try:
            if other.keeps_versions():
                yield Diagnosis(REPLICATION, Grade.FINE, f"new objects are copied to {rule.bucket} ({other.region()})")
            else:
                what = f"rule {rule.name!r} copies to {rule.bucket}, which keeps no versions"
                yield Diagnosis(REPLICATION, Grade.WARNING, what, means, advice)
        finally:
            other.close()


def diagnose_place(bucket: BucketInspection) -> Iterator[Diagnosis]:
    """Yield whether the bucket is where and whose it should be."""
    found = list(_place_found(bucket))
    yield from found
    if not found:
        yield Diagnosis(PLACE, Grade.FINE, "as they were asked for")


def _place_found(bucket: BucketInspection) -> Iterator[Diagnosis]:
    if region := bucket.wrong_region():
        what = f"the bucket is in {region}, and not in the region that is configured"
        means = "requests are redirected, or refused"
        yield Diagnosis(PLACE, Grade.WARNING, what, means, f'region = "{region}" under [s3], or --region {region}')
    if bucket.is_anothers():
        what = "the bucket is another account's than these credentials"
        means = "its owner reads sizes and times, can delete every version, and can close it to you"
        yield Diagnosis(PLACE, Grade.WARNING, what, means, "if that is not meant, make a bucket of your own")


def _meets(begin: str, key: str) -> bool:
    """Return whether a rule about keys that begin with *begin* is about some that begin with *key*."""
    return key.startswith(begin) or begin.startswith(key)
