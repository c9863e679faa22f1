"""A slow line to an S3 server: a body takes longer than a connection may take to be made, and moves all the time."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from mlsync.errors import StoreUnavailable
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.s3 import client

BODY_BYTES = 8 << 20
PATIENCE_S = 0.3


class SlowServer:
    """Takes one request, slowly, up to *limit_bytes*; then answers, if it has all of it, or holds still."""

    def __init__(self, limit_bytes=BODY_BYTES):
        self._limit_bytes = limit_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        # Small, so that the body waits with the sender, as on a line.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 10)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.taken_bytes = 0
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self):
        with self._listener, self._listener.accept()[0] as connection:
            connection.settimeout(10)
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096)
            self.taken_bytes = len(head.partition(b"\r\n\r\n")[2])
            while self.taken_bytes < self._limit_bytes:
                time.sleep(0.01)
                piece = connection.recv(256 << 10)
                if not piece:
                    return
                self.taken_bytes += len(piece)
            if self.taken_bytes == BODY_BYTES:
                connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: 0\r\n\r\n')
            self.is_over.wait(10)


@pytest.fixture
def put(monkeypatch):
    """Create an object at a server, with little patience."""
    monkeypatch.setattr(client, "_CONNECT_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(client, "_READ_TIMEOUT_S", PATIENCE_S)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")

    def put(server):
        store = open_store("s3://bucket/runs", StoreOptions(endpoint_url=server.url, region="us-east-1"))
        try:
            store.put("an/object", bytes(BODY_BYTES))
        finally:
            server.is_over.set()
            server.thread.join()
            store.close()

    return put


def test_a_body_may_take_as_long_as_it_moves(put):
    """A body arrives that takes longer than the patience with a connection that does not move."""
    server = SlowServer()
    put(server)
    assert server.taken_bytes == BODY_BYTES


def test_a_body_that_stops_moving_is_given_up(put):
    """A server that takes no more of a body is not waited for."""
    server = SlowServer(BODY_BYTES // 8)
    with pytest.raises(StoreUnavailable):
        put(server)
    assert server.taken_bytes < BODY_BYTES
