"""Stores of every kind, bare and wrapped, for the tests in this folder."""

from __future__ import annotations

import functools
import uuid

import pytest

from certificate import write_certificate
from doubles.faulty_store import FaultyStore
from doubles.memory_store import MemoryStore
from mlsync.store.counting import CountingStore
from mlsync.store.directory import store as directory
from mlsync.store.directory.store import DirectoryStore
from mlsync.store.fallback import FallbackStore
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.retry import RetryingStore
from mlsync.store.slow import SlowRequestLog
from seaweed import Seaweed

KINDS = ("memory", "directory", "s3", "aws")
WRAPPERS = {
    "bare": lambda store: store,
    "retrying": lambda store: RetryingStore(store, sleep=lambda _: None),
    "counting": CountingStore,
    "logging": SlowRequestLog,
    "faulty": FaultyStore,
    "asking mirrors": lambda store: FallbackStore(store, tuple, is_lost=lambda _key, _after: True),
}
# Small parts, so that small data make several; S3 itself allows none below 5 MiB.
PART_BYTES = {"memory": 64 << 10, "directory": 64 << 10, "s3": 5 << 20, "aws": 5 << 20}


@pytest.fixture(scope="session")
def s3_bucket(s3_process):
    """One bucket for all tests, which take a prefix each: a bucket costs the server more than an object does."""
    return s3_process.make_bucket()


@pytest.fixture
def s3_options(s3_server):
    """What it takes, beside a URL, to open a store on the test server."""
    return StoreOptions(endpoint_url=s3_server.endpoint_url, region=s3_server.region)


@pytest.fixture
def s3_url(s3_bucket):
    """A place in the test server's bucket that nobody used before."""
    return f"s3://{s3_bucket}/tests/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def secure(tmp_path_factory):
    """A server with https: its URL, its certificate, itself, and a bucket."""
    directory = tmp_path_factory.mktemp("https")
    certificate = write_certificate(directory)
    seaweed = Seaweed(directory, certificate)
    server = seaweed.start()
    yield seaweed.https_url, certificate[0], server, server.make_bucket()
    seaweed.stop()


@pytest.fixture(scope="session")
def s3_client_cache():
    """Clients of botocore by their options: making one takes half a second, and hundreds of tests want the same."""
    from mlsync.store.s3 import client

    return functools.cache(client.make_client)


@pytest.fixture
def s3_store(s3_url, s3_options, s3_client_cache, monkeypatch):
    """A bare S3 store in a place of its own."""
    from mlsync.store.s3 import client
    from mlsync.store.s3 import store as s3

    monkeypatch.setattr(s3, "PART_BYTES", PART_BYTES["s3"])
    monkeypatch.setattr(client, "make_client", lambda options, _location: s3_client_cache(options, ""))
    store = open_store(s3_url, s3_options)
    yield store
    store.close()


@pytest.fixture(scope="session")
def aws_bucket(aws_process):
    """One bucket of the server that plays AWS, for all tests, which take a prefix each."""
    return aws_process.make_bucket()


@pytest.fixture
def aws_store(aws_bucket, aws_server, s3_client_cache, monkeypatch):
    """A bare store on the server that plays AWS, in a place of its own."""
    from mlsync.store.s3 import client
    from mlsync.store.s3 import store as s3

    monkeypatch.setattr(s3, "PART_BYTES", PART_BYTES["aws"])
    monkeypatch.setattr(client, "make_client", lambda options, _location: s3_client_cache(options, ""))
    options = StoreOptions(endpoint_url=aws_server.endpoint_url, region=aws_server.region)
    store = open_store(f"s3://{aws_bucket}/tests/{uuid.uuid4().hex}", options)
    yield store
    store.close()


@pytest.fixture
def directory_store(tmp_path, monkeypatch):
    """A bare directory store in a place of its own."""
    monkeypatch.setattr(directory, "PART_BYTES", PART_BYTES["directory"])
    store = DirectoryStore(tmp_path / "repository", create=True)
    yield store
    store.close()


@pytest.fixture
def memory_store():
    """A bare memory store."""
    return MemoryStore(PART_BYTES["memory"])


@pytest.fixture(
    params=[
        # The quick round starts no server.
        pytest.param(f"{kind}-{wrapper}", marks=[pytest.mark.slow] if kind in ("s3", "aws") else [])
        for kind in KINDS
        for wrapper in WRAPPERS
        # What wrappers do does not depend on the server.
        if kind != "aws" or wrapper == "bare"
    ]
)
def store(request):
    """A store of every kind in every wrapper."""
    kind, _, wrapper = request.param.partition("-")
    return WRAPPERS[wrapper](request.getfixturevalue(f"{kind}_store"))
