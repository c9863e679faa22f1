"""``mlsync service``: the unit that it writes, and the units that it leaves alone."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
from machine import MLSYNC

from mlsync import errors
from mlsync.config.model import Config, KeySettings, WatchSettings
from mlsync.errors import ConfigInvalid
from mlsync.service.unit import install as service

SHIPPED = Path(__file__).parents[2] / "systemd"
USER = 65534


@pytest.fixture
def unit(fresh):
    """Where the unit of this machine's user is."""
    return fresh.home / ".config/systemd/user/mlsync-agent.service"


@pytest.fixture
def machines(tmp_path):
    """The systemd of a machine whose units are in a directory of the test's."""
    manager = service.MACHINE
    return service.Manager(
        tmp_path / "system", manager.source, manager.systemctl, manager.wants, is_machines=manager.is_machines
    )


def settings(text):
    """The lines of a unit that systemd reads, but for the command."""
    return [line for line in text.splitlines() if line and not line.startswith(("#", "ExecStart="))]


def test_the_users_unit_runs_this_mlsync(fresh, unit):
    """The unit is the shipped one with the path of this mlsync and of the configuration, for all to read."""
    done = fresh.good("service", "install", "--user")
    assert settings(unit.read_text()) == settings((SHIPPED / "mlsync-agent-user.service").read_text())
    command = f"{MLSYNC} agent --config {fresh.configuration}"
    assert re.findall(r"^ExecStart=.*$", unit.read_text(), re.MULTILINE) == [f"ExecStart={command}"]
    assert stat.S_IMODE(unit.stat().st_mode) == 0o644
    assert os.listdir(unit.parent) == [unit.name]
    for said in (str(unit), command, f"mlsync init URL --watch DIR --config {fresh.configuration}"):
        assert said in done.out
    assert done.out.splitlines()[-3:] == [
        "  systemctl --user daemon-reload",
        "  systemctl --user enable --now mlsync-agent",
        "  loginctl enable-linger",
    ]


def test_systemd_understands_what_is_installed(fresh, unit):
    """``systemd-analyze verify`` has nothing to say against the installed unit, whatever the paths look like."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    fresh.good("service", "install", "--user", "--config", "100% $HOME \"x\\y's.toml")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(unit)],
        env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(fresh.base), "HOME": str(fresh.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert r"100%% $$HOME \"x\\y" in unit.read_text()


def test_systemd_finds_a_program_whose_path_has_a_dollar(machines, tmp_path):
    """A ``$`` in the program's path stays one, and one in an argument is doubled."""
    program = tmp_path / "50% $HOME" / "mlsync"
    program.parent.mkdir()
    shutil.copy("/bin/true", program)
    text = service.unit_text(machines, [str(program), "$HOME"])
    assert f'\nExecStart="{tmp_path}/50%% $HOME/mlsync" "$$HOME"\n' in text
    if shutil.which("systemd-analyze") is not None:
        unit = tmp_path / "mlsync-test.service"
        unit.write_text(f"[Service]\n{next(line for line in text.splitlines() if line.startswith('ExecStart='))}\n")
        done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
        assert "not executable" not in done.stderr


def test_the_machines_unit_and_the_drop_in_for_gpus(machines):
    """The machine's unit and the drop-in for GPUs are the shipped ones."""
    written = service.install(machines, ["/bin/true", "agent"], gpu=True)
    drop_in = machines.directory / "mlsync-agent.service.d" / "gpu.conf"
    assert written == [machines.unit, drop_in]
    assert settings(machines.unit.read_text()) == settings((SHIPPED / "mlsync-agent.service").read_text())
    assert "\nExecStart=/bin/true agent\n" in machines.unit.read_text()
    assert settings(drop_in.read_text()) == settings((SHIPPED / "mlsync-agent-gpu.conf").read_text())


def test_timers_run_this_mlsync_with_the_same_configuration(machines, tmp_path):
    """With timers four more units are written, for the same program and configuration, and uninstall removes them."""
    program = shutil.which("true")
    written = service.install(machines, [program, "agent", "--config", "/etc/x.toml"], timers=True)
    assert sorted(file.name for file in written) == [
        "mlsync-agent.service",
        "mlsync-check.service",
        "mlsync-check.timer",
        "mlsync-prune.service",
        "mlsync-prune.timer",
    ]
    lines = {verb: (machines.directory / f"mlsync-{verb}.service").read_text() for verb in ("check", "prune")}
    assert f"\nExecStart={program} check --gently --config /etc/x.toml\n" in lines["check"]
    assert f"\nExecStart={program} prune --yes --gently --config /etc/x.toml\n" in lines["prune"]
    (machines.directory / "mlsync-check.timer").unlink()
    (machines.directory / "mlsync-check.timer").write_text("[Timer]\n# my own\n")
    assert len(service.uninstall(machines)) == 4
    assert [file.name for file in machines.directory.iterdir() if file.is_file()] == ["mlsync-check.timer"]


