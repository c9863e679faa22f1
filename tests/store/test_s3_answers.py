"""Unusual answers of S3 servers: unknown codes, refusals without a body, other forms of addresses."""

from __future__ import annotations

import hashlib
import socket

import pytest

from certificate import write_certificate
from fault_proxy import Fault
from limited_s3 import LimitedS3, error_body
from mlsync import errors
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.options import OVERWRITES

pytestmark = pytest.mark.slow

_PROFILE = """[profile oss]
aws_access_key_id = somebody
aws_secret_access_key = geheim
s3 =
    addressing_style = virtual
"""


@pytest.fixture
def limited(monkeypatch):
    """Open a store on a limited server, which stops at the end of the test."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    opened = []

    def start(options=StoreOptions(), **limits):  # noqa: B008  frozen
        server = LimitedS3(**limits)
        server.start()
        given = {name: getattr(options, name) for name in options.__slots__} | {"endpoint_url": server.endpoint_url}
        store = open_store("s3://bucket", StoreOptions(**given))
        opened.append((store, server))
        return store, server

    yield start
    for store, server in opened:
        store.close()
        server.stop()


@pytest.fixture
def names_below_localhost(monkeypatch):
    """Have ``bucket.localhost`` lead here, as a name server would."""
    found = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more, **options: found(str(host).removeprefix("bucket."), *more, **options)
    )


@pytest.fixture
def through_proxy(s3_url, s3_server, proxy):
    """A store on the real server behind the proxy, and the proxy."""
    proxy.reset()
    store = open_store(s3_url, StoreOptions(endpoint_url=proxy.url, region=s3_server.region))
    yield store, proxy
    store.close()


# ------------------------------------------------------------ refusals


def test_a_refused_head_is_asked_again_by_a_read_for_its_reason(through_proxy):
    """If a HEAD is refused without a reason, the answer to a read of one byte gives it."""
    store, proxy = through_proxy
    store.put("a", b"body")
    proxy.reset(Fault("403", "HeadObject"), Fault("400 expired", "GetObject"))
    with pytest.raises(errors.StoreDenied, match="ExpiredToken"):
        store.stat("a")
    assert [request.operation for request in proxy.requests] == ["HeadObject", "GetObject"]


def test_a_head_that_is_refused_where_a_read_is_not_costs_no_backup(through_proxy):
    """If only HEAD is refused, the read's answer gives the object's size."""
    store, proxy = through_proxy
    store.put("a", b"body")
    proxy.reset(Fault("403", "HeadObject"))
    assert store.stat("a").size_bytes == 4


def test_an_object_that_is_not_there_is_asked_for_once(through_proxy):
    """A HEAD of a missing object needs no read."""
    store, proxy = through_proxy
    with pytest.raises(errors.NotFound):
        store.stat("a")
    assert [request.operation for request in proxy.requests] == ["HeadObject"]


@pytest.mark.parametrize("message", ["<Message/>", "<Message> </Message>"])
def test_an_empty_message_is_left_out(limited, message):
    """An answer without a message is quoted by its code alone."""
    body = f"<Error><Code>Odd</Code>{message}</Error>".encode()
    store, _ = limited(answer=lambda *_: (400, {}, body))
    with pytest.raises(errors.StoreBroken) as caught:
        store.get("a", limit_bytes=9)
    assert caught.value.what == "the store answered Odd"
    assert "None" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 501])
def test_an_answer_that_no_table_knows_is_not_of_the_object(limited, status):
    """An unknown answer is about the server, not the object, so nobody takes it for damage."""
    store, _ = limited(answer=lambda *_: (status, {}, error_body("Odd")))
    calls = [
        lambda: store.get("a", limit_bytes=9),
        lambda: store.read("a", 0, memoryview(bytearray(4))),
        lambda: store.stat("a"),
    ]
    for call in calls:
        with pytest.raises(errors.StoreBroken, match="Odd: as asked for") as caught:
            call()
        assert not caught.value.is_of_object
        assert not store.is_transient(caught.value)


@pytest.mark.parametrize("kind", ["416", "404", "404 unknown"])
def test_a_store_that_denies_what_it_has_by_its_own_word_is_told_as_such(through_proxy, kind):
    """If the store refuses a read as missing or short, but its stat has the object, the error says so."""
    store, proxy = through_proxy
    store.put("a", b"body")
    proxy.reset(Fault(kind, "GetObject"))
    with pytest.raises(errors.StoreBroken, match="but says that the object has 4 bytes") as caught:
        store.read("a", 0, memoryview(bytearray(4)))
    assert not caught.value.is_of_object


def test_a_read_behind_the_end_of_a_real_object_is_of_the_object(s3_store):
    """A read past an object's end is damage of the object, wherever the read begins."""
    s3_store.put("a", b"body")
    for offset in (2, 4, 100):
        with pytest.raises(errors.StoreBroken, match="ends before") as caught:
            s3_store.read("a", offset, memoryview(bytearray(4)))
        assert caught.value.is_of_object


