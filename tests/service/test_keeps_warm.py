"""Passes of an agent whose proofs run on a GPU that is not there: which child proves what, and when it goes."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from pathlib import Path

import pytest

from large_gpu import LargeGpu, tensors_file
from mlsync.config.model import Config, ProofSettings, WatchSettings
from mlsync.repository.keys.keyslot import Passphrase, Stretching
from mlsync.repository.repository import Repository
from mlsync.service.backup_job import BackupJob, RepositoryOpener
from mlsync.store.directory.store import DirectoryStore

SECRET = Passphrase(b"open sesame")
KEEP_S = 120.0


def children_of(pid):
    """The processes that a process started and that run, by number; a dead one that nobody looked after is none."""
    found = set()
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, *_ = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.add(int(place.parent.name))
    return found


def until_none(pid):
    """Wait until a process has no children that run; return whether it came to that."""
    end_s = time.monotonic() + 20
    while children_of(pid):
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What there was of children after each of three versions, of which the second came late, and after a notice."""
    base = tmp_path_factory.mktemp("agent")
    run = base / "run"
    run.mkdir()
    Repository.create(DirectoryStore(base / "store", create=True), SECRET, stretching=Stretching(64, 1, 1))
    watch = WatchSettings(run, "yolo")
    proof = ProofSettings(device="cuda", python=LargeGpu(base).python, keep_warm_s=KEEP_S)
    config = dataclasses.replace(
        Config.for_repository((base / "store").as_uri()), state_directory=base / "state", watches=(watch,), proof=proof
    )
    now_s = 1000.0
    job = BackupJob(RepositoryOpener(config, SECRET), watch, clock=lambda: now_s)
    told = {"children": [], "proved": [], "idle_s": [], "keeps": []}

    def make(number):
        path = run / "model.safetensors"
        path.write_bytes(tensors_file(number))
        os.utime(path, ns=(10**18 + number, 10**18 + number))
        result = job.run(threading.Event())
        told["proved"].append(result.proved_version)
        told["children"].append(children_of(job._process.pid))
        told["idle_s"].append(job._process._timer.interval)

    try:
        told["keeps"].append(job._keeps_warm_s())  # nothing came before
        job._version_s = now_s - KEEP_S
        told["keeps"].append(job._keeps_warm_s())
        job._version_s = now_s - KEEP_S + 1
        make(1)
        make(2)
        told["pid"] = job._process.pid
        job.run(threading.Event(), deadline_s=time.monotonic() + 60)
        told["left"] = until_none(told["pid"]), job._process.pid
        yield told
    finally:
        job.close()


def test_versions_that_come_soon_are_proved_by_one_child(told):
    """The child of one version waits for the next one and proves it."""
    assert told["proved"] == [1, 2]
    first, second = told["children"]
    assert len(first) == 1
    assert first == second


def test_the_process_stays_as_long_as_its_child_waits(told):
    """The pass process, with which its child would end, waits longer than without one."""
    assert all(KEEP_S - 30 < idle_s <= KEEP_S for idle_s in told["idle_s"])


def test_versions_that_are_far_apart_keep_no_child(told):
    """No child is to wait after a first version, nor where the one before was longer ago than it would wait."""
    assert told["keeps"] == [0.0, 0.0]


def test_a_child_that_waits_leaves_on_a_notice(told):
    """A pass with a deadline, before the machine goes, has the child leave the GPU; the pass process stays."""
    assert told["left"] == (True, told["pid"])
