"""An upload to S3: a multipart upload, or one put if a single short part turns out to be the whole object.

The server's parts outlive this process: a resume token names the upload and its parts, each with the server's
tag. ``S3Store.resume`` compares these with the server's own list first.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from mlsync import errors
from mlsync.buffers import Buffer
from mlsync.store.base import Upload, view_of
from mlsync.store.part_ledger import PartLedger


class SentPart(msgspec.Struct, frozen=True, array_like=True):
    """The server's tag for a part, and the CRC-32 (in base64) that the server compared, if there was one."""

    tag: str
    crc32: str | None = None


class Multipart(Protocol):
    """What an upload needs from its store."""

    @property
    def part_bytes(self) -> int:
        """The length of parts."""

    def put(self, key: str, body: Buffer) -> None:
        """Create a whole object."""

    def begin_multipart(self, key: str) -> str:
        """Return the id of a new multipart upload."""

    def send_part(self, key: str, upload_id: str, number: int, part: Buffer) -> SentPart:
        """Send a part; return the server's tag and checksum."""

    def complete_multipart(self, key: str, upload_id: str, parts: Mapping[int, SentPart]) -> None:
        """Create the object."""

    def abort_multipart(self, key: str, upload_id: str) -> None:
        """Discard the parts; never raises."""


class ResumeToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What it takes to continue an upload: its id, and its full-length parts by number."""

    upload_id: str
    part_bytes: int
    parts: dict[int, SentPart]


# Made by the thread that imports this: a first decoding in several at once would crash.
_token_decoder: Final = msgspec.json.Decoder(ResumeToken)


class S3Upload(Upload):
    """Sends parts as they come, except a short first part: that is also the last, and needs only a put."""

    def __init__(self, store: Multipart, key: str, token: ResumeToken | None = None) -> None:
        self._store = store
        self._key = key
        self._ledger = PartLedger(store.part_bytes)
        self._parts: dict[int, SentPart] = {}
        self._short_number = 0
        self._only_part: bytes | None = None
        self._upload_id: str | None = None
        if token is not None:
            self._upload_id = token.upload_id
            self._parts.update(token.parts)
            for number in token.parts:
                self._ledger.add((number - 1) * token.part_bytes, token.part_bytes)
        self._is_over = False
        self._lock = threading.Lock()

    def write(self, offset: int, part: Buffer) -> None:
        """Send the part that begins at *offset*."""
        view = view_of(part)
        self._ledger.check(offset, len(view))
        if offset == 0 and len(view) < self._store.part_bytes:
            self._only_part = bytes(view)  # one request instead of three; the caller may reuse its buffer
        else:
            number = offset // self._store.part_bytes + 1
            if len(view) < self._store.part_bytes:
                self._short_number = number
            self._parts[number] = self._store.send_part(self._key, self._begun(), number, view)
        self._ledger.add(offset, len(view))

    def finish(self, size_bytes: int) -> None:
        """Create the object; the caller may call it again after a failure."""
        self._ledger.check_whole(size_bytes)
        if self._is_over:
            raise errors.StoreUnavailable("this upload is over; begin it again", where=self._key)
        if self._upload_id is None:
            self._store.put(self._key, self._only_part or b"")
        else:
            self._complete(self._upload_id)
        self._only_part = None
        self._is_over = True

    def abort(self) -> None:
        """Discard the parts; do nothing after ``finish``."""
        with self._lock:
            is_begun = not self._is_over and self._upload_id is not None
            self._is_over = True
            self._only_part = None
        if is_begun and self._upload_id is not None:
            self._store.abort_multipart(self._key, self._upload_id)

    def resume_token(self) -> str | None:
        """Return a token if the server knows the upload; it omits a short part, which is sent again."""
        if self._upload_id is None or self._is_over:
            return None
        whole = {number: part for number, part in self._parts.items() if number != self._short_number}
        return msgspec.json.encode(ResumeToken(self._upload_id, self._store.part_bytes, whole)).decode()

    def _complete(self, upload_id: str) -> None:
        try:
            self._store.complete_multipart(self._key, upload_id, self._parts)
        except errors.AlreadyExists:
            # The parts are useless now, and cost money until they are aborted.
            self._store.abort_multipart(self._key, upload_id)
            raise

    def _begun(self) -> str:
        with self._lock:
            if self._is_over:
                raise errors.StoreUnavailable("this upload is over; begin it again", where=self._key)
            if self._upload_id is None:
                self._upload_id = self._store.begin_multipart(self._key)
            return self._upload_id


def read_token(text: str) -> ResumeToken | None:
    """Return the token that *text* is, or ``None`` if it is none."""
    try:
        return _token_decoder.decode(text)
    except ValueError:
        return None


def has_parts(token: ResumeToken, listed: Mapping[int, tuple[str, int]]) -> bool:
    """Return whether the server's list, tag and size by number, has the same full-length parts as the token."""
    return all(listed.get(number) == (part.tag, token.part_bytes) for number, part in token.parts.items())
