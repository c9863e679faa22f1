"""``mlsync completion`` in the three shells themselves: what TAB makes of a line that is begun."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time

import pytest
from machine import MLSYNC

pytestmark = pytest.mark.slow

LINES = {
    "mlsync comple": "mlsync completion",
    "mlsync service unin": "mlsync service uninstall",
    "mlsync restore --at-l": "mlsync restore --at-least",
    "mlsync init --addressing vir": "mlsync init --addressing virtual",
    "mlsync verify --device cp": "mlsync verify --device cpu",
    "mlsync restore --version resu": "mlsync restore --version resumable",
    "mlsync restore --to fold": "mlsync restore --to folder/",
    "mlsync check --config own": "mlsync check --config own.toml",
    "mlsync backup yo": "mlsync backup yolo",
}
# A machine under load takes a second for each TAB; nothing is measured here.
PATIENCE_S = 240.0
START = {
    "bash": ["--norc", "--noprofile", "-i"],
    "zsh": ["-f", "-i"],
}
PREPARE = {
    "bash": 'eval "$(mlsync completion bash)"\n',
    "zsh": 'autoload -U compinit; compinit -u -D; eval "$(mlsync completion zsh)"\n',
}


@pytest.fixture
def place(machine):
    """A machine with things to complete; gives its environment too."""
    machine.configure()
    (machine.base / "folder").mkdir()
    (machine.base / "own.toml").touch()
    path = os.pathsep.join([str(MLSYNC.parent), os.environ["PATH"]])
    return machine, machine.environment(PATH=path, TERM="dumb", PS1="> ")


def needs(shell):
    """The shell's path; the test is skipped where there is none."""
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed")
    return found


def typed(shell, lines, environment, cwd):
    """What the shell makes of each line and TAB: the line as it then stands is printed behind a word of its own."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        os.execve(needs(shell), [shell, *START[shell]], environment)
    screen, until_s = b"", time.monotonic() + PATIENCE_S
    try:
        os.write(terminal, PREPARE[shell].encode())
        for line in lines:
            # TAB, then "echo" before it and a mark behind it.
            os.write(terminal, line.encode() + b"\t\x01echo line: \x05 end\n")
        while screen.count(b"\nline: ") < len(lines) and time.monotonic() < until_s:
            if select.select([terminal], [], [], 1.0)[0]:
                screen += os.read(terminal, 65536)
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    shown = [one for one in screen.decode().splitlines() if one.startswith("line: ")]
    return [" ".join(one.removeprefix("line: ").removesuffix("end").split()) for one in shown]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_what_is_begun(shell, place):
    """TAB completes commands, options, values, directories, files and runs at a terminal."""
    needs(shell)
    machine, environment = place
    completed = typed(shell, LINES, environment, machine.base)
    # zsh takes the slash back when a blank follows.
    assert [line.rstrip("/") for line in completed] == [line.rstrip("/") for line in LINES.values()]


def test_fish_completes_what_is_begun(place):
    """The same in fish, which is asked by its own command for it."""
    fish = needs("fish")
    machine, environment = place
    asked = "\n".join(f"echo (complete -C '{line}')" for line in LINES)
    done = subprocess.run(
        [fish, "--no-config", "-c", f"mlsync completion fish | source\n{asked}"],
        env=environment,
        cwd=machine.base,
        capture_output=True,
        text=True,
        check=True,
    )
    # Each line may have an explanation behind a tab.
    offered = [line.split("\t")[0].split(" ")[0] for line in done.stdout.splitlines()]
    assert offered == [line.split()[-1] for line in LINES.values()]


def test_runs_are_offered_only_if_there_is_a_configuration(fresh):
    """Where there is no configuration TAB offers no run and says nothing."""
    words = {"COMP_WORDS": "mlsync backup ", "COMP_CWORD": "2", "_MLSYNC_COMPLETE": "bash_complete"}
    done = fresh.good("backup", **words)
    assert (done.out.strip(), done.err) == ("", "")


def test_an_unknown_shell_is_refused(fresh):
    """The shells that there are scripts for are named."""
    done = fresh.run("completion", "csh")
    assert done.status == 2
    assert "'bash', 'zsh', 'fish'" in done.err
