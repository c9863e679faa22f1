"""Settings of a bucket at servers that refuse, lack, fail or know more than the library here."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from bucket_facts import seen

import limited_s3
from limited_s3 import LimitedS3, error_body
from mlsync.bucket.apply import Doer, carry_out
from mlsync.bucket.facts import look
from mlsync.bucket.plan import plan
from mlsync.bucket.providers import UNKNOWN, provider_of
from mlsync.bucket.steps import BUCKET, BucketPlan
from mlsync.bucket.wanted import Wanted
from mlsync.errors import StoreBroken, StoreDenied, StoreUnavailable
from mlsync.store.options import StoreOptions
from mlsync.store.s3 import settings as settings_module
from mlsync.store.s3.rule_text import text_of, texts_of
from mlsync.store.s3.settings import BucketSettings, Setting

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
# An element that no library knows, blanks, an escaped name, a comment: all of it is somebody else's.
THEIRS = (
    "<Rule>\n  <ID>a&amp;b</ID><Filter><Prefix>logs/</Prefix></Filter><Status>Enabled</Status><!-- by hand -->"
    "<Expiration><Days>3</Days></Expiration><Novelty><Depth>7</Depth></Novelty></Rule>"
)


class Server(LimitedS3):
    """Keeps settings as text, as real servers do, and refuses what a test wants refused."""

    def __init__(self) -> None:
        super().__init__(answer=self._settings)
        self.kept: dict[str, bytes] = {}
        self.refused: dict[tuple[str, str], tuple[int, str]] = {}
        self.headers: dict[str, str] = {}
        self.bodies: list[tuple[str, bytes]] = []
        self.checked = lambda _question, _body: None

    def _settings(self, method, path):
        questions = parse_qs(urlsplit(path).query, keep_blank_values=True)
        question = next((one for one in questions if one not in ("list-type", "delimiter", "encoding-type")), "bucket")
        if (method, question) in self.refused:
            status, code = self.refused[method, question]
            return status, self.headers, error_body(code)
        if method == "HEAD" or "list-type" in questions:
            return None if "list-type" in questions else (200, self.headers, b"")
        if method == "PUT":
            body = self.bodies[-1][1] if self.bodies else b""
            refusal = self.checked(question, body)
            if refusal is not None:
                return 400, {}, error_body(refusal)
            self.kept[question] = body
            return 200, self.headers, b""
        if question in self.kept:
            return 200, self.headers, self.kept[question]
        return 404, {}, error_body("NoSuchConfiguration")


@pytest.fixture
def server(monkeypatch):
    """A server that keeps a bucket's settings."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(settings_module, "_WAITS_S", (0.01, 0.01))
    # Answers in one piece: in two, the kernels wait for each other.
    monkeypatch.setattr(limited_s3._Handler, "wbufsize", -1)
    running = Server()
    _keep_bodies(running, monkeypatch)
    running.start()
    yield running
    running.stop()


def _keep_bodies(running, monkeypatch):
    """The handler reads a body before it asks how to answer: it is noted there."""
    read = limited_s3._Handler.do_PUT

    def do_put(handler):
        file = handler.rfile
        body = file.read(int(handler.headers.get("Content-Length", 0)))
        running.bodies.append((handler.path, body))
        handler.rfile = _Nothing()
        try:
            read(handler)
        finally:
            handler.rfile = file

    monkeypatch.setattr(limited_s3._Handler, "do_PUT", do_put)


class _Nothing:
    def read(self, _count):
        """Nothing is left."""
        return b""


@pytest.fixture
def bucket(server):
    """Who reads and writes the settings of that server's bucket."""
    options = StoreOptions(endpoint_url=server.endpoint_url, region="us-east-1", addressing="path")
    opened = BucketSettings("s3://bucket/runs", options)
    yield opened
    opened.close()


def lifecycle(*texts):
    """A lifecycle as a server has it."""
    return f'<LifecycleConfiguration xmlns="{NAMESPACE}">{"".join(texts)}</LifecycleConfiguration>'.encode()


