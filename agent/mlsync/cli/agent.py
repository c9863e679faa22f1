"""``mlsync agent``: keep watch over all runs until told to stop."""

from __future__ import annotations

import sys

import click

from mlsync.cli.options import Common, common_options
from mlsync.service.agent import Agent, AgentOptions
from mlsync.service.backup_job import BackupJob
from mlsync.service.notify import LogMonitor, log_to


@click.command("agent", short_help="Keep watch over all runs (the service).")
@common_options
def agent_command(common: Common) -> None:
    """Keep watch over all runs of the configuration until SIGTERM or SIGINT.

    Backs a run up when its files changed and settled, hourly (agent.every), and when a rescan finds what no event
    told. SIGHUP backs all runs up now. A store that is away is waited for; one run never blocks another. Under
    systemd (see systemd/README.md) it says READY, STATUS and WATCHDOG. Ends with 0 when told to stop.
    """
    config = common.watching_configuration()
    log_to(sys.stderr, verbose=common.verbose)
    monitor = LogMonitor()
    with common.session(config, monitor) as session:
        jobs = [BackupJob(session, watch, monitor) for watch in config.watches]
        try:
            Agent(jobs, AgentOptions.of(config), monitor).run()
        finally:
            for job in jobs:
                job.close()
