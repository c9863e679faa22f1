"""Root obeys no configuration, secret or program that others can change."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from mlsync.app.proof_user import refuse_untrusted_programs, runs_as
from mlsync.app.secrets import find_secret
from mlsync.config.load import load
from mlsync.config.model import KeySettings
from mlsync.config.trust import refuse_untrusted
from mlsync.errors import Untrusted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has others to distrust")
OTHER, TRAINER = 4242, 4243


def write(path: Path, text: str = "x", mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def made_by_other(base: Path) -> tuple[Path, Path]:
    file = write(base / "file")
    os.chown(file, OTHER, OTHER)
    return file, file


def all_may_write(base: Path) -> tuple[Path, Path]:
    file = write(base / "file", mode=0o606)
    return file, file


def a_group_may_write(base: Path) -> tuple[Path, Path]:
    file = write(base / "file", mode=0o620)
    os.chown(file, 0, OTHER)
    return file, file


def in_a_directory_of_others(base: Path) -> tuple[Path, Path]:
    file = write(base / "theirs/deeper/file")
    os.chown(base / "theirs", OTHER, OTHER)
    return file, base / "theirs"


def in_a_directory_that_all_may_write(base: Path) -> tuple[Path, Path]:
    file = write(base / "open/deeper/file")
    (base / "open").chmod(0o777)
    return file, base / "open"


def behind_a_link_through_theirs(base: Path) -> tuple[Path, Path]:
    file = write(base / "theirs/deeper/file")
    os.chown(base / "theirs", OTHER, OTHER)
    (base / "link").symlink_to("theirs/deeper")
    return base / "link" / file.name, base / "theirs"


def behind_their_link_in_tmp(base: Path) -> tuple[Path, Path]:
    file = write(base / "file")
    (base / "tmp").mkdir()
    (base / "tmp").chmod(0o1777)
    (base / "tmp/link").symlink_to(file)
    os.chown(base / "tmp/link", OTHER, OTHER, follow_symlinks=False)
    return base / "tmp/link", base / "tmp/link"


def their_own_in_tmp(base: Path) -> tuple[Path, Path]:
    (base / "tmp").mkdir()
    (base / "tmp").chmod(0o1777)
    file = write(base / "tmp/file")
    os.chown(file, OTHER, OTHER)
    return file, file


WAYS = (
    made_by_other,
    all_may_write,
    a_group_may_write,
    in_a_directory_of_others,
    in_a_directory_that_all_may_write,
    behind_a_link_through_theirs,
    behind_their_link_in_tmp,
    their_own_in_tmp,
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_others_can_change_is_refused(tmp_path, way):
    """The file itself, any directory above, and every link on the way count; the place that is at fault is named."""
    file, fault = way(tmp_path)
    with pytest.raises(Untrusted) as raised:
        refuse_untrusted(file, "a configuration")
    assert raised.value.where == str(fault)
    assert f"chown root {fault}" in str(raised.value)


def test_what_is_roots_is_obeyed(tmp_path):
    """Root's file is, also in a directory like /tmp, behind root's own links, or with a directory that others read."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    file = write(tmp_path / "tmp/of roots/file", mode=0o644)
    (tmp_path / "link").symlink_to("tmp/../tmp/of roots")
    refuse_untrusted(file, "a configuration")
    refuse_untrusted(tmp_path / "link/file", "a configuration")
    refuse_untrusted(tmp_path / "absent", "a configuration")


def test_a_user_is_not_asked(tmp_path, monkeypatch):
    """Who is not root runs nothing with rights that are not his own."""
    file, _ = all_may_write(tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: OTHER)
    refuse_untrusted(file, "a configuration")


def test_a_configuration_and_a_secret_are_looked_at(tmp_path):
    """Both are refused before they are read."""
    file = write(tmp_path / "mlsync.toml", 'repository = "file:///r"\n')
    load(file)
    secret = write(tmp_path / "secret")
    find_secret(KeySettings(passphrase_file=secret), environ={})
    for path in (file, secret):
        os.chown(path, OTHER, OTHER)
    with pytest.raises(Untrusted, match="does not use a configuration"):
        load(file)
    with pytest.raises(Untrusted, match="does not use a secret's file"):
        find_secret(KeySettings(passphrase_file=secret), environ={})


@pytest.fixture
def machine(tmp_path):
    """A configuration whose [proof] says something, and whose one run belongs to a user."""

    def make(proof: str, owner: int = TRAINER):
        runs = tmp_path / "runs"
        runs.mkdir(exist_ok=True)
        os.chown(runs, owner, owner)
        text = f'repository = "file:///r"\n[[watch]]\ndirectory = "{runs}"\nrun = "mine"\n[proof]\n{proof}'
        return load(write(tmp_path / "mlsync.toml", text))

    return make


def program(base: Path, owner: int) -> Path:
    file = write(base / "bin" / str(owner), "#!/bin/sh\n", 0o755)
    os.chown(file, owner, owner)
    return file


def test_a_python_of_the_trainers_runs_as_he(tmp_path, machine):
    """What the owner of the run can change has no more rights than he has; it never runs as root."""
    runs = runs_as(machine(f'python = "{program(tmp_path, TRAINER)}"\n'), "mine")
    assert (runs.user.uid, runs.user.gid, runs.may_be_root) == (TRAINER, TRAINER, False)
    assert runs_as(machine(f'python = "{program(tmp_path, 0)}"\n'), "mine").may_be_root


@pytest.mark.parametrize("key", ['python = "{}"', 'command = ["{}", "{{path}}"]', 'command = ["sh", "{}", "{{path}}"]'])
def test_a_program_of_somebody_elses_is_refused(tmp_path, machine, key):
    """Neither the owner of another directory nor, where root owns the run, anybody may say what runs."""
    config = machine(key.format(program(tmp_path, OTHER)))
    with pytest.raises(Untrusted, match="a proof's"):
        refuse_untrusted_programs(config)
    config = machine(key.format(program(tmp_path, TRAINER)), owner=0)
    with pytest.raises(Untrusted, match="a proof's"):
        runs_as(config, "mine")


def test_without_the_right_to_change_the_user_the_trainers_python_is_refused(tmp_path, machine, monkeypatch):
    """It would run as root then."""
    monkeypatch.setattr("mlsync.app.proof_user.cannot_change_user", lambda: "mlsync has no CAP_SETUID")
    assert runs_as(machine(f'python = "{program(tmp_path, 0)}"\n'), "mine").as_root == "mlsync has no CAP_SETUID"
    with pytest.raises(Untrusted):
        runs_as(machine(f'python = "{program(tmp_path, TRAINER)}"\n'), "mine")


def test_nobody_proves_what_is_roots(machine):
    """So it is with the runs of several owners, if it is not said which run is meant, and with runs from elsewhere."""
    assert runs_as(machine("", owner=0), "mine").user.name == "nobody"
    assert runs_as(machine("", owner=TRAINER), "elsewhere").user.name == "nobody"
    assert runs_as(machine("", owner=TRAINER), None).user.uid == TRAINER


def test_systems_temporary_directory_is_no_hindrance():
    """A file of root's own directly in /tmp is obeyed."""
    with tempfile.NamedTemporaryFile(dir="/tmp") as file:
        refuse_untrusted(file.name, "a configuration")
