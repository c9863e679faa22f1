"""Keys from an assumed role or a command: they are renewed in use, and every failure is reported."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import botocore.credentials
import pytest

from fault_proxy import Fault
from mlsync import errors
from mlsync.codec.keys import Keys
from mlsync.repository.reader import ChunkReader
from mlsync.repository.writer import PackWriter
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.retry import RetryingStore
from token_service import ROLE, TOKEN, TokenService

pytestmark = pytest.mark.slow

WAYS = ("web identity", "profile with a source", "credential_process")
KEYS = Keys(bytes(32), bytes(16))


@pytest.fixture
def service(s3_process, monkeypatch):
    """A token service, whose keys the S3 server knows."""
    service = TokenService((s3_process.access_key, s3_process.secret_key))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", service.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", s3_process.region)
    yield service
    service.stop()


@pytest.fixture
def token_file(service, tmp_path, monkeypatch):
    """A web identity's token in a file, as Kubernetes gives it."""
    path = tmp_path / "token"
    path.write_text(TOKEN)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(path))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    return path


@pytest.fixture
def profiles(service, tmp_path, monkeypatch):
    """Write the file of profiles."""

    def write(text):
        (tmp_path / "config").write_text(text)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))

    return write


@pytest.fixture
def opened(proxy, s3_url):
    """Open a store behind the proxy."""
    stores = []
    proxy.reset()

    def open_it(**options):
        stores.append(open_store(s3_url, StoreOptions(endpoint_url=proxy.url, region="us-east-1", **options)))
        return stores[-1]

    yield open_it
    for store in stores:
        store.close()


def source_profile(s3_process, role=ROLE):
    """A profile that takes on a role by the keys of another one."""
    return (
        f"[profile base]\naws_access_key_id = {s3_process.access_key}\n"
        f"aws_secret_access_key = {s3_process.secret_key}\n"
        f"[profile training]\nrole_arn = {role}\nsource_profile = base\n"
    )


