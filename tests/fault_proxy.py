"""A proxy between a client and an S3 server that fails on request, as networks and servers do.

It understands as much of HTTP/1.1 as boto3 and SeaweedFS speak: requests with a length or chunks, ``Expect:
100-continue``, answers with a length or chunks, many requests on a connection.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

PIECE_BYTES = 64 << 10
PATIENCE_S = 60
LATE_S = 0.7
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect: *100-continue", re.IGNORECASE)

ANSWERS = {
    "500": ("500 Internal Server Error", "InternalError", ""),
    "503": ("503 Slow Down", "SlowDown", ""),
    "429": ("429 Too Many Requests", "TooManyRequests", "Retry-After: 1\r\n"),
    "403 skewed": ("403 Forbidden", "RequestTimeTooSkewed", ""),
    "400 expired": ("400 Bad Request", "ExpiredToken", ""),
    "502 page": ("502 Bad Gateway", "", ""),
}
# Error answers of servers that are not about the network or the keys.
REFUSALS = {
    "404": ("404 Not Found", "NoSuchKey", ""),
    "404 unknown": ("404 Not Found", "NeverHeardOf", ""),
    "405": ("405 Method Not Allowed", "MethodNotAllowed", ""),
    "416": ("416 Requested Range Not Satisfiable", "InvalidRange", ""),
    "418": ("418 I am a teapot", "Teapot", ""),
    "400 unknown": ("400 Bad Request", "SomethingElse", ""),
    "501": ("501 Not Implemented", "NotImplemented", ""),
    "403": ("403 Forbidden", "AccessDenied", ""),
    "403 cold": ("403 Forbidden", "InvalidObjectState", ""),
}


# The first entry whose method and query match.
OPERATIONS = (
    ("PUT", "partNumber", "UploadPart"),
    ("PUT", "", "PutObject"),
    ("POST", "uploads", "CreateMultipartUpload"),
    ("POST", "uploadId", "CompleteMultipartUpload"),
    ("DELETE", "uploadId", "AbortMultipartUpload"),
    ("DELETE", "", "DeleteObject"),
    ("HEAD", "", "HeadObject"),
    ("GET", "uploads", "ListMultipartUploads"),
    ("GET", "uploadId", "ListParts"),
    ("GET", "list-type", "ListObjectsV2"),
    ("GET", "", "GetObject"),
)


@dataclass(frozen=True)
class Request:
    """A request, parsed."""

    method: str
    target: str

    @property
    def operation(self) -> str:
        """Its name in S3's API."""
        names = {field.partition("=")[0] for field in self.target.partition("?")[2].split("&")}
        return next(
            operation for method, mark, operation in OPERATIONS if method == self.method and mark in {"", *names}
        )


@dataclass
class Fault:
    """What goes wrong with the *nth* request of an *operation* (any, if empty), and the *times* - 1 after it.

    Only requests whose target holds one of *paths* count, if there are any.

    Before the server hears of it: ``reset``, ``stall``, ``delay``, ``late`` (a longer delay), a key of ``ANSWERS`` or
    ``REFUSALS``, at once or ``late``. While the request goes on: ``cut-request``, ``stall-request``, ``flip-request``,
    ``throttle-request``. When it is done: ``lost-answer``, ``cut-answer``, ``stall-answer``, ``flip-answer``,
    ``throttle-answer``.
    """

    kind: str
    operation: str = ""
    nth: int = 1
    times: int = 1
    matched_count: int = 0
    paths: tuple[str, ...] = ()

    def meets(self, request: Request) -> bool:
        """Count the request if it matches; return whether it fails."""
        if self.operation not in ("", request.operation):
            return False
        if self.paths and not any(path in request.target for path in self.paths):
            return False
        self.matched_count += 1
        return self.nth <= self.matched_count < self.nth + self.times


class _Cut(Exception):
    """Raised to end the connection by a reset."""


