"""Where the passphrase or key comes from, and that it goes nowhere."""

from __future__ import annotations

import json
import os
import pty
import re
import time

import click
import pytest
from keyboard import Terminal
from machine import MLSYNC, PASSPHRASE, Machine, checkpoint, content, copy_of, write_training

from mlsync.cli.main import cli
from mlsync.service import status
from mlsync.service.talk.place import AgentPlace

COMMANDS = (["backup"], ["agent"], ["versions"], ["show"], ["restore", "--to", "out"], ["verify"], ["check"])


@pytest.fixture
def fresh(fresh):
    """A machine with nothing on it but a passphrase."""
    fresh.secret = {"MLSYNC_PASSPHRASE": PASSPHRASE}
    return fresh


@pytest.fixture(scope="module")
def sealed(tmp_path_factory, server):
    """The template of machines whose repository opens with a passphrase, and holds a version."""
    machine = Machine(tmp_path_factory.mktemp("sealed"), server)
    machine.secret = {"MLSYNC_PASSPHRASE": PASSPHRASE}
    machine.good("init", machine.url)
    write_training(machine.training)
    machine.configure()
    machine.good("backup")
    return machine


@pytest.fixture
def saved(tmp_path, server, sealed):
    """A machine whose repository opens with a passphrase, and holds a version."""
    machine = copy_of(sealed, tmp_path / "saved", server)
    machine.secret = sealed.secret
    return machine


def test_init_asks_twice(fresh):
    """``init`` at a terminal asks for the passphrase twice, shows neither, and it opens the repository."""
    terminal = Terminal(fresh, "init", fresh.url, MLSYNC_PASSPHRASE="")
    shown = terminal.expect("Passphrase: ")
    terminal.type("tip top hat\n")
    shown += terminal.expect("Passphrase again: ")
    terminal.type("tip top hat\n")
    status, rest = terminal.end()
    assert status == 0
    assert "tip top hat" not in shown + rest
    assert "WITHOUT IT NOTHING CAN BE RESTORED" in shown
    assert "Keep a copy of the passphrase away from this machine" in rest
    fresh.good("versions", MLSYNC_PASSPHRASE="tip top hat")


def test_two_that_differ(fresh):
    """Two passphrases that differ end ``init`` with 20, and there is neither repository nor configuration."""
    terminal = Terminal(fresh, "init", fresh.url, MLSYNC_PASSPHRASE="")
    terminal.expect("Passphrase: ")
    terminal.type("one of two\n")
    terminal.expect("Passphrase again: ")
    terminal.type("two of two\n")
    status, rest = terminal.end()
    assert status == 20
    assert "the two passphrases differ; nothing was done" in rest
    assert not fresh.repository.exists()
    assert not fresh.configuration.exists()
    assert list(fresh.base.iterdir()) == [fresh.home]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_wrong_passphrase(saved, command):
    """A wrong passphrase ends every command with 21, names the repository, and changes nothing."""
    done = saved.run(*command, MLSYNC_PASSPHRASE="wrong")
    assert (done.status, done.out) == (21, "")
    assert saved.url in done.err
    assert "Traceback" not in done.err
    assert not (saved.base / "out").exists()
    saved.good("restore", "--to", "back")
    assert content(saved.base / "back") == content(saved.training)


def test_a_passphrase_that_is_found_by_trying(fresh):
    """``init`` refuses fewer than 8 characters with 23, makes nothing, and suggests another one each time."""
    done = [fresh.run("init", fresh.url, MLSYNC_PASSPHRASE="é" * 7) for _ in range(2)]
    assert [one.status for one in done] == [23, 23]
    assert "7 characters" in done[0].err
    suggested = [re.search(r"(?:[a-z2-9]{4}-){4}[a-z2-9]{4}", one.err)[0] for one in done]
    assert suggested[0] != suggested[1]
    assert not fresh.repository.exists()
    assert not fresh.configuration.exists()
    fresh.good("init", fresh.url, MLSYNC_PASSPHRASE=suggested[0])


def test_a_weak_passphrase_that_is_wished(fresh):
    """``--allow-weak`` takes it, and later commands do not ask how long it is."""
    fresh.good("init", fresh.url, "--allow-weak", MLSYNC_PASSPHRASE="a")
    fresh.good("versions", MLSYNC_PASSPHRASE="a")


def test_a_passphrase_is_the_same_however_its_letters_are_composed(fresh):
    """What was typed as one letter with an accent opens for who types letter and accent, and bytes stay bytes."""
    fresh.good("init", fresh.url, MLSYNC_PASSPHRASE="caf\u00e9 cr\u00e8me")
    fresh.good("versions", MLSYNC_PASSPHRASE="cafe\u0301 cre\u0300me")


