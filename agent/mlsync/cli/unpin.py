"""``mlsync unpin``: remove the pin of a version."""

from __future__ import annotations

import click

from mlsync.cli.arguments.options import Common, common_options, run_option
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.reports.json import pin_json
from mlsync.cli.terminal import output
from mlsync.errors import ConfigInvalid
from mlsync.repository.history.decision import is_pin_name
from mlsync.repository.history.decisions import By
from mlsync.upkeep.pins import unpin
from mlsync.versions.select import find_run

_EXAMPLES = """\b
Examples:
  mlsync unpin paper
  mlsync unpin 12 --run yolo
"""


@click.command("unpin", cls=Command, short_help="Remove the pin of a version.", epilog=_EXAMPLES)
@click.argument("version")
@run_option
@accept_rollback_option
@common_options
def unpin_command(common: Common, version: str, run: str | None, accept_rollback: bool) -> None:
    """Remove the pin of VERSION, given by its number or the pin's name. The version stays; rules may forget it now."""
    if not version.isdecimal() and not is_pin_name(version):
        raise ConfigInvalid(f"neither a number nor the name of a pin: {version!r}")
    monitor = common.monitor()
    with common.session(common.configuration(), monitor) as session:
        look_for_rollback(session, run, monitor, accept=accept_rollback)
        name = find_run(session.repository, run)
        removed = unpin(session.repository, name, version, By.here(), accept_hidden=accept_rollback)
    if common.as_json:
        common.emit(pin_json(name, removed, was_forgotten=False))
    elif not common.quiet:
        called = f" ({removed.name})" if removed.name else ""
        output.say_wrapped(f"{name}: version {removed.version}{called} is no longer pinned")
