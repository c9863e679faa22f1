"""A key of AWS KMS wraps a secret and unwraps it again, and each refusal says what to do."""

from __future__ import annotations

import os
import socket

import botocore.endpoint
import pytest

from kms_service import ACCESS_KEY, REGION, SECRET_KEY
from mlsync.errors import ConfigInvalid, KeyServiceRefused, KeyServiceUnavailable
from mlsync.kms import requests as kms_requests
from mlsync.kms.key import AwsKey

CONTEXT = {"mlsync": "key-slot", "repository": "00" * 16, "salt": "c2FsdA=="}
ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
MULTI_REGION = ARN.replace("/1234abcd", "/mrk-1234abcd")
TRIES = kms_requests._TRIES
ALONE = pytest.mark.skipif("MLSYNC_TEST_KMS_URL" in os.environ, reason="only the stand-in can do that")


@pytest.fixture
def service(kms_process, monkeypatch):
    """The stand-in for KMS, where botocore finds it, and credentials for it; nothing waits between tries."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", kms_process.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(kms_requests, "_TRIES", 1)
    return kms_process


@pytest.fixture
def key(service):
    """A new key."""
    return AwsKey(service.new_key())


def test_a_secret_comes_back(key):
    """What a key wrapped, it unwraps: 32 random bytes, which are in no repr, and another secret each time."""
    one, other = key.wrap(CONTEXT), key.wrap(CONTEXT)
    assert (len(one.secret), one.key, one.secret == other.secret) == (32, key.name, False)
    assert one.secret not in one.wrapped
    assert repr(one) == f"WrappedSecret({key.name})"
    assert key.unwrap(one.wrapped, CONTEXT) == one.secret


def test_another_context_does_not_open(key):
    """A secret that was wrapped for one slot opens in no other one."""
    wrapped = key.wrap(CONTEXT).wrapped
    assert key.unwrap(wrapped, CONTEXT | {"salt": "other"}) is None
    assert key.unwrap(wrapped, CONTEXT | {"more": "x"}) is None


def test_only_the_named_key_opens(service, key):
    """Another key of the same owner, which might open it, is not used: each request names the configured key."""
    other = AwsKey(service.new_key())
    wrapped = other.wrap(CONTEXT).wrapped
    assert key.unwrap(wrapped, CONTEXT) is None
    assert other.unwrap(wrapped, CONTEXT) is not None


@ALONE
def test_each_request_names_the_key_and_the_context(service, key):
    """KMS is asked once to wrap and once to unwrap, by the name that was given."""
    service.asked()
    key.unwrap(key.wrap(CONTEXT).wrapped, CONTEXT)
    assert service.asked() == [
        {"action": action, "key": key.name, "context": CONTEXT, "region": REGION} for action in ("Encrypt", "Decrypt")
    ]


@pytest.mark.parametrize("wrapped", [b"\0", b"x" * 100, bytes(range(200))])
def test_what_kms_never_wrapped_does_not_open(key, wrapped):
    """Bytes that somebody planted are no secret, and no error."""
    assert key.unwrap(wrapped, CONTEXT) is None


def test_a_secret_of_another_length_is_none(service, key):
    """What somebody else wrapped with the key for another purpose is no secret of a slot."""
    done = service.administer("encrypt", KeyId=key.name, Plaintext=b"short", EncryptionContext=CONTEXT)
    assert key.unwrap(done["CiphertextBlob"], CONTEXT) is None


def test_a_key_is_named_by_its_id_or_an_alias_too(service, key):
    """An id takes a Region; an alias as well; the slot gets the ARN in any case."""
    key_id, alias = key.name.rpartition("/")[2], f"alias/training-{os.urandom(4).hex()}"
    service.administer("create_alias", AliasName=alias, TargetKeyId=key.name)
    for name in (key_id, alias, key.name.partition("key/")[0] + alias):
        one = AwsKey(name, region=REGION)
        wrapped = one.wrap(CONTEXT)
        assert wrapped.key == key.name
        assert one.may_be(key.name)
        assert key.unwrap(wrapped.wrapped, CONTEXT) == one.unwrap(wrapped.wrapped, CONTEXT) == wrapped.secret


def test_a_copy_of_the_key_in_another_region_opens(service):
    """With a multi-Region key, a machine far away asks the copy that is near, or the one that still works."""
    first = AwsKey(service.new_key(MultiRegion=True))
    wrapped = first.wrap(CONTEXT)
    service.administer("replicate_key", KeyId=first.name.rpartition("/")[2], ReplicaRegion="us-east-1")
    copy = AwsKey(first.name.replace(REGION, "us-east-1"))
    assert copy.may_be(first.name)
    assert copy.unwrap(wrapped.wrapped, CONTEXT) == wrapped.secret


@pytest.mark.parametrize(
    ("name", "key", "may_be"),
    [
        (ARN, ARN, True),
        (ARN, ARN.replace("1234abcd", "ffffffff"), False),
        (ARN, ARN.replace("eu-central-1", "us-east-1"), False),
        (ARN, ARN.replace("111122223333", "999999999999"), False),
        (ARN.rpartition("/")[2], ARN, True),
        (ARN.rpartition("/")[2], ARN.replace("1234abcd", "ffffffff"), False),
        ("alias/training", ARN, True),
        (ARN.replace("key/", "alias/"), ARN, True),
        (MULTI_REGION, MULTI_REGION.replace("eu-central-1", "us-east-1"), True),
        (MULTI_REGION, MULTI_REGION.replace("1111", "9999"), False),
    ],
)
def test_which_slots_are_worth_a_request(name, key, may_be):
    """A slot of another key is no reason to ask KMS; only behind an alias any key may be."""
    assert AwsKey(name).may_be(key) is may_be


@pytest.mark.parametrize(
    "name", ["", "arn:aws:s3:::bucket", "alias/", "alias/a b", "a/b", ARN + "\n", ARN + "/x", "arn:aws:kms:x:y:key/z"]
)
def test_what_is_no_key_is_refused_at_once(name):
    """A name that no key has never reaches KMS."""
    with pytest.raises(ConfigInvalid, match="is no key of AWS KMS"):
        AwsKey(name)


def refusal_of(key, call="unwrap"):
    """The error of a request, and that it has no traceback of ours as its text."""
    with pytest.raises((KeyServiceRefused, KeyServiceUnavailable, ConfigInvalid)) as raised:
        key.wrap(CONTEXT) if call == "wrap" else key.unwrap(b"wrapped", CONTEXT)
    return raised.value


@pytest.mark.parametrize(
    ("action", "more", "words", "advice"),
    [
        ("disable_key", {}, "the key is disabled", "enable it"),
        ("schedule_key_deletion", {"PendingWindowInDays": 7}, "cannot be used in its state", "cancel its deletion"),
    ],
)
def test_the_state_of_the_key_is_told(service, key, action, more, words, advice):
    """A key that is disabled, or that will be deleted, says so for both requests."""
    service.administer(action, KeyId=key.name.rpartition("/")[2], **more)
    for call in ("wrap", "unwrap"):
        error = refusal_of(key, call)
        assert isinstance(error, KeyServiceRefused)
        assert words in error.what
        assert advice in error.advice
        assert error.where.startswith(f"{key.name} at 127.0.0.1:")


def test_a_key_that_is_not_there_is_told(service, key):
    """The wrong Region, and a wrong id, are named as what they may be."""
    for name, region in ((key.name.rpartition("/")[2], "us-east-1"), (ARN, None), ("alias/nobodys", REGION)):
        error = refusal_of(AwsKey(name, region=region), "wrap")
        assert isinstance(error, KeyServiceRefused)
        assert "there is no such key" in error.what
        assert "Region" in error.advice


def test_a_key_for_signatures_is_refused(service):
    """A key that cannot encrypt is named for that."""
    usage = {"KeyUsage": "SIGN_VERIFY", "KeySpec": "RSA_2048"}
    error = refusal_of(AwsKey(service.new_key(**usage)), "wrap")
    assert isinstance(error, KeyServiceRefused)
    assert "symmetric key" in error.advice


@ALONE
@pytest.mark.parametrize(
    ("status", "body", "kind", "words", "advice"),
    [
        (400, {"__type": "AccessDeniedException", "Message": "User: x is not authorized"}, KeyServiceRefused,
         "KMS denies it; the answer was AccessDeniedException: User: x is not authorized", "allow kms:Decrypt"),
        (400, {"__type": "ExpiredTokenException"}, KeyServiceRefused, "have expired", "get new credentials"),
        (400, {"__type": "InvalidSignatureException"}, KeyServiceRefused, "refuses the signature", "clock"),
        (400, {"__type": "ThrottlingException"}, KeyServiceUnavailable, "Throttling", "try later"),
        (400, {"__type": "LimitExceededException"}, KeyServiceUnavailable, "LimitExceeded", "try later"),
        (500, {"__type": "KMSInternalException"}, KeyServiceUnavailable, "KMSInternal", "try later"),
        (503, {"__type": "DependencyTimeoutException"}, KeyServiceUnavailable, "DependencyTimeout", "try later"),
        (502, "<html>Bad Gateway</html>", KeyServiceUnavailable, "502", "try later"),
        (404, "<Error><Code>NoSuchBucket</Code></Error>", KeyServiceRefused, "404", "AWS_ENDPOINT_URL_KMS"),
        (200, {"Plaintext": 7}, KeyServiceRefused, "is none", "AWS_ENDPOINT_URL_KMS"),
        (200, {}, KeyServiceRefused, "is none", "AWS_ENDPOINT_URL_KMS"),
        (200, "[]", KeyServiceRefused, "is none", "AWS_ENDPOINT_URL_KMS"),
        (200, "no JSON", KeyServiceRefused, "is none", "AWS_ENDPOINT_URL_KMS"),
    ],
)  # fmt: skip
def test_each_answer_says_what_to_do(service, key, status, body, kind, words, advice):
    """Denials, expired credentials, throttling, faults, and what is no KMS at all: each is told apart."""
    service.answer(key.name, status, body)
    error = refusal_of(key)
    assert (type(error), words in error.what, advice in error.advice) == (kind, True, True), str(error)


@ALONE
@pytest.mark.parametrize("arn", ["", "alias/x", ARN, "arn:aws:s3:::bucket"])
def test_an_impossible_name_is_not_stored(service, key, arn):
    """A key that KMS calls by another name than was asked for gets no slot."""
    service.answer(key.name, 200, {"KeyId": arn, "CiphertextBlob": "eHh4"})
    with pytest.raises(KeyServiceRefused, match="none that AWS KMS gives"):
        key.wrap(CONTEXT)


@ALONE
def test_a_wrapped_secret_that_fits_no_slot_is_not_stored(service, key):
    """What would not fit into a slot is refused before anything is stored."""
    service.answer(key.name, 200, {"KeyId": key.name, "CiphertextBlob": "eHh4" * 600})
    with pytest.raises(KeyServiceRefused, match="none that AWS KMS gives"):
        key.wrap(CONTEXT)


@ALONE
def test_a_passing_fault_is_tried_again(service, key, monkeypatch):
    """A fault of KMS's own is tried three times in all, and a refusal once."""
    monkeypatch.setattr(kms_requests, "_TRIES", TRIES)
    monkeypatch.setattr(botocore.endpoint.time, "sleep", lambda _seconds: None)
    for status, code, times in ((500, "KMSInternalException", 3), (400, "AccessDeniedException", 1)):
        service.asked()
        service.answer(key.name, status, {"__type": code})
        refusal_of(key)
        assert len(service.asked()) == times


