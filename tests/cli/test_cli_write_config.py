"""A restored run continues on its new machine with the configuration that the restore writes, or shows."""

from __future__ import annotations

import os
import re
import stat

import pytest
from machine import content

from command_client import KEY
from mlsync.cli.new_config import NewConfig, prepared
from mlsync.config.load import load
from mlsync.config.model import Config, KeySettings
from mlsync.errors import ConfigInvalid


@pytest.fixture
def arrived(saved):
    """The machine as a new one that has nothing but the repository and the secret; where its configuration goes."""
    saved.configuration.unlink()
    return saved


@pytest.fixture
def place(arrived):
    """Where a new configuration belongs."""
    return arrived.home / ".config/mlsync/mlsync.toml"


def restore(machine, *arguments, **environment):
    """A restore on a machine without a configuration, to a directory of another name."""
    own = {"MLSYNC_CONFIG": "", "XDG_CONFIG_HOME": str(machine.home / ".config"), "COLUMNS": "1000"} | environment
    return machine.run("restore", "--repo", machine.url, "--to", machine.base / "new", *arguments, **own)


def test_the_run_continues_with_what_was_written(arrived, place):
    """The file is for its owner alone, holds no secret, and the next backup and the agent's check take the run over."""
    done = restore(arrived, "--write-config")
    assert done.status == 0, done
    assert f"Configuration written: {place} (the passphrase is not in it)" in done.out
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    config = load(place)
    (watch,) = config.watches
    assert (config.repository, watch.run, str(watch.directory)) == (arrived.url, "yolo", str(arrived.base / "new"))
    assert KEY.decode() not in place.read_text()
    (arrived.base / "new/results.csv").write_text("more\n")
    own = {"MLSYNC_CONFIG": "", "XDG_CONFIG_HOME": str(arrived.home / ".config")}
    arrived.good("backup", **own)
    versions = arrived.good("versions", "--json", **own).json()["versions"]
    assert [(one["run"], one["version"]) for one in versions] == [("yolo", 1), ("yolo", 2), ("yolo", 3)]
    assert versions[-1]["directory"] == str(arrived.base / "new")


def test_it_is_refused_or_found_already_right_and_never_overwritten(arrived, place):
    """A second restore finds that the file says it already; one to another directory is refused and writes nothing."""
    restore(arrived, "--write-config")
    before = place.read_bytes()
    again = restore(arrived, "--write-config", "--json")
    assert (again.status, again.json()["config"]) == (0, str(place))
    other = restore(arrived, "--write-config", "--to", arrived.base / "other")
    assert other.status == 2
    assert f"watches run 'yolo' in {arrived.base / 'new'}: {place}" in other.err
    assert f'set directory = "{arrived.base / "other"}"' in other.err
    assert not (arrived.base / "other").exists()
    assert place.read_bytes() == before


def test_the_lines_to_add_are_printed(arrived, place):
    """A configuration for the same repository that watches something else is left alone, with the lines to add."""
    place.parent.mkdir(parents=True)
    place.write_text(f'repository = "{arrived.url}"\n[[watch]]\ndirectory = "{arrived.base / "else"}"\n')
    before = place.read_bytes()
    done = restore(arrived, "--write-config")
    assert done.status == 2
    assert f'[[watch]]\ndirectory = "{arrived.base / "new"}"\nrun = "yolo"\n' in done.err
    assert place.read_bytes() == before
    assert not (arrived.base / "new").exists()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda place: place.write_text('repository = "file:///elsewhere"\n'), "for another repository"),
        (lambda place: place.write_text("repository = [\n"), "cannot be used: the configuration is not TOML"),
        (lambda place: place.symlink_to("/nowhere/mlsync.toml"), "cannot be used"),
        (lambda place: place.mkdir(), "cannot be used"),
    ],
    ids=["another", "broken", "dangling", "directory"],
)
def test_whatever_is_in_the_place_stays(arrived, place, make, text):
    """Another repository's configuration, a broken one, a dangling link and a directory are refused before it."""
    place.parent.mkdir(parents=True)
    make(place)
    done = restore(arrived, "--write-config")
    assert (done.status, text in done.err) == (2, True), done
    assert not (arrived.base / "new").exists()
    assert os.path.lexists(place)


