"""An agent whose repository's disk goes away and comes back: nothing is written where it was, and nothing is lost."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlsync.config.model import Config, ProofSettings, WatchSettings
from mlsync.errors import RepositoryMissing
from mlsync.repository.keys.keyslot import Passphrase, Stretching
from mlsync.repository.repository import Repository
from mlsync.service.backup_job import BackupJob, RepositoryOpener
from mlsync.store.directory.store import DirectoryStore

pytestmark = pytest.mark.slow

SECRET = Passphrase(b"open sesame")
PATIENCE_S = 60.0


def new_repository(place: Path) -> Repository:
    """A repository whose key costs nothing."""
    return Repository.create(DirectoryStore(place, create=True), SECRET, stretching=Stretching(64, 1, 1))


class Place:
    """A run, and a directory that stands for a disk: renamed away it is not mounted, and its mount point is bare."""

    def __init__(self, base: Path) -> None:
        self.disk, self.away, self.run = base / "disk", base / "away", base / "run"
        self.run.mkdir()
        new_repository(self.disk).close()
        self.watch = WatchSettings(self.run, "yolo")
        config = dataclasses.replace(
            Config.for_repository(self.disk.as_uri()),
            state_directory=base / "state",
            watches=(self.watch,),
            proof=ProofSettings(device="none"),
        )
        self.job = BackupJob(RepositoryOpener(config, SECRET), self.watch)

    def unmount(self) -> None:
        """The disk goes."""
        self.disk.rename(self.away)
        self.disk.mkdir()

    def mount(self) -> None:
        """The disk comes back, over whatever was written to its mount point."""
        self.disk.rename(self.disk.with_name("bare"))
        self.away.rename(self.disk)

    def passed(self) -> int | None:
        """The version that a pass made."""
        return self.job.run(threading.Event()).version


@pytest.fixture
def place(tmp_path):
    """A run and a disk."""
    place = Place(tmp_path)
    yield place
    place.job.close()


@pytest.mark.parametrize("has_process", [True, False])
@pytest.mark.parametrize("has_version", [True, False])
def test_nothing_is_written_where_the_disk_was(place, has_version, has_process):
    """The disk goes between two passes, with or without a version on it, with or without a process that holds it."""
    place.job._opener.opened(threading.Event())
    if has_version:
        (place.run / "a.txt").write_bytes(b"1")
        assert place.passed() == 1
    if not has_process:
        place.job._process.close()
    place.unmount()
    (place.run / "a.txt").write_bytes(b"22")
    for _ in range(2):
        with pytest.raises(RepositoryMissing):
            place.passed()
        assert list(place.disk.iterdir()) == []
    place.mount()
    assert place.passed() == (2 if has_version else 1)


@pytest.mark.parametrize("has_process", [True, False])
def test_another_repository_in_its_place_is_refused(place, has_process):
    """A disk that holds somebody else's repository is not written to, though it is one."""
    (place.run / "a.txt").write_bytes(b"1")
    assert place.passed() == 1
    if not has_process:
        place.job._process.close()
    place.unmount()
    new_repository(place.disk).close()
    before = sorted(place.disk.rglob("*"))
    (place.run / "a.txt").write_bytes(b"22")
    with pytest.raises(RepositoryMissing):
        place.passed()
    assert sorted(place.disk.rglob("*")) == before
    place.mount()
    assert place.passed() == 2


STORY = Path(__file__).with_name("disk_story.py")


def test_an_agent_waits_for_a_disk_that_is_unmounted(tmp_path):
    """A real agent and a real mount: away at the start, away between passes, and back each time."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount something")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("a mount namespace of its own is not to be had here")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = ["unshare", "--mount", sys.executable, str(STORY), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
