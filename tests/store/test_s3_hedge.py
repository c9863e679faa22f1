"""Straggling reads: a second request reads the bytes, and the first keeps no buffer, thread or connection."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fault_proxy import Fault
from mlsync import errors
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.s3 import hedge as s3_hedge
from mlsync.store.s3.connection import CancellableCall

# What is silent for 30 s is cut anyway: a test that waited for that has shown nothing.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(20)]

OBJECT_BYTES = 2 << 20
BODY = random.Random(7).randbytes(OBJECT_BYTES)
# What the first request of a read is answered after the reads before were quick: nothing, half of it, very slowly.
STRAGGLERS = ("stall", "stall-answer", "throttle-answer")


@pytest.fixture
def soon(monkeypatch):
    """A read straggles after fractions of a second."""
    monkeypatch.setattr(s3_hedge, "STRAGGLES_AFTER_S", 0.2)
    monkeypatch.setattr(s3_hedge, "STRAGGLES_TIMES", 2.0)
    monkeypatch.setattr(s3_hedge, "_WATCH_EVERY_S", 0.02)


@pytest.fixture
def opened(proxy, s3_server, s3_url, soon):
    """A store behind the proxy with one object; four reads say what is usual."""
    proxy.reset()
    store = open_store(s3_url, StoreOptions(endpoint_url=proxy.url, region=s3_server.region))
    store.put("a/object", BODY)
    for _ in range(4):
        assert content_of(store) == BODY
    yield store
    proxy.cut_all()
    store.close()


def content_of(store):
    """The object, by a ranged read."""
    content = bytearray(OBJECT_BYTES)
    store.read("a/object", 0, memoryview(content))
    return bytes(content)


def wait_until(is_so):
    """Whether it came to be so within the time that a loaded machine may take."""
    ends_s = time.monotonic() + 20
    while not is_so() and time.monotonic() < ends_s:
        time.sleep(0.01)
    return is_so()


def threads_of_hedges():
    """Names of the threads that hedges take."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mlsync-hedge")]


@pytest.mark.parametrize("kind", STRAGGLERS)
def test_second_request_brings_what_the_first_does_not(proxy, opened, kind):
    """A second request completes a read whose connection stalls or trickles; the next read needs only one."""
    proxy.reset(Fault(kind, "GetObject"))
    assert content_of(opened) == BODY
    assert proxy.count("GetObject") == 2
    assert content_of(opened) == BODY
    assert proxy.count("GetObject") == 3
    assert opened._reads.hedge_count == 1


@pytest.mark.parametrize("kind", ["stall", "stall-answer"])
def test_abandoned_request_keeps_nothing(proxy, opened, kind):
    """When the read returns, only the caller uses the buffer, and the connection and threads are gone."""
    proxy.reset(Fault(kind, "GetObject"))
    content = bytearray(OBJECT_BYTES)
    opened.read("a/object", 0, memoryview(content))
    content[:] = bytes(OBJECT_BYTES)
    assert wait_until(lambda: not threads_of_hedges())
    assert content == bytes(OBJECT_BYTES)
    assert not opened._reads._under_way


def test_hedge_that_stalls_too_is_cut_when_the_first_is_complete(proxy, opened):
    """If the first request completes after all, the hedge is cut and its thread ends."""
    proxy.reset(Fault("throttle-answer", "GetObject"), Fault("stall-answer", "GetObject"))
    assert content_of(opened) == BODY
    assert proxy.count("GetObject") == 2
    assert wait_until(lambda: not threads_of_hedges())


def test_error_is_that_of_the_first_request(proxy, opened, monkeypatch):
    """The error of a hedge is ignored; the caller gets the first request's."""
    heard = []
    fetch = opened._fetch

    def fetched(key, offset, into):
        try:
            fetch(key, offset, into)
        except errors.StoreError as error:
            heard.append(type(error))
            raise

    monkeypatch.setattr(opened._reads, "_fetch", fetched)
    proxy.reset(Fault("late 503", "GetObject"), Fault("403 skewed", "GetObject"))
    with pytest.raises(errors.StoreUnavailable, match="SlowDown"):
        content_of(opened)
    assert heard == [errors.StoreDenied, errors.StoreUnavailable]


def test_whole_store_that_becomes_slow_is_not_asked_twice(proxy, opened):
    """If every read straggles at once, there are one or two hedges and no more."""
    proxy.reset(Fault("late", "GetObject", times=1000))
    with ThreadPoolExecutor(8) as readers:
        assert all(content == BODY for content in readers.map(lambda _: content_of(opened), range(24)))
    assert 1 <= opened._reads.hedge_count <= 3
    assert proxy.count("GetObject") == 24 + opened._reads.hedge_count


def test_store_that_was_always_slow_gets_no_second_request(proxy, s3_server, s3_url, soon):
    """If all reads take equally long, none straggles."""
    proxy.reset(Fault("late", "GetObject", times=1000))
    store = open_store(s3_url, StoreOptions(endpoint_url=proxy.url, region=s3_server.region))
    store.put("a/object", BODY)
    with ThreadPoolExecutor(4) as readers:
        assert all(content == BODY for content in readers.map(lambda _: content_of(store), range(12)))
    assert store._reads.hedge_count == 0
    store.close()


def test_nobody_watches_where_nothing_is_read(opened):
    """Without reads there is no watching thread."""
    assert wait_until(lambda: not threads_of_hedges())
    content_of(opened)
    assert wait_until(lambda: not threads_of_hedges())


def test_call_whose_connection_is_another_requests_by_now_cuts_nobody(proxy, opened):
    """Cutting a finished call does not hit the request that uses its connection now."""
    with CancellableCall() as call, ThreadPoolExecutor(1) as other:
        opened.stat("a/object")
        proxy.reset(Fault("late", "HeadObject"))
        answer = other.submit(opened.stat, "a/object")
        assert wait_until(lambda: proxy.count("HeadObject"))
        call.cut()
        assert answer.result().size_bytes == OBJECT_BYTES
