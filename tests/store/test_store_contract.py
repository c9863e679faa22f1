"""The contract of base.py, run over every store in every wrapper."""

from __future__ import annotations

import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlsync import errors
from mlsync.store.base import Store, Upload
from mlsync.store.wrapping import WrappingStore, WrappingUpload

RACERS_COUNT = 8


def content_of(store, key):
    """All bytes of an object, by a ranged read."""
    content = bytearray(store.stat(key).size_bytes)
    store.read(key, 0, memoryview(content))
    return bytes(content)


def keys(store, prefix="", **arguments):
    """The keys that a listing gives."""
    return [info.key for info in store.list(prefix, **arguments)]


def test_put_object_is_read_back_whole_and_in_ranges(store):
    """get, and read of every range, return what was put."""
    body = os.urandom(100_000)
    store.put("packs/ab/one", body)
    assert store.get("packs/ab/one", limit_bytes=len(body)) == body
    for offset, length in [(0, len(body)), (0, 1), (99_999, 1), (17, 70_000)]:
        into = bytearray(length)
        store.read("packs/ab/one", offset, memoryview(into))
        assert into == body[offset : offset + length]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_put_takes_every_kind_of_buffer_and_keeps_none(store, kind):
    """A body may be changed as soon as put has returned."""
    source = bytearray(b"0123456789" * 1000)
    body = kind(source) if kind is not bytearray else source
    store.put("repository", body)
    source[:] = bytes(len(source))
    assert store.get("repository", limit_bytes=1 << 20) == b"0123456789" * 1000


def test_read_fills_a_slice_of_a_larger_buffer(store):
    """A read writes its slice and nothing beside it."""
    store.put("a", b"0123456789")
    buffer = bytearray(b"." * 8)
    store.read("a", 2, memoryview(buffer)[2:5])
    assert bytes(buffer) == b"..234..."


def test_object_of_no_bytes_is_an_object(store):
    """An empty object is listed, has size 0, and takes its key."""
    store.put("empty", b"")
    assert store.stat("empty").size_bytes == 0
    assert store.get("empty", limit_bytes=0) == b""
    assert keys(store) == ["empty"]
    with pytest.raises(errors.AlreadyExists):
        store.put("empty", b"")


def test_taken_key_is_refused_and_left_as_it_was(store):
    """A second put of a key raises AlreadyExists and changes nothing."""
    store.put("a/b", b"first")
    with pytest.raises(errors.AlreadyExists) as caught:
        store.put("a/b", b"second")
    assert "a/b" in str(caught.value)
    assert not store.is_transient(caught.value)
    assert store.get("a/b", limit_bytes=10) == b"first"


def test_of_racing_puts_exactly_one_wins(store):
    """Of eight threads that put one key, one succeeds and seven get AlreadyExists, in each of five rounds."""
    for number in range(5):
        key = f"versions/aa/{number:010}"

        def put(racer, key=key):
            try:
                store.put(key, bytes([racer]) * 1000)
            except errors.AlreadyExists:
                return None
            return racer

        with ThreadPoolExecutor(RACERS_COUNT) as pool:
            winners = [racer for racer in pool.map(put, range(RACERS_COUNT)) if racer is not None]
        assert len(winners) == 1
        assert store.get(key, limit_bytes=1000) == bytes(winners) * 1000


def test_of_racing_uploads_exactly_one_wins(store, request):
    """Of uploads of one key that finish together, one succeeds and the others raise AlreadyExists."""
    # SeaweedFS 4.48 looks for the object and then completes, so of two completes in the same moment both may win;
    # its puts do not have this gap. Nothing rests on it: keys of uploads are random, versions are put.
    finishers_count = 1 if "s3_store" in request.fixturenames else 3
    size_bytes = store.part_bytes + 10
    uploads = [store.upload("packs/aa/raced") for _ in range(3)]
    for racer, upload in enumerate(uploads):
        upload.write(0, bytes([racer]) * store.part_bytes)
        upload.write(store.part_bytes, bytes([racer]) * 10)

    def finish(racer):
        try:
            uploads[racer].finish(size_bytes)
        except errors.AlreadyExists:
            return None
        finally:
            uploads[racer].abort()
        return racer

    with ThreadPoolExecutor(finishers_count) as pool:
        winners = [racer for racer in pool.map(finish, range(len(uploads))) if racer is not None]
    assert len(winners) == 1
    assert content_of(store, "packs/aa/raced") == bytes(winners) * size_bytes


