"""Whether the store answers, what these credentials may do there, and whether its clock and this machine's agree."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import islice
from typing import Final

from mlsync.doctor.findings import BOUND_S, Diagnosis, Grade, unknown
from mlsync.errors import Error, FormatUnsupported, NotFound, RepositoryMissing, StoreDenied, StoreError
from mlsync.repository import names
from mlsync.repository.keys import keyslot
from mlsync.repository.keys.unlocking import SLOTS_MAX
from mlsync.repository.repository import Repository
from mlsync.store.base import MARKER, Store

STORE, RIGHTS, CLOCK, KEY_SLOTS = "store", "rights in the store", "clock", "key slots"
# The beginning of the names of the objects that doctor makes, and mostly removes again.
PROBE: Final = "doctor-"
_MARKER_BYTES_MAX: Final = 1 << 20
# Above the error of a date in whole seconds and of a slow answer. S3 refuses signatures at a quarter of an hour; a week
# is the time for which pruned data stays.
_WRONG_S, _GRAVELY_WRONG_S = 60.0, 86_400.0
_NEEDED: Final = "no version can be made or restored"
LATE: Final = Diagnosis(
    STORE, Grade.GRAVE, f"no answer within {BOUND_S:g} s", _NEEDED, "check the network, the endpoint and the disk"
)
_DELETES: Final = "whoever takes this machine over can delete every version"


class Remedy(Enum):
    """What a bucket has against deletions by credentials that may delete."""

    NONE = ""
    VERSIONS = "the bucket keeps what is deleted as a noncurrent version"
    LOCK = "the bucket's lock keeps each object all the same"


# What each of them means, and what could be better.
_WEIGHED: Final = {
    Remedy.VERSIONS: (
        "whoever takes this machine over can hide versions, and delete them only with s3:DeleteObjectVersion",
        "see that these credentials lack that right, or take s3:DeleteObject from them too (mlsync iam-policy)",
    ),
    Remedy.LOCK: ("whoever takes this machine over can hide versions until somebody removes the delete markers", ""),
}
_NO_DELETE: Final = (
    "take s3:DeleteObject from these credentials: mlsync iam-policy --role writer prints what a machine that backs up "
    "needs; or lock the bucket's objects (docs/s3.md)"
)


def repository_id(store: Store) -> bytes:
    """Return the repository's id; raise what keeps it from being known."""
    return Repository.look(store).repository_id


def diagnose_store(opened: Callable[[], Store]) -> Iterator[Diagnosis]:
    """Yield whether the store answers and holds a repository."""
    try:
        found = Repository.look(opened())
    except RepositoryMissing as error:
        advice = "mlsync init makes one; if there was one, its disk may not be mounted"
        yield Diagnosis(STORE, Grade.GRAVE, error.what, _NEEDED, advice)
    except Error as error:
        yield Diagnosis(STORE, Grade.GRAVE, str(error), _NEEDED, error.advice or error.usual_advice or "")
    else:
        yield Diagnosis(STORE, Grade.FINE, f"it answers, and holds repository {found.repository_id.hex()}")


def diagnose_rights(
    store: Store,
    *,
    writes: bool,
    prunes: bool,
    is_bucket: bool,
    remedy: Callable[[], Remedy] = lambda: Remedy.NONE,
    wall: Callable[[], float] = time.time,
) -> Iterator[Diagnosis]:
    """Yield what may be done in the store; with *writes* by an object of a random name, which is removed again.

    *prunes* says that the agent here is to delete, and *remedy* what the bucket has against deletions. In a directory
    the object's time also tells of its server's clock.
    """
    listed = _tried("list", lambda: next(store.list(names.KEY_SLOTS), None), "s3:ListBucket")
    yield listed
    if listed.grade is Grade.UNKNOWN:
        # It is away: that is said once.
        return
    yield _tried("read", lambda: store.get(MARKER, limit_bytes=_MARKER_BYTES_MAX), "s3:GetObject")
    if not writes:
        yield unknown(RIGHTS, "writing and deleting were not tried, since --no-write was given")
        return
    name = PROBE + secrets.token_hex(16)
    put = _tried("write", lambda: store.put(name, b"x"), "s3:PutObject")
    yield put
    if put.grade is not Grade.FINE:
        return
    if not is_bucket:
        yield diagnose_clock(store.stat(name).modified_s - wall())
    yield _deletion(store, name, prunes=prunes, is_bucket=is_bucket, remedy=remedy)


