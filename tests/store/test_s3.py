"""What can go wrong only in S3: servers with fewer features, wrong keys, odd answers, and the translation of errors."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import zlib

import pytest

from limited_s3 import LimitedS3, error_body, listing_body
from mlsync import errors
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.retry import RetryingStore
from mlsync.store.s3.transfer import SeekableBody

pytestmark = pytest.mark.slow


@pytest.fixture
def keys_in_environment(monkeypatch):
    """Some keys, for servers that look at none."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")


@pytest.fixture
def limited(keys_in_environment):
    """Open a store on a limited server, which stops at the end of the test."""
    opened = []

    def start(**limits):
        server = LimitedS3(**limits)
        server.start()
        store = open_store("s3://bucket", StoreOptions(endpoint_url=server.endpoint_url))
        opened.append((store, server))
        return store, server

    yield start
    for store, server in opened:
        store.close()
        server.stop()


def test_real_server_has_conditional_create(s3_url, s3_options):
    """The probe finds that SeaweedFS refuses to overwrite, and leaves no object."""
    store = open_store(s3_url, s3_options)
    assert store.probe()
    assert list(store.list("")) == []
    store.close()


@pytest.mark.parametrize(("condition", "has_it"), [("works", True), ("ignored", False), ("501", False)])
def test_probe_finds_what_the_server_makes_of_the_condition(limited, condition, has_it):
    """Two puts tell servers apart that respect, ignore or do not support the condition."""
    store, server = limited(condition=condition)
    assert store.probe() is has_it
    assert store.conditional_create is has_it
    assert server.objects == {}
    store.put("a", b"first")
    with pytest.raises(errors.AlreadyExists):
        store.put("a", b"second")
    assert server.objects["a"] == b"first"


def test_probe_gets_by_without_the_right_to_delete(limited):
    """With append-only credentials each probe leaves the same one object."""
    deny = lambda method, _path: (403, {}, error_body("AccessDenied")) if method == "DELETE" else None  # noqa: E731
    store, server = limited(answer=deny)
    assert store.probe()
    assert store.probe()
    assert list(server.objects) == ["probe"]


def test_server_that_does_not_know_the_condition_is_looked_at_first(limited):
    """Without a probe, the first 501 makes the store look before each create."""
    store, server = limited(condition="501")
    store.put("a", b"x")
    assert [method for method, _, _ in server.requests] == ["PUT", "HEAD", "PUT"]
    server.requests.clear()
    store.put("b", b"x")
    assert [method for method, _, _ in server.requests] == ["HEAD", "PUT"]


