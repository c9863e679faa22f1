"""The configuration file through the command line: where it is looked for, and what is refused in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from machine import content, write_training

from mlsync.cli.new_config import service_options

# To root the usual place is the system's; anybody else is an ordinary user.
OTHER_USER = 4321 if os.geteuid() == 0 else 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[agent]\nevry = '1h'", "unknown key evry in [agent]: {file}:7 (did you mean every?)"),
        ("[agnt]\nevery = '1h'", "unknown table agnt: {file}:6 (did you mean agent?)"),
        ("[[watch]]\ndirectory='/x'\nexlude=[]", "unknown key exlude in [[watch]]: {file}:8 (did you mean exclude?)"),
        ("[proof]\nevery = '1h'", "unknown key every in [proof]: {file}:7 (it belongs under [agent])"),
        ("[proof]\ndevice = 'tpu'", 'must be one of "auto", "cuda", "cuda:N", "cpu", "none", not "tpu": {file}:7'),
        ("[proof]\ntimeout = '0s'", "timeout in [proof] must be"),
        ("[[watch]]\ndirectory = '/y/../yolo'", "a second run named 'yolo': {file}:7"),
        ("[[watch]]\ndirectory = '/x'\nrun = '../../etc'", "run in [[watch]] must be a run's name"),
        ("[[watch]]\ndirectory = '/x'\nrun = 'a/b'", 'it has a "/"'),
        ("[[watch]]\ndirectory = '/x'\nrun = \"a\\nb\"", "characters that do not print"),
        ("[key", "the configuration is not TOML"),
    ],
)  # fmt: skip
def test_what_is_refused(fresh, line, expected):
    """A configuration that is wrong ends the command with 2, the line, and what was meant."""
    fresh.configure(line + "\n")
    done = fresh.run("backup")
    assert (done.status, done.out) == (2, "")
    assert expected.format(file=fresh.configuration) in done.err


def test_not_utf8(fresh):
    """A configuration that is no UTF-8 text is refused by name."""
    fresh.configuration.write_bytes(b"repository = '\xff'\n")
    done = fresh.run("backup")
    assert done.status == 2
    assert f"not UTF-8 text: {fresh.configuration}" in done.err


def test_where_it_is_looked_for(fresh):
    """Without a configuration the error names every place that was looked at, and what to do."""
    done = fresh.run("backup", MLSYNC_CONFIG="")
    assert done.status == 2
    for place in ("--config", "MLSYNC_CONFIG", f"{fresh.home}/.config/mlsync/mlsync.toml", "/etc/mlsync/mlsync.toml"):
        assert place in done.err
    assert "mlsync init" in done.err
    assert "--repo" in done.err


@pytest.mark.parametrize(("option", "variable"), [("none.toml", ""), ("", "none.toml")])
def test_a_named_file_is_never_replaced_by_another(saved, option, variable):
    """A file that --config or MLSYNC_CONFIG names and that is missing is an error, although another one is there."""
    usual = saved.home / ".config" / "mlsync" / "mlsync.toml"
    usual.parent.mkdir(parents=True)
    usual.write_bytes(saved.configuration.read_bytes())
    saved.good("versions", MLSYNC_CONFIG="")
    done = saved.run("versions", *(["--config", option] if option else []), MLSYNC_CONFIG=variable)
    assert done.status == 2
    assert "none.toml" in done.err


def test_option_before_variable_before_home(saved):
    """--config goes before MLSYNC_CONFIG, which goes before the user's file."""
    bad = saved.base / "bad.toml"
    bad.write_text("nonsense")
    usual = saved.home / ".config" / "mlsync" / "mlsync.toml"
    usual.parent.mkdir(parents=True)
    usual.write_text("nonsense")
    saved.good("versions")
    saved.good("versions", "--config", saved.configuration, MLSYNC_CONFIG=str(bad))
    assert saved.run("versions", MLSYNC_CONFIG=str(bad)).status == 2
    assert saved.run("versions", MLSYNC_CONFIG="").status == 2