@pytest.fixture
def instance(tmp_path):
    """The systemd of such a machine, for the instance ``yolo`` of the template."""
    return dataclasses.replace(service.manager_of_instance("yolo"), directory=tmp_path / "system")


def test_the_template_runs_this_mlsync_for_each_instance(instance):
    """The template unit is the shipped one with this program, and each instance has its own configuration and state."""
    command = ["/bin/true", "agent", "--config", str(service.configuration_of_instance("yolo"))]
    written = service.install(instance, command, gpu=True)
    assert [file.relative_to(instance.directory).as_posix() for file in written] == [
        "mlsync@.service",
        "mlsync@.service.d/gpu.conf",
    ]
    text = instance.unit.read_text()
    assert settings(text) == settings((SHIPPED / "mlsync@.service").read_text())
    assert "\nExecStart=/bin/true agent --config /etc/mlsync/%i.toml\n" in text
    assert service.install(instance, command) == [instance.unit]
    config = Config("file:///srv/mlsync/a", Path("/var/lib/mlsync-yolo"), key=KeySettings(key_file=Path("/k")))
    assert service.shortcomings(instance, config) == []


def test_the_template_stays_while_any_instance_is_enabled(instance):
    """Uninstall names the instance that is enabled, and removes the template and its drop-in once none is."""
    service.install(instance, ["/bin/true", "agent", "--config", "/etc/mlsync/yolo.toml"], gpu=True)
    link = instance.directory / instance.wants / "mlsync@bert.service"
    link.parent.mkdir()
    link.symlink_to("../mlsync@.service")
    with pytest.raises(ConfigInvalid, match="disable --now mlsync@bert"):
        service.uninstall(instance)
    link.unlink()
    assert len(service.uninstall(instance)) == 2
    assert not instance.unit.exists()


@pytest.mark.parametrize("name", ["", "../x", "a b", "%i", "-x", "a/b", "é", "a" * 101])
def test_what_cannot_name_an_instance_is_refused(name):
    """Nothing that systemd would unescape, and no path, is the name of a configuration."""
    with pytest.raises(ConfigInvalid, match="cannot name an instance"):
        service.manager_of_instance(name)


@pytest.mark.parametrize("words", [("--user",), ("--timers",), ("--config", "/etc/x.toml")])
def test_options_that_an_instance_has_no_use_for_are_refused(fresh, words):
    """An instance is the machine's, and its configuration follows from its name."""
    assert fresh.run("service", "install", "--instance", "yolo", *words).status == 2


def test_an_earlier_unit_is_replaced_and_a_changed_one_is_not(fresh, unit):
    """Who changed the unit keeps it, with exit status 5, unless --force is given; nobody's change is in the way."""
    fresh.good("service", "install", "--user", "--config", "one.toml")
    fresh.good("service", "install", "--user", "--config", "two.toml")
    assert "two.toml" in unit.read_text()
    changed = unit.read_text().replace("MemoryMax=12G", "MemoryMax=1G")
    unit.write_text(changed)
    for words in (["install", "--user"], ["uninstall", "--user"]):
        done = fresh.run("service", *words)
        assert (done.status, unit.read_text()) == (5, changed)
        assert f"{unit} (look at it, then give --force" in done.err
    fresh.good("service", "install", "--user", "--force")
    assert "MemoryMax=12G" in unit.read_text()


def test_a_unit_of_somebody_elses_is_not_replaced(fresh, unit):
    """A unit without install's last line, or a link in its place, as of a masked unit, counts as changed."""
    unit.parent.mkdir(parents=True)
    shutil.copy(SHIPPED / "mlsync-agent-user.service", unit)
    assert fresh.run("service", "install", "--user").status == 5
    unit.unlink()
    unit.symlink_to("/dev/null")
    assert fresh.run("service", "install", "--user").status == 5
    fresh.good("service", "install", "--user", "--force")
    assert not unit.is_symlink()


