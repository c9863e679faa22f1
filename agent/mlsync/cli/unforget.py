"""``mlsync unforget``: bring forgotten versions back."""

from __future__ import annotations

import click

from mlsync.cli.arguments.options import Common, common_options, run_option
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.arguments.version_numbers import VersionNumbers, checked_numbers
from mlsync.cli.reports.json import unforget_json
from mlsync.cli.terminal import output
from mlsync.repository.history.decisions import By
from mlsync.upkeep.forget import unforget
from mlsync.versions.decided import decided_of
from mlsync.versions.select import find_run

_EXAMPLES = """\b
Examples:
  mlsync unforget 3
  mlsync unforget 5-20 --run yolo
"""


@click.command("unforget", cls=Command, short_help="Bring forgotten versions back.", epilog=_EXAMPLES)
@click.argument("numbers", nargs=-1, required=True, metavar="N...", callback=checked_numbers)
@run_option
@accept_rollback_option
@common_options
def unforget_command(common: Common, *, numbers: VersionNumbers, run: str | None, accept_rollback: bool) -> None:
    """Bring back forgotten versions by their numbers N, or ranges such as 5-20: they are listed again, as they were.

    That is possible until they are removed for good; mlsync versions --all shows those that can be brought back.
    """
    monitor = common.monitor()
    with common.session(common.configuration(), monitor) as session:
        repository = session.repository
        look_for_rollback(session, run, monitor, accept=accept_rollback)
        name = find_run(repository, run)
        asked = numbers.chosen(sorted(decided_of(repository, name).forgotten))
        back = unforget(repository, name, asked, By.here(), accept_hidden=accept_rollback)
    if common.as_json:
        common.emit(unforget_json(name, back))
    elif not common.quiet:
        output.say_wrapped(_closing(name, back))


def _closing(run: str, back: tuple[int, ...]) -> str:
    if not back:
        return f"{run}: none of these versions is forgotten"
    which = "version" if len(back) == 1 else "versions"
    return f"{run}: {which} {', '.join(map(str, back))} brought back"
