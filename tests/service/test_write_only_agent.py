"""An agent with a write-only key: its processes make versions one after the other, and open none of an earlier one."""

from __future__ import annotations

import dataclasses
import os
import threading

import pytest

from mlsync.config.model import Config, ProofSettings, WatchSettings
from mlsync.errors import KeyRetired
from mlsync.monitor import SilentMonitor
from mlsync.repository.keys.keyslot import Passphrase, Stretching
from mlsync.repository.keys.write_only_file import new_keys
from mlsync.repository.repository import Repository
from mlsync.service.backup_job import BackupJob, RepositoryOpener
from mlsync.store.directory.store import DirectoryStore
from mlsync.upkeep.rotation import rotate

pytestmark = pytest.mark.slow


def test_versions_follow_each_other_from_process_to_process(tmp_path):
    """Each process is told the write-only key alone; once the repository's key is rotated, the agent stops."""
    run, unlock = tmp_path / "run", Passphrase(b"open sesame")
    run.mkdir()
    store = DirectoryStore(tmp_path / "repository", create=True)
    repository = Repository.create(store, unlock, stretching=Stretching(64, 1, 1))
    node = new_keys(repository.keys, conditional_create=repository.conditional_create)
    watch = WatchSettings(run, "yolo")
    config = dataclasses.replace(
        Config.for_repository((tmp_path / "repository").as_uri()),
        state_directory=tmp_path / "state",
        watches=(watch,),
        proof=ProofSettings(device="none"),
    )
    made = []
    for number in (1, 2, 3):
        (run / "log.csv").write_bytes(b"a line\n" * number)
        os.utime(run / "log.csv", ns=(10**18 + number, 10**18 + number))
        job = BackupJob(RepositoryOpener(config, node), watch)
        try:
            made.append(job.run(threading.Event()).version)
        finally:
            job.close()
    assert made == [1, 2, 3]
    stored = repository.stored("yolo", 3)
    assert stored.root.previous is not None
    assert (stored.root.previous.number, stored.root.previous.digest) == (2, repository.stored("yolo", 2).digest)
    (entry,) = repository.entries(stored)
    assert entry.size_bytes == 21
    rotate(repository, unlock, SilentMonitor(), host="admin", now_ns=10**18, stretching=Stretching(64, 1, 1))
    (run / "log.csv").write_bytes(b"another line\n")
    job = BackupJob(RepositoryOpener(config, node), watch)
    try:
        with pytest.raises(KeyRetired, match="was rotated"):
            job.run(threading.Event())
    finally:
        job.close()
    assert repository.numbers("yolo") == [1, 2, 3]
