"""``mlsync prune``: delete what no version needs any more."""

from __future__ import annotations

import math
import socket
import sys
import time
from collections.abc import Iterator, Mapping

import click

from mlsync.app.pruning import prune_options
from mlsync.cli.arguments.amounts import size_of
from mlsync.cli.arguments.gently import gently_option
from mlsync.cli.arguments.options import Common, common_options
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.reports.cold_report import usd
from mlsync.cli.reports.json import prune_json
from mlsync.cli.terminal import output
from mlsync.config.model import Config
from mlsync.config.units import parse_duration
from mlsync.errors import PruneBlocked, PruneUnconfirmed
from mlsync.monitor import Monitor
from mlsync.repository import names
from mlsync.service.telling.told_by_command import CommandNews, tell_news
from mlsync.store.prices import DAY_S, PriceList
from mlsync.tell.event import NoticeEvent
from mlsync.upkeep.compaction import Compacted, CompactionPlan, plan_all, refuse_above
from mlsync.upkeep.compaction import compact as carry_out_moves
from mlsync.upkeep.early_deletion import EarlyPack, total_of
from mlsync.upkeep.forget import BY_HAND
from mlsync.upkeep.prune import Pruned, PrunePlan, carry_out, plan, refuse_blocked

_EXAMPLES = """\b
Examples:
  mlsync prune --dry-run
  mlsync prune --yes --grace 14d
"""
_SHOWN_MAX = 20


def _seconds(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(f"not {error}: {value!r}") from None


@click.command("prune", cls=Command, short_help="Delete what no version needs.", epilog=_EXAMPLES)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--grace",
    "grace_s",
    metavar="TIME",
    callback=_seconds,
    help="How long forgotten versions and marked packs wait. Default: grace under [retention], 7d.",
)
@click.option("--compact", is_flag=True, help="Also move what is left of mostly dead packs to new ones.")
@click.option(
    "--max-move",
    "move_bytes",
    metavar="SIZE",
    callback=size_of,
    help="Refuse (98) to read and write more for it, as 50GiB.",
)
@click.option("--wait-for-minimum", is_flag=True, help="Leave packs until their storage class's minimum is over.")
@common_options
@gently_option
def prune_command(
    common: Common,
    *,
    dry_run: bool,
    yes: bool,
    grace_s: float | None,
    compact: bool,
    move_bytes: int | None,
    wait_for_minimum: bool,
) -> None:
    """Delete forgotten versions after their grace, and packs that no version needs, in two steps.

    A pack is marked first, and deleted by a prune after the grace period. No backup has to wait: several prunes and
    backups may run at once. Shows first what it would do, and asks. Needs the right to delete and to overwrite. Ends
    with 96 if it cannot see all that may need a pack, and then deletes none.
    """
    monitor = common.monitor()
    config = common.configuration()
    with common.session(config, monitor) as session:
        repository = session.repository
        options = prune_options(config, time.time_ns(), grace_s, waits_for_minimum=wait_for_minimum)
        found = plan(repository, monitor, options)
        moving = plan_all(repository, monitor) if compact and not found.blocked else CompactionPlan()
        if not common.as_json:
            _print_plan(found, moving, repository.store.price_list, quiet=common.quiet)
        if move_bytes is not None:
            refuse_above(moving, move_bytes)
        pruned, compacted = Pruned(), Compacted()
        if not dry_run and not found.blocked and not (found.is_empty and moving.is_empty):
            if not yes:
                _confirm(as_json=common.as_json)
            pruned = carry_out(repository, found, monitor, options)
            compacted = carry_out_moves(repository, moving, monitor, now_ns=options.now_ns)
    if common.as_json:
        common.emit(prune_json(found, pruned, moving, compacted, is_dry_run=dry_run))
    elif not dry_run:
        _print_pruned(pruned, compacted, quiet=common.quiet)
    _tell(config, pruned, monitor)
    refuse_blocked(repository, found)
    if found.kept_back:
        first = found.kept_back[0]
        raise PruneBlocked(first.why, where=repository.store.url)


def _tell(config: Config, pruned: Pruned, monitor: Monitor) -> None:
    """Tell channels what was deleted, if anything was."""
    if pruned.versions or pruned.deleted:
        packs, freed_bytes = len(pruned.deleted), sum(pruned.deleted.values())
        facts = {"versions": len(pruned.versions), "packs": packs, "bytes": freed_bytes}
        event = NoticeEvent("pruned", facts=facts, at_s=time.time(), host=socket.gethostname())
        tell_news(config, CommandNews(event), monitor)


