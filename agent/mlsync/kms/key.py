"""A key of AWS KMS, and what it is asked for: to wrap a new secret, and to unwrap one.

The key that a person names is the only one that is ever used: each request names it, whatever a key slot says. A slot
comes from the store, which is hostile, and KMS refuses a secret that another key wrapped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from mlsync.errors import ConfigInvalid, KeyServiceRefused
from mlsync.kms.names import is_name, may_be, region_of
from mlsync.repository.keys.keyslot import SERVICE_SECRET_BYTES, WRAPPED_BYTES_MAX, WrappedSecret, is_kms_key

if TYPE_CHECKING:
    from mlsync.kms.requests import Requests


class AwsKey(msgspec.Struct, frozen=True):
    """A key of AWS KMS: *name* is its ARN, its id or an alias; it has no secret.

    An ARN says the *region*; else it is this one, or what the profile says. *endpoint_url* is the address of KMS in a
    private network. *profile* has the credentials, as for S3.
    """

    name: str
    region: str | None = None
    endpoint_url: str | None = None
    profile: str | None = None

    def __post_init__(self) -> None:
        """Raise ``ConfigInvalid`` for what can be no key: KMS is not asked about it."""
        if not is_name(self.name):
            advice = "give its ARN, as in arn:aws:kms:eu-central-1:111122223333:key/..., its id, or alias/NAME"
            raise ConfigInvalid(f"{self.name!r} is no key of AWS KMS", advice=advice)

    def may_be(self, key: str) -> bool:
        """Return whether this key may be the one with the ARN *key*; ask nobody."""
        return may_be(self.name, key)

    def wrap(self, context: Mapping[str, str]) -> WrappedSecret:
        """Return a new random secret, wrapped; KMS writes *context* into its log.

        Raise ``KeyServiceRefused``, or ``KeyServiceUnavailable`` for what may pass.
        """
        # Made here and not by KMS (GenerateDataKey), so that nothing at its address can choose it.
        secret = os.urandom(SERVICE_SECRET_BYTES)
        with self._requests() as requests:
            key, wrapped = requests.encrypt(secret, context)
            if not is_kms_key(key) or not self.may_be(key) or not 1 <= len(wrapped) <= WRAPPED_BYTES_MAX:
                what, advice = "the answer is none that AWS KMS gives", "check what is at that address"
                raise KeyServiceRefused(what, where=requests.where, advice=advice)
        return WrappedSecret(key, secret, wrapped)

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes | None:
        """Return the secret, ``None`` if this key did not wrap it with that *context*; raise as ``wrap`` does."""
        with self._requests() as requests:
            secret = requests.decrypt(wrapped, context)
        # Whoever may use the key for other things can wrap other things, and plant them in a slot.
        return secret if secret is not None and len(secret) == SERVICE_SECRET_BYTES else None

    def _requests(self) -> Requests:
        from mlsync.kms.requests import Requests  # late: boto3 takes a third of a second and 30 MB

        return Requests(self.name, region_of(self.name) or self.region, self.endpoint_url, self.profile)