@pytest.mark.parametrize(("typed", "code", "words"), [("", 20, "empty"), ("seven77", 23, "7 characters")])
def test_a_passphrase_that_is_none(fresh, typed, code, words):
    """An empty passphrase, and one that can be guessed, is refused at once and not typed twice."""
    terminal = Terminal(fresh, "init", fresh.url, MLSYNC_PASSPHRASE="")
    terminal.expect("Passphrase: ")
    terminal.type(f"{typed}\n")
    ended, rest = terminal.end()
    assert (ended, words in rest, "again" in rest) == (code, True, False)
    assert not fresh.repository.exists()


@pytest.mark.parametrize("command", [["versions"], ["backup"], ["restore", "--to", "out"], ["agent"]])
def test_ctrl_c_at_the_prompt(saved, command):
    """Ctrl-C at the passphrase prompt ends any command at once with 130 and without a traceback."""
    terminal = Terminal(saved, *command, MLSYNC_PASSPHRASE="")
    terminal.expect("Passphrase: ")
    terminal.type("\x03")
    status, rest = terminal.end()
    assert status == 130
    assert "mlsync: interrupted" in rest
    assert "Traceback" not in rest


def test_the_agent_looks_before_it_asks(fresh, saved):
    """``agent`` at a terminal ends with 10 without a repository, with 13 if one runs; where one ran, it asks."""
    fresh.configure()
    code, seen = Terminal(fresh, "agent", MLSYNC_PASSPHRASE="").end()
    assert (code, "Passphrase" in seen, str(fresh.repository) in seen) == (10, False, True)
    kept = dict.fromkeys(status._KEPT) | {"run": "yolo"}
    status_file = {"format": status.FORMAT, "repository": saved.url, "runs": [kept]}
    (saved.state / "status.json").write_text(json.dumps(status_file))
    here = {"host": os.uname().nodename, "started_s": time.time(), "pid": os.getpid()}
    one = status_file["runs"][0] | {"last_error": None, "troubles": []}
    (saved.state / "status.json").write_text(json.dumps(status_file | here | {"runs": [one]}))
    place = AgentPlace(saved.state)
    place.claim()
    code, seen = Terminal(saved, "agent", MLSYNC_PASSPHRASE="").end()
    place.release()
    assert (code, f"already: process {os.getpid()}" in seen, "Passphrase" in seen) == (13, True, False)
    (saved.state / "status.json").write_text(json.dumps(status_file | here | {"runs": [one], "pid": 1 << 22}))
    saved.repository.rename(saved.base / "away")
    terminal = Terminal(saved, "agent", MLSYNC_PASSPHRASE="")
    terminal.expect("Passphrase: ")
    terminal.type("\x03")
    assert terminal.end()[0] == 130


def test_prompt_and_json(saved):
    """At a terminal the prompt does not get into the JSON: stdout is the value alone."""
    pid, descriptor = pty.fork()
    out = saved.base / "out.json"
    if pid == 0:
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT, 0o600), 1)
        os.execve(MLSYNC, [str(MLSYNC), "versions", "--json"], saved.environment(MLSYNC_PASSPHRASE=""))
    assert os.read(descriptor, 100).startswith(b"Passphrase")
    os.write(descriptor, PASSPHRASE.encode() + b"\n")
    assert os.waitpid(pid, 0)[1] == 0
    os.close(descriptor)
    assert out.read_text().startswith('{"versions": [')


def test_nobody_to_ask(saved):
    """Without a terminal and without a secret the command ends with 20 and names every way to give one."""
    done = saved.run("versions", MLSYNC_PASSPHRASE="")
    assert done.status == 20
    for way in ("--passphrase-file", "--key-file", "MLSYNC_PASSPHRASE", "[key]", "systemd credential", "terminal"):
        assert way in done.err


def test_passphrase_file_is_relative_to_here(fresh):
    """A relative --passphrase-file is counted from the current directory, and stands as a whole path in [key]."""
    there = fresh.base / "secrets"
    there.mkdir()
    (there / "pass").write_text("open sesame\n")
    (there / "pass").chmod(0o600)
    fresh.good("init", fresh.url, "--passphrase-file", "pass", cwd=there, MLSYNC_PASSPHRASE="")
    assert f'passphrase_file = "{there}/pass"' in fresh.configuration.read_text()
    fresh.good("versions", MLSYNC_PASSPHRASE="")
    fresh.good("versions", "--repo", fresh.url, MLSYNC_CONFIG="", MLSYNC_PASSPHRASE="open sesame")


def test_key_file(fresh):
    """A repository made with --key-file opens with that file, and with no other one and no passphrase."""
    key, other = fresh.base / "key", fresh.base / "other"
    for file in (key, other):
        file.write_bytes(os.urandom(32))
        file.chmod(0o600)
    fresh.good("init", fresh.url, "--key-file", key, MLSYNC_PASSPHRASE="")
    fresh.good("versions", MLSYNC_PASSPHRASE="")
    repo = ("versions", "--repo", fresh.url)
    assert fresh.run(*repo, "--key-file", other, MLSYNC_CONFIG="", MLSYNC_PASSPHRASE="").status == 21
    assert fresh.run(*repo, MLSYNC_CONFIG="").status == 21


