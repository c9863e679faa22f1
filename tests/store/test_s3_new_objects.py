"""What new objects get by the settings of [s3], on a server that plays AWS, and what a refusal of it says."""

from __future__ import annotations

import os
import time
import uuid

import boto3
import pytest

from limited_s3 import LimitedS3, error_body
from mlsync import errors
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.options import ObjectLock
from mlsync.store.s3 import store as s3
from mlsync.store.s3.new_objects import tags_of

RUN = "0123456789abcdef0123456789abcdef"
PACK = f"packs/01/{RUN}"
MANIFEST = f"versions/{RUN}/0000000001"
KEY = "arn:aws:kms:us-east-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab"
DAY_S = 86400.0


class Bucket:
    """A bucket of the server that plays AWS, as its owner sees it."""

    def __init__(self, server, **creation):
        """Make it."""
        self.name = f"new-{uuid.uuid4().hex}"
        self.endpoint_url = server.endpoint_url
        self.client = boto3.session.Session().client("s3", endpoint_url=server.endpoint_url, region_name="us-east-1")
        self.client.create_bucket(Bucket=self.name, **creation)
        self._stores = []

    def open(self, **options):
        """Return a store in it."""
        given = {"endpoint_url": self.endpoint_url, "region": "us-east-1", **options}
        self._stores.append(open_store(f"s3://{self.name}/runs", StoreOptions(**given)))
        return self._stores[-1]

    def head(self, key):
        """Return what a HEAD says of an object."""
        return self.client.head_object(Bucket=self.name, Key=f"runs/{key}")

    def tags(self, key):
        """Return an object's tags."""
        tags = self.client.get_object_tagging(Bucket=self.name, Key=f"runs/{key}")["TagSet"]
        return {tag["Key"]: tag["Value"] for tag in tags}

    def close(self):
        """Close the stores."""
        for store in self._stores:
            store.close()
        self.client.close()


@pytest.fixture
def bucket(aws_server):
    """A bucket as AWS makes it."""
    made = Bucket(aws_server)
    yield made
    made.close()


@pytest.fixture
def lockable(s3_server):
    """A bucket with object lock, and no rule for all objects; the other server forgets locks and tags of uploads."""
    made = Bucket(s3_server, ObjectLockEnabledForBucket=True)
    yield made
    made.close()


@pytest.fixture
def limited(monkeypatch):
    """A server that says what the test wants, and notes what it was sent; its stores by their options."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    server = LimitedS3()
    server.start()
    stores = []

    def open_limited(**options):
        stores.append(open_store("s3://bucket", StoreOptions(**{"endpoint_url": server.endpoint_url, **options})))
        return stores[-1], server

    yield open_limited
    for store in stores:
        store.close()
    server.stop()


def in_parts(store, key, count=2):
    """Store an object of that many parts, the last one short."""
    upload = store.upload(key)
    body = os.urandom((count - 1) * store.part_bytes + 1)
    for offset in range(0, len(body), store.part_bytes):
        upload.write(offset, body[offset : offset + store.part_bytes])
    upload.finish(len(body))
    return body


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Small parts make small objects."""
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)


def test_every_way_to_create_an_object_says_how_it_is_encrypted(bucket):
    """A put, a replacement and an upload in parts are encrypted by the key of the settings."""
    store = bucket.open(sse="aws:kms", kms_key_id=KEY)
    store.put(MANIFEST, b"one")
    in_parts(store, PACK)
    store.replace("repository", b"two")
    for key in (MANIFEST, PACK, "repository"):
        answer = bucket.head(key)
        assert (answer["ServerSideEncryption"], answer["SSEKMSKeyId"]) == ("aws:kms", KEY)


def test_packs_have_a_class_and_other_objects_another(bucket):
    """The class of the settings is that of packs, put or in parts; other objects keep the server's."""
    store = bucket.open(storage_class="STANDARD_IA")
    store.put(PACK, b"pack")
    in_parts(store, PACK[:-1] + "0")
    store.put(MANIFEST, b"manifest")
    assert [bucket.head(key).get("StorageClass") for key in (PACK, PACK[:-1] + "0", MANIFEST)] == [
        "STANDARD_IA",
        "STANDARD_IA",
        None,
    ]
    bucket.open(storage_class_others="ONEZONE_IA").put("repository", b"x")
    assert bucket.head("repository")["StorageClass"] == "ONEZONE_IA"


