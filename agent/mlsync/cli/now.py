"""``mlsync now``: have the running agent back up at once."""

from __future__ import annotations

import click

from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.options import Common, common_options
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.stopping import stopping
from mlsync.cli.reports.json import now_json
from mlsync.cli.terminal import output
from mlsync.errors import AgentAway, Error, NotProvedYet, Stopped
from mlsync.monitor import Monitor
from mlsync.service.talk.ask_now import AskedPass, ask_for_passes, wait_for_passes

_EXAMPLES = """\b
Examples:
  mlsync now
  mlsync now yolo --wait && sudo poweroff
"""


@click.command("now", cls=Command, short_help="Have the running agent back up at once.", epilog=_EXAMPLES)
@click.argument("runs", metavar="[RUN]...", nargs=-1, shell_complete=candidates.runs)
@click.option(
    "--wait",
    is_flag=True,
    help="End when the versions are made: with 79 if one is not proved, or its failure's status.",
)
@common_options
def now_command(common: Common, runs: tuple[str, ...], wait: bool) -> None:
    """Ask the agent of this machine for a backup of each RUN, or of all of its runs, without waiting for a schedule.

    Without --wait it ends as soon as the agent knows. A run in which nothing changed gets no version. Without an
    agent it ends with 82; "mlsync backup" backs up without one.
    """
    config = common.configuration()
    asked = ask_for_passes(config.state_directory, config.repository, runs)
    if wait:
        with stopping() as stop:
            ended = {(one.agent, one.id): one for one in wait_for_passes(asked, stop.is_set)}
        if len(ended) < len(asked):
            raise Stopped("no longer waiting; the agent goes on with the backup")
        asked = [ended[one.agent, one.id] for one in asked]
    if common.as_json:
        common.emit(now_json(asked, waited=wait))
    else:
        _show(asked, common.monitor(), waited=wait, quiet=common.quiet)
    if wait:
        _leave(asked)


def _show(asked: list[AskedPass], monitor: Monitor, *, waited: bool, quiet: bool) -> None:
    for one in asked:
        if not waited and not quiet:
            output.say(f"{one.run}: asked for")
        elif waited and one.error is not None and len(asked) > 1:
            monitor.notice("error", f"{one.run}: {one.error}")
        elif one.summary is not None and not quiet:
            output.say(f"{one.run}: {one.summary}")


def _leave(asked: list[AskedPass]) -> None:
    """End with the first failure, or with what is not proved; all of it was shown."""
    failed: list[Error] = [one.error for one in asked if one.error is not None]
    if failed:
        raise failed[0]
    gone = [one for one in asked if one.summary is None]
    if gone:
        raise AgentAway("the agent ended before the backup", where=gone[0].run)
    pending = [one for one in asked if one.version is not None and not one.is_proved]
    if pending:
        raise NotProvedYet(f"version {pending[0].version} is stored, and not proved yet", where=pending[0].run)
