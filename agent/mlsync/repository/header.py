"""The object ``repository``: which format, which repository. Plain JSON, so that a person who finds a bucket knows it.

It is not sealed and needs no seal: the id goes into every key (a changed id opens nothing), and a changed format
number is refused by name.
"""

from __future__ import annotations

import msgspec

from mlsync.errors import FormatUnsupported, ObjectDamaged
from mlsync.repository import names, tokens

HEADER_BYTES_MAX = 4096
ID_BYTES = 16


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the header says."""

    mlsync: str
    format: int
    id: str
    conditional_create: bool

    @property
    def repository_id(self) -> bytes:
        """The repository's id."""
        return bytes.fromhex(self.id)


class _Claim(msgspec.Struct):
    """As much of a header as every format has: read first, so that a newer one is refused by name."""

    mlsync: str
    format: int


def encode(repository_id: bytes, *, conditional_create: bool) -> bytes:
    """Return the header's bytes."""
    header = Header("repository", tokens.FORMAT_VERSION, repository_id.hex(), conditional_create)
    return msgspec.json.format(msgspec.json.encode(header), indent=2) + b"\n"


def decode(body: bytes, where: str) -> Header:
    """Return what *body* says, or raise ``ObjectDamaged`` or ``FormatUnsupported``; *where* is the store's URL."""
    try:
        claim = msgspec.json.decode(body, type=_Claim)
        if claim.mlsync != "repository":
            raise ObjectDamaged("the header is not a repository's", where=f"{where} {names.HEADER}")
        check_format(claim.format, f"{where} {names.HEADER}")
        header = msgspec.json.decode(body, type=Header)
        if len(header.repository_id) != ID_BYTES:
            raise ValueError("id of a wrong length")
    except (msgspec.MsgspecError, ValueError) as error:
        advice = "restore this small object from a copy; all else depends on its id"
        raise ObjectDamaged(
            f"the header does not parse: {error}", where=f"{where} {names.HEADER}", advice=advice
        ) from None
    return header


def check_format(version: int, where: str) -> None:
    """Refuse an object of a format that is not known, by its number."""
    if version != tokens.FORMAT_VERSION:
        known = f"this mlsync reads format {tokens.FORMAT_VERSION}"
        raise FormatUnsupported(f"format {version} is not known here, {known}", where=where, advice="upgrade mlsync")