def test_tags_say_the_kind_and_the_id_of_the_run_that_the_key_has(lockable):
    """Of a run's objects the tags have the id in their key; a pack has none, and nothing has a name."""
    store = lockable.open(tags=(("team", "vision & more"), ("stage", "")))
    store.put(MANIFEST, b"manifest")
    in_parts(store, PACK)
    store.put("repository", b"header")
    of_user = {"team": "vision & more", "stage": ""}
    assert lockable.tags(MANIFEST) == {**of_user, "mlsync-kind": "versions", "mlsync-run": RUN}
    assert lockable.tags(PACK) == {**of_user, "mlsync-kind": "packs"}
    assert lockable.tags("repository") == {**of_user, "mlsync-kind": "repository"}


def test_a_pack_s_id_is_not_taken_for_a_run_s():
    """Tombstones and moves have ids of packs in their keys, which look the same."""
    for kind in ("tombstones", "moves"):
        assert tags_of(f"{kind}/{RUN}", ()) == {"mlsync-kind": kind}
    for key in (f"copies/{RUN}/0000000001", f"runs/{RUN}", f"decisions/{RUN}/0000000001-aa"):
        assert tags_of(key, ())["mlsync-run"] == RUN


def test_without_tags_in_the_settings_there_are_none(bucket):
    """Tags cost money and a right of their own: no object has any unless they were asked for."""
    bucket.open().put(MANIFEST, b"manifest")
    assert bucket.tags(MANIFEST) == {}


def test_new_objects_are_locked_from_their_creation_on(lockable):
    """Each kind of create locks for the period, in the mode of the settings."""
    store = lockable.open(object_lock=ObjectLock("governance", 30 * DAY_S))
    store.put(MANIFEST, b"manifest")
    in_parts(store, PACK)
    store.replace("repository", b"header")
    for key in (MANIFEST, PACK, "repository"):
        answer = lockable.head(key)
        assert answer["ObjectLockMode"] == "GOVERNANCE"
        until_s = answer["ObjectLockRetainUntilDate"].timestamp()
        assert 29.9 * DAY_S < until_s - time.time() < 30.1 * DAY_S


def test_a_lock_counts_by_the_clock_of_the_server(lockable, monkeypatch):
    """On a machine whose clock is years ahead nothing is locked for years."""
    store = lockable.open(object_lock=ObjectLock("compliance", 30 * DAY_S))
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 3650 * DAY_S)
    with pytest.raises(errors.NotFound):
        store.get("repository", limit_bytes=1)
    store.put(MANIFEST, b"manifest")
    until_s = lockable.head(MANIFEST)["ObjectLockRetainUntilDate"].timestamp()
    assert 29.9 * DAY_S < until_s - now_s < 30.1 * DAY_S


@pytest.mark.parametrize("is_said", [True, False])
def test_every_request_names_the_owner_and_who_pays(limited, is_said):
    """Requests of every kind carry both; without the settings none does."""
    store, server = limited(**({"requester_pays": True, "expected_bucket_owner": "111122223333"} if is_said else {}))
    store.put("repository", b"x")
    store.read("repository", 0, memoryview(bytearray(1)))
    store.get("repository", limit_bytes=9)
    store.stat("repository")
    list(store.list(""))
    store.delete("repository")
    names = ("x-amz-request-payer", "x-amz-expected-bucket-owner")
    found = [tuple(headers.get(name) for name in names) for _, _, headers in server.requests]
    assert len(found) == 6
    assert set(found) == {("requester", "111122223333") if is_said else (None, None)}


@pytest.mark.parametrize("create", ["put", "parts"])
def test_a_setting_that_is_refused_leaves_creates_conditional(limited, create):
    """``InvalidArgument`` about a setting is not taken for a server without conditional creates or checksums."""
    store, server = limited(sse="aws:kms")
    server.answer = lambda method, _path: (
        (400, {}, error_body("InvalidArgument")) if method in ("PUT", "POST") else None
    )
    with pytest.raises(errors.StoreError):
        store.put(MANIFEST, b"x") if create == "put" else in_parts(store, PACK)
    server.answer = lambda _method, _path: None
    server.requests.clear()
    store.put("repository", b"x")
    assert store.conditional_create
    assert [headers["If-None-Match"] for method, _, headers in server.requests if method == "PUT"] == ["*"]