def test_parts_come_in_any_order_from_any_thread_and_twice(store):
    """Parts may come in any order, from any thread, and twice; the object does not exist before finish."""
    part_bytes = store.part_bytes
    body = random.Random(1).randbytes(3 * part_bytes + 123)
    offsets = [3 * part_bytes, part_bytes, 0, 2 * part_bytes, part_bytes]
    upload = store.upload("packs/ab/large")

    def write(offset):
        part = bytearray(body[offset : offset + part_bytes])
        upload.write(offset, part)
        part[:] = bytes(len(part))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, offsets))
    assert keys(store) == []
    with pytest.raises(errors.NotFound):
        store.stat("packs/ab/large")
    upload.finish(len(body))
    assert content_of(store, "packs/ab/large") == body
    upload.abort()
    assert keys(store) == ["packs/ab/large"]


@pytest.mark.parametrize("size_bytes", [0, 1, 1000])
def test_upload_of_at_most_one_short_part_is_an_object(store, size_bytes):
    """An upload of nothing, or of one short part, becomes an object."""
    upload = store.upload("packs/ab/small")
    if size_bytes:
        upload.write(0, b"x" * size_bytes)
    upload.finish(size_bytes)
    assert content_of(store, "packs/ab/small") == b"x" * size_bytes


def test_upload_to_a_taken_key_is_refused_at_its_end(store):
    """``finish`` raises AlreadyExists and leaves the earlier object."""
    upload = store.upload("a")
    upload.write(0, b"late")
    store.put("a", b"early")
    with pytest.raises(errors.AlreadyExists):
        upload.finish(4)
    upload.abort()
    assert store.get("a", limit_bytes=10) == b"early"


def test_upload_with_a_hole_is_never_finished(store):
    """A missing part is a ValueError, as are parts that fit nowhere, and no object appears."""
    upload = store.upload("a")
    upload.write(store.part_bytes, b"second")
    with pytest.raises(ValueError, match="do not make up"):
        upload.finish(store.part_bytes + 6)
    upload.write(0, b"first")
    with pytest.raises(ValueError, match="do not make up"):
        upload.finish(11)
    for offset, length in [(1, 1), (-store.part_bytes, 1), (0, store.part_bytes + 1), (0, 0)]:
        with pytest.raises(ValueError, match="does not fit"):
            upload.write(offset, bytes(length))
    upload.abort()
    assert keys(store) == []


def test_aborted_upload_leaves_nothing_and_is_over(store, request):
    """After abort there is no object, no temporary file, no multipart upload, and no way back."""
    upload = store.upload("packs/ab/aborted")
    upload.write(0, bytes(store.part_bytes))
    upload.write(store.part_bytes, b"end")
    upload.abort()
    upload.abort()
    assert keys(store) == []
    if "directory_store" in request.fixturenames:
        assert list((request.getfixturevalue("tmp_path") / "repository" / "tmp").iterdir()) == []
    if "s3_store" in request.fixturenames:
        assert multipart_keys(request) == []


def multipart_keys(request):
    """The keys below this test's prefix that the server holds unfinished uploads of."""
    bucket, _, prefix = request.getfixturevalue("s3_url").removeprefix("s3://").partition("/")
    client = request.getfixturevalue("s3_server").client()
    try:
        found = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    finally:
        client.close()
    return [upload["Key"] for upload in found if upload["Key"].startswith(prefix)]


def test_replaced_object_is_the_new_one_and_still_taken(store):
    """Replace overwrites an object, or creates it, and the key is refused to a put as before."""
    store.put("versions/a", b"a manifest of many bytes")
    for key in ("versions/a", "versions/b"):
        store.replace(key, b"fence")
        assert (store.get(key, limit_bytes=100), store.stat(key).size_bytes) == (b"fence", 5)
        with pytest.raises(errors.AlreadyExists):
            store.put(key, b"another")
    assert keys(store) == ["versions/a", "versions/b"]


