"""``mlsync agent``: keep watch over all runs until it is stopped."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from mlsync.app.proof_user import refuse_untrusted_programs
from mlsync.cli.arguments.options import Common, common_options, watch_option
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.terminal import output
from mlsync.config.model import Config
from mlsync.courtesy.share import ProcessorShare
from mlsync.doctor.absent_disk import looks_unmounted, unmounted_at
from mlsync.doctor.doctor import at_start, in_short
from mlsync.doctor.findings import Grade
from mlsync.errors import (
    ConfigInvalid,
    Error,
    KeyServiceUnavailable,
    ProcessKilled,
    RepositoryMissing,
    RunLocked,
    StoreUnavailable,
)
from mlsync.monitor import Monitor
from mlsync.service import status
from mlsync.service.afterwards.daily_prune import DailyPrune
from mlsync.service.afterwards.evaluations import AgentEvaluations
from mlsync.service.afterwards.mirrors import AgentMirrors
from mlsync.service.afterwards.registrations import Registrations
from mlsync.service.agent import Agent, AgentOptions
from mlsync.service.backup_job import BackupJob, RepositoryOpener, look_for_repository
from mlsync.service.grace import grace_of, is_short
from mlsync.service.log import LogMonitor, log_to
from mlsync.service.talk.place import has_living_agent
from mlsync.service.unit.notify import Notifier, is_service

_EXAMPLES = """\b
Examples:
  mlsync agent
  mlsync agent --repo s3://bucket/yolo --watch ~/yolo/runs
