"""An S3 server with missing features or faults, for what SeaweedFS does right and so cannot show."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

DATE = "Mon, 02 Nov 2026 10:00:00 GMT"


class LimitedS3:
    """Keeps objects of one bucket in memory, and does not check signatures.

    *condition*: what it makes of ``If-None-Match``: ``works``, ``ignored``, or ``501`` (says that it is not
    implemented). *has_versions*: whether the bucket keeps versions, in which case it ignores the condition, as Ceph
    does. *has_ranges*: whether it answers 206 to a range. *wants_host*: whether it refuses the bucket's name in the
    path, as OSS does. *certificate*, of its name localhost, makes it speak https; trailers it does not know then.
    *answer*: may answer a request instead: given method and path it gives status, headers and body, or None.
    """

    def __init__(
        self,
        *,
        condition: str = "works",
        has_versions: bool = False,
        has_ranges: bool = True,
        wants_host: bool = False,
        certificate: tuple[Path, Path] | None = None,
        answer: Callable[[str, str], tuple[int, dict[str, str], bytes] | None] = lambda _method, _path: None,
    ) -> None:
        self.condition = condition
        self.has_versions = has_versions
        self.has_ranges = has_ranges
        self.wants_host = wants_host
        self.answer = answer
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.s3 = self
        self._scheme = "http"
        if certificate is not None:
            self._scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def endpoint_url(self) -> str:
        """The address on which it listens."""
        host = "localhost" if self.wants_host or self._scheme == "https" else "127.0.0.1"
        return f"{self._scheme}://{host}:{self._server.server_port}"

    def start(self) -> None:
        """Start."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and refuse connections."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def error_body(code: str) -> bytes:
    """Return S3's error answer with *code*."""
    return f"<Error><Code>{code}</Code><Message>as asked for.</Message></Error>".encode()


def listing_body(
    keys: list[str], *, is_truncated: bool = False, token: str = "", key_count: int | None = None
) -> bytes:
    """Return a page of a listing."""
    entries = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size><LastModified>2026-11-02T10:00:00Z</LastModified></Contents>"
        for key in keys
    )
    next_token = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return (
        f"<ListBucketResult><IsTruncated>{str(is_truncated).lower()}</IsTruncated>{next_token}"
        f"<KeyCount>{len(keys) if key_count is None else key_count}</KeyCount>{entries}</ListBucketResult>"
    ).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *_arguments):
        """Say nothing."""

    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self._answered():
            return
        if "X-Amz-Trailer" in self.headers:
            self._send(501, error_body("NotImplemented"))
            return
        is_conditional = self.headers.get("If-None-Match") == "*" and not self.server.s3.has_versions
        if is_conditional and self.server.s3.condition == "501":
            self._send(501, error_body("NotImplemented"))
        elif is_conditional and self.server.s3.condition == "works" and self._key() in self.server.s3.objects:
            self._send(412, error_body("PreconditionFailed"))
        else:
            self.server.s3.objects[self._key()] = body
            version = {"x-amz-version-id": f"v{len(self.server.s3.requests)}"} if self.server.s3.has_versions else {}
            self._send(200, b"", ETag='"x"', **version)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._answered():
            self._send(501, error_body("NotImplemented"))

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if self._answered():
            return
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._send(200, listing_body(sorted(self.server.s3.objects)))
        elif self._key() not in self.server.s3.objects:
            self._send(404, error_body("NoSuchKey"))
        else:
            self._send_object(self.server.s3.objects[self._key()])

    def do_DELETE(self):
        if not self._answered():
            self.server.s3.objects.pop(self._key(), None)
            self._send(204, b"")

    def _send_object(self, body):
        wanted = self.headers.get("Range")
        if not (wanted and self.server.s3.has_ranges):
            self._send(200, body, **{"Last-Modified": DATE})
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = body[int(first) : int(last) + 1]
        content_range = f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}"
        self._send(206, part, **{"Content-Range": content_range, "Last-Modified": DATE})

    def _answered(self):
        self.server.s3.requests.append((self.command, self.path, dict(self.headers)))
        given = self.server.s3.answer(self.command, self.path)
        if given is None and self.server.s3.wants_host and not self.headers["Host"].startswith("bucket."):
            given = 403, {}, error_body("SecondLevelDomainForbidden")
        if given is not None:
            status, headers, body = given
            self._send(status, body, **headers)
        return given is not None

    def _key(self):
        return unquote(urlsplit(self.path).path).removeprefix("/bucket/").removeprefix("/")

    def _send(self, status, body, **headers):
        headers.setdefault("Content-Length", str(len(body)))
        if "Date" in headers:
            self.send_response_only(status)  # without a date of its own
        else:
            self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if int(headers["Content-Length"]) > len(body) and self.command != "HEAD":
            self.close_connection = True
