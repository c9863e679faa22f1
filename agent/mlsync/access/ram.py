"""The document that grants a role its rights at Aliyun: RAM's, whose rights have names of OSS."""

from __future__ import annotations

from typing import Final

from mlsync.access.policy import PolicyRequest, Statement
from mlsync.access.rights import BucketRole, Scope, created_by
from mlsync.repository import names

_VERSION: Final = "1"
_LIST, _PUT, _GET = "oss:ListObjects", "oss:PutObject", "oss:GetObject"


def make_ram_policy(asked: PolicyRequest) -> dict[str, object]:
    """Return the document; RAM has no condition that keeps a writer from overwriting."""
    place = asked.place
    of_bucket, of_objects = (_names_of(asked, scope) for scope in (Scope.BUCKET, Scope.OBJECTS))
    listing = _statement([_LIST], [place.bucket_name])
    if place.prefix and asked.role is not BucketRole.ADMIN:
        listing["Condition"] = {"StringLike": {"oss:Prefix": [place.listed]}}
    statements = [listing]
    if others := [right for right in of_bucket if right != _LIST]:
        statements.append(_statement(others, [place.bucket_name]))
    begins = created_by(asked.role, asked.run)
    if begins is None or _PUT not in of_objects:
        statements.append(_statement(of_objects, place.names()))
    else:
        statements += [_statement([_GET], place.names()), _statement([_PUT], place.names(begins))]
        said = [right.oss for right in asked.rights(Scope.OBJECTS) if right.setting and right.oss is not None]
        if said:
            statements.append(_statement(said, place.names(begins)))
        if uploads := [right for right in of_objects if right not in (_GET, _PUT, *said)]:
            statements.append(_statement(uploads, place.names([names.PACKS])))
    return {"Version": _VERSION, "Statement": statements}


def _names_of(asked: PolicyRequest, scope: Scope) -> list[str]:
    return [right.oss for right in asked.rights(scope) if right.oss is not None]


def _statement(actions: list[str], resources: list[str]) -> Statement:
    return {"Effect": "Allow", "Action": actions, "Resource": resources}