def applied(bucket, steps):
    """What became of these steps."""
    return carry_out(BucketPlan(tuple(steps)), Doer({"bucket": bucket}, None))


def lifecycle_steps(bucket, server):
    """The step of the lifecycle, for the bucket as it is."""
    found, _ = look(bucket, lambda _server: UNKNOWN)
    wants = Wanted("bucket", "runs")
    return [step for step in plan(wants, seen(found, provider=UNKNOWN)).steps if step.setting is Setting.LIFECYCLE]


def test_rules_of_others_stay_to_the_byte(bucket, server):
    """A rule with an element that nobody here knows is written back as it was, and ours are replaced beside it."""
    server.kept["lifecycle"] = lifecycle(THEIRS)
    (step,) = lifecycle_steps(bucket, server)
    assert applied(bucket, [step]).failed == []
    text = server.kept["lifecycle"].decode()
    assert THEIRS in text
    assert len(texts_of(text)) == 4
    (again,) = lifecycle_steps(bucket, server)
    assert not again.is_change
    ours_off = text.replace("<Status>Enabled</Status><Transition>", "<Status>Disabled</Status><Transition>")
    server.kept["lifecycle"] = ours_off.encode()
    (step,) = lifecycle_steps(bucket, server)
    assert step.is_change
    applied(bucket, [step])
    assert sorted(texts_of(server.kept["lifecycle"].decode()).values()) == sorted(texts_of(text).values())


def test_a_rule_that_came_after_the_plan_stays(bucket, server):
    """The rules are read again right before they are written: what somebody added meanwhile is kept."""
    (step,) = lifecycle_steps(bucket, server)
    server.kept["lifecycle"] = lifecycle(THEIRS)
    assert applied(bucket, [step]).failed == []
    assert THEIRS in server.kept["lifecycle"].decode()


def test_rules_that_cannot_be_told_apart_are_not_written(bucket, server):
    """Where a server writes rules in a way that mlsync cannot split, nothing is sent, rather than a rule lost."""
    odd = f'<x:LifecycleConfiguration xmlns:x="{NAMESPACE}"><x:Rule><x:ID>a</x:ID></x:Rule></x:LifecycleConfiguration>'
    server.kept["lifecycle"] = odd.encode()
    with pytest.raises(StoreBroken, match="cannot keep"):
        bucket.rule_texts(Setting.LIFECYCLE)
    assert server.bodies == []


def test_the_smallest_size_that_is_moved_stays_as_it_was(bucket, server):
    """It is a setting of the whole lifecycle, which a write without it would reset."""
    server.headers["x-amz-transition-default-minimum-object-size"] = "varies_by_storage_class"
    server.kept["lifecycle"] = lifecycle(THEIRS)
    bucket.write_rules(Setting.LIFECYCLE, [THEIRS])
    method, _, headers = next(one for one in reversed(server.requests) if one[0] == "PUT")
    assert method == "PUT"
    assert headers["x-amz-transition-default-minimum-object-size"] == "varies_by_storage_class"


def test_rules_that_a_server_takes_are_set_although_it_refuses_another(bucket, server):
    """Storage classes that a server does not know cost only the rule about them, which is named."""
    server.checked = lambda question, body: (
        "InvalidStorageClass" if question == "lifecycle" and b"<Transition>" in body else None
    )
    (step,) = lifecycle_steps(bucket, server)
    done = applied(bucket, [step])
    assert ["InvalidStorageClass" in why for _, why in done.failed] == [True]
    kept = texts_of(server.kept["lifecycle"].decode())
    assert sorted(kept) == sorted(Wanted("bucket", "runs").rule_name(kind) for kind in ("old-versions", "uploads"))


