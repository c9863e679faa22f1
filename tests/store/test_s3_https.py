"""S3 over https: a private authority, an unknown one, and the same contract as over http."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from urllib.parse import urlsplit

import pytest

from mlsync import errors
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.s3 import store as s3
from mlsync.store.s3.connection import CancellableCall
from mlsync.store.s3.errors import translating

pytestmark = pytest.mark.slow

PART_BYTES = 5 << 20


@pytest.fixture
def opened(secure, monkeypatch):
    """Open a store over https, with the authority that is named or none."""
    url, _, server, bucket = secure
    monkeypatch.setattr(s3, "PART_BYTES", PART_BYTES)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    stores = []

    def open_it(**options):
        values = {"endpoint_url": url, "region": server.region} | options
        stores.append(open_store(f"s3://{bucket}/{os.urandom(8).hex()}", StoreOptions(**values)))
        return stores[-1]

    yield open_it
    for store in stores:
        store.close()


@pytest.mark.parametrize("payload_signing", ["auto", "always", "never"])
def test_objects_and_uploads_over_https(opened, secure, payload_signing):
    """With the authority named, everything works as over http, however bodies are signed."""
    store = opened(ca_file=str(secure[1]), payload_signing=payload_signing)
    body = os.urandom(2 * PART_BYTES + 100)
    upload = store.upload("a/large")
    for offset in range(0, len(body), PART_BYTES):
        upload.write(offset, memoryview(body)[offset : offset + PART_BYTES])
    resumed = store.resume("a/large", upload.resume_token()) if payload_signing == "auto" else upload
    if resumed is not upload:
        resumed.write(2 * PART_BYTES, body[2 * PART_BYTES :])
    resumed.finish(len(body))
    store.put("a/small", b"small")
    into = bytearray(len(body))
    store.read("a/large", 0, memoryview(into))
    assert into == body
    assert store.get("a/small", limit_bytes=10) == b"small"
    with pytest.raises(errors.AlreadyExists):
        store.put("a/small", b"again")


def test_server_of_an_unknown_authority_is_refused(opened):
    """Without the authority nothing is sent, and the message says what to set."""
    with pytest.raises(errors.StoreUnavailable, match="ca_file") as caught:
        opened().put("a", b"body")
    assert not opened().is_transient(caught.value)


def test_https_asked_of_http_is_an_error_of_the_store(opened, secure):
    """A wrong scheme is StoreUnavailable, not a traceback."""
    store = opened(endpoint_url=secure[2].endpoint_url.replace("http:", "https:"), ca_file=str(secure[1]))
    with pytest.raises(errors.StoreUnavailable):
        store.stat("a")


def test_call_over_https_is_cut(opened, secure):
    """Another thread can cut a request inside its answer over https too."""
    store = opened(ca_file=str(secure[1]))
    store.put("a", os.urandom(16 << 20))
    with CancellableCall() as call:
        stream = store._client.botocore.get_object(**store._names("a"))["Body"]
        call.cut()
        with pytest.raises(errors.StoreUnavailable), translating("here"):
            stream.read()


class FlippingRelay:
    """A network that passes everything on, and from the *flips_at*-th byte of the answers one bit as another."""

    def __init__(self, url, flips_at):
        self._server = urlsplit(url)
        self._left_bytes = flips_at
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with self._listener, contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            server = socket.create_connection((self._server.hostname, self._server.port))
            threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
            self._pass(server, client, flips=True)

    def _pass(self, source, target, flips=False):
        with source, target, contextlib.suppress(OSError):
            while piece := bytearray(source.recv(64 << 10)):
                if flips and 0 <= self._left_bytes < len(piece):
                    piece[self._left_bytes] ^= 1
                self._left_bytes -= len(piece) if flips else 0
                target.sendall(piece)


def test_bit_that_flips_under_tls_is_an_error_of_the_store(opened, secure):
    """Damage that TLS finds inside a body is a transient store error."""
    store = opened(ca_file=str(secure[1]))
    store.put("a", os.urandom(4 << 20))
    relay = FlippingRelay(secure[0], flips_at=1 << 20)
    damaged = opened(ca_file=str(secure[1]), endpoint_url=relay.url)
    damaged._prefix = store._prefix
    with pytest.raises(errors.StoreUnavailable) as caught:
        damaged.read("a", 0, memoryview(bytearray(4 << 20)))
    assert damaged.is_transient(caught.value)


def test_ipv6_address_is_an_endpoint(opened):
    """An endpoint in brackets is an address: without a listener, the error says that."""
    with socket.socket(socket.AF_INET6) as free:
        free.bind(("::1", 0))
        port = free.getsockname()[1]
    with pytest.raises(errors.StoreUnavailable, match=r"\[::1\]"):
        opened(endpoint_url=f"http://[::1]:{port}").stat("a")
