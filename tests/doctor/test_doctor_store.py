"""What is found in a store: rights by trying them, clocks, key slots, and what a bucket is set to."""

from __future__ import annotations

import time
from functools import partial
from urllib.parse import parse_qs, urlsplit

import pytest

from limited_s3 import LimitedS3, error_body
from mlsync.doctor import bucket as buckets
from mlsync.doctor import store as stores
from mlsync.doctor.findings import Grade
from mlsync.errors import StoreDenied
from mlsync.store.directory.store import DirectoryStore
from mlsync.store.location import open_store
from mlsync.store.options import StoreOptions
from mlsync.store.s3.inspection import BucketInspection, LifecycleRule

URL = "s3://bucket/runs/yolo"
LOCK = (
    b"<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>"
    b"<Mode>GOVERNANCE</Mode><Days>30</Days></DefaultRetention></Rule></ObjectLockConfiguration>"
)


def grades(found):
    """Subject and grade of each."""
    return [(one.subject, one.grade.value) for one in found]


@pytest.fixture
def server(monkeypatch):
    """A server that answers as a test says; see ``answering``."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    running = LimitedS3()
    running.start()
    yield running
    running.stop()


def options(server) -> StoreOptions:
    """How the server is reached."""
    return StoreOptions(endpoint_url=server.endpoint_url, region="us-east-1", addressing="path")


def answering(server, **answers):
    """The server answers a question about the bucket's settings with a status and a body."""

    def answer(_method, path):
        for question in parse_qs(urlsplit(path).query, keep_blank_values=True):
            if question.replace("-", "_") in answers:
                status, body = answers[question.replace("-", "_")]
                return status, {}, body
        return None

    server.answer = answer


@pytest.fixture
def inspection(server):
    """Somebody who asks the server's bucket."""
    asked = BucketInspection(URL, options(server))
    yield asked
    asked.close()


def test_rights_are_found_by_an_object_that_goes_again(tmp_path):
    """In a directory all is allowed, the clock is that of the object's time, and nothing is left."""
    store = DirectoryStore(tmp_path / "repo", create=True)
    store.put("repository", b"{}")
    wall = store.stat("repository").modified_s
    found = list(stores.diagnose_rights(store, writes=True, prunes=False, is_bucket=False, wall=lambda: wall))
    assert {one.grade for one in found} == {Grade.FINE}
    assert stores.CLOCK in {one.subject for one in found}
    assert [one.key for one in store.list("")] == ["repository"]


def test_nothing_is_written_when_that_is_not_wanted(tmp_path):
    """Without writing the rights to write and delete are unknown."""
    store = DirectoryStore(tmp_path / "repo", create=True)
    found = list(stores.diagnose_rights(store, writes=False, prunes=False, is_bucket=False))
    assert found[-1].grade is Grade.UNKNOWN
    assert list(store.list("")) == []


def test_a_right_to_delete_that_no_backup_needs_is_a_warning(server):
    """Credentials of a bucket that may delete are told so; where the agent prunes, they have to."""
    store = open_store(URL, options(server))
    for prunes, grade in ((False, Grade.WARNING), (True, Grade.FINE)):
        found = list(stores.diagnose_rights(store, writes=True, prunes=prunes, is_bucket=True))
        assert [one.grade for one in found] == [Grade.FINE, Grade.FINE, Grade.FINE, grade]
    assert server.objects == {}


class Bucket:
    """What a bucket is set to."""

    def __init__(self, lock, versions):
        self._lock, self._versions = lock, versions

    def lock(self):
        """The lock, or why it is not known."""
        if isinstance(self._lock, Exception):
            raise self._lock
        return self._lock

    def keeps_versions(self):
        """Whether it has versions."""
        return self._versions


