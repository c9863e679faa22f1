"""Failing networks and servers: each operation of S3 fails in each way, and the result is still right."""

from __future__ import annotations

import random

import pytest

from fault_proxy import ANSWERS, Fault, FaultProxy
from mlsync import errors
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.retry import RetryingStore
from mlsync.store.s3 import client
from mlsync.store.s3 import store as s3

pytestmark = pytest.mark.slow

PART_BYTES = 5 << 20
SMALL = random.Random(1).randbytes(300_000)
LARGE = random.Random(2).randbytes(2 * PART_BYTES + 1234)
# Without a request's body, or an answer's, there is nothing to cut in the middle.
WITHOUT_BODY = {"ListObjectsV2", "ListParts", "ListMultipartUploads", "GetObject", "HeadObject", "DeleteObject"}
BEFORE = ("reset", "stall", "delay", "500", "503", "429", "502 page")
DURING = ("cut-request", "stall-request", "throttle-request")
AFTER = ("lost-answer", "cut-answer", "stall-answer", "throttle-answer")


@pytest.fixture(scope="module")
def impatient_client():
    """Makes clients that wait for a second at most: once for all tests, since making one takes half a second."""
    clients = {}

    def client_of(options, place):
        if options not in clients:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(client, "_READ_TIMEOUT_S", 1)
                patch.setattr(client, "_CONNECT_TIMEOUT_S", 1)
                clients[options] = REAL_CLIENT(options, place)
        return clients[options]

    return client_of


REAL_CLIENT = client.make_client


@pytest.fixture
def bare(proxy, s3_server, s3_url, impatient_client, monkeypatch):
    """A store behind the proxy that tries nothing twice."""
    monkeypatch.setattr(s3, "PART_BYTES", PART_BYTES)
    monkeypatch.setattr(client, "make_client", impatient_client)
    proxy.reset()
    return open_store(s3_url, StoreOptions(endpoint_url=proxy.url, region=s3_server.region))


@pytest.fixture
def store(bare):
    """The store that tries again, and does not wait for it."""
    return RetryingStore(bare, sleep=lambda _: None)


def upload(store, key, body=LARGE):
    """Upload in parts."""
    upload = store.upload(key)
    try:
        for offset in range(0, len(body), PART_BYTES):
            upload.write(offset, memoryview(body)[offset : offset + PART_BYTES])
        upload.finish(len(body))
    finally:
        upload.abort()


def content_of(store, key, size_bytes):
    """All of an object, by a ranged read."""
    content = bytearray(size_bytes)
    store.read(key, 0, memoryview(content))
    return bytes(content)


def put(store):
    store.put("a/small", SMALL)
    assert content_of(store, "a/small", len(SMALL)) == SMALL


def put_large(store):
    upload(store, "a/large")
    assert content_of(store, "a/large", len(LARGE)) == LARGE
    return store.remove_stale_uploads(-3600.0)


def resume(store):
    begun = store.upload("a/resumed")
    begun.write(0, LARGE[:PART_BYTES])
    resumed = store.resume("a/resumed", begun.resume_token())
    resumed.write(PART_BYTES, b"rest")
    resumed.finish(PART_BYTES + 4)
    assert content_of(store, "a/resumed", PART_BYTES + 4) == LARGE[:PART_BYTES] + b"rest"


def abandon(store):
    upload = store.upload("a/abandoned")
    upload.write(0, LARGE[:PART_BYTES])
    store.remove_stale_uploads(-3600.0)
    assert store.remove_stale_uploads(-3600.0) == 0


def look(store):
    store.put("a/one", SMALL)
    store.put("a/two", b"")
    assert [(info.key, info.size_bytes) for info in store.list("a/")] == [("a/one", len(SMALL)), ("a/two", 0)]
    assert store.stat("a/one").size_bytes == len(SMALL)
    assert store.get("a/one", limit_bytes=len(SMALL)) == SMALL
    store.delete("a/one")
    assert [info.key for info in store.list("a/")] == ["a/two"]


