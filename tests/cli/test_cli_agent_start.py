"""What ``mlsync agent`` does at its start about a repository that is not there."""

from __future__ import annotations

import dataclasses
import os
import pty
import sys

import pytest

from mlsync.cli import agent
from mlsync.config.model import Config
from mlsync.errors import RepositoryMissing, StoreDenied
from mlsync.service import status


@pytest.fixture
def start(tmp_path, monkeypatch):
    """What ``_find`` says of a repository at *place*, by default on a bare mount point."""
    (tmp_path / "mount").mkdir()
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

        def find(place=tmp_path / "mount" / "repo", address=None, error=None):
            config = dataclasses.replace(
                Config.for_repository(address or place.as_uri()), state_directory=tmp_path / "state"
            )

            def fail(_config):
                raise error or RepositoryMissing("no such directory", where=str(place))

            return agent._find(config, fail)

        yield find


def test_a_bare_mount_point_is_waited_for(start):
    """Without any memory of the repository the agent waits for the disk whose mount point is empty."""
    assert isinstance(start(), RepositoryMissing)


def test_a_place_that_never_was_a_repository_is_told(start, tmp_path):
    """Below a directory with other things in it there is no disk to wait for: that is a wrong address."""
    with pytest.raises(RepositoryMissing):
        start(tmp_path / "typo")


def test_a_person_is_told(start, monkeypatch):
    """At a terminal even a bare mount point is an error, since whoever typed it sees it."""
    controller, terminal = pty.openpty()
    try:
        with os.fdopen(terminal) as stream:
            monkeypatch.setattr(sys, "stdin", stream)
            with pytest.raises(RepositoryMissing):
                start()
    finally:
        os.close(controller)


def test_a_service_waits(start, tmp_path, monkeypatch):
    """What a service manager started waits at any place: nobody reads an exit status there."""
    monkeypatch.setenv("NOTIFY_SOCKET", "@nobody")
    assert isinstance(start(tmp_path / "typo"), RepositoryMissing)


def test_what_an_agent_kept_before_is_waited_for(start, tmp_path):
    """A state that remembers a run of this repository is enough."""
    place = tmp_path / "typo"
    kept = status.as_json([], place.as_uri(), 0.0, 0.0)
    kept["runs"] = [{"run": "yolo", **dict.fromkeys(status._KEPT)}]
    status.write_status(tmp_path / "state" / "status.json", kept)
    assert isinstance(start(place), RepositoryMissing)


def test_a_bucket_without_a_repository_is_told(start, monkeypatch):
    """A bucket that answers hides no disk, whoever started the agent."""
    monkeypatch.setenv("NOTIFY_SOCKET", "@nobody")
    with pytest.raises(RepositoryMissing):
        start(address="s3://bucket/prefix")


def test_what_only_a_person_can_fix_is_told(start, monkeypatch):
    """A store that refuses is an error for a service too."""
    monkeypatch.setenv("NOTIFY_SOCKET", "@nobody")
    with pytest.raises(StoreDenied):
        start(error=StoreDenied("no"))
