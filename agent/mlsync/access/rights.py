"""The table of rights: which role needs which, what for, and what happens where one is missing."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from mlsync.repository import names


class BucketRole(Enum):
    """What a holder of credentials does with the repository."""

    WRITER = "writer"
    PROVER = "prover"
    RESTORER = "restorer"
    COPIER = "copier"
    PRUNER = "pruner"
    ADMIN = "admin"


class Scope(Enum):
    """What a right is about."""

    BUCKET = "the bucket"
    OBJECTS = "its objects"
    #: The key by which the bucket's objects are encrypted, and the one that opens the repository.
    SSE_KEY = "the key of the bucket's encryption"
    SLOT_KEY = "the key that opens the repository"


#: What each role is for, in words.
ROLES_DO: Final[Mapping[BucketRole, str]] = {
    BucketRole.WRITER: "backup, run, the agent. It reads all and creates; it cannot overwrite, delete or forget",
    BucketRole.PROVER: "prove, evaluate, verify. It reads all, and creates later proofs and evaluations alone",
    BucketRole.RESTORER: "restore, versions, show, diff, check, verify, export. It reads and thaws, and writes nothing",
    BucketRole.COPIER: "the copies that a mirror gets. It creates objects of all kinds; it cannot overwrite or delete",
    BucketRole.PRUNER: "pin, forget, register, prune, repair, key. It reads all, and also overwrites and deletes",
    BucketRole.ADMIN: "init, bucket, and all of the above",
}
_ALL: Final = frozenset(BucketRole)
_PRUNERS: Final = frozenset({BucketRole.PRUNER, BucketRole.ADMIN})
_WRITERS: Final = _PRUNERS | {BucketRole.WRITER, BucketRole.COPIER}
_CREATORS: Final = _WRITERS | {BucketRole.PROVER}
_THAWERS: Final = frozenset({BucketRole.RESTORER, BucketRole.ADMIN})
_ADMIN: Final = frozenset({BucketRole.ADMIN})
_FAILS: Final = "the command ends with 72 and names the right"
_KEY_FAILS: Final = "the command ends with 87"


@dataclass(frozen=True, slots=True)
class Right:
    """A right by AWS's name, and Aliyun's (*oss*) if it has one; *without* it, that happens.

    One that only a key of ``[s3]`` makes necessary names the key as its *setting*.
    """

    name: str
    scope: Scope
    roles: frozenset[BucketRole]
    purpose: str
    oss: str | None = None
    without: str = _FAILS
    setting: str = ""


LIST: Final = "s3:ListBucket"
GET: Final = "s3:GetObject"
PUT: Final = "s3:PutObject"
DELETE: Final = "s3:DeleteObject"
ABORT: Final = "s3:AbortMultipartUpload"
LIST_PARTS: Final = "s3:ListMultipartUploadParts"
LIST_UPLOADS: Final = "s3:ListBucketMultipartUploads"
_NOT_LOOKED: Final = "`bucket` and `doctor` say what they could not look at"
_LOCK: Final = "object_lock"
_NOT_EXTENDED: Final = "locks are not extended, and a warning names the right"
# What sets the bucket up, or looks how it is set up: by AWS's name and Aliyun's.
_SEEN: Final = (
    ("s3:GetBucketVersioning", "oss:GetBucketVersioning"),
    ("s3:GetBucketObjectLockConfiguration", None),
    ("s3:GetBucketPublicAccessBlock", None),
    ("s3:GetEncryptionConfiguration", "oss:GetBucketEncryption"),
    ("s3:GetBucketPolicy", "oss:GetBucketPolicy"),
    ("s3:GetReplicationConfiguration", "oss:GetBucketReplication"),
)
_SET: Final = (
    ("s3:CreateBucket", "oss:PutBucket"),
    ("s3:PutBucketVersioning", "oss:PutBucketVersioning"),
    ("s3:PutBucketObjectLockConfiguration", None),
    ("s3:PutBucketPublicAccessBlock", None),
    ("s3:PutEncryptionConfiguration", "oss:PutBucketEncryption"),
    ("s3:PutBucketPolicy", "oss:PutBucketPolicy"),
    ("s3:PutLifecycleConfiguration", "oss:PutBucketLifecycle"),
    ("s3:PutReplicationConfiguration", "oss:PutBucketReplication"),
)
_OF_BUCKET: Final = (
    *(Right(name, Scope.BUCKET, _ADMIN, "`bucket`, `doctor`", oss, _NOT_LOOKED) for name, oss in _SEEN),
    *(
        Right(name, Scope.BUCKET, _ADMIN, "`bucket apply`", oss, "`bucket apply` names it, and ends with 104")
        for name, oss in _SET
    ),
)
# To add a right: add a line. docs/s3.md has the same table, which a test compares.
RIGHTS: Final[tuple[Right, ...]] = (
    Right(LIST, Scope.BUCKET, _ALL, "listings, and learning that an object is missing", "oss:ListObjects"),
    Right(GET, Scope.OBJECTS, _ALL, "reading", "oss:GetObject"),
    Right(PUT, Scope.OBJECTS, _CREATORS, "creating; for pruner and admin also overwriting", "oss:PutObject"),
    Right(
        *(ABORT, Scope.OBJECTS, _WRITERS, "removing the parts of uploads that will not be finished"),
        "oss:AbortMultipartUpload",
        "the parts stay, and cost money, until a lifecycle rule removes them",
    ),
    Right(
        *(LIST_PARTS, Scope.OBJECTS, _WRITERS, "resuming an interrupted upload"),
        "oss:ListParts",
        "mlsync sends the parts again, and the next backup says so",
    ),
    Right(
        *(LIST_UPLOADS, Scope.BUCKET, _WRITERS, "finding stale uploads"),
        "oss:ListMultipartUploads",
        "mlsync skips that, and says so with `-v`",
    ),
    Right(
        *("s3:PutObjectTagging", Scope.OBJECTS, _CREATORS, "`tags` under `[s3]`"),
        "oss:PutObjectTagging",
        setting="tags",
    ),
    Right("s3:PutObjectRetention", Scope.OBJECTS, _CREATORS, "`object_lock` under `[s3]`", setting=_LOCK),
    Right("s3:GetObjectRetention", Scope.OBJECTS, _CREATORS, "extending locks", None, _NOT_EXTENDED, _LOCK),
    Right("s3:PutObjectAcl", Scope.OBJECTS, _CREATORS, "`acl` under `[s3]`", "oss:PutObjectAcl", setting="acl"),
    Right("s3:RestoreObject", Scope.OBJECTS, _THAWERS, "`restore --thaw`, which costs money", "oss:RestoreObject"),
    Right(DELETE, Scope.OBJECTS, _PRUNERS, "`prune`, `repair`, `key`", "oss:DeleteObject"),
    Right(
        *(
            "s3:GetLifecycleConfiguration",
            Scope.BUCKET,
            _PRUNERS,
            "`prune`, `doctor`, `bucket`",
            "oss:GetBucketLifecycle",
        ),
        "`prune` counts the days of a storage class from the day on which a pack was stored",
    ),
    *_OF_BUCKET,
    Right("kms:GenerateDataKey", Scope.SSE_KEY, _CREATORS, "writing into a bucket encrypted by a key of AWS KMS"),
    Right("kms:Decrypt", Scope.SSE_KEY, _ALL, "reading from such a bucket, and uploads in parts"),
    Right("kms:DescribeKey", Scope.SSE_KEY, _ADMIN, "`bucket apply --kms-key`", without=_NOT_LOOKED),
    Right("kms:Decrypt", Scope.SLOT_KEY, _ALL, "opening a repository by `kms_key`", without=_KEY_FAILS),
    Right("kms:Encrypt", Scope.SLOT_KEY, _PRUNERS, "`init` and `key` with a key of AWS KMS", without=_KEY_FAILS),
)

#: Where the names of what a writer creates have the id of a run.
OF_RUNS: Final = (names.VERSIONS, names.COPIES, names.LATER_PROOFS, names.EVALUATIONS)
#: Rights that count for objects of all kinds, whatever a role creates: locks are extended of all that versions use.
OF_ALL_KINDS: Final = frozenset({"s3:PutObjectRetention", "s3:GetObjectRetention"})
#: Objects that the store and doctor make to find out what they may; a test compares the names with theirs.
PROBES: Final = ("probe", "doctor-")
# Where roles create that overwrite nothing: what begins with one of these. Whoever takes over a machine that may
# create no decisions cannot have versions forgotten, which a prune elsewhere would remove; and without key slots,
# tombstones, moves and epochs he can plant none of them.
CREATES: Final[Mapping[BucketRole, tuple[str, ...]]] = {
    BucketRole.WRITER: (names.PACKS, *OF_RUNS, names.RUNS, *PROBES),
    BucketRole.PROVER: (names.LATER_PROOFS, names.EVALUATIONS),
    BucketRole.COPIER: ("",),
}
#: Roles that can be limited to a run.
OF_ONE_RUN: Final = (BucketRole.WRITER, BucketRole.PROVER)


def rights_of(role: BucketRole, settings: Container[str] = ()) -> list[Right]:
    """Return what a role needs if these keys of ``[s3]`` are set."""
    return [one for one in RIGHTS if role in one.roles and (not one.setting or one.setting in settings)]


def created_by(role: BucketRole, run: str | None) -> tuple[str, ...] | None:
    """Return what the names begin with under which a role creates objects, ``None`` if it also overwrites.

    With the id of a *run*, as it is in names, only those of this run; packs are of all runs.
    """
    begins = CREATES.get(role)
    if begins is None or run is None:
        return begins
    narrowed = {**{begin: f"{begin}{run}/" for begin in OF_RUNS}, names.RUNS: f"{names.RUNS}{run}"}
    return tuple(narrowed.get(begin, begin) for begin in begins)
