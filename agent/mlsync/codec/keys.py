"""All keys derived from the master key, each for one purpose (HKDF-SHA-256, RFC 5869).

Two purposes never share a key: the store sees names, and learns nothing about the key that seals; a fault in one use
does not reach another. The repository's id is the salt, so that one master key used by mistake in two repositories
still yields different keys.

A repository has several master keys once its key was rotated: those of the epochs 0, 1, 2 and so on. Each sealed object
says of which epoch its key is. What names and identifies is of epoch 0 for ever, so that chunks and runs keep their
names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MASTER_KEY_BYTES: Final = 32
KEY_BYTES: Final = 32
# An epoch is one byte in headers and tables.
EPOCH_MAX: Final = 255

Purpose = Literal[
    "header",
    "chunk name",
    "run id",
    "pack",
    "manifest",
    "later proof",
    "evaluation",
    "decision",
    "tag of decision",
    "feature",
    "move",
    "recipient",
    "fence",
    "tombstone",
    "registration",
    "omission",
    "epoch",
    "retired",
    "base cache",
]

# Part of the format: changing one of them makes every repository unreadable.
_INFO: Final[dict[Purpose, bytes]] = {
    "header": b"mlsync 1 header",
    "chunk name": b"mlsync 1 chunk name",
    "run id": b"mlsync 1 run id",
    "pack": b"mlsync 1 pack",
    "manifest": b"mlsync 1 manifest",
    "later proof": b"mlsync 1 later proof",
    "evaluation": b"mlsync 1 evaluation",
    "decision": b"mlsync 1 decision",
    "tag of decision": b"mlsync 1 tag of decision",
    "feature": b"mlsync 1 feature",
    "move": b"mlsync 1 move",
    "recipient": b"mlsync 1 recipient",
    "fence": b"mlsync 1 fence",
    "tombstone": b"mlsync 1 tombstone",
    "registration": b"mlsync 1 registration",
    "omission": b"mlsync 1 omission",
    "epoch": b"mlsync 1 epoch",
    "retired": b"mlsync 1 retired",
    # Of files on a node's own disk, and no part of the format.
    "base cache": b"mlsync 1 base cache",
}


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Return a 32-byte key that reveals nothing about *secret*, nor about the keys for other *info*."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(secret)


def info_of(purpose: Purpose, context: bytes) -> bytes:
    """Return what a key is derived for."""
    return _INFO[purpose] + context


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """The keys of one repository; its repr contains none of them.

    *master* is the master key of epoch 0, and *later* are those of the epochs after it, in order.
    """

    master: bytes
    repository_id: bytes
    later: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        """Return the repository's id, and no secret."""
        return f"Keys(repository_id={self.repository_id.hex()})"

    @property
    def epoch(self) -> int:
        """The newest epoch that is known: all that is sealed now is of it."""
        return len(self.later)

    @property
    def masters(self) -> tuple[bytes, ...]:
        """The master keys by epoch."""
        return (self.master, *self.later)

    def of(self, purpose: Purpose, context: bytes = b"", *, epoch: int = 0) -> bytes:
        """Return the key for *purpose*; a *context* (a pack's id, a manifest's salt) makes it one object's own.

        What seals an object gives the object's *epoch*, one that is known.
        """
        return derive(self.masters[epoch], self.repository_id, info_of(purpose, context))
