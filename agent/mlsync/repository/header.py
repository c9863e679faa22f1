"""The object ``repository``: its format and id, in plain JSON, so that a person who finds a bucket can identify it.

It is not sealed, since it must be readable without a key. Its ``check`` is computed with the master key over all other
fields: once a key slot has opened, it reveals a changed header, or a key of another repository.
"""

from __future__ import annotations

import hmac
from typing import Final

import msgspec

from mlsync.codec.digest import object_digest
from mlsync.codec.keys import Keys
from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.errors import EpochUnknown, Error, ObjectDamaged
from mlsync.repository import names
from mlsync.repository.encoding import tokens
from mlsync.repository.encoding.canonical import newer

HEADER_BYTES_MAX = 4096
ID_BYTES = 16


class RepositoryHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of the header; *check* is in hexadecimal."""

    mlsync: str
    format: int
    id: str
    conditional_create: bool
    check: str

    @property
    def repository_id(self) -> bytes:
        """The repository's id."""
        return bytes.fromhex(self.id)

    def bound(self) -> bytes:
        """Return the header with an empty check, as JSON without blanks: the check is computed over this."""
        return msgspec.json.encode(msgspec.structs.replace(self, check=""))

    def is_of(self, keys: Keys) -> bool:
        """Return whether these are the repository's keys and the header is unchanged."""
        if isinstance(keys, WriteOnlyKeys):
            return hmac.compare_digest(object_digest(_write(self)), keys.header)
        return hmac.compare_digest(self.check.encode(), _check(self, keys).encode())


class _Claim(msgspec.Struct):
    """The fields that the header has in every format: read first, so that a newer format is refused by its number."""

    mlsync: str
    format: int


# Made by the thread that imports this: a first decoding in several at once would crash.
_claim_decoder: Final = msgspec.json.Decoder(_Claim)
_header_decoder: Final = msgspec.json.Decoder(RepositoryHeader)


def encode(keys: Keys, *, conditional_create: bool) -> bytes:
    """Return the header's bytes."""
    header = RepositoryHeader("repository", tokens.FORMAT_VERSION, keys.repository_id.hex(), conditional_create, "")
    return _write(msgspec.structs.replace(header, check=_check(header, keys)))


def digest_of(keys: Keys, *, conditional_create: bool) -> bytes:
    """Return the digest of the header object, by which a node knows it that has no key to check it with."""
    return object_digest(encode(keys, conditional_create=conditional_create))


def decode(body: bytes, where: str) -> RepositoryHeader:
    """Return the decoded header, or raise ``ObjectDamaged`` or ``FormatUnsupported``; *where* is the store's URL."""
    try:
        claim = _claim_decoder.decode(body)
        if claim.mlsync != "repository":
            raise ObjectDamaged("the header is not a repository's", where=f"{where} {names.HEADER}")
        check_format(claim.format, f"{where} {names.HEADER}")
        header = _header_decoder.decode(body)
        is_id = len(header.repository_id) == ID_BYTES and header.repository_id.hex() == header.id
        if not is_id or _write(header) != body:
            raise ValueError("not written so by any mlsync")
    except (ValueError, RecursionError) as error:
        advice = "restore this small object from a copy; all else depends on its id"
        raise ObjectDamaged(
            f"the header does not parse: {error}", where=f"{where} {names.HEADER}", advice=advice
        ) from None
    return header


def check_format(version: int, where: str, damage: type[Error] = ObjectDamaged) -> None:
    """Raise ``FormatUnsupported`` for an unknown format, and *damage* for a number that no format has."""
    if version < 1:
        raise damage(f"there is no format {version}", where=where)
    if version != tokens.FORMAT_VERSION:
        known = f"this mlsync reads format {tokens.FORMAT_VERSION}"
        raise newer(f"format {version} is not known here, {known}", where)


def check_key_kind(key_kind: int, where: str, damage: type[Error] = ObjectDamaged) -> None:
    """Raise ``FormatUnsupported`` for an unknown kind of key, and *damage* for zero."""
    if key_kind < 1:
        raise damage(f"there is no key kind {key_kind}", where=where)
    if key_kind not in tokens.KEY_KINDS:
        raise newer(f"key kind {key_kind} is not known here", where)


def check_epoch(epoch: int, keys: Keys, where: str) -> None:
    """Raise ``EpochUnknown`` unless the master key of this epoch is known."""
    if epoch > keys.epoch:
        raise EpochUnknown(f"it is sealed with the key of epoch {epoch}, which is not known here", where=where)


def _check(header: RepositoryHeader, keys: Keys) -> str:
    return keys.of("header", header.bound()).hex()


def _write(header: RepositoryHeader) -> bytes:
    return msgspec.json.format(msgspec.json.encode(header), indent=2) + b"\n"