def test_an_object_that_is_not_there_is_not_found_by_a_read(s3_store):
    """A read of a missing object is NotFound."""
    with pytest.raises(errors.NotFound):
        s3_store.read("a", 0, memoryview(bytearray(4)))


# ------------------------------------------------------------ cold storage


def test_archived_objects_are_reported_by_listing_and_stat(s3_store, s3_server):
    """On the real server, listing and stat report objects of archive classes as archived, and no others."""
    client = s3_server.client()
    bucket, _, prefix = s3_store.url.removeprefix("s3://").partition("/")
    for key, storage_class in (("a", "GLACIER"), ("b", "DEEP_ARCHIVE"), ("c", "GLACIER_IR"), ("d", "STANDARD")):
        client.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=b"body", StorageClass=storage_class)
    client.close()
    assert {info.key: info.is_archived for info in s3_store.list("")} == {"a": True, "b": True, "c": False, "d": False}
    assert [s3_store.stat(key).is_archived for key in "abcd"] == [True, True, False, False]


def test_restored_object_is_not_archived(limited):
    """An object whose restore has finished is not archived; one whose restore is in progress is."""
    status = "<RestoreStatus><IsRestoreInProgress>{}</IsRestoreInProgress></RestoreStatus>"
    entry = (
        "<Contents><Key>{}</Key><Size>1</Size><LastModified>2026-11-02T10:00:00Z</LastModified>"
        "<StorageClass>GLACIER</StorageClass>{}</Contents>"
    )
    entries = [("a", ""), ("b", status.format("true")), ("c", status.format("false"))]
    body = "".join(entry.format(*each) for each in entries)
    page = f"<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>3</KeyCount>{body}</ListBucketResult>"
    restore = {"a": {}, "b": {"x-amz-restore": 'ongoing-request="true"'}}
    restore["c"] = {"x-amz-restore": 'ongoing-request="false", expiry-date="Fri, 4 Dec 2026 00:00:00 GMT"'}

    def answer(method, path):
        if method == "HEAD":
            headers = {"x-amz-storage-class": "GLACIER", "Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT"}
            return 200, headers | restore[path[-1]], b""
        return 200, {}, page.encode()

    store, server = limited(answer=answer)
    assert [info.is_archived for info in store.list("")] == [True, True, False]
    assert [store.stat(key).is_archived for key in "abc"] == [True, True, False]
    asked = [headers.get("x-amz-optional-object-attributes") for method, _, headers in server.requests[:2]]
    assert asked == [None, "RestoreStatus"]


# ------------------------------------------------------------ conditions among versions


def test_a_bucket_that_overwrites_once_it_has_versions_is_found_out_by_the_first_answer(limited):
    """If a bucket ignores conditions since it has versions, the store knows before the next create."""
    store, server = limited()
    findings = []
    store.configure(conditional_create=True, warn=findings.append)
    store.put("a", b"first")
    assert findings == []
    server.has_versions = True
    store.put("b", b"x")
    assert not store.conditional_create
    assert findings == [OVERWRITES]
    with pytest.raises(errors.AlreadyExists):
        store.put("a", b"second")
    assert server.objects["a"] == b"first"


