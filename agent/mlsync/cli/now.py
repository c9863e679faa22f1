"""``mlsync now``: have the running agent back up at once."""

from __future__ import annotations

import click

from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.options import Common, common_options
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.stopping import stopping
from mlsync.cli.reports.json import now_json
from mlsync.cli.terminal import output
from mlsync.config.model import Config
from mlsync.config.units import parse_duration
from mlsync.errors import AgentAway, Error, NotProvedYet, Stopped
from mlsync.monitor import Monitor
from mlsync.service.preemption_watch import PreemptionOptions
from mlsync.service.talk.ask_now import AskedPass, ask_for_passes, wait_for_passes
from mlsync.service.talk.last_backup import back_up_for_the_end

_WITHIN_S_MAX = 86_400.0

_EXAMPLES = """\b
Examples:
  mlsync now yolo --wait && sudo poweroff
  mlsync now --preempt --within 25s
"""


def _checked_time(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    """Refuse what is no length of time above zero."""
    try:
        seconds = None if value is None else parse_duration(value)
    except ValueError as allowed:
        raise click.BadParameter(f"{value!r} is not {allowed}.") from None
    if seconds is not None and not 0 < seconds < _WITHIN_S_MAX:
        raise click.BadParameter("It must be above zero, and less than a day.")
    return seconds


@click.command("now", cls=Command, short_help="Have the running agent back up at once.", epilog=_EXAMPLES)
@click.argument("runs", metavar="[RUN]...", nargs=-1, shell_complete=candidates.runs)
@click.option(
    "--wait",
    is_flag=True,
    help="End when the versions are made: with 79 if one is not proved, or its failure's status.",
)
@click.option(
    "--preempt",
    is_flag=True,
    help="This machine is about to end: the newest checkpoint first, proved later. Ends when all is committed, or with "
    "100 when the time is over.",
)
@click.option(
    "--within",
    "within_s",
    callback=_checked_time,
    metavar="TIME",
    help="The time until the end, for --preempt; by default what signal_grace or the platform leaves.",
)
@common_options
def now_command(common: Common, runs: tuple[str, ...], wait: bool, preempt: bool, within_s: float | None) -> None:
    """Ask the agent of this machine for a backup of each RUN, or of all of its runs, without waiting for a schedule.

    Without --wait it ends as soon as the agent knows. A run in which nothing changed gets no version. Without an
    agent it ends with 82; "mlsync backup" backs up without one.
    """
    if within_s is not None and not preempt:
        raise click.UsageError("--within is for --preempt.")
    config = common.configuration()
    if preempt:
        _preempt(common, config, runs, within_s)
        return
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


def _preempt(common: Common, config: Config, runs: tuple[str, ...], within_s: float | None) -> None:
    left_s = PreemptionOptions.of(config).grace_s if within_s is None else within_s
    with stopping() as stop:
        made = back_up_for_the_end(config.state_directory, config.repository, runs, left_s, stop.is_set)
    if common.as_json:
        common.emit(now_json(made, waited=True))
    else:
        _show(made, common.monitor(), waited=True, quiet=common.quiet)


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
