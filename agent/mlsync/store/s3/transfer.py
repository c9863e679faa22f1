"""Bytes to and from S3 without expensive copies: a body that is a view, and a stream read into a view."""

from __future__ import annotations

import os
import re
from typing import Any, Protocol

from botocore.exceptions import ReadTimeoutError, ResponseStreamingError
from urllib3.exceptions import ProtocolError
from urllib3.exceptions import ReadTimeoutError as Urllib3ReadTimeoutError

from mlsync import errors
from mlsync.courtesy.limit import DOWNLOAD, Limit

# The most that is asked of the connection at a time, unless a limit admits less.
PIECE_BYTES = 8 << 20
# Skipping this many unwanted bytes is cheaper than refusing a store because of them.
_SKIP_BYTES_MAX = 8 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class BodyStream(Protocol):
    """The body of an answer."""

    def readinto(self, b: memoryview, /) -> int:
        """Fill up to all of *b*; return how many bytes, 0 at the end."""


class DirectStream:
    """The body of botocore's answer, read into the caller's memory.

    The stream that botocore gives out reads pieces into fresh memory and copies them from there, twice: that takes as
    much processor as all other work on the bytes. The connection's own stream below it needs neither. What goes wrong
    is raised as botocore raises it; whatever has no such stream is read by botocore's.
    """

    def __init__(self, body: Any) -> None:
        self._body = body
        answer = getattr(body, "_raw_stream", None)
        connected = getattr(answer, "_fp", None)
        translating = getattr(answer, "_error_catcher", None)
        self._is_direct = hasattr(connected, "readinto") and translating is not None
        self._connected, self._translating = connected, translating

    def readinto(self, b: memoryview, /) -> int:
        """Fill up to all of *b*; return how many bytes."""
        if self._is_direct and (count := self._read(b)):
            return count
        # Where the body ends too early, botocore says what that means.
        return int(self._body.readinto(b))

    def _read(self, into: memoryview) -> int:
        assert self._connected is not None
        assert self._translating is not None
        try:
            with self._translating():
                return int(self._connected.readinto(into))
        except Urllib3ReadTimeoutError as error:
            raise ReadTimeoutError(endpoint_url=error.url, error=error) from error
        except ProtocolError as error:
            raise ResponseStreamingError(error=error) from error


class SeekableBody:
    """A view as a seekable file, for libraries that hash it before they send it.

    With a *limit* each piece is given out once it may go. If it *is_hashed_first*, the first time through is not
    limited, since nothing is sent.
    """

    def __init__(self, view: memoryview, limit: Limit | None = None, *, is_hashed_first: bool = False) -> None:
        self._view = view
        self._position = 0
        self._limit = limit
        self._is_hashed = not is_hashed_first
        self._admitted = 0

    def __len__(self) -> int:
        return len(self._view)

    def read(self, size: int | None = -1) -> memoryview:
        """Return the next *size* bytes, or all the rest."""
        wants_all = size is None or size < 0
        end = len(self._view) if size is None or size < 0 else min(self._position + size, len(self._view))
        if self._limit is not None and self._is_hashed:
            end = self._limited(end, self._limit, wants_all=wants_all)
        piece = self._view[self._position : end]
        self._position += len(piece)
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to *offset*."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self._view)}[whence]
        if self._position == len(self._view) > 0:
            self._is_hashed = True
        self._position = min(max(base + offset, 0), len(self._view))
        self._admitted = self._position
        return self._position

    def _limited(self, end: int, limit: Limit, *, wants_all: bool) -> int:
        """Return up to where may be sent, at most *end*; the library asks for less at a time than a piece."""
        while self._admitted < end and (wants_all or self._position >= self._admitted):
            piece_bytes = limit.piece_bytes(len(self._view) - self._admitted)
            limit.admit(piece_bytes)
            self._admitted += piece_bytes
        return min(end, self._admitted)

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._position


def fill(into: memoryview, offset: int, answer: dict[str, object], stream: BodyStream, where: str) -> None:
    """Fill *into* with the object's bytes from *offset*; raise unless the server says that they are these."""
    skip_bytes = _bytes_before(into, offset, answer, where)
    scratch = memoryview(bytearray(min(skip_bytes, PIECE_BYTES)))
    while skip_bytes:
        count = _read(stream, scratch[: min(skip_bytes, PIECE_BYTES)], where)
        skip_bytes -= count
    rest = into.cast("B")
    while rest:
        piece = rest[: DOWNLOAD.piece_bytes(PIECE_BYTES)]
        DOWNLOAD.admit(len(piece))
        while piece:
            count = _read(stream, piece, where)
            piece, rest = piece[count:], rest[count:]


def whole_size(answer: dict[str, object], where: str) -> int:
    """Return the length of the object of which *answer* has a part, or all."""
    content_range = answer.get("ContentRange")
    match = _CONTENT_RANGE.fullmatch(str(content_range))
    size_bytes = answer.get("ContentLength") if content_range is None else match and match[3]
    if size_bytes in (None, "*"):
        raise errors.StoreBroken(f"the store does not say how long the object is: {content_range}", where=where)
    return int(str(size_bytes))


def _bytes_before(into: memoryview, offset: int, answer: dict[str, object], where: str) -> int:
    """Return how many bytes of the answer come before the wanted ones."""
    content_range = answer.get("ContentRange")
    if content_range is None:
        return _bytes_before_in_whole(into, offset, answer, where)
    match = _CONTENT_RANGE.fullmatch(str(content_range))
    end = offset + into.nbytes
    if match is None or int(match[1]) != offset or int(match[2]) >= end:
        raise errors.StoreBroken(f"the store sent another range than it was asked for: {content_range}", where=where)
    if int(match[2]) + 1 < end or answer.get("ContentLength") != into.nbytes:
        raise errors.StoreBroken("the object ends before what was to be read", where=where, is_of_object=True)
    return 0


def _bytes_before_in_whole(into: memoryview, offset: int, answer: dict[str, object], where: str) -> int:
    """Return the same for a store that ignores ranges and sends the whole object, if that is small enough."""
    size_bytes = answer.get("ContentLength")
    if not isinstance(size_bytes, int) or size_bytes < offset + into.nbytes:
        raise errors.StoreBroken("the object ends before what was to be read", where=where, is_of_object=True)
    if size_bytes - into.nbytes > _SKIP_BYTES_MAX:
        advice = "every small read would transfer a whole pack; use a store that answers range requests"
        raise errors.StoreBroken("the store ignores ranges and sends whole objects", where=where, advice=advice)
    return offset


def _read(stream: BodyStream, into: memoryview, where: str) -> int:
    count = stream.readinto(into)
    if count == 0:
        raise errors.StoreBroken("the store sent fewer bytes than it announced", where=where)
    return count