"""


@click.command("agent", cls=Command, short_help="Keep watch over all runs (the service).", epilog=_EXAMPLES)
@click.option(
    "--gently/--quickly",
    "gently",
    default=True,
    help="Give way to everything else that runs here (the default), or take a full share of processor and disk.",
)
@click.option(
    "--log-format",
    "log_format",
    type=click.Choice(("text", "json")),
    help="Log lines for people (the default), or one JSON object a line; by default as configured.",
)
@watch_option
@common_options
def agent_command(common: Common, watches: tuple[Path, ...], gently: bool, log_format: str | None) -> None:
    """Keep watch over all runs of the configuration until SIGTERM or SIGINT.

    Runs until Ctrl-C or SIGTERM, which end with a last pass. It makes a version when files changed and settled, looks
    at all runs each hour, and waits for a repository that is away. With --repo and --watch it needs no configuration.
    "mlsync service install" starts it with the machine.
    """
    config = common.watching_configuration(watches)
    refuse_untrusted_programs(config)
    level = logging.WARNING if common.quiet else logging.DEBUG if common.is_debug else logging.INFO
    log_to(sys.stderr, level, as_json=(log_format or config.agent.log_format) == "json")
    monitor = LogMonitor()
    _refuse_second(config)
    unlock = common.secret(config, before_prompt=lambda: _look(config))
    opener = RepositoryOpener(config, unlock)
    away = _find(config, lambda _config: opener.opened(threading.Event()))
    if away is not None:
        monitor.notice("warning", _waiting(config, away))
    agent = _keep_watch(lambda: common.watching_configuration(watches), opener, monitor, gently=gently)
    if common.as_json:
        common.emit(agent.as_json())
    if agent.listen_failed is not None:
        raise agent.listen_failed


def _keep_watch(read: Callable[[], Config], opener: RepositoryOpener, monitor: Monitor, *, gently: bool) -> Agent:
    """Return the agent that was told to end; each one before it gave way to one with a changed configuration."""
    notifier, unheard = Notifier.from_environment(), b""
    while True:
        config = opener.config
        fresh: list[Config] = []

        def read_again(now: Config = config, fresh: list[Config] = fresh) -> bool:
            fresh[:] = [_read_again(read, now)]
            return fresh[0] != now

        _announce(opener, monitor)
        prune, models = DailyPrune(config, monitor), Registrations(config, monitor)
        ready = is_short(grace_of(config).plan_s)
        share = ProcessorShare(config.limits.processor_share)
        jobs = [
            BackupJob(opener, watch, gently=gently, keeps_ready=ready, prune=prune, registrations=models, share=share)
            for watch in config.watches
        ]
        options = AgentOptions.of(config)
        evaluations = AgentEvaluations(config, partial(opener.opened, threading.Event()), monitor)
        mirrors = AgentMirrors(config, partial(opener.opened, threading.Event()), monitor)
        agent = Agent(
            jobs,
            options,
            monitor,
            notifier=notifier,
            read_again=read_again,
            registrations=models,
            evaluations=evaluations,
            mirrors=mirrors,
        )
        prune.told = agent.news.pruned
        for one in at_start(config):
            if one.grade in (Grade.GRAVE, Grade.WARNING):
                agent.news.ephemeral(one.subject)
        agent.heed(unheard)
        try:
            agent.run()
        finally:
            evaluations.close()
            mirrors.close()
            prune.close()
            models.close()
            for job in jobs:
                job.close()
        if not agent.is_superseded:
            return agent
        opener, unheard = opener.reconfigured(fresh[0]), agent.unheard


def _read_again(read: Callable[[], Config], now: Config) -> Config:
    """Return the configuration as it is by now; raise if it is broken, or needs what only a start can do."""
    config = read()
    refuse_untrusted_programs(config)
    for name in ("repository", "state_directory", "key"):
        if getattr(config, name) != getattr(now, name):
            what = f"another {name} takes effect at the next start of the agent"
            raise ConfigInvalid(what, where=str(config.path), advice="restart it")
    return config


def _announce(opener: RepositoryOpener, monitor: Monitor) -> None:
    """Say what is watched, and what of it dies with the machine: the next line may be hours away."""
    config = opener.config
    for watch in config.watches:
        directory = output.path(bytes(watch.directory))
        monitor.notice("info", f"{watch.run}: watching {directory} for {config.repository}")
    for one in at_start(config):
        monitor.notice("warning" if one.grade is Grade.GRAVE else "info", in_short(one))
    if opener.has_one_slot:
        monitor.notice("info", "one secret opens the repository; a second way in, for paper: mlsync key add --recovery")


def _look(config: Config) -> None:
    """Raise what makes it useless to ask for a passphrase."""
    _refuse_second(config)
    _find(config, look_for_repository)


def _refuse_second(config: Config) -> None:
    """Raise ``RunLocked`` if another agent keeps watch over all of the runs; one with other runs is no reason."""
    wanted = {one.run for one in config.watches}
    if not has_living_agent(config.state_directory):
        # Whatever has its number by now, and whatever the clock says, is no agent.
        return
    for seen in status.read_agents(config.state_directory, config.repository):
        if seen.is_running() and seen.pid != os.getpid() and wanted <= {one.run for one in seen.runs}:
            advice = "mlsync status shows what it does; stop it before you start another one"
            what = f"an agent keeps watch over {', '.join(sorted(wanted))} already"
            raise RunLocked(what, where=f"process {seen.pid}", advice=advice)


def _find(config: Config, find: Callable[[Config], object]) -> Error | None:
    """Find the repository; return the error if it may come later, and raise what only a person can fix.

    That is a wrong place, for example, or a wrong passphrase.
    """
    try:
        find(config)
    except (StoreUnavailable, KeyServiceUnavailable, ProcessKilled) as error:
        return error
    except RepositoryMissing as error:
        if not _may_come(config):
            raise
        return error
    return None


def _may_come(config: Config) -> bool:
    """Return whether a repository that is not there is rather on a disk that is not mounted than never was.

    A bucket that answers hides nothing. Who types a wrong path at a first start is told, and a service waits, since
    what it knew may be gone together with its state.
    """
    if status.read_states(config.state_directory, config.repository):
        return True
    place = config.repository_directory
    if place is None:
        return False
    if unmounted_at(place) is not None:
        return True
    if sys.stdin is not None and sys.stdin.isatty():
        return False
    return is_service() or looks_unmounted(place)


def _waiting(config: Config, away: Error) -> str:
    """Return that the repository is away, and what the agent does about it."""
    place = config.repository_directory
    if not isinstance(away, RepositoryMissing) or place is None:
        return f"{away}; waiting for it"
    what = f"{away.what}: {away.where}"
    mount = unmounted_at(place)
    if mount is not None:
        return f"{what}; nothing is mounted at {mount}, as /etc/fstab has it; waiting for it"
    return f"{what}; waiting for its disk; if none ever was there: mlsync init, or correct the address and start again"
