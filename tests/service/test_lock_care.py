"""The agent extends the locks of what versions use, on a real server with object lock."""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid

import boto3
import pytest

from doubles.recording_monitor import RecordingMonitor
from mlsync.app.session import Session
from mlsync.config.model import Config, MirrorSettings, S3Settings, WatchSettings
from mlsync.config.new_objects import object_lock
from mlsync.errors import StoreDenied
from mlsync.repository.keys.keyslot import Passphrase
from mlsync.service.afterwards.maintenance import Maintenance
from mlsync.store.s3.store import S3Store

SECRET = Passphrase(b"open sesame")
DAY_S = 86400.0


class LockedPlace:
    """A repository in a bucket with object lock, whose objects are locked for 16 days; the clock can be moved."""

    def __init__(self, base, server):
        self._client = boto3.session.Session().client("s3", endpoint_url=server.endpoint_url, region_name="us-east-1")
        self._bucket = f"locked-{uuid.uuid4().hex}"
        self._client.create_bucket(Bucket=self._bucket, ObjectLockEnabledForBucket=True)
        (base / "run").mkdir()
        self.watch = WatchSettings(base / "run", "yolo")
        config = Config.for_repository(f"s3://{self._bucket}/runs")
        config = dataclasses.replace(config, state_directory=base / "state", watches=(self.watch,))
        self.config = config
        self.lock("governance 16d")
        self.monitor = RecordingMonitor()
        self.ahead_s = 0.0
        with Session.create(self.config, lambda: SECRET, self.monitor):
            pass

    def lock(self, said):
        """From now on new objects are locked so."""
        s3 = S3Settings(endpoint_url=self._client.meta.endpoint_url, region="us-east-1", object_lock=None)
        if said is not None:
            s3 = dataclasses.replace(s3, object_lock=object_lock(said, None))
        self.config = dataclasses.replace(self.config, s3=s3)

    def mirror(self, said):
        """Copy all objects to a bucket of their own, without a lock, and have them locked so from now on."""
        name = f"mirror-{uuid.uuid4().hex}"
        self._client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
        for entry in self._client.list_objects_v2(Bucket=self._bucket)["Contents"]:
            source = {"Bucket": self._bucket, "Key": entry["Key"]}
            self._client.copy_object(Bucket=name, Key=entry["Key"], CopySource=source)
        s3 = dataclasses.replace(self.config.s3, object_lock=object_lock(said, None))
        mirror = MirrorSettings(url=f"s3://{name}/runs", name="second", s3=s3)
        self.config = dataclasses.replace(self.config, mirrors=(mirror,))
        return name

    def maintain(self):
        """Do what is due now; return what was said."""
        with Session.open(self.config, lambda: SECRET, self.monitor) as session:
            Maintenance(
                session,
                self.watch,
                self.monitor,
                threading.Event(),
                now_ns=lambda: time.time_ns() + int(self.ahead_s * 1e9),
            ).run()
        said = [text for _, text in self.monitor.notices]
        self.monitor.notices.clear()
        return said

    def left_days(self, bucket=None):
        """For how many days the header is locked."""
        answer = self._client.head_object(Bucket=bucket or self._bucket, Key="runs/repository")
        until = answer.get("ObjectLockRetainUntilDate")
        return 0 if until is None else round((until.timestamp() - time.time()) / DAY_S)

    def close(self):
        """Close the connection."""
        self._client.close()


@pytest.fixture
def locked_place(tmp_path, s3_server):
    """A place of the test's own."""
    made = LockedPlace(tmp_path, s3_server)
    yield made
    made.close()


def test_the_agent_looks_at_locks_eight_times_in_a_period(locked_place):
    """At first at all, as objects may be older than the setting; then after an eighth, and not at young ones."""
    assert locked_place.maintain() == ["locks: 0 extended, 2 objects of 2 in use asked about, 2 requests"]
    assert locked_place.maintain() == []
    locked_place.ahead_s = 2 * DAY_S + 1
    assert locked_place.maintain() == ["locks: 0 extended, 0 objects of 2 in use asked about, 0 requests"]


def test_another_lock_than_before_is_a_beginning(locked_place):
    """A longer lock extends at once what a shorter one locked; without a lock nothing is looked at."""
    locked_place.maintain()
    locked_place.lock("governance 60d")
    assert locked_place.maintain() == ["locks: 2 extended, 2 objects of 2 in use asked about, 4 requests"]
    assert locked_place.left_days() == 60
    locked_place.lock(None)
    assert locked_place.maintain() == []


def test_a_right_that_is_missing_is_named_and_costs_no_pass(locked_place, monkeypatch):
    """The warning has the store's words; it comes again when the locks are looked at the next time."""

    def refuse(_store, key, *_more):
        raise StoreDenied("the store answered AccessDenied", where=key, advice="allow s3:PutObjectRetention")

    monkeypatch.setattr(S3Store, "keep_for", refuse)
    warning, summary = locked_place.maintain()
    assert warning.startswith("the lock of 2 objects could not be extended: the store answered AccessDenied")
    assert "s3:PutObjectRetention" in warning
    assert "0 extended" in summary
    assert locked_place.maintain() == []


def test_the_locks_of_a_mirror_are_extended_by_its_own_setting(locked_place):
    """What is in the mirror is locked as its table says; one that is away is told, and not asked with each pass."""
    name = locked_place.mirror("governance 40d")
    locked_place.lock(None)
    assert locked_place.maintain() == [
        "mirror 'second': locks: 2 extended, 2 objects of 2 in use asked about, 4 requests"
    ]
    assert locked_place.left_days(name) == 40
    assert locked_place.maintain() == []
    (mirror,) = locked_place.config.mirrors
    away = dataclasses.replace(mirror, url="s3://nobody-has-this-bucket/runs")
    locked_place.config = dataclasses.replace(locked_place.config, mirrors=(away,))
    locked_place.ahead_s = 6 * DAY_S
    (said,) = locked_place.maintain()
    assert said.startswith("the locks of the mirror 'second' were not looked at: ")
    assert locked_place.maintain() == []
