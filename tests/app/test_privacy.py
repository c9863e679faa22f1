"""What a process of mlsync knows cannot be had by others of the same user, level 5's command among them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unprivileged import UID, environment, place_of_his_own, proof_python, python_for_all, run_as

pytestmark = pytest.mark.slow

SECRET = "correct horse battery"
# Goes from itself up to whoever started it, and tells of each process what it can read there.
THIEF = """
import json, os, sys, time
found, pid = [], os.getppid()
while pid > 1:
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.split(":", 1) for line in file.read().splitlines())
    if int(status["Uid"].split()[0]) != os.getuid():
        break
    said = {"pid": pid, "name": open(f"/proc/{pid}/cmdline").read().replace("\\0", " ")}
    for name in ("environ", "mem"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                said[name] = file.read().decode(errors="replace") if name == "environ" else "open"
        except OSError as error:
            said[name] = type(error).__name__
    found.append(said)
    pid = int(status["PPid"])
with open(sys.argv[1] + ".part", "w") as file:
    json.dump(found, file)
os.rename(sys.argv[1] + ".part", sys.argv[1])
while not os.path.exists(sys.argv[1] + ".seen"):
    time.sleep(0.05)
"""


def write_checkpoint(path):
    import torch

    file = io.BytesIO()
    torch.save({"epoch": 1, "model": {"weight": torch.ones(100)}}, file)
    path.write_bytes(file.getvalue())


@pytest.fixture
def his():
    """A user's machine: his Python, a repository and a run that is watched, and what a command of his finds out."""
    python = python_for_all()
    with place_of_his_own() as place:
        (place / "runs").mkdir()
        write_checkpoint(place / "runs/last.pt")
        (place / "thief.py").write_text(THIEF)
        (place / "mlsync.toml").write_text(
            f'repository = "file://{place}/repository"\nstate_directory = "{place}/state"\n'
            f'[[watch]]\ndirectory = "{place}/runs"\n'
            f'[proof]\ndevice = "cpu"\npython = "{proof_python(place, python)}"\n'
            f'command = ["{python}", "{place}/thief.py", "{place}/found", "{{path}}"]\n'
        )
        for path in place.rglob("*"):
            os.chown(path, UID, UID)
        environ = {**environment(), "HOME": str(place), "MLSYNC_PASSPHRASE": SECRET, "AWS_SECRET_ACCESS_KEY": SECRET}
        command = [python, "-P", "-m", "mlsync"]
        config = ["--config", f"{place}/mlsync.toml"]
        # init wants to write the configuration itself
        os.rename(place / "mlsync.toml", place / "kept.toml")
        with run_as(UID, [*command, "init", f"file://{place}/repository", *config], environ, cwd=place) as process:
            assert process.wait(60) == 0
        os.rename(place / "kept.toml", place / "mlsync.toml")
        yield place, command, config, environ


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return path.read_text()


@pytest.mark.parametrize("what", ["agent", "backup"])
def test_level_5s_command_reads_no_secret_of_who_started_it(his, what):
    """Run as the same user, it finds in /proc neither environment nor memory of agent, pass child or backup."""
    import json

    place, command, config, environ = his
    with run_as(UID, [*command, what, "--quickly", *config], environ, cwd=place) as process:
        found = json.loads(wait_for(place / "found", process))
        worker = next(int(one["pid"]) for one in found if f"-m mlsync {what}" in one["name"])
        environs = Path(f"/proc/{worker}/environ").read_bytes()
        core = Path(f"/proc/{worker}/limits").read_text()
        (place / "found.seen").touch()
        if what == "agent":
            process.terminate()
        assert process.wait(60) == 0
    names = [one["name"] for one in found]
    assert [one for one in names if f"mlsync {what}" in one]
    assert (what == "backup") == (not [one for one in names if "mlsync.service.pass" in one])
    # The process that only waits knows nothing.
    ours = [one for one in found if "-m mlsync" in one["name"]]
    assert {(one["environ"], one["mem"]) for one in ours} == {("PermissionError", "PermissionError")}
    assert SECRET not in json.dumps(found)
    # Nor does root find the passphrase there.
    assert f"MLSYNC_PASSPHRASE={SECRET}".encode() not in environs
    assert core.partition("Max core file size")[2].split()[:2] == ["0", "0"]


def test_a_variable_that_was_taken_is_gone_from_proc():
    """Every one of that name is overwritten where the kernel laid it, and no other variable is."""
    code = (
        "import os\n"
        "from mlsync.app.privacy import take_variable\n"
        "assert take_variable(os.environ, 'TAKEN') == 'secret'\n"
        "assert take_variable(os.environ, 'TAKEN') is None\n"
        "assert take_variable({'TAKEN': 'x'}, 'TAKEN') == 'x'\n"
        "print(open('/proc/self/environ', 'rb').read())\n"
    )
    environ = {**os.environ, "TAKEN": "secret", "TAKEN_TOO": "left", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert "secret" not in done.stdout
    assert r"TAKEN=\x00\x00\x00\x00\x00\x00\x00" in done.stdout
    assert "TAKEN_TOO=left" in done.stdout
