"""An S3 server that costs as little as Python can: what is sent is kept in memory, nothing is checked.

A real server on the same machine takes several times the processor of its client and hides it; this one shows the
client. It speaks what boto3, s5cmd, rclone and restic ask of one bucket. ``sink.py`` prints its address and serves.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"
DATE = "Mon, 02 Nov 2026 10:00:00 GMT"
ISO_DATE = "2026-11-02T10:00:00.000Z"
TAG = '"0123456789abcdef0123456789abcdef-1"'  # as of an upload in parts: nobody takes it for an MD5
PART = re.compile(r"<PartNumber>(\d+)</PartNumber>")


class Sink:
    """A sink in a process of its own, from ``start`` to ``stop``; empty each time."""

    def start(self) -> str:
        words = [sys.executable, str(Path(__file__))]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        return self._process.stdout.readline().strip()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, list[memoryview]] = {}
        self.uploads: dict[str, dict[int, list[memoryview]]] = {}
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 64 << 10

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *_arguments) -> None:
        """Say nothing."""

    def handle_expect_100(self) -> bool:
        self.send_response_only(100)
        self.end_headers()
        self.wfile.flush()  # a client that waits for it would wait a second
        return True

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query, keep_blank_values=True)
        self.key = unquote(parts.path).lstrip("/").partition("/")[2]
        return True

    def do_PUT(self) -> None:
        if "x-amz-copy-source" in self.headers:
            self.answer(501)
            return
        body = self.body()
        if "partNumber" in self.query:
            self.server.uploads[self.query["uploadId"][0]][int(self.query["partNumber"][0])] = body
        elif self.key:
            with self.server.lock:
                is_taken = self.headers.get("If-None-Match") == "*" and self.key in self.server.objects
                if not is_taken:
                    self.server.objects[self.key] = body
            if is_taken:
                self.answer(412, "<Error><Code>PreconditionFailed</Code></Error>")
                return
        self.answer(200, etag=True)

    def do_POST(self) -> None:
        text = b"".join(self.body()).decode()
        if "uploads" in self.query:
            with self.server.lock:
                upload_id = str(len(self.server.uploads) + 1)
                self.server.uploads[upload_id] = {}
            self.answer(
                200, f"<InitiateMultipartUploadResult><UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>"
            )
        elif "uploadId" in self.query:
            parts = self.server.uploads[self.query["uploadId"][0]]
            numbers = sorted(int(number) for number in PART.findall(text))
            self.server.objects[self.key] = [piece for number in numbers for piece in parts[number]]
            self.answer(
                200, f"<CompleteMultipartUploadResult><ETag>{escape(TAG)}</ETag></CompleteMultipartUploadResult>"
            )
        else:
            for key in re.findall(r"<Key>(.*?)</Key>", text):
                self.server.objects.pop(key, None)
            self.answer(200, "<DeleteResult></DeleteResult>")

    def do_DELETE(self) -> None:
        self.server.objects.pop(self.key, None)
        self.answer(204)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if not self.key:
            self.answer(200, self.listing())
        elif self.key not in self.server.objects:
            self.answer(404, "<Error><Code>NoSuchKey</Code></Error>")
        else:
            self.send_object(self.server.objects[self.key])

    def listing(self) -> str:
        if "location" in self.query:
            return "<LocationConstraint>us-east-1</LocationConstraint>"
        if "uploads" in self.query:
            return "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>"
        prefix = self.query.get("prefix", [""])[0]
        delimiter = self.query.get("delimiter", [""])[0]
        after = self.query.get("start-after", [""])[0]
        entries, folders = [], set()
        for key, pieces in sorted(self.server.objects.items()):
            if not key.startswith(prefix) or key <= after:
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            size_bytes = sum(map(len, pieces))
            entries.append(
                f"<Contents><Key>{escape(key)}</Key><Size>{size_bytes}</Size><ETag>{escape(TAG)}</ETag>"
                f"<LastModified>{ISO_DATE}</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            )
        entries += [f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders)]
        head = f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(entries)}</KeyCount>"
        head += "<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult>{head}{''.join(entries)}</ListBucketResult>"

    def body(self) -> list[memoryview]:
        """What was sent, without the framing that signed streams have."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self.chunks()
        decoded_bytes = self.headers.get("x-amz-decoded-content-length")
        if decoded_bytes is not None:
            return self.chunks()
        return [self.take(int(self.headers.get("Content-Length") or 0))]

    def take(self, size_bytes: int) -> memoryview:
        view = memoryview(bytearray(size_bytes))
        filled_bytes = 0
        while filled_bytes < size_bytes:
            count = self.rfile.readinto(view[filled_bytes:])
            if not count:
                raise ConnectionResetError
            filled_bytes += count
        return view

    def chunks(self) -> list[memoryview]:
        pieces = []
        while size_bytes := int(self.rfile.readline().partition(b";")[0], 16):
            pieces.append(self.take(size_bytes))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers, up to the empty line
            pass
        return pieces

    def send_object(self, pieces: list[memoryview]) -> None:
        size_bytes = sum(map(len, pieces))
        first, last = 0, size_bytes - 1
        wanted = self.headers.get("Range")
        if wanted:
            begin, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = (int(begin), min(int(end or last), last)) if begin else (size_bytes - int(end), last)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size_bytes}")
        self.finish_head(last + 1 - first, etag=True)
        if self.command == "HEAD":
            return
        at = 0
        for piece in pieces:
            part = piece[max(first - at, 0) : max(last + 1 - at, 0)]
            if part:
                self.connection.sendall(part)
            at += len(piece)

    def answer(self, status: int, text: str = "", *, etag: bool = False) -> None:
        body = text.encode()
        self.send_response(status)
        self.finish_head(len(body), etag=etag)
        if self.command != "HEAD" and status != 204:
            self.wfile.write(body)

    def finish_head(self, size_bytes: int, *, etag: bool) -> None:
        self.send_header("Content-Length", str(size_bytes))
        self.send_header("Last-Modified", DATE)
        self.send_header("Content-Type", "application/xml" if not etag else "application/octet-stream")
        if etag:
            self.send_header("ETag", TAG)
        self.end_headers()
        self.wfile.flush()


if __name__ == "__main__":
    server = Server()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
