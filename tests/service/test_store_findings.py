"""What a store finds out about itself while it is used is told where all else is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from doubles.recording_monitor import RecordingMonitor
from limited_s3 import LimitedS3
from mlsync.app.session import Session
from mlsync.codec.keys import MASTER_KEY_BYTES, Keys
from mlsync.config.model import Config, S3Settings
from mlsync.store.options import OVERWRITES

pytestmark = pytest.mark.slow


@pytest.fixture
def server(monkeypatch):
    """A bucket that got versions after its repository was made, and overwrites since."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    server = LimitedS3(has_versions=True)
    server.start()
    yield server
    server.stop()


def test_a_bucket_that_began_to_overwrite_is_told_as_a_warning(server, tmp_path: Path):
    """The first object that a session makes there shows it, and whoever looks at the log learns of it once."""
    s3 = S3Settings(endpoint_url=server.endpoint_url)
    config = dataclasses.replace(Config.for_repository("s3://bucket"), state_directory=tmp_path, s3=s3)
    monitor = RecordingMonitor()
    keys = Keys(bytes(MASTER_KEY_BYTES), bytes(16))
    with Session.resume(config, keys, monitor, conditional_create=True, slot="") as session:
        session.repository.store.put("a", b"x")
        session.repository.store.put("b", b"x")
    assert monitor.notices == [("warning", OVERWRITES)]
