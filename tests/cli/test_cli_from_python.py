"""``mlsync.versions`` and ``mlsync.restore``, which run the real command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from machine import PASSPHRASE, content

import mlsync
from command_client import KEY
from mlsync import errors
from mlsync.python import command
from mlsync.python.command import CommandAccess, run_command


@pytest.fixture
def key(tmp_path, monkeypatch, server):
    """A notebook's key file; its process has no configuration."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    file = tmp_path / "key"
    file.write_bytes(KEY)
    file.chmod(0o600)
    return file


def test_versions_are_typed_and_in_order(saved, key):
    """Each version of the run, oldest first, with its time as a time, and a table for notebooks."""
    found = mlsync.versions("yolo", repository=saved.url, key_file=key)
    assert [(one.run, one.version, one.checkpoint_count, one.is_pinned) for one in found] == [
        ("yolo", 1, 1, False),
        ("yolo", 2, 1, False),
    ]
    assert datetime.now(found[0].made.tzinfo) - found[0].made < timedelta(hours=1)
    assert found.latest == found[1]
    table = found._repr_html_()
    assert (table.count("<tr>"), "<td>yolo</td><td>2</td>" in table) == (3, True)


def test_a_version_is_brought_back(saved, key, tmp_path, capfd, monkeypatch):
    """All of the version is there, nothing was printed, and the result names what to go on from."""
    monkeypatch.chdir(tmp_path)
    back = mlsync.restore("back", version=1, repository=saved.url, key_file=key)
    assert (back.version, back.directory, back.written_count) == (1, tmp_path / "back", len(content(saved.training)))
    assert back.checkpoint is None or back.checkpoint.is_relative_to(back.directory)
    assert f"<td>{tmp_path}/back</td>" in back._repr_html_()
    assert capfd.readouterr() == ("", "")
    # Files by name, into another directory; the first restore is left alone.
    one = mlsync.restore(tmp_path / "one", "*.csv", version="latest", repository=saved.url, key_file=key)
    assert (one.version, list(content(tmp_path / "one"))) == (2, [b"results.csv"])


def test_errors_are_those_of_mlsync(saved, key, tmp_path):
    """What the command ends with is raised as the error that it is, with its place and its advice."""
    with pytest.raises(errors.VersionMissing) as raised:
        mlsync.restore(tmp_path / "back", version=99, repository=saved.url, key_file=key)
    assert raised.value.advice
    with pytest.raises(errors.RunMissing, match="--all"):
        mlsync.versions("--all", repository=saved.url, key_file=key)
    with pytest.raises(errors.PassphraseMissing):
        mlsync.versions(repository=saved.url)
    with pytest.raises(errors.ConfigInvalid, match="both"):
        mlsync.versions(repository=saved.url, passphrase="x", passphrase_file=key)


def test_a_passphrase_is_in_no_list_of_processes(fresh, key, monkeypatch):
    """It goes through a pipe: neither the command line nor the environment has it."""
    url = f"file://{fresh.base}/other"
    secret = fresh.base / "secret"
    secret.write_text(PASSPHRASE)
    secret.chmod(0o600)
    fresh.good("init", url, "--passphrase-file", secret, "--config", fresh.base / "other.toml")
    started = []
    popen = subprocess.Popen

    def seen(words, **more):
        process = popen(words, **more)
        started.append((words, more.get("env")))
        return process

    monkeypatch.setattr(command.subprocess, "Popen", seen)
    assert mlsync.versions(repository=url, passphrase=PASSPHRASE) == ()
    ((words, env),) = started
    assert env is None
    assert PASSPHRASE not in str(words)
    assert PASSPHRASE not in repr(CommandAccess(passphrase=PASSPHRASE))
    with pytest.raises(errors.ConfigInvalid, match="more than 4096 bytes"):
        mlsync.versions(repository=url, passphrase="x" * 5000)
    with pytest.raises(errors.WrongPassphrase):
        mlsync.versions(repository=url, passphrase="another one")


def test_the_example_for_notebooks_works(saved, key, tmp_path, capfd, monkeypatch):
    """The last example of docs/python.md, as it stands but for its places."""
    page = (Path(mlsync.__file__).parents[2] / "docs" / "python.md").read_text()
    program = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[-1]
    program = program.replace('"/mnt/backup/yolo"', repr(saved.url)).replace("passphrase_file=", "key_file=")
    monkeypatch.chdir(tmp_path)
    exec(program.replace('"/home/me/passphrase"', repr(str(key))), {})
    first, second, last = capfd.readouterr().out.splitlines()
    assert (first[:2], second[:2], last[:2]) == ("1 ", "2 ", "2 ")


def fake(monkeypatch, program):
    """The command is this line of a shell."""
    monkeypatch.setattr(command, "_program", lambda: ["sh", "-c", program, "sh"])


def test_an_end_without_an_answer_has_an_error_too(monkeypatch):
    """Killed, no JSON, a bug, an error of a newer mlsync: each is an Error, and says what it can."""
    fake(monkeypatch, "kill -9 $$")
    with pytest.raises(errors.ProcessKilled, match="signal 9"):
        run_command(["versions"], [], CommandAccess())
    fake(monkeypatch, "echo nonsense; echo 'mlsync: so it is' >&2")
    with pytest.raises(errors.Error, match="no answer: mlsync: so it is"):
        run_command(["versions"], [], CommandAccess())
    fake(monkeypatch, """echo '{"error": {"kind": "Bug", "what": "KeyError: 1"}}'; echo Traceback >&2; exit 1""")
    with pytest.raises(errors.Error, match="KeyError: 1") as raised:
        run_command(["versions"], [], CommandAccess())
    assert raised.value.__notes__ == ["Traceback"]
    fake(monkeypatch, """echo '{"error": {"kind": "OfTomorrow", "what": "new", "where": "there"}}'; exit 70""")
    with pytest.raises(errors.NotFound, match="new: there"):
        run_command(["versions"], [], CommandAccess())
    fake(monkeypatch, """echo '{"failures": []}'; echo 'mlsync: no room: /x' >&2; exit 61""")
    with pytest.raises(errors.TargetFull, match="no room: /x"):
        run_command(["restore"], [], CommandAccess())
    fake(monkeypatch, "echo '{}'")
    with pytest.raises(errors.Error, match="not understood"):
        mlsync.versions()


@pytest.mark.expected_warnings("later proofs are hidden")
def test_what_the_command_warns_of_is_logged(monkeypatch):
    """A warning that came beside a good answer is not lost, and not printed either."""
    fake(monkeypatch, """echo '{"versions": []}'; echo 'mlsync: later proofs are hidden' >&2""")
    assert mlsync.versions() == ()


def test_an_interrupt_ends_the_command(monkeypatch, tmp_path):
    """Ctrl-C in a notebook ends the command in order, and comes through to the notebook."""
    program = "trap 'echo > ended; exit 3' INT; echo > began; while :; do sleep 0.05; done"
    fake(monkeypatch, f"cd {tmp_path}; {program}")

    def interrupt():
        deadline_s = time.monotonic() + 20
        while not (tmp_path / "began").exists() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_command(["restore"], [], CommandAccess())
    thread.join()
    assert (tmp_path / "ended").exists()
