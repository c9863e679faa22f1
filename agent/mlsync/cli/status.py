"""``mlsync status``, and ``mlsync`` alone: what is set up here, how it stands, and what to do next."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import click

from mlsync.app.wrapping import wrap
from mlsync.cli.arguments.options import Common, common_options
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.new_config import service_options
from mlsync.cli.reports.json import fleet_json, mirrors_json, status_json
from mlsync.cli.reports.live_report import channel_lines, live_lines, mirror_lines, notice_lines
from mlsync.cli.terminal import output
from mlsync.cli.terminal.steps import Step, step_lines
from mlsync.config.load import find_config
from mlsync.config.model import Config
from mlsync.config.units import format_age, parse_duration
from mlsync.errors import ConfigInvalid, Error, VersionStale
from mlsync.service.here import RunHere, runs_here
from mlsync.service.live import Live, live_status, proved_s, refuse_stale
from mlsync.service.status import AgentSeen, agent_in, merged, read_agents
from mlsync.service.unit.booted import has_systemd

_WIDTH = 80
_LABEL_WIDTH = 13
# A status file is written each minute while its agent lives.
_OLD_S = 150.0
_AGAIN_S = 2.0
_CLEAR = "\033[H\033[2J"
_WHAT = "mlsync keeps a training's checkpoints as encrypted versions, proved to load."


_EXAMPLES = """\b
Examples:
  mlsync status --watch
  mlsync status --max-age 2h -q
