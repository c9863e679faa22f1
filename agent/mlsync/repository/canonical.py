"""Decode MessagePack as the format says it: each value in its one encoding, and nothing left out or added.

A decoder by types alone is laxer than the format: it takes a whole number for a float, fills positions that are missing
at the end of an array, lets a key of a map come twice. What encodes to other bytes than it was decoded from was
not written by these rules. See docs/format.md, "MessagePack".
"""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec

from mlsync.errors import FormatUnsupported, ManifestDamaged
from mlsync.repository.tokens import TOKEN_MAX

_T = TypeVar("_T")
# What msgspec says of a number that no member of an enumeration has.
_UNKNOWN_TOKEN: Final = re.compile(r"Invalid enum value (\d+)\b")


def decode_canonical(body: bytes, kind: type[_T], where: str) -> _T:
    """Return what *body* says; ``ValueError`` unless a writer makes these very bytes of it.

    A token above those that are known here is of a newer mlsync: ``FormatUnsupported``.
    """
    try:
        value = msgspec.msgpack.decode(body, type=kind)
    except RecursionError:
        raise ValueError("values are nested deeper than any of ours") from None
    except msgspec.ValidationError as error:
        unknown = _UNKNOWN_TOKEN.match(str(error))
        if unknown is not None and 0 < int(unknown[1]) <= TOKEN_MAX:
            raise newer(f"a token of this kind is not known here: {error}", where) from None
        raise
    if msgspec.msgpack.encode(value) != body:
        raise ValueError("a value is not in its one encoding, or a position is missing")
    return value


def decode_as(body: bytes | memoryview, kind: type[_T], where: str) -> _T:
    """Return *body* decoded as *kind*, in its one encoding; or raise ``ManifestDamaged`` or ``FormatUnsupported``."""
    try:
        return decode_canonical(bytes(body), kind, where)
    except ValueError as error:
        raise ManifestDamaged(f"the manifest does not parse: {error}", where=where) from None


def newer(what: str, where: str) -> FormatUnsupported:
    """Return the error for what a newer mlsync wrote."""
    return FormatUnsupported(what, where=where, advice="upgrade mlsync")
