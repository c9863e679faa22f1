"""A store that shows less than this machine saw: every command says so, and goes on only where that is accepted."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3

import pytest
from machine import content

COPIES = "copies/*/*"
READING = {
    "versions": ["versions"],
    "versions of a run": ["versions", "yolo"],
    "show": ["show"],
    "show 1": ["show", "1"],
    "verify": ["verify"],
    "diff": ["diff", "1", "1"],
    "prove": ["prove", "--pending", "--level", "1"],
    "restore": ["restore", "--to", "out", "args.yaml"],
    "restore of a run": ["restore", "--to", "out", "--run", "yolo", "--version", "1", "args.yaml"],
}


def tree(directory):
    """Every name below a directory, with the times of what is no directory; but for what a restore notes of itself."""
    return {
        path: None if path.is_dir() else path.stat().st_mtime_ns
        for path in directory.rglob("*")
        if "handed-over" not in path.parts
    }


@pytest.mark.parametrize("arguments", READING.values(), ids=READING)
def test_a_version_that_was_seen_and_is_gone_is_told_by_every_command(saved, arguments):
    """Each ends with 16 and says how to go on; with --accept-rollback it goes on, and still says it."""
    saved.object("versions/*/*", 1).unlink()
    state = tree(saved.state)
    done = saved.run(*arguments)
    assert done.status == 16
    assert "version 2 of run 'yolo'" in done.err
    assert "--accept-rollback" in done.err
    done = saved.good(*arguments, "--accept-rollback")
    assert "version 2 of run 'yolo'" in done.err
    assert tree(saved.state) == state


@pytest.mark.parametrize("is_copy_there", [True, False], ids=["manifest hidden", "manifest and copy hidden"])
def test_check_names_a_version_that_is_gone_also_where_that_is_accepted(saved, is_copy_there):
    """It ends with 16; with --accept-rollback it goes on, and a copy that is left without its manifest is a problem."""
    saved.object("versions/*/*", 1).unlink()
    if not is_copy_there:
        saved.object(COPIES, 1).unlink()
    state = tree(saved.state)
    done = saved.run("check")
    assert done.status == 16
    assert "version 2 of run 'yolo'" in done.err
    assert "--accept-rollback" in done.err
    done = saved.run("check", "--accept-rollback")
    assert "version 2 of run 'yolo'" in done.err
    assert done.status == (33 if is_copy_there else 0)
    assert ("the manifest is missing; its copy is sound" in done.out) == is_copy_there
    assert tree(saved.state) == state


def test_a_run_that_is_gone_is_told(saved):
    """A store that shows no version at all is no empty repository to who saw one."""
    for number in (1, 0):
        saved.object("versions/*/*", number).unlink()
    assert [saved.run(*arguments).status for arguments in (["versions"], ["restore", "--run", "yolo"])] == [16, 16]


def test_a_newest_version_that_does_not_open_any_more_is_no_silent_step_back(saved):
    """Who asks for the newest is told that an older one is all there is; a number means what it says."""
    manifest = saved.object("versions/*/*", 1)
    manifest.chmod(0o600)
    manifest.write_bytes(b"garbage")
    done = saved.run("restore", "--to", "out")
    assert done.status == 16
    assert "does not open any more; the newest that does is 1" in done.err
    saved.good("restore", "--to", "out", "--version", "1")
    saved.good("restore", "--to", "other", "--accept-rollback")
    listed = json.loads(saved.good("versions", "--json").out)
    assert [version["version"] for version in listed["versions"]] == [1]
    assert [one["object"] for one in listed["unreadable"]] == [manifest.relative_to(saved.repository).as_posix()]


def test_a_fresh_machine_needs_no_state_and_makes_none(saved):
    """It believes the store, unless it is told which version there has to be at least; single paths leave no note."""
    saved.object("versions/*/*", 1).unlink()
    saved.object(COPIES, 1).unlink()
    shutil.rmtree(saved.state)
    for command in (["versions"], ["show"], ["check"]):
        saved.good(*command)
    saved.good("restore", "--to", "out", "--at-least", "1", "args.yaml")
    done = saved.run("restore", "--to", "out", "--at-least", "2")
    assert done.status == 16
    assert "its newest version is 1, and 2 was asked for at least" in done.err
    assert not saved.state.exists()


def test_a_fresh_machine_finds_a_hidden_version_by_its_copy(saved):
    """Without a state, check names the manifest that is missing beside a sound copy, and the version it touches."""
    manifest = saved.object("versions/*/*", 1)
    manifest.unlink()
    shutil.rmtree(saved.state)
    done = saved.run("check")
    assert done.status == 33
    (line,) = [line for line in done.out.splitlines() if "touches yolo/2" in line]
    assert line.startswith(f"{manifest.relative_to(saved.repository)}: the manifest is missing; its copy is sound")
    assert not saved.state.exists()


def test_what_is_planted_above_does_not_count_as_newer(saved):
    """An object that does not open is named and passed over, by --at-least as by latest."""
    last = saved.object("versions/*/*", 1)
    planted = last.with_name("9999999999")
    planted.write_bytes(b"")
    shutil.rmtree(saved.state)
    done = saved.good("restore", "--to", saved.base / "out", "--at-least", "2")
    assert "9999999999 is skipped" in done.err
    assert content(saved.base / "out") == content(saved.training)
    assert saved.run("restore", "--to", "out", "--at-least", "3").status == 16
    assert "9999999999" in saved.run("check").out


def test_a_state_that_cannot_be_read_is_none(saved):
    """A state of another user, or a damaged one, keeps nobody from restoring."""
    saved.object("versions/*/*", 1).unlink()
    (state,) = saved.state.glob("*/state.sqlite")
    for path in state.parent.glob("state.sqlite-*"):
        path.unlink()
    state.write_bytes(b"no database")
    saved.good("restore", "--to", "out", "args.yaml")
    assert state.read_bytes() == b"no database"


def test_what_an_agent_at_work_wrote_last_counts(saved):
    """What still stands in the log of the state is seen too."""
    (path,) = saved.state.glob("*/state.sqlite")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE heads SET number = 3")
    assert os.path.exists(f"{path}-wal")
    done = saved.run("versions")
    connection.close()
    assert done.status == 16
    assert "version 3 of run 'yolo'" in done.err
