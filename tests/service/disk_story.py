"""The story of an agent whose disk is unmounted and comes back; it mounts, so it runs in mounts of its own.

``unshare --mount python disk_story.py DIRECTORY``
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PATIENCE_S = 60.0
BASE = Path(sys.argv[1])
DISK, MOUNT, RUN, STATE = BASE / "disk", BASE / "mount", BASE / "run", BASE / "state"
MLSYNC = (sys.executable, "-P", "-m", "mlsync")


def mount() -> None:
    """The disk is at its mount point."""
    subprocess.run(["mount", "--bind", DISK, MOUNT], check=True)


def unmount() -> None:
    """The disk is away, as after its cable was pulled: whoever has it open keeps what he has."""
    subprocess.run(["umount", "--lazy", MOUNT], check=True)


def status(is_so) -> None:
    """Wait until the agent's status of the run is as it should be."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        file = STATE / "status.json"
        runs = json.loads(file.read_text())["runs"] if file.exists() else []
        if runs and is_so(runs[0]):
            return
        assert time.monotonic() < deadline, runs
        time.sleep(0.02)


def is_away(run) -> bool:
    """Whether the agent knows that the disk is away, and tries again."""
    return run["phase"] == "retrying" and str(MOUNT) in (run["last_error"] or "")


def begin() -> subprocess.Popen[bytes]:
    """Start an agent."""
    # A gentle one would wait for all other tests.
    agent = subprocess.Popen([*MLSYNC, "agent", "--quickly", "--config", BASE / "mlsync.toml"])
    # Whatever goes wrong here, it does not outlive this process.
    atexit.register(agent.kill)
    return agent


def end(agent: subprocess.Popen[bytes]) -> None:
    """End it as systemd does."""
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(PATIENCE_S) == 0


def main() -> None:
    """Tell it."""
    for place in (DISK, MOUNT, RUN):
        place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", DISK], check=True)
    (BASE / "key").write_bytes(bytes(range(32)))
    (BASE / "key").chmod(0o600)
    (BASE / "mlsync.toml").write_text(
        f'repository = "file://{MOUNT}"\nstate_directory = "{STATE}"\n[key]\nkey_file = "{BASE}/key"\n'
        f'[[watch]]\ndirectory = "{RUN}"\nrun = "yolo"\n[proof]\ndevice = "none"\n[agent]\nsettle = "100ms"\n'
        'join_logs = "0s"\n'
    )
    mount()
    subprocess.run(
        [*MLSYNC, "init", f"file://{MOUNT}", "--config", BASE / "none.toml", "--key-file", BASE / "key"], check=True
    )
    agent = begin()
    status(lambda run: run["last_pass_s"] is not None)
    # Before the first version: the agent knows the repository, and no pass has written anything.
    unmount()
    (RUN / "a.txt").write_bytes(b"1")
    status(is_away)
    assert os.listdir(MOUNT) == []
    mount()
    agent.send_signal(signal.SIGHUP)
    status(lambda run: run["last_version"] == 1)
    # Between two passes: the process of the last one still holds the disk.
    unmount()
    (RUN / "a.txt").write_bytes(b"22")
    status(is_away)
    assert os.listdir(MOUNT) == []
    # At the start.
    end(agent)
    agent = begin()
    status(is_away)
    assert os.listdir(MOUNT) == []
    mount()
    agent.send_signal(signal.SIGHUP)
    status(lambda run: run["last_version"] == 2)
    # At a start that remembers nothing: the state was deleted too.
    end(agent)
    unmount()
    shutil.rmtree(STATE)
    (RUN / "a.txt").write_bytes(b"333")
    agent = begin()
    status(is_away)
    assert os.listdir(MOUNT) == []
    mount()
    agent.send_signal(signal.SIGHUP)
    status(lambda run: run["last_version"] == 3)
    end(agent)
    assert os.listdir(DISK) != []


if __name__ == "__main__":
    main()
