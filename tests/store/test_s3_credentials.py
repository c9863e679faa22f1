"""Keys from other sources than the environment: an instance's role, whose keys expire, and a profile."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mlsync import errors
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.retry import RetryingStore


class InstanceMetadata:
    """A cloud's metadata service (IMDSv2) that gives *keys* for so long."""

    def __init__(self, keys, lasts_s):
        self.keys = keys
        self.lasts_s = lasts_s
        self.given_count = 0
        self.is_down = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def stop(self):
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path, token):
        """Status and text for a path; without the token of version 2 nothing is told."""
        if self.is_down:
            return 503, ""
        if path.endswith("/api/token"):
            return 200, "the-token"
        if token != "the-token":
            return 401, ""
        if path.endswith("/security-credentials/"):
            return 200, "the-role"
        self.given_count += 1
        now = datetime.now(UTC)
        expires = now + timedelta(seconds=self.lasts_s)
        access_key, secret_key = self.keys
        return 200, json.dumps(
            {
                "Code": "Success",
                "Type": "AWS-HMAC",
                "LastUpdated": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "AccessKeyId": access_key,
                "SecretAccessKey": secret_key,
                "Token": "",
                "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )

    def _handler(self):
        metadata = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                status, text = metadata.answer(self.path, self.headers.get("X-aws-ec2-metadata-token"))
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_PUT(self):
                self.do_GET()  # the token is asked for so

            def log_message(self, *_arguments):
                """Say nothing."""

        return Handler


@pytest.fixture
def metadata(s3_process, monkeypatch):
    """The metadata service of this machine, and no other keys."""
    service = InstanceMetadata((s3_process.access_key, s3_process.secret_key), lasts_s=3600)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    monkeypatch.setenv("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "1")
    yield service
    service.stop()


@pytest.fixture
def opened(s3_process, s3_url):
    """Open a store without keys in the environment; who they are is asked when it is opened."""
    stores = []

    def open_it(**options):
        values = {"endpoint_url": s3_process.endpoint_url, "region": s3_process.region} | options
        stores.append(open_store(s3_url, StoreOptions(**values)))
        return stores[-1]

    yield open_it
    for store in stores:
        store.close()


def test_an_instances_role_opens_the_store(metadata, opened):
    """Without other keys the store uses the machine's role, and asks for it once."""
    store = opened()
    store.put("a", b"body")
    assert store.get("a", limit_bytes=9) == b"body"
    assert metadata.given_count == 1


def test_keys_that_expire_are_renewed(metadata, opened, monkeypatch):
    """Expired keys are renewed while the store is in use: an agent runs for weeks."""
    store = opened()
    store.put("a", b"body")
    assert metadata.given_count == 1
    metadata.lasts_s = 5 * 3600
    later = datetime.now(UTC) + timedelta(hours=2)
    monkeypatch.setattr(store._client.botocore._request_signer._credentials, "_time_fetcher", lambda: later)
    store.put("b", b"body")
    assert metadata.given_count == 2


def test_a_metadata_service_that_is_away_is_told_as_such(metadata, opened):
    """If no role is available, the error is that of missing keys, and says what to set."""
    metadata.is_down = True
    with pytest.raises((errors.StoreDenied, errors.StoreUnavailable)) as caught:
        RetryingStore(opened(), sleep=lambda _: None, tries_max=2).put("a", b"body")
    assert "AWS_ACCESS_KEY_ID" in str(caught.value) or "role" in str(caught.value)


def test_a_profile_opens_the_store(s3_process, opened, tmp_path, monkeypatch):
    """A named profile of ~/.aws is used, and a missing one is named in the error."""
    file = tmp_path / "credentials"
    file.write_text(
        f"[training]\naws_access_key_id = {s3_process.access_key}\naws_secret_access_key = {s3_process.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    store = opened(profile="training")
    store.put("a", b"body")
    assert [info.key for info in store.list("")] == ["a"]
    with pytest.raises(errors.StoreLocationInvalid, match="no-such-profile"):
        opened(profile="no-such-profile")
