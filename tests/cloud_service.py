"""A metadata service on loopback that plays a cloud: paths with answers, and ways to answer badly."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

from mlsync.preemption.metadata import Endpoint


class Request:
    """What a client asked: the headers have lower-case names."""

    def __init__(self, head):
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = lines[0].split(" ")
        self.path = self.target.partition("?")[0]
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}


def http(body=b"", status=200, **headers):
    """An answer as servers give it."""
    body = body.encode() if isinstance(body, str) else body
    head = {"Content-Length": len(body), "Content-Type": "text/plain", **headers}
    lines = [f"HTTP/1.1 {status} Some Words", *(f"{name.replace('_', '-')}: {value}" for name, value in head.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


NOT_FOUND = http("<html>404</html>", 404)


class CloudService:
    """Answers by ``answers``: path (or method and path) to bytes, or to a function of the request and the connection.

    A function that returns ``None`` has answered itself, or never will.
    """

    def __init__(self, timeout_s=5.0):
        self.answers = {}
        self.requests = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.endpoint = Endpoint("127.0.0.1", self.port, timeout_s)
        self.ended = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def asked(self):
        """The paths that were asked for, in order."""
        return [request.path for request in self.requests]

    def close(self):
        """Answer nobody any more."""
        self.ended.set()
        # Or a thread that waits for a connection would take one more.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def hang(self, _request, _connection):
        """Say nothing until the service ends."""
        self.ended.wait()

    def drip(self, _request, connection):
        """Say a byte now and then, which no time-out between two bytes would find."""
        with suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not self.ended.wait(0.02):
                connection.sendall(b"x")

    def _accept(self):
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, suppress(OSError):
            connection.settimeout(10)
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096)
            request = Request(head.partition(b"\r\n\r\n")[0])
            self.requests.append(request)
            answer = self.answers.get((request.method, request.path), self.answers.get(request.path, NOT_FOUND))
            if callable(answer):
                answer = answer(request, connection)
            if answer is not None:
                connection.sendall(answer)


def wait_until(is_so, patience_s=30.0):
    """Return once it is so."""
    deadline_s = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
