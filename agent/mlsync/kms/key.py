"""A key of AWS KMS by its name, and what it is asked for: to wrap a new secret, and to unwrap one.

The key that a person names is the only one that is ever used: each request names it, whatever a key slot says. A slot
comes from the store, which is hostile, and KMS refuses a secret that another key wrapped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlsync.errors import ConfigInvalid, KeyServiceRefused
from mlsync.repository.keyslot import SERVICE_SECRET_BYTES, WRAPPED_BYTES_MAX, WrappedSecret, is_kms_key

if TYPE_CHECKING:
    from mlsync.kms.requests import Requests

_ARN: Final = re.compile(r"arn:aws[a-z-]{0,24}:kms:([a-z0-9-]{1,40}):[0-9]{12}:(key/[A-Za-z0-9-]{1,64}|alias/.+)")
_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_ALIAS: Final = re.compile(r"alias/[A-Za-z0-9/_-]{1,250}")
# The id of a multi-Region key is the same in all its Regions, and each copy of it opens what any other wrapped.
_MULTI_REGION: Final = "mrk-"


def refuse_no_key(name: str) -> None:
    """Raise ``ConfigInvalid`` for what can be no name of a key of AWS KMS."""
    if not any(pattern.fullmatch(name) for pattern in (_ARN, _ID, _ALIAS)):
        advice = "give its ARN, as in arn:aws:kms:eu-central-1:111122223333:key/..., its id, or alias/NAME"
        raise ConfigInvalid(f"{name!r} is no key of AWS KMS", advice=advice)


@dataclass(frozen=True, slots=True)
class AwsKey:
    """A key of AWS KMS: *name* is its ARN, its id or an alias; it has no secret.

    An ARN says the *region*; else it is this one, or what the profile says. *endpoint_url* is the address of KMS in a
    private network. *profile* has the credentials, as for S3.
    """

    name: str
    region: str | None = None
    endpoint_url: str | None = None
    profile: str | None = None

    def __post_init__(self) -> None:
        """Refuse what can be no key."""
        refuse_no_key(self.name)

    def may_be(self, key: str) -> bool:
        """Return whether this key may be the one with the ARN *key*. An alias may be any: only KMS knows."""
        if _is_alias(self.name):
            return True
        own_id, its_id = (one.rpartition("/")[2] for one in (self.name, key))
        if own_id != its_id:
            return False
        return self.name in (own_id, key) or (own_id.startswith(_MULTI_REGION) and _account(self.name) == _account(key))

    def wrap(self, context: Mapping[str, str]) -> WrappedSecret:
        """Return a new random secret, wrapped; KMS writes *context* into its log.

        Raise ``KeyServiceRefused``, or ``KeyServiceUnavailable`` for what may pass.
        """
        # Made here and not by KMS (GenerateDataKey): so a stand-in for KMS cannot choose it, and one right is enough.
        secret = os.urandom(SERVICE_SECRET_BYTES)
        with self._requests() as requests:
            key, wrapped = requests.encrypt(secret, context)
        if not is_kms_key(key) or not self.may_be(key) or not 1 <= len(wrapped) <= WRAPPED_BYTES_MAX:
            raise _impossible(requests.where)
        return WrappedSecret(key, secret, wrapped)

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes | None:
        """Return the secret, ``None`` if this key did not wrap it with that *context*; raise as ``wrap`` does."""
        with self._requests() as requests:
            secret = requests.decrypt(wrapped, context)
        if secret is not None and len(secret) != SERVICE_SECRET_BYTES:
            # Whoever may use the key for other things can wrap other things, and plant them in a slot.
            return None
        return secret

    def _requests(self) -> Requests:
        from mlsync.kms.requests import Requests  # late: boto3 takes a third of a second and 30 MB

        found = _ARN.fullmatch(self.name)
        return Requests(self.name, found[1] if found else self.region, self.endpoint_url, self.profile)


def _is_alias(name: str) -> bool:
    return _ALIAS.fullmatch(name.rpartition(":")[2]) is not None


def _account(arn: str) -> list[str]:
    """Return what two copies of a multi-Region key have in common: all of the ARN but the Region."""
    parts = arn.split(":")
    return parts[:3] + parts[4:]


def _impossible(where: str) -> KeyServiceRefused:
    return KeyServiceRefused(
        "the answer is none that AWS KMS gives", where=where, advice="check what is at that address"
    )
