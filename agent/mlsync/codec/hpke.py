"""Seal a secret to a public key: HPKE (RFC 9180) in base mode, with X-Wing, HKDF-SHA-256 and AES-256-GCM.

X-Wing joins X25519 and ML-KEM-768: whoever keeps what the store has for the day on which one of the two is broken still
has to break the other.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from mlsync.codec.sealing import SealBroken

# Imported late: most machines seal nothing to a public key, and every command has this module for its lengths.
if TYPE_CHECKING:
    from cryptography.hazmat.primitives import hpke
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

SECRET_BYTES: Final = 32
#: ML-KEM's ``d ‖ z``, then X25519's private key.
_MLKEM_SEED_BYTES: Final = 64
SEED_BYTES: Final = _MLKEM_SEED_BYTES + 32
_MLKEM_PUBLIC_BYTES: Final = 1184
PUBLIC_BYTES: Final = _MLKEM_PUBLIC_BYTES + 32
#: The encapsulated key of 1120 bytes, the secret, and its tag.
WRAPPED_BYTES: Final = 1120 + SECRET_BYTES + 16


def public_of(seed: bytes) -> bytes:
    """Return the public key of a private one: ML-KEM's, then X25519's."""
    mlkem, x25519 = _private(seed)
    return mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()


def wrap(public: bytes, secret: bytes, info: bytes) -> bytes:
    """Return *secret* (32 bytes), sealed to a public key; raise ``ValueError`` if that is none."""
    from cryptography.hazmat.primitives import hpke
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    mlkem = MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_BYTES])
    x25519 = X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC_BYTES:])
    return _suite().encrypt(secret, hpke.MLKEM768X25519PublicKey(mlkem, x25519), info=info)


def unwrap(seed: bytes, wrapped: bytes, info: bytes) -> bytes:
    """Return the secret, or raise ``SealBroken``."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives import hpke

    try:
        return _suite().decrypt(wrapped, hpke.MLKEM768X25519PrivateKey(*_private(seed)), info=info)
    except (InvalidTag, ValueError):
        raise SealBroken("does not authenticate") from None


@cache
def _suite() -> hpke.Suite:
    from cryptography.hazmat.primitives import hpke

    return hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def _private(seed: bytes) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    mlkem = MLKEM768PrivateKey.from_seed_bytes(seed[:_MLKEM_SEED_BYTES])
    return mlkem, X25519PrivateKey.from_private_bytes(seed[_MLKEM_SEED_BYTES:])