def test_replaced_key_is_free_at_no_moment(store):
    """While one thread replaces an object again and again, no put of another gets in."""
    store.put("versions/a", b"0")
    with ThreadPoolExecutor(1) as executor:
        replacing = executor.submit(lambda: [store.replace("versions/a", str(turn).encode()) for turn in range(20)])
        while not replacing.done():
            with pytest.raises(errors.AlreadyExists):
                store.put("versions/a", b"mine")
        replacing.result()
    assert content_of(store, "versions/a") == b"19"


def test_absent_object_is_not_found(store):
    """Every read of a missing key raises NotFound, which is not transient."""
    store.put("packs/ab/there", b"x")
    for look in (
        lambda: store.stat("packs/ab/away"),
        lambda: store.get("packs/ab/away", limit_bytes=10),
        lambda: store.read("packs/ab/away", 0, memoryview(bytearray(1))),
        lambda: store.stat("nowhere/at/all"),
    ):
        with pytest.raises(errors.NotFound) as caught:
            look()
        assert not store.is_transient(caught.value)


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (5, 6), (10, 1), (1000, 1)])
def test_read_past_the_end_is_an_error(store, offset, length):
    """A read past the end raises StoreBroken, which is not transient."""
    store.put("a", b"0123456789")
    with pytest.raises(errors.StoreBroken) as caught:
        store.read("a", offset, memoryview(bytearray(length)))
    assert not store.is_transient(caught.value)


def test_get_refuses_more_than_its_limit(store):
    """An object that is longer than expected is not read into memory."""
    store.put("a", b"0123456789")
    assert store.get("a", limit_bytes=10) == b"0123456789"
    with pytest.raises(errors.StoreBroken):
        store.get("a", limit_bytes=9)


def test_stat_and_list_tell_size_and_time(store):
    """Size and time of an object are the same in stat and list, and the time is now."""
    store.put("a", b"0123456789")
    (listed,) = store.list("")
    found = store.stat("a")
    assert (found.key, found.size_bytes) == (listed.key, listed.size_bytes) == ("a", 10)
    assert abs(found.modified_s - listed.modified_s) < 1.001  # HEAD tells whole seconds
    assert abs(found.modified_s - time.time()) < 3600


def test_deleted_object_is_gone_and_its_key_free(store):
    """``delete`` removes an object, ignores a missing one, and frees the key."""
    store.put("a/b", b"x")
    store.put("a/c", b"y")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/there")
    assert keys(store) == ["a/c"]
    with pytest.raises(errors.NotFound):
        store.stat("a/b")
    store.put("a/b", b"again")
    assert store.get("a/b", limit_bytes=10) == b"again"


# A directory whose name begins another's sorts differently as text and in a walk through directories. Our own keys do
# not have that, and SeaweedFS lists it in the order of the walk, so it is asked only of memory and directory.
ORDERED = ["a/-", "a/x/1", "a/x/2", "a/y", "a0", "b", "packs/00/1", "packs/ff/1", "repository"]
AWKWARD = ["a-b", "a.b", "a/-", "a/x/1", "a/x/2", "a/y", "a0", "b", "packs/00/1", "packs/ff/1", "packs.old"]


@pytest.fixture
def ordered(store):
    """A store with keys on several levels, put in no order."""
    for key in random.Random(2).sample(ORDERED, len(ORDERED)):
        store.put(key, key.encode())
    return store


def test_listing_is_in_key_order(ordered):
    """Keys come in the order of their bytes, over all levels."""
    assert keys(ordered) == sorted(ORDERED)


def test_listing_is_cut_to_its_prefix(ordered):
    """A prefix selects the keys that begin with it, at a slash or within a name."""
    for prefix in ("a", "a/", "a/x", "a/x/", "a/x/1", "packs", "packs/", "packs/f", "repository", "c", "c/d/e"):
        assert keys(ordered, prefix) == sorted(key for key in ORDERED if key.startswith(prefix))