def test_uninstall_removes_what_install_wrote(fresh, unit):
    """The unit is gone, a drop-in of the user's stays, and there is nothing left to remove the second time."""
    own = unit.with_name("mlsync-agent.service.d") / "override.conf"
    fresh.good("service", "install", "--user")
    own.parent.mkdir()
    own.touch()
    assert f"removed  {unit}" in fresh.good("service", "uninstall", "--user").out
    assert (unit.exists(), own.exists()) == (False, True)
    assert "no unit is installed" in fresh.good("service", "uninstall", "--user").out


def test_uninstall_refuses_while_the_service_is_enabled(fresh, unit):
    """A unit that systemd would still start is not removed from below it, and the command that disables it is told."""
    fresh.good("service", "install", "--user")
    wants = unit.parent / "default.target.wants"
    wants.mkdir()
    (wants / unit.name).symlink_to(unit)
    done = fresh.run("service", "uninstall", "--user")
    assert (done.status, unit.exists()) == (2, True)
    assert "systemctl --user disable --now mlsync-agent" in done.err


@pytest.mark.parametrize("what", ["install", "uninstall"])
def test_the_machines_service_is_roots(fresh, what):
    """Another user than root is told of sudo and of --user."""
    if os.geteuid() != 0:
        pytest.skip("takes root")
    done = fresh.run("service", what, uid=USER, cwd=Path("/"))
    assert done.status == 2
    assert "sudo" in done.err
    assert "--user" in done.err


def test_root_does_not_run_what_others_can_change(machines, tmp_path):
    """A program in a directory that everybody may write to becomes no service of the machine."""
    if os.geteuid() != 0:
        pytest.skip("takes root")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(errors.Untrusted, match="a service's program"):
        service.install(machines, [str(tmp_path / "open" / "mlsync"), "agent"])
    assert not machines.directory.exists()


def test_a_place_that_cannot_be_written_is_told(fresh, unit):
    """Where no unit can be written the status is 6, and nothing is left half."""
    unit.parents[1].parent.mkdir()
    unit.parents[1].touch()
    done = fresh.run("service", "install", "--user")
    assert done.status == 6
    assert str(unit) in done.err


def test_what_the_unit_lacks_for_the_configuration_is_said(machines):
    """Places that the unit cannot write or see, and a missing secret, are each told with the line that helps."""
    config = Config(
        repository="file:///mnt/backup",
        state_directory=Path("/data/state"),
        watches=(WatchSettings(Path("/tmp/train"), "a"), WatchSettings(Path("/data/train"), "b")),
    )
    found = service.shortcomings(machines, config)
    assert [text.partition("[Service] ")[2] for text in found] == [
        "LoadCredential=mlsync-passphrase:FILE",
        "ReadWritePaths=/data/state",
        "ReadWritePaths=/mnt/backup",
        "PrivateTmp=no",
    ]
    fine = Config("file:///srv/mlsync/a", Path("/var/lib/mlsync"), key=KeySettings(key_file=Path("/k")))
    assert service.shortcomings(machines, fine) == []


@pytest.mark.parametrize(("mode", "says"), [(0o2770, True), (0o770, False)])
def test_the_group_that_shares_the_repository_is_said(machines, tmp_path, mode, says):
    """Root's unit, which may write only as a member of a group's repository, is told to be one; others need nothing."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory to any group")
    os.chown(tmp_path, 0, 61_000)
    tmp_path.chmod(mode)
    config = Config(repository=tmp_path.as_uri(), watches=(), state_directory=Path("/var/lib/mlsync"))
    lines = service.shortcomings(machines, config)
    assert any(line.endswith("group 61000: [Service] SupplementaryGroups=61000") for line in lines) == says


@pytest.mark.parametrize("url", ["file:///mnt/my disk/50%", "file:///mnt/my%20disk/50%25"])
def test_a_path_for_the_unit_is_said_as_a_unit_takes_it(url):
    """A path with a space or ``%`` is said quoted and doubled, so that systemd takes it for what it is."""
    config = Config(repository=url, watches=(), state_directory=Path("/var/lib/mlsync"))
    missing = service.shortcomings(service.MACHINE, config)
    assert any(line.endswith('[Service] ReadWritePaths="/mnt/my disk/50%%"') for line in missing)


def test_the_wheel_has_every_unit():
    """Each unit of ``systemd/`` is in the wheel where it is looked for, and stands once in the sources."""
    build = tomllib.loads((SHIPPED.parent / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    units = {file.name for file in SHIPPED.iterdir()} - {"README.md"}
    assert build["force-include"] == {f"systemd/{name}": f"mlsync/systemd/{name}" for name in units}