def test_a_place_that_cannot_be_written_is_refused_before_the_restore(arrived):
    """Below a file there is no room for a configuration: nothing is restored."""
    done = restore(arrived, "--write-config", arrived.training / "args.yaml" / "mlsync.toml")
    assert (done.status, "cannot be written" in done.err) == (2, True), done
    assert not (arrived.base / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("args.yaml", "--write-config"), "for whole versions"),
        (("--write-config", "args.yaml"), "would write to 'args.yaml'"),
    ],
)
def test_single_paths_and_a_configuration_exclude_each_other(arrived, place, arguments, text):
    """A run does not continue from single files; a path behind the option is not taken for the file to write."""
    done = restore(arrived, *arguments)
    assert (done.status, text in done.err) == (2, True), done
    assert not place.exists()


def test_a_restore_that_failed_in_part_writes_none(arrived, place):
    """Where a file could not be restored, the run is not handed over, and no configuration stays."""
    (arrived.base / "new/results.csv").mkdir(parents=True)
    done = restore(arrived, "--write-config", "--json")
    assert (done.status, done.json()["config"]) == (60, None)
    assert list(place.parent.iterdir()) == []


def test_ranks_that_restore_at_once_share_one_configuration(tmp_path, monkeypatch):
    """Of several that found no file, the first one writes it, and the others find what they meant; none is lost."""
    monkeypatch.setenv("HOME", str(tmp_path))
    place = tmp_path / "mlsync.toml"
    config = Config.for_repository("file:///srv/mlsync")
    same, other = (NewConfig(config, "yolo", bytes(tmp_path / name), KeySettings()) for name in ("new", "other"))
    with prepared(place, None, same) as first:
        for new in (same, other):
            # What another process has written by now
            place.unlink(missing_ok=True)
            place.write_text(new.text)
            if new is same:
                first.keep()
            else:
                with pytest.raises(ConfigInvalid, match="another configuration was written meanwhile"):
                    first.keep()
            assert place.read_text() == new.text
    assert list(tmp_path.iterdir()) == [place]


def test_the_options_of_the_store_and_the_secrets_file_are_in_it(arrived):
    """What the restore was given on its command line the new configuration says, with absolute paths."""
    key = arrived.base / "key"
    key.write_bytes(KEY)
    key.chmod(0o600)
    file = arrived.base / "own.toml"
    options = ("--key-file", key, "--region", "eu-1", "--endpoint-url", "https://minio.example")
    done = restore(arrived, "--write-config", file, *options)
    assert done.status == 0, done
    config = load(file)
    assert (config.key.key_file, config.s3.region, config.s3.endpoint_url) == (key, "eu-1", "https://minio.example")
    assert f"run one of\n    mlsync agent --config {file}\n    mlsync service install --config {file}\n" in done.out


def test_where_systemd_does_not_run_no_service_is_advised(arrived):
    """In a container a restore names the agent alone, without an alternative."""
    file = arrived.base / "own.toml"
    done = restore(arrived, "--write-config", file, systemd=False)
    assert f"To continue the backups here, run\n    mlsync agent --config {file}\n" in done.out
    assert "mlsync service" not in done.out


def test_without_the_option_the_lines_are_shown(arrived, place, tmp_path):
    """On a machine without a configuration the restore ends with lines that are one, and where to save them."""
    done = restore(arrived)
    assert f"start mlsync agent:\n    # {place}\n" in done.out
    shown = re.findall(r"^    (.*)$|^$", done.out.partition("mlsync agent:\n")[2], re.MULTILINE)
    file = tmp_path / "shown.toml"
    file.write_text("\n".join(shown))
    (watch,) = load(file).watches
    assert (watch.run, str(watch.directory)) == ("yolo", str(arrived.base / "new"))


def test_nothing_is_shown_where_there_is_a_configuration(arrived, place):
    """A machine that has one, and a restore of single files, get no lines."""
    assert "save this" not in restore(arrived, "args.yaml").out
    place.parent.mkdir(parents=True)
    place.write_text(f'repository = "{arrived.url}"\n')
    assert "save this" not in restore(arrived).out


def test_a_repository_is_no_target(saved):
    """A restore into the repository is refused, and so is a deletion above it or above the local state."""
    before = content(saved.repository)
    for target, more in ((saved.repository, ()), (saved.repository / "sub", ()), (saved.base, ("--delete", "--yes"))):
        done = saved.run("restore", "--to", target, *more)
        assert (done.status, "repository" in done.err) == (2, True), done
    done = saved.run("restore", "--to", saved.state, "--delete", "--yes")
    assert (done.status, "would delete the local state" in done.err) == (2, True), done
    assert content(saved.repository) == before
