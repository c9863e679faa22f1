"""What stretching a passphrase came to, remembered by the kernel for this user's next commands.

Stretching takes a tenth of a second and 64 MiB, in each command. What is remembered opens nothing without the
passphrase: it is the wrapping key of one key slot, masked by a key that HKDF derives from the passphrase and from the
slot as it is stored. So a wrong passphrase gives a wrong key, which opens no slot, and is stretched as ever; so does a
value that somebody else planted. A slot that was changed, or is of another repository, has another name here. Who takes
the value has to guess the passphrase still, but each guess is quick: see docs/threat-model.md.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from mlsync import kernel_keyring
from mlsync.codec.digest import object_digest
from mlsync.codec.keys import KEY_BYTES, derive

_LOG: Final = logging.getLogger(__name__)
_PREFIX: Final = "mlsync 1 stretched "
_INFO: Final = b"mlsync 1 remembered stretching"


class Remembered(msgspec.Struct, frozen=True):
    """Remembers for *for_s* seconds, counted from the stretching. Where the kernel refuses, it remembers nothing."""

    for_s: float

    def find(self, slot: bytes, repository: str, passphrase: bytes) -> bytes | None:
        """Return the wrapping key of a stored *slot* of a *repository*, as it was stretched from *passphrase*.

        For another passphrase it is another key; only the slot's seal tells them apart.
        """
        digest = object_digest(slot)
        try:
            masked = kernel_keyring.find(_description(repository, digest))
        except OSError as error:
            _LOG.debug("the kernel does not say what it remembers: %s", error)
            return None
        if masked is None or len(masked) != KEY_BYTES:
            return None
        _LOG.debug("the kernel remembers what a passphrase came to")
        return _masked(masked, digest, passphrase)

    def keep(self, slot: bytes, repository: str, passphrase: bytes, wrapping: bytes) -> None:
        """Remember the wrapping key of a stored *slot*, which it has opened."""
        digest = object_digest(slot)
        try:
            kernel_keyring.keep(_description(repository, digest), _masked(wrapping, digest, passphrase), self.for_s)
        except OSError as error:
            _LOG.debug("the kernel does not remember what was stretched: %s", error)


def forget(repository: str = "") -> int:
    """Forget what is remembered for this user of a *repository*, or of all, and return of how many key slots that was.

    Raise ``OSError`` where the kernel remembers nothing.
    """
    return kernel_keyring.forget(_PREFIX + repository)


def _description(repository: str, digest: bytes) -> str:
    return f"{_PREFIX}{repository} {digest.hex()}"


def _masked(key: bytes, digest: bytes, passphrase: bytes) -> bytes:
    """Return *key* with the mask over it, or without it if it has it: used for one key alone, as the slot has one."""
    mask = derive(passphrase, digest, _INFO)
    return bytes(one ^ other for one, other in zip(key, mask, strict=True))