def test_init_writes_where_the_others_look(fresh):
    """What ``init`` writes is found by the next command, be it named by nothing, MLSYNC_CONFIG or --config."""
    own = fresh.home / ".config" / "mlsync" / "mlsync.toml"
    system_is_free = {"MLSYNC_CONFIG": str(own)}  # as root the usual place is the system's, which is no test's to write
    for number, options in enumerate(([], ["--config", "sub/directory/own.toml"])):
        done = fresh.good("init", fresh.base / f"r{number}", "--watch", fresh.training, *options, **system_is_free)
        place = fresh.base / "sub/directory/own.toml" if options else own
        assert str(place) in done.out
        fresh.good("versions", *options, **system_is_free)
        assert (f"mlsync backup --config {place}" in done.out) is bool(options)


def test_init_takes_no_directory_for_a_bucket(fresh):
    """S3 options with a place that is no bucket's URL are refused: the scheme was probably forgotten."""
    done = fresh.run("init", "bucket/prefix", "--profile", "backup")
    assert done.status == 2
    assert "write s3://bucket/prefix" in done.err
    assert not (fresh.base / "bucket").exists()


def test_init_says_the_next_two_commands(fresh):
    """The last lines of ``init`` are commands; without a directory to watch, what comes before them is said."""
    usual = {"MLSYNC_CONFIG": str(fresh.base / "usual.toml")}
    watch = ("--watch", fresh.training)
    lines = fresh.good("init", fresh.base / "r1", *watch, systemd=False, **usual).out.splitlines()
    assert lines[-3] == "Next:"
    assert [line.split("  ")[1] for line in lines[-2:]] == ["mlsync backup", "mlsync agent"]
    lines = fresh.good("init", fresh.base / "r2", "--config", "other place.toml", systemd=False).out.splitlines()
    assert "[[watch]]" in lines[-3]
    assert lines[-1] == f"  mlsync agent --config '{fresh.base}/other place.toml'"


def test_init_advises_a_service_only_where_systemd_runs(fresh):
    """A machine that systemd manages is told of the service too, with its configuration; a container is not."""
    usual = {"MLSYNC_CONFIG": str(fresh.base / "usual.toml")}
    service = f"mlsync service install --config {usual['MLSYNC_CONFIG']}"
    for systemd, last in ((True, service), (False, "mlsync agent")):
        done = fresh.good("init", fresh.base / f"r{systemd}", "--watch", fresh.training, systemd=systemd, **usual)
        assert done.out.splitlines()[-1].split("   ")[0].strip() == last
        (fresh.base / "usual.toml").unlink()