def test_a_lock_that_is_about_to_end_is_extended_in_its_own_mode(lockable):
    """Only a lock with less left than is wanted is extended; what was locked otherwise stays in its mode."""
    lockable.open(object_lock=ObjectLock("governance", 10 * DAY_S)).put("repository", b"x")
    lockable.open().put(MANIFEST, b"not locked")
    store = lockable.open(object_lock=ObjectLock("compliance", 30 * DAY_S))
    assert not store.keep_for("repository", 30 * DAY_S, 9 * DAY_S)
    assert store.keep_for("repository", 30 * DAY_S, 15 * DAY_S)
    assert store.keep_for(MANIFEST, 30 * DAY_S, 15 * DAY_S)
    assert not store.keep_for(MANIFEST, 30 * DAY_S, 15 * DAY_S)
    found = {key: lockable.head(key) for key in ("repository", MANIFEST)}
    assert [one["ObjectLockMode"] for one in found.values()] == ["GOVERNANCE", "COMPLIANCE"]
    for one in found.values():
        assert 29.9 * DAY_S < one["ObjectLockRetainUntilDate"].timestamp() - time.time() < 30.1 * DAY_S
    with pytest.raises(errors.NotFound):
        store.keep_for(PACK, 30 * DAY_S, 15 * DAY_S)


def test_without_a_lock_in_the_settings_nothing_is_extended(lockable):
    """A store that locks no new objects sends nothing."""
    assert not lockable.open().keep_for("repository", 30 * DAY_S, 15 * DAY_S)


def test_a_bucket_of_another_account_is_named_as_that(limited):
    """A 403 that comes with the expected owner alone is no missing right, for any request; that is found out once."""
    store, server = limited(expected_bucket_owner="111122223333")
    server.answer = lambda _method, _path: (
        (403, {}, error_body("AccessDenied"))
        if "x-amz-expected-bucket-owner" in server.requests[-1][2]
        else (200, {}, b"")
    )
    for call in (
        lambda: store.put(MANIFEST, b"x"),
        lambda: in_parts(store, PACK),
        lambda: store.get("repository", limit_bytes=1),
        lambda: store.stat("repository"),
        lambda: list(store.list("")),
    ):
        with pytest.raises(errors.BucketOfAnother) as caught:
            call()
        assert "belongs to another account than 111122223333" in str(caught.value)
        assert "expected_bucket_owner" in str(caught.value)
    assert len(server.requests) == 7


def test_a_right_that_is_missing_is_not_blamed_on_the_owner(limited):
    """If the bucket is refused without the owner too, it is the right that is missing."""
    store, server = limited(expected_bucket_owner="111122223333")
    server.answer = lambda _method, _path: (403, {}, error_body("AccessDenied"))
    for _ in range(2):
        with pytest.raises(errors.StoreDenied, match="s3:PutObject"):
            store.put(MANIFEST, b"x")
    assert len(server.requests) == 4


def refused(store, create="put"):
    """What a refused create says."""
    with pytest.raises(errors.StoreError) as caught:
        store.put(MANIFEST, b"x") if create == "put" else in_parts(store, PACK)
    return caught.value


@pytest.mark.parametrize("create", ["put", "parts"])
def test_a_lock_in_a_bucket_without_object_lock_is_named(bucket, create):
    """The message names the setting, and what the bucket lacks."""
    error = refused(bucket.open(object_lock=ObjectLock("governance", 30 * DAY_S)), create)
    assert (error.exit_code, "object_lock under [s3]: the bucket must have been made" in str(error)) == (75, True)


def test_a_lock_that_a_real_server_refuses_without_words_is_named(s3_server):
    """A server that answers InvalidRequest and no more: the only setting is named."""
    made = Bucket(s3_server)
    try:
        error = refused(made.open(object_lock=ObjectLock("governance", 30 * DAY_S)))
        assert (error.exit_code, "object_lock under [s3]" in str(error)) == (75, True)
    finally:
        made.close()


