"""Sealing: AES-256-GCM (NIST SP 800-38D) into buffers that are reused.

Why a (key, nonce) pair never comes twice: each key belongs to one object (its context is random and stands in the
object), the object is written once by one writer, and the nonce is an ordinal inside it that the writer counts. A retry
sends the sealed bytes again; it never seals again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mlsync.buffers import Buffer

TAG_BYTES: Final = 16
NONCE_BYTES: Final = 12


class SealBroken(Exception):
    """The bytes do not authenticate: they were changed, cut or swapped, or sealed under another key."""


class Seal:
    """Seals and opens the pieces of one object under its own key; safe to use from several threads."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal_into(self, nonce: bytes, plain: Buffer, bound: bytes, into: memoryview) -> int:
        """Write ciphertext and tag to the start of *into*; return their length."""
        # Into a reused buffer: allocating a new one costs six times what AES does.
        sealed_bytes = len(plain) + TAG_BYTES
        self._aead.encrypt_into(nonce, plain, bound, into[:sealed_bytes])
        return sealed_bytes

    def seal_each(self, pieces: Iterable[tuple[bytes, Buffer, bytes]], into: memoryview) -> None:
        """Do the same with many short pieces, each with its nonce and what it is bound to, one behind the other."""
        encrypt, at = self._aead.encrypt_into, 0
        for nonce, plain, bound in pieces:
            end = at + len(plain) + TAG_BYTES
            encrypt(nonce, plain, bound, into[at:end])
            at = end

    def seal(self, nonce: bytes, plain: Buffer, bound: bytes) -> bytes:
        """Return ciphertext and tag of a small piece."""
        return self._aead.encrypt(nonce, plain, bound)

    def open_into(self, nonce: bytes, sealed: Buffer, bound: bytes, into: memoryview) -> None:
        """Fill all of *into* with the plain bytes, or raise ``SealBroken``; *into* is undefined then."""
        if len(sealed) != len(into) + TAG_BYTES:
            raise SealBroken("wrong length")
        try:
            self._aead.decrypt_into(nonce, sealed, bound, into)
        except InvalidTag:
            raise SealBroken("does not authenticate") from None

    def open(self, nonce: bytes, sealed: Buffer, bound: bytes) -> bytes:
        """Return the plain bytes of a small piece, or raise ``SealBroken``."""
        try:
            return self._aead.decrypt(nonce, sealed, bound)
        except (InvalidTag, ValueError):
            raise SealBroken("does not authenticate") from None
