"""All keys derived from the master key, each for one purpose (HKDF-SHA-256, RFC 5869).

Two purposes never share a key: the store sees names, and learns nothing about the key that seals; a fault in one use
does not reach another. The repository's id is the salt, so that one master key used by mistake in two repositories
still yields different keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MASTER_KEY_BYTES: Final = 32
KEY_BYTES: Final = 32

Purpose = Literal[
    "header", "chunk name", "run id", "pack", "manifest", "later proof", "decision", "decision name", "feature"
]

# Part of the format: changing one of them makes every repository unreadable.
_INFO: Final[dict[Purpose, bytes]] = {
    "header": b"mlsync 1 header",
    "chunk name": b"mlsync 1 chunk name",
    "run id": b"mlsync 1 run id",
    "pack": b"mlsync 1 pack",
    "manifest": b"mlsync 1 manifest",
    "later proof": b"mlsync 1 later proof",
    "decision": b"mlsync 1 decision",
    "decision name": b"mlsync 1 decision name",
    "feature": b"mlsync 1 feature",
}


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Return a 32-byte key that reveals nothing about *secret*, nor about the keys for other *info*."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(secret)


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """The keys of one repository; its repr contains none of them."""

    master: bytes
    repository_id: bytes

    def __repr__(self) -> str:
        """Return the repository's id, and no secret."""
        return f"Keys(repository_id={self.repository_id.hex()})"

    def of(self, purpose: Purpose, context: bytes = b"") -> bytes:
        """Return the key for *purpose*; a *context* (a pack's id, a manifest's salt) makes it one object's own."""
        return derive(self.master, self.repository_id, _INFO[purpose] + context)