def test_listing_begins_after(ordered):
    """*after* skips all keys up to it, whether it exists or not, before, in or behind the prefix."""
    for prefix in ("", "a/"):
        for after in [*ORDERED, "a/x/", "a/x/10", "0", "zz"]:
            expected = sorted(key for key in ORDERED if key.startswith(prefix) and key > after)
            assert keys(ordered, prefix, after=after) == expected


def test_awkward_names_are_listed_in_the_order_of_their_bytes(memory_store, directory_store):
    """``a-b`` comes before ``a/x``, and ``a0`` after it, with any prefix and *after*."""
    for ordered in (memory_store, directory_store):
        for key in AWKWARD:
            ordered.put(key, b"")
        for prefix in ("", "a", "a/", "packs", "packs/"):
            for after in ["", *AWKWARD, "a/x/", "a/x/10", "0", "zz"]:
                expected = sorted(key for key in AWKWARD if key.startswith(prefix) and key > after)
                assert keys(ordered, prefix, after=after) == expected


@pytest.mark.parametrize("kind", ["memory", "directory", "s3"])
def test_listing_is_whole_beyond_a_thousand_objects(request, kind):
    """A listing continues over pages, and may begin in any."""
    bare = request.getfixturevalue(f"{kind}_store")
    expected = [f"packs/{number % 4:02}/{number:06}" for number in range(1003)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: bare.put(key, b""), expected))
    expected.sort()
    from mlsync.store.retry import RetryingStore

    assert keys(RetryingStore(bare), "packs/") == expected
    assert keys(bare, "packs/", after=expected[500]) == expected[501:]


WRONG_KEYS = ["", "/a", "a/", "a//b", "a/../b", "..", ".", "A", "a b", "a_b", "a\n", "ä", "x" * 513, "tmp/a", "tmp"]


def test_wrong_key_is_a_bug_of_the_caller(store):
    """Every method refuses a text that is not a key, before it reaches the store."""
    for key in WRONG_KEYS:
        for call in (
            lambda key: store.put(key, b""),
            store.upload,
            store.stat,
            lambda key: store.get(key, limit_bytes=1),
            lambda key: store.read(key, 0, memoryview(bytearray(1))),
            store.delete,
        ):
            with pytest.raises(ValueError, match="not an object key"):
                call(key)


def test_wrong_prefix_is_a_bug_of_the_caller(store):
    """A listing refuses a prefix with which no key begins."""
    for prefix in ("/", "../", "a//", "A", "tmp/"):
        with pytest.raises(ValueError, match="not the beginning"):
            list(store.list(prefix))


def test_longest_key_is_an_object(store):
    """A key of 512 bytes works."""
    key = "/".join(["k" * 127] * 4)
    store.put(key + "x", b"1")
    assert len(key) + 1 == 512
    assert keys(store) == [key + "x"]


def test_url_holds_no_secret(store, request):
    """A store's URL and its errors contain no key."""
    with pytest.raises(errors.NotFound) as caught:
        store.stat("a")
    if "s3_store" in request.fixturenames:
        server = request.getfixturevalue("s3_server")
        assert store.url.startswith("s3://")
        for secret in (server.secret_key, server.access_key):
            assert secret not in f"{store.url} {caught.value} {caught.value.__cause__}"


def begun(store, key="packs/ab/begun", parts_count=2, seed=1):
    """An upload with its first parts, and what they are."""
    body = random.Random(seed).randbytes(parts_count * store.part_bytes)
    upload = store.upload(key)
    for offset in range(0, len(body), store.part_bytes):
        upload.write(offset, body[offset : offset + store.part_bytes])
    return upload, body


@pytest.fixture
def resumable(store, request):
    """A store of those that can go on with an upload."""
    if "directory_store" in request.fixturenames:
        pytest.skip("a directory's uploads end with their process")
    return store


def test_upload_is_resumed_by_its_token(resumable):
    """Who has the token needs to send only what was not sent, and may send parts again."""
    upload, body = begun(resumable)
    tail = b"tail" * 100
    upload.write(len(body), tail)
    for part_again in (False, True):
        resumed = resumable.resume("packs/ab/begun", upload.resume_token())
        if part_again:
            resumed.write(0, body[: resumable.part_bytes])
    resumed.write(len(body), tail)
    resumed.finish(len(body) + len(tail))
    assert content_of(resumable, "packs/ab/begun") == body + tail
    assert resumable.remove_stale_uploads(0.0) == 0