@pytest.mark.parametrize(
    ("uid", "environ", "options"),
    [
        # sudo does not pass MLSYNC_CONFIG on, and the machine's service looks in /etc alone.
        (0, {"MLSYNC_CONFIG": "/own/mlsync.toml"}, " --config /own/mlsync.toml"),
        (1000, {"MLSYNC_CONFIG": "/own/mlsync.toml"}, " --user"),
        (1000, {"MLSYNC_CONFIG": "/another.toml"}, " --user --config /own/mlsync.toml"),
    ],
)
def test_the_service_is_advised_with_the_options_that_it_needs(monkeypatch, uid, environ, options):
    """An ordinary user's service is his own, and a configuration where no service looks is named."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert service_options(Path("/own/mlsync.toml")) == options


def test_init_as_another_user_writes_below_home(fresh):
    """``init`` of an ordinary user writes ~/.config/mlsync/mlsync.toml, makes its directory, keeps state in home."""
    for directory in (fresh.base, fresh.home):
        directory.chmod(0o777)
    open_up(fresh.base)
    done = fresh.run("init", fresh.home / "repository", "--watch", fresh.training, uid=OTHER_USER, MLSYNC_CONFIG="")
    assert done.status == 0, done
    assert (fresh.home / ".config" / "mlsync" / "mlsync.toml").stat().st_uid == (OTHER_USER or os.geteuid())
    write_training(fresh.training)
    done = fresh.run("backup", uid=OTHER_USER, MLSYNC_CONFIG="", STATE_DIRECTORY="")
    assert done.status == 0, done
    assert list((fresh.home / ".local" / "state" / "mlsync").glob("*/state.sqlite"))


def open_up(base):
    """Another user may go down to *base*."""
    for directory in base.parents:
        if directory.stat().st_uid == 0 and not directory.stat().st_mode & 0o001:
            directory.chmod(directory.stat().st_mode | 0o011)


@pytest.mark.parametrize("place", ["/proc/none/mlsync.toml", "{base}/file/mlsync.toml"])
def test_init_where_no_configuration_can_be_written(fresh, place):
    """``init`` that cannot write the configuration ends with 2 before it makes a repository."""
    (fresh.base / "file").write_text("")
    done = fresh.run("init", fresh.url, "--config", place.format(base=fresh.base))
    assert done.status == 2
    assert "the configuration cannot be written" in done.err
    assert not fresh.repository.exists()


@pytest.mark.parametrize(
    ("directories", "words"),
    [
        (["a/yolo", "b/yolo"], "two directories would be run 'yolo'"),
        (["."], "is inside a watched directory"),
        (["/"], "not a run name"),
        (["a/.hidden"], "not a run name"),
    ],
)
def test_init_refuses_what_no_command_would_take(fresh, directories, words):
    """``init`` never writes a configuration that the next command would refuse; nothing is made then."""
    watches = [word for directory in directories for word in ("--watch", directory)]
    done = fresh.run("init", fresh.url, *watches)
    assert done.status in (2, 18)
    assert words in done.err
    assert sorted(path.name for path in fresh.base.iterdir()) == ["home"]


def test_init_takes_one_url(fresh):
    """``init`` takes the URL as its argument or as --repo, and exactly one of them."""
    assert "no URL" in fresh.run("init").err
    assert "two URLs" in fresh.run("init", fresh.url, "--repo", fresh.url).err
    fresh.good("init", "--repo", fresh.url)


def test_places_as_people_write_them(fresh):
    """A repository may be given as an absolute path, one from home, or one from here that begins with a dot."""
    fresh.good("init", "~/one", "--config", "1.toml")
    fresh.good("init", "./two", "--config", "2.toml")
    fresh.good("init", fresh.base / "three", "--config", "3.toml")
    assert (fresh.home / "one" / "repository").exists()
    for directory in (fresh.home / "one", fresh.base / "two", fresh.base / "three"):
        fresh.good("versions", "--repo", directory, MLSYNC_CONFIG="")


def test_a_fresh_machine_needs_url_and_passphrase(saved, tmp_path, server):
    """With nothing but --repo and the passphrase a fresh machine lists, shows, verifies, checks and restores."""
    from machine import Machine

    other = Machine(tmp_path / "other", server)
    options = ("--repo", saved.url)
    for command in (["versions"], ["show"], ["check"], ["restore", "--to", "back"]):
        other.good(*command, *options, MLSYNC_CONFIG="")
    assert content(other.base / "back") == content(saved.training)
    # Nothing was left behind: a restore needs no state.
    assert list(other.home.iterdir()) == []


def test_repo_above_the_configuration(saved, fresh):
    """--repo stands above the repository of a configuration that --config names."""
    fresh.good("init", fresh.url)
    done = saved.good("versions", "--config", saved.configuration, "--repo", fresh.url)
    assert done.out == "no version yet\n"


def test_backup_needs_a_watched_directory(fresh):
    """``backup`` and ``agent`` with a configuration that watches nothing say where to name a directory."""
    fresh.good("init", fresh.url)
    for command in ("backup", "agent"):
        done = fresh.run(command)
        assert done.status == 2
        assert "[[watch]]" in done.err
        assert str(fresh.configuration) in done.err
