"""The callbacks in the real frameworks, beside a real agent that hears of nothing but what it is told."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from watched import Watched

import mlsync

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
AGENT = Path(mlsync.__file__).parents[1]
KINDS = ["ultralytics", "huggingface", "lightning", "lightning_later", "torch_later"]


@pytest.fixture(params=KINDS)
def told(request, tmp_path, monkeypatch, ultralytics_python, frameworks_python, data):
    """The machine after such a training, and what the agent was told."""
    # No watcher and no clock: each version there is comes from a callback.
    monkeypatch.setenv("MLSYNC_AGENT_ON_CHANGE", "false")
    monkeypatch.setenv("MLSYNC_AGENT_EVERY", "never")
    machine = Watched(tmp_path / "machine")
    python, environment = ultralytics_python if request.param == "ultralytics" else frameworks_python
    environment = environment | {"MLSYNC_SOCKETS": str(machine.state)}
    environment["PYTHONPATH"] += f"{os.pathsep}{AGENT}"
    machine.start()
    try:
        machine.wait(lambda status: status["last_pass_s"])
        command = [python, "-s", str(HERE / "telling_trainer.py"), request.param, str(machine.runs), str(data)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=240, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        machine.stop()
    finally:
        machine.kill()
    return machine, [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"path"')]


def test_each_save_is_whole_when_it_is_told_of(told):
    """The version that a call returned holds the save as it was at the call, and nothing was kept out."""
    machine, saves = told
    assert len(saves) >= 3
    versions = {one["version"]: machine.mlsync("show", one["version"]) for one in saves}
    assert all(version["troubles"] == [] for version in versions.values())
    for number, save in enumerate(saves):
        target = machine.base / f"look-{number}"
        machine.mlsync("restore", "--version", save["version"], "--to", target)
        assert save["files"], save
        for path, digest in save["files"].items():
            restored = target / Path(path).relative_to(os.path.realpath(machine.runs))
            assert hashlib.sha256(restored.read_bytes()).hexdigest() == digest, restored
