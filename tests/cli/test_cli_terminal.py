"""The installed command as a process: terminals, pipes, signals, and what goes to stdout and what to stderr."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from machine import MLSYNC, content

import mlsync

pytestmark = pytest.mark.slow


def run(machine, command, **environment):
    """What a shell line did."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=machine.environment(**environment) | {"PATH": f"{MLSYNC.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        cwd=machine.base,
        check=False,
    )


def test_the_version(fresh):
    """``mlsync --version`` prints name and version."""
    assert run(fresh, "mlsync --version").stdout == f"mlsync {mlsync.__version__}\n"


def test_as_a_module(fresh):
    """``python -m mlsync`` is the command."""
    done = run(fresh, "python -m mlsync --version")
    assert done.stdout == f"mlsync {mlsync.__version__}\n"


def test_no_command(fresh):
    """``mlsync`` alone says what to do next and ends with 0, as -h and --help do."""
    done = run(fresh, "mlsync")
    assert done.returncode == 0
    assert "mlsync demo" in done.stdout
    assert run(fresh, "mlsync -h").returncode == 0
    assert run(fresh, "mlsync restore -h").stdout == run(fresh, "mlsync restore --help").stdout


@pytest.mark.parametrize("command", ["versions", "show", "versions --json", "show --json", "check --json"])
def test_a_reader_that_goes_away(saved, command):
    """A reader that goes away, as ``| head`` does, brings no traceback, and the status that SIGPIPE would give."""
    done = run(saved, f"mlsync {command} | true")
    assert done.stderr == ""
    assert done.returncode == 141


def test_what_goes_where(saved):
    """Results go to stdout and notices to stderr, and in a pipe there is no progress bar and no colour."""
    (saved.training / "own").write_text("1")
    saved.good("backup")  # which tells that the run goes on here, since the machine is a copy
    (saved.training / "results.csv").write_text("epoch,loss\n")
    done = saved.good("backup")
    assert done.out.startswith("yolo: version 4 in ")
    assert done.err == ""
    for command in (["versions"], ["show"], ["check"], ["verify"], ["restore", "--to", "back"]):
        done = saved.good(*command)
        assert done.err == ""
        assert "\x1b" not in done.out
        assert done.out.endswith("\n")


def test_quiet(saved):
    """-q prints what was asked for, no summary, and still every error."""
    (saved.training / "results.csv").write_text("epoch,loss\n")
    for command in (["backup"], ["restore", "--to", "back"], ["verify"], ["check"]):
        assert saved.good(*command, "-q").out == ""
    assert "yolo" in saved.good("versions", "-q").out
    assert "no version 9" in saved.run("show", "9", "-q").err


def test_verbose(saved):
    """-v says on stderr what the store was asked, and stdout stays the same."""
    done = saved.good("versions", "-v")
    assert done.out == saved.good("versions").out
    assert "store: calls: " in done.err


def test_a_backup_of_an_untouched_run_costs_five_calls_of_the_store(saved):
    """The header, the key slot that opened before, whether its key was retired, the features and the versions."""
    saved.good("backup")  # the files of this machine are copies, which no backup has seen yet
    assert "store: calls: get 2, list 2, stat 1; " in saved.good("backup", "-v").err


def test_progress_at_a_terminal(machine):
    """At a terminal a line is drawn on stderr and gone at the end; stdout is as in a pipe."""
    (machine.training / "big.bin").write_bytes(os.urandom(96 << 20))
    done = run(machine, "script -qec 'mlsync backup > out' /dev/null", TERM="xterm")
    assert "reading" in done.stdout
    *lines, last = done.stdout.split("\n")  # Python took each "\r" for a line's end
    assert last == "\x1b[K"
    assert max(len(line.removesuffix("\x1b[K")) for line in lines if "warning" not in line) <= 77
    assert "\x1b[?" not in done.stdout  # the cursor stays visible
    out = (machine.base / "out").read_text()
    assert out.startswith("yolo: version 1 in ")
    assert "\x1b" not in out


