"""The keys of a node that writes and cannot read: it names chunks and seals to a recipient's public key.

A recipient is a pair of keys that is derived from a master key and the recipient's random id. So no object holds its
private key, and whoever can open the repository can open what was sealed to any recipient.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mlsync.codec import hpke
from mlsync.codec.keys import EPOCH_MAX, Keys, Purpose, derive, info_of
from mlsync.errors import WriteOnly

RECIPIENT_ID_BYTES: Final = 16
RETIRED_TAG_BYTES: Final = 16
_INFO: Final = b"mlsync 1 sealed to"
_NODES: Final = b"write-only"
# Three of the four keys of a recipient are its private key; the last is the token.
_PRIVATE_PARTS: Final = 3


class NewSecret(NamedTuple):
    """The key of a new object, and what lets the recipient have it."""

    wrapped: bytes
    key: bytes


def recipient_seed(keys: Keys, recipient: bytes, epoch: int) -> bytes:
    """Return the private key of a recipient."""
    parts = (keys.of("recipient", recipient + bytes([part]), epoch=epoch) for part in range(_PRIVATE_PARTS))
    return b"".join(parts)


def recipient_token(keys: Keys, recipient: bytes, epoch: int) -> bytes:
    """Return what a node must know to write for a recipient, beside the public key."""
    return keys.of("recipient", recipient + bytes([_PRIVATE_PARTS]), epoch=epoch)


def retired_tag(keys: Keys, epoch: int) -> bytes:
    """Return the tag of the object that tells nodes that the key of *epoch* was rotated."""
    if isinstance(keys, WriteOnlyKeys):
        return keys.retired
    return keys.of("retired", bytes([epoch + 1]) + _NODES, epoch=epoch)[:RETIRED_TAG_BYTES]


def unwrapped_key(keys: Keys, recipient: bytes, epoch: int, wrapped: bytes, purpose: Purpose, context: bytes) -> bytes:
    """Return the key of an object that was sealed to a recipient, or raise ``SealBroken``."""
    bound = _bound(keys.repository_id, recipient)
    secret = hpke.unwrap(recipient_seed(keys, recipient, epoch), wrapped, bound)
    return _own_key(secret, recipient_token(keys, recipient, epoch), keys.repository_id, purpose, context)


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class WriteOnlyKeys(Keys):
    """What a node has that writes and cannot read; it has no master key, and asking for a key of one fails.

    *header* is the digest of the header object, which it cannot check in another way. It can open what it wrote itself
    in this process, so that it is read back and proved: the keys of these objects are kept in memory, and nowhere else.
    """

    master: bytes = b""
    header: bytes
    recipient: bytes
    public: bytes
    token: bytes
    recipient_epoch: int
    name_key: bytes
    run_key: bytes
    retired: bytes
    _made: dict[tuple[Purpose, bytes], tuple[bytes, bytes]] = field(default_factory=dict, compare=False)

    @classmethod
    def make(cls, keys: Keys, header: bytes) -> WriteOnlyKeys:
        """Return the keys for a node, of a new recipient; *header* is the digest of the repository's header."""
        recipient = os.urandom(RECIPIENT_ID_BYTES)
        return cls(
            repository_id=keys.repository_id,
            header=header,
            recipient=recipient,
            public=hpke.public_of(recipient_seed(keys, recipient, keys.epoch)),
            token=recipient_token(keys, recipient, keys.epoch),
            recipient_epoch=keys.epoch,
            name_key=keys.of("chunk name"),
            run_key=keys.of("run id"),
            retired=retired_tag(keys, keys.epoch) if keys.epoch < EPOCH_MAX else bytes(RETIRED_TAG_BYTES),
        )

    @property
    def epoch(self) -> int:
        """The epoch of the recipient."""
        return self.recipient_epoch

    @property
    def masters(self) -> tuple[bytes, ...]:
        """There are none: this raises ``WriteOnly``."""
        raise WriteOnly("this node has no master key: it can write to the repository and read nothing")

    def of(self, purpose: Purpose, context: bytes = b"", *, epoch: int = 0) -> bytes:
        """Return the key that names chunks or runs, or seals a file of this node; raise ``WriteOnly`` for any other."""
        known: dict[Purpose, bytes] = {"chunk name": self.name_key, "run id": self.run_key}
        if purpose in known and not context and not epoch:
            return known[purpose]
        if purpose == "base cache":
            return derive(self.token, self.repository_id, info_of(purpose, context))
        what = f"this node can write to the repository and read nothing: it has no key for a {purpose}"
        raise WriteOnly(what)

    def new_secret(self, purpose: Purpose, context: bytes) -> NewSecret:
        """Return the key for a new object, and what its header holds for the recipient."""
        secret = os.urandom(hpke.SECRET_BYTES)
        wrapped = hpke.wrap(self.public, secret, _bound(self.repository_id, self.recipient))
        key = _own_key(secret, self.token, self.repository_id, purpose, context)
        self._made[purpose, context] = wrapped, key
        return NewSecret(wrapped, key)

    def made(self, purpose: Purpose, context: bytes) -> NewSecret | None:
        """Return what ``new_secret`` returned for this object in this process, if it did."""
        found = self._made.get((purpose, context))
        return None if found is None else NewSecret(*found)


def _bound(repository_id: bytes, recipient: bytes) -> bytes:
    return _INFO + repository_id + recipient


def _own_key(secret: bytes, token: bytes, repository_id: bytes, purpose: Purpose, context: bytes) -> bytes:
    """Return an object's key; without the token, who learned the public key could write as a node."""
    return derive(secret + token, repository_id, info_of(purpose, context))
