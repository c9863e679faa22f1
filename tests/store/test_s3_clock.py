"""A machine with a wrong clock: signatures use the server's time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import botocore.auth
import pytest

from fault_proxy import Fault, FaultProxy
from mlsync import errors
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.retry import RetryingStore
from mlsync.store.s3 import clock as s3_clock


@pytest.fixture
def wrong_clock(monkeypatch):
    """Set the clock that botocore signs by, and that the store goes by, off by some seconds."""

    def set_ahead(ahead_s):
        monkeypatch.setattr(
            botocore.auth, "get_current_datetime", lambda *_: datetime.now(UTC) + timedelta(seconds=ahead_s)
        )
        monkeypatch.setattr(s3_clock.time, "time", lambda real=time.time: real() + ahead_s)

    return set_ahead


@pytest.fixture
def store(s3_url, s3_options):
    """A store of its own client, which keeps what it learned of the clock, that tries nothing twice."""
    store = open_store(s3_url, s3_options)
    yield store
    store.close()


@pytest.mark.parametrize("ahead_s", [-86_400.0, -1200.0, 1200.0, 365 * 86_400.0])
def test_a_wrong_clock_is_corrected(store, wrong_clock, ahead_s):
    """A clock that is wrong by minutes or a year costs one refused request, of any kind, and no backup."""
    wrong_clock(ahead_s)
    with pytest.raises(errors.StoreDenied) as caught:
        store.get("a/one", limit_bytes=9)
    assert store.is_transient(caught.value)
    retrying = RetryingStore(store, sleep=lambda _: None)
    retrying.put("a/one", b"body")
    upload = retrying.upload("a/two")
    upload.write(0, bytes(store.part_bytes))
    upload.write(store.part_bytes, b"rest")
    upload.finish(store.part_bytes + 4)
    assert retrying.get("a/one", limit_bytes=9) == b"body"
    assert [info.key for info in retrying.list("")] == ["a/one", "a/two"]


def test_a_refused_head_is_answered_by_the_read_that_asks_for_its_reason(store, wrong_clock):
    """If the first request is a HEAD, the read that follows its refusal is signed by the right time already."""
    wrong_clock(1200.0)
    with pytest.raises(errors.NotFound):
        store.stat("a/one")
    assert store._client.clock.ahead_s != 0.0


def test_a_right_clock_is_left_alone(store):
    """With a right clock botocore signs as usual, and a refusal stays a refusal."""
    store.put("a/one", b"body")
    assert store._client.clock.ahead_s == 0.0


def test_a_server_that_goes_on_refusing_is_not_asked_for_ever(s3_process, s3_server, s3_url):
    """A refusal because of the time, although the times agree, is an error."""
    proxy = FaultProxy(s3_process.endpoint_url)
    url = proxy.start()
    store = open_store(s3_url, StoreOptions(endpoint_url=url, region=s3_server.region))
    proxy.reset(Fault("403 skewed", times=1000))
    with pytest.raises(errors.StoreDenied, match="clock"):
        RetryingStore(store, sleep=lambda _: None).get("a/one", limit_bytes=9)
    assert proxy.count("GetObject") == 1
    store.close()
    proxy.stop()