def test_both_secrets(saved):
    """A passphrase file and a key file at once are refused."""
    done = saved.run("versions", "--passphrase-file", "a", "--key-file", "b")
    assert done.status == 2
    assert "keep one of them" in done.err


def test_a_secret_that_others_may_read(saved):
    """A passphrase file that others may read is refused, with the command that mends it."""
    file = saved.base / "pass"
    file.write_text(PASSPHRASE)
    file.chmod(0o644)
    done = saved.run("versions", "--passphrase-file", file, MLSYNC_PASSPHRASE="")
    assert done.status == 20
    assert f"chmod 600 {file}" in done.err
    file.chmod(0o600)
    saved.good("versions", "--passphrase-file", file, MLSYNC_PASSPHRASE="")


def test_a_secret_file_that_is_not_there(saved):
    """A passphrase file that is missing is named."""
    done = saved.run("versions", "--passphrase-file", "none", MLSYNC_PASSPHRASE="")
    assert done.status == 20
    assert "none" in done.err


def test_systemd_credential(saved):
    """A systemd credential opens the repository too."""
    directory = saved.base / "credentials"
    directory.mkdir()
    (directory / "mlsync-passphrase").write_text(PASSPHRASE + "\n")
    saved.good("versions", MLSYNC_PASSPHRASE="", CREDENTIALS_DIRECTORY=str(directory))


def test_children_do_not_get_the_passphrase(saved):
    """The passphrase in the environment, and the store's credentials, do not reach the proof's process."""
    spy = saved.base / "spy"
    seen = saved.base / "environment"
    spy.write_text(f"#!/bin/sh\nenv >> {seen}\nexit 3\n")
    spy.chmod(0o755)
    saved.configure(f'[proof]\npython = "{spy}"\n')
    (saved.training / "weights" / "last.pt").write_bytes(checkpoint(9))
    saved.run("backup", AWS_SECRET_ACCESS_KEY="hush hush", SOME_TOKEN="psst")
    text = seen.read_text()
    assert "PATH=" in text
    assert PASSPHRASE not in text
    assert "MLSYNC_PASSPHRASE" not in text
    assert "hush hush" not in text


def test_secrets_are_shown_nowhere(saved):
    """Neither the passphrase nor a key of the store stands in any output, local file, or object of the repository."""
    secrets = {"MLSYNC_PASSPHRASE": PASSPHRASE, "AWS_SECRET_ACCESS_KEY": "hush hush"}
    (saved.training / "results.csv").write_text("epoch,loss\n")
    for command in (["backup"], ["versions"], ["show"], ["check"], ["restore", "--to", "out"], ["verify"]):
        done = saved.run(*command, "--json", "-v", **secrets)
        assert done.status == 0, done
        assert not any(secret in done.out + done.err for secret in secrets.values())
    everywhere = content(saved.repository) | content(saved.state) | content(saved.home)
    assert not any(PASSPHRASE.encode() in body for body in everywhere.values())


def test_names_are_shown_to_the_store_nowhere(saved):
    """The store sees neither the run's name, nor a path, nor a line of a file, nor the machine's name."""
    # In its quotes: a machine may be called "vm", and sealed bytes hold any three of them in one run of some hundred.
    node = b'"%s"' % os.uname().nodename.encode()
    words = [b"yolo", b"results.csv", b"last.pt", b"epoch,loss", b"args.yaml", node]
    for path, body in content(saved.repository).items():
        assert not any(word in body or word in path for word in words), path


def test_modes(fresh):
    """What ``init`` and ``backup`` write is for its owner alone: configuration, repository, what is in the state."""
    fresh.good("init", fresh.url, "--watch", fresh.training)
    fresh.training.mkdir()
    (fresh.training / "log").write_text("x")
    fresh.good("backup", STATE_DIRECTORY=str(fresh.state))
    assert fresh.configuration.stat().st_mode & 0o777 == 0o600
    for path in (fresh.repository, *fresh.repository.rglob("*"), *fresh.state.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_restored_files_have_their_own_modes(machine):
    """A restored file has the mode that it had, not that of the repository's objects."""
    (machine.training / "args.yaml").chmod(0o640)
    machine.good("backup")
    machine.good("restore", "--to", "out")
    assert (machine.base / "out" / "args.yaml").stat().st_mode & 0o777 == 0o640


def test_the_process_list_shows_no_secret():
    """No option takes a secret itself, for arguments are seen by every user of the machine: each names a file."""
    options = {option for option in options_of(cli) if "pass" in option or "key" in option}
    assert {"--passphrase-file", "--key-file"} < options
    # A key of KMS has a name, which is no secret, and --rekey is a flag.
    named = {option for option in options if not option.endswith("-file")}
    assert named == {"--sse-kms-key", "--second-kms-key", "--rekey"}


def options_of(command):
    """The options of a command, and of those below it."""
    found = {option for parameter in command.params for option in parameter.opts}
    if isinstance(command, click.Group):
        context = click.Context(command)
        return found.union(*(options_of(command.get_command(context, name)) for name in command.list_commands(context)))
    return found
