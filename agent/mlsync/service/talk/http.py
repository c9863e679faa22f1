"""As much of HTTP/1.1 as the agent speaks: one bounded request, one answer, and the connection is closed.

The standard library's server would load asyncio's or http's modules into an agent that waits, and bounds less.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

# Far more than any client of ours sends; a browser's cookies for other services on this host may be long.
HEAD_BYTES_MAX: Final = 16 << 10
BODY_BYTES_MAX: Final = 4 << 10
_FIELDS_MAX: Final = 100
_END: Final = b"\r\n\r\n"
_REASONS: Final = {
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    421: "Misdirected Request",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
# No page of another origin may show ours in a frame, run a script in it, or keep it.
_HEADERS: Final = (
    "Connection: close",
    "Cache-Control: no-store",
    "X-Content-Type-Options: nosniff",
    "X-Frame-Options: DENY",
    "Referrer-Policy: no-referrer",
    "Cross-Origin-Resource-Policy: same-origin",
)


class _Refused(Exception):
    """A request that is no request of ours; *status* says why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request: *query* holds each parameter's values, *fields* the header by names in lower case.

    *uid* is the user who asks, as the kernel says it; ``None`` where it does not.
    """

    method: str
    path: str
    query: Mapping[str, list[str]]
    fields: Mapping[str, str]
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer; *more* are header lines."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    more: tuple[str, ...] = field(default=())

    @classmethod
    def of_json(cls, value: Any, status: int = 200) -> HttpAnswer:
        """Return an answer in JSON."""
        return cls(status, json.dumps(value, indent=1).encode() + b"\n", "application/json")

    @classmethod
    def of_text(cls, text: str, status: int = 200) -> HttpAnswer:
        """Return an answer in one line of text."""
        return cls(status, text.encode("utf-8", "replace") + b"\n")

    def encoded(self, *, is_head: bool = False) -> bytes:
        """Return the bytes to send; without the body for a HEAD request."""
        lines = [
            f"HTTP/1.1 {self.status} {_REASONS[self.status]}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            *_HEADERS,
            *self.more,
        ]
        return "\r\n".join(lines).encode() + _END + (b"" if is_head else self.body)


def parse_request(received: bytes) -> HttpRequest | HttpAnswer | None:
    """Return the request once it is whole, ``None`` before; for what is none, the answer that refuses it."""
    head, end, body = received.partition(_END)
    try:
        if not end:
            if len(received) > HEAD_BYTES_MAX:
                raise _Refused(431, "the request's header is too long")
            return None
        if len(head) > HEAD_BYTES_MAX:
            raise _Refused(431, "the request's header is too long")
        request = _parsed(head)
        if len(body) < _body_length(request.fields):
            return None
    except _Refused as refused:
        return HttpAnswer.of_text(str(refused), refused.status)
    return request


def _parsed(head: bytes) -> HttpRequest:
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0") or not words[1].startswith("/"):  # noqa: PLR2004
        raise _Refused(400, "this is no request of HTTP/1.1")
    if len(lines) > _FIELDS_MAX:
        raise _Refused(431, "the request has too many header fields")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip() or (name.lower() in fields and name.lower() == "host"):
            raise _Refused(400, "a header field of the request is malformed")
        fields[name.lower()] = value.strip()
    if words[2] == "HTTP/1.1" and "host" not in fields:
        raise _Refused(400, "the request names no host")
    try:
        target = urlsplit(words[1])
        query = parse_qs(target.query, keep_blank_values=True, max_num_fields=100, errors="strict")
        path = unquote(target.path, errors="strict")
    except ValueError:
        raise _Refused(400, "the request's target is malformed") from None
    return HttpRequest(words[0], path, query, fields)


def _body_length(fields: Mapping[str, str]) -> int:
    """Return how long a body follows; nothing of it is used, but a client that is cut off sees no answer."""
    if "transfer-encoding" in fields:
        raise _Refused(400, "a body of unknown length is not taken")
    text = fields.get("content-length", "0")
    if not (text.isascii() and text.isdigit()) or len(text) > 20:  # noqa: PLR2004 - far more than 64 bits
        raise _Refused(400, "the request's length is no number")
    if int(text) > BODY_BYTES_MAX:
        raise _Refused(413, f"a body of more than {BODY_BYTES_MAX} bytes is not taken")
    return int(text)