def test_a_real_bucket_with_versions_is_probed_once_and_found_good(s3_server):
    """A server that respects conditions among versions costs one probe per process; the probe object stays."""
    bucket = s3_server.make_bucket()
    client = s3_server.client()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for number in range(3):
        store = open_store(f"s3://{bucket}/runs", StoreOptions(endpoint_url=s3_server.endpoint_url))
        store.put(f"a{number}", b"x")
        store.put(f"b{number}", b"x")
        assert store.conditional_create
        store.close()
    versions = client.list_object_versions(Bucket=bucket, Prefix="runs/probe")
    client.close()
    assert (len(versions["Versions"]), versions.get("DeleteMarkers", [])) == (1, [])


# ------------------------------------------------------------ uploads that cannot be listed


@pytest.mark.parametrize(
    ("kind", "says"), [("403", "s3:ListMultipartUploadParts"), ("405", "MethodNotAllowed"), ("501", "NotImplemented")]
)
def test_an_upload_whose_parts_may_not_be_listed_is_begun_anew(through_proxy, kind, says):
    """If the server refuses to list parts, the upload is aborted and begun anew."""
    store, proxy = through_proxy
    upload = store.upload("a")
    upload.write(0, bytes(store.part_bytes))
    token = upload.resume_token()
    proxy.reset(Fault(kind, "ListParts"))
    with pytest.raises(errors.NotFound, match="cannot be resumed") as caught:
        store.resume("a", token)
    assert says in str(caught.value)
    assert proxy.count("AbortMultipartUpload") == 1


def test_keys_that_are_refused_while_parts_are_listed_end_the_backup(through_proxy):
    """If the keys are refused while parts are listed, the error is raised and the parts stay."""
    store, proxy = through_proxy
    upload = store.upload("a")
    upload.write(0, bytes(store.part_bytes))
    token = upload.resume_token()
    proxy.reset(Fault("400 expired", "ListParts"))
    with pytest.raises(errors.StoreDenied, match="ExpiredToken"):
        store.resume("a", token)
    proxy.reset()
    store.resume("a", token).finish(store.part_bytes)


# ------------------------------------------------------------ addresses


def test_the_bucket_goes_into_the_host_where_the_path_is_refused(limited, names_below_localhost):
    """With addressing = auto, a server that refuses the path gets the bucket's name in the host name from then on."""
    store, server = limited(wants_host=True)
    store.put("a/b", memoryview(b"body"))
    assert store.get("a/b", limit_bytes=9) == b"body"
    assert store.stat("a/b").size_bytes == 4
    assert [path for _, path, _ in server.requests] == ["/bucket/a/b", "/a/b", "/a/b", "/a/b"]


def test_a_signed_body_is_sent_whole_in_the_other_form_too(limited, names_below_localhost):
    """The second form sends the whole body, even if the first one has read it."""
    store, server = limited(StoreOptions(payload_signing="always"), wants_host=True)
    store.put("a", b"body")
    assert server.objects == {"a": b"body"}


def test_a_path_that_was_asked_for_and_is_refused_says_what_to_set(limited):
    """With addressing = path no other form is tried, and the advice names the configuration key."""
    store, _ = limited(StoreOptions(addressing="path"), wants_host=True)
    with pytest.raises(errors.StoreLocationInvalid, match="addressing = virtual"):
        store.get("a", limit_bytes=9)


def test_the_form_that_the_profile_names_is_heeded(limited, names_below_localhost, monkeypatch, tmp_path):
    """The profile's ``s3 = addressing_style`` applies only if the configuration says auto."""
    (tmp_path / "config").write_text(_PROFILE)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    store, server = limited(StoreOptions(profile="oss"), wants_host=True)
    store.put("a", b"x")
    assert [path for _, path, _ in server.requests] == ["/a"]
    store, server = limited(StoreOptions(profile="oss", addressing="path"))
    store.put("a", b"x")
    assert [path for _, path, _ in server.requests] == ["/bucket/a"]