def test_one_refused_setting_keeps_no_other_from_being_set(bucket, server):
    """What these credentials may not do is named with its right, and the rest goes on."""
    server.refused["PUT", "versioning"] = 403, "AccessDenied"
    found, _ = look(bucket, lambda _server: UNKNOWN)
    steps = plan(Wanted("bucket", "runs"), seen(found, provider=UNKNOWN)).changes
    done = applied(bucket, steps)
    assert [(step.setting, "s3:PutBucketVersioning" in why) for step, why in done.failed] == [(Setting.VERSIONS, True)]
    assert {step.setting for step in done.done} == {step.setting for step in steps} - {Setting.VERSIONS}


@pytest.mark.parametrize(
    ("status", "code"), [(501, "NotImplemented"), (405, "MethodNotAllowed"), (403, "NotSupported")]
)
def test_a_server_without_a_setting_lacks_it(bucket, server, status, code):
    """NotImplemented and MethodNotAllowed are no failures: the server has none, and the others are asked."""
    server.refused["GET", "encryption"] = status, code
    server.refused["GET", "policy"] = 403, "AccessDenied"
    found, _ = look(bucket, lambda _server: UNKNOWN)
    assert found.answer(Setting.ENCRYPTION).is_lacking
    assert "s3:GetBucketPolicy" in found.answer(Setting.POLICY).why
    assert found.answer(Setting.VERSIONS).is_known


def test_what_may_pass_is_asked_again(bucket, server):
    """A busy server is asked three times; then the error is the store's own."""
    server.refused["GET", "versioning"] = 503, "SlowDown"
    with pytest.raises(StoreUnavailable):
        bucket.read(Setting.VERSIONS)
    assert sum(1 for method, path, _ in server.requests if "versioning" in path and method == "GET") == 3


def test_a_name_that_is_taken_is_refused_once(bucket, server):
    """A bucket of another account is named as such, and what belongs in it is not tried."""
    server.refused["PUT", "bucket"] = 409, "BucketAlreadyExists"
    with pytest.raises(StoreDenied, match="another account's"):
        bucket.make(None, locks=False)
    assert len(server.requests) == 1
    server.refused["HEAD", "bucket"] = 404, "NoSuchBucket"
    found, _ = look(bucket, lambda _server: UNKNOWN)
    steps = plan(Wanted("bucket", "runs"), seen(found, provider=UNKNOWN)).changes
    done = applied(bucket, steps)
    assert done.done == []
    assert {why for _, why in done.failed[1:]} == {"not tried: there is no bucket"}
    server.refused["PUT", "bucket"] = 409, "BucketAlreadyOwnedByYou"
    bucket.make(None, locks=False)


def test_keys_that_the_server_does_not_know_are_named(bucket, server):
    """403 to HEAD says nothing: a second question finds out that it is the keys, and not the bucket."""
    server.refused["HEAD", "bucket"] = 403, "AccessDenied"
    server.refused["GET", "location"] = 403, "InvalidAccessKeyId"
    with pytest.raises(StoreDenied, match="InvalidAccessKeyId"):
        look(bucket, lambda _server: UNKNOWN)


def test_what_a_server_takes_and_does_not_keep_is_found(bucket, server):
    """An answer of 200 is not believed: what is read back afterwards decides."""
    found, _ = look(bucket, lambda _server: UNKNOWN)
    wants = Wanted("bucket", "runs")
    steps = plan(wants, seen(found, provider=UNKNOWN)).changes
    assert applied(bucket, steps).failed == []
    del server.kept["versioning"]
    server.kept["lifecycle"] = lifecycle(THEIRS)
    found, _ = look(bucket, lambda _server: UNKNOWN)
    assert [step.setting for step in plan(wants, seen(found, provider=UNKNOWN)).open] == [
        Setting.VERSIONS,
        Setting.LIFECYCLE,
    ]


def test_a_bucket_that_is_not_there_is_planned_by_what_its_server_lacks(bucket, server):
    """Of a server of the table a new bucket gets what the server has, and nothing else is tried."""
    server.refused["HEAD", "bucket"] = 404, "NoSuchBucket"
    r2 = provider_of("https://1.r2.cloudflarestorage.com")
    found, _ = look(bucket, lambda _server: r2)
    steps = plan(Wanted("bucket", "runs"), seen(found, provider=r2)).changes
    assert [step.setting for step in steps] == [BUCKET, Setting.LIFECYCLE]


