"""``mlsync repair``: heal what the repository itself can heal, and name what stays lost."""

from __future__ import annotations

import sys

import click

from mlsync.app.session import Session
from mlsync.cli.arguments.gently import gently_option
from mlsync.cli.arguments.options import Common, common_options
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.discarding import discard_objects
from mlsync.cli.reports.json import repair_json
from mlsync.cli.terminal import output
from mlsync.cli.terminal.table import TextTable
from mlsync.errors import RepairIncomplete, RepairUnconfirmed
from mlsync.upkeep.repair import Affected, Healing, Repaired, carry_out, left, plan

_EXAMPLES = """\b
Examples:
  mlsync repair --dry-run
  mlsync repair --discard yolo/12 --dry-run
"""
_FILES_SHOWN = 50


@click.command("repair", cls=Command, short_help="Heal lost or damaged objects.", epilog=_EXAMPLES)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--rebuild", is_flag=True, help="Also if all manifests are gone, from copies.")
@click.option("--read-data", is_flag=True, help="At the end, read and decrypt every byte of every pack.")
@click.option(
    "--discard",
    "discarded",
    multiple=True,
    metavar="OBJECT",
    help="Give up RUN/NUMBER or moves/PACK. Repeatable.",
)
@click.option("--even-newer", is_flag=True, help="With --discard: also what claims to be a newer mlsync's.")
@common_options
@gently_option
def repair_command(
    common: Common,
    *,
    dry_run: bool,
    yes: bool,
    rebuild: bool,
    read_data: bool,
    discarded: tuple[str, ...],
    even_newer: bool,
) -> None:
    """Bring back what is stored twice: manifests from their copies, copies from manifests, the header from a key slot.

    Shows first what it would do, and asks. It replaces only what does not open. Ends with 35 if something stays lost,
    and names each file of each version; the next backup stores again what the watched directories still have. With
    --discard, gives up what lies in the place of a version and is lost for good: prunes wait for it.
    """
    if discarded or even_newer:
        if rebuild or read_data or not discarded:
            raise click.UsageError(
                "--discard goes with neither --rebuild nor --read-data, and --even-newer with it alone"
            )
        discard_objects(common, discarded, even_newer=even_newer, dry_run=dry_run, yes=yes)
        return
    config, monitor = common.configuration(), common.monitor()
    opened = Session.open_damaged(config, lambda: common.secret(config), monitor, changes=not dry_run)
    with opened[0] as session:
        repository = session.repository
        steps = plan(repository, monitor, header_fault=opened[1], rebuild=rebuild)
        if not common.as_json:
            _print_steps(steps, quiet=common.quiet)
        if dry_run:
            repaired = left(repository, monitor, Repaired(), read_data=read_data)
        else:
            if steps and not yes:
                _confirm(as_json=common.as_json)
            repaired = carry_out(repository, steps, monitor, read_data=read_data)
            if repaired.packs and session.seen_heads():
                session.state.add_damaged(repaired.packs)
    if common.as_json:
        common.emit(repair_json(steps, repaired, is_dry_run=dry_run))
    else:
        _print(repaired, quiet=common.quiet, is_dry_run=dry_run)
    if not dry_run and (repaired.left or repaired.failed):
        lost = output.count(len(repaired.left) or len(repaired.failed), "problem")
        raise RepairIncomplete(f"not all could be healed: {lost} left", where=repository.store.url)


def _confirm(*, as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        raise RepairUnconfirmed("nothing was changed: there is no terminal to ask on")
    if not click.confirm("Do this?", err=True):
        raise RepairUnconfirmed("nothing was changed")


def _print_steps(steps: list[Healing], *, quiet: bool) -> None:
    if quiet:
        return
    if not steps:
        output.say("nothing to heal")
        return
    table = TextTable(("OBJECT", "VERSION", "WRONG", "HEALED"))
    for step in steps:
        table.row(_short(step.key), _version(step), step.fault, step.heal.value)
    output.print_table(table)


def _short(key: str) -> str:
    """Return a key that fits a table: its number says which object of the run it is."""
    prefix, _, rest = key.partition("/")
    number = rest.rpartition("/")[2]
    return key if not rest else f"{prefix}/{rest[:8]}…/{number}" if "/" in rest else f"{prefix}/{rest[:8]}…"


def _version(step: Healing) -> str:
    return "" if step.version is None else f"{step.version[0]}/{step.version[1]}"


def _print(repaired: Repaired, *, quiet: bool, is_dry_run: bool) -> None:
    for step, error in repaired.failed:
        output.say_wrapped(f"{step.key}: not healed: {error}")
    for problem in () if is_dry_run else repaired.left:
        output.say_wrapped(f"{problem.key}: {problem.text}")
    for one in repaired.affected[:_FILES_SHOWN]:
        output.say_wrapped(f"lost in {one.run}: {output.path(one.path)} ({_numbers(one)})")
    more = len(repaired.affected) - _FILES_SHOWN
    if more > 0:
        output.say(f"and {output.count(more, 'file')} more; --json names all")
    if not quiet and not is_dry_run:
        output.say(f"{output.count(len(repaired.done), 'object')} healed")


def _numbers(one: Affected) -> str:
    """Return the versions of a file, ranges as such."""
    ranges: list[list[int]] = []
    for number in one.versions:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
    return f"version {shown}" if len(one.versions) == 1 else f"versions {shown}"
