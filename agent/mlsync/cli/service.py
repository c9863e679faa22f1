"""``mlsync service``: install the agent as a service of systemd, and remove it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import click

import mlsync
from mlsync.cli.arguments.invocation import Invocation
from mlsync.cli.arguments.parsing import Group
from mlsync.cli.reports.json import service_json
from mlsync.cli.terminal import output
from mlsync.config.load import load
from mlsync.config.places import place_of_service
from mlsync.config.trust import refuse_untrusted
from mlsync.errors import ConfigInvalid
from mlsync.service.unit.install import (
    MACHINE,
    NAME,
    Manager,
    configuration_of_instance,
    install,
    manager_of_instance,
    manager_of_user,
    shortcomings,
    uninstall,
)

_INSTALL_EXAMPLES = """\b
Examples:
  sudo /opt/mlsync/bin/mlsync service install --gpu
  mlsync service install --user
"""
_UNINSTALL_EXAMPLES = """\b
Examples:
  sudo /opt/mlsync/bin/mlsync service uninstall
  mlsync service uninstall --user
"""
_EXAMPLES = """\b
Examples:
  mlsync service install --user
  mlsync service uninstall --user
"""
_user_option = click.option("--user", "is_user", is_flag=True, help="For your own user, without root.")
_instance_option = click.option(
    "--instance",
    metavar="NAME",
    help="The template mlsync@.service instead: mlsync@NAME runs /etc/mlsync/NAME.toml.",
)
_force_option = click.option("--force", is_flag=True, help="Overwrite or remove a unit that was changed.")
_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON value on stdout, and nothing else there."
)


@click.group("service", cls=Group, short_help="Install or remove the systemd service.", epilog=_EXAMPLES)
def service_command() -> None:
    """Install the resident agent (mlsync agent) as a service of systemd, or remove it.

    The service is called mlsync-agent. systemd/README.md explains secrets, GPUs, limits and logs.
    """


@service_command.command("install", short_help="Write the unit for this mlsync.", epilog=_INSTALL_EXAMPLES)
@_user_option
@_instance_option
@click.option("--gpu", is_flag=True, help="Let proofs use NVIDIA GPUs: also write the drop-in gpu.conf.")
@click.option("--timers", is_flag=True, help="Also write timers: check once a week, prune once a day.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Configuration of the agent; default: /etc/mlsync/mlsync.toml, with --user the user's.",
)
@_force_option
@_json_option
@click.pass_obj
def install_command(
    invocation: Invocation,
    *,
    is_user: bool,
    instance: str | None,
    gpu: bool,
    timers: bool,
    config: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write the unit mlsync-agent.service, which runs this very mlsync, and say what to do next.

    Starts nothing: it prints what the unit still lacks, and the commands that start it. For your own settings use a
    drop-in: systemctl edit mlsync-agent. A unit that somebody changed is refused without --force.
    """
    manager = _manager(is_user=is_user, instance=instance)
    _refuse_unfit(is_user=is_user, instance=instance, gpu=gpu, timers=timers, config=config)
    place = _place(manager, instance, config)
    if place.is_file():
        environ = {"STATE_DIRECTORY": str(manager.state)} if manager.is_machines else os.environ
        missing = shortcomings(manager, load(place, environ))
    else:
        missing = [f"there is no configuration yet: mlsync init URL --watch DIR --config {shlex.quote(str(place))}"]
    command = [*_program(invocation.program), "agent", "--config", str(place)]
    if manager.is_machines:
        # The script may be root's although others can change the Python that runs it, or the code.
        for program in (sys.executable, mlsync.__file__):
            refuse_untrusted(program, "a service's program")
    written = install(manager, command, gpu=gpu, timers=timers, force=force)
    following = [f"{manager.systemctl} daemon-reload", f"{manager.systemctl} enable --now {manager.name}"]
    if timers:
        following.append(f"{manager.systemctl} enable --now mlsync-check.timer")
        following.append(f"{manager.systemctl} enable --now mlsync-prune.timer    # where credentials may delete")
    if not manager.is_machines:
        following.append("loginctl enable-linger")
    if as_json:
        invocation.emit(service_json(written, command, missing, following))
        return
    for file in written:
        output.say(f"written  {file}")
    output.say(f"runs     {shlex.join(command)}")
    _say_list("Missing, before it can start:", missing)
    _say_list("Next:", following)


@service_command.command("uninstall", short_help="Remove the unit.", epilog=_UNINSTALL_EXAMPLES)
@_user_option
@_instance_option
@_force_option
@_json_option
@click.pass_obj
def uninstall_command(
    invocation: Invocation, *, is_user: bool, instance: str | None, force: bool, as_json: bool
) -> None:
    """Remove the unit mlsync-agent.service, the drop-in gpu.conf and the timers, as mlsync service install wrote them.

    Disable the service first. Configuration, state, repository and your own drop-ins stay.
    With --instance it is the template of all instances, none of which may be enabled.
    """
    manager = _manager(is_user=is_user, instance=instance)
    removed = uninstall(manager, force=force)
    following = [f"{manager.systemctl} daemon-reload"] if removed else []
    if as_json:
        invocation.emit(service_json(removed, [], [], following))
        return
    for file in removed:
        output.say(f"removed  {file}")
    if not removed:
        output.say(f"no unit is installed in {manager.directory}")
    _say_list("Next:", following)


def _refuse_unfit(*, is_user: bool, instance: str | None, gpu: bool, timers: bool, config: Path | None) -> None:
    """Raise ``ConfigInvalid`` for options that mean nothing together."""
    if gpu and is_user:
        raise ConfigInvalid("--gpu is for the machine's service", advice="leave it out: the user's sees all GPUs")
    if timers and is_user:
        raise ConfigInvalid("--timers is for the machine's service", advice="put mlsync check into your crontab")
    if instance is not None and (timers or config is not None):
        what = "--timers and --config are not for an instance"
        raise ConfigInvalid(what, advice=f"its configuration is {configuration_of_instance(instance)}")


def _place(manager: Manager, instance: str | None, config: Path | None) -> Path:
    """Return the configuration that the service will have."""
    if instance is not None:
        return configuration_of_instance(instance)
    return place_of_service(is_machines=manager.is_machines) if config is None else Path(os.path.abspath(config))


def _manager(*, is_user: bool, instance: str | None) -> Manager:
    if is_user and instance is not None:
        raise ConfigInvalid("--instance is for the machine's service", advice="leave one of both out")
    if is_user:
        return manager_of_user()
    if os.geteuid() != 0:
        advice = "run it by sudo, or give --user for a service of your own"
        raise ConfigInvalid("only root can install or remove the machine's service", advice=advice)
    return MACHINE if instance is None else manager_of_instance(instance)


def _program(called: str) -> list[str]:
    """Return the words that start this very mlsync, from any directory and with any PATH."""
    found = called if "/" in called else shutil.which(called)
    if os.path.basename(called) == NAME.partition("-")[0] and found is not None:
        # Links stay: pipx's ~/.local/bin/mlsync is there after an update, what it leads to may not be.
        return [os.path.abspath(found)]
    return [sys.executable, "-m", "mlsync"]


def _say_list(title: str, lines: Sequence[str]) -> None:
    if lines:
        output.say()
        output.say(title)
    for line in lines:
        output.say(f"  {line}")
