"""Errors end with what helps: a command, an option, a key of the configuration, or a program of the system to run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import click
import pytest

from mlsync import errors
from mlsync.app.run_lock import RunLock
from mlsync.cli.main import COMMANDS, cli
from mlsync.config.model import TABLES, TOP

LEAVES = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type)
    and issubclass(kind, errors.Error)
    and "exit_code" in vars(kind)
    and kind is not errors.Error
}
# What these say depends on the place that raises them alone.
OWN_WORDS = {"ConfigInvalid", "Untrusted"} | {name for name in LEAVES if name.startswith("KeySlot")}


def options(command: click.Command) -> set[str]:
    """All options of a command and of those below it."""
    found = {word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)}
    if isinstance(command, click.Group):
        context = click.Context(command)
        found |= {
            word for name in command.list_commands(context) for word in options(command.get_command(context, name))
        }
    return found


@pytest.mark.parametrize("name", sorted(LEAVES.keys() - OWN_WORDS))
def test_each_error_says_what_helps(name):
    """Each error has a usual advice, and its commands, options and keys exist."""
    advice = LEAVES[name].usual_advice
    assert advice, name
    keys = {key for table in TABLES.values() for key in table} | {*TOP}
    for command in re.findall(r"mlsync ([\w-]+)", advice):
        assert command in COMMANDS, advice
    for option in re.findall(r"--[a-z-]+", advice):
        assert option in options(cli), advice
    for key in re.findall(r"(\w+) under \[|(\w+) in the configuration", advice):
        assert set(key) & keys, advice


def test_the_usual_advice_is_given_where_there_is_no_other(fresh):
    """What a command prints at the end, in words and in JSON, has the advice of its error's kind."""
    done = fresh.run("agent", "--repo", fresh.url, "--config", "none.toml", "--json")
    assert "mlsync init URL --watch DIR" in done.err
    assert done.json()["error"]["advice"]


def without_credentials(machine):
    return ["versions", "--repo", "s3://bucket/runs", "--endpoint-url", "http://127.0.0.1:9", "--region", "x"]


def damaged_state(machine):
    for state in machine.state.glob("*/state.sqlite"):
        shutil.rmtree(state.parent / "uploads")
        (state.parent / "uploads").write_bytes(b"")
    (machine.training / "new").write_bytes(b"1")
    return ["backup"]


def rolled_back(machine):
    machine.good("backup")
    machine.object("versions/*/*", -1).unlink()
    return ["versions"]


def of_another(machine):
    machine.good("backup")
    machine.configure(directory=machine.base / "other")
    (machine.base / "other").mkdir()
    (machine.base / "other" / "a").write_text("1")
    return ["backup"]


def torn(machine):
    file = machine.training / "weights" / "last.pt"
    file.write_bytes(file.read_bytes()[:-100])
    return ["backup"]


def not_loading(machine):
    machine.object("packs/*/*").write_bytes(b"")
    return ["verify"]


SITUATIONS = {
    "a repository that is not there": (lambda machine: ["versions", "--repo", "/nonexistent"], 10, "mlsync init"),
    "init where one is": (lambda machine: ["init", machine.url, "--config", "o.toml"], 11, "mlsync restore --repo"),
    "a run with a slip": (lambda machine: ["show", "--run", "yolp"], 14, "did you mean yolo?"),
    "a watched run with a slip": (lambda machine: ["backup", "yolp"], 2, "did you mean yolo?"),
    "a version that is not there": (lambda machine: ["show", "99"], 15, "mlsync versions yolo"),
    "a path that is not there": (lambda machine: ["restore", "weights/lst.pt", "--to", "o"], 19, "weights/last.pt"),
    "no such word": (lambda machine: ["show", "newest"], 15, "latest"),
    "a key file that is not there": (
        lambda machine: ["versions", "--key-file", "/nonexistent"],
        20,
        "--passphrase-file",
    ),
    "a history that was rolled back": (rolled_back, 16, "--accept-rollback"),
    "a run of another directory": (of_another, 90, "mlsync backup --take-over yolo"),
    "an S3 store without credentials": (without_credentials, 72, "AWS_ACCESS_KEY_ID"),
    "a state that does not open": (damaged_state, 81, "delete"),
    "a pack that is damaged": (not_loading, None, "mlsync check"),
    "no training directory": (
        lambda machine: [machine.training.rename(machine.base / "t"), "backup"][1:],
        40,
        "[[watch]]",
    ),
    "a device that is not there": (lambda machine: ["prove", "latest", "--device", "cuda:99"], None, "cpu"),
    "an unknown command": (lambda machine: ["restor"], 2, "restore"),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_situation_ends_with_what_helps(saved, situation):
    """What a user can run into ends with a message on stderr that has the word to copy."""
    prepare, status, word = SITUATIONS[situation]
    done = saved.run(*prepare(saved))
    assert status is None or done.status == status, done
    assert done.status != 0
    assert word in done.err, done.err


def test_a_wrong_passphrase_says_how_to_give_another(saved):
    """The options that name another secret are in the message."""
    done = saved.run("versions", MLSYNC_PASSPHRASE="wrong horse")
    assert done.status == 21
    assert "--passphrase-file" in done.err


def test_a_locked_run_says_whose_process_it_is(saved):
    """The message names the process that works on the run, and what stops it."""
    saved.good("backup")
    (identity,) = [path.parent.name for path in Path(saved.state).glob("*/state.sqlite")]
    with RunLock(saved.state, identity, "yolo"):
        done = saved.run("backup")
    assert done.status == 13
    assert "process " in done.err
    assert "kill" in done.err