def test_unknown_upload_has_no_token(store):
    """An upload has no token before its first part and after its end."""
    upload = store.upload("packs/ab/begun")
    assert upload.resume_token() is None
    upload.write(0, b"short and all")
    upload.finish(len(b"short and all"))
    assert upload.resume_token() is None


@pytest.mark.parametrize("end", ["finished", "aborted", "removed", "another key", "nonsense"])
def test_upload_that_is_over_cannot_be_resumed(store, end):
    """Resuming by the token of a finished, aborted or removed upload, or by no token at all, is NotFound."""
    upload, body = begun(store)
    key, token = "packs/ab/begun", upload.resume_token() or "a directory has none"
    if end == "finished":
        upload.finish(len(body))
    elif end == "aborted":
        upload.abort()
    elif end == "removed":
        store.remove_stale_uploads(-3600.0)
    elif end == "another key":
        key = "packs/ab/another"
    else:
        token = "x" + token
    with pytest.raises(errors.NotFound) as caught:
        store.resume(key, token)
    assert not store.is_transient(caught.value)
    upload.abort()


def test_token_of_a_lost_part_is_useless(resumable):
    """Resuming fails if the store lost a part of the token, or has another one in its place."""
    upload, _ = begun(resumable)
    other, _ = begun(resumable, parts_count=3, seed=2)
    token = other.resume_token()
    mixed = (
        token.replace(json.loads(token)["upload_id"], json.loads(upload.resume_token())["upload_id"])
        if "{" in token
        else (upload.resume_token().partition(":")[0] + ":" + token.partition(":")[2])
    )
    with pytest.raises(errors.NotFound):
        resumable.resume("packs/ab/begun", mixed)
    for one in (upload, other):
        one.abort()


def test_old_uploads_are_removed_and_new_ones_stay(resumable):
    """An unfinished upload is removed if it is older than asked; newer ones and objects stay."""
    resumable.put("packs/ab/object", b"an object")
    upload, _ = begun(resumable)
    token = upload.resume_token()
    assert resumable.remove_stale_uploads(3600.0) == 0
    resumable.resume("packs/ab/begun", token)
    assert resumable.remove_stale_uploads(-3600.0) == 1
    assert resumable.remove_stale_uploads(-3600.0) == 0
    assert keys(resumable) == ["packs/ab/object"]
    with pytest.raises(errors.NotFound):
        resumable.resume("packs/ab/begun", token)


def test_no_object_is_a_stray(store):
    """No listed object is among the strays."""
    for key in ("versions/aa/01", "versions/aa/02", "versions/bb/01"):
        store.put(key, b"x")
    assert {name for name, _ in store.strays("versions/")} <= {"versions/aa", "versions/bb"}
    assert list(store.strays("packs/")) == []


def test_store_that_is_said_to_overwrite_still_refuses_a_taken_key(store, request):
    """A store that is configured as overwriting still refuses a taken key; only S3 can be one."""
    assert store.conditional_create
    store.configure(conditional_create=False, warn=lambda _text: None)
    assert store.conditional_create is {"s3_store", "aws_store"}.isdisjoint(request.fixturenames)
    store.put("a", b"first")
    with pytest.raises(errors.AlreadyExists):
        store.put("a", b"second")


@pytest.mark.parametrize(("protocol", "base"), [(Store, WrappingStore), (Upload, WrappingUpload)])
def test_wrapper_forwards_the_whole_protocol(protocol, base):
    """The base of wrappers defines every member itself, so that no default hides the wrapped store's answer."""
    assert {name for name in vars(protocol) if not name.startswith("_")} <= vars(base).keys()


def test_a_store_that_locks_nothing_extends_no_lock(store):
    """Without a lock in the settings nothing is asked and nothing changes, in each store and through each wrapper."""
    store.put("packs/ab/one", b"x")
    assert store.keep_for("packs/ab/one", 60.0, 30.0) is False
    store.delete("packs/ab/one")
