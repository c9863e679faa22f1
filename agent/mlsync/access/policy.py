"""The document that grants a role its rights, as AWS reads it; MinIO reads the same without two of the conditions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mlsync.access.key_names import KeyName
from mlsync.access.place import PolicyForm, PolicyPlace
from mlsync.access.rights import GET, LIST, OF_ALL_KINDS, PUT, BucketRole, Right, Scope, created_by, rights_of
from mlsync.errors import PolicyTooLong
from mlsync.repository import names

Statement = dict[str, object]
# What AWS takes, not counting blanks: of a user's own policies together, of a role's, and of a managed one.
USER_CHARS_MAX: Final = 2_048
MANAGED_CHARS_MAX: Final = 6_144
_VERSION: Final = "2012-10-17"
# Beside the right to create, on objects.
_CREATED_IF_FREE: Final = {"Null": {"s3:if-none-match": "false"}}
_CREATES_NOTHING: Final = {"Bool": {"s3:ObjectCreationOperation": "false"}}
_OF_SLOTS: Final = {"StringEquals": {"kms:EncryptionContext:mlsync": "key-slot"}}


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    """What a policy is to grant: *run* is the id of the only run that may be written, as it is in names of objects.

    *sse_key* is the key of AWS KMS by which the bucket encrypts, *slot_key* the one that opens the repository.
    """

    role: BucketRole
    place: PolicyPlace
    run: str | None = None
    sse_key: KeyName | None = None
    slot_key: KeyName | None = None
    #: The keys of ``[s3]`` that are set and take rights of their own.
    settings: frozenset[str] = frozenset()

    def rights(self, scope: Scope) -> list[Right]:
        """Return the rights about the bucket, its objects or a key."""
        return [right for right in rights_of(self.role, self.settings) if right.scope is scope]


def make_policy(asked: PolicyRequest) -> dict[str, object]:
    """Return the document of AWS, or of MinIO."""
    statements = [*_of_bucket(asked), *_of_objects(asked), *_of_keys(asked)]
    return {"Version": _VERSION, "Statement": statements}


def chars_of(policy: Mapping[str, object]) -> int:
    """Return the length of a document as AWS counts it: blanks do not count."""
    return sum(not character.isspace() for character in json.dumps(policy))


def refuse_long(policy: Mapping[str, object], form: PolicyForm) -> None:
    """Raise ``PolicyTooLong`` if no place for policies takes the document; MinIO sets no limit."""
    if form is not PolicyForm.MINIO and chars_of(policy) > MANAGED_CHARS_MAX:
        what = f"the policy has {chars_of(policy)} characters, and a managed one may have {MANAGED_CHARS_MAX}"
        raise PolicyTooLong(what, advice="give the repository a shorter prefix, or a bucket of its own")


def _of_bucket(asked: PolicyRequest) -> Iterable[Statement]:
    place, rights = asked.place, _names_of(asked, Scope.BUCKET)
    # What is missing counts as a listing of its name. Whoever sets the bucket up asks for the bucket itself.
    is_whole = not place.prefix or asked.role is BucketRole.ADMIN
    listed = {} if is_whole else {"StringLike": {"s3:prefix": place.listed}}
    yield _statement("List", [LIST], [place.bucket_name], listed)
    if others := [right for right in rights if right != LIST]:
        yield _statement("Bucket", others, [place.bucket_name])


def _of_objects(asked: PolicyRequest) -> Iterable[Statement]:
    place, rights = asked.place, _names_of(asked, Scope.OBJECTS)
    begins = created_by(asked.role, asked.run)
    if begins is None or PUT not in rights:
        yield _statement("Objects", rights, place.names())
        return
    yield _statement("Read", [GET], place.names())
    if asked.place.form is not PolicyForm.AWS:
        yield _statement("Create", [PUT], place.names(begins))
    else:
        # An object that is there is not overwritten: what creates one has to say If-None-Match.
        yield _statement("Create", [PUT], place.names(begins), _CREATED_IF_FREE)
    said = [right.name for right in asked.rights(Scope.OBJECTS) if right.setting]
    if of_created := [right for right in said if right not in OF_ALL_KINDS]:
        yield _statement("Describe", of_created, place.names(begins))
    if of_all := [right for right in said if right in OF_ALL_KINDS]:
        yield _statement("Lock", of_all, place.names())
    uploads = [right for right in rights if right not in (GET, PUT, *said)]
    if uploads:
        yield from _of_uploads(place, uploads)


def _of_uploads(place: PolicyPlace, rights: Sequence[str]) -> Iterable[Statement]:
    """Yield what packs need, which alone are sent in parts."""
    packs = place.names([names.PACKS])
    if place.form is PolicyForm.AWS:
        # Neither the begin of an upload nor a part can say If-None-Match; its completion does.
        yield _statement("SendParts", [PUT], packs, _CREATES_NOTHING)
    yield _statement("Uploads", rights, packs)


def _of_keys(asked: PolicyRequest) -> Iterable[Statement]:
    for sid, key, scope, bound in (
        ("BucketKey", asked.sse_key, Scope.SSE_KEY, {}),
        ("SlotKey", asked.slot_key, Scope.SLOT_KEY, _OF_SLOTS),
    ):
        if key is not None:
            yield _statement(sid, _names_of(asked, scope), [key.resource], {**bound, **key.condition})


def _names_of(asked: PolicyRequest, scope: Scope) -> list[str]:
    return [right.name for right in asked.rights(scope)]


def _statement(
    sid: str, actions: Sequence[str], resources: Sequence[str], condition: Mapping[str, object] | None = None
) -> Statement:
    made: Statement = {"Sid": sid, "Effect": "Allow", "Action": [*actions], "Resource": [*resources]}
    if condition:
        made["Condition"] = {**condition}
    return made
