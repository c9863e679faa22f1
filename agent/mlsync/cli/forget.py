"""``mlsync forget``: leave versions out of the history, until they are brought back or removed."""

from __future__ import annotations

import sys

import click

from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.options import Common, common_options
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.arguments.version_numbers import VersionNumbers, checked_numbers
from mlsync.cli.forget_by_policy import PolicyChoice, forget_by_policy
from mlsync.cli.reports.json import forget_json
from mlsync.cli.terminal import output
from mlsync.errors import ConfigInvalid, VersionKept
from mlsync.repository.history.decisions import By
from mlsync.repository.repository import Repository
from mlsync.retention.grammar import parse_rules
from mlsync.retention.rules import Rule
from mlsync.upkeep.forget import BY_HAND, Forgetting, forget
from mlsync.versions.decided import decided_of
from mlsync.versions.select import find_run

_EXAMPLES = """\b
Examples:
  mlsync forget --keep "last 5" --keep "best 1 by fitness" --dry-run
  mlsync forget 5-20 --run yolo --yes
"""


def _checked_rules(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> tuple[Rule, ...]:
    """Return the rules, or refuse what is none before anybody has to type a passphrase."""
    try:
        return parse_rules(value) if value else ()
    except ValueError as error:
        raise ConfigInvalid(f"--keep: {error}") from None


@click.command("forget", cls=Command, short_help="Leave versions out, until they are removed.", epilog=_EXAMPLES)
@click.argument("numbers", nargs=-1, metavar="[N]...", callback=checked_numbers)
@click.option("--run", metavar="NAME", shell_complete=candidates.runs, help="One run; a policy applies to all without.")
@click.option(
    "--keep",
    multiple=True,
    metavar="RULE",
    callback=_checked_rules,
    help="A rule instead of the configuration's. Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be forgotten and what stays, and why.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--yes-remove",
    "confirmed_count",
    type=click.IntRange(0),
    metavar="COUNT",
    help="Forget exactly so many, also above max_remove.",
)
@accept_rollback_option
@common_options
def forget_command(
    common: Common,
    *,
    numbers: VersionNumbers,
    run: str | None,
    keep: tuple[Rule, ...],
    dry_run: bool,
    yes: bool,
    confirmed_count: int | None,
    accept_rollback: bool,
) -> None:
    """Forget versions by their numbers N, or ranges such as 5-20; without numbers, those that no rule keeps.

    The rules are those of keep under [retention], or of --keep. Nothing is deleted, and mlsync unforget brings
    versions back. The newest version, the newest proved and the newest resumable one, pinned ones, and those with the
    last good content of a file stay; so do the best and young ones, as far as rules go.
    """
    by_number = bool(numbers.single or numbers.ranges)
    if by_number and (keep or confirmed_count is not None):
        raise click.UsageError("give numbers, or --keep and --yes-remove, not both")
    config, monitor = common.configuration(), common.monitor()
    with common.session(config, monitor) as session:
        repository = session.repository
        look_for_rollback(session, run, monitor, accept=accept_rollback)
        if by_number:
            _by_number(common, repository, run, numbers, dry_run=dry_run, yes=yes, accept_hidden=accept_rollback)
        else:
            choice = PolicyChoice(keep, confirmed_count, dry_run, yes)
            forget_by_policy(common, config, repository, run, choice)


def _by_number(
    common: Common,
    repository: Repository,
    run: str | None,
    numbers: VersionNumbers,
    *,
    dry_run: bool,
    yes: bool,
    accept_hidden: bool,
) -> None:
    """Forget the versions of these numbers, after they were shown."""
    name = find_run(repository, run)
    items = [(number, BY_HAND) for number in numbers.chosen(_listed(repository, name))]
    by = By.here()
    shown = forget(repository, name, items, by, dry_run=True, accept_hidden=accept_hidden)
    if not common.as_json and not common.quiet:
        _print(shown)
    if shown.items and not dry_run:
        if not yes:
            _confirm(len(shown.items), as_json=common.as_json)
        shown = forget(repository, name, items, by, accept_hidden=accept_hidden)
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