WORK = {
    "PutObject": put,
    "GetObject": put,
    "CreateMultipartUpload": put_large,
    "UploadPart": put_large,
    "CompleteMultipartUpload": put_large,
    "ListParts": resume,
    "ListMultipartUploads": abandon,
    "AbortMultipartUpload": abandon,
    "ListObjectsV2": look,
    "HeadObject": look,
    "DeleteObject": look,
}
CASES = [
    (operation, kind)
    for operation in WORK
    for kind in (*BEFORE, *DURING, *AFTER)
    if kind not in DURING or operation not in WITHOUT_BODY | {"AbortMultipartUpload", "CreateMultipartUpload"}
]


@pytest.mark.parametrize(("operation", "kind"), CASES)
def test_a_fault_that_passes_is_not_noticed(proxy, store, operation, kind):
    """After one failure of any operation the work is complete: whole objects, each once, nothing left over."""
    proxy.reset(Fault(kind, operation))
    left_count = WORK[operation](store) or 0
    # remove_stale_uploads finds an upload whose id was lost on the way.
    assert left_count <= (operation == "CreateMultipartUpload" and kind in AFTER)
    assert store.remove_stale_uploads(-3600.0) == 0
    assert any(fault.matched_count for fault in proxy.faults), "the fault met nothing"


LASTING = [
    *((operation, "reset") for operation in WORK),
    *(("PutObject", kind) for kind in ANSWERS),
    *(("GetObject", kind) for kind in ("cut-answer", "stall-answer", "500", "403 skewed", "400 expired")),
    ("UploadPart", "cut-request"),
    ("UploadPart", "stall-request"),
    ("CompleteMultipartUpload", "503"),
    ("ListObjectsV2", "cut-answer"),
]


@pytest.mark.parametrize(("operation", "kind"), LASTING)
def test_a_fault_that_stays_is_the_right_error(proxy, bare, operation, kind):
    """A lasting failure ends in the right store error, and never looks like success."""
    tries = 3
    store = RetryingStore(bare, sleep=lambda _: None, tries_max=tries)
    proxy.reset(Fault(kind, operation, times=1000))
    is_denied = kind in ("403 skewed", "400 expired")
    with pytest.raises(errors.StoreDenied if is_denied else errors.StoreUnavailable) as caught:
        WORK[operation](store)
    assert caught.value.where
    assert proxy.count(operation) == (1 if is_denied else tries)
    proxy.reset()


@pytest.mark.parametrize("operation", ["PutObject", "CompleteMultipartUpload"])
def test_lost_answer_of_a_create_ends_with_one_object(proxy, store, operation):
    """If the answer to a create is lost, the retry finds the object and succeeds."""
    proxy.reset(Fault("lost-answer", operation))
    WORK[operation](store)
    assert len(list(store.list(""))) == 1


def test_a_bit_that_flips_in_a_small_object_is_refused_by_the_server(proxy, store):
    """Small objects (manifests) have a checksum, so the server stores them undamaged or not at all."""
    proxy.reset(Fault("flip-request", "PutObject"))
    put(store)
    assert proxy.count("PutObject") == 2


def test_a_pause_that_the_server_asks_for_is_told(proxy, bare):
    """The error carries the answer's Retry-After."""
    proxy.reset(Fault("429", "HeadObject"))
    with pytest.raises(errors.StoreUnavailable) as caught:
        bare.stat("a/one")
    assert caught.value.retry_after_s == 1.0


def test_refused_connections_are_a_store_that_is_away(bare, s3_process, s3_url):
    """A port without a listener is StoreUnavailable."""
    proxy = FaultProxy(s3_process.endpoint_url)
    url = proxy.start()
    proxy.stop()
    away = RetryingStore(open_store(s3_url, StoreOptions(endpoint_url=url)), sleep=lambda _: None, tries_max=2)
    with pytest.raises(errors.StoreUnavailable, match="2 tries"):
        away.stat("a/one")