def _confirm(*, as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        raise PruneUnconfirmed("nothing was changed: there is no terminal to ask on")
    if not click.confirm("Do this?", err=True):
        raise PruneUnconfirmed("nothing was changed")


def _print_plan(found: PrunePlan, moving: CompactionPlan, prices: PriceList | None, *, quiet: bool) -> None:
    for one in (*found.blocked, *found.kept_back):
        output.say_wrapped(f"{one.key}: {one.why}")
    if quiet:
        return
    for going in found.going[:_SHOWN_MAX]:
        rule = going.rule if going.rule == BY_HAND else f"by {going.rule}"
        output.say_wrapped(f"{going.run}/{going.place[1]}: to be removed, forgotten {rule}")
    if len(found.going) > _SHOWN_MAX:
        output.say(f"and {output.count(len(found.going) - _SHOWN_MAX, 'version')} more")
    delete = found.delete | found.emptied_by_moves
    lines = [
        f"{output.count(len(found.going), 'version')} to remove, {found.version_count} stay",
        f"{_packs(delete)} to delete now",
        f"{_packs(found.mark)} to mark: a prune after the grace period deletes them",
    ]
    if found.waiting:
        lines.append(f"{_packs(found.waiting)} marked before, and still waiting")
    lines += _cold_lines(found, moving, prices)
    if found.foreign_count:
        lines.append(f"{output.count(found.foreign_count, 'mark')} of packs that mlsync did not make: left alone")
    if found.spent:
        lines.append(f"{output.count(len(found.spent), 'record')} of moved packs to delete: no version needs them now")
    if not moving.is_empty:
        lines.append(
            f"{output.count(len(moving.packs), 'pack')} to move: {output.size(moving.written_bytes)} to write, "
            f"{output.size(moving.read_bytes)} to read, {output.size(moving.freed_bytes)} free after the grace period"
        )
    for line in lines:
        output.say_wrapped(line)


def _cold_lines(found: PrunePlan, moving: CompactionPlan, prices: PriceList | None) -> Iterator[str]:
    if found.early:
        yield f"{_early(found.early, prices)}; waiting until then costs the same"
    if found.held:
        yield f"{_early(found.held, None)}: left until then"
    if moving.cold_count:
        yield f"{output.count(moving.cold_count, 'mostly dead pack')} in cold storage: left as they are"


def _early(packs: Mapping[bytes, EarlyPack], prices: PriceList | None) -> str:
    """Return what is before its minimum, and what AWS charges for it."""
    total = total_of(packs.values())
    text = f"{output.count(total.count, 'pack')} ({output.size(total.size_bytes)})"
    days = math.ceil(total.left_s / DAY_S)
    text += f" in {', '.join(total.classes)}, up to {output.count(days, 'day')} before the minimum of the class"
    if total.usd is not None and prices is not None:
        text += f": to delete now costs {usd(total.usd)} ({prices.name})"
    return text


def _packs(packs: dict[bytes, int]) -> str:
    return f"{output.count(len(packs), 'pack')} ({output.size(sum(packs.values()))})"


def _print_pruned(pruned: Pruned, compacted: Compacted, *, quiet: bool) -> None:
    for pack_id, why in list(compacted.left.items())[:_SHOWN_MAX]:
        output.say_wrapped(f"{names.pack(pack_id)}: not moved: {why}")
    for one in pruned.denied[:_SHOWN_MAX]:
        output.say_wrapped(f"{one.key}: the store keeps it: {one.why}")
    if len(pruned.denied) > _SHOWN_MAX:
        output.say(f"and {output.count(len(pruned.denied) - _SHOWN_MAX, 'object')} more")
    if not quiet:
        output.say_wrapped(
            f"{output.count(len(pruned.versions), 'version')} removed, {_packs(pruned.deleted)} deleted, "
            f"{_packs(pruned.marked)} marked"
        )
        if pruned.records:
            output.say(f"{output.count(len(pruned.records), 'record')} of moved packs deleted")
        if compacted.moved:
            moved = output.count(len(compacted.moved), "pack")
            output.say_wrapped(f"{moved} moved: {output.size(compacted.written_bytes)} written")
