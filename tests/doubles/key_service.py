"""A key service in memory: what a key wrapped, it gives back to the same key and context, and to nobody else."""

from __future__ import annotations

import os

from mlsync.repository.keys.keyslot import WrappedSecret

KEY = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_KEY = KEY.replace("1234abcd", "ffffffff")


class MemoryKeyService:
    """One key; ``asked`` has the wrapped secrets it was asked to unwrap. *refusal* is raised by each request."""

    def __init__(self, key: str = KEY) -> None:
        self.key = key
        self.asked: list[bytes] = []
        self.refusal: Exception | None = None
        self.kept: dict[bytes, tuple[bytes, dict[str, str]]] = {}

    def may_be(self, key):
        """Whether that is its key."""
        return key == self.key

    def wrap(self, context):
        """A secret, and what it is wrapped as."""
        if self.refusal is not None:
            raise self.refusal
        secret, wrapped = os.urandom(32), os.urandom(180)
        self.kept[wrapped] = secret, dict(context)
        return WrappedSecret(self.key, secret, wrapped)

    def unwrap(self, wrapped, context):
        """The secret, if it is this key's and the context is the same."""
        self.asked.append(wrapped)
        if self.refusal is not None:
            raise self.refusal
        secret, bound = self.kept.get(wrapped, (None, None))
        return secret if bound == dict(context) else None
