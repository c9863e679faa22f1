"""``mlsync evaluate``: measure a checkpoint of a version by a command, and keep the numbers beside the version."""

from __future__ import annotations

import os
import shlex
from typing import Final

import click

from mlsync.app.evaluating import evaluation_options, settings_of
from mlsync.app.flow_options import clear_leftovers
from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.gently import gently_option
from mlsync.cli.arguments.options import (
    VERSION_WORDS,
    Common,
    checked_version,
    common_options,
    device_option,
    run_option,
)
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.arguments.stopping import stopping
from mlsync.cli.reports.json import evaluate_json
from mlsync.cli.terminal import output
from mlsync.cli.terminal.table import TextTable
from mlsync.errors import Stopped
from mlsync.proving.evaluate import Evaluated, evaluate
from mlsync.versions.select import LATEST, find_run, find_version

_BUILTIN: Final = ("ultralytics",)
_EXAMPLES = """\b
Examples:
  mlsync evaluate best --run yolo
  mlsync evaluate 12 --command 'python evaluate.py {checkpoint}'
"""


def _words(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Return the words of a command, as a shell would take them apart; no shell runs it."""
    if value is None:
        return ()
    try:
        words = tuple(shlex.split(value))
    except ValueError as error:
        raise click.BadParameter(f"{error}".lower()) from None
    if not words or "\0" in value:
        raise click.BadParameter("it names no program")
    # The command runs in a directory of its own: what it names here has to be found from there.
    return tuple(
        os.path.abspath(word) if (at or "/" in word) and os.path.isfile(word) else word for at, word in enumerate(words)
    )


@click.command("evaluate", cls=Command, short_help="Measure a checkpoint of a version by a command.", epilog=_EXAMPLES)
@click.argument("version", required=False, callback=checked_version, shell_complete=candidates.words(*VERSION_WORDS))
@run_option
@click.option(
    "--command",
    callback=_words,
    metavar="COMMAND",
    help="What measures; default: as configured. No shell.",
)
@click.option("--builtin", type=click.Choice(_BUILTIN), help="Measure as it does itself.")
@click.option("--path", metavar="PATTERN", help="Which checkpoint; default: the best or newest.")
@click.option("--label", metavar="TEXT", help="What the numbers are recorded under.")
@device_option
@accept_rollback_option
@common_options
@gently_option
def evaluate_command(
    common: Common,
    version: str | None,
    run: str | None,
    command: tuple[str, ...],
    builtin: str | None,
    path: str | None,
    label: str | None,
    device: str | None,
    accept_rollback: bool,
) -> None:
    """Measure a checkpoint of VERSION (the last one if it is left out) and keep the numbers beside the version.

    It gets a private copy, {checkpoint}. It prints JSON, lines like "accuracy 0.93" or a table, or writes them to
    {result}. It MAY RUN CODE OUT OF THE CHECKPOINT.
    """
    if command and builtin:
        raise click.UsageError("--command and --builtin: give one of them.")
    config, monitor = common.configuration(), common.monitor()
    with common.session(config, monitor) as session, stopping() as stop:
        repository = session.repository
        look_for_rollback(session, run, monitor, accept=accept_rollback, version=version or LATEST)
        name = find_run(repository, run)
        settings = settings_of(config, name, command=command, builtin=builtin, path=path, label=label, device=device)
        options = evaluation_options(config, name, settings, session.state_directory)
        clear_leftovers(session.state_directory)
        stored = find_version(repository, name, version or LATEST)

        def tick() -> None:
            if stop.is_set():
                raise Stopped(f"{name}: stopped while evaluating version {stored.root.number}; nothing was stored")

        done = evaluate(repository, stored, options, monitor, tick=tick)
    if common.as_json:
        common.emit(evaluate_json(done))
    elif not common.quiet:
        _print(done)


def _print(done: Evaluated) -> None:
    made = done.evaluation
    what = output.path(made.path) or "the directory"
    output.say_wrapped(f"{made.run}: version {made.number}: {what} evaluated by {made.label}, {made.seconds:.1f} s")
    table = TextTable(("NUMBER", "VALUE"), (1,))
    for name, value in made.by_name.items():
        table.row(output.number_name(name), f"{value:.6g}")
    output.print_table(table)
    for note in done.notes:
        output.tell(f"note: {note}")
    if done.as_root:
        output.tell(f"note: it ran as root: {done.as_root}")