def test_a_service_that_is_away_is_unavailable(service):
    """Nothing listens there: that may pass, and the message names host and key."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        error = refusal_of(AwsKey(ARN, endpoint_url=url))
    assert isinstance(error, KeyServiceUnavailable)
    assert "AWS KMS did not answer: Connection refused" in error.what
    assert error.where == f"{ARN} at {url.removeprefix('http://')}"


def test_without_credentials_that_is_told(service, monkeypatch):
    """No credentials, and a profile that is not there, are refusals before any request."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    error = refusal_of(AwsKey(ARN))
    assert isinstance(error, KeyServiceRefused)
    assert "there are no credentials for AWS KMS" in error.what
    assert "AWS_ACCESS_KEY_ID" in error.advice
    error = refusal_of(AwsKey(ARN, profile="nobody"))
    assert isinstance(error, KeyServiceRefused)
    assert "nobody" in error.what


@ALONE
def test_a_wrong_access_key_is_told(service, monkeypatch):
    """Credentials that KMS does not know are named as such."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDSOMEBODYELSE")
    error = refusal_of(AwsKey(ARN))
    assert isinstance(error, KeyServiceRefused)
    assert "does not know the access key" in error.what


def test_no_region_is_told(service):
    """An id alone does not say where the key is."""
    error = refusal_of(AwsKey(ARN.rpartition("/")[2]))
    assert isinstance(error, ConfigInvalid)
    assert "no Region" in error.what


@pytest.mark.parametrize("url", ["http://kms.example", "http://10.0.0.1:4566"])
def test_no_secret_goes_over_an_open_network(service, url, monkeypatch):
    """An address without https is refused before a request, wherever it is set; this machine's own is not."""
    assert "without https" in refusal_of(AwsKey(ARN, endpoint_url=url)).what
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", url)
    error = refusal_of(AwsKey(ARN))
    assert isinstance(error, ConfigInvalid)
    assert error.where == url


def test_the_address_is_a_url(service):
    """Anything else is named."""
    assert "not a URL" in refusal_of(AwsKey(ARN, endpoint_url="kms")).what
