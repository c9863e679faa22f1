"""Bytes from S3 go from the connection into the caller's memory."""

from __future__ import annotations

import io
import os
import tracemalloc

import pytest
from urllib3.connection import HTTPConnection

from limited_s3 import LimitedS3
from mlsync import errors
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.s3.transfer import DirectStream

pytestmark = pytest.mark.slow
PACK_BYTES = 12 << 20
WINDOW_BYTES = 4 << 20


def test_a_read_takes_no_memory_of_its_own_and_keeps_its_connection(s3_store, monkeypatch):
    """Three reads of 4 MiB allocate an eighth of one of them, over one connection."""
    content = os.urandom(PACK_BYTES)
    s3_store.put("pack", content)
    connected = []
    connect = HTTPConnection.connect
    monkeypatch.setattr(HTTPConnection, "connect", lambda self: connected.append(self) or connect(self))
    into = memoryview(bytearray(PACK_BYTES))
    s3_store.read("pack", 0, into[:WINDOW_BYTES])  # imports and caches of the first call
    connected.clear()
    tracemalloc.start()
    try:
        for start in range(0, PACK_BYTES, WINDOW_BYTES):
            s3_store.read("pack", start, into[start : start + WINDOW_BYTES])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert into == content
    assert peak_bytes < WINDOW_BYTES // 8
    assert connected == []


def test_without_the_connections_own_stream_botocores_is_read():
    """A later urllib3 may have other names inside: the bytes are the same, and only slower."""
    body = io.BytesIO(b"0123456789")
    stream = DirectStream(body)
    into = bytearray(4)
    assert stream.readinto(memoryview(into)) == 4
    assert into == b"0123"


@pytest.mark.parametrize("sent_bytes", [0, 1, 70_000])
def test_a_body_that_ends_early_is_a_fault_that_may_pass(monkeypatch, sent_bytes):
    """The server announces more than it sends and closes: the read fails as one that is worth another try."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    ranged = {"Content-Length": "100000", "Content-Range": "bytes 0-99999/100000", "Connection": "close"}
    server = LimitedS3(answer=lambda method, _path: (206, ranged, bytes(sent_bytes)) if method == "GET" else None)
    server.start()
    store = open_store("s3://bucket", StoreOptions(endpoint_url=server.endpoint_url))
    with pytest.raises(errors.StoreError) as raised:
        store.read("pack", 0, memoryview(bytearray(100_000)))
    assert store.is_transient(raised.value)
    store.close()
    server.stop()