def test_body_is_neither_signed_nor_summed_unless_it_is_asked_for(limited):
    """By default bodies have UNSIGNED-PAYLOAD and no 100-continue; a part has its CRC-32, a put its MD5."""
    store, server = limited()
    store.put("a", b"x")
    with contextlib.suppress(KeyError):  # the limited server's answer has no tag
        store.send_part("b", "upload", 1, b"part")
    of_put, of_part = ({name.lower(): value for name, value in headers.items()} for _, _, headers in server.requests)
    assert of_put.pop("content-md5") == base64.b64encode(hashlib.md5(b"x").digest()).decode()
    crc32 = zlib.crc32(b"part").to_bytes(4, "big")
    assert of_part.pop("x-amz-checksum-crc32") == base64.b64encode(crc32).decode()
    for names in (of_put, of_part):
        assert names["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
        assert not [name for name in names if name.startswith("x-amz-checksum") or name in ("content-md5", "expect")]


def test_body_is_signed_and_summed_where_it_is_asked_for(s3_url, s3_options):
    """With payload_signing = always a real server accepts puts and parts, and returns the same bytes."""
    options = StoreOptions(endpoint_url=s3_options.endpoint_url, region=s3_options.region, payload_signing="always")
    store = open_store(s3_url, options)
    part = os.urandom(store.part_bytes)
    upload = store.upload("large")
    upload.write(0, part)
    upload.write(len(part), b"tail")
    upload.finish(len(part) + 4)
    store.put("small", memoryview(b"body"))
    store.put("empty", b"")
    content = bytearray(len(part) + 4)
    store.read("large", 0, memoryview(content))
    assert content == part + b"tail"
    assert store.get("small", limit_bytes=9) == b"body"
    store.close()


def test_small_object_is_read_from_a_server_without_ranges(limited):
    """If the server ignores ranges, a small object is cut to the requested bytes."""
    store, server = limited(has_ranges=False)
    server.objects["a"] = body = os.urandom(1 << 20)
    into = bytearray(1000)
    store.read("a", 500_000, memoryview(into))
    assert into == body[500_000:501_000]
    with pytest.raises(errors.StoreBroken, match="ends before"):
        store.read("a", len(body) - 1, memoryview(bytearray(2)))


def test_large_object_of_a_server_without_ranges_is_refused(limited):
    """A server that would send a whole pack for each read is refused."""
    store, server = limited(has_ranges=False)
    server.objects["a"] = bytes(10 << 20)
    with pytest.raises(errors.StoreBroken, match="ignores ranges") as caught:
        store.read("a", 0, memoryview(bytearray(10)))
    assert "range requests" in str(caught.value)


@pytest.mark.parametrize("content_range", ["bytes 1-9/100", "bytes 1-10/100", "bytes 0-99/100", "nonsense"])
def test_other_range_than_asked_for_is_refused(limited, content_range):
    """Bytes from another range of the object are never accepted."""
    answer = (206, {"Content-Range": content_range}, bytes(10))
    store, _ = limited(answer=lambda _method, _path: answer)
    with pytest.raises(errors.StoreBroken, match="another range"):
        store.read("a", 0, memoryview(bytearray(10)))


@pytest.mark.parametrize("sent_bytes", [0, 1, 500_000])
def test_body_that_is_cut_is_tried_again(limited, sent_bytes):
    """A connection that ends inside a body is transient, for read and get, and the next try succeeds."""
    body = os.urandom(1_000_000)
    cut = {"Content-Length": str(len(body)), "Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"}
    left = [2]

    def answer(method, _path):
        left[0] -= method == "GET"
        return (206, cut, body[:sent_bytes]) if method == "GET" and left[0] >= 0 else None

    store, server = limited(answer=answer)
    server.objects["a"] = body
    into = bytearray(len(body))
    for call in (
        lambda store: store.read("a", 0, memoryview(into)),
        lambda store: store.get("a", limit_bytes=len(body)),
    ):
        left[0] = 1
        with pytest.raises(errors.StoreUnavailable) as caught:
            call(store)
        assert store.is_transient(caught.value)
        left[0] = 2
        into[:] = bytes(len(into))
        assert call(RetryingStore(store, sleep=lambda _: None)) in (None, body)
    left[0] = 1
    RetryingStore(store, sleep=lambda _: None).read("a", 0, memoryview(into))
    assert into == body


@pytest.mark.parametrize(
    "page",
    [
        listing_body(["b", "a"]),
        listing_body(["a", "a"]),
        listing_body(["a"], is_truncated=True),
        listing_body(["a"], key_count=2),
        listing_body(["a"], is_truncated=True, token="same"),
    ],
    ids=["unordered", "double", "no token", "fewer than said", "never ends"],
)
def test_listing_that_contradicts_itself_is_refused(limited, page):
    """A listing that is out of order, or cannot be continued, raises instead of ending early."""
    store, _ = limited(answer=lambda _method, _path: (200, {}, page))
    with pytest.raises(errors.StoreBroken):
        list(store.list(""))


def test_foreign_objects_are_not_listed(limited):
    """Objects whose names are not keys are not listed."""
    store, server = limited()
    server.objects.update({"README.txt": b"", "packs/": b"", "packs/ab": b"x", "tmp/x": b""})
    assert [info.key for info in store.list("")] == ["packs/ab"]


@pytest.mark.parametrize(
    ("status", "code", "kind", "is_transient"),
    [
        (500, "InternalError", errors.StoreUnavailable, True),
        (503, "SlowDown", errors.StoreUnavailable, True),
        (503, "ServiceUnavailable", errors.StoreUnavailable, True),
        (429, "TooManyRequests", errors.StoreUnavailable, True),
        (400, "RequestTimeout", errors.StoreUnavailable, True),
        (400, "BadDigest", errors.StoreUnavailable, True),
        (502, "", errors.StoreUnavailable, True),
        (403, "AccessDenied", errors.StoreDenied, False),
        (403, "InvalidAccessKeyId", errors.StoreDenied, False),
        (403, "SignatureDoesNotMatch", errors.StoreDenied, False),
        (403, "RequestTimeTooSkewed", errors.StoreDenied, False),
        (400, "ExpiredToken", errors.StoreDenied, False),
        (403, "", errors.StoreDenied, False),
        (404, "NoSuchBucket", errors.StoreLocationInvalid, False),
        (412, "PreconditionFailed", errors.AlreadyExists, False),
        (409, "ConditionalRequestConflict", errors.AlreadyExists, False),
        (507, "InsufficientStorage", errors.StoreFull, False),
        (403, "QuotaExceeded", errors.StoreFull, False),
        (400, "InvalidRequest", errors.StoreBroken, False),
        (418, "Teapot", errors.StoreBroken, False),
    ],
)
def test_answer_of_the_server_becomes_one_of_our_errors(limited, status, code, kind, is_transient):
    """Each answer to a put becomes an error of its class that names key and server, transient or not."""
    body = error_body(code) if code else b"<html>no S3</html>"
    store, server = limited(answer=lambda method, _path: (status, {}, body) if method == "PUT" else None)
    server.objects["a"] = b"theirs"
    with pytest.raises(kind) as caught:
        store.put("a", b"x")
    assert type(caught.value) is kind
    assert store.is_transient(caught.value) is is_transient
    assert "s3://bucket/a at 127.0.0.1:" in str(caught.value)
    assert [method for method, _, _ in server.requests].count("PUT") == 1


def test_conflict_without_a_winner_is_tried_again(limited):
    """If two creates stopped each other and left nothing, the error is transient."""
    conflict = (409, {}, error_body("ConditionalRequestConflict"))
    store, _ = limited(answer=lambda method, _path: conflict if method == "PUT" else None)
    with pytest.raises(errors.StoreUnavailable) as caught:
        store.put("a", b"x")
    assert store.is_transient(caught.value)


def test_lost_answer_of_a_put_is_no_failure(limited):
    """If the object was created and the answer was 500, the retry is refused and put succeeds."""
    server_of = []

    def answer(method, _path):
        server = server_of[0]
        if method == "PUT" and not server.objects:
            server.objects["a"] = b"body"
            return 500, {}, error_body("InternalError")
        return None

    store, server = limited(answer=answer)
    server_of.append(server)
    RetryingStore(store, sleep=lambda _: None).put("a", b"body")
    assert server.objects == {"a": b"body"}


def test_server_that_is_away_is_unavailable(keys_in_environment):
    """A refused connection is a transient StoreUnavailable that names the endpoint."""
    gone = LimitedS3()
    gone.start()
    endpoint_url = gone.endpoint_url
    gone.stop()
    store = open_store("s3://bucket/x", StoreOptions(endpoint_url=endpoint_url))
    with pytest.raises(errors.StoreUnavailable) as caught:
        store.stat("a")
    assert store.is_transient(caught.value)
    assert endpoint_url.removeprefix("http://") in str(caught.value)
    store.close()


def test_wrong_secret_is_denied_by_a_real_server(s3_url, s3_options, monkeypatch):
    """SeaweedFS refuses the signature, and the message says what to check, without the secret."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim-und-falsch")
    store = open_store(s3_url, s3_options)
    with pytest.raises(errors.StoreDenied, match="secret key") as caught:
        store.put("a", b"x")
    assert "geheim" not in str(caught.value)
    store.close()


def test_missing_keys_are_denied_before_anything_is_sent(s3_url, s3_options, monkeypatch):
    """Without credentials the message names the two variables."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = open_store(s3_url, s3_options)
    with pytest.raises(errors.StoreDenied, match="AWS_ACCESS_KEY_ID"):
        store.put("a", b"x")
    store.close()


def test_missing_bucket_is_no_missing_object(s3_options):
    """A listing or get in a missing bucket says that the bucket is missing."""
    store = open_store("s3://no-such-bucket-anywhere/x", s3_options)
    for call in (lambda: list(store.list("")), lambda: store.get("a", limit_bytes=1), lambda: store.put("a", b"")):
        with pytest.raises(errors.StoreLocationInvalid, match="bucket"):
            call()
    store.close()


def test_seekable_body_reads_like_a_file():
    """A body can be read in pieces, from any position, repeatedly, without copies."""
    source = bytearray(b"0123456789")
    body = SeekableBody(memoryview(source))
    assert len(body) == 10
    assert bytes(body.read(3)) == b"012"
    assert body.tell() == 3
    assert bytes(body.read()) == b"3456789"
    assert body.read(1) == b""
    assert body.seek(-2, os.SEEK_END) == 8
    source[8] = ord("X")
    assert bytes(body.read(-1)) == b"X9"
    assert body.seek(0) == 0
