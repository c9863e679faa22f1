"""What a key of AWS KMS can be called: its ARN, its id, or an alias."""

from __future__ import annotations

import re
from typing import Final

_ARN: Final = re.compile(r"arn:aws[a-z-]{0,24}:kms:([a-z0-9-]{1,40}):[0-9]{12}:(?:key/[A-Za-z0-9-]{1,64}|alias/.+)")
_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_ALIAS: Final = re.compile(r"alias/[A-Za-z0-9/_-]{1,250}")
# The id of a multi-Region key is the same in all its Regions, and each copy of it opens what any other wrapped.
_MULTI_REGION: Final = "mrk-"


def is_name(text: str) -> bool:
    """Return whether a key can be called so."""
    return any(pattern.fullmatch(text) for pattern in (_ID, _ALIAS)) or (
        _ARN.fullmatch(text) is not None and (":key/" in text or is_alias(text))
    )


def is_alias(name: str) -> bool:
    """Return whether a name is an alias, or the ARN of one."""
    return _ALIAS.fullmatch(name.rpartition(":")[2]) is not None


def region_of(name: str) -> str | None:
    """Return the Region that an ARN names, ``None`` for another name."""
    found = _ARN.fullmatch(name)
    return None if found is None else found[1]


def may_be(name: str, arn: str) -> bool:
    """Return whether the key called *name* may be the one with that ARN. An alias may be any key: only KMS knows."""
    if is_alias(name):
        return True
    own_id, its_id = (one.rpartition("/")[2] for one in (name, arn))
    if own_id != its_id:
        return False
    return name in (own_id, arn) or (own_id.startswith(_MULTI_REGION) and _account(name) == _account(arn))


def _account(arn: str) -> list[str]:
    """Return what two copies of a multi-Region key have in common: all of the ARN but the Region."""
    parts = arn.split(":")
    return parts[:3] + parts[4:]