@pytest.mark.parametrize(
    ("options", "create", "said"),
    [
        ({"storage_class": "WARM"}, "parts", "storage_class under [s3]: name a class that this server has"),
        ({"storage_class_others": "WARM", "acl": "private"}, "put", "storage_class_others under [s3]: name a class"),
        ({"sse": "aws:kms"}, "put", "sse under [s3]: this server wants the key named: set kms_key_id too"),
        ({"sse": "aws:kms:dsse"}, "parts", "sse under [s3]: this server does not encrypt so"),
        ({"tags": tuple((f"t{n}", "") for n in range(10))}, "put", "tags under [s3]: an object may have ten tags"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_setting_that_the_server_refuses_is_named(bucket, options, create, said):
    """Each refusal of a server as AWS names the setting, and what to do; all leave creates conditional."""
    store = bucket.open(**options)
    error = refused(store, create)
    assert (error.exit_code, said in str(error)) == (75, True), str(error)
    assert store.conditional_create


def kms_error(code, message):
    """An answer as S3 gives it for a key of KMS."""
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


@pytest.mark.parametrize(
    ("status", "code", "message", "exit_code", "said"),
    [
        (400, "KMS.DisabledException", "k is disabled.", 72, "enable the key of KMS"),
        (400, "KMS.KMSInvalidStateException", "k is pending deletion.", 72, "enable the key of KMS"),
        (400, "KMS.NotFoundException", "Key 'k' does not exist", 72, "a symmetric key of KMS in the bucket's region"),
        (400, "KMS.NotFoundException", "Invalid arn eu-west-1", 72, "in the bucket's region"),
        (
            400,
            "InvalidArgument",
            "Invalid ARN of a KMS key",
            75,
            "kms_key_id under [s3]: name a key of the bucket's region",
        ),
        (
            501,
            "NotImplemented",
            "A header you provided implies functionality that is not implemented",
            76,
            "it may be about",
        ),
        (
            400,
            "AccessControlListNotSupported",
            "The bucket does not allow ACLs",
            75,
            "acl under [s3]: the bucket's owner",
        ),
        (400, "InvalidTag", "The TagValue you have provided is invalid", 75, "tags under [s3]: an object may"),
        (
            403,
            "AccessDenied",
            "Access Denied",
            72,
            "s3:PutObject, s3:PutObjectTagging (for tags), s3:PutObjectAcl (for acl), kms:",
        ),
    ],
)
def test_what_is_wrong_with_a_key_or_a_setting_is_named(limited, status, code, message, exit_code, said):
    """A key that is disabled, missing, of another region, or not allowed: the message says which, and what to do."""
    store, server = limited(sse="aws:kms", kms_key_id=KEY, tags=(), acl="private")
    server.answer = lambda method, _path: (status, {}, kms_error(code, message)) if method == "PUT" else None
    error = refused(store)
    assert (error.exit_code, said in str(error)) == (exit_code, True), str(error)
    assert message.rstrip(".") in str(error)
    assert store.conditional_create


def test_a_header_that_a_server_names_is_the_setting(limited):
    """AWS names the header that it does not know."""
    store, server = limited(sse="AES256", tags=())
    body = b"<Error><Code>NotImplemented</Code><Message>no</Message><Header>x-amz-tagging</Header></Error>"
    server.answer = lambda method, _path: (501, {}, body) if method == "PUT" else None
    assert "tags under [s3]: an object may have ten" in str(refused(store))


def test_settings_that_a_server_does_not_heed_are_told_once(limited):
    """A server that takes what it does not know: one warning for each setting, for packs and for other objects."""
    store, server = limited(
        sse="AES256",
        storage_class="STANDARD_IA",
        storage_class_others="STANDARD",
        tags=(("team", "vision"),),
        object_lock=ObjectLock("governance", 30 * DAY_S),
    )
    said = []
    store.configure(conditional_create=True, warn=said.append)
    server.answer = lambda method, path: (
        (501, {}, error_body("NotImplemented"))
        if method == "GET" and path.endswith(("?tagging", "?retention"))
        else None
    )
    for number in range(2):
        store.put(f"versions/{RUN}/{number:010}", b"x")
    assert [text.split(": ", 1)[1][:11] for text in said] == ["sse = AES25", "tags; rules", "object_lock"]
    said.clear()
    for number in range(2):
        store.put(f"packs/0{number}/x", b"x")
    assert [text.split(": ", 1)[1][:17] for text in said] == [
        "sse = AES256 (it ",
        "the storage class",
        "tags; rules that ",
        "object_lock: NEW ",
    ]
    assert sum(method == "HEAD" for method, _, _ in server.requests) == 2


def test_what_may_not_be_seen_is_not_called_unheeded(limited):
    """Credentials that may not see tags and locks are told nothing of them."""
    store, server = limited(tags=(), object_lock=ObjectLock("governance", 30 * DAY_S))
    said = []
    store.configure(conditional_create=True, warn=said.append)
    server.answer = lambda method, path: (
        (403, {}, error_body("AccessDenied")) if method == "GET" and path.endswith(("?tagging", "?retention")) else None
    )
    store.put(MANIFEST, b"x")
    assert said == []
    assert len(server.requests) == 4


def test_settings_that_a_server_heeds_are_not_told(lockable):
    """A real server that does all of it gives no warning, for packs and for other objects."""
    store = lockable.open(
        sse="AES256",
        storage_class="STANDARD_IA",
        tags=(("team", "vision"),),
        object_lock=ObjectLock("governance", 30 * DAY_S),
    )
    said = []
    store.configure(conditional_create=True, warn=said.append)
    store.put(MANIFEST, b"x")
    in_parts(store, PACK)
    assert said == []


def test_a_server_that_forgets_tags_of_uploads_is_found_out(bucket):
    """The server that plays AWS keeps tags of puts, and drops those of uploads in parts."""
    store = bucket.open(tags=(("team", "vision"),))
    said = []
    store.configure(conditional_create=True, warn=said.append)
    store.put(MANIFEST, b"x")
    assert said == []
    in_parts(store, PACK)
    assert len(said) == 1


def test_at_aws_a_refusal_may_be_for_want_of_a_payer(limited):
    """A bucket that makes requesters pay says only that access is denied; who pays already reads nothing of it."""
    for options, is_said in (({}, True), ({"requester_pays": True}, False)):
        store, server = limited(endpoint_url=None, region="us-east-1", **options)
        assert store._client.may_lack_payer == is_said
        store, server = limited(**options)
        store._client.may_lack_payer = is_said
        server.answer = lambda _method, _path: (403, {}, error_body("AccessDenied"))
        with pytest.raises(errors.StoreDenied) as caught:
            store.get("repository", limit_bytes=1)
        assert ("requester_pays = true under [s3]" in str(caught.value)) == is_said


def test_a_server_that_fails_inside_for_want_of_kms_is_told_as_that(limited):
    """SeaweedFS answers 500 to a key of KMS that it has not: it is tried again, and the setting is named."""
    store, server = limited(sse="aws:kms", kms_key_id=KEY)
    server.answer = lambda method, _path: (500, {}, error_body("InternalError")) if method == "PUT" else None
    error = refused(store)
    assert store.is_transient(error)
    assert "a server without KMS answers so too: sse under [s3]" in str(error)


def test_another_machine_that_locked_it_meanwhile_is_no_refusal(limited):
    """S3 refuses to shorten a lock, by a second too: what another agent has just locked for longer is locked."""
    store, server = limited(object_lock=ObjectLock("governance", 30 * DAY_S))
    shown = {"Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT", "x-amz-object-lock-mode": "ODD"}
    puts = []

    def answer(method, path):
        if method == "PUT":
            puts.append(path)
            return 403, {}, error_body("AccessDenied")
        until = "2026-11-02T10:00:00Z" if not puts or is_refused else "2099-11-02T10:00:00Z"
        return 200, {**shown, "x-amz-object-lock-retain-until-date": until}, b""

    server.answer = answer
    is_refused = False
    assert not store.keep_for("repository", 30 * DAY_S, 15 * DAY_S)
    assert len(puts) == 1
    is_refused = True
    with pytest.raises(errors.StoreDenied, match="s3:PutObjectRetention and s3:GetObjectRetention"):
        store.keep_for("repository", 30 * DAY_S, 15 * DAY_S)


def test_a_date_past_the_end_of_time_is_not_believed(limited):
    """A store whose date is the year 9999 gets locks by this machine's clock."""
    store, server = limited(object_lock=ObjectLock("governance", 30 * DAY_S))
    server.answer = lambda _method, _path: (404, {"Date": "Fri, 31 Dec 9999 23:59:59 GMT"}, error_body("NoSuchKey"))
    with pytest.raises(errors.NotFound):
        store.get("repository", limit_bytes=1)
    server.answer = lambda _method, _path: None
    store.put(MANIFEST, b"x")
    sent = [headers for method, _, headers in server.requests if method == "PUT"]
    assert int(sent[0]["x-amz-object-lock-retain-until-date"][:4]) - time.gmtime().tm_year in (0, 1)
