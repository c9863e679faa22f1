"""Messages of a store that refuses access: a test produces every line of the table in docs/s3.md and compares it."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from certificate import write_certificate
from fault_proxy import Fault
from limited_s3 import LimitedS3
from mlsync import errors
from mlsync.store.location import StoreOptions, open_store

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs" / "s3.md"
ROW = re.compile(r"^\| (?P<matter>[^|]+) \| (?P<status>\d+) \| `(?P<says>[^`]+)` \|$", re.MULTILINE)
TABLE = {row["matter"]: (int(row["status"]), row["says"]) for row in ROW.finditer(DOCUMENT.read_text())}


class RefusingProxy:
    """An HTTP proxy that answers everything with *status*, and wants a password if that is 407."""

    def __init__(self, status):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_PUT(self):
                self.do_GET()

            def do_CONNECT(self):
                self.do_GET()

            def log_message(self, *_arguments):
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.host = f"127.0.0.1:{self._server.server_port}"

    def stop(self):
        """Refuse connections."""
        self._server.shutdown()
        self._server.server_close()


class TlsServer:
    """A server with a certificate that nobody knows; it gets no further than that."""

    def __init__(self, directory):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*write_certificate(directory))
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, contextlib.suppress(OSError):
                    self._context.wrap_socket(client, server_side=True).close()

    def stop(self):
        """Accept no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def opened(s3_url, s3_server):
    """Open a store, of the test server unless it is told otherwise."""
    stores = []

    def open_it(url=s3_url, **options):
        values = {"endpoint_url": s3_server.endpoint_url, "region": s3_server.region} | options
        stores.append(open_store(url, StoreOptions(**values)))
        return stores[-1]

    yield open_it
    for store in stores:
        store.close()


@pytest.fixture
def refusing():
    """Make refusing proxies."""
    proxies = []

    def make(status):
        proxies.append(RefusingProxy(status))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.stop()


@pytest.fixture
def held(s3_server, opened, monkeypatch):
    """Hold what a call says against the line of the table."""

    def hold(matter, call):
        status, says = TABLE[matter]
        with pytest.raises(errors.StoreError) as caught:
            call()
        text = str(caught.value)
        assert re.fullmatch(".+".join(re.escape(part) for part in says.split("…")), text), text
        assert caught.value.exit_code == status
        HELD.add(matter)

    return hold


HELD: set[str] = set()


def put(store):
    """A call for which every right but that to list and to read is needed."""
    return lambda: store.put("a/object", b"body")


def lacking(s3_server, monkeypatch, right):
    """Go by keys that lack a right."""
    if not s3_server.lacking:
        pytest.skip("the server's keys are not ours to make")
    access_key, secret_key = s3_server.lacking[right]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)


def test_no_keys(held, opened, monkeypatch):
    """Without keys the message names what to set."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    held("no keys found", put(opened()))


def test_wrong_key_id(held, opened, monkeypatch):
    """The real server does not know the key id."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
    held("wrong key id", put(opened()))


def test_wrong_secret(held, opened, monkeypatch):
    """The real server refuses the secret."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim-und-falsch")
    held("wrong secret key", put(opened()))


def test_expired_keys(held, opened, proxy):
    """Expired keys from the environment give the message."""
    proxy.reset(Fault("400 expired", times=10))
    held("expired temporary keys", put(opened(endpoint_url=proxy.url)))


def test_clock(held, opened, proxy):
    """A wrong clock gives the message if the server's time does not help."""
    proxy.reset(Fault("403 skewed", times=10))
    held("wrong clock, and the store's time does not help", put(opened(endpoint_url=proxy.url)))


def test_no_right_to_list(held, opened, s3_server, monkeypatch):
    """The real server refuses a listing to keys without that right."""
    lacking(s3_server, monkeypatch, "List")
    held("no right to list", lambda: list(opened().list("a/")))


def test_no_right_to_write(held, opened, s3_server, monkeypatch):
    """The real server refuses a new object to keys without that right."""
    lacking(s3_server, monkeypatch, "Write")
    held("no right to write", put(opened()))


