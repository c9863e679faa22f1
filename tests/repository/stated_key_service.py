"""A key of AWS KMS of which only one secret is known, as pages and vectors state it."""

from __future__ import annotations

from collections.abc import Mapping

from mlsync.repository.keys.keyslot import WrappedSecret


class StatedKeyService:
    """The key *key*, which wraps the secret *secret* as *wrapped*, and nothing else."""

    def __init__(self, key: str, secret: bytes, wrapped: bytes) -> None:
        self.key = key
        self.secret = secret
        self.wrapped = wrapped

    def may_be(self, key: str) -> bool:
        """Whether that is its key."""
        return key == self.key

    def wrap(self, context: Mapping[str, str]) -> WrappedSecret:
        """The secret, and what it is wrapped as."""
        return WrappedSecret(self.key, self.secret, self.wrapped)

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes | None:
        """The secret, if that is what it is wrapped as."""
        return self.secret if wrapped == self.wrapped else None
