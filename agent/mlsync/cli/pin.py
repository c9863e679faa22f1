"""``mlsync pin``: keep a version whatever any rule says, and give it a name."""

from __future__ import annotations

import click

from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.options import VERSION_WORDS, Common, checked_version, common_options, run_option
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.reports.json import pin_json
from mlsync.cli.terminal import output
from mlsync.repository.history.decisions import By
from mlsync.upkeep.pins import pin, refuse_pin_name, refuse_reason
from mlsync.versions.select import find_run, find_version

_EXAMPLES = """\b
Examples:
  mlsync pin 12 --name paper --reason 'table 2'
  mlsync pin best
"""


@click.command("pin", cls=Command, short_help="Keep a version for good, under a name.", epilog=_EXAMPLES)
@click.argument("version", callback=checked_version, shell_complete=candidates.words(*VERSION_WORDS))
@run_option
@click.option("--name", metavar="NAME", help="A name for it, to give wherever a version is asked for.")
@click.option("--reason", metavar="TEXT", help="Why, for those who come later.")
@accept_rollback_option
@common_options
def pin_command(
    common: Common, version: str, run: str | None, name: str | None, reason: str | None, accept_rollback: bool
) -> None:
    """Pin VERSION (a number, latest, resumable, best, a time, or a name): it is never forgotten nor removed.

    A version that is forgotten comes back. Of one that is pinned already, name and reason change if they are given.
    """
    if name is not None:
        refuse_pin_name(name)
    if reason is not None:
        refuse_reason(reason)
    monitor = common.monitor()
    with common.session(common.configuration(), monitor) as session:
        look_for_rollback(session, run, monitor, accept=accept_rollback, version=version)
        repository = session.repository
        stored = find_version(repository, find_run(repository, run), version)
        repository.doubts.pop(stored.key, None)  # that it is forgotten is no longer true
        pinned, is_back = pin(repository, stored, By.here(), name=name, reason=reason, accept_hidden=accept_rollback)
    if common.as_json:
        common.emit(pin_json(stored.root.run, pinned, was_forgotten=is_back))
    elif not common.quiet:
        back = "; it is no longer forgotten" if is_back else ""
        called = f" as {pinned.name}" if pinned.name else ""
        output.say_wrapped(f"{stored.root.run}: version {pinned.version} pinned{called}{back}")
