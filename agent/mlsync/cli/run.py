"""``mlsync run``: one line in front of the training that restores first, keeps watch beside it, and backs up last."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import click

from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.options import Common, common_options, watch_option
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.share import Rank, rank_here
from mlsync.cli.terminal import output
from mlsync.config.model import Config
from mlsync.config.places import SOCKETS_VARIABLE
from mlsync.config.run_name import check_run_name
from mlsync.config.units import parse_duration
from mlsync.errors import ConfigInvalid, LastBackupFailed
from mlsync.service.grace import grace_of, is_short
from mlsync.service.log import LogMonitor, log_to
from mlsync.service.training.companion import Companion
from mlsync.service.training.first_restore import Launch, await_first, restoring
from mlsync.service.training.messages import Start
from mlsync.service.training.supervisor import Supervisor
from mlsync.service.training.terminal import Terminal
from mlsync.service.training.trainer import TrainerChild, refuse_missing_command

RESTORES = ("resumable", "latest", "best", "never")
_NEVER = "never"
_UNFIT = ("KILL", "STOP", "CHLD", "TERM", "INT", "SEGV", "BUS", "FPE", "ILL", "ABRT", "TRAP", "SYS", "PIPE", "XFSZ")
_EXAMPLES = """\b
Examples:
  mlsync run -- python train.py
  mlsync run --repo s3://bucket/yolo --watch runs -- torchrun train.py