def command_of(tmp_path, service, lasts_s):
    """A command that prints keys, which expire, and notes that it ran."""
    expires = (datetime.now(UTC) + timedelta(seconds=lasts_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
    keys = {"Version": 1, "AccessKeyId": service.keys[0], "SecretAccessKey": service.keys[1], "Expiration": expires}
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    script = tmp_path / "give-keys"
    script.write_text(f"#!/bin/sh\necho ran >> {tmp_path}/ran\ncat {tmp_path}/keys.json\n")
    script.chmod(0o700)
    return script


@pytest.fixture(params=WAYS)
def signed_in(request, opened, service, s3_process, tmp_path):
    """A store that was opened in each way, and how often keys were given for it."""
    if request.param == "web identity":
        request.getfixturevalue("token_file")
        return opened(), lambda: len(service.asked)
    profiles = request.getfixturevalue("profiles")
    if request.param == "profile with a source":
        profiles(source_profile(s3_process))
        return opened(profile="training"), lambda: len(service.asked)
    profiles(f"[profile training]\ncredential_process = {command_of(tmp_path, service, 3600)}\n")
    return opened(profile="training"), lambda: (tmp_path / "ran").read_text().count("ran")


def back_up(store, between=lambda: None):
    """Store some chunks through lanes, doing something in the middle, and read them back."""
    writer = PackWriter(store, KEYS, lambda _name: None, lanes=2, pack_bytes=50_000)
    pieces = [bytes([seed]) * 30_000 + os.urandom(10_000) for seed in range(12)]
    placed = [writer.put(memoryview(piece)) for piece in pieces[:6]]
    between()
    placed += [writer.put(memoryview(piece)) for piece in pieces[6:]]
    writer.finish()
    with ChunkReader(store, KEYS) as reader:
        assert [bytes(plain) for plain in reader.stream(one.ref for one in placed)] == pieces


def test_keys_are_had_once_and_used(signed_in):
    """Each of botocore's ways to sign in opens the store, and runs once for all requests."""
    store, given_count = signed_in
    back_up(store)
    assert given_count() == 1


def test_keys_that_expire_in_the_middle_of_a_backup_are_renewed(signed_in, monkeypatch):
    """If keys are about to expire, the next request uses new ones."""
    store, given_count = signed_in
    store.put("a/first", b"body")

    def later():
        return datetime.now(UTC) + timedelta(minutes=55) * (given_count() < 2)

    def expire():
        monkeypatch.setattr(store._client.botocore._request_signer._credentials, "_time_fetcher", later)
        monkeypatch.setattr(botocore.credentials, "_local_now", later)

    back_up(store, between=expire)
    assert given_count() == 2


@pytest.mark.parametrize("operation", ["PutObject", "GetObject", "HeadObject"])
def test_keys_that_the_store_calls_expired_are_renewed(signed_in, proxy, operation):
    """Keys that only the store calls expired cost one refused request and no backup."""
    store, given_count = signed_in
    store.put("a/first", b"body")
    proxy.reset(Fault("400 expired", operation))
    retrying = RetryingStore(store, sleep=lambda _: None)
    back_up(retrying)
    assert retrying.stat("a/first").size_bytes == 4
    assert given_count() == 2


def test_requests_that_are_refused_together_have_keys_renewed_once(signed_in, proxy):
    """All requests with the old keys are retried with new ones, which are fetched once."""
    store, given_count = signed_in
    store.put("a/first", b"body")
    proxy.reset(Fault("late 400 expired", "PutObject", times=4))
    retrying = RetryingStore(store, sleep=lambda _: None)
    with ThreadPoolExecutor(4) as writers:
        list(writers.map(lambda number: retrying.put(f"a/{number}", b"body"), range(4)))
    assert proxy.count("PutObject") == 8
    assert given_count() == 2


def test_keys_that_stay_expired_are_not_renewed_for_ever(signed_in, proxy):
    """If new keys are refused too, the error is raised and says what to do."""
    store, given_count = signed_in
    store.put("a/first", b"body")
    proxy.reset(Fault("400 expired", "GetObject", times=1000))
    with pytest.raises(errors.StoreDenied, match="temporary credentials"):
        RetryingStore(store, sleep=lambda _: None).get("a/first", limit_bytes=4)
    assert proxy.count("GetObject") == 2
    assert given_count() == 2


def failure(store, kind):
    """What signing in says, of one try."""
    with pytest.raises(kind) as caught:
        store.put("a/first", b"body")
    assert type(caught.value) is kind
    return store.is_transient(caught.value), str(caught.value)


def test_a_token_file_that_is_missing_is_named(opened, token_file):
    """The message has the path, and the variable that names it."""
    token_file.unlink()
    is_transient, text = failure(opened(), errors.StoreDenied)
    assert not is_transient
    assert str(token_file) in text
    assert "No such file" in text
    assert "AWS_WEB_IDENTITY_TOKEN_FILE" in text


@pytest.mark.parametrize(
    ("refusal", "kind", "is_transient", "advice"),
    [
        ((403, "AccessDenied"), errors.StoreDenied, False, "trust policy"),
        ((400, "ExpiredTokenException"), errors.StoreDenied, False, "AWS_WEB_IDENTITY_TOKEN_FILE"),
        ((400, "ValidationError"), errors.StoreDenied, False, "AWS_ROLE_ARN"),
        ((503, "ServiceUnavailable"), errors.StoreUnavailable, True, "AWS_ENDPOINT_URL_STS"),
        ((400, "Throttling"), errors.StoreUnavailable, True, "AWS_ENDPOINT_URL_STS"),
    ],
)
def test_a_token_service_that_refuses_is_named(opened, token_file, service, refusal, kind, is_transient, advice):
    """The message names role, token service and its answer, and not the store."""
    service.refusal = refusal
    told = failure(opened(), kind)
    assert told[0] is is_transient
    for word in (ROLE, service.host, refusal[1], advice, "assume-role-with-web-identity"):
        assert word in told[1]
    assert "the store answered" not in told[1]
    assert len(service.asked) == 1


def test_a_token_that_is_not_taken_is_told_apart_from_a_role_that_is_not_given(opened, token_file, monkeypatch):
    """For a wrong token the message says who must renew it; for a wrong role, what to check."""
    token_file.write_text("somebody else's")
    assert "AWS_WEB_IDENTITY_TOKEN_FILE" in failure(opened(), errors.StoreDenied)[1]
    token_file.write_text(TOKEN)
    wrong = ROLE.replace("training", "wrong")
    monkeypatch.setenv("AWS_ROLE_ARN", wrong)
    text = failure(opened(), errors.StoreDenied)[1]
    assert wrong in text
    assert "trust policy" in text


def test_a_token_service_that_is_away_is_named(opened, token_file, service):
    """An unavailable token service is named, and the error is transient."""
    store = opened()
    service.stop()
    is_transient, text = failure(store, errors.StoreUnavailable)
    assert is_transient
    assert service.host in text
    assert "AWS_ENDPOINT_URL_STS" in text
    with pytest.raises(errors.StoreUnavailable, match=r"^signing in by assume-role.* \(2 tries of stat\)"):
        RetryingStore(store, sleep=lambda _: None, tries_max=2).stat("a/first")


def test_keys_that_have_expired_already_are_told(opened, token_file, service):
    """Keys that are expired by this machine's clock give a message, not a traceback."""
    service.lasts_s = -10.0
    is_transient, text = failure(opened(), errors.StoreDenied)
    assert not is_transient
    assert "already expired" in text
    assert "clock" in text


def test_wrong_keys_of_a_source_profile_are_told(opened, profiles, s3_process, service):
    """The message says that the keys of the source profile are wrong, not the store's."""
    profiles(source_profile(s3_process).replace(s3_process.access_key, "AKIAWRONG"))
    text = failure(opened(profile="training"), errors.StoreDenied)[1]
    assert "InvalidClientTokenId" in text
    assert service.host in text


def test_a_profile_whose_source_is_missing_is_told_at_once(opened, profiles):
    """A profile with a missing source is a configuration error before any request."""
    profiles(f"[profile training]\nrole_arn = {ROLE}\nsource_profile = nobody\n")
    with pytest.raises(errors.StoreLocationInvalid, match="nobody") as caught:
        opened(profile="training")
    assert "~/.aws/config" in str(caught.value)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/no/such/command", ("No such file", "/no/such/command", "credential_process")),
        (f"{sys.executable} -c 'raise SystemExit(\"the vault is sealed\")'", ("the vault is sealed", "profile")),
        (f"{sys.executable} -c 'print(1, end=\"nonsense\")'", ("credential_process",)),
        (f"{sys.executable} -c 'print(\"{{}}\")'", ("Unsupported version", "profile")),
    ],
    ids=["missing", "fails", "nonsense", "no keys"],
)
def test_a_command_that_gives_no_keys_is_told(opened, profiles, command, words):
    """The message has what the command printed, or that there is no such command."""
    profiles(f"[profile training]\ncredential_process = {command}\n")
    with pytest.raises(errors.StoreDenied) as caught:
        opened(profile="training")
    for word in words:
        assert word in str(caught.value)
