"""The statement in a bucket's policy that refuses plain http; the policy's other statements are left alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

SID: Final = "MlsyncTlsOnly"


def statement(arn: str) -> dict[str, Any]:
    """Return the statement for the bucket with that ARN."""
    return {
        "Sid": SID,
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [arn, f"{arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def refuses_http(document: Mapping[str, Any], arn: str) -> bool:
    """Return whether a policy refuses plain http already, by our statement or by another one."""
    return any(_refuses(one, arn) for one in statements_of(document))


def statements_of(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the statements of a policy, which may be one alone."""
    found = document.get("Statement") or []
    return [one for one in ([found] if isinstance(found, Mapping) else found) if isinstance(one, Mapping)]


def with_statement(document: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Return the policy with that statement in the place of the one of its name; all others stay."""
    kept = [one for one in statements_of(document) if one.get("Sid") != added["Sid"]]
    return {"Version": "2012-10-17", **document, "Statement": [*kept, dict(added)]}


def _refuses(one: Mapping[str, Any], arn: str) -> bool:
    condition = (one.get("Condition") or {}).get("Bool") or {}
    says_no = str(condition.get("aws:SecureTransport")).lower() == "false"
    about_all = {"s3:*", "*"} & set(_list(one.get("Action"))) and {arn, f"{arn}/*"} <= set(_list(one.get("Resource")))
    to_all = one.get("Principal") in ("*", {"AWS": "*"}, {"AWS": ["*"]})
    return (
        one.get("Effect") == "Deny" and len(one.get("Condition") or {}) == 1 and says_no and bool(about_all) and to_all
    )


def _list(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]