def test_no_right_to_read(held, opened, s3_server, monkeypatch):
    """The real server refuses an object to keys without that right, and its size."""
    opened().put("a/object", b"body")
    lacking(s3_server, monkeypatch, "Read")
    store = opened()
    held("no right to read", lambda: store.get("a/object", limit_bytes=4))
    held("no right to see whether an object exists", lambda: store.stat("a/object"))


def test_answers_about_one_object(held, opened, proxy):
    """An archived object, an unknown answer and a contradiction have three different messages."""
    proxy.reset()
    store = opened(endpoint_url=proxy.url)
    store.put("a/object", b"body")
    proxy.reset(Fault("403 cold", "GetObject"), Fault("501", "GetObject"), Fault("416", "GetObject"))
    held("the object is in cold storage", lambda: store.get("a/object", limit_bytes=4))
    held("unknown answer", lambda: store.get("a/object", limit_bytes=4))
    held("the store does not return an object that it has", lambda: store.read("a/object", 0, memoryview(bytearray(4))))


def test_other_form(held, opened):
    """A store that wants the bucket's name in the host name gives the message if the path was asked for."""
    server = LimitedS3(wants_host=True)
    server.start()
    try:
        store = opened("s3://bucket/runs", endpoint_url=server.endpoint_url, addressing="path")
        held("the server wants the bucket's name in the host name, and `addressing` is `path`", put(store))
    finally:
        server.stop()


def test_other_region(held, opened):
    """The message names the region that the store states; an upload, whose body is spent, is retried."""
    body = b"<Error><Code>PermanentRedirect</Code><Message>Use the other endpoint.</Message></Error>"
    server = LimitedS3(answer=lambda *_: (301, {"x-amz-bucket-region": "eu-west-1"}, body))
    server.start()
    try:
        store = opened("s3://bucket/runs", endpoint_url=server.endpoint_url)
        held("the bucket is in another region", lambda: store.get("a/object", limit_bytes=4))
        held("the same, during an upload", put(store))
    finally:
        server.stop()


def test_missing_bucket(held, opened):
    """The real server does not have the bucket."""
    held("the bucket is missing", put(opened("s3://no-such-bucket-anywhere/runs")))


def test_unknown_certificate(held, opened, tmp_path):
    """A certificate of an unknown authority gives the message."""
    server = TlsServer(tmp_path)
    held("the certificate's authority is unknown", put(opened(endpoint_url=server.url)))
    server.stop()


def test_proxy_wants_a_password(held, opened, refusing, monkeypatch):
    """A proxy that wants a password is named, for http and https, without its password."""
    proxy = refusing(407)
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}")
    monkeypatch.setenv("HTTPS_PROXY", f"http://somebody:geheim@{proxy.host}")
    held("the proxy wants a password (http)", put(opened(endpoint_url="http://s3.example.com")))
    held("the proxy wants a password (https)", put(opened(endpoint_url="https://s3.example.com")))
    with pytest.raises(errors.StoreError) as caught:
        opened(endpoint_url="https://s3.example.com").stat("a")
    assert "geheim" not in str(caught.value)


def test_proxy_refuses(held, opened, refusing, monkeypatch):
    """A refusing proxy is named if it can be told from the store."""
    proxy = refusing(403)
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}")
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")
    held("the proxy refuses (http)", put(opened(endpoint_url="http://s3.example.com")))
    held("the proxy refuses (https)", put(opened(endpoint_url="https://s3.example.com")))
    proxy.stop()
    held("the proxy is unavailable", put(opened(endpoint_url="https://s3.example.com")))


def test_unknown_host(held, opened):
    """An unknown host name has another message than a host that does not answer."""
    held("unknown host", put(opened(endpoint_url="http://no-such-host.invalid:9000")))


def test_closed_port(held, opened):
    """A port without a listener gives the message."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    held("closed port", put(opened(endpoint_url=f"http://127.0.0.1:{port}")))


def test_every_line_of_the_table_was_held(s3_server):
    """The tests of this file, of which this is the last, produce every line of the table."""
    if not s3_server.lacking:
        pytest.skip("the server's keys are not ours to make")
    assert TABLE.keys() == HELD
