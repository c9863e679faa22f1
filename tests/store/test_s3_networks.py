"""Networks between mlsync and an S3 server: IPv6, a proxy, a private authority."""

from __future__ import annotations

import os
import uuid
from urllib.parse import urlsplit

import pytest
from msgspec.structs import replace

from mlsync.errors import StoreUnavailable
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.s3 import store as s3
from tunnel_proxy import TunnelProxy

pytestmark = pytest.mark.slow

PART_BYTES = 5 << 20


@pytest.fixture
def tunnel():
    """Start proxies, and stop them in the end."""
    started = []

    def start(**options):
        started.append(TunnelProxy(**options))
        started[-1].start()
        return started[-1]

    yield start
    for proxy in started:
        proxy.stop()


@pytest.fixture
def https_server(secure, monkeypatch):
    """A place at the server with https, how it is reached, and its certificate."""
    url, certificate, server, bucket = secure
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    options = StoreOptions(endpoint_url=url, region=server.region)
    return f"s3://{bucket}/ways/{uuid.uuid4().hex}", options, certificate


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Two parts are a multipart upload; and no proxy but the test's own."""
    monkeypatch.setattr(s3, "PART_BYTES", PART_BYTES)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def goes_and_comes_back(url, options):
    """Objects go up in parts and whole, are listed, and come back."""
    store = open_store(url, options)
    body = os.urandom(PART_BYTES + 100)
    upload = store.upload("large")
    upload.write(0, memoryview(body)[:PART_BYTES])
    upload.write(PART_BYTES, memoryview(body)[PART_BYTES:])
    upload.finish(len(body))
    store.put("small", b"small")
    into = bytearray(len(body))
    store.read("large", 0, memoryview(into))
    found = sorted(info.key for info in store.list(""))
    store.close()
    return into == body and found == ["large", "small"]


def test_ipv6(s3_url, s3_options, s3_server, tunnel):
    """An IPv6 address in brackets works as endpoint."""
    parts = urlsplit(s3_server.endpoint_url)
    way = tunnel(host="::1", server=(parts.hostname, parts.port))
    assert goes_and_comes_back(s3_url, replace(s3_options, endpoint_url=f"http://[::1]:{way.port}"))
    assert way.asked


def test_a_proxy_for_http(s3_url, s3_options, tunnel, monkeypatch):
    """HTTP_PROXY gets the requests, with whole addresses."""
    proxy = tunnel()
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    assert goes_and_comes_back(s3_url, s3_options)
    assert proxy.asked
    assert all(line.split()[1].startswith(f"{s3_options.endpoint_url}/") for line in proxy.asked)


def test_no_proxy(s3_url, s3_options, tunnel, monkeypatch):
    """Hosts in NO_PROXY are reached directly."""
    proxy = tunnel()
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert goes_and_comes_back(s3_url, s3_options)
    assert proxy.asked == []


def test_a_proxy_for_https(https_server, tunnel, monkeypatch):
    """HTTPS_PROXY gets a tunnel request, and sees nothing of the content."""
    proxy = tunnel()
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    url, options, certificate = https_server
    assert goes_and_comes_back(url, replace(options, ca_file=str(certificate)))
    assert {line.split()[0] for line in proxy.asked} == {"CONNECT"}


def test_an_authority_from_the_environment(https_server, monkeypatch):
    """AWS_CA_BUNDLE works like ca_file; without either the store refuses the server."""
    url, options, certificate = https_server
    with pytest.raises(StoreUnavailable, match="ca_file"):
        goes_and_comes_back(url, options)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    assert goes_and_comes_back(url, options)
