"""Decode MessagePack in its canonical encoding: each value has one, and nothing is left out or added.

A decoder that goes by types alone is laxer than the format: it takes an integer for a float, fills missing positions at
the end of an array, and lets a map have a key twice. So the decoded value is encoded again, and the bytes must be the
same. See docs/format.md, "MessagePack".
"""

from __future__ import annotations

import re
import threading
from typing import Any, Final, TypeVar, cast

import msgspec

from mlsync.errors import FormatUnsupported, ManifestDamaged
from mlsync.repository.encoding.tokens import TOKEN_MAX

_T = TypeVar("_T")
_decoders: Final[dict[object, msgspec.msgpack.Decoder[Any]]] = {}
_decoders_lock: Final = threading.Lock()
# The message of msgspec for a number that no member of an enumeration has.
_UNKNOWN_TOKEN: Final = re.compile(r"Invalid enum value (\d+)\b")


def decode_canonical(body: bytes, kind: type[_T], where: str) -> _T:
    """Return the decoded *body*; raise ``ValueError`` unless it is in the canonical encoding.

    Raise ``FormatUnsupported`` for a token above the known ones: a newer mlsync wrote it.
    """
    try:
        value = _decoder(kind).decode(body)
    except RecursionError:
        raise ValueError("values are nested deeper than any of ours") from None
    except msgspec.ValidationError as error:
        unknown = _UNKNOWN_TOKEN.match(str(error))
        if unknown is not None and 0 < int(unknown[1]) <= TOKEN_MAX:
            raise newer(f"a token of this kind is not known here: {error}", where) from None
        raise
    if msgspec.msgpack.encode(value) != body:
        raise ValueError("a value is not in its canonical encoding, or a position is missing")
    return value


def _decoder(kind: type[_T]) -> msgspec.msgpack.Decoder[_T]:
    """Return the decoder of a type, made once, by one thread.

    All threads may use a decoder. But while msgspec makes the first one of a struct, which it does for
    ``decode(…, type=…)`` too, another thread that decodes that struct ends the process with a segmentation fault.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        with _decoders_lock:
            decoder = _decoders.get(kind) or _decoders.setdefault(kind, msgspec.msgpack.Decoder(kind))
    return cast("msgspec.msgpack.Decoder[_T]", decoder)


def decode_as(body: bytes | memoryview, kind: type[_T], where: str) -> _T:
    """Return the decoded *body*, in its canonical encoding; raise ``ManifestDamaged`` or ``FormatUnsupported``."""
    try:
        return decode_canonical(bytes(body), kind, where)
    except ValueError as error:
        raise ManifestDamaged(f"the manifest does not parse: {error}", where=where) from None


def newer(what: str, where: str) -> FormatUnsupported:
    """Return the error for an object of a newer mlsync."""
    return FormatUnsupported(what, where=where, advice="upgrade mlsync")
