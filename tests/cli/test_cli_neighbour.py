"""A root agent beside a neighbour who owns the watched directory and swaps names in it all the time."""

import os
import signal
import subprocess
import time

import pytest
from machine import MLSYNC

from swapper import NEIGHBOUR, swapping

pytestmark = pytest.mark.slow

SECRET = b"for root alone " * 500
# Long, since what is slow on a busy machine says nothing of the code.
PATIENCE_S = 240.0


def sizes_in_versions(machine) -> set[int]:
    """The sizes of all files in all versions."""
    sizes = set()
    for version in machine.good("versions", "--json").json()["versions"]:
        shown = machine.good("show", str(version["version"]), "--json").json()
        sizes |= {entry["size_bytes"] for entry in shown["entries"] if entry["kind"] == "file"}
    return sizes


def test_an_agent_of_roots_is_led_nowhere(machine):
    """Whatever its owner puts in a directory's or a file's place, no version of the agent's holds root's file."""
    if os.geteuid() != 0:
        pytest.skip("plays root and a neighbour")
    secret = machine.base / "secret"
    secret.mkdir(mode=0o700)
    (secret / "file").write_bytes(SECRET)
    watched = machine.base / "neighbours"
    (watched / "d").mkdir(parents=True)
    (watched / "d" / "file").write_bytes(b"mine")
    (watched / "file").write_bytes(b"mine, too")
    (watched / "link").symlink_to(secret)
    (watched / "other").symlink_to(secret / "file")
    for path in (watched, *watched.rglob("*")):
        os.chown(path, NEIGHBOUR, NEIGHBOUR, follow_symlinks=False)
    machine.configure(
        '[proof]\ndevice = "none"\n[agent]\nsettle = "0s"\nsettle_max = "0s"\nrescan = "1s"\n', directory=watched
    )
    with (machine.base / "log").open("w") as log:
        command = [MLSYNC, "agent", "--quickly"]
        agent = subprocess.Popen(command, env=machine.environment(), stderr=log, cwd=machine.base)
    try:
        with swapping(watched, "d", "link", "file", "other"):
            deadline_s = time.monotonic() + PATIENCE_S
            wanted_count = 6
            while wanted_count:
                assert agent.poll() is None, (machine.base / "log").read_text()
                assert time.monotonic() < deadline_s, (machine.base / "log").read_text()
                if sum(1 for _ in machine.repository.glob("versions/*/*")) < wanted_count:
                    time.sleep(0.05)
                else:
                    # A version has each of the two files by chance, in every other case.
                    wanted_count = 0 if {4, 9} <= sizes_in_versions(machine) else wanted_count + 2
    finally:
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(PATIENCE_S) == 0, (machine.base / "log").read_text()
    sizes = sizes_in_versions(machine)
    assert {4, 9} <= sizes
    assert len(SECRET) not in sizes