# ------------------------------------------------------------ signed bodies


def test_a_signed_body_needs_no_trailer_over_https(limited, tmp_path):
    """payload_signing = always works over https on servers without trailers, because headers carry the checksum."""
    certificate = write_certificate(tmp_path)
    options = StoreOptions(payload_signing="always", ca_file=str(certificate[0]))
    store, server = limited(options, certificate=certificate)
    store.put("a", b"body")
    assert server.objects == {"a": b"body"}
    (_, _, headers), *_ = server.requests
    sent = {name.lower(): value for name, value in headers.items()}
    assert sent["x-amz-content-sha256"] == hashlib.sha256(b"body").hexdigest()
    assert "x-amz-trailer" not in sent
    assert sent.get("content-encoding") is None


def test_signed_bodies_are_taken_by_a_real_server_over_https(secure, monkeypatch):
    """A real server accepts signed puts and parts over https."""
    url, certificate, server, bucket = secure
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    options = StoreOptions(endpoint_url=url, ca_file=str(certificate), payload_signing="always")
    store = open_store(f"s3://{bucket}/signed", options)
    store.put("small", b"body")
    upload = store.upload("large")
    upload.write(0, bytes(store.part_bytes))
    upload.write(store.part_bytes, b"tail")
    upload.finish(store.part_bytes + 4)
    assert store.stat("large").size_bytes == store.part_bytes + 4
    assert store.get("small", limit_bytes=9) == b"body"
    store.close()


# ------------------------------------------------------------ prefixes


@pytest.mark.parametrize(
    "prefix", ["my runs/a b", "100%", "a%2Fb%20c#d", "äö/日本😀", "a+b=c&d;e:f<x>'\"[1]{2}|^`~*$,"]
)
def test_a_prefix_of_any_letters_holds_a_store_on_a_real_server(s3_bucket, s3_options, prefix):
    """The whole contract works below a prefix with spaces, percent signs, hashes and letters of all scripts."""
    store = open_store(f"s3://{s3_bucket}/{prefix}", s3_options)
    assert store.probe()
    store.put("a/x", b"hello")
    upload = store.upload("b/y")
    upload.write(0, bytes(store.part_bytes))
    upload = store.resume("b/y", upload.resume_token())
    upload.write(store.part_bytes, b"tail")
    upload.finish(store.part_bytes + 4)
    left = store.upload("b/z")
    left.write(0, bytes(store.part_bytes))
    into = bytearray(4)
    store.read("b/y", store.part_bytes, memoryview(into))
    assert into == b"tail"
    assert [info.key for info in store.list("")] == ["a/x", "b/y"]
    assert [info.key for info in store.list("", after="a/x")] == ["b/y"]
    assert store.remove_stale_uploads(-3600) == 1
    with pytest.raises(errors.AlreadyExists):
        store.put("a/x", b"again")
    store.delete("a/x")
    assert [info.key for info in store.list("")] == ["b/y"]
    assert open_store(store.url, s3_options).stat("b/y").size_bytes == store.part_bytes + 4
    store.close()


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        ("a?b", "may not contain the character '?'"),
        ("a\\b", r"may not contain the character '\\\\'"),
        ("a\nb", r"may not contain the character '\\n'"),
        ("a\u00a0b", r"may not contain the character '\\xa0'"),
        ("a//b", "may not have the part ''"),
        ("a/../b", "may not have the part '..'"),
        ("ä" * 300, "longer than 500 bytes"),
    ],
)
def test_a_prefix_that_is_refused_is_told_why(prefix, says):
    """The message names the character or part that a prefix must not contain."""
    with pytest.raises(errors.StoreLocationInvalid, match=says):
        open_store(f"s3://bucket/{prefix}", StoreOptions())