"""


def _checked_age(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    """Refuse what is no length of time."""
    try:
        return None if value is None else parse_duration(value)
    except ValueError as allowed:
        raise click.BadParameter(f"{value!r} is not {allowed}.") from None


@click.command("status", cls=Command, short_help="Show what is set up and what to do next.", epilog=_EXAMPLES)
@click.option("--watch", "is_watched", is_flag=True, help="Show it again every two seconds, until Ctrl-C.")
@click.option(
    "--max-age",
    "max_age_s",
    callback=_checked_age,
    metavar="TIME",
    help="End with 83 if the last proof of a run is older, such as 2h: for monitors.",
)
@click.option("--fleet", "is_fleet", is_flag=True, help="All runs of the repository, by all machines; opens it.")
@click.option("--mirrors", "is_mirrors", is_flag=True, help="How far each mirror is behind, by the stores; opens them.")
@common_options
def status_command(common: Common, is_watched: bool, max_age_s: float | None, is_fleet: bool, is_mirrors: bool) -> None:
    """Show the runs, what the agent does with them, and the commands to type next.

    Asks the agent that runs here. Without one it shows what this machine knows; only --fleet and --mirrors open the
    repository, and may ask for a passphrase. "mlsync" alone does the same.
    """
    if is_mirrors and (is_fleet or max_age_s is not None):
        raise click.UsageError("--mirrors goes without --fleet and --max-age.")
    show = _show_mirrors if is_mirrors else _show_fleet if is_fleet else _show_here
    if not is_watched:
        show(common, max_age_s)
        return
    if common.as_json:
        raise click.UsageError("--watch is for people, and --json for programs.")
    with suppress(KeyboardInterrupt):
        _watch(lambda: show(common, max_age_s))


def _watch(show: Callable[[], None]) -> None:
    """Show it again and again, on a terminal each time from its top; an error ends it only if it stays."""
    while True:
        if sys.stdout.isatty():
            click.echo(_CLEAR, nl=False)
        try:
            show()
        except VersionStale as error:
            output.say(str(error))
        time.sleep(_AGAIN_S)


def _show_fleet(common: Common, max_age_s: float | None) -> None:
    from mlsync.cli.reports.fleet_report import fleet_of, print_fleet  # late: it is for those who open the repository

    monitor = common.monitor()
    with common.session(common.configuration(), monitor) as session:
        fleet = fleet_of(session.repository)
    if common.as_json:
        common.emit(fleet_json(fleet))
    elif not common.quiet:
        print_fleet(fleet, time.time())
    if max_age_s is not None:
        refuse_stale({one.run: one.proved_s for one in fleet}, max_age_s, time.time())


def _show_mirrors(common: Common, _max_age_s: float | None) -> None:
    """Show how each mirror stands; a mirror that cannot be had keeps no other from being shown, and is raised last."""
    from mlsync.app.mirroring import mirror_seen  # late: it is for those who open the repository

    config, monitor = common.configuration(), common.monitor()
    if not config.mirrors:
        raise ConfigInvalid("the configuration has no mirror", advice="docs/mirrors.md says how to add one")
    with common.session(config, monitor) as session:
        found = [mirror_seen(session, mirror, monitor) for mirror in config.mirrors]
    if common.as_json:
        common.emit(mirrors_json(found))
    elif not common.quiet:
        for one in found:
            fails = {"failures": int(one.error is not None), "last_failure": str(one.error)}
            for line in mirror_lines({"mirrors": [{"name": one.name, "runs": one.runs, **fails}]}):
                output.say_wrapped(line)
    for one in found:
        if one.error is not None:
            raise one.error


def _show_here(common: Common, max_age_s: float | None) -> None:
    mlsync = common.invocation.typed
    absent = _absent(common)
    if absent is not None:
        _show_start(common, absent, _first_steps(mlsync))
        return
    try:
        config = common.configuration()
    except Error as error:
        _show_invalid(common, error)
        return
    live = live_status(config)
    agents = _agents_seen(config, live)
    agent = merged(agents)
    runs = tuple(runs_here(config, agent))
    steps = tuple(_next_steps(mlsync, _given(common), config.path, agent, runs))
    if common.as_json:
        live_agents = [dict(one) for one in live.agents]
        words = _words(steps)
        common.emit(status_json("ready", config.path, None, config.repository, agents, runs, words, live_agents))
    elif max_age_s is None or not common.quiet:
        _show(config, agents, runs, steps, live)
    if max_age_s is not None:
        refuse_stale(proved_s([watch.run for watch in config.watches], live, agent), max_age_s, time.time())


def _agents_seen(config: Config, live: Live) -> list[AgentSeen]:
    """Return what the agents say that run and answer, and what others left in their files, if their runs are here."""
    told = [agent_in(one) for one in live.agents]
    running, here = {one.pid for one in told}, {watch.run for watch in config.watches}
    kept = [one for one in read_agents(config.state_directory, config.repository) if one.pid not in running]
    return [one for one in kept if here.intersection(run.run for run in one.runs)] + told


def _absent(common: Common) -> ConfigInvalid | None:
    """Return where no configuration was, if there is none; ``--repo`` does without."""
    try:
        if common.repo is None or common.config is not None:
            find_config(common.config)
    except ConfigInvalid as error:
        return error
    return None


def _given(common: Common) -> str:
    """Return the options that the next commands need too."""
    config = "" if common.config is None else f" --config {shlex.quote(os.fspath(common.config))}"
    return config + ("" if common.repo is None else f" --repo {shlex.quote(common.repo)}")


def _first_steps(mlsync: str) -> tuple[Step, ...]:
    return (
        Step(f"{mlsync} demo", "See all of it work in a minute, without a server:"),
        Step(f"{mlsync} init URL --watch DIRECTORY", "Keep a training; URL is /path or s3://BUCKET/runs:"),
        Step(f"{mlsync} restore --repo URL --to DIRECTORY", "Bring a run back on a new machine:"),
    )


def _next_steps(
    mlsync: str, given: str, place: Path | None, agent: AgentSeen | None, runs: Sequence[RunHere]
) -> Iterator[Step]:
    running = agent is not None and agent.is_running() is not False
    if runs and not running:
        yield Step(f"{mlsync} backup{given}", "make a version of each run that changed")
        yield Step(f"{mlsync} agent{given}", "keep watch until Ctrl-C")
        if place is not None and has_systemd():
            yield Step(f"{mlsync} service install{service_options(place)}", "or keep watch as a service")
    if not runs or any(run.version is not None for run in runs):
        yield Step(f"{mlsync} versions{given}", "list the versions and their proofs")
        yield Step(f"{mlsync} show{given}", "show the newest version's files")
        yield Step(f"{mlsync} restore{given} --to DIR", "bring the newest version back")
    yield Step(f"{mlsync} check{given}", "check the repository")


def _words(steps: Sequence[Step]) -> list[str]:
    return [step.words for step in steps]


def _show_start(common: Common, absent: ConfigInvalid, steps: Sequence[Step]) -> None:
    if common.as_json:
        common.emit(status_json("none", None, None, None, (), (), _words(steps)))
        return
    output.say(_WHAT)
    output.say()
    output.say(f"{absent.what[:1].upper()}{absent.what[1:]}:")
    for line in wrap(absent.where or "", _WIDTH, first="  ", rest="  "):
        output.say(line)
    for step in steps:
        output.say()
        output.say(step.purpose)
        output.say(f"  {step.words}")
    output.say()
    output.say(f"All commands: {common.invocation.typed} --help")


def _show_invalid(common: Common, error: Error) -> None:
    place = None if common.repo is not None and common.config is None else find_config(common.config)
    again = f"{common.invocation.typed} status{_given(common)}"
    if common.as_json:
        common.emit(status_json("invalid", place, error, None, (), (), [again]))
        return
    _labelled("configuration", [str(place or common.repo)])
    _labelled("problem", [error.what, *filter(None, (error.where, error.advice))])
    output.say()
    output.say("Correct it, and look again:")
    output.say(f"  {again}")


def _show(
    config: Config, agents: Sequence[AgentSeen], runs: Sequence[RunHere], steps: Sequence[Step], live: Live
) -> None:
    now_s = time.time()
    _labelled("configuration", [str(config.path) if config.path else "none, since --repo names the repository"])
    _labelled("repository", [config.repository])
    if runs:
        notices = [
            line for one in live.agents for line in (*notice_lines(one, now_s), *channel_lines(one), *mirror_lines(one))
        ]
        agent = merged(agents)
        _labelled("agent", [*_agents_in_words(agents, now_s), *_stale_in_words(agent, live, now_s), *notices])
    told = live.runs
    for run in runs:
        lines = live_lines(told[run.run], now_s) if run.run in told else ()
        _labelled("run", [f"{run.run}: {_version_in_words(run, now_s)}", _directory(run), *run.problems, *lines])
    output.say()
    output.say("Next:")
    for line in step_lines(steps):
        output.say(line)


def _agents_in_words(agents: Sequence[AgentSeen], now_s: float) -> Iterator[str]:
    """Yield a line for each agent that may run, with its runs if there are several; else one for the last one."""
    running = [one for one in agents if one.is_running() is not False]
    for agent in running:
        names = ", ".join(run.run for run in agent.runs)
        yield _agent_in_words(agent, now_s) + (f": {names}" if len(running) > 1 else "")
    if not running:
        yield "never ran on this machine" if not agents else _agent_in_words(agents[-1], now_s)


def _agent_in_words(agent: AgentSeen, now_s: float) -> str:
    running = agent.is_running()
    if running is None:
        return f"belongs to {agent.host}, which shares this state; whether it runs is known there"
    started = format_age(now_s - agent.started_s)
    return f"runs (process {agent.pid}, started {started})" if running else f"does not run (last started {started})"


def _stale_in_words(agent: AgentSeen | None, live: Live, now_s: float) -> Iterator[str]:
    """Yield why what is shown may be old, if it is not what an agent said just now."""
    if live.agents or agent is None or agent.is_running() is False:
        return
    if live.problem is not None:
        yield live.problem
    if agent.written_s is not None and now_s - agent.written_s > _OLD_S:
        yield f"what it wrote is of {format_age(now_s - agent.written_s)}"


def _version_in_words(run: RunHere, now_s: float) -> str:
    if run.version is None:
        return "no version yet"
    made = "" if run.made_s is None else f", made {format_age(now_s - run.made_s)}"
    return f"version {run.version}{made}" + {True: ", proved", False: ", not fully proved", None: ""}[run.is_proved]


def _directory(run: RunHere) -> str:
    return output.path(bytes(run.directory)) + ("" if run.directory.is_dir() else " (is not there)")


def _labelled(label: str, texts: Sequence[str]) -> None:
    lines = [line for text in texts for line in wrap(text, _WIDTH - _LABEL_WIDTH - 2)]
    for number, line in enumerate(lines):
        output.say(f"{'' if number else label:<{_LABEL_WIDTH}}  {line}")
