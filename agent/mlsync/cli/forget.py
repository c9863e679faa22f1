"""``mlsync forget``: leave versions out of the history, until they are brought back or removed."""

from __future__ import annotations

import sys

import click

from mlsync.cli import output
from mlsync.cli.json import forget_json
from mlsync.cli.options import Common, common_options, run_option
from mlsync.cli.parsing import Command
from mlsync.cli.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.version_numbers import VersionNumbers, checked_numbers
from mlsync.errors import VersionKept
from mlsync.repository.decisions import By
from mlsync.repository.repository import Repository
from mlsync.upkeep.forget import BY_HAND, Forgetting, forget
from mlsync.versions.decided import decided_of
from mlsync.versions.select import find_run

_EXAMPLES = """\b
Examples:
  mlsync forget 3 --dry-run
  mlsync forget 5-20 --run yolo --yes
"""


@click.command("forget", cls=Command, short_help="Leave versions out, until they are removed.", epilog=_EXAMPLES)
@click.argument("numbers", nargs=-1, required=True, metavar="N...", callback=checked_numbers)
@run_option
@click.option("--dry-run", is_flag=True, help="Show which versions would be forgotten, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@accept_rollback_option
@common_options
def forget_command(
    common: Common, *, numbers: VersionNumbers, run: str | None, dry_run: bool, yes: bool, accept_rollback: bool
) -> None:
    """Forget versions by their numbers N, or ranges such as 5-20: they are no longer listed or chosen.

    Nothing is deleted, and mlsync unforget brings them back. The newest version, the newest that is proved, the newest
    from which training can resume, pinned ones, and those with the last good content of a file are refused.
    """
    monitor = common.monitor()
    with common.session(common.configuration(), monitor) as session:
        repository = session.repository
        look_for_rollback(session, run, monitor, accept=accept_rollback)
        name = find_run(repository, run)
        items = [(number, BY_HAND) for number in numbers.chosen(_listed(repository, name))]
        by = By.here()
        shown = forget(repository, name, items, by, dry_run=True, accept_hidden=accept_rollback)
        if not common.as_json and not common.quiet:
            _print(shown)
        if shown.items and not dry_run:
            if not yes:
                _confirm(len(shown.items), as_json=common.as_json)
            shown = forget(repository, name, items, by, accept_hidden=accept_rollback)
    if common.as_json:
        common.emit(forget_json(shown, by, is_dry_run=dry_run))
    elif not common.quiet:
        output.say_wrapped(_closing(shown, is_dry_run=dry_run))


def _listed(repository: Repository, run: str) -> list[int]:
    decided = decided_of(repository, run)
    return [number for number in repository.numbers(run) if decided.dropped(number) is None]


def _print(shown: Forgetting) -> None:
    if not shown.items:
        return
    zone = output.zone(stored.root.created_ns for stored, _ in shown.items)
    rows = [
        (
            str(stored.root.number),
            output.moment(stored.root.created_ns),
            output.size(stored.root.summary.size_bytes),
            output.size(stored.root.summary.stored_bytes),
            rule,
        )
        for stored, rule in shown.items
    ]
    output.table(("VERSION", f"MADE ({zone})", "SIZE", "STORED", "FORGOTTEN"), rows, right=(0, 2, 3))


def _closing(shown: Forgetting, *, is_dry_run: bool) -> str:
    versions = output.count(len(shown.items), "version")
    if not shown.items:
        return f"{shown.run}: nothing to forget" + (": they are forgotten already" if shown.already else "")
    if is_dry_run:
        return f"{shown.run}: {versions} would be forgotten"
    numbers = " ".join(str(stored.root.number) for stored, _ in shown.items[:3])
    more = " …" if len(shown.items) > len(numbers.split()) else ""
    return f"{shown.run}: {versions} forgotten; to bring back: mlsync unforget {numbers}{more}"


def _confirm(number: int, *, as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        raise VersionKept(
            "nothing was forgotten: there is no terminal to ask on", advice="--yes forgets without asking"
        )
    if not click.confirm(f"Forget {output.count(number, 'version')}?", err=True):
        raise VersionKept("nothing was forgotten", advice="--dry-run only shows what would be")