def test_wide_names_are_aligned(machine):
    """Columns stay aligned beside Chinese letters, which take two places each."""
    (machine.training / "模型.txt").write_text("x" * 10)
    machine.configure('exclude = []\n[proof]\ndevice = "none"\n')
    machine.good("backup")
    lines = machine.good("show").out.splitlines()
    header = next(line for line in lines if line.lstrip().startswith("SIZE"))
    row = next(line for line in lines if "模型" in line)
    assert row.index("模型") == header.index("NAME")


# mlsync, which stands still in a call of its store as soon as something is so, until it is told to go on.
STANDS_STILL = """
import sys, time
from pathlib import Path
from mlsync.store.directory import pending_file, store
whole = {call}
def call(*given):
    whole(*given)
    if {is_so}:
        Path("stands").touch()
        while not Path("go").exists():
            time.sleep(0.01)
{call} = call
from mlsync.cli.main import main
sys.argv[0] = "mlsync"
main()
"""


def interrupted(machine, number, *arguments, call, is_so):
    """What a command did that got a signal while it stood still in a call of its store, and then went on."""
    stands, go = machine.base / "stands", machine.base / "go"
    process = subprocess.Popen(
        [sys.executable, "-c", STANDS_STILL.format(call=call, is_so=is_so), *map(str, arguments)],
        env=machine.environment(),
        cwd=machine.base,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            while not stands.exists():
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            process.send_signal(number)
            # It has noticed before it goes on: however busy the machine is, it cannot have ended by then.
            noticed = b""
            while b"safe point" not in noticed:
                got = os.read(process.stderr.fileno(), 1 << 16)
                assert got, noticed
                noticed += got
            go.touch()
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, out, noticed.decode() + err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_backup(machine, number):
    """Ctrl-C or SIGTERM stops a backup at a safe point with 3; the next one uses what was stored by then."""
    for index in range(12):
        (machine.training / f"{index}.bin").write_bytes(os.urandom(12 << 20))
    has_begun = {"call": "pending_file.PendingFile.write", "is_so": "given[1] > 1 << 20"}
    status, out, err = interrupted(machine, number, "backup", "--quickly", **has_begun)
    assert (status, out) == (3, ""), err
    assert "stopping at the next safe point" in err
    assert "Traceback" not in err
    assert machine.good("versions").out == "no version yet\n"
    done = machine.good("backup", "--json").json()["runs"][0]
    assert done["version"] == 1
    assert done["new_bytes"] < done["size_bytes"]
    machine.good("check", "--read-data")


def test_a_stopped_restore(machine):
    """Ctrl-C stops a restore with 3 and says to run it again, which finishes it and fetches only the rest."""
    for index in range(12):
        (machine.training / f"{index}.bin").write_bytes(os.urandom(12 << 20))
    machine.good("backup")
    back = machine.base / "back"
    is_under_way = {"call": "store.DirectoryStore.read", "is_so": "Path('back/1.bin').exists()"}
    status, _, err = interrupted(machine, signal.SIGINT, "restore", "--to", back, **is_under_way)
    assert status == 3, err
    assert "run it again to go on" in err
    again = machine.good("restore", "--to", back, "--json").json()
    assert again["unchanged_count"] > 0
    assert again["written_bytes"] < again["size_bytes"]
    assert content(back) == content(machine.training)


def test_a_bug_is_a_traceback_and_json(saved):
    """What is no error of ours shows its traceback on stderr, its status is 1, and --json is one value still."""
    broken = "import mlsync.upkeep.check as c; c._Check.run = lambda *a, **k: 1 // 0"
    code = f"import sys; sys.argv = ['mlsync', 'check', '--json']; {broken}; from mlsync.cli.main import main; main()"
    done = run(saved, f'python -c "{code}"')
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert '"kind": "Bug"' in done.stdout
    assert done.stdout.count("\n") == 1
