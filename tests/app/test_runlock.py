"""One process per run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from mlsync.app.run_lock import RunLock
from mlsync.errors import RunLocked, StateDamaged

HOLD = """
import sys, pathlib
from mlsync.app.run_lock import RunLock
with RunLock(pathlib.Path(sys.argv[1]), "repo", "yolo"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_the_second_process_is_told_who_holds_the_run(tmp_path, holder):
    """The second one on a run stops at once and names the first one's process."""
    with pytest.raises(RunLocked) as raised, RunLock(tmp_path, "repo", "yolo"):
        pass
    assert "another mlsync works on run yolo" in str(raised.value)
    assert f"process {holder.pid} on {os.uname().nodename}, since 20" in str(raised.value)


def test_another_run_and_another_repository_are_free(tmp_path, holder):
    """A lock is for one run of one repository."""
    with RunLock(tmp_path, "repo", "other"), RunLock(tmp_path, "repo2", "yolo"):
        pass


def test_a_killed_holder_blocks_nobody(tmp_path, holder):
    """What a killed process left in the lock's file does not matter."""
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunLock(tmp_path, "repo", "yolo") as lock:
        assert f'"pid": {os.getpid()}' in lock.path.read_text()


def test_a_child_does_not_keep_the_lock(tmp_path):
    """A child process that lives on, as a proof may, leaves the run free."""
    with RunLock(tmp_path, "repo", "yolo"):
        child = subprocess.Popen(["sleep", "600"], close_fds=False)
    try:
        with RunLock(tmp_path, "repo", "yolo"):
            pass
    finally:
        child.kill()
        child.wait()


def test_odd_content_is_only_a_courtesy_lost(tmp_path):
    """A lock's file with anything in it still locks."""
    with RunLock(tmp_path, "repo", "yolo") as lock:
        lock.path.write_bytes(b'\xff{"pid": []}')
        with pytest.raises(RunLocked, match="has not written its name yet"):
            RunLock(tmp_path, "repo", "yolo").acquire()


def test_names_do_not_leave_the_directory(tmp_path):
    """However strange or long a name is, its lock lies under the state directory, private to its owner."""
    for run in ("../../x", "ü" * 128):
        with RunLock(tmp_path, "repo", run) as lock:
            assert lock.path.parent == tmp_path / "repo"
            assert lock.path.stat().st_mode & 0o777 == 0o600
            assert lock.path.parent.stat().st_mode & 0o777 == 0o700


def test_a_state_that_cannot_be_written_is_named(tmp_path):
    """A state directory that is a file is told by its path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDamaged, match="file"):
        RunLock(tmp_path / "file", "repo", "yolo").acquire()
