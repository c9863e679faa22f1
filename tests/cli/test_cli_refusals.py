"""What can be refused is refused before anybody has to type a passphrase.

These commands have no secret and no terminal: whatever asks for one ends with 20.
"""

from __future__ import annotations

import json
import os
import shutil

import pytest

from limited_s3 import LimitedS3, error_body
from mlsync.app.run_lock import RunLock

NOBODY = 4321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become another user")


@pytest.fixture
def asked(machine):
    """A machine with a repository and no secret, where a command that gets as far as asking ends with 20."""
    machine.secret = {}
    assert machine.run("versions").status == 20
    return machine


def open_up(base):
    """Another user may go down to *base*, and not write there."""
    base.chmod(0o755)
    for directory in base.parents:
        if not directory.stat().st_mode & 0o001:
            directory.chmod(directory.stat().st_mode | 0o011)


@pytest.mark.parametrize(
    "command", [["restore", "--version"], ["verify", "--version"], ["show"], ["prove"], ["diff"], ["diff", "1"]]
)
def test_a_word_that_is_no_version(asked, command):
    """A word that means a version of no repository ends with 2, and a word that may mean one with the question."""
    done = asked.run(*command, "9 May")
    assert done.status == 2
    assert "not a version: '9 May'" in done.err
    for word in ("7", "latest", "best", "resumable", "2026-11-23T14:00", "name-of-a-pin"):
        assert asked.run(*command, word).status == 20, word


def test_a_watched_directory_that_is_missing(asked):
    """A backup of nothing but missing directories ends with 40; with one that is there it asks."""
    asked.configure(f'[[watch]]\ndirectory = "{asked.base}/second"\n')
    assert asked.run("backup").status == 20
    assert asked.run("backup", "second").status == 40
    shutil.rmtree(asked.training)
    done = asked.run("backup")
    assert done.status == 40
    assert f"{asked.training}" in done.err
    assert "1 other run cannot be backed up either" in done.err


def test_a_run_that_another_process_works_on(asked):
    """While others hold the locks of all runs, backup ends with 13; with --take-over, which they obey, it asks."""
    repository_id = json.loads((asked.repository / "repository").read_bytes())["id"]
    with RunLock(asked.state, repository_id, "yolo"):
        done = asked.run("backup")
        assert done.status == 13
        assert f"process {os.getpid()}" in done.err
        assert asked.run("backup", "--take-over").status == 20
    assert asked.run("backup").status == 20


@pytest.mark.parametrize("command", [["versions"], ["backup"], ["agent"], ["restore", "--to", "out"], ["check"]])
def test_a_repository_that_is_missing(asked, command):
    """Without a repository a command ends with 10; the agent, which has a process for this, only at a terminal."""
    shutil.rmtree(asked.repository)
    assert asked.run(*command).status == (20 if command == ["agent"] else 10)


def test_a_target_that_cannot_be_restored_into(asked):
    """A file in the way ends restore with 60, a place inside the repository, or with --delete around it, with 2."""
    (asked.base / "file").write_text("")
    for target in ("file", "file/below"):
        assert asked.run("restore", "--to", target).status == 60, target
    assert asked.run("restore", "--to", "repository/packs/x").status == 2
    assert asked.run("restore", "--to", ".").status == 20
    assert asked.run("restore", "--to", ".", "--delete").status == 2


@as_root
def test_a_target_that_cannot_be_made(asked):
    """A directory that this user cannot make ends restore with 60."""
    open_up(asked.base)
    done = asked.run("restore", "--repo", asked.url, "--to", asked.base / "out", uid=NOBODY, MLSYNC_CONFIG="")
    assert done.status == 60
    assert f"no permission to write in {asked.base}" in done.err


def test_a_configuration_that_cannot_be_written(asked):
    """--write-config ends with 2 where there is another configuration or no place for one, and asks where there is."""
    options = ("restore", "--repo", asked.url, "--to", "out", "--write-config")
    other = asked.base / "other.toml"
    other.write_text('repository = "file:///elsewhere"\n')
    for place in (other, asked.training / "args.yaml" / "new.toml", "no-toml"):
        assert asked.run(*options, place, MLSYNC_CONFIG="").status == 2, place
    assert asked.run(*options, "new.toml", MLSYNC_CONFIG="").status == 20
    assert not (asked.base / "new.toml").exists()


@as_root
def test_a_home_in_which_no_configuration_can_be_made(asked):
    """An ordinary user who may not write in his home learns the directory, before a passphrase and a restore."""
    open_up(asked.base)
    asked.home.chmod(0o755)
    (asked.base / "free").mkdir()
    (asked.base / "free").chmod(0o777)
    options = ("restore", "--repo", asked.url, "--to", asked.base / "free/out", "--write-config")
    done = asked.run(*options, uid=NOBODY, MLSYNC_CONFIG="")
    assert done.status == 2
    assert f"no permission to write in {asked.home}" in done.err
    asked.home.chmod(0o777)
    # The next thing that is refused: the repository is root's alone.
    assert asked.run(*options, uid=NOBODY, MLSYNC_CONFIG="").status == 72


def test_an_empty_path(asked):
    """A path of no letters, as of an unset variable, ends restore with 2."""
    assert asked.run("restore", "--to", "out", "").status == 2


def test_init_where_there_is_a_repository(asked):
    """An existing repository ends init with 11, and the advice is the command that uses it from another machine."""
    done = asked.run("init", asked.url, "--config", "other.toml")
    assert done.status == 11
    assert f"mlsync restore --repo {asked.url} --write-config" in done.err
    assert not (asked.base / "other.toml").exists()


def test_init_where_no_repository_can_be_made(fresh):
    """A file where init would make a directory ends it with 75."""
    fresh.secret = {}
    (fresh.base / "file").write_text("")
    done = fresh.run("init", fresh.base / "file" / "repository")
    assert done.status == 75
    assert fresh.run("init", fresh.url).status == 20
    assert not fresh.repository.exists()


@as_root
def test_init_where_this_user_may_not_write(fresh):
    """A directory that this user cannot make ends init with 72 and the directory that he may not write."""
    fresh.secret = {}
    (fresh.base / "closed").mkdir(mode=0o755)
    fresh.home.chmod(0o777)
    open_up(fresh.base)
    done = fresh.run("init", fresh.base / "closed" / "r", "--config", fresh.home / "c.toml", uid=NOBODY)
    assert done.status == 72
    assert f"no permission to write in {fresh.base}/closed" in done.err


@pytest.mark.slow
def test_init_in_a_bucket_that_takes_no_objects(fresh):
    """A bucket that takes no object ends init with 72; where one can be written, which init tries, it asks."""
    fresh.secret = {}
    keys = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "geheim"}
    denied = 403, {}, error_body("AccessDenied")
    server = LimitedS3()
    server.start()
    try:
        options = ("init", "s3://bucket/x", "--endpoint-url", server.endpoint_url)
        assert fresh.run(*options, **keys).status == 20
        assert server.objects == {}
        server.answer = lambda method, _path: denied if method == "PUT" else None
        assert fresh.run(*options, **keys).status == 72
    finally:
        server.stop()


@pytest.mark.parametrize("command", ["add", "change"])
def test_a_new_secret_that_cannot_be_taken(asked, command):
    """A file with a new passphrase that is missing ends key add and change with 20 and its name, a weak one with 23."""
    assert "none.txt" in asked.run("key", command, "--new-passphrase-file", "none.txt").err
    (asked.base / "weak").write_text("weak")
    (asked.base / "weak").chmod(0o600)
    assert asked.run("key", command, "--new-passphrase-file", "weak").status == 23
