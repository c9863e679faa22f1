"""Commands stand behind everything else where nobody waits for them, and so does what the agent does."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from machine import MLSYNC, WITH_GENTLY, checkpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "courtesy"))

from standing import LAST, SELDOM, needs_autogroups, standing_of

pytestmark = pytest.mark.slow

HOLDS = "lowest priority: processor: batch policy, nice 19, its session nice 19; disk: idle class\n"
PATIENCE_S = 120.0
AGAIN_S = 5.0


@pytest.mark.parametrize("command", WITH_GENTLY)
def test_gently_and_quickly_are_obeyed(saved, command):
    """With --gently a command gives way to others and says so with -v, whatever its result; not with --quickly."""
    needs_autogroups()
    arguments = ("--pending", "-v") if command == "prove" else ("-v",)
    assert HOLDS in saved.run(command, "--gently", *arguments).err
    assert "stands behind" not in saved.run(command, "--quickly", *arguments).err


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_terminal_decides_where_nobody_says(saved, is_terminal):
    """Where stderr is a terminal a backup is quick, and elsewhere it gives way to others."""
    needs_autogroups()
    ear, mouth = pty.openpty() if is_terminal else os.pipe()
    process = subprocess.Popen(
        [MLSYNC, "backup", "-v"],
        env=saved.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=mouth,
    )
    os.close(mouth)
    said = b""
    while True:
        try:
            block = os.read(ear, 65536)
        except OSError:  # a terminal that nobody holds any more
            break
        if not block:
            break
        said += block
    os.close(ear)
    assert process.wait(PATIENCE_S) == 0
    assert b"store: calls" in said
    assert (b"lowest priority" in said) is not is_terminal


def descendants(pid):
    """Every process below *pid*, with its command line."""
    found = {}
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (thread / "children").read_text().split()):
                found[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                found |= descendants(child)
    return found


@pytest.mark.parametrize(("share", "standing"), [("", SELDOM), ("100%", LAST)])
def test_what_the_agent_does_stands_behind_others(machine, share, standing):
    """The process of its passes and the proof's child stand behind all; the agent, which waits, stays as it was."""
    needs_autogroups()
    machine.configure('[proof]\ndevice = "cpu"\n[agent]\nsettle = "0s"\n')
    (machine.training / "weights" / "last.pt").write_bytes(checkpoint(width=3000))
    before = standing_of(os.getpid())
    with (machine.base / "log").open("w") as log:
        environment = machine.environment(MLSYNC_LIMITS_PROCESSOR_SHARE=share)
        agent = subprocess.Popen([MLSYNC, "agent", "-vv"], env=environment, stderr=log, cwd=machine.base)
    try:
        wanted = {"passes": "mlsync.service.passes.pass_start", "proof": "programs/device.py"}
        seen = {name: set() for name in wanted}
        deadline_s = time.monotonic() + PATIENCE_S
        again_s = time.monotonic() + AGAIN_S
        # Each is new when it starts, and its own first act is to lower itself.
        while any(standing not in one for one in seen.values()):
            now_s = time.monotonic()
            assert now_s < deadline_s, (seen, (machine.base / "log").read_text())
            if now_s >= again_s:
                # The child is gone after a tenth of a second.
                again_s = now_s + AGAIN_S
                (machine.training / "weights" / "last.pt").write_bytes(checkpoint(int(now_s), width=3000))
                agent.send_signal(signal.SIGUSR1)
            for pid, line in descendants(agent.pid).items():
                for name in [name for name, words in wanted.items() if words in line]:
                    with suppress(OSError):  # it may have ended
                        seen[name].add(standing_of(pid))
        assert standing_of(agent.pid) == standing_of(os.getpid()) == before
    finally:
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(PATIENCE_S) == 0
    said = HOLDS.replace("lowest priority", "this process gives way").replace("nice 19", f"nice {standing.nice}")
    assert said in (machine.base / "log").read_text()


def test_an_agent_may_be_quick(machine):
    """With --quickly the agent and its passes stay as they were started."""
    before = standing_of(os.getpid())
    command = [MLSYNC, "agent", "--quickly"]
    agent = subprocess.Popen(command, env=machine.environment(), stderr=subprocess.PIPE, text=True, cwd=machine.base)
    try:
        assert "watching" in agent.stderr.readline()
        assert standing_of(agent.pid) == before
        # Only then does it surely hear SIGTERM; before it says what it found of this machine's disks.
        while "version 1" not in (said := agent.stderr.readline()):
            assert said
        assert {standing_of(pid).nice for pid in descendants(agent.pid)} <= {before.nice}
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.communicate(timeout=PATIENCE_S)
    assert agent.returncode == 0