"""


def _signal(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    """Return the number of a signal by its name; refuse one that cannot be caught, or that ends trainings."""
    if value is None:
        return None
    name = value.upper().removeprefix("SIG")
    if name in _UNFIT or f"SIG{name}" not in signal.Signals.__members__:
        raise click.BadParameter(f"{value!r} is no signal that asks a training to save; USR1 and USR2 are.")
    return signal.Signals[f"SIG{name}"].value


def _length(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = parse_duration(value)
    except ValueError as allowed:
        raise click.BadParameter(f"{value!r} is not {allowed}.") from None
    if seconds <= 0:
        raise click.BadParameter("there has to be some time.")
    return seconds


@click.command(
    "run",
    cls=Command,
    short_help="Start a training, restored first, stored to its end.",
    epilog=_EXAMPLES,
    context_settings={"allow_interspersed_args": False},
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND [ARG]...")
@watch_option
@click.option("--run", metavar="NAME", help="The run's name; default: the directory's.")
@click.option(
    "--restore",
    type=click.Choice(RESTORES),
    default=RESTORES[0],
    show_default=True,
    metavar="VERSION",
    shell_complete=candidates.words(*RESTORES),
    help="What to restore: resumable, latest, best, or never.",
)
@click.option(
    "--grace",
    callback=_length,
    metavar="TIME",
    help="From SIGTERM until all is stored; by default 4s on RunPod, 8s in a Docker container, 25s under Kubernetes, "
    "Slurm and elsewhere (mlsync doctor says why).",
)
@click.option(
    "--save-signal",
    callback=_signal,
    metavar="NAME",
    shell_complete=candidates.words("USR1", "USR2"),
    help="On SIGTERM have the training save first, by this signal; SIGTERM goes on once that is stored.",
)
@click.option("--strict", is_flag=True, help="End with 78 if the training ended with 0 and the last backup failed.")
@click.option("--gently/--quickly", "gently", default=True, help="Back up at the lowest priority, or not.")
@common_options
def run_command(
    common: Common,
    command: tuple[str, ...],
    watches: tuple[Path, ...],
    run: str | None,
    *,
    restore: str,
    grace: float | None,
    save_signal: int | None,
    strict: bool,
    gently: bool,
) -> None:
    """Start COMMAND, and back up what it writes; its exit status is that of mlsync.

    DIR is restored first if it is empty or older. Each checkpoint is stored while COMMAND runs, and whatever is on the
    disk at its end, or on SIGTERM. Signals go to COMMAND; nothing that fails in mlsync ends it.
    """
    _refuse_without_dashes(common, command)
    environ = _environment_of(common)
    rank = rank_here(environ, os.getppid())
    if rank is not None and rank.number and not (rank.is_beside_first and restore != _NEVER):
        _leave_to_first(common, command, environ, rank)
    config = _named(common.watching_configuration(watches), run)
    launch = None if rank is None or restore == _NEVER else _launch(rank, config, environ)
    if rank is not None and rank.number and launch is not None:
        _await_first(common, launch, config, rank)
        _leave_to_first(common, command, environ, rank)
    if not any(_is_below(command[0], watch.directory) for watch in config.watches):
        # What a restore brings need not be there yet.
        refuse_missing_command(command, environ)
    secret = common.secret(config, limits_children=False)
    level = logging.WARNING if common.quiet else logging.DEBUG if common.is_debug else logging.INFO
    log_to(sys.stderr, level, as_json=config.agent.log_format == "json")
    wanted = None if restore == _NEVER else restore
    grace_s = grace_of(config).plan_s if grace is None else grace
    start = Start(config, secret, wanted, gently=gently, level=level, keeps_ready=is_short(grace_s))
    # Where the training finds the agent that it tells of its saves.
    environ[SOCKETS_VARIABLE] = str(config.state_directory)
    trainer = TrainerChild(command, environ, Terminal.of_foreground())
    supervisor = Supervisor(trainer, Companion(), start, LogMonitor(), grace_s=grace_s, save_signal=save_signal)
    with restoring(launch, config.state_directory) as restored:
        status = supervisor.run(restored)
    if trainer.pid:
        _tell_end(supervisor, quiet=common.quiet, is_strict=strict and status == 0)
    sys.exit(status)


def _refuse_without_dashes(common: Common, command: tuple[str, ...]) -> None:
    """Refuse a command that does not stand behind ``--``: options of the two would be mistaken for each other."""
    if "--" not in common.invocation.arguments or not command:
        raise click.UsageError("The training's command stands behind --, as in: mlsync run -- python train.py")
    if common.as_json:
        raise ConfigInvalid("--json for a training, whose output is its own", advice="leave it out")


def _environment_of(common: Common) -> dict[str, str]:
    """Return the environment that this program was started with, without the passphrase."""
    return {name: value for name, value in os.environ.items() if name not in common.invocation.added_variables}


def _launch(rank: Rank, config: Config, environ: dict[str, str]) -> Launch:
    """Return the launch that this process is of, by which the others on this machine find the first one."""
    directories = "\0".join(os.fspath(watch.directory) for watch in config.watches)
    return Launch.of(rank.launcher, environ, os.getppid(), directories)


def _await_first(common: Common, launch: Launch, config: Config, rank: Rank) -> None:
    """Wait until the first process has restored what all of them read."""
    if not common.quiet:
        output.tell(f"mlsync: process {rank.number + 1} of {rank.count}: waiting for the first process to restore")
    await_first(launch, config.state_directory)


def _leave_to_first(common: Common, command: tuple[str, ...], environ: dict[str, str], rank: Rank) -> NoReturn:
    """Become the training itself, as all processes of a launcher do but the first, which backs up for all of them."""
    if not common.quiet:
        text = f"process {rank.number + 1} of {rank.count}: only the training runs here; the first process backs it up"
        output.tell(f"mlsync: {text}")
    _become(command, environ)


def _become(command: tuple[str, ...], environ: dict[str, str]) -> NoReturn:
    refuse_missing_command(command, environ)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(command[0], command, environ)  # noqa: S606 - the command that was asked for


def _named(config: Config, run: str | None) -> Config:
    """Return the configuration with its one directory called *run*."""
    if run is None:
        return config
    if len(config.watches) > 1:
        raise ConfigInvalid("--run for several watched directories", advice="name their runs in a configuration")
    watch = dataclasses.replace(config.watches[0], run=check_run_name(run))
    return dataclasses.replace(config, watches=(watch,))


def _is_below(command: str, directory: Path) -> bool:
    return bool(os.path.dirname(command)) and Path(os.path.abspath(command)).is_relative_to(directory)


def _tell_end(supervisor: Supervisor, *, quiet: bool, is_strict: bool) -> None:
    """Say what became of the last backup; raise ``LastBackupFailed`` if that is to be the exit status."""
    failures = supervisor.failures()
    for run, why in failures.items():
        output.tell(f"mlsync: THE LAST BACKUP OF {run} FAILED: {why}; what was written since is on this disk only")
    if failures and is_strict:
        raise LastBackupFailed(f"the training ended with 0, and its last backup failed: {', '.join(failures)}")
    if not failures and not quiet:
        stored = ", ".join(f"{run} {number}" for run, number in sorted(supervisor.stored_versions().items()))
        output.tell(f"mlsync: everything is stored; versions made: {stored or 'none, nothing was new'}")
