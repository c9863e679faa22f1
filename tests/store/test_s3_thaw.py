"""How an S3 server says that an object is cold, and how it is asked to thaw one."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from limited_s3 import LimitedS3, error_body
from mlsync.errors import NotFound, StoreDenied, ThawRefused
from mlsync.store.location import StoreOptions, open_store

DAY_S = 86_400.0
MADE = {"Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT"}
UNTIL = 'ongoing-request="false", expiry-date="Fri, 04 Dec 2026 00:00:00 GMT"'
UNTIL_S = 1796342400.0
ARCHIVED = {"x-amz-storage-class": "INTELLIGENT_TIERING", "x-amz-archive-status": "DEEP_ARCHIVE_ACCESS"}


@pytest.fixture
def answering(monkeypatch):
    """A store on a server that answers each request as a test says."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    opened = []

    def start(status=200, headers=None, body=b""):
        server = LimitedS3(answer=lambda _method, _path: (status, headers or {}, body))
        server.start()
        store = open_store("s3://bucket", StoreOptions(endpoint_url=server.endpoint_url))
        opened.append((store, server))
        return store

    yield start
    for store, server in opened:
        store.close()
        server.stop()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, ("", False, False, None)),
        ({"x-amz-storage-class": "GLACIER_IR"}, ("GLACIER_IR", False, False, None)),
        ({"x-amz-storage-class": "GLACIER"}, ("GLACIER", True, False, None)),
        (
            {"x-amz-storage-class": "DEEP_ARCHIVE", "x-amz-restore": 'ongoing-request="true"'},
            ("DEEP_ARCHIVE", True, True, None),
        ),
        ({"x-amz-storage-class": "GLACIER", "x-amz-restore": UNTIL}, ("GLACIER", False, False, UNTIL_S)),
        (
            {"x-amz-storage-class": "GLACIER", "x-amz-restore": 'ongoing-request="false", expiry-date="soon"'},
            ("GLACIER", False, False, None),
        ),
        ({"x-amz-storage-class": "INTELLIGENT_TIERING"}, ("INTELLIGENT_TIERING", False, False, None)),
        (ARCHIVED, ("INTELLIGENT_TIERING/DEEP_ARCHIVE_ACCESS", True, False, None)),
        (
            ARCHIVED | {"x-amz-restore": 'ongoing-request="true"'},
            ("INTELLIGENT_TIERING/DEEP_ARCHIVE_ACCESS", True, True, None),
        ),
    ],
)
def test_what_a_head_says_of_cold_storage(answering, headers, expected):
    """Class, archived or not, being thawed or not, and until when a copy can be read."""
    info = answering(headers=MADE | headers).stat("packs/a")
    assert (info.storage_class, info.is_archived, info.is_thawing, info.thawed_until_s) == expected


@pytest.mark.parametrize(
    ("status", "code", "error", "words"),
    [
        (503, "GlacierExpeditedRetrievalNotAvailable", ThawRefused, "--thaw standard"),
        (501, "NotImplemented", ThawRefused, "the store's own tools"),
        (405, "MethodNotAllowed", ThawRefused, "the store's own tools"),
        (403, "AccessDenied", StoreDenied, "s3:RestoreObject"),
        (404, "NoSuchKey", NotFound, "no such object"),
    ],
)
def test_refusals_of_a_thaw_say_what_to_do(answering, status, code, error, words):
    """Each ends in an error of its own, which names the other tier, the tool or the right; none is worth a retry."""
    store = answering(status, {"Content-Type": "application/xml"}, error_body(code))
    with pytest.raises(error) as caught:
        store.thaw("packs/a", days=3, tier="expedited")
    assert words in str(caught.value)
    assert not store.is_transient(caught.value)


@pytest.mark.parametrize("code", ["RestoreAlreadyInProgress", "ObjectAlreadyInActiveTierError"])
def test_what_was_asked_for_before_is_no_error(answering, code):
    """Two machines may ask for one pack, and one may be thawed between a look and the request."""
    store = answering(409, {"Content-Type": "application/xml"}, error_body(code))
    assert not store.thaw("packs/a", days=3, tier="bulk")


def test_a_request_names_tier_and_days_and_no_days_where_none_are_allowed(answering, monkeypatch):
    """AWS refuses days for Intelligent-Tiering, and wants them for the other classes."""
    store = answering()
    sent = []
    monkeypatch.setattr(store._client, "call", lambda operation, arguments: sent.append((operation, arguments)))
    assert store.thaw("packs/a", days=3, tier="expedited")
    assert store.thaw("packs/b", days=None, tier="bulk")
    assert [operation for operation, _ in sent] == ["restore_object"] * 2
    assert [arguments["RestoreRequest"] for _, arguments in sent] == [
        {"GlacierJobParameters": {"Tier": "Expedited"}, "Days": 3},
        {"GlacierJobParameters": {"Tier": "Bulk"}},
    ]


def test_on_a_server_that_plays_aws_a_pack_thaws(aws_server):
    """From archived by way of thawing to thawed, with the day on which the copy goes; listing and HEAD agree first."""
    bucket = aws_server.make_bucket()
    store = open_store(f"s3://{bucket}/runs", StoreOptions(endpoint_url=aws_server.endpoint_url))
    client = aws_server.client()
    client.put_object(Bucket=bucket, Key="runs/packs/a", Body=b"sealed", StorageClass="GLACIER")
    client.close()
    (listed,) = store.list("packs/")
    seen = [store.stat("packs/a")]
    assert (
        (listed.storage_class, listed.is_archived) == (seen[0].storage_class, seen[0].is_archived) == ("GLACIER", True)
    )
    assert store.thaw("packs/a", days=2, tier="standard")
    assert not store.thaw("packs/a", days=2, tier="standard")
    while seen[-1].is_archived:
        seen.append(store.stat("packs/a"))
        time.sleep(0.05)
    store.close()
    states = [(info.is_archived, info.is_thawing) for info in seen]
    assert [one for one, after in pairwise([*states, None]) if one != after] == [
        (True, False),
        (True, True),
        (False, False),
    ]
    assert 2 * DAY_S <= seen[-1].thawed_until_s - time.time() <= 3 * DAY_S
    assert store.price_list is None