@pytest.mark.parametrize(
    ("bucket", "grade", "said"),
    [
        (Bucket(None, False), Grade.WARNING, "may delete, which no backup needs"),
        (Bucket("7 days, mode COMPLIANCE", True), Grade.FINE, "lock keeps each object"),
        (Bucket("", True), Grade.FINE, "noncurrent version"),
        (Bucket(None, True), Grade.FINE, "noncurrent version"),
        (Bucket(StoreDenied("no"), True), Grade.WARNING, "may delete, which no backup needs"),
    ],
)
def test_a_right_to_delete_is_weighed_by_what_the_bucket_keeps(server, bucket, grade, said):
    """Behind a lock or versions it costs nobody a version; where that is not known it counts in full."""
    remedy = partial(buckets.remedy_of, bucket)
    store = open_store(URL, options(server))
    *_, found = stores.diagnose_rights(store, writes=True, prunes=False, is_bucket=True, remedy=remedy)
    assert found.grade is grade
    assert said in found.what
    assert found.means


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("DELETE", ["fine", "fine", "fine", "fine"]),
        ("PUT", ["fine", "fine", "grave"]),
    ],
)
def test_a_refused_right_is_grave_only_if_it_is_needed(server, method, expected):
    """A store that refuses to delete is as it should be; one that refuses to write makes no version."""
    server.answer = lambda asked, _path: (403, {}, error_body("AccessDenied")) if asked == method else None
    found = stores.diagnose_rights(open_store(URL, options(server)), writes=True, prunes=False, is_bucket=True)
    assert [one.grade.value for one in found] == expected
    # What could not be deleted is one byte under a name of its own.
    left = [body for key, body in server.objects.items() if key.startswith("runs/yolo/doctor-")]
    assert left == ([b"x"] if method == "DELETE" else [])


def test_a_store_that_is_away_is_unknown_and_not_without_rights(server):
    """What cannot be tried is not known, which is said once, and nothing says that a right is lacking."""
    server.answer = lambda _method, _path: (503, {}, error_body("SlowDown"))
    found = stores.diagnose_rights(open_store(URL, options(server)), writes=True, prunes=False, is_bucket=True)
    assert [one.grade for one in found] == [Grade.UNKNOWN]


def test_a_place_without_repository_is_grave(tmp_path):
    """A directory that holds none and one that does not exist are told with what to do."""
    store = DirectoryStore(tmp_path / "repo", create=True)
    (found,) = stores.diagnose_store(lambda: store)
    assert (found.grade, found.what) == (Grade.GRAVE, "there is no repository")
    (found,) = stores.diagnose_store(lambda: open_store(f"file://{tmp_path}/none", StoreOptions()))
    assert found.grade is Grade.GRAVE


@pytest.mark.parametrize(("ahead_s", "grade"), [(30, "fine"), (-90, "warning"), (90_000, "grave")])
def test_a_wrong_clock_is_told(ahead_s, grade):
    """A minute is nothing, more is a warning, a day is grave: rules go by these times."""
    assert stores.diagnose_clock(ahead_s).grade.value == grade


def test_the_servers_date_is_compared(server, inspection):
    """The clock of a bucket is the date of its answers, whatever this machine may write there."""
    assert 7190 < inspection.ahead_s(wall=lambda: time.time() - 7200) < 7210
    assert abs(inspection.ahead_s()) < 10
    assert {method for method, _, _ in server.requests} == {"GET"}


@pytest.mark.parametrize(
    ("kinds", "grade"),
    [([], "grave"), (["passphrase"], "warning"), (["passphrase", "key-file"], "fine"), (["recovery-key"], "warning")],
)
def test_one_key_slot_is_too_few(kinds, grade):
    """One way in may be lost; two are enough, and a recovery key is recommended."""
    assert stores.key_slots_found(kinds).grade.value == grade


def test_key_slots_are_seen_without_a_secret(tmp_path):
    """The kinds of the slots are read from the store, and one that does not parse is named."""
    store = DirectoryStore(tmp_path / "repo", create=True)
    store.put(f"keys/{'0' * 32}", b"no key slot")
    assert grades(stores.diagnose_key_slots(store)) == [("key slots", "warning"), ("key slots", "grave")]


def test_an_open_bucket_is_grave(server, inspection):
    """A bucket that answers without a signature is open; this server asks nobody for one."""
    server.objects["runs/yolo/repository"] = b"{}"
    (found,) = buckets.diagnose_public(inspection)
    assert found.grade is Grade.GRAVE
    assert "list and read" in found.what
    assert [sent.get("Authorization") is None for _, _, sent in server.requests] == [False, True, True]


def test_a_bucket_may_be_open_to_all_but_its_owner(server, inspection):
    """Credentials that may not list say nothing of what anybody may do without."""

    def answer(_method, _path):
        signed = server.requests[-1][2].get("Authorization")
        return (403, {}, error_body("AccessDenied")) if signed else None

    server.answer = answer
    (found,) = buckets.diagnose_public(inspection)
    assert (found.grade, "can list" in found.what) == (Grade.GRAVE, True)