@dataclass
class FaultProxy:
    """Listens on a port of its own from ``start`` to ``stop``; ``faults`` may be set at any time."""

    server_url: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    sent_bytes: int = 0
    url: str = ""

    def start(self) -> str:
        """Start to listen, and return the URL."""
        parts = urlsplit(self.server_url)
        self._server = (parts.hostname, parts.port)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        return self.url

    def stop(self) -> None:
        """Stop, and cut all connections."""
        self._stopped.set()
        # Wakes the thread that waits in accept; close alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    def cut_all(self) -> None:
        """Cut every connection, as a network failure would."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def count(self, operation: str) -> int:
        """Return how many requests of an operation there were."""
        return sum(request.operation == operation for request in self.requests)

    def reset(self, *faults: Fault) -> None:
        """Set new faults, and reset the counts."""
        with self._lock:
            self.faults, self.requests, self.sent_bytes = list(faults), [], 0

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(client)
            try:
                server = stack.enter_context(socket.create_connection(self._server))
            except OSError:  # the server is down: so is what stands before it
                return
            for one in (client, server):
                one.settimeout(PATIENCE_S)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, server}
            streams = _Stream(client), _Stream(server)
            try:
                while self._pass_on(*streams):
                    pass
            except _Cut:
                # A reset, not an orderly close.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except (OSError, EOFError):
                pass
            finally:
                with self._lock:
                    self._open -= {client, server}

    def _pass_on(self, client: _Stream, server: _Stream) -> bool:
        """Forward one request and its answer, as far as the fault allows; return whether the connection continues."""
        head = client.read_head()
        if not head:
            return False
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        request = Request(method, target)
        with self._lock:
            self.requests.append(request)
            fault = next((one.kind for one in self.faults if one.meets(request)), "")
        if self._ends_before(fault, client):
            return False
        server.send(head)
        if _EXPECT.search(head):
            answer = server.read_head()
            client.send(answer)
            if not _is_interim(answer):
                _relay_body(server, client, answer, method)
                return False
        for piece in _broken(client.body(head), fault.removesuffix("-request"), fault.endswith("-request")):
            server.send(piece)
            with self._lock:
                self.sent_bytes += len(piece)
        answer = server.read_head()
        while _is_interim(answer):
            answer = server.read_head()
        if fault == "lost-answer":
            for _ in server.body(answer, method):
                pass
            raise _Cut
        client.send(answer)
        for piece in _broken(server.body(answer, method), fault.removesuffix("-answer"), fault.endswith("-answer")):
            client.send(piece)
        return True

    def _ends_before(self, fault: str, client: _Stream) -> bool:
        if fault == "reset":
            raise _Cut
        if fault == "stall":
            self._stopped.wait(PATIENCE_S)
            raise _Cut
        if fault == "delay":
            time.sleep(0.3)
        if fault.startswith("late"):
            self._stopped.wait(LATE_S)
        answer = fault.removeprefix("late ")
        given = ANSWERS.get(answer) or REFUSALS.get(answer)
        if given is not None:
            client.send_last(_answer(*given))
        return given is not None


class _Stream:
    """A socket with a buffer of what was read too early."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._rest = b""

    def send(self, piece: bytes) -> None:
        self._socket.sendall(piece)

    def send_last(self, piece: bytes) -> None:
        """Send, then read the rest: closing while the other side still sends would reset the connection."""
        self._socket.sendall(piece)
        self._socket.shutdown(socket.SHUT_WR)
        self._socket.settimeout(2)
        with contextlib.suppress(OSError):
            while self._socket.recv(PIECE_BYTES):
                pass

    def read_head(self) -> bytes:
        """Return the lines up to the empty one, or nothing if the other side has closed."""
        while b"\r\n\r\n" not in self._rest:
            more = self._socket.recv(PIECE_BYTES)
            if not more:
                if self._rest:
                    raise EOFError
                return b""
            self._rest += more
        head, end, self._rest = self._rest.partition(b"\r\n\r\n")
        return head + end

    def body(self, head: bytes, method: str = "") -> Iterator[bytes]:
        """Yield the body of *head* as it is on the wire; *method* is the request's, for an answer."""
        length = _LENGTH.search(head)
        if method == "HEAD" or head[9:12] in (b"204", b"304"):
            return
        if _CHUNKED.search(head):
            yield from self._chunks()
        elif length is not None:
            yield from self._take(int(length[1]))

    def _take(self, size_bytes: int) -> Iterator[bytes]:
        while size_bytes:
            piece = self._rest[:size_bytes] or self._socket.recv(min(size_bytes, PIECE_BYTES))
            if not piece:
                raise EOFError
            self._rest = self._rest[len(piece) :]
            size_bytes -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        while True:
            line = self._line()
            yield line
            size_bytes = int(line.partition(b";")[0].strip(), 16)
            yield from self._take(size_bytes)
            yield self._line() if size_bytes else self._trailer()
            if not size_bytes:
                return

    def _trailer(self) -> bytes:
        lines = [self._line()]
        while lines[-1] != b"\r\n":
            lines.append(self._line())
        return b"".join(lines)

    def _line(self) -> bytes:
        while b"\r\n" not in self._rest:
            more = self._socket.recv(PIECE_BYTES)
            if not more:
                raise EOFError
            self._rest += more
        line, end, self._rest = self._rest.partition(b"\r\n")
        return line + end


def _broken(pieces: Iterator[bytes], kind: str, applies: bool) -> Iterator[bytes]:
    """Yield *pieces* with the fault applied; an empty body has no fault."""
    for piece in pieces:
        match kind if applies else "":
            case "cut":
                yield piece[: len(piece) // 2]
                raise _Cut
            case "stall":
                yield piece[: len(piece) // 2]
                time.sleep(PATIENCE_S)
                raise _Cut
            case "flip":
                place = len(piece) // 2
                yield piece[:place] + bytes([piece[place] ^ 4]) + piece[place + 1 :]
                applies = False
            case "throttle":
                time.sleep(0.02)
                yield piece
            case _:
                yield piece


def _relay_body(server: _Stream, client: _Stream, answer: bytes, method: str) -> None:
    for piece in server.body(answer, method):
        client.send(piece)


def _is_interim(head: bytes) -> bool:
    return head[9:10] == b"1"


def _answer(status: str, code: str, headers: str) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>asked for</Message></Error>"
    if not code:
        body = "<html>This is not the server.</html>"
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\n{headers}Content-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()
