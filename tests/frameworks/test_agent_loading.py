"""A real agent that has checkpoints loaded by a command, killed while that runs."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def write_checkpoint(path: Path) -> None:
    """A small one, as torch writes it."""
    import torch

    file = io.BytesIO()
    torch.save({"epoch": 1, "model": {"weight": torch.ones(100)}}, file)
    path.write_bytes(file.getvalue())


def wait_for(condition):
    """Wait until something is so."""
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_agent_leaves_neither_command_nor_file_behind(watched):
    """SIGKILL ends the command too; the next start removes the file that it was loading, and makes the version."""
    pid = watched.base / "pid"
    watched.configure(f'command = ["sh", "-c", "echo $$ > {pid}; exec sleep 1000", "{{path}}"]\n')
    write_checkpoint(watched.runs / "last.pt")
    watched.start()
    wait_for(lambda: pid.exists() and pid.read_text())
    watched.kill()
    command = Path("/proc") / pid.read_text().strip() / "cmdline"
    wait_for(lambda: not (command.exists() and command.read_bytes()))
    assert [path.name for path in watched.state.glob("*/loading/*/file/*")] == ["last.pt"]
    watched.configure('command = ["test", "-s", "{path}"]\n')
    watched.start()
    watched.wait(lambda status: status["last_version"] == 1)
    watched.stop()
    assert list(watched.state.glob("*/loading/*")) == []
    assert watched.versions()[-1]["lowest_level"] == 5