def test_a_setting_that_turns_out_to_be_lacking_is_left_out(bucket, server):
    """A bucket that was just made could not be asked what it has: NotImplemented is no failure then."""
    server.refused["PUT", "publicAccessBlock"] = 501, "NotImplemented"
    found, _ = look(bucket, lambda _server: UNKNOWN)
    done = applied(bucket, plan(Wanted("bucket", "runs"), seen(found, provider=UNKNOWN)).changes)
    assert [step.setting for step in done.lacking] == [Setting.PUBLIC]
    assert done.failed == []


def test_a_bucket_of_another_account_is_no_bucket_to_set_up(bucket, server):
    """403 for the bucket itself ends the plan, with what it may mean."""
    server.refused["HEAD", "bucket"] = 403, "AccessDenied"
    with pytest.raises(StoreDenied, match="another account's"):
        look(bucket, lambda _server: UNKNOWN)
    assert bucket.belongs_to("111122223333") is False


def test_a_new_role_is_waited_for():
    """IAM tells S3 of a new role within seconds: the replication is tried again, and only then."""
    from mlsync.bucket.steps import ROLE, BucketStep, StepLine, StepMark

    class Account:
        """Makes any role."""

        def write_role(self, _name, _trust, _policy):
            """Made."""
            return True

    role = BucketStep(
        "",
        ROLE,
        (StepLine(StepMark.ADDED, "role"),),
        {"RoleName": "r", "AssumeRolePolicyDocument": {}, "PolicyDocument": {}},
    )
    rule = {"ID": "x", "Status": "Enabled", "Filter": {"Prefix": ""}, "Destination": {"Bucket": "arn:aws:s3:::b"}}
    step = BucketStep("bucket", Setting.REPLICATION, (StepLine(StepMark.ADDED, "rule"),), {"Role": "arn"}, {"x": rule})
    waits, refusals = [], []

    class Refusing:
        """Refuses twice."""

        def rule_texts(self, _setting):
            """No rules."""
            return {}

        def write_rules(self, _setting, texts, *, role):
            """Taken at the third time."""
            refusals.append((texts, role))
            if len(refusals) < 3:
                raise _refusal()

    done = carry_out(BucketPlan((role, step)), Doer({"bucket": Refusing()}, Account(), waits.append))
    assert (done.failed, len(waits), len(refusals)) == ([], 2, 3)
    refusals.clear()
    done = carry_out(BucketPlan((step,)), Doer({"bucket": Refusing()}, Account(), waits.append))
    assert (len(done.failed), len(waits), len(refusals)) == (1, 2, 1)


def _refusal():
    from botocore.exceptions import ClientError

    error = StoreBroken("no such role")
    answer = {"Error": {"Code": "InvalidRequest"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    error.__cause__ = ClientError(answer, "PutBucketReplication")
    return error


def test_rules_are_written_as_the_api_has_them():
    """Lists become repeated elements, flags words, and names are escaped; what was written reads back by name."""
    rule = {
        "ID": "a<b>",
        "Filter": {"And": {"Prefix": "p", "Tags": [{"Key": "k", "Value": "v"}]}},
        "Transitions": [{"Days": 1}, {"Days": 2}],
        "Expiration": {"ExpiredObjectDeleteMarker": True},
    }
    text = text_of(rule)
    assert re.findall(r"<Transition><Days>(\d)</Days></Transition>", text) == ["1", "2"]
    assert "<Tag><Key>k</Key><Value>v</Value></Tag>" in text
    assert "<ExpiredObjectDeleteMarker>true</" in text
    assert list(texts_of(f"<X>{text}<Rule><Status>Enabled</Status></Rule></X>")) == ["a<b>", "#1"]
