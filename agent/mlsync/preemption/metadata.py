"""One small request to a metadata service: over a plain socket, past all proxies, bounded in time and length.

An HTTP library would cost the idle agent several megabytes, heed the proxies of the environment and follow redirects.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlsplit

from mlsync.errors import ConfigInvalid

TIMEOUT_S: Final = 2.0
#: Overrides where metadata services are looked for, for tests of one's own; only on this machine or its own link.
OVERRIDE: Final = "MLSYNC_METADATA_ENDPOINT"
BODY_BYTES_MAX: Final = 64 << 10
OK, UNAUTHORIZED, NOT_FOUND = 200, 401, 404
_HEAD_BYTES_MAX: Final = 16 << 10
_READ_BYTES: Final = 8 << 10
_HEAD_END: Final = b"\r\n\r\n"
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |\r\n|$)")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")
_TOKEN: Final = re.compile(r"[!-~]{1,4096}")
_PORT_MAX: Final = 65_535


class MetadataFault(Exception):
    """A metadata service gave no usable answer; the text says what it gave, without any of its content."""


class NoAnswer(MetadataFault):
    """Nothing listens there, or nothing came in time."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a metadata service: never a name, since a lookup may hang and may lead anywhere."""

    host: str
    port: int = 80
    timeout_s: float = TIMEOUT_S

    @classmethod
    def overridden(cls, usual: Self, environ: Mapping[str, str] = os.environ) -> Self:
        """Return *usual*, or what the environment says for tests; ``ConfigInvalid`` if that may be another machine."""
        text = environ.get(OVERRIDE)
        if not text:
            return usual
        try:
            parts = urlsplit(text)
            address = ipaddress.ip_address(parts.hostname or "")
            port = parts.port or 80
        except ValueError:
            raise _refused(text) from None
        is_here = address.is_loopback or address.is_link_local
        if parts.scheme != "http" or not is_here or parts.path.strip("/") or "@" in parts.netloc:
            raise _refused(text)
        return cls(str(address), port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 80 else f"{host}:{self.port}"  # noqa: PLR2004 - of HTTP


def _refused(text: str) -> ConfigInvalid:
    advice = "it is for tests, and takes an address of this machine, such as http://127.0.0.1:8080"
    return ConfigInvalid(f"{OVERRIDE} is no http URL of a loopback or link-local address", where=text, advice=advice)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: *headers* have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text, without the space around it."""
        return self.body.decode("utf-8", "replace").strip()

    def json(self) -> Any:
        """Return the body as JSON; raise ``MetadataFault`` if it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise MetadataFault("an answer that is no JSON") from None

    def token(self) -> str:
        """Return the body as a token that may stand in a header; raise ``MetadataFault`` if it may not."""
        if self.status != OK or not _TOKEN.fullmatch(self.text):
            raise MetadataFault(f"no token, but status {self.status}")
        return self.text


def ask(
    endpoint: Endpoint,
    path: str,
    headers: Mapping[str, str],
    *,
    method: str = "GET",
    wait_s: float = 0.0,
    limit_bytes: int = BODY_BYTES_MAX,
    clock: Callable[[], float] = time.monotonic,
) -> Answer:
    """Return the answer to one request, whatever its status; a redirect is not followed.

    *wait_s* is how long the service was asked to wait before it answers.
    Raises ``NoAnswer`` if it is not whole in time, and ``MetadataFault`` if it is no answer of HTTP or has
    more than *limit_bytes*.
    """
    lines = [f"{method} {path} HTTP/1.1", f"Host: {endpoint}", "Connection: close", "Accept: */*"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if method == "PUT":
        lines.append("Content-Length: 0")
    request = ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
    timeout_s = endpoint.timeout_s + wait_s
    deadline_s = clock() + timeout_s
    try:
        with socket.create_connection((endpoint.host, endpoint.port), timeout=timeout_s) as connection:
            connection.sendall(request)
            return _answer(_Stream(connection, deadline_s, clock), limit_bytes)
    except TimeoutError:
        raise NoAnswer(f"no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise NoAnswer(f"no answer: {error.strerror or error}") from None


class _Stream:
    """What a server sends, until a deadline that slow drops do not move."""

    def __init__(self, connection: socket.socket, deadline_s: float, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._deadline_s = deadline_s
        self._clock = clock
        self.buffer = b""
        self.is_ended = False

    def more(self) -> None:
        """Receive what comes next; the stream ends with nothing."""
        left_s = self._deadline_s - self._clock()
        if left_s <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)
        received = self._connection.recv(_READ_BYTES)
        self.buffer += received
        self.is_ended = not received

    def take(self, count: int) -> bytes:
        """Return the next *count* bytes."""
        while len(self.buffer) < count:
            if self.is_ended:
                raise MetadataFault("an answer that is cut short")
            self.more()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken


def _answer(stream: _Stream, limit_bytes: int) -> Answer:
    while _HEAD_END not in stream.buffer:
        if len(stream.buffer) > _HEAD_BYTES_MAX:
            raise MetadataFault("an answer with too long a head")
        if stream.is_ended:
            raise MetadataFault("an answer that is cut short")
        stream.more()
    head, _, stream.buffer = stream.buffer.partition(_HEAD_END)
    found = _STATUS.match(head)
    if found is None:
        raise MetadataFault("an answer that is no HTTP")
    headers = {}
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    return Answer(int(found[1]), headers, _body(stream, headers, limit_bytes))


def _body(stream: _Stream, headers: Mapping[str, str], limit_bytes: int) -> bytes:
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return _chunks(stream, limit_bytes)
    length = headers.get("content-length")
    if length is not None:
        if not (length.isascii() and length.isdigit() and len(length) < 16 and int(length) <= limit_bytes):  # noqa: PLR2004
            raise MetadataFault("an answer that is too long")
        return stream.take(int(length))
    while not stream.is_ended:
        if len(stream.buffer) > limit_bytes:
            raise MetadataFault("an answer that is too long")
        stream.more()
    return stream.buffer


def _chunks(stream: _Stream, limit_bytes: int) -> bytes:
    body = b""
    while True:
        while (found := _CHUNK_SIZE.match(stream.buffer)) is None:
            if len(stream.buffer) > _READ_BYTES or stream.is_ended:
                raise MetadataFault("an answer in chunks that do not parse")
            stream.more()
        stream.take(found.end())
        size = int(found[1], 16)
        if size == 0:
            return body
        if len(body) + size > limit_bytes:
            raise MetadataFault("an answer that is too long")
        body += stream.take(size + 2)[:-2]