def _tried(verb: str, attempt: Callable[[], object], right: str) -> Diagnosis:
    try:
        attempt()
    except NotFound:
        return Diagnosis(RIGHTS, Grade.FINE, f"may {verb}")
    except StoreDenied as error:
        return Diagnosis(
            RIGHTS, Grade.GRAVE, f"may not {verb}: {error.what}", _NEEDED, error.advice or f"allow {right}"
        )
    except StoreError as error:
        return unknown(RIGHTS, f"whether these credentials may {verb}: {error}")
    return Diagnosis(RIGHTS, Grade.FINE, f"may {verb}")


def _deletion(store: Store, name: str, *, prunes: bool, is_bucket: bool, remedy: Callable[[], Remedy]) -> Diagnosis:
    """Return whether the object *name* could be deleted, which is ours."""
    try:
        store.delete(name)
    except StoreDenied:
        what = f"may not delete, and need not; {name} of 1 byte stays in the store"
        if prunes:
            means = 'prune = "daily" under [retention] deletes nothing'
            return Diagnosis(
                RIGHTS,
                Grade.WARNING,
                what,
                means,
                "prune on another machine, or allow s3:DeleteObject: mlsync iam-policy --role pruner",
            )
        return Diagnosis(RIGHTS, Grade.FINE, what)
    except StoreError as error:
        return unknown(RIGHTS, f"whether these credentials may delete: {error}", f"remove {name} from the store")
    if prunes or not is_bucket:
        why = 'prune = "daily" needs' if prunes else "whoever writes to a directory may"
        return Diagnosis(RIGHTS, Grade.FINE, f"may delete, as {why}")
    kept_by = remedy()
    if kept_by is Remedy.NONE:
        return Diagnosis(RIGHTS, Grade.WARNING, "may delete, which no backup needs", _DELETES, _NO_DELETE)
    return Diagnosis(RIGHTS, Grade.FINE, f"may delete, which no backup needs; {kept_by.value}", *_WEIGHED[kept_by])


def diagnose_clock(ahead_s: float) -> Diagnosis:
    """Return whether the store's clock, which is *ahead_s* ahead, and this machine's agree."""
    amount = f"{abs(ahead_s):.0f} s"
    if abs(ahead_s) <= _WRONG_S:
        return Diagnosis(CLOCK, Grade.FINE, "this machine's and the store's agree to a minute")
    what = f"this machine's is {amount} {'behind' if ahead_s > 0 else 'ahead of'} the store's"
    means = "versions have wrong times, by which rules keep and remove them"
    grade = Grade.GRAVE if abs(ahead_s) > _GRAVELY_WRONG_S else Grade.WARNING
    return Diagnosis(CLOCK, grade, what, means, "timedatectl set-ntp true")


def diagnose_key_slots(store: Store) -> Iterator[Diagnosis]:
    """Yield whether a second way opens the repository; no secret is needed to see that."""
    kinds: list[str] = []
    # More than any mlsync opens are none of ours.
    for info in islice(store.list(names.KEY_SLOTS), SLOTS_MAX):
        if names.is_key_slot(info.key):
            try:
                kinds.append(keyslot.parse(store.get(info.key, limit_bytes=keyslot.SLOT_BYTES_MAX), info.key).kind)
            except FormatUnsupported:
                kinds.append("of a newer mlsync")
            except Error as error:
                what, means = f"{info.key}: {error.what}", "this way into the repository is lost"
                yield Diagnosis(KEY_SLOTS, Grade.WARNING, what, means, "mlsync key list shows all; make another one")
    yield key_slots_found(kinds)


def key_slots_found(kinds: list[str]) -> Diagnosis:
    """Return whether the key slots of these kinds are enough: one may be forgotten, or its key deleted."""
    if not kinds:
        return Diagnosis(
            KEY_SLOTS, Grade.GRAVE, "no key slot is in the store", "nothing opens the repository", "mlsync repair"
        )
    if len(kinds) == 1:
        means = "if it is lost, nobody can restore anything"
        return Diagnosis(
            KEY_SLOTS, Grade.WARNING, f"there is one, a {_noun(kinds[0])}", means, "mlsync key add --recovery"
        )
    if "recovery-key" not in kinds:
        what = f"there are {len(kinds)}, and none of a recovery key"
        return Diagnosis(KEY_SLOTS, Grade.FINE, what, advice="one for paper: mlsync key add --recovery")
    return Diagnosis(KEY_SLOTS, Grade.FINE, f"there are {len(kinds)}, one of a recovery key")


def _noun(kind: str) -> str:
    return {"key-file": "key file", "recovery-key": "recovery key", "aws-kms": "key of AWS KMS"}.get(kind, kind)