def test_a_closed_bucket_is_fine(server, inspection):
    """A server that refuses what is not signed is closed."""

    def answer(_method, _path):
        signed = server.requests[-1][2].get("Authorization")
        return None if signed else (403, {}, error_body("AccessDenied"))

    server.answer = answer
    assert grades(buckets.diagnose_public(inspection)) == [("public access", "fine")]


def test_versions_and_locks_of_a_bucket(server, inspection):
    """What a bucket is set to is told, and that nothing is set too."""
    answering(
        server,
        versioning=(200, b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"),
        object_lock=(
            200,
            LOCK,
        ),
    )
    assert inspection.keeps_versions()
    assert inspection.lock() == "30 days, mode GOVERNANCE"
    answering(
        server,
        versioning=(200, b"<VersioningConfiguration/>"),
        object_lock=(404, error_body("ObjectLockConfigurationNotFoundError")),
        lifecycle=(404, error_body("NoSuchLifecycleConfiguration")),
    )
    assert not inspection.keeps_versions()
    assert inspection.lock() is None
    assert grades(buckets.diagnose_lifecycle(inspection)) == [("lifecycle", "fine")]


def test_a_refused_question_names_the_right(server, inspection):
    """Credentials that may not ask are an error with the right that is lacking, and never "off"."""
    answering(server, versioning=(403, error_body("AccessDenied")))
    with pytest.raises(StoreDenied, match="s3:GetBucketVersioning"):
        inspection.keeps_versions()


def test_a_lifecycle_is_read_as_the_server_has_it(server, inspection):
    """Prefixes are taken from all places where they may stand; rules that are off or harm nothing are left out."""
    rule = "<Rule><ID>{}</ID><Status>{}</Status>{}</Rule>"
    expiry = "<Expiration><Days>30</Days></Expiration>"
    both = "<Filter><And><Prefix>runs/</Prefix><Tag><Key>a</Key><Value>b</Value></Tag></And></Filter>"
    cold = "<Transition><Days>9</Days><StorageClass>{}</StorageClass></Transition>"
    rules = [
        rule.format("old form", "Enabled", "<Prefix>runs/yolo/versions/</Prefix>" + expiry),
        rule.format("off", "Disabled", "<Prefix></Prefix>" + expiry),
        rule.format("tags", "Enabled", both + cold.format("GLACIER")),
        rule.format("warm", "Enabled", "<Filter></Filter>" + cold.format("STANDARD_IA")),
        rule.format(
            "parts",
            "Enabled",
            "<Filter></Filter><AbortIncompleteMultipartUpload><DaysAfterInitiation>3</DaysAfterInitiation>"
            "</AbortIncompleteMultipartUpload>",
        ),
    ]
    body = f"<LifecycleConfiguration>{''.join(rules)}</LifecycleConfiguration>"
    answering(server, lifecycle=(200, body.encode()))
    assert inspection.lifecycle() == [
        LifecycleRule("old form", "runs/yolo/versions/", expires="after 30 days"),
        LifecycleRule("tags", "runs/", moves="to GLACIER after 9 days", is_narrow=True),
    ]


@pytest.mark.parametrize(
    ("prefix", "grade"),
    [
        ("", "grave"),
        ("runs/", "grave"),
        ("runs/yolo/packs/", "grave"),
        ("runs/yolo/ver", "grave"),
        ("runs/yolo/packs/00/", "grave"),
        ("logs/", "fine"),
        ("runs/yolo-2/", "fine"),
    ],
)
def test_a_rule_that_would_eat_versions_is_grave(prefix, grade):
    """A rule meets the repository if either prefix begins with the other."""
    found = list(buckets.lifecycle_found([LifecycleRule("r", prefix, expires="after 30 days")], "runs/yolo"))
    assert [one.grade.value for one in found] == [grade]


def test_packs_alone_may_be_in_cold_storage():
    """A rule that moves manifests is a warning; one that moves packs alone is as docs/s3.md has it."""
    packs = LifecycleRule("packs", "runs/packs/", moves="to GLACIER after 30 days")
    everything = LifecycleRule("all", "", moves="to GLACIER after 30 days")
    assert grades(buckets.lifecycle_found([packs], "runs")) == [("lifecycle", "fine")]
    assert grades(buckets.lifecycle_found([everything], "")) == [("lifecycle", "warning")]
